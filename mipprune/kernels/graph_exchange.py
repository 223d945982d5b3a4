"""Exchanging and adding pairs of a graphical model, row by row, by closed-form decreases at the diagonal at hand.

Of each row only the nodes on a list are looked at: all of them in small graphs, the most correlated ones in large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .compiling import compiled_if_possible
from .graph_appraisal import Penalties
from .pairs import pair_index, pattern_of, split_pairs
from .perspective import sparse_minimiser

__all__ = ["ALL", "exchange", "nearest"]

Array = np.ndarray[Any, Any]

_compile = compiled_if_possible()
_ROOM = 64  # places that a row may gain in one pass
ALL = 512
"""Nodes up to which every pair is looked at."""
_NEAR = 2.0  # beyond, so many square roots of their number for each
_PIECE = 1 << 24  # numbers in one block of rows


@_compile
def _place(i, j, p):  # type: ignore[no-untyped-def]
    low, high = min(i, j), max(i, j)
    return low * (2 * p - low - 1) // 2 + high - low - 1


@_compile
def _product(matrix, row, count, others, value, i):  # type: ignore[no-untyped-def]
    total = 0.0
    for k in range(count[i]):
        total += matrix[row, others[i, k]] * value[i, k]
    return total


@_compile
def _set(i, j, new, count, others, value):  # type: ignore[no-untyped-def]
    """Store ``V_ij = new`` in row i; return False when there is no room."""
    for k in range(count[i]):
        if others[i, k] == j:
            value[i, k] = new
            return True
    if count[i] >= others.shape[1]:
        return False
    others[i, count[i]] = j
    value[i, count[i]] = new
    count[i] += 1
    return True


@_compile
def _drop(i, j, count, others, value):  # type: ignore[no-untyped-def]
    for k in range(count[i]):
        if others[i, k] == j:
            count[i] -= 1
            others[i, k] = others[i, count[i]]
            value[i, k] = value[i, count[i]]
            return


@_compile
def _best(matrix, i, near, own, count, others, value, theta, price, ridge, lower, upper, steps):  # type: ignore[no-untyped-def]
    """Return (decrease, j, value) of the best pair of row i that is zero; ``own`` is ``(S V)_ji`` for j in ``near``."""
    p = len(theta)
    best, where, what = 0.0, -1, 0.0
    for place in range(len(near)):
        j = near[place]
        taken = False
        for k in range(count[i]):
            if others[i, k] == j:
                taken = True
                break
        if taken:
            continue
        q = _place(i, j, p)
        a = matrix[j, j] / theta[i] + matrix[i, i] / theta[j]
        across = _product(matrix, i, count, others, value, j)
        b = 4.0 * matrix[i, j] + 2.0 * own[place] / theta[i] + 2.0 * across / theta[j]
        t, decrease = sparse_minimiser(
            a, b, price[q * steps[0]], ridge[q * steps[1]], lower[q * steps[2]], upper[q * steps[3]]
        )
        if decrease > best:
            best, where, what = decrease, j, t
    return best, where, what


@_compile
def _refresh(matrix, i, count, others, value, theta):  # type: ignore[no-untyped-def]
    q = 0.0
    for k in range(count[i]):
        q += value[i, k] * _product(matrix, others[i, k], count, others, value, i)
    theta[i] = (1.0 + np.sqrt(1.0 + 4.0 * matrix[i, i] * max(q, 0.0))) / (2.0 * matrix[i, i])


@_compile
def _columns(matrix, i, near, count, others, value, own):  # type: ignore[no-untyped-def]
    for place in range(len(near)):
        own[place] = 0.0
    for k in range(count[i]):
        for place in range(len(near)):
            own[place] += matrix[others[i, k], near[place]] * value[i, k]


@_compile
def _pass(matrix, start, listed, count, others, value, theta, price, ridge, lower, upper, least):  # type: ignore[no-untyped-def]
    """Go through all rows once: add the best missing pairs, then exchange. Return the number of changes."""
    p = len(theta)
    steps = (min(len(price) - 1, 1), min(len(ridge) - 1, 1), min(len(lower) - 1, 1), min(len(upper) - 1, 1))
    own = np.empty(p)
    changes = 0
    for i in range(p):
        near = listed[start[i] : start[i + 1]]
        for _ in range(4):
            _columns(matrix, i, near, count, others, value, own)
            gain, j, t = _best(matrix, i, near, own, count, others, value, theta, price, ridge, lower, upper, steps)
            if gain <= least or count[i] >= others.shape[1] or count[j] >= others.shape[1]:
                break
            _set(i, j, t, count, others, value)
            _set(j, i, t, count, others, value)
            _refresh(matrix, i, count, others, value, theta)
            _refresh(matrix, j, count, others, value, theta)
            changes += 1
        for k in range(count[i]):
            if k >= count[i]:
                break
            j, old = others[i, k], value[i, k]
            _columns(matrix, i, near, count, others, value, own)
            for place in range(len(near)):
                own[place] -= matrix[j, near[place]] * old
            a = matrix[j, j] / theta[i] + matrix[i, i] / theta[j]
            across = _product(matrix, i, count, others, value, j) - matrix[i, i] * old
            left = _product(matrix, j, count, others, value, i) - matrix[j, j] * old
            b = 4.0 * matrix[i, j] + 2.0 * left / theta[i] + 2.0 * across / theta[j]
            q = _place(i, j, p)
            bend, cost = ridge[q * steps[1]], price[q * steps[0]]
            kept = -((a + bend) * old * old + b * old) - cost  # decrease that the pair is worth at its value
            gain, other, t = _best(matrix, i, near, own, count, others, value, theta, price, ridge, lower, upper, steps)
            if gain <= max(kept, 0.0) + least or count[other] >= others.shape[1]:
                continue
            _drop(i, j, count, others, value)
            _drop(j, i, count, others, value)
            _set(i, other, t, count, others, value)
            _set(other, i, t, count, others, value)
            for node in (i, j, other):
                _refresh(matrix, node, count, others, value, theta)
            changes += 1
    return changes


def nearest(matrix: Array) -> tuple[Array, Array]:
    """Return for each node the others on its list, as (starts, nodes): all, or the most correlated of a large graph."""
    p = len(matrix)
    if p <= ALL:
        every = np.tile(np.arange(p), (p, 1))[~np.eye(p, dtype=bool)]
        return np.arange(p + 1) * (p - 1), every
    most = min(p - 1, int(_NEAR * np.sqrt(p)))
    tensor = torch.from_numpy(matrix)
    scale = tensor.diagonal().rsqrt()
    nodes = []
    for first in range(0, p, max(1, _PIECE // p)):
        strength = (tensor[first : first + max(1, _PIECE // p)] * scale).abs_()
        strength.diagonal(first).fill_(-1.0)
        nodes.append(strength.topk(most, dim=1).indices.sort(dim=1).values)
    return np.arange(p + 1) * most, torch.cat(nodes).ravel().numpy()


def exchange(
    matrix: Array,
    flat: Array,
    values: Array,
    theta: Array,
    penalties: Penalties,
    near: tuple[Array, Array],
    least: float,
) -> tuple[Array, Array, bool]:
    """Add and exchange pairs in one pass over the rows, ``theta`` included; return them and whether any changed.

    ``near`` is what :func:`nearest` returns, ``least`` the decrease that is worth a change.
    """
    p = len(theta)
    pattern = pattern_of(*split_pairs(flat, p), p)
    count = np.diff(pattern.indptr)
    width = min(int(count.max(initial=0)) + _ROOM, p - 1)
    others, value = np.zeros((p, width), dtype=np.int64), np.zeros((p, width))
    rows = np.repeat(np.arange(p), count)
    place = np.arange(len(rows)) - pattern.indptr[rows]
    others[rows, place], value[rows, place] = pattern.indices, values[pattern.pair]
    changes = _pass(matrix, *near, count, others, value, theta, *penalties, least)
    inside = np.arange(width) < count[:, None]
    i, j = np.nonzero(inside)[0], others[inside]
    upper = i < j
    found = pair_index(i[upper], j[upper], p)
    order = np.argsort(found)
    return found[order], value[inside][upper][order], changes > 0
