"""The grouped knapsack with several budgets, solved exactly: dual, incumbent, search, and a MILP if need be.

Maximise the sum of the scores of chosen items subject to budgets, where all items of a group have the same costs. In
each group the best choice is a prefix of the items by falling score, so the unknowns are one count for each group.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Found", "Groups", "incumbent", "search", "slopes", "verify"]

NODES = 20_000_000
"""Nodes after which the search hands over to the MILP: about a second."""
_ROOM = 4_000_000  # counts in all windows together
_NEGLIGIBLE = 4e-15  # of the dual value: a gap of this size is rounding


class Groups(NamedTuple):
    """Items of a grouped knapsack; see :mod:`.knapsack_dual` for the layout."""

    values: NDArray[np.float64]
    cum: NDArray[np.int64]
    start: NDArray[np.int64]
    base: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    floor: NDArray[np.float64]
    """items that are not stored score less than this, or at least ``ceiling``; -inf when there are none"""
    ceiling: NDArray[np.float64]
    costs: NDArray[np.int64]
    limits: NDArray[np.int64]


class Found(NamedTuple):
    """What a search found."""

    counts: NDArray[np.int64]
    gap: float
    """by how much the choice misses the dual value"""
    proven: float
    """no admissible choice misses it by less"""
    nodes: int
    outside: bool = False
    """the windows left the stored items, so that nothing was searched"""


def slopes(
    theta: NDArray[np.float64], lam: NDArray[np.float64], costs: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what one item is worth to the upper and to the lower bound of each group, rounded down; mostly 0."""
    price = costs @ lam
    delta = theta - price
    slack = 2.0 * (lam.size + 2) * 2.0**-53 * (np.abs(theta) + price)
    return np.maximum(delta - slack, 0.0), np.maximum(-delta - slack, 0.0)


def _padded(groups: Groups, theta: NDArray[np.float64]) -> tuple[Groups, NDArray[np.float64]]:
    """Add empty groups without costs until there are two, which the search needs."""
    missing = 2 - groups.base.size
    if missing <= 0:
        return groups, theta

    def zeros(array: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])

    end = np.full(missing, groups.start[-1])
    padded = groups._replace(
        start=np.concatenate([groups.start, end]),
        base=zeros(groups.base),
        low=zeros(groups.low),
        high=zeros(groups.high),
        floor=np.concatenate([groups.floor, np.full(missing, -np.inf)]),
        ceiling=np.concatenate([groups.ceiling, np.full(missing, np.inf)]),
        costs=zeros(groups.costs),
    )
    return padded, zeros(theta)


