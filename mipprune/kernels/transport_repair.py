"""Exact completion of nearly optimal masks by successive shortest paths.

A block is a transportation problem: each row sends ``count`` units, each column receives as many, an entry carries at
most one. Where at most ``count`` are asked for, a hub takes what a row does not send and feeds what a column lacks, at
no cost. A mask with potentials such that every kept entry has a reduced score >= 0 and every other one <= 0 is optimal
as soon as all nodes balance; each shortest augmenting path keeps the signs and removes one unit of imbalance. A mask
that balances already only needs potentials that fit, which are longest paths.

The functions are compiled as this module is imported, which is when a block first needs a repair; at module level they
can call each other and still be found in numba's cache by the next process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["repair"]


_compile = compiled_if_possible()


@compiled_if_possible(inline="always")
def _relax(node, cost, here, x, distance, parent, scanned):  # type: ignore[no-untyped-def]  # pragma: no cover
    if not scanned[node]:
        length = here + max(cost, 0.0)  # a cost below zero is rounding
        if length < distance[node]:
            distance[node] = length
            parent[node] = x


@_compile
def _admissible(fixed, count, at_most, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    size = mask.shape[0]
    for k in range(size):
        row, column = 0, 0
        for j in range(size):
            row += mask[k, j]
            column += mask[j, k]
            if fixed[k, j] != 0 and mask[k, j] != (fixed[k, j] > 0):
                return False
        if row > count or column > count or (not at_most and (row < count or column < count)):
            return False
    return True


@_compile
def _proved(scores, fixed, count, at_most, mask, u, v):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Tell whether the potentials prove an admissible mask optimal as they are."""
    size = scores.shape[0]
    for i in range(size):
        for j in range(size):
            reduced = scores[i, j] - u[i] - v[j]
            if fixed[i, j] == 0 and ((mask[i, j] and reduced < 0.0) or (not mask[i, j] and reduced > 0.0)):
                return False
    if at_most:
        for k in range(size):
            if (u[k] > 0.0 and mask[k].sum() < count) or (v[k] > 0.0 and mask[:, k].sum() < count):
                return False
    return True


@_compile
def _reprice(scores, fixed, count, at_most, mask, u, v, lines):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Raise u (longest paths, Bellman and Ford) until it proves a mask optimal; False when it is not."""
    size = scores.shape[0]
    tolerance = 2.0**-50 * (np.abs(scores).max() + np.abs(u).max() + np.abs(v).max())
    for k in range(size):
        lines[k], lines[size + k] = 0, 0
    for i in range(size):
        for j in range(size):
            lines[i] += mask[i, j]
            lines[size + j] += mask[i, j]
    hub = 0.0
    for _ in range(size + 2):
        settled = True
        for j in range(size):
            top = np.inf
            for i in range(size):
                if mask[i, j] and fixed[i, j] == 0:
                    top = min(top, scores[i, j] - u[i])
            if at_most:
                if lines[size + j] < count:
                    top = min(top, -hub)
                if -top > hub + tolerance:
                    hub = -top
                    settled = False
            if top == np.inf:  # no kept entry limits v[j] from above
                top = v[j]
                for i in range(size):
                    if not mask[i, j] and fixed[i, j] == 0:
                        top = max(top, scores[i, j] - u[i])
            v[j] = top
            for i in range(size):
                if not mask[i, j] and fixed[i, j] == 0 and scores[i, j] - top > u[i] + tolerance:
                    u[i] = scores[i, j] - top
                    settled = False
        if at_most:
            for i in range(size):
                if lines[i] < count and u[i] > hub + tolerance:
                    hub = u[i]
                    settled = False
            for i in range(size):
                if u[i] < hub:
                    settled = settled and u[i] >= hub - tolerance
                    u[i] = hub
        if settled:
            for k in range(size):
                u[k] -= hub
                v[k] += hub
            return True
    return False


@_compile
def _start(scores, fixed, count, at_most, mask, u, v, spare, excess):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Correct the signs of a mask, and measure the imbalance of each node; ``spare`` is what passes the hub."""
    size = scores.shape[0]
    excess[:] = 0
    spare[:] = 0
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
def _search(scores, fixed, at_most, mask, u, v, spare, excess, distance, parent, scanned):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Dijkstra from all nodes that must send to the nearest that must receive; -1 when none is reached."""
    size = scores.shape[0]
    hub = 2 * size
    nodes = hub + 1 if at_most else hub
    for node in range(nodes):
        scanned[node] = False
        parent[node] = -1
        distance[node] = 0.0 if excess[node] > 0 else np.inf
    while True:
        x = -1
        for node in range(nodes):
            if scanned[node]:
                continue
            nearer = x < 0 or distance[node] < distance[x]
            if nearer or (distance[node] == distance[x] and excess[node] < excess[x]):  # a tie may be the end
                x = node
        if x < 0 or distance[x] == np.inf:
            return -1
        if excess[x] < 0:
            return x
        scanned[x] = True
        here = distance[x]
        if x < size:
            for j in range(size):
                if not mask[x, j] and fixed[x, j] == 0:
                    _relax(size + j, u[x] + v[j] - scores[x, j], here, x, distance, parent, scanned)
            if at_most:
                _relax(hub, u[x], here, x, distance, parent, scanned)
        elif x < hub:
            j = x - size
            for i in range(size):
                if mask[i, j] and fixed[i, j] == 0:
                    _relax(i, scores[i, j] - u[i] - v[j], here, x, distance, parent, scanned)
            if at_most and spare[x] > 0:
                _relax(hub, -v[j], here, x, distance, parent, scanned)
        else:
            for k in range(size):
                _relax(size + k, v[k], here, x, distance, parent, scanned)
                if spare[k] > 0:
                    _relax(k, -u[k], here, x, distance, parent, scanned)


@_compile
def _augment(target, size, mask, u, v, spare, excess, distance, parent, scanned):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Shift the potentials of the scanned nodes and send one unit along the path."""
    hub = 2 * size
    far = distance[target]
    for k in range(size):
        if scanned[k]:
            u[k] -= far - distance[k]
        if scanned[size + k]:
            v[k] += far - distance[size + k]
    if scanned[hub]:  # the hub's potential is zero by convention
        shift = far - distance[hub]
        for k in range(size):
            u[k] += shift
            v[k] -= shift
    node = target
    excess[target] += 1
    while parent[node] >= 0:
        x = parent[node]
        if x < size and node < hub:
            mask[x, node - size] = True
        elif x < hub and node < size:
            mask[node, x - size] = False
        elif node == hub:
            spare[x] += 1 if x < size else -1
        else:
            spare[node] += 1 if node >= size else -1
        node = x
    excess[node] -= 1


