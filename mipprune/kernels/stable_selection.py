"""Choosing at most so many items with the largest sum of gains, whose whole-number weights reach a least sum.

A knapsack with a count. The weights are whole numbers, so a dynamic program over (items left, weight still needed) is
exact; a Lagrange multiplier on the weight removes almost all items beforehand.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

__all__ = ["largest_sum", "rounding"]

Array = np.ndarray[Any, Any]

_UNIT = 2.0**-53
_CELLS = 64 << 20  # of the table of decisions; beyond it the program would not fit into memory
_MANY = 1 << 20  # cells from which looking for dominated items pays


def largest_sum(gain: Array, weight: Array, count: int, least: int) -> Array | None:
    """Return the best choice of at most ``count`` items.

    Parameters
    ----------
    gain : float64 array, shape (n,)
        Finite.
    weight : int64 array, shape (n,)
        >= 0.
    count : int
        Largest number of chosen items.
    least : int
        Least sum of their weights.

    Returns
    -------
    bool array, shape (n,), or None
        The chosen items; ``None`` when no choice is admissible. Sums of gains are compared in float64, so that another
        choice may be better by the rounding of such sums, see :func:`rounding`, and by no more.

    Raises
    ------
    MemoryError
        If multiplier and reduced gains leave a table of more than 64 million cells.
    """
    count = min(count, len(gain))
    plain = _top(gain, count)
    if int(weight[plain].sum()) >= least:
        return plain
    heaviest = _top(weight.astype(np.float64), count)
    if int(weight[heaviest].sum()) < least:
        return None
    multiplier, feasible = _multiplier(gain, weight, count, least, plain, heaviest)
    reduced = gain + multiplier * weight
    order = np.argsort(-reduced, kind="stable")
    value = float(gain[feasible].sum())
    bound = float(np.maximum(reduced[order[:count]], 0.0).sum()) - multiplier * least
    size = float(np.sort(np.abs(gain))[-count:].sum()) + multiplier * (float(weight.max()) * count + least)
    margin = 8.0 * (count + 8) * _UNIT * size
    loss = _losses(reduced, order, count)
    settled = loss > bound - value + 4.0 * margin  # any choice that differs there is worse than a known one
    inside = np.zeros(len(gain), dtype=bool)
    inside[order[:count]] = reduced[order[:count]] > 0
    chosen = inside & settled
    core = np.flatnonzero(~settled)
    best = _program(gain[core], weight[core], count - int(chosen.sum()), least - int(weight[chosen].sum()))
    assert best is not None  # the known choice agrees with what is settled
    chosen[core[best]] = True
    return chosen


def rounding(gain: Array, count: int) -> float:
    """Return by how much sums of at most ``count`` gains may be misjudged; the same for all subsets of the items."""
    if count < len(gain):
        gain = -np.partition(-np.abs(gain), count)[:count]
    return 4.0 * (count + 8) * _UNIT * float(np.abs(gain).sum())


def _top(keys: Array, count: int) -> Array:
    """The positions of the ``count`` largest positive keys, as a mask."""
    chosen = np.zeros(len(keys), dtype=bool)
    if count < len(keys):
        positions = np.argpartition(-keys, count - 1)[:count] if count else np.empty(0, dtype=np.int64)
    else:
        positions = np.arange(len(keys))
    chosen[positions] = keys[positions] > 0
    return chosen


def _multiplier(gain: Array, weight: Array, count: int, least: int, light: Array, heavy: Array) -> tuple[float, Array]:
    """Minimise the Lagrangian bound; return the multiplier and the best admissible choice met on the way.

    The bound is the upper envelope of one line per choice; the crossing of the two active lines is tried until no
    choice lies above it, which ends after finitely many steps.
    """
    best, multiplier = heavy, 0.0
    for _ in range(64):
        worth, more = float(gain[light].sum()), int(weight[heavy].sum()) - int(weight[light].sum())
        multiplier = max((worth - float(gain[heavy].sum())) / more, 0.0)
        found = _top(gain + multiplier * weight, count)
        reached, found_worth = int(weight[found].sum()), float(gain[found].sum())
        if found_worth + multiplier * reached <= worth + multiplier * int(weight[light].sum()):
            break
        if reached >= least:
            heavy = found
            best = found if found_worth > float(gain[best].sum()) else best
        else:
            light = found
    return multiplier, best


def _losses(reduced: Array, order: Array, count: int) -> Array:
    """What forcing an item to the other side costs the Lagrangian bound, for every item."""
    padded = np.append(reduced[order], -np.inf)
    last, next_one = max(float(padded[count - 1]), 0.0) if count else np.inf, max(float(padded[count]), 0.0)
    loss = np.empty(len(reduced))
    loss[order[count:]] = last - reduced[order[count:]]
    first = reduced[order[:count]]
    loss[order[:count]] = np.where(first > 0, first - next_one, -first)
    return loss


def _undominated(gain: Array, weight: Array, count: int) -> Array:
    """The items that fewer than ``count`` others match in gain and weight; some best choice holds no other."""
    largest: list[float] = []
    kept = []
    for item in np.lexsort((-gain, -weight)).tolist() if count else ():
        if len(largest) < count:
            heapq.heappush(largest, gain[item])
        elif gain[item] > largest[0]:
            heapq.heapreplace(largest, gain[item])
        else:
            continue
        kept.append(item)
    return np.array(sorted(kept), dtype=np.int64)


def _program(gain: Array, weight: Array, count: int, least: int) -> Array | None:
    """The best items by dynamic programming over (how many may still be taken, how much weight is still needed)."""
    need = max(least, 0)
    if len(gain) * (count + 1) * (need + 1) > _MANY:
        useful = _undominated(gain, weight, count)
        if len(useful) < len(gain):
            best = _program(gain[useful], weight[useful], count, least)
            if best is None:
                return None
            chosen = np.zeros(len(gain), dtype=bool)
            chosen[useful[best]] = True
            return chosen
    if len(gain) * (count + 1) * (need + 1) > _CELLS:
        raise MemoryError(
            f"{len(gain)} items, {count} to choose, a least weight of {need}: the table of the exact selection would "
            "be too large; divide the weights by a common factor"
        )
    table = np.full((count + 1, need + 1), -np.inf)
    table[:, 0] = 0.0
    taken = np.zeros((len(gain), count + 1, need + 1), dtype=bool)
    for item in range(len(gain)):
        step = min(int(weight[item]), need)
        with_item = np.empty((count, need + 1))
        with_item[:, step:] = table[:-1, : need + 1 - step]
        with_item[:, :step] = table[:-1, :1]  # the need is met by this item alone
        with_item += gain[item]
        better = with_item > table[1:]
        taken[item, 1:] = better
        table[1:] = np.where(better, with_item, table[1:])
    if table[count, need] == -np.inf:
        return None
    chosen = np.zeros(len(gain), dtype=bool)
    left, missing = count, need
    for item in range(len(gain) - 1, -1, -1):
        if taken[item, left, missing]:
            chosen[item] = True
            left, missing = left - 1, max(missing - int(weight[item]), 0)
    return chosen
