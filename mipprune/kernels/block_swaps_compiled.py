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
_GIVES, _TAKES = 1, 2  # a row can give up an entry that it keeps, and take one that it prunes; of nothing both

_compile = compiled_if_possible(**FAST)


@_compile
def _least(change, low, after, owner, able, b, i, k):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Find the least change over rows, whose it is, and the least of the others."""
    best, second, own = np.inf, np.inf, -1
    for j in range(change.shape[0]):
        if able[b, i, j] & _GIVES and able[b, k, j] & _TAKES:  # few; the rest need not be fetched
            new = change[j, b, i, k]
            if new < best:
                best, second, own = new, best, j
            elif new < second:
                second = new
    low[b, i, k] = best
    after[b, i, k] = second
    owner[b, i, k] = own


@_compile
def _appraise(  # type: ignore[no-untyped-def]  # pragma: no cover
    table, pivot, level, slot, on, off, spare, room, size, r, anew, change, low, after, owner, able
):
    """Write down by how much every exchange of row ``r`` would change the value, and keep the least over rows.

    Infinite is what there is none of. The mask of the row has changed in block ``anew`` alone since the last call. The
    other rows are looked at only where this one had the least change and may have it no longer: none of them is below
    ``after``.
    """
    blocks, side = change.shape[1], change.shape[2]
    width = slot.size
    if anew >= 0:
        change[r, anew] = np.inf
        for i in range(side):
            for k in range(side):
                if owner[anew, i, k] == r:
                    _least(change, low, after, owner, able, anew, i, k)
    for b in range(blocks):
        first = b * size
        count = min(size, width - first)
        for i in range(side):
            s, weight, shift, cost = -1, 0.0, 0.0, 0.0  # nothing is given up
            if i < size:
                p = first + i
                if i >= count or slot[p] < 0 or on[p]:
                    continue
                s = slot[p]
                weight = 1.0 / pivot[p]
                shift = level[p] * weight
                cost = level[p] * shift
            elif spare[b] <= 0:
                continue
            for k in range(side):
                q = first + k
                if k == size:
                    if i == size or spare[b] >= room[b]:
                        continue
                    new = cost
                elif k >= count or slot[q] >= 0 or off[q]:
                    continue
                else:
                    here = table[q, s] if s >= 0 else 0.0
                    moved = level[q] + here * shift
                    schur = pivot[q] + here * here * weight
                    new = cost - moved * moved / schur if schur > FLAT else np.inf
                change[r, b, i, k] = new
                if owner[b, i, k] == r:
                    low[b, i, k] = new
                    if new > after[b, i, k]:
                        _least(change, low, after, owner, able, b, i, k)
                elif new < low[b, i, k]:
                    after[b, i, k] = low[b, i, k]
                    low[b, i, k] = new
                    owner[b, i, k] = r
                elif new < after[b, i, k]:
                    after[b, i, k] = new


@_compile
def _best_cycle(low, give, take, open_lines):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return (change, block, p, q) of the best cycle; ``give`` and ``take`` say what the row of nothing can do."""
    blocks, side, _ = low.shape
    best, block, p, q = 0.0, -1, -1, -1
    for b in range(blocks):
        for i in range(side):
            for k in range(i + 1, side):
                there, back = low[b, i, k], low[b, k, i]
                if open_lines:
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
    change, low = np.full((rows, blocks, side, side), np.inf), np.full((blocks, side, side), np.inf)
    after, owner = np.full((blocks, side, side), np.inf), np.full((blocks, side, side), -1, np.int16)
    able = np.full((blocks, side, rows), _GIVES | _TAKES, np.int8)
    for r in range(rows):
        for p in range(width):
            able[p // size, p % size, r] = _GIVES if slot[r, p] >= 0 else _TAKES
    work = np.empty((3, slots))
    if open_lines:
        _open_lines(slot, count, size, at_most, give, take, spare, room)
    for r in range(rows):
        own = table[r], pivot[r], level[r], slot[r], on[r], off[r], spare[r]
        _appraise(*own, room, size, r, -1, change, low, after, owner, able)
    for made in range(limit):
        best, b, i, k = _best_cycle(low, give, take, open_lines)
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
                mask[r, b * size + out], able[b, out, r] = False, _TAKES
            if r >= 0 and into < size:
                mask[r, b * size + into], able[b, into, r] = True, _GIVES
        if open_lines:
            _open_lines(slot, count, size, at_most, give, take, spare, room)
        for r in (one, other):
            if r >= 0:
                own = table[r], pivot[r], level[r], slot[r], on[r], off[r], spare[r]
                _appraise(*own, room, size, r, b, change, low, after, owner, able)
    return limit
