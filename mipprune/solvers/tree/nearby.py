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

_TURNS = 2  # of solving and of taking columns in that were missing


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
        points: list[Point] = []
        for turn in range(_TURNS):
            places = live.places
            inner = [Part(int(live.where[part.entry]), part.side, part.reach) for part in parts]
            points = solve_together(live.inner, cell.take(places), t[places], price, inner, cutoff, room)
            if turn == _TURNS - 1:
                break
            near, worst = np.empty(len(t)), np.zeros(len(t))
            for part, (_, slope) in zip(parts, outer.slopes_at(cell, points), strict=True):
                some = part_of(cell, part)
                closeness(slope, some.fixed, outer.price, price, some.l2, some.lower, some.upper, near)
                np.maximum(worst, near, out=worst)
            worst[places] = 0.0
            missing = np.flatnonzero(worst > 1.0)
            if not len(missing):
                break
            room_left = max(NEAREST - len(places), 256)
            if len(missing) > room_left:
                missing = missing[np.argpartition(-worst[missing], room_left - 1)[:room_left]]
            live.hold(np.sort(missing))
        return points
