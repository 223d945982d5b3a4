"""The search of :mod:`~mipprune.kernels.block_swaps` for one group of rows, compiled as this module is imported.

Exchanges are numbered by block, entry given up and entry taken, ``side`` of each, of which the last one stands for
nothing where lines are open.
"""

from __future__ import annotations

import numpy as np

from .block_swaps import FLAT
from .compiling import compiled_if_possible
from .swaps_compiled import FAST, exchange, insert, remove

__all__ = ["search"]

_NO_LIMIT = 1 << 30

_compile = compiled_if_possible(**FAST)


@_compile
def _appraise(table, pivot, level, slot, on, off, spare, room, size, change):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write down by how much every exchange of a row would change the value, infinity where there is none."""
    side = change.shape[1]
    width = slot.size
    change[:] = np.inf
    for b in range(change.shape[0]):
        first = b * size
        count = min(size, width - first)
        for i in range(count):
            p = first + i
            if slot[p] < 0 or on[p]:
                continue
            s = slot[p]
            weight = 1.0 / pivot[p]
            shift = level[p] * weight
            cost = level[p] * shift
            if side > size and spare[b] < room[b]:
                change[b, i, size] = cost
            for k in range(count):
                q = first + k
                if slot[q] < 0 and not off[q]:
                    here = table[q, s]
                    moved = level[q] + here * shift
                    schur = pivot[q] + here * here * weight
                    if schur > FLAT:
                        change[b, i, k] = cost - moved * moved / schur
        if side > size and spare[b] > 0:
            for k in range(count):
                q = first + k
                if slot[q] < 0 and not off[q] and pivot[q] > FLAT:
                    change[b, size, k] = -level[q] * level[q] / pivot[q]


@_compile
def _lowest(change, low, owner, one, other):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bring the least change over rows, and whose it is, up to date after two rows have changed."""
    rows, blocks, side, _ = change.shape
    for b in range(blocks):
        for i in range(side):
            for k in range(side):
                if owner[b, i, k] == one or owner[b, i, k] == other:
                    low[b, i, k] = np.inf
                    owner[b, i, k] = -1
                    for r in range(rows):
                        if change[r, b, i, k] < low[b, i, k]:
                            low[b, i, k] = change[r, b, i, k]
                            owner[b, i, k] = r
                else:
                    for r in (one, other):
                        if change[r, b, i, k] < low[b, i, k]:
                            low[b, i, k] = change[r, b, i, k]
                            owner[b, i, k] = r


@_compile
def _best_cycle(low, give, take):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return (change, block, p, q) of the best cycle; ``give`` and ``take`` say what the row of nothing can do."""
    blocks, side, _ = low.shape
    best, block, p, q = 0.0, -1, -1, -1
    for b in range(blocks):
        for i in range(side):
            for k in range(i + 1, side):
                there, back = low[b, i, k], low[b, k, i]
                if there > 0.0 and give[b, i] > 0 and take[b, k] > 0:
                    there = 0.0
                if back > 0.0 and give[b, k] > 0 and take[b, i] > 0:
                    back = 0.0
                if there + back < best:
                    best, block, p, q = there + back, b, i, k
    return best, block, p, q


@_compile
def _open_lines(slot, count, size, at_most, give, take, spare, room):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count what lines are short of (``spare``, and ``give`` of columns) and how much more they may be."""
    rows, width = slot.shape
    give[:] = 0
    take[:] = 0
    for b in range(give.shape[0]):
        first = b * size
        inside = min(size, width - first)
        room[b] = count if at_most else size - inside
        kept = 0
        for r in range(rows):
            spare[r, b] = count
        for i in range(inside):
            give[b, i] = count
            for r in range(rows):
                if slot[r, first + i] >= 0:
                    give[b, i] -= 1
                    spare[r, b] -= 1
                    kept += 1
            take[b, i] = (count if at_most else size - rows) - give[b, i]
        if at_most:
            give[b, size], take[b, size] = _NO_LIMIT, _NO_LIMIT
        else:
            give[b, size] = kept - (inside + rows - size) * count
            take[b, size] = (size - rows) * (size - inside) - give[b, size]


@_compile
def search(  # type: ignore[no-untyped-def]  # pragma: no cover
    gram, table, pivot, level, slot, entry, mask, on, off, count, size, at_most, limit, least
):
    """Make at most ``limit`` exchanges in one group of rows and return how many there were."""
    rows, width, slots = table.shape
    blocks = -(-width // size)
    open_lines = at_most or rows < size or width % size > 0
    side = size + 1 if open_lines else size
    give, take = np.zeros((blocks, side), np.int64), np.zeros((blocks, side), np.int64)
    spare, room = np.zeros((rows, blocks), np.int64), np.zeros(blocks, np.int64)
    change = np.empty((rows, blocks, side, side))
    low, owner = np.empty((blocks, side, side)), np.zeros((blocks, side, side), np.int64)
    work = np.empty((3, slots))
    if open_lines:
        _open_lines(slot, count, size, at_most, give, take, spare, room)
    for r in range(rows):
        _appraise(table[r], pivot[r], level[r], slot[r], on[r], off[r], spare[r], room, size, change[r])
    _lowest(change, low, owner, 0, 0)
    for made in range(limit):
        best, b, i, k = _best_cycle(low, give, take)
        if b < 0 or best > -least:
            return made
        one, other = owner[b, i, k], owner[b, k, i]
        if low[b, i, k] > 0.0 and give[b, i] > 0 and take[b, k] > 0:
            one = -1
        if low[b, k, i] > 0.0 and give[b, k] > 0 and take[b, i] > 0:
            other = -1
        for r, out, into in ((one, i, k), (other, k, i)):
            if r < 0:
                continue
            p, q = b * size + out, b * size + into
            if out < size and into < size:
                exchange(gram, table[r], pivot[r], level[r], slot[r], entry[r], p, q, work)
            elif out < size:
                remove(table[r], pivot[r], level[r], slot[r], entry[r], p, work)
            else:
                s = 0
                while entry[r, s] >= 0:
                    s += 1
                insert(gram, table[r], pivot[r], level[r], slot[r], entry[r], q, s, work)
        for r, out, into in ((one, i, k), (other, k, i)):
            if r >= 0 and out < size:
                mask[r, b * size + out] = False
            if r >= 0 and into < size:
                mask[r, b * size + into] = True
        if open_lines:
            _open_lines(slot, count, size, at_most, give, take, spare, room)
        if one < 0:
            one = other
        if other < 0:
            other = one
        for r in (one, other):
            _appraise(table[r], pivot[r], level[r], slot[r], on[r], off[r], spare[r], room, size, change[r])
        _lowest(change, low, owner, one, other)
    return limit
