"""Permutations of rows and columns that let a transposable mask keep more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.arrays import as_tensor
from ...core.solver import Budget, Watch
from ...errors import InvalidProblem
from ...kernels.transport import Transport
from ...structures.transposable import TransposableNofM

__all__ = ["Permutation", "search_permutation"]


@dataclass(frozen=True, eq=False)
class Permutation:
    """An order of rows and columns with what the best mask keeps before and after.

    Attributes
    ----------
    rows, columns : int64 Tensor
        ``scores[rows][:, columns]`` is the permuted matrix. Outputs of one layer are inputs of the next: whoever
        permutes the rows of a layer must permute the columns of its successors.
    before, after : float
        Kept score of the exact mask of the matrix as given and as permuted.
    rounds : int
        Rounds of exchanges made.
    """

    rows: Tensor
    columns: Tensor
    before: float
    after: float
    rounds: int

    @property
    def gain(self) -> float:
        """Relative gain of the kept score, >= 0."""
        return (self.after - self.before) / max(abs(self.before), 1e-300)


class _Side:
    """The matrix seen from one side: what is exchanged are its columns."""

    def __init__(self, scores: Tensor, family: TransposableNofM) -> None:
        self.scores, self.family = scores, family
        self.across = scores.shape[1] // family.m
        self.order = torch.arange(scores.shape[1])
        self.set(scores, family.solve(scores))

    def set(self, scores: Tensor, found: Transport) -> None:
        """Take a matrix with its exact masks and potentials."""
        self.scores, self.rows, self.columns = scores, found.rows, found.columns
        self.values = self.values_of(scores, found)

    def values_of(self, scores: Tensor, found: Transport) -> Tensor:
        """Kept score of each column of blocks, float64."""
        kept = (self.family.blocks(scores).double() * found.mask).sum(dim=(1, 2))
        return kept.reshape(-1, self.across).sum(dim=0)

    def exchange(self, generator: torch.Generator) -> None:
        """Pair the columns of blocks at random, try one exchange for each pair, and keep those that gain."""
        m = self.family.m
        pairs = torch.randperm(self.across, generator=generator)[: self.across // 2 * 2].reshape(-1, 2)
        picked = pairs * m + torch.randint(m, pairs.shape, generator=generator)
        moved = torch.arange(len(self.order))
        moved[picked[:, 0]], moved[picked[:, 1]] = picked[:, 1], picked[:, 0]
        rows, columns = self.rows, self.columns.reshape(-1, self.across * m)
        scores = self.scores[:, moved].contiguous()
        found = self.family.solve(scores, (rows, columns[:, moved].reshape(-1, m)))
        values = self.values_of(scores, found)
        better = (values - self.values)[pairs].sum(dim=1) > 1e-12 * self.values[pairs].abs().sum(dim=1)
        taken = torch.zeros(self.across, dtype=torch.bool)
        taken[pairs[better].reshape(-1)] = True
        wide = taken.repeat_interleave(m)
        self.order = torch.where(wide, self.order[moved], self.order)
        self.scores = torch.where(wide, scores, self.scores)
        self.values = torch.where(taken, values, self.values)
        block = taken.repeat(len(rows) // self.across).unsqueeze(1)
        self.rows, self.columns = torch.where(block, found.rows, rows), torch.where(block, found.columns, self.columns)


def search_permutation(
    scores: Any, family: TransposableNofM, *, rounds: int = 100, seed: int = 0, budget: Budget | None = None
) -> Permutation:
    """Exchange columns, and in turn rows, between blocks as long as the exact mask keeps more.

    Parameters
    ----------
    scores : Tensor, shape (out, in)
        Both sides are multiples of ``family.m``.
    family : TransposableNofM
    rounds : int
        In each, every column of blocks (then every row of blocks) tries one exchange with another one.
    seed : int
        Of the exchanges tried.
    budget : Budget, optional
        ``seconds`` ends the search early.

    Returns
    -------
    Permutation
        ``after`` is never below ``before``.

    Raises
    ------
    InvalidProblem
        If the blocks do not fill the matrix, or entries are fixed.

    Notes
    -----
    All exchanges of a round concern different blocks and are scored together by exact masks, each block starting from
    its last potentials.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> scores = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    >>> found = search_permutation(scores, mp.TransposableNofM(2, 4), rounds=20)
    >>> found.gain > 0
    True
    """
    scores = as_tensor(scores, "scores", ndim=2).cpu()
    if scores.shape[0] % family.m or scores.shape[1] % family.m or scores.numel() == 0:
        raise InvalidProblem(
            f"scores have shape {tuple(scores.shape)}; the search needs whole {family.m} x {family.m} blocks"
        )
    if family.on is not None or family.off is not None:
        raise InvalidProblem("entries are fixed, and a permutation would move them; search before fixing")
    generator = torch.Generator().manual_seed(seed)
    watch = Watch(budget)
    sides = [_Side(scores, family), _Side(scores.mT.contiguous(), family)]
    before, done = float(sides[0].values.sum()), 0
    while done < rounds and watch.due() is None:
        side, other = sides[done % 2], sides[1 - done % 2]
        if done:  # the other side moved last
            order = side.order
            across = other.family.solve(other.scores)
            side.set(other.scores.mT.contiguous(), _transposed(across, family.m, other.scores.shape))
            side.order = order
        side.exchange(generator)
        done += 1
    last = sides[(done - 1) % 2] if done else sides[0]
    return Permutation(sides[1].order, sides[0].order, before, float(last.values.sum()), done)


def _transposed(found: Transport, m: int, shape: torch.Size) -> Transport:
    """The masks and potentials of the transposed matrix."""
    down, across = shape[0] // m, shape[1] // m
    index = torch.arange(down * across).reshape(down, across).mT.reshape(-1)
    return Transport(
        found.mask[index].mT, found.columns[index], found.rows[index], found.feasible[index], found.sweeps[index]
    )
