"""Exact completion of nearly optimal masks by shortest augmenting paths, many at once where scores tie.

A block is a transportation problem: each row sends ``count`` units, each column receives as many, an entry carries at
most one. Where at most ``count`` are asked for, a hub takes what a row does not send and feeds what a column lacks, at
no cost. A mask with potentials such that every kept entry has a reduced score >= 0 and every other one <= 0 is optimal
as soon as all nodes balance; each shortest augmenting path keeps the signs and removes one unit of imbalance. Ties
leave many paths of length zero: these are sent depth first before the next search.

Nodes are rows, then columns, then the hub. The functions are compiled as this module is imported, which is when a block
first needs a repair; at module level they can call each other and still be found in numba's cache by the next process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible
from .transport_proof import ROUNDING, admissible, centred, proved, reprice, settled

__all__ = ["repair"]


_compile = compiled_if_possible()


@_compile
def _start(scores, fixed, count, at_most, mask, u, v, spare, excess):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Correct the signs of a mask, and measure the imbalance of each node; ``spare`` is what passes the hub."""
    size = scores.shape[0]
    for node in range(2 * size + 1):
        excess[node], spare[node] = 0, 0
    for i in range(size):
        for j in range(size):
            reduced = scores[i, j] - u[i] - v[j]
            if fixed[i, j] != 0:
                mask[i, j] = fixed[i, j] > 0
            elif reduced > 0.0:
                mask[i, j] = True
            elif reduced < 0.0:
                mask[i, j] = False
            if mask[i, j]:
                excess[i] -= 1
                excess[size + j] += 1
    for k in range(size):
        excess[k] += count
        excess[size + k] -= count
        if at_most and u[k] <= 0.0 and excess[k] > 0:
            spare[k] = excess[k]
        if at_most and v[k] <= 0.0 and excess[size + k] < 0:
            spare[size + k] = -excess[size + k]
        excess[k] -= spare[k]
        excess[size + k] += spare[size + k]
        excess[2 * size] += spare[k] - spare[size + k]


@_compile
def _costs(scores, fixed, mask, u, v, forward, backward):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Lengths of the residual arcs from rows (where not kept) and from columns (where kept); no length is rounding."""
    size = scores.shape[0]
    for i in range(size):
        row, kept, signs, out = scores[i], mask[i], fixed[i], forward[i]
        here, scale = u[i], abs(u[i])
        for j in range(size):
            cost = here + v[j] - row[j]
            cost = -cost if kept[j] else cost
            cost = cost if cost > ROUNDING * (scale + abs(v[j]) + abs(row[j])) else 0.0
            out[j] = cost if signs[j] == 0 else np.inf
        for j in range(size):
            backward[j, i] = out[j] if kept[j] else np.inf
        for j in range(size):
            out[j] = np.inf if kept[j] else out[j]


@_compile
def _send(x, y, size, mask, spare, forward, backward):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Send one unit along an arc."""
    hub = 2 * size
    if x < size and y < hub:
        mask[x, y - size] = True
        forward[x, y - size], backward[y - size, x] = np.inf, 0.0
    elif x < hub and y < size:
        mask[y, x - size] = False
        forward[y, x - size], backward[x - size, y] = 0.0, np.inf
    elif y == hub:
        spare[x] += 1 if x < size else -1
    else:
        spare[y] += 1 if y >= size else -1


@_compile
def _next(x, at_most, forward, backward, u, v, spare, excess, reached, pointer, ahead):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Node at the end of an arc of length zero that leads from ``x`` to a node not yet reached, or -1; ends first."""
    size = forward.shape[0]
    hub = 2 * size
    if x == hub:
        for k in range(pointer[x], hub):
            if not reached[k] and (spare[k] > 0 if k < size else v[k - size] <= 0.0):
                pointer[x] = k
                return k
        pointer[x] = hub
        return -1
    costs, first = (forward[x], size) if x < size else (backward[x - size], 0)
    for k in range(ahead[x], size):
        if costs[k] == 0.0 and excess[first + k] < 0:
            ahead[x] = k
            return first + k
    ahead[x] = size
    for k in range(pointer[x], size):
        if costs[k] == 0.0 and not reached[first + k]:
            pointer[x] = k
            return first + k
    pointer[x] = size
    if at_most and not reached[hub] and (u[x] <= 0.0 if x < size else spare[x] > 0):
        return hub
    return -1


@_compile
def _send_all(at_most, forward, backward, mask, u, v, spare, excess, reached, pointer, ahead, path):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Send units along paths of length zero, depth first, and return how many; a node that led nowhere is left out."""
    size = mask.shape[0]
    nodes = 2 * size + 1 if at_most else 2 * size
    sent = 0
    for node in range(2 * size + 1):
        reached[node], pointer[node], ahead[node] = False, 0, 0
    for source in range(nodes):
        while excess[source] > 0 and not reached[source]:
            path[0], depth = source, 0
            reached[source] = True
            while depth >= 0 and excess[path[depth]] >= 0:
                y = _next(path[depth], at_most, forward, backward, u, v, spare, excess, reached, pointer, ahead)
                depth += 1 if y >= 0 else -1
                if y >= 0:
                    path[depth] = y
                    reached[y] = True
            if depth < 0:
                break
            for k in range(depth):
                _send(path[k], path[k + 1], size, mask, spare, forward, backward)
            for k in range(depth + 1):
                reached[path[k]] = False
            excess[source] -= 1
            excess[path[depth]] += 1
            sent += 1
    return sent


