"""The search of :mod:`~mipprune.kernels.swaps`, compiled, with the updates of a row that other searches share.

The functions are compiled as this module is imported, which is when a search first runs; at module level they can call
each other and still be found in numba's cache by the next process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["FAST", "exchange", "insert", "remove", "search"]

FAST: dict[str, Any] = {"fastmath": {"contract", "reassoc", "nnan", "nsz", "arcp"}}
"""what compilers may do to sums and quotients of these functions"""

_compile = compiled_if_possible(**FAST)

# The row that others are updated by is copied into ``work``, (3, slots), first: as long as it could be one of those,
# nothing is computed several numbers at a time, and an update takes three times as long.


@_compile
def remove(table, pivot, level, slot, entry, p, work):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bring the state of a row to what it is without the kept entry ``p``."""
    width, slots = table.shape
    s = slot[p]
    own = work[0]
    own[:] = table[p]
    inverse = 1.0 / pivot[p]
    ratio = level[p] * inverse
    for i in range(width):
        if i == p:
            continue
        here = table[i, s]
        factor = here * inverse
        if slot[i] >= 0:
            pivot[i] -= here * factor
            level[i] -= here * ratio
        else:
            pivot[i] += here * factor
            level[i] += here * ratio
        row = table[i]
        for c in range(slots):
            row[c] -= factor * own[c]
        row[s] = 0.0
    for c in range(slots):
        table[p, c] = -inverse * own[c]
    table[p, s] = 0.0
    pivot[p] = inverse
    level[p] = ratio
    slot[p] = -1
    entry[s] = -1


@_compile
def insert(gram, table, pivot, level, slot, entry, j, s, work):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bring the state of a row to what it is with the pruned entry ``j`` in the free slot ``s``."""
    width, slots = table.shape
    inner, own = work[0], work[1]
    own[:] = table[j]
    for c in range(slots):
        inner[c] = gram[j, entry[c]] if entry[c] >= 0 else 0.0
    inverse = 1.0 / pivot[j]
    ratio = level[j] * inverse
    for i in range(width):
        if i == j:
            continue
        row = table[i]
        if slot[i] >= 0:
            here = -own[slot[i]]
            factor = here * inverse
            pivot[i] += here * factor
            level[i] += here * ratio
        else:
            here = gram[j, i]
            for c in range(slots):
                here -= row[c] * inner[c]
            factor = here * inverse
            pivot[i] -= here * factor
            level[i] -= here * ratio
        for c in range(slots):
            row[c] -= factor * own[c]
        row[s] = factor
    for c in range(slots):
        table[j, c] = -inverse * own[c]
    table[j, s] = inverse
    pivot[j] = inverse
    level[j] = ratio
    slot[j] = s
    entry[s] = j


@_compile
def exchange(gram, table, pivot, level, slot, entry, p, q, work):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Remove the kept ``p`` and insert the pruned ``q``, in one pass over the table."""
    width, slots = table.shape
    inner, own, old = work[0], work[1], work[2]
    s = slot[p]
    old[:] = table[p]
    inverse = 1.0 / pivot[p]
    ratio = level[p] * inverse
    here = table[q, s]
    for c in range(slots):
        inner[c] = gram[q, entry[c]] if entry[c] >= 0 and c != s else 0.0
        own[c] = table[q, c] - here * inverse * old[c]  # of q, once p has gone
    own[s] = 0.0
    inverse_in = 1.0 / (pivot[q] + here * here * inverse)
    ratio_in = (level[q] + here * ratio) * inverse_in
    lost = 0.0
    for c in range(slots):
        lost += old[c] * inner[c]
    for i in range(width):
        if i in (p, q):
            continue
        row = table[i]
        here = row[s]
        factor = here * inverse
        if slot[i] >= 0:
            there = -own[slot[i]]
            factor_in = there * inverse_in
            pivot[i] += there * factor_in - here * factor
            level[i] += there * ratio_in - here * ratio
        else:
            there = gram[q, i] + factor * lost
            for c in range(slots):
                there -= row[c] * inner[c]
            factor_in = there * inverse_in
            pivot[i] += here * factor - there * factor_in
            level[i] += here * ratio - there * ratio_in
        for c in range(slots):
            row[c] -= factor * old[c] + factor_in * own[c]
        row[s] = factor_in
    there = gram[q, p] + inverse * lost
    for c in range(slots):
        table[p, c] = -inverse * old[c] - there * inverse_in * own[c]
        table[q, c] = -inverse_in * own[c]
    table[p, s] = there * inverse_in
    pivot[p] = inverse - there * there * inverse_in
    level[p] = ratio - there * ratio_in
    table[q, s] = inverse_in
    pivot[q] = inverse_in
    level[q] = ratio_in
    slot[p] = -1
    slot[q] = s
    entry[s] = q


