"""Some of the columns of a regression problem: their data, and feasible points on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...kernels.gram_rows import GramRows
from ...losses.designs import SparseDesign, Transposed
from ...losses.least_squares import LeastSquares
from .strategy import Array, Node, Point, Relaxed

__all__ = ["FULL", "Columns", "room_of"]

FULL = 1536
"""Columns up to which X'X is formed at once."""
_MEMORY = 1 << 28  # numbers of X'X held otherwise (2 GiB)
_WIDE = 1 << 15  # columns from which on few rows of X'X are worth their length
_AHEAD = 8  # rows of X'X formed together by local search over very many columns
_ROUNDED = 48  # largest fractions that the search for a first incumbent starts from


def room_of(size: int) -> int:
    """Return how many rows of X'X may be held, for so many columns."""
    memory = _MEMORY if size <= _WIDE else _MEMORY // 8
    return max(64, memory // max(size, 1))


@dataclass(eq=False)
class Columns:
    """What node bounds and local search need of the columns that are left.

    Parameters
    ----------
    loss : LeastSquares
        In float64 on the CPU, on the columns that are left.
    columns : int64 array, shape (size,)
        Their numbers in the problem.
    price, lower, upper : float64 array, shape (size,)
    most : int
        Largest number of kept entries.
    whole : bool
        ``False`` for the part of another strategy that holds the columns near their thresholds.
    """

    loss: LeastSquares
    columns: Array
    price: Array
    lower: Array
    upper: Array
    most: int
    whole: bool = True

    @cached_property
    def _seen(self) -> set[tuple[bytes, bool]]:
        """Supports from which local search has started already."""
        return set()

    @cached_property
    def gram(self) -> GramRows:
        """Rows of X'X."""
        size = len(self.columns)
        return GramRows(self.loss.design, room=room_of(size), full=size <= FULL)

    @cached_property
    def rows_of(self) -> torch.Tensor | Transposed:
        """X', whose rows are taken out faster than columns of X; a design that is no tensor is not copied."""
        return self.loss.design.mT.contiguous()

    def loss_of(self, places: Array) -> LeastSquares:
        """Return the loss on some of the columns."""
        left, ridge = torch.from_numpy(places), torch.from_numpy(self.ridge[places])
        if isinstance(self.rows_of, torch.Tensor):
            return LeastSquares(self.rows_of[left].mT, self.loss.response, ridge)
        return self.loss.narrow(left)

    def between(self, first: Array, second: Array) -> Array:
        """Return X'X of some columns with others, without writing sparse ones out."""
        one, two = torch.from_numpy(first), torch.from_numpy(second)
        design = self.loss.design
        if isinstance(design, SparseDesign):
            return design.cross(one, two).numpy()
        return (self.rows_of[one] @ self.rows_of[two].mT).numpy()

    @cached_property
    def ridge(self) -> Array:
        """Curvature of the ridge."""
        return np.array(torch.as_tensor(self.loss.ridge, dtype=torch.float64).cpu().numpy())

    @cached_property
    def pull(self) -> Array:
        """X'y."""
        return np.array((self.loss.design.mT @ self.loss.response).numpy())

    @cached_property
    def constant(self) -> float:
        """``1/2 ||y||^2``."""
        return 0.5 * float(self.loss.response.square().sum())

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: the data, not what is derived from them."""
        return {key: value for key, value in vars(self).items() if key in self.__dataclass_fields__}

    def dense(self, point: Point) -> Array:
        """Return a sparse point of the problem as a dense one here; what lies outside is dropped."""
        out = np.zeros(len(self.columns))
        entries, values = point
        place = np.searchsorted(self.columns, entries)
        inside = place < len(self.columns)
        inside[inside] = self.columns[place[inside]] == entries[inside]
        out[place[inside]] = values[inside]
        return out

    def sparse(self, dense: Array) -> Point:
        """Return a dense point as a sparse one of the problem."""
        inside = np.flatnonzero(dense)
        inside = inside if self.whole else inside[np.argsort(self.columns[inside])]
        return self.columns[inside], dense[inside].copy()

    def incumbents(self, node: Node, relaxed: Relaxed, effort: int) -> list[tuple[float, Point]]:
        """See :class:`NodeBound`."""
        size = len(self.columns)
        starts: list[tuple[Array, int]] = []
        order = np.argsort(-relaxed.shares, kind="stable")
        kept = order[: min(self.most, _ROUNDED, int((relaxed.shares[order] > 0).sum()))]
        half = kept[relaxed.shares[kept] > 0.5]
        if effort == 2:
            starts.append((kept, size))
            starts.append((np.zeros(0, dtype=np.int64), size))
        starts.append((half, size if effort else 0))
        starts.append((np.flatnonzero(node.fixed > 0)[: self.most], 0))
        found = []
        for support, swaps in starts:
            key = (self.columns[support].tobytes(), swaps > 0)
            if key in self._seen:
                continue
            self._seen.add(key)
            t = np.zeros(size)
            t[support] = relaxed.primal[support]
            t[support[t[support] == 0]] = 1e-12
            found.append(self.improved(t, swaps))
        return found

    def improved_from(self, point: Point) -> list[tuple[float, Point]]:
        """See :class:`NodeBound`."""
        return [self.improved(self.dense(point), len(self.columns))]

    def improved(self, t: Array, swaps: int) -> tuple[float, Point]:
        """Return a local optimum from a start, with its value."""
        from ...kernels.support_search import improve

        gram, size = self.gram, len(self.columns)
        support = np.flatnonzero(t)
        t[support[np.argsort(-np.abs(t[support]))[gram.room :]]] = 0.0
        gram.ensure(np.flatnonzero(t))
        c, allowed = np.zeros(size), np.ones(size, dtype=np.bool_)
        while True:
            missing, _ = improve(
                gram.rows, gram.slot, self.pull, gram.diagonal, self.constant, self.price, 0.5 * self.ridge,
                self.lower, self.upper, allowed, self.most, t, c, swaps,
            )  # fmt: skip
            if missing < 0:
                break
            needed = np.union1d([missing], np.flatnonzero(t))
            if len(needed) > gram.room:
                break
            gram.ensure(np.union1d(needed, self._likely(c, gram)) if size > _WIDE else needed)
        point = self.sparse(t)
        return self.value(point), point

    @staticmethod
    def _likely(c: Array, gram: GramRows) -> Array:
        """Return entries that may be asked for next: the product with all columns costs little more for several."""
        spare = min(_AHEAD, gram.room - gram.used - 1)  # beside the one that is asked for
        if spare <= 0:
            return np.zeros(0, dtype=np.int64)
        worth = np.where(gram.diagonal > 0, c * c / np.where(gram.diagonal > 0, gram.diagonal, 1.0), 0.0)
        return np.argpartition(-worth, spare - 1)[:spare]

    def value(self, point: Point) -> float:
        """Return the objective at a sparse point."""
        dense = self.dense(point)
        inside = np.flatnonzero(dense)
        residual = self.loss.response - self.loss.design[:, torch.from_numpy(inside)] @ torch.from_numpy(dense[inside])
        smooth = 0.5 * float(residual.square().sum()) + 0.5 * float(self.ridge[inside] @ dense[inside] ** 2)
        return smooth + float(self.price[inside].sum())
