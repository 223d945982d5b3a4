"""Greedy additions and best exchanges of columns for least squares, on any family of supports."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solver import Watch
from ...kernels.rule_search import Moves, SupportState
from ...losses import LeastSquares
from .cut import CutPool

__all__ = ["exchange"]

_TRIES = 20  # entries that are asked for membership for each place, best first, when the family implies little


class _Members:
    """Which moves from a support lead to another member of the family; the answers for each place are kept."""

    def __init__(self, problem: Problem, mask: Tensor) -> None:
        assert isinstance(problem.structure, Sparse)
        self.supports, self.mask = problem.structure.supports, mask
        self.on = torch.zeros_like(mask) if problem.on is None else problem.on
        self.off = torch.zeros_like(mask) if problem.off is None else problem.off
        self.closed: dict[int | None, Tensor] = {}

    def fits(self, entry: int | None, dropped: int | None) -> bool:
        """Return whether the support with one entry more, one less, or both, is a member."""
        trial = self.mask.clone()
        if dropped is not None:
            trial[dropped] = False
        if entry is not None:
            if dropped not in self.closed:
                self.closed[dropped] = self.off | self.supports.propagate(trial | self.on, self.off)[1]
            if bool(self.closed[dropped][entry]):
                return False
            trial[entry] = True
        return self.supports.violation(trial) == 0

    def best(self, moves: Moves, chosen: list[int], least: float) -> tuple[int | None, int | None] | None:
        """Return the entry that comes and the one that goes: an addition if one helps, else the best other move."""
        values, entries = moves.add.topk(min(_TRIES, moves.add.numel()), largest=False)
        for value, entry in zip(values.tolist(), entries.tolist(), strict=True):
            if not value < -least:
                break
            if self.fits(entry, None):
                return entry, None
        if not chosen:
            return None
        others = torch.cat([moves.drop[None], moves.swap])  # a price can exceed what its column is worth
        values, places = others.ravel().topk(min(_TRIES * len(chosen), others.numel()), largest=False)
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            if not value < -least:
                break
            row, column = divmod(place, len(chosen))
            entry, dropped = (None if row == 0 else row - 1), chosen[column]
            if self.fits(entry, dropped):
                return entry, dropped
        return None


def exchange(problem: Problem, pool: CutPool, mask: Tensor, *, rounds: int = 50, watch: Watch | None = None) -> Tensor:
    """Improve a mask by single additions, removals and exchanges until none helps.

    Parameters
    ----------
    problem : Problem
        In float64 on the CPU, with a least squares loss.
    pool : CutPool
        Of the same loss.
    mask : bool Tensor, shape (p,)
        It fits into the family.
    rounds : int
        Largest number of exchanges.
    watch : Watch, optional

    Returns
    -------
    bool Tensor, shape (p,)
        A mask that fits, whose best value is not larger (prices counted for the mask itself, not for its cover).
    """
    loss = pool.loss
    assert isinstance(loss, LeastSquares) and isinstance(problem.structure, Sparse)
    price = torch.as_tensor(problem.structure.price_per_entry).double().expand(mask.shape)
    state = SupportState(loss.dense, loss.response, pool.split, price, chosen=mask.nonzero().ravel().tolist())
    mask = mask.clone()
    every = torch.ones_like(mask)
    for _ in range(rounds):
        if watch is not None and watch.due() is not None:
            break
        members = _Members(problem, mask)
        droppable = ~members.on[mask]
        moves = state.moves(every, every[:, None].expand(-1, len(state.chosen)), droppable)
        move = members.best(moves, state.chosen, 1e-9 * (abs(state.base - state.value) + loss.scale))
        if move is None:
            break
        entry, dropped = move
        if dropped is not None:
            mask[dropped] = False
        if entry is not None:
            mask[entry] = True
        state.move_to(mask.nonzero().ravel().tolist())
    return mask
