"""Multipliers of several budgets over groups of items with equal costs: the Lagrangian dual of a grouped knapsack.

A group holds items of one cost vector, sorted by score, so that its best choice of k items is a prefix. The arrays are
concatenated over groups: ``values`` (descending within a group), ``cum`` (items of the group up to and including that
value), ``start`` (groups + 1 positions), ``base`` (items above the stored ones), ``low`` and ``high`` (fewest and most
items of a group), ``costs`` (groups, budgets) and ``limits`` (budgets,), all but the values int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiling import compiled_if_possible

__all__ = ["counts_at", "multipliers", "thresholds_at"]

_compile = compiled_if_possible()

_CUTS = 250  # of the cutting-plane method for three and more budgets


@_compile
def _counts(values, cum, start, base, low, high, costs, lam, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write how many items of each group score above their threshold, within the bounds of the group."""
    for g in range(base.size):
        threshold = 0.0
        for r in range(lam.size):
            threshold += lam[r] * costs[g, r]
        first, last = start[g], start[g + 1]
        while first < last:
            middle = (first + last) >> 1
            if values[middle] > threshold:
                first = middle + 1
            else:
                last = middle
        found = base[g] if first == start[g] else cum[first - 1]
        out[g] = min(max(found, low[g]), high[g])


@_compile
def _fits(values, cum, start, base, low, high, costs, lam, out, r, limit):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Tell whether resource ``r`` suffices for the counts at ``lam``."""
    _counts(values, cum, start, base, low, high, costs, lam, out)
    used = 0
    for g in range(base.size):
        used += costs[g, r] * out[g]
    return used <= limit


@_compile
def _smallest(values, cum, start, base, low, high, costs, lam, out, r, limit, most):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Set ``lam[r]`` to the smallest number at which resource ``r`` suffices, the other multipliers given.

    Non-negative floats are in the order of their bits, so that bisection on the bits ends after at most 63 steps at
    the very last bit, whatever the scale of the scores.
    """
    lam[r] = 0.0
    if _fits(values, cum, start, base, low, high, costs, lam, out, r, limit):
        return
    number = np.empty(1, np.float64)
    bits = number.view(np.int64)
    number[0] = most
    top = bits[0]
    bottom = 0
    while top - bottom > 1:
        bits[0] = bottom + ((top - bottom) >> 1)
        lam[r] = number[0]
        if _fits(values, cum, start, base, low, high, costs, lam, out, r, limit):
            top = bits[0]
        else:
            bottom = bits[0]
    bits[0] = top
    lam[r] = number[0]


