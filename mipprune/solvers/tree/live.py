"""Relaxations over very many columns: solved on those near their thresholds, checked on all."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from weakref import proxy

import numpy as np
import torch

from ...kernels.gram_rows import GramRows
from ...losses.designs import SparseDesign
from .strategy import Array

if TYPE_CHECKING:
    from .regression import RegressionBound

__all__ = ["NEAREST", "Cell", "Live", "Solved"]

_NEAR = 0.85  # closeness from which on a column is held
NEAREST = 5000
"""Columns held before those that are far from their thresholds are let go."""
_ROUNDS = 8


class Cell(NamedTuple):
    """A node's cell as the kernels see it, arrays of shape (size,)."""

    fixed: Array
    shift: Array
    l2: Array
    lower: Array
    upper: Array
    left: int

    def take(self, places: Array) -> Cell:
        """Return the cell on some of the columns."""
        fixed, shift, l2, lower, upper, left = self
        return Cell(fixed[places], shift[places], l2[places], lower[places], upper[places], left)


class Solved(NamedTuple):
    """A point of tangency with what its tangent proves in a cell."""

    t: Array
    c: Array
    gains: Array
    bound: float
    value: float
    price: float
    last: float
    following: float


class Live:
    """The columns of a strategy that are near their thresholds, as a strategy of its own.

    The relaxation is solved on them; one product with X' then gives the tangent on all columns, whose bound is valid
    whatever was left out, and says which columns are missing.
    """

    def __init__(self, outer: RegressionBound) -> None:
        self.outer: RegressionBound = proxy(outer)  # which holds this; in a circle its memory would stay
        self.places = np.zeros(0, dtype=np.int64)
        self.where = np.full(len(outer.columns), -1, dtype=np.int64)
        self._sparse = isinstance(outer.loss.design, SparseDesign)
        self._data = np.empty((0, 0 if self._sparse else len(outer.loss.response)))
        self._rows = np.empty((0, 0))
        self._renew()

    def _renew(self) -> None:
        outer, places, count = self.outer, self.places, len(self.places)
        self.where[:] = -1
        self.where[places] = np.arange(count)
        sides = outer.price[places], outer.lower[places], outer.upper[places]
        self.inner = outer.__class__(outer.loss, outer.columns[places], *sides, outer.most, whole=False)
        diagonal = np.ascontiguousarray(np.diagonal(self._rows)[:count])
        vars(self.inner).update(
            gram=GramRows.whole(self._rows, diagonal),
            pull=outer.pull[places],
            ridge=outer.ridge[places],
            constant=outer.constant,
        )

    def hold(self, wanted: Array) -> None:
        """Take columns in; they keep the order in which they came."""
        new = wanted[self.where[wanted] < 0]
        if not len(new):
            return
        held, total = len(self.places), len(self.places) + len(new)
        if total > len(self._rows):
            room = max(total + 256, min(3 * len(self._rows) // 2, NEAREST + 512))
            data, rows = np.empty((room, self._data.shape[1])), np.empty((room, room))
            data[:held], rows[:held, :held] = self._data[:held], self._rows[:held, :held]
            self._data, self._rows = data, rows
        if self._sparse:
            fresh = self.outer.between(new, np.concatenate([self.places, new]))
        else:
            self._data[held:total] = self.outer.rows_of[torch.from_numpy(new)].numpy()
            every = torch.from_numpy(self._data[:total])
            fresh = (every[held:] @ every.mT).numpy()
        self._rows[held:total, :total] = fresh
        self._rows[:held, held:total] = fresh[:, :held].T
        self.places = np.concatenate([self.places, new])
        self._renew()

    def keep(self, wanted: Array) -> None:
        """Let all other columns go."""
        here = self.where[wanted]
        here = here[here >= 0]
        self._data[: len(here)] = self._data[here]
        self._rows[: len(here), : len(here)] = self._rows[np.ix_(here, here)]
        self.places = self.places[here]
        self._renew()
        self.hold(wanted)

    def solve(
        self, cell: Cell, t: Array, price: float, cutoff: float, accuracy: float, stop: Callable[[], bool]
    ) -> Solved:
        """Return the tangent of a cell."""
        from ...kernels.node_descent import closeness

        outer = self.outer
        near = np.empty(len(t))
        if not len(self.places):
            solved = outer.tangent(cell, t, price)
            closeness(solved.c, cell.fixed, outer.price, price, cell.l2, cell.lower, cell.upper, near)
            count = min(len(t), 2 * len(outer.loss.response))
            self.hold(np.argpartition(-near, count - 1)[:count])
        self.hold(np.flatnonzero((t != 0) | (cell.fixed > 0)))
        best: Solved | None = None
        for _ in range(_ROUNDS):
            part = self.inner.solve(cell.take(self.places), t[self.places], price, cutoff, accuracy, stop)
            t, price = np.zeros(len(t)), part.price
            t[self.places] = part.t
            solved = outer.tangent(cell, t, price)._replace(value=part.value)
            if best is None or solved.bound > best.bound:
                best = solved
            if solved.bound >= cutoff or stop():
                break
            closeness(solved.c, cell.fixed, outer.price, price, cell.l2, cell.lower, cell.upper, near)
            near[self.places] = 0.0
            if not (near > 1.0).any() or part.bound - solved.bound <= accuracy:
                break
            self._take(near, cell, solved)
        assert best is not None
        return best

    def _take(self, near: Array, cell: Cell, solved: Solved) -> None:
        from ...kernels.node_descent import closeness

        wanted = np.flatnonzero(near > _NEAR)
        if len(wanted) > NEAREST:
            wanted = np.sort(np.argpartition(-near, NEAREST)[:NEAREST])
        if len(self.places) + len(wanted) > NEAREST:
            closeness(solved.c, cell.fixed, self.outer.price, solved.price, cell.l2, cell.lower, cell.upper, near)
            near[(solved.t != 0) | (cell.fixed > 0)] = math.inf
            nearest = np.flatnonzero(near > _NEAR)
            if len(nearest) > NEAREST:  # those in use are among them, however many there are
                most = max(NEAREST, int(np.isinf(near).sum()))
                nearest = nearest[np.argpartition(-near[nearest], most - 1)[:most]]
            self.keep(np.sort(nearest))
            return
        self.hold(wanted)

    def narrowed(self, outer: RegressionBound, left: Array) -> Live:
        """Return the same for the strategy that is left with some of the columns (ascending)."""
        out = Live(outer)
        here = np.flatnonzero(np.isin(self.places, left))
        out.places = np.searchsorted(left, self.places[here])
        out._data, out._rows = self._data[here], self._rows[np.ix_(here, here)]
        out._renew()
        return out