@_compile
def _best_exchange(  # type: ignore[no-untyped-def]  # pragma: no cover
    table, pivot, level, slot, entry, on, off, size, cost, shift, weight
):
    """Return (change of the value, kept entry, pruned entry) of the best exchange within a group."""
    width, slots = table.shape
    for s in range(slots):
        p = entry[s]
        if p >= 0 and not on[p]:
            weight[s] = 1.0 / pivot[p]
            shift[s] = level[p] * weight[s]
            cost[s] = level[p] * shift[s]
        else:
            weight[s] = 0.0
            shift[s] = 0.0
            cost[s] = 1e300
    best = 0.0
    out = -1
    into = -1
    for j in range(width):
        if slot[j] >= 0 or off[j]:
            continue
        row = table[j]
        r = level[j]
        schur = pivot[j]
        if size == width:
            least = 1e300
            for s in range(slots):
                moved = r + row[s] * shift[s]
                change = cost[s] - moved * moved / (schur + row[s] * row[s] * weight[s])
                least = min(least, change)
            if least < best:
                for s in range(slots):
                    moved = r + row[s] * shift[s]
                    change = cost[s] - moved * moved / (schur + row[s] * row[s] * weight[s])
                    if change < best and entry[s] >= 0:
                        best = change
                        out = entry[s]
                        into = j
        else:
            first = j - j % size
            for i in range(first, first + size):
                s = slot[i]
                if s >= 0:
                    moved = r + row[s] * shift[s]
                    change = cost[s] - moved * moved / (schur + row[s] * row[s] * weight[s])
                    if change < best:
                        best = change
                        out = i
                        into = j
    return best, out, into


@_compile
def _best_insertion(pivot, level, slot, off, size, budget, count):  # type: ignore[no-untyped-def]  # pragma: no cover
    best = 0.0
    into = -1
    for j in range(slot.size):
        if slot[j] < 0 and not off[j] and count[j // size] < budget and pivot[j] > 0.0:
            gain = level[j] * level[j] / pivot[j]
            if gain > best:
                best = gain
                into = j
    return best, into


@_compile
def search(  # type: ignore[no-untyped-def]  # pragma: no cover
    gram, table, pivot, level, slot, entry, on, off, size, budget, limit, least, insertions, gains, removals, costs
):
    """Search a batch of rows in place; see :func:`mipprune.kernels.swaps.search`."""
    rows, width, slots = table.shape
    depth = gains.shape[1]
    work = np.empty((3, slots), table.dtype)
    count = np.empty(width // size, np.int64)
    for r in range(rows):
        count[:] = 0
        for i in range(width):
            if slot[r, i] >= 0:
                count[i // size] += 1
        free = 0
        while True:  # groups that are not full
            gain, j = _best_insertion(pivot[r], level[r], slot[r], off[r], size, budget, count)
            while free < slots and entry[r, free] >= 0:
                free += 1
            if j < 0 or gain <= least or free == slots:
                break
            insert(gram, table[r], pivot[r], level[r], slot[r], entry[r], j, free, work)
            count[j // size] += 1
        for _ in range(limit):
            change, p, j = _best_exchange(
                table[r], pivot[r], level[r], slot[r], entry[r], on[r], off[r], size, work[0], work[1], work[2]
            )
            if p < 0 or change > -least:
                break
            exchange(gram, table[r], pivot[r], level[r], slot[r], entry[r], p, j, work)
        if depth == 0:
            continue
        table2, pivot2, level2 = table[r].copy(), pivot[r].copy(), level[r].copy()
        slot2, entry2 = slot[r].copy(), entry[r].copy()
        count[:] = -width  # the layer's budget is not the row's
        for step in range(depth):
            gain, j = _best_insertion(pivot2, level2, slot2, off[r], size, 0, count)
            free = 0
            while free < slots and entry2[free] >= 0:
                free += 1
            if j < 0 or free == slots:
                break
            insertions[r, step] = j
            gains[r, step] = gain
            insert(gram, table2, pivot2, level2, slot2, entry2, j, free, work)
        table2[:] = table[r]
        pivot2[:] = pivot[r]
        level2[:] = level[r]
        slot2[:] = slot[r]
        entry2[:] = entry[r]
        for step in range(depth):
            best = np.inf
            p = -1
            for i in range(width):
                if slot2[i] >= 0 and not on[r, i]:
                    price = level2[i] * level2[i] / pivot2[i]
                    if price < best:
                        best = price
                        p = i
            if p < 0:
                break
            removals[r, step] = p
            costs[r, step] = best
            remove(table2, pivot2, level2, slot2, entry2, p, work)