@_compile
def _nested(values, cum, start, base, low, high, costs, limits, most, lam, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bisection for one budget; for two, a bisection on the second multiplier around one on the first."""
    lam[:] = 0.0
    _smallest(values, cum, start, base, low, high, costs, lam, out, 0, limits[0], most[0])
    if lam.size == 1:
        return
    if _fits(values, cum, start, base, low, high, costs, lam, out, 1, limits[1]):
        return
    number = np.empty(1, np.float64)
    bits = number.view(np.int64)
    number[0] = most[1]
    top = bits[0]
    bottom = 0
    while top - bottom > 1:
        bits[0] = bottom + ((top - bottom) >> 1)
        lam[1] = number[0]
        _smallest(values, cum, start, base, low, high, costs, lam, out, 0, limits[0], most[0])
        if _fits(values, cum, start, base, low, high, costs, lam, out, 1, limits[1]):
            top = bits[0]
        else:
            bottom = bits[0]
    bits[0] = top
    lam[1] = number[0]
    _smallest(values, cum, start, base, low, high, costs, lam, out, 0, limits[0], most[0])


def counts_at(groups: Any, lam: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many items of each group score above ``lam . cost``, clipped to the bounds of the group.

    Parameters
    ----------
    groups : object
        With the arrays that the module describes as attributes.
    lam : float64 array, shape (budgets,)
    """
    out = np.empty(groups.base.size, np.int64)
    _counts(groups.values, groups.cum, groups.start, groups.base, groups.low, groups.high, groups.costs, lam, out)
    return out


def multipliers(groups: Any) -> NDArray[np.float64]:
    """Return multipliers (budgets,) >= 0 that (nearly) minimise the dual.

    Exact to the last bit for one budget, and up to ties for two (bisections); cutting planes for more. Any multipliers
    >= 0 prove a bound, so nothing rests on their being the best.
    """
    budgets = groups.limits.size
    lam = np.zeros(budgets)
    firsts = np.where(np.diff(groups.start) > 0, groups.start[:-1], -1)
    best = np.where(firsts >= 0, groups.values[firsts] if groups.values.size else 0.0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(groups.costs > 0, best[:, None] / groups.costs, 0.0)
    most = ratios.max(axis=0, initial=0.0) * (1.0 + 1e-12) + np.finfo(float).tiny
    if budgets <= 2:
        arrays = (groups.values, groups.cum, groups.start, groups.base, groups.low, groups.high)
        _nested(*arrays, groups.costs, groups.limits, most, lam, np.empty(groups.base.size, np.int64))
        return lam
    return _cutting_planes(groups, most)


def _cutting_planes(groups: Any, most: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kelley's method on the dual, which is convex and piecewise linear; a tiny linear program for each cut."""
    from scipy.optimize import linprog

    budgets = groups.limits.size
    weight = np.diff(groups.cum, prepend=0)
    for g in range(groups.base.size):  # the first stored run of a group counts from its base
        if groups.start[g] < groups.start[g + 1]:
            weight[groups.start[g]] = groups.cum[groups.start[g]] - groups.base[g]
    prefix = np.concatenate([[0.0], np.cumsum(groups.values * weight)])
    scale = 1.0 / most  # every multiplier runs over [0, 1] in the program

    def evaluate(lam: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        kept = counts_at(groups, lam)
        slack = (groups.limits - groups.costs.T @ kept).astype(float)
        total = 0.0
        for g, count in enumerate(kept):
            first, last = groups.start[g], groups.start[g + 1]
            place = first + int(np.searchsorted(groups.cum[first:last], count, side="right"))
            total += prefix[place] - prefix[first]
            done = groups.base[g] if place == first else groups.cum[place - 1]
            if count > done and place < last:
                total += (count - done) * groups.values[place]
        return total + float(lam @ slack), slack

    lam = np.zeros(budgets)
    best, best_value = lam, np.inf
    rows, sides = [], []
    for _ in range(_CUTS):
        value, slope = evaluate(lam)
        if value < best_value:
            best, best_value = lam, value
        unit = max(abs(best_value), 1e-300)
        rows.append(np.append(slope / scale / unit, -1.0))  # value + slope (x - lam) <= t, in units of the best value
        sides.append((float(slope @ lam) - value) / unit)
        program = linprog(
            np.append(np.zeros(budgets), 1.0),
            A_ub=np.array(rows) * 1.0,
            b_ub=np.array(sides),
            bounds=[(0.0, 1.0)] * budgets + [(None, None)],
            method="highs",
        )
        if program.x is None or best_value - program.fun * unit <= 1e-13 * unit:
            break
        following = np.clip(program.x[:budgets], 0.0, 1.0) / scale  # a solver's zero may be below zero
        if np.array_equal(following, lam):
            break
        lam = following
    return best


def thresholds_at(groups: Any, lam: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the score (groups,) above which the dual keeps the items of each group.

    It is ``lam . cost``, except where a bound of the group cuts the choice off: there the score of the last item
    that ``low`` forces, or of the first that ``high`` forbids.
    """
    theta = groups.costs @ lam
    for g in range(groups.base.size):
        first, last = groups.start[g], groups.start[g + 1]
        ranks = groups.cum[first:last]
        barred = int(np.searchsorted(ranks, groups.high[g], side="right"))  # the run with item number high + 1
        if barred < last - first:
            theta[g] = max(theta[g], groups.values[first + barred])
        forced = int(np.searchsorted(ranks, groups.low[g], side="left"))  # the run with item number low
        if groups.low[g] > groups.base[g] and forced < last - first:
            theta[g] = min(theta[g], groups.values[first + forced])
    return np.asarray(theta, dtype=np.float64)
