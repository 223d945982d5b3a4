"""Masks that are optimal after a few sweeps: what these leave is completed by shortest paths, quickly where few tie.

The last lines that do not balance take the sweeps as long as all others did. A shortest augmenting path costs less than
a sweep and balances two of them; so from the potentials of similar scores two or three sweeps are enough, where the
masks matter and potentials in the middle of where they may be do not.

Compiled as this module is imported, like :mod:`.transport_repair`, which goes on where scores tie, entries are fixed or
lines may keep fewer than ``count``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["complete"]

_LOW = 2.0**-16  # of a unit of the codes: one of the low bits that tell apart what ties
_MOST = 2  # paths for each row, and
_TIED = 4  # paths of length zero beyond which a block is left to the repair, which sends many at once where scores tie


# Without NaN and signed zeros, minima are taken of several numbers at a time; infinity is one of them. All is one
# function with arrays of its own: with arrays that might overlap it takes three times as long.
@compiled_if_possible(fastmath={"nnan", "nsz"})
def _run(values, noise, unit, count, masks, rows, columns, found):  # type: ignore[no-untyped-def]  # pragma: no cover
    size = values.shape[1]
    nodes = 2 * size  # rows, then columns
    scores, forward, backward = np.empty((size, size)), np.empty((size, size)), np.empty((size, size))
    u, v, distance, waiting = np.empty(size), np.empty(size), np.empty(nodes), np.empty(nodes)
    excess, parent = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    for b in range(values.shape[0]):
        mask = masks[b]
        for k in range(size):
            u[k], v[k] = rows[b, k], columns[b, k]
            excess[size + k] = -count
        for i in range(size):
            number = 0
            for j in range(size):
                scores[i, j] = values[b, i, j] + _LOW * unit[b] * noise[i, j]
            for j in range(size):
                reduced = scores[i, j] - u[i] - v[j]
                kept = (reduced > 0.0) | (mask[i, j] & (reduced == 0.0))
                mask[i, j] = kept
                number += kept
                excess[size + j] += kept
            excess[i] = count - number
        missing = 0
        for node in range(nodes):
            missing += max(excess[node], 0)
        found[b] = missing == 0
        if missing == 0 or missing > _MOST * size:
            continue
        for i in range(size):
            for j in range(size):
                # Arcs from rows to entries that are not kept, and back from those that are; the potentials of both ends
                # make these numbers lengths >= 0.
                score, kept = scores[i, j], mask[i, j]
                forward[i, j] = np.inf if kept else -score
                backward[j, i] = score if kept else np.inf
        tied = 0
        while missing > 0 and tied < _TIED:
            for node in range(nodes):
                distance[node] = waiting[node] = 0.0 if excess[node] > 0 else np.inf
                parent[node] = -1
            far, x = 0.0, 0
            while far < np.inf:  # Dijkstra, from all lines that must send to the nearest that must receive
                far, x = np.inf, 0
                for node in range(nodes):
                    far = min(far, waiting[node])
                while waiting[x] != far and x < nodes - 1:
                    x += 1
                if excess[x] < 0:
                    break
                waiting[x] = np.inf
                if x < size:
                    own, arcs = u[x], forward[x]
                    for k in range(size):
                        length = far + max(own + v[k] + arcs[k], 0.0)
                        shorter = length < distance[size + k]
                        distance[size + k] = length if shorter else distance[size + k]
                        waiting[size + k] = length if shorter else waiting[size + k]
                        parent[size + k] = x if shorter else parent[size + k]
                else:
                    own, arcs = -v[x - size], backward[x - size]
                    for k in range(size):
                        length = far + max(own - u[k] + arcs[k], 0.0)
                        shorter = length < distance[k]
                        distance[k] = length if shorter else distance[k]
                        waiting[k] = length if shorter else waiting[k]
                        parent[k] = x if shorter else parent[k]
            if far == np.inf:
                break
            for k in range(size):
                u[k] -= max(far - distance[k], 0.0)
                v[k] += max(far - distance[size + k], 0.0)
            excess[x] += 1
            while parent[x] >= 0:
                y, x = x, parent[x]
                i, j = (x, y - size) if x < size else (y, x - size)
                kept = x < size
                mask[i, j] = kept
                forward[i, j] = np.inf if kept else -scores[i, j]
                backward[j, i] = scores[i, j] if kept else np.inf
            excess[x] -= 1
            missing -= 1
            tied += far == 0.0
        found[b] = missing == 0
        for k in range(size if missing == 0 else 0):
            rows[b, k], columns[b, k] = u[k], v[k]


def complete(scores: Any, noise: Any, unit: Any, count: int, mask: Any, rows: Any, columns: Any, found: Any) -> None:
    """Make masks optimal in place from potentials that leave little to do.

    Parameters
    ----------
    scores : array (blocks, size, size), float32 or float64
    noise, unit : int32 array (size, size), float64 array (blocks,)
        Low bits and units of the codes of the sweeps (see :mod:`.transport_codes`). What ties, or differs by less than
        2^-36 of the range of a block, is settled by the low bits as it is by the sweeps.
    count : int
        Kept entries of each row and column, 0 < count < size.
    mask : bool array like ``scores``
        Overwritten: entries with positive reduced scores and, of those with none, the ones given; then what the paths
        change.
    rows, columns : float64 arrays (blocks, size)
        Potentials; overwritten by optimal ones.
    found : bool array (blocks,)
        Overwritten: whether the mask is optimal. Where too much is missing it is no mask to use, and the potentials are
        as they were.

    References
    ----------
    Ahuja, Magnanti, Orlin, "Network Flows", 1993, section 9.7 (successive shortest paths).
    """
    _run(scores, noise, unit, count, mask, rows, columns, found)
