r"""Ascent on the row-wise bound of a graphical model over its point of tangency.

The bound of :mod:`graph_bound` is a sum over rows of minima over the diagonal entry t, concave in the vectors
:math:`x_i`. The solution of the relaxation maximises it only if each minimum lies at the diagonal of that solution;
where it does not, in particular with a ridge that is small beside the shift, other vectors prove much more. The minima
are smoothed, their gradient follows from what attains them, and a quasi-Newton method climbs, for sharper and sharper
minima.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .graph_appraisal import Penalties, Shift, diagonal_guess
from .pairs import split_pairs
from .threads import over_rows

__all__ = ["ascend"]

Array = np.ndarray[Any, Any]
Point = tuple[Array, Array]

_GRID = np.concatenate([np.linspace(0.1, 0.6, 4), np.linspace(0.7, 2.1, 22), np.geomspace(2.25, 300.0, 16)])
_TINY = 1e-8  # entries below, in units of the diagonal, are dropped
_BLOCK = 32  # rows in one piece of work
_SMALL = 96  # nodes up to which threads cost more than they save


@dataclass
class _Rows:
    """The smoothed bound and its gradient as a function of the pairs that may be non-zero."""

    matrix: Array
    pairs: Array
    nodes: tuple[Array, Array]
    fixed: Array
    own: Array
    penalties: tuple[Array, ...]
    go_on: Callable[[], bool]
    theta: Array = field(init=False)
    share: Array = field(init=False)
    sharpness: float = field(init=False)

    @classmethod
    def of(
        cls, matrix: Array, fixed: Array, shift: Shift, penalties: Penalties, start: Array, go_on: Callable[[], bool]
    ) -> _Rows:
        """Set up; pairs without curvature of S that are neither kept nor in the start stay zero."""
        p, nodes = len(matrix), np.arange(len(matrix))
        i, j = split_pairs(np.arange(len(fixed)), p)

        def square(part: Array) -> Array:
            out = np.zeros((p, p), dtype=part.dtype)
            out[i, j] = out[j, i] = part
            return out

        own = np.ascontiguousarray(np.broadcast_to(shift.at(nodes[:, None], nodes[None, :]), (p, p)))
        price, ridge, lower, upper = (square(part) for part in penalties)
        moving = (fixed > 0) | ((fixed == 0) & ((own[i, j] > 0) | (own[j, i] > 0)))
        moving[start] = True
        pairs = np.flatnonzero(moving & (fixed >= 0))
        return cls(
            matrix, pairs, split_pairs(pairs, p), square(fixed), own, (price, 0.5 * ridge, lower, upper), go_on
        )  # fmt: skip

    def around(self, theta: Array, sharpness: float) -> None:
        """Use the vectors ``x_i = v_i / theta_i``, and look for minima at multiples of theta."""
        self.theta, self.sharpness = theta, sharpness
        share = self.penalties[1] + self.own / theta[:, None]
        total = share + share.T
        self.share = np.where(total > 0.0, share / np.where(total > 0.0, total, 1.0), 0.5)

    def negative(self, values: Array) -> tuple[float, Array]:
        """Return minus the smoothed bound and minus its gradient."""
        from .graph_rows import soft_rows

        if not self.go_on():
            raise StopIteration
        p, scale = len(self.matrix), self.theta[:, None]
        i, j = self.nodes
        x = np.zeros((p, p))
        x[i, j] = x[j, i] = values
        x /= scale  # row i: x_i
        y = x @ self.matrix - self.own * x
        linear, slopes = self.matrix.diagonal() - (x * y).sum(axis=1), 4.0 * self.matrix + 2.0 * (y + y.T)
        points, value, mean, copies = scale * _GRID, np.empty(p), np.empty(p), np.empty((p, p))

        def work(first: int, last: int) -> None:
            soft_rows(
                first, last, slopes, linear, self.share, self.own, self.fixed, *self.penalties, points,
                self.sharpness, value, mean, copies,
            )  # fmt: skip

        if p <= _SMALL:
            work(0, p)
        else:
            over_rows(work, p, chunk=_BLOCK)
        rest = copies + copies.T - mean[:, None] * x
        slope = 2.0 * (rest @ self.matrix - self.own * rest) / scale
        return -float(value.sum()), -(slope[i, j] + slope[j, i])


def ascend(
    matrix: Array,
    fixed: Array,
    shift: Shift,
    penalties: Penalties,
    start: Point,
    bound: Callable[[Point], float],
    *,
    enough: float = np.inf,
    steps: int = 40,
    sharpness: tuple[float, ...] = (0.2, 0.8, 3.0),
    go_on: Callable[[], bool] = lambda: True,
) -> tuple[float, Point]:
    """Return the best bound found and its point of tangency.

    Parameters
    ----------
    matrix : (p, p) array
        S.
    fixed : int8 array, shape (size,)
        -1 off, 1 on, 0 free. The point stays zero on pairs that are off.
    shift, penalties
    start : (entries, values)
        Ascending, such as the relaxation's solution.
    bound : callable
        The bound that a point proves.
    enough : float
        A bound at which to stop.
    steps : int
        Of the quasi-Newton method, for each sharpness.
    sharpness : tuple of float
        Of the smoothed minima, in units of nodes over the mean price.
    go_on : callable
        ``False`` ends the ascent with the best bound so far.
    """
    from scipy.optimize import minimize

    p, best, where = len(matrix), bound(start), start
    rows = _Rows.of(matrix, fixed, shift, penalties, start[0], go_on)
    values = np.zeros(len(fixed))
    values[start[0]] = start[1]
    current, pairs, unit = values[rows.pairs], rows.pairs, float(penalties.price.mean()) or 1.0
    i, j = rows.nodes
    for factor in sharpness:
        if best >= enough or not go_on():
            break
        inside = current != 0.0
        theta = diagonal_guess(matrix, pairs[inside], current[inside], shift, penalties)
        rows.around(theta, factor * p / unit)
        try:
            found = minimize(rows.negative, current, jac=True, method="L-BFGS-B", options={"maxiter": steps}).x
        except StopIteration:
            break
        if not np.isfinite(found).all():
            break
        current = np.where(np.abs(found) < _TINY * np.sqrt(theta[i] * theta[j]), 0.0, found)
        inside = current != 0.0
        point = (pairs[inside], current[inside])
        proven = bound(point)
        if proven > best:
            best, where = proven, point
    return best, where