@_compile
def _relax(costs, here, x, distance, waiting, parent):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Shorten distances by the arcs of ``x``; nodes that wait no longer are never farther than ``here``."""
    for k in range(costs.shape[0]):
        length = here + costs[k]
        shorter = length < distance[k]
        distance[k] = length if shorter else distance[k]
        waiting[k] = length if shorter else waiting[k]
        parent[k] = x if shorter else parent[k]


@_compile
def _search(at_most, forward, backward, u, v, spare, excess, distance, waiting, parent):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Dijkstra from all nodes that must send to the nearest that must receive; -1 when none is reached."""
    size = forward.shape[0]
    hub = 2 * size
    nodes = hub + 1 if at_most else hub
    for node in range(hub + 1):
        parent[node] = -1
        distance[node] = 0.0 if node < nodes and excess[node] > 0 else np.inf
        waiting[node] = distance[node]
    while True:
        x, here = -1, np.inf
        for node in range(nodes):
            nearer = waiting[node] < here
            if nearer or (x >= 0 and waiting[node] == here and excess[node] < excess[x]):  # a tie may be the end
                x, here = node, waiting[node]
        if x < 0 or excess[x] < 0:
            return x
        waiting[x] = np.inf
        if x < size:
            _relax(forward[x], here, x, distance[size:hub], waiting[size:hub], parent[size:hub])
            if at_most and here + max(u[x], 0.0) < distance[hub]:
                distance[hub] = waiting[hub] = here + max(u[x], 0.0)
                parent[hub] = x
        elif x < hub:
            _relax(backward[x - size], here, x, distance[:size], waiting[:size], parent[:size])
            if at_most and spare[x] > 0 and here < distance[hub]:  # what passes the hub leaves v at zero
                distance[hub] = waiting[hub] = here
                parent[hub] = x
        else:
            for k in range(size):
                if here + max(v[k], 0.0) < distance[size + k]:
                    distance[size + k] = waiting[size + k] = here + max(v[k], 0.0)
                    parent[size + k] = x
                if spare[k] > 0 and here < distance[k]:
                    distance[k] = waiting[k] = here
                    parent[k] = x


@_compile
def _augment(target, size, mask, u, v, spare, excess, distance, parent, forward, backward):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Shift the potentials of the nodes nearer than the target and send one unit along the path."""
    hub = 2 * size
    far = distance[target]
    back = max(far - distance[hub], 0.0)  # the hub's potential is zero by convention
    for k in range(size):
        u[k] += back - max(far - distance[k], 0.0)
        v[k] += max(far - distance[size + k], 0.0) - back
    node = target
    excess[target] += 1
    while parent[node] >= 0:
        _send(parent[node], node, size, mask, spare, forward, backward)
        node = parent[node]
    excess[node] -= 1


@_compile
def _crowded(sums, count, at_most):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Whether lines keep too many, or too few."""
    wrong = 0
    for k in range(len(sums)):
        wrong += sums[k] > count or (sums[k] < count and not at_most)
    return wrong > 0


@_compile
def _unbalanced(excess):  # type: ignore[no-untyped-def]  # pragma: no cover
    largest = excess[0]
    for node in range(len(excess)):
        largest = max(largest, excess[node])
    return largest > 0


