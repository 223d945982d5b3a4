"""Probes where there are very many columns: solved on those near their thresholds, and looked at on all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import proxy

import numpy as np

from .live import NEAREST, Cell, Solved
from .strategy import Array, Point
from .together import Part, part_of, solve_together

if TYPE_CHECKING:
    from .regression import RegressionBound

__all__ = ["Nearby"]


class Nearby:
    """The columns of a wide strategy that are near their thresholds, for points of tangency of parts of a node.

    What a point proves is computed from all columns by whoever asks, so a column that is missing here costs some of the
    bound and none of its validity.
    """

    def __init__(self, outer: RegressionBound) -> None:
        self.outer: RegressionBound = proxy(outer)  # which may hold this

    def solve(
        self, cell: Cell, t: Array, price: float, cutoff: float, accuracy: float, stop: Callable[[], bool]
    ) -> Solved:
        """Return the tangent of a cell on all columns."""
        return self.outer.live.solve(cell, t, price, cutoff, accuracy, stop)

    def together(
        self, cell: Cell, t: Array, price: float, parts: list[Part], cutoff: float, room: float
    ) -> list[Point]:
        """Return a point of tangency for each part, see :func:`~mipprune.solvers.tree.together.solve_together`."""
        from ...kernels.node_descent import closeness

        outer, live = self.outer, self.outer.live
        live.hold(np.flatnonzero((t != 0) | (cell.fixed > 0)))

        def solved(some: list[Part]) -> list[Point]:
            places = live.places
            inner = [Part(int(live.where[part.entry]), part.side, part.reach) for part in some]
            return solve_together(live.inner, cell.take(places), t[places], price, inner, cutoff, room)

        points = solved(parts)
        near, worst = np.empty(len(t)), np.zeros(len(t))
        again: list[int] = []
        for number, (_, slope) in enumerate(outer.slopes_at(cell, points)):
            some = part_of(cell, parts[number])
            closeness(slope, some.fixed, outer.price, price, some.l2, some.lower, some.upper, near)
            near[live.places] = 0.0
            if (near > 1.0).any():
                again.append(number)
                np.maximum(worst, near, out=worst)
        if not again:
            return points
        missing, spare = np.flatnonzero(worst > 1.0), max(NEAREST - len(live.places), 256)
        if len(missing) > spare:
            missing = np.sort(missing[np.argpartition(-worst[missing], spare - 1)[:spare]])
        live.hold(missing)
        for number, point in zip(again, solved([parts[number] for number in again]), strict=True):
            points[number] = point
        return points