@_compile
def _run(scores, fixed, count, at_most, mask, rows, columns, feasible):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Repair every block in place; returns the number of augmentations."""
    size = scores.shape[1]
    nodes = 2 * size + 1
    spare, excess, parent = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
    distance, scanned = np.zeros(nodes), np.zeros(nodes, np.bool_)
    block, u, v = np.zeros((size, size)), np.zeros(size), np.zeros(size)
    free = np.zeros((size, size), np.int8)
    paths = 0
    for b in range(scores.shape[0]):
        block[:] = scores[b]
        u[:] = rows[b]
        v[:] = columns[b]
        if at_most:
            u[:] = np.maximum(u, 0.0)
            v[:] = np.maximum(v, 0.0)
        own = fixed[b] if fixed.shape[0] > 0 else free
        feasible[b] = True
        # Potentials that prove the mask as they are stay: in the middle of where they may be is a good place to start.
        if _admissible(own, count, at_most, mask[b]) and (
            _proved(block, own, count, at_most, mask[b], u, v)
            or _reprice(block, own, count, at_most, mask[b], u, v, excess)
        ):
            rows[b] = u
            columns[b] = v
            continue
        u[:] = rows[b]
        v[:] = columns[b]
        if at_most:
            u[:] = np.maximum(u, 0.0)
            v[:] = np.maximum(v, 0.0)
        _start(block, own, count, at_most, mask[b], u, v, spare, excess)
        while excess.max() > 0:
            target = _search(block, own, at_most, mask[b], u, v, spare, excess, distance, parent, scanned)
            if target < 0:
                feasible[b] = False
                break
            _augment(target, size, mask[b], u, v, spare, excess, distance, parent, scanned)
            paths += 1
        rows[b] = u
        columns[b] = v
    return paths


def repair(
    scores: Any, fixed: Any, count: int, at_most: bool, mask: Any, rows: Any, columns: Any, feasible: Any
) -> int:
    """Make masks optimal in place, with potentials that prove it, and return the number of augmenting paths.

    Parameters
    ----------
    scores : (blocks, size, size) array, float32 or float64
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
    Ahuja, Magnanti, Orlin, "Network Flows", 1993, section 9.7 (successive shortest paths).
    """
    paths: int = _run(scores, fixed, count, at_most, mask, rows, columns, feasible)
    return paths
