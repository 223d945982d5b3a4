"""Better incumbents for sparse regression: tabu search over supports, at the root and now and then along the tree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from ...kernels.compiling import has_numba
from .strategy import Array, Point, Relaxed

if TYPE_CHECKING:
    from .regression import RegressionBound

__all__ = ["Exploring", "explore_supports"]

_LARGEST = 512  # kept entries
_CANDIDATES = 512  # columns that may join where X'X is not there as a whole
_PATIENCE = 200  # moves without success after which the search restarts
_TENURE = 8  # moves for which a column that left stays out, at least
_CALLS = {0: 1, 1: 2, 2: 6}  # calls in a row without success after which an effort ends
_WORK = 1e9 if has_numba() else 3e5  # numbers read in one call: some tenths of a second compiled, at most
_CALLED = 20  # calls of one effort at most
_SAME = 1e-10  # of the value


@runtime_checkable
class Exploring(Protocol):
    """A strategy that looks for better members of S for longer, starting from the best one."""

    def explored(
        self, point: Point, relaxed: Relaxed, effort: int, seed: int, stop: Callable[[], bool]
    ) -> Iterator[tuple[float, Point]]:
        """Yield members of S with their values; what they are follows from the arguments and the data alone.

        ``point`` is the incumbent, ``relaxed`` belongs to some node, ``effort`` is as for
        :meth:`~mipprune.solvers.tree.strategy.NodeBound.incumbents`, and ``seed`` decides the restarts.
        """


def explore_supports(
    strategy: RegressionBound, point: Point, relaxed: Relaxed, effort: int, seed: int, stop: Callable[[], bool]
) -> Iterator[tuple[float, Point]]:
    """Yield the results of tabu searches from the incumbent and from the relaxation, each polished in its intervals.

    Parameters
    ----------
    strategy : RegressionBound
        With all columns of the problem.
    point : Point
        The incumbent.
    relaxed : Relaxed
        Of some node.
    effort : int
        0 to 2.
    seed : int
    stop : callable
        Asked between two searches.
    """
    from ...kernels.tabu_search import tabu_search

    size, most = len(strategy.columns), min(strategy.most, _LARGEST, len(strategy.columns))
    if most < 1:
        return
    starts = [_largest(strategy.dense(start), most) for start in (point, relaxed.point)]
    places = _candidates(strategy, starts)
    gram = strategy.gram.rows if len(places) == size else strategy.products(places)
    data = strategy.pull[places], strategy.constant, strategy.price[places], 0.5 * strategy.ridge[places]
    sides = strategy.lower[places], strategy.upper[places]
    best, chosen, failed = math.inf, starts[0][places], 0
    for call in range(_CALLED):
        if stop() or (failed >= _CALLS[effort] and call > 1):
            return
        t = (starts[1 - call][places] if call < 2 else chosen).copy()
        value, _ = tabu_search(
            gram, *data, *sides, most, t, _WORK, 1, _PATIENCE, _TENURE, (2 * _CALLED * seed + call) % 2**31
        )
        failed += 1
        if value < best and (best == math.inf or value < best - _SAME * abs(best)):
            best, chosen = value, t
            failed = failed if call == 0 else 0
            dense = np.zeros(size)
            dense[places] = t
            yield strategy.improved(dense, 0)


def _largest(t: Array, count: int) -> Array:
    """Keep the largest entries of a point."""
    inside = np.flatnonzero(t)
    t[inside[np.argsort(-np.abs(t[inside]), kind="stable")[count:]]] = 0.0
    return t


def _candidates(strategy: RegressionBound, starts: list[Array]) -> Array:
    """Return the columns that take part, ascending: all, or those most correlated with what the starts leave."""
    size = len(strategy.columns)
    if strategy.gram.full and strategy.gram.used == size:
        return np.arange(size)
    cell = strategy.cell(strategy.root())
    near = np.zeros(size)
    for t, c in strategy.slopes_at(cell, [strategy.sparse(t) for t in starts]):
        np.maximum(near, np.where(t != 0, np.inf, np.abs(c)), out=near)
    count = min(size, _CANDIDATES)
    chosen = np.union1d(np.argpartition(-near, count - 1)[:count], np.flatnonzero(np.isinf(near)))
    return chosen.astype(np.int64)