@_compile
def _complete(scores, fixed, count, at_most, mask, u, v, numbers, lengths, arcs, reached):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Make a mask optimal, whatever the potentials; False when no mask is admissible."""
    spare, excess, parent, pointer, ahead, path = numbers
    forward, backward = arcs
    _start(scores, fixed, count, at_most, mask, u, v, spare, excess)
    while _unbalanced(excess):
        _costs(scores, fixed, mask, u, v, forward, backward)
        while _send_all(at_most, forward, backward, mask, u, v, spare, excess, reached, pointer, ahead, path) > 0:
            pass
        if not _unbalanced(excess):
            break
        target = _search(at_most, forward, backward, u, v, spare, excess, lengths[0], lengths[1], parent)
        if target < 0:
            return False
        _augment(target, len(u), mask, u, v, spare, excess, lengths[0], parent, forward, backward)
    return True


@_compile
def _run(scores, codes, base, unit, fixed, count, at_most, mask, rows, columns, feasible):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Repair every block in place; returns how many had to be completed."""
    size = scores.shape[1]
    nodes = 2 * size + 1
    numbers, lengths, reached = np.zeros((6, nodes), np.int64), np.zeros((2, nodes)), np.zeros(nodes, np.bool_)
    arcs, block, free = np.zeros((2, size, size)), np.zeros((size, size)), np.zeros((size, size), np.int8)
    u, v, lines = np.zeros(size), np.zeros(size), np.zeros(2 * size, np.int64)
    completed = 0
    sums, wrong = np.zeros(2 * size, np.int32), np.zeros(2 * size, np.int32)
    for b in range(scores.shape[0]):
        own = fixed[b] if fixed.shape[0] > 0 else free
        feasible[b] = True
        if fixed.shape[0] == 0:
            given = scores[b], count, at_most, mask[b], rows[b], columns[b], sums, wrong
            if settled(*given) or (not _crowded(sums, count, at_most) and centred(*given)):
                continue
        balanced = admissible(own, count, at_most, mask[b], lines)
        if not balanced and codes.shape[0] > 0:
            # Where scores tie, the codes hardly do, and their arithmetic is exact: few paths are missing there.
            for k in range(size):
                for j in range(size):
                    block[k, j] = codes[b, k, j]
                u[k], v[k] = 0.0, 0.0
                if unit[b, 0] > 0.0:
                    u[k] = np.rint((rows[b, k] - base[b, 0]) / unit[b, 0])
                    v[k] = np.rint(columns[b, k] / unit[b, 0])
            completed += 1
            if not _complete(block, own, count, at_most, mask[b], u, v, numbers, lengths, arcs, reached):
                feasible[b] = False
                continue
            for k in range(size):
                rows[b, k], columns[b, k] = base[b, 0] + u[k] * unit[b, 0], v[k] * unit[b, 0]
            balanced = admissible(own, count, at_most, mask[b], lines)
        for k in range(size):
            for j in range(size):
                block[k, j] = scores[b, k, j]
        for attempt in range(2 if balanced else 1):
            for k in range(size):
                u[k], v[k] = rows[b, k], columns[b, k]
                if at_most:
                    u[k], v[k] = max(u[k], 0.0), max(v[k], 0.0)
            # Potentials that prove the mask as they are stay: they are in the middle of where they may be.
            if balanced and attempt == 0:
                if proved(block, own, count, at_most, mask[b], u, v, lines) or reprice(
                    block, own, count, at_most, mask[b], u, v, lines, lengths[0]
                ):
                    break
                continue
            completed += 1
            feasible[b] = _complete(block, own, count, at_most, mask[b], u, v, numbers, lengths, arcs, reached)
        for k in range(size):
            rows[b, k], columns[b, k] = u[k], v[k]
            if at_most:  # below zero is rounding
                rows[b, k], columns[b, k] = max(u[k], 0.0), max(v[k], 0.0)
    return completed


def repair(
    scores: Any,
    codes: tuple[Any, Any, Any] | None,
    fixed: Any,
    count: int,
    at_most: bool,
    mask: Any,
    rows: Any,
    columns: Any,
    feasible: Any,
) -> int:
    """Make masks optimal in place, with potentials that prove it, and return how many times one had to be completed.

    Parameters
    ----------
    scores : (blocks, size, size) array, float32 or float64
    codes : (int32 array like ``scores``, float64 (blocks, 1), float64 (blocks, 1)), optional
        The scores in fixed point without ties, with base and unit (see :mod:`.transport_codes`).
    fixed : int8 array like ``scores``, or with no blocks
        1 where an entry is kept, -1 where it is not, 0 where it is free.
    count : int
        Kept entries of each row and column.
    at_most : bool
        Whether fewer will do.
    mask : bool array like ``scores``
        Any masks, preferably those of the potentials; overwritten.
    rows, columns : (blocks, size) float64 arrays
        Any potentials; overwritten by optimal ones.
    feasible : (blocks,) bool array
        Overwritten: whether the block has an admissible mask at all.

    References
    ----------
    Ahuja, Magnanti, Orlin, "Network Flows", 1993, sections 9.7 and 9.8 (successive shortest paths, primal-dual).
    """
    none = np.empty((0, 1)), np.empty((0, 1))
    values, base, unit = (np.empty((0, *scores.shape[1:]), np.int32), *none) if codes is None else codes
    completed: int = _run(scores, values, base, unit, fixed, count, at_most, mask, rows, columns, feasible)
    return completed
