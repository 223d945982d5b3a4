"""The best antichain of a forest: one pass over the nodes, with a budget a knapsack on the tree.

A forest is an array of parents (-1 at a root) with an order in which parents come before their children. This module is
imported where it is used, since it compiles at import where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["below", "best", "best_within", "between", "children", "top_down"]


def top_down(parent: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return the nodes with parents before children, int64 (p,); ``None`` when the parents run in a circle."""
    depth = np.zeros(len(parent), dtype=np.int64)
    above = parent.copy()
    for _ in range(len(parent) + 1):
        inside = above >= 0
        if not inside.any():
            return np.argsort(depth, kind="stable")
        depth += inside
        above[inside] = parent[above[inside]]
    return None


def children(parent: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return (start, child): the children of node v are ``child[start[v]:start[v + 1]]``, the roots those of node p."""
    whole = np.where(parent < 0, len(parent), parent)
    start = np.concatenate([[0], np.cumsum(np.bincount(whole, minlength=len(parent) + 1))])
    return start.astype(np.int64), np.argsort(whole, kind="stable").astype(np.int64)


@compiled_if_possible()
def below(parent, order, chosen):  # type: ignore[no-untyped-def]
    """Return which nodes have a chosen proper ancestor, bool (p,)."""
    out = np.zeros(len(parent), dtype=np.bool_)
    for v in order:
        u = parent[v]
        if u >= 0:
            out[v] = out[u] or chosen[u]
    return out


@compiled_if_possible()
def between(parent, order, chosen):  # type: ignore[no-untyped-def]
    """Return which nodes are a proper ancestor or descendant of a chosen one, bool (p,)."""
    out = np.zeros(len(parent), dtype=np.bool_)
    for i in range(len(order) - 1, -1, -1):
        v = order[i]
        u = parent[v]
        if u >= 0 and (out[v] or chosen[v]):
            out[u] = True
    under = np.zeros(len(parent), dtype=np.bool_)
    for v in order:
        u = parent[v]
        if u >= 0:
            under[v] = under[u] or chosen[u]
    return out | under


@compiled_if_possible()
def best(parent, order, gain):  # type: ignore[no-untyped-def]
    """Return (mask, total) of the antichain with the largest sum of gains; a parent is preferred in a tie.

    ``best(v) = max(gain_v, sum of best(children), 0)``, from the leaves up.
    """
    p = len(parent)
    inner = np.zeros(p)
    take = np.zeros(p, dtype=np.bool_)
    total = 0.0
    for i in range(p - 1, -1, -1):
        v = order[i]
        value = inner[v]
        if gain[v] > 0.0 and gain[v] >= value:
            take[v] = True
            value = gain[v]
        u = parent[v]
        if u >= 0:
            inner[u] += value
        else:
            total += value
    mask = np.zeros(p, dtype=np.bool_)
    blocked = np.zeros(p, dtype=np.bool_)
    for v in order:
        u = parent[v]
        blocked[v] = u >= 0 and (blocked[u] or mask[u])
        mask[v] = take[v] and not blocked[v]
    return mask, total


@compiled_if_possible()
def merge(first, second, out, k):  # type: ignore[no-untyped-def]
    """Write the largest ``first[a] + second[b]`` with a + b <= j into ``out[j]``; returns the last useful j."""
    most = min(k, len(first) - 1 + len(second) - 1)
    for j in range(most + 1):
        value = -np.inf
        for b in range(min(j, len(second) - 1) + 1):
            here = first[min(j - b, len(first) - 1)] + second[b]
            if here > value:
                value = here
        out[j] = value
    return most


@compiled_if_possible()
def best_within(parent, order, start, child, gain, k):  # type: ignore[no-untyped-def]
    """Return (mask, total) of the antichain of at most k nodes with the largest sum of gains.

    ``f_v(j) = max(gain_v, max over the ways to share j among the children)``; exact, O(p k) to O(p k^2) operations.
    """
    p = len(parent)
    width = np.zeros(p + 1, dtype=np.int64)  # largest antichain below a node, up to k
    for i in range(p - 1, -1, -1):
        v = order[i]
        width[v] = min(k, max(width[v], 1))
        u = parent[v] if parent[v] >= 0 else p
        width[u] = min(k, width[u] + width[v])
    offset = np.zeros(p + 2, dtype=np.int64)
    for v in range(p + 1):
        offset[v + 1] = offset[v] + width[v] + 1
    table = np.zeros(offset[p + 1])
    one = np.empty(k + 1)
    two = np.empty(k + 1)
    for i in range(p - 1, -2, -1):
        v = order[i] if i >= 0 else p
        one[0] = 0.0
        size = 0
        for c in child[start[v] : start[v + 1]]:
            size = merge(one[: size + 1], table[offset[c] : offset[c + 1]], two, k)
            one, two = two, one
        for j in range(width[v] + 1):
            value = one[min(j, size)]
            if v < p and j > 0 and gain[v] > 0.0 and gain[v] >= value:
                value = gain[v]
            table[offset[v] + j] = value
    mask = np.zeros(p, dtype=np.bool_)
    nodes = np.empty(p + 1, dtype=np.int64)
    shares = np.empty(p + 1, dtype=np.int64)
    nodes[0], shares[0], count = p, min(k, width[p]), 1
    while count > 0:
        count -= 1
        v, j = nodes[count], shares[count]
        j = min(j, width[v])
        value = table[offset[v] + j]
        if j == 0 or value == 0.0:
            continue
        if v < p and gain[v] == value:
            mask[v] = True
            continue
        inside = child[start[v] : start[v + 1]]
        prefix = np.zeros((len(inside) + 1, k + 1))  # the merges again, all kept: their sums repeat exactly
        sizes = np.zeros(len(inside) + 1, dtype=np.int64)
        for n in range(len(inside)):
            c = inside[n]
            sizes[n + 1] = merge(prefix[n, : sizes[n] + 1], table[offset[c] : offset[c + 1]], prefix[n + 1], k)
        for n in range(len(inside) - 1, -1, -1):
            c = inside[n]
            j = min(j, sizes[n + 1])
            for b in range(min(j, width[c]) + 1):
                if prefix[n, min(j - b, sizes[n])] + table[offset[c] + b] == prefix[n + 1, j]:
                    nodes[count], shares[count] = c, b
                    count += 1
                    j -= b
                    break
    return mask, table[offset[p] + min(k, width[p])]
