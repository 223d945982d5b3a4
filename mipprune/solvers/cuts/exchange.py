"""Greedy additions and best exchanges of columns for least squares, on any family of supports."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solver import Watch
from ...losses import LeastSquares
from .cut import CutPool

__all__ = ["exchange"]

_TRIES = 20  # entries that are asked for membership, best first, when the family implies little


class _Columns:
    """Correlations of the columns with a support, and the exact decrease of one more column."""

    def __init__(self, pool: CutPool) -> None:
        loss = pool.loss
        assert isinstance(loss, LeastSquares) and isinstance(pool.problem.structure, Sparse)
        self.design, self.gram = loss.design, pool.gram
        self.pull = loss.design.mT @ loss.response
        self.ridge = pool.split
        self.size = loss.design.square().sum(dim=0) + self.ridge
        self.price = torch.as_tensor(pool.problem.structure.price_per_entry).double().expand(self.pull.shape)

    def rows(self, support: Tensor) -> Tensor:
        """Return X_S'X, shape (s, p)."""
        if self.gram is not None:
            return self.gram[support]
        return self.design[:, support].mT @ self.design

    def additions(self, support: Tensor, rows: Tensor) -> tuple[float, Tensor]:
        """Return the decrease of the loss by a support, less its price, and the further net decrease of each column."""
        if support.numel() == 0:
            return 0.0, 0.5 * self.pull.square() / self.size - self.price
        system = rows[:, support] + torch.diag(self.ridge[support])
        factor = torch.linalg.cholesky(system)
        across = torch.linalg.solve_triangular(factor, rows, upper=False)
        ours = torch.linalg.solve_triangular(factor, self.pull[support].unsqueeze(1), upper=False).squeeze(1)
        left = (self.size - across.square().sum(dim=0)).clamp_min(1e-12 * self.size)
        more = 0.5 * (self.pull - ours @ across).square() / left - self.price
        more[support] = -torch.inf
        return 0.5 * float(ours @ ours) - float(self.price[support].sum()), more


def _best_fitting(problem: Problem, kept: Tensor, more: Tensor, least: float) -> int | None:
    """Return the best entry that fits beside ``kept`` and is worth more than ``least``."""
    assert isinstance(problem.structure, Sparse)
    supports = problem.structure.supports
    on = kept if problem.on is None else kept | problem.on
    off = torch.zeros_like(kept) if problem.off is None else problem.off
    _, closed = supports.propagate(on, off)
    worth = torch.where(closed | off, -torch.inf, more)
    best = worth.topk(min(_TRIES, worth.numel()))
    for value, entry in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if not value > least:
            return None
        trial = kept.clone()
        trial[entry] = True
        if supports.violation(trial) == 0:
            return int(entry)
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
    columns = _Columns(pool)
    mask = mask.clone()
    fixed = torch.zeros_like(mask) if problem.on is None else problem.on
    for _ in range(rounds):
        if watch is not None and watch.due() is not None:
            break
        support = mask.nonzero().ravel()
        rows = columns.rows(support)
        now, more = columns.additions(support, rows)
        least = 1e-9 * (abs(now) + pool.loss.scale)
        entry = _best_fitting(problem, mask, more, least)
        if entry is not None:
            mask[entry] = True
            continue
        best = now + least
        move: tuple[int, int | None] | None = None
        for place, dropped in enumerate(support.tolist()):
            if fixed[dropped]:
                continue
            rest = np.delete(np.arange(len(support)), place)
            worth, gains = columns.additions(support[rest], rows[rest])
            kept = mask.clone()
            kept[dropped] = False
            gains[dropped] = -torch.inf
            if worth > best:  # the price of a column can exceed what it is worth
                best, move = worth, (dropped, None)
            if worth + float(gains.max()) <= best:
                continue
            entry = _best_fitting(problem, kept, gains, best - worth)
            if entry is not None and worth + float(gains[entry]) > best:
                best, move = worth + float(gains[entry]), (dropped, entry)
        if move is None:
            break
        mask[move[0]] = False
        if move[1] is not None:
            mask[move[1]] = True
    return mask