def incumbent(groups: Groups, lam: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an admissible choice near the dual's: its own counts, then item by item what is best and still fits."""
    from .knapsack_dual import counts_at

    kept = counts_at(groups, lam)
    if (groups.costs.T @ kept > groups.limits).any():
        kept = counts_at(groups, _dearer(groups, lam))
    price = groups.costs @ lam
    left = groups.limits - groups.costs.T @ kept
    place = groups.start[:-1] + kept - groups.base
    while True:
        inside = (kept < groups.high) & (place < groups.start[1:]) & (place >= groups.start[:-1])
        inside &= (groups.costs <= left).all(axis=1)
        if not inside.any():
            return kept
        worth = np.where(inside, groups.values[np.where(inside, place, 0)] - price, -np.inf)
        g = int(worth.argmax())
        if worth[g] + price[g] <= 0.0:
            return kept
        kept[g] += 1
        place[g] += 1
        left -= groups.costs[g]


def _dearer(groups: Groups, lam: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raise all multipliers together until every budget suffices."""
    from .knapsack_dual import counts_at

    top = float(groups.values.max(initial=0.0))
    reach = np.where(groups.costs > 0, groups.costs, np.inf).min(axis=0)  # the least cost of each budget
    floor = np.where(np.isfinite(reach), top / np.maximum(reach, 1), 0.0)

    def at(share: float) -> NDArray[np.float64]:
        return np.asarray((1.0 - share) * lam + share * (np.maximum(lam, floor) + floor))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        fits = bool((groups.costs.T @ counts_at(groups, at(middle)) <= groups.limits).all())
        low, high = (low, middle) if fits else (middle, high)
    return at(high)


def gap_of(
    groups: Groups,
    kept: NDArray[np.int64],
    lam: NDArray[np.float64],
    theta: NDArray[np.float64],
) -> float:
    """Return by how much an admissible choice misses the dual value: every term is >= 0, nothing large cancels."""
    over, under = slopes(theta, lam, groups.costs)
    gap = float(lam @ (groups.limits - groups.costs.T @ kept))
    for g in range(kept.size):
        items = groups.values[groups.start[g] : groups.start[g + 1]]
        place = int(kept[g] - groups.base[g])
        above = int(np.searchsorted(-items, -theta[g], side="left"))
        gap += float(np.abs(items[min(place, above) : max(place, above)] - theta[g]).sum())
        gap += over[g] * float(groups.high[g] - kept[g]) + under[g] * float(kept[g] - groups.low[g])
    return gap


def verify(
    groups: Groups, lam: NDArray[np.float64], theta: NDArray[np.float64], gap: float, nodes: int = NODES
) -> float:
    """Return a number, at most ``gap``, such that no admissible choice misses the dual value by less; 0 if unknown."""
    padded, theta = _padded(groups, theta)
    chosen = np.zeros(padded.base.size, np.int64)
    best, complete, _, outside, error = _below(padded, lam, theta, gap, gap, nodes, chosen)
    return 0.0 if outside or not complete else best * (1.0 - error)


def _below(
    groups: Groups,
    lam: NDArray[np.float64],
    theta: NDArray[np.float64],
    width: float,
    best: float,
    nodes: int,
    chosen: NDArray[np.int64],
) -> tuple[float, bool, int, bool, float]:
    """Search all choices that miss by less than ``best``: best, complete, nodes, outside, relative error of sums."""
    from .knapsack_search import dive, windows

    over, under = slopes(theta, lam, groups.costs)
    beneath, beyond = np.maximum(theta - groups.floor, 0.0), np.maximum(groups.ceiling - theta, 0.0)
    arrays = (groups.values, groups.start, groups.base, groups.low, groups.high)
    counts, losses, place, longest, status = windows(*arrays, beneath, beyond, theta, over, under, width, _ROOM)
    if status:
        return best, False, 0, status == 1, 0.0
    best, visited, complete = dive(counts, losses, place, groups.costs, groups.limits, lam, best, nodes, chosen)
    error = 4.0 * 2.0**-53 * (longest + 8 * (groups.base.size + lam.size) + 64)
    return best, complete, visited, False, error


def search(
    groups: Groups,
    lam: NDArray[np.float64],
    theta: NDArray[np.float64],
    total: float,
    nodes: int = NODES,
) -> Found:
    """Return the best admissible choice, or the best one found within so many nodes.

    Parameters
    ----------
    groups : Groups
    lam, theta : float64 arrays, shapes (budgets,) and (groups,)
        Multipliers and thresholds, as from :func:`.knapsack_dual.multipliers`; better ones make shorter windows.
    total : float
        Magnitude of the dual value, which tells gaps from rounding.
    nodes : int

    Notes
    -----
    Windows of a thousandth of the incumbent's gap are searched first, then four times wider ones, until a choice is
    found (which is then the best of all) or the incumbent's own gap is reached (which proves the incumbent).
    """
    number = groups.base.size
    kept = incumbent(groups, lam)
    gap = gap_of(groups, kept, lam, theta)
    padded, wide_theta = _padded(groups, theta)
    chosen = np.zeros(padded.base.size, np.int64)
    proven, visited = 0.0, 0
    width = gap / 1024.0
    while gap > _NEGLIGIBLE * total:
        cut = min(width, gap)
        best, complete, more, outside, error = _below(padded, lam, wide_theta, cut, cut, nodes - visited, chosen)
        visited += more
        if outside:
            return Found(kept, gap, proven, visited, True)
        if best < cut:
            kept, gap = chosen[:number].copy(), best
        if not complete:
            return Found(kept, gap, proven, visited)
        proven = best * (1.0 - error)
        if best < cut or width >= gap:
            break
        width *= 4.0
    return Found(kept, gap, proven, visited)


def solve(groups: Groups, nodes: int = NODES) -> tuple[NDArray[np.float64], NDArray[np.float64], Found]:
    """Return multipliers, thresholds and the best choice; a MILP takes over where the search is too long."""
    from .knapsack_core import core_choice
    from .knapsack_dual import multipliers, thresholds_at

    lam = multipliers(groups)
    theta = thresholds_at(groups, lam)
    if (theta < groups.floor).any() or (theta >= groups.ceiling).any():
        kept = np.maximum(groups.base, groups.low)
        return lam, theta, Found(kept, np.inf, 0.0, 0, True)
    owner = np.repeat(np.arange(groups.base.size), np.diff(groups.start))
    total = float(lam @ groups.limits) + float(np.maximum(groups.values - theta[owner], 0.0).sum())
    found = _search_merged(groups, lam, theta, total, nodes) or search(groups, lam, theta, total, nodes)
    if not found.outside and found.proven < found.gap * (1.0 - 1e-6) and found.gap > _NEGLIGIBLE * total:
        better = core_choice(groups, lam, theta, found.gap)
        if better is not None:
            gap = gap_of(groups, better, lam, theta)
            if gap < found.gap:
                found = found._replace(counts=better, gap=gap)
    return lam, theta, found


def _search_merged(
    groups: Groups, lam: NDArray[np.float64], theta: NDArray[np.float64], total: float, nodes: int
) -> Found | None:
    """Search with groups of equal costs put together whose own bounds do not cut the dual off.

    That forgets their bounds, which rarely matter within the windows. Where the best choice of all respects them after
    all, it is the best one; else nothing is returned.
    """
    free = theta == groups.costs @ lam
    keys = [(groups.costs[g].tobytes(), -1 if free[g] else g) for g in range(theta.size)]
    parts = [[g for g, key in enumerate(keys) if key == wanted] for wanted in dict.fromkeys(keys)]
    if len(parts) == theta.size:
        return None

    def items(g: int) -> NDArray[np.float64]:
        return groups.values[groups.start[g] : groups.start[g + 1]]

    values = [np.sort(np.concatenate([items(g) for g in part]))[::-1] for part in parts]
    base = np.array([groups.base[part].sum() for part in parts], np.int64)
    merged = groups._replace(
        values=np.concatenate(values),
        cum=np.concatenate([b + np.arange(1, v.size + 1) for b, v in zip(base, values, strict=True)]),
        start=np.concatenate([[0], np.cumsum([v.size for v in values])]).astype(np.int64),
        base=base,
        low=np.array([groups.low[part].sum() for part in parts], np.int64),
        high=np.array([groups.high[part].sum() for part in parts], np.int64),
        floor=np.array([groups.floor[part].max() for part in parts]),
        ceiling=np.array([groups.ceiling[part].min() for part in parts]),
        costs=np.ascontiguousarray(groups.costs[[part[0] for part in parts]]),
    )
    found = search(merged, lam, theta[[part[0] for part in parts]], total, nodes)
    if found.outside:
        return None
    kept = groups.base.copy()
    for part, ordered, count, above in zip(parts, values, found.counts, base, strict=True):
        left = int(count - above)
        last = ordered[left - 1] if left else np.inf
        for g in part:
            own = int(np.searchsorted(-items(g), -last, side="left"))  # larger than the last one kept
            kept[g] += own
            left -= own
        for g in part:
            ties = int(np.searchsorted(-items(g), -last, side="right")) - int(kept[g] - groups.base[g])
            more = max(min(ties, left, int(groups.high[g] - kept[g])), 0)
            kept[g] += more
            left -= more
        if left:
            return None
    within = (kept >= groups.low).all() and (kept <= groups.high).all()
    return found._replace(counts=kept) if within else None
