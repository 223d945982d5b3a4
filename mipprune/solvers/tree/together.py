"""Relaxations of parts of one node, several at a time: on all threads, the rows of X'X that they lack together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...kernels.threads import over_rows
from .live import Cell
from .strategy import Array, Point

if TYPE_CHECKING:
    from .regression import RegressionBound

__all__ = ["Part", "part_of", "solve_together"]

_TURNS = 12  # of solving as far as the rows go and forming more of them
_ACCURACY = 0.1  # of the room
_BEYOND = 0.1  # of the room: how far above the cutoff a part's bound is worth computing
_LIKELY = 1.0  # closeness from which on a column's row of X'X is formed ahead
_AHEAD = 1024  # such rows at most
_INVERTED = 1500  # entries up to which their products are formed


class Part(NamedTuple):
    """The part of a node where an entry is kept with ``|t| >= reach`` on one side (0: merely kept)."""

    entry: int
    side: float
    reach: float


def solve_together(
    strategy: RegressionBound, cell: Cell, t: Array, price: float, parts: list[Part], cutoff: float, room: float
) -> list[Point]:
    """Return a point of tangency for each part.

    Parameters
    ----------
    strategy : RegressionBound
        Its rows of X'X may be coarse.
    cell : Cell
        Of the node.
    t : array, shape (size,)
        Its relaxation.
    price : float
        Multiplier of the limit on the number of kept entries.
    parts : list of Part
    cutoff, room : float
        What the node's bound should reach, and what it lacks.
    """
    from ...kernels.node_descent import relax

    gram, size = strategy.gram, len(t)
    points = _followed(strategy, cell, t, parts)
    cells = [part_of(cell, part) for part in parts]
    _prefetch(strategy, cells, points, price)
    work = np.empty((len(parts), 3, size))
    missing: list[int] = [0] * len(parts)
    pending = list(range(len(parts)))

    def task(first: int, last: int) -> None:
        for number in pending[first:last]:
            some = cells[number]
            missing[number] = relax(
                gram.rows, gram.slot, strategy.pull, some.shift, strategy.constant, some.fixed, strategy.price,
                some.l2, some.lower, some.upper, some.left, price, points[number], *work[number],
                cutoff + _BEYOND * room, _ACCURACY * room, 60,
            )[0]  # fmt: skip

    for _ in range(_TURNS):
        over_rows(task, len(pending), chunk=1)
        pending = [number for number in pending if missing[number] >= 0]
        if not pending:
            break
        wanted = [np.flatnonzero(np.isposinf(work[number, 1])) for number in pending]
        used = [np.flatnonzero(points[number]) for number in pending]
        rows = np.unique(np.concatenate([*wanted, *used, [missing[number] for number in pending]]))
        if len(rows) > gram.room:
            break
        gram.ensure(rows)
        work[pending] = 0.0
    return [strategy.sparse(row) for row in points]


def _prefetch(strategy: RegressionBound, cells: list[Cell], points: Array, price: float) -> None:
    """Form the rows of X'X that the first steps of the relaxations will ask for, together."""
    from ...kernels.node_descent import closeness

    gram = strategy.gram
    if gram.used == len(gram.slot):
        return
    used = np.flatnonzero(points.any(axis=0))
    if len(used) > gram.room:
        return
    gram.ensure(used)
    rows = gram.rows[gram.slot[used]]
    slopes = strategy.pull - points[:, used].astype(rows.dtype) @ rows + cells[0].shift * points
    near, worst = np.empty(points.shape[1]), np.zeros(points.shape[1])
    for cell, slope in zip(cells, slopes, strict=True):
        closeness(slope, cell.fixed, strategy.price, price, cell.l2, cell.lower, cell.upper, near)
        np.maximum(worst, near, out=worst)
    wanted = np.flatnonzero(worst > _LIKELY)
    spare = min(gram.room - gram.used, _AHEAD)
    gram.ensure(wanted[np.argsort(-worst[wanted], kind="stable")[:spare]])


def part_of(cell: Cell, part: Part) -> Cell:
    """Return the cell of a part."""
    fixed, lower, upper = cell.fixed.copy(), cell.lower, cell.upper
    fixed[part.entry] = 1
    if part.reach > 0:
        sides = (lower.copy(), upper.copy())
        sides[0 if part.side > 0 else 1][part.entry] = part.side * part.reach
        lower, upper = sides
    return Cell(fixed, cell.shift, cell.l2, lower, upper, cell.left - 1)


def _followed(strategy: RegressionBound, cell: Cell, t: Array, parts: list[Part]) -> Array:
    """Move the entry of each part to where it must be, and the others as they follow to first order."""
    points = np.tile(t, (len(parts), 1))
    used = np.flatnonzero((t != 0) | (cell.fixed > 0))
    places, numbers = np.searchsorted(used, [part.entry for part in parts]), np.arange(len(parts))
    if len(used) <= min(_INVERTED, strategy.gram.room):
        strategy.gram.ensure(used)
        matrix = strategy.gram.rows[strategy.gram.slot[used]][:, used].astype(np.float64)
        bend = np.where(cell.fixed[used] > 0, 2.0 * cell.l2[used], 0.0) - cell.shift[used]
        matrix[np.diag_indices(len(used))] += bend + 1e-6 * np.abs(matrix.diagonal())
        right = np.zeros((len(used), len(parts)))
        right[places, numbers] = 1.0
        try:
            response = np.linalg.solve(matrix, right)
        except np.linalg.LinAlgError:  # a kept column of zeros, or squares that underflow: the others stay
            response = np.full_like(right, np.nan)
        response = response / response[places, numbers]
    else:
        response = np.zeros((len(used), len(parts)))
    for number, part in enumerate(parts):
        if part.reach <= 0 or not np.isfinite(response[:, number]).all():
            continue
        old = t[used]
        moved = old + (part.side * part.reach - t[part.entry]) * response[:, number]
        moved = np.where((moved * old > 0) | (cell.fixed[used] > 0), moved, 0.0)
        points[number, used] = np.minimum(np.maximum(moved, cell.lower[used]), cell.upper[used])
        points[number, part.entry] = part.side * part.reach
    return points
