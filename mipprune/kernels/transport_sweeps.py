"""Midpoint sweeps on the dual of the transportation problem, compiled for the CPU; several small blocks at a time.

Everything is an int32 operation without rounding, so that any other implementation of the same sweeps (torch, Triton)
ends with the same potentials bit for bit.

A potential moves to the middle of the ``count``-th and the next largest score of its line. Where a line keeps nearly as
many entries as it must, these two are next to the potential: one pass that carries along the two nearest scores above
and below finds them, in a fraction of the time of a selection. Lines that are further off are selected one by one, and
where most are, all of them by a network of comparators.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["compiled"]

_LANES = 32  # lines of all blocks treated together: two registers of 16 numbers, or four of 8
_NARROW = 12  # smallest size for which passes are faster than the network
_REACH = 5  # entries too many or too few up to which passes, two entries further each, are faster than the network
_FAR = np.int32(1 << 30)
_SIGN = np.uint32(31)  # place of the bit of the sign
_LAST = np.uint32(0xFFFFFFFF)


_compile = compiled_if_possible()
_inline = compiled_if_possible(inline="always")


@_inline
def _select(table, comparators, lanes):  # type: ignore[no-untyped-def]  # pragma: no cover
    for c in range(comparators.shape[0]):
        a, b = comparators[c, 0], comparators[c, 1]
        first, second = table[a], table[b]
        for lane in range(lanes):
            x, y = first[lane], second[lane]
            first[lane] = max(x, y)
            second[lane] = min(x, y)


@_inline
def _subtract(scores, potential, size, group, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(size):
        row, to = scores[k], out[k]
        for block in range(group):
            shift = potential[block * size + k]
            for lane in range(block * size, block * size + size):
                to[lane] = row[lane] - shift


@_inline
def _count(scores, others, own, size, group, kept):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count what each line keeps."""
    for lane in range(group * size):
        kept[lane] = 0
    whole = size // 4 * 4
    for k in range(0, whole, 4):
        row0, row1, row2, row3 = scores[k], scores[k + 1], scores[k + 2], scores[k + 3]
        for start in range(0, group * size, size):
            at = start + k
            shift0, shift1, shift2, shift3 = others[at], others[at + 1], others[at + 2], others[at + 3]
            for lane in range(start, start + size):
                u = own[lane]
                kept[lane] += np.int32(row0[lane] - shift0 > u) + np.int32(row1[lane] - shift1 > u)
                kept[lane] += np.int32(row2[lane] - shift2 > u) + np.int32(row3[lane] - shift3 > u)
    for k in range(whole, size):
        row = scores[k]
        for start in range(0, group * size, size):
            shift = others[start + k]
            for lane in range(start, start + size):
                kept[lane] += np.int32(row[lane] - shift > own[lane])


@_inline
def _middle(table, count, potential, lanes, step):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Steps to the middle, from a table in which a network has selected."""
    upper, lower = table[count - 1], table[count]
    for lane in range(lanes):
        step[lane] = np.int32((upper[lane] + lower[lane]) >> 1) - potential[lane]


@_inline
def _signs(a, b, c, d):  # type: ignore[no-untyped-def]  # pragma: no cover
    """How many of four numbers without sign stand for negative ones."""
    return np.uint32(a >> _SIGN) + np.uint32(b >> _SIGN) + np.uint32(c >> _SIGN) + np.uint32(d >> _SIGN)


@_inline
def _pass(scores, others, own, size, group, kept, near):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count what each line keeps, and find the two least reduced scores above zero and the two largest others.

    One is taken from each reduced score, and the result read as a number without sign: what is kept comes first, the
    least ahead, and what is not comes after it, the largest last. So the two least and the two largest numbers of a
    line are wanted: those of four entries at a time, merged with those that were found before.
    """
    above, above2, below, below2 = near[0], near[1], near[2], near[3]
    for lane in range(group * size):
        kept[lane] = size
        above[lane] = above2[lane] = _LAST
        below[lane] = below2[lane] = 0
    whole = size // 4 * 4
    for k in range(0, whole, 4):
        row0, row1, row2, row3 = scores[k], scores[k + 1], scores[k + 2], scores[k + 3]
        for start in range(0, group * size, size):
            at = start + k
            shift0, shift1, shift2, shift3 = others[at], others[at + 1], others[at + 2], others[at + 3]
            for lane in range(start, start + size):
                u = np.uint32(own[lane] + 1)
                a = np.uint32(np.uint32(row0[lane] - shift0) - u)
                b = np.uint32(np.uint32(row1[lane] - shift1) - u)
                c = np.uint32(np.uint32(row2[lane] - shift2) - u)
                d = np.uint32(np.uint32(row3[lane] - shift3) - u)
                kept[lane] -= np.int32(_signs(a, b, c, d))
                low, high, low2, high2 = min(a, b), max(a, b), min(c, d), max(c, d)
                inner, inner2 = max(low, low2), min(high, high2)
                low, high, low2, high2 = min(low, low2), max(high, high2), min(inner, inner2), max(inner, inner2)
                above2[lane] = min(max(above[lane], low), min(above2[lane], low2))
                above[lane] = min(above[lane], low)
                below2[lane] = max(min(below[lane], high), max(below2[lane], high2))
                below[lane] = max(below[lane], high)
    for k in range(whole, size):
        row = scores[k]
        for start in range(0, group * size, size):
            shift = others[start + k]
            for lane in range(start, start + size):
                a = np.uint32(np.uint32(row[lane] - shift) - np.uint32(own[lane] + 1))
                kept[lane] -= np.int32(a >> _SIGN)
                above2[lane] = min(max(above[lane], a), above2[lane])
                above[lane] = min(above[lane], a)
                below2[lane] = max(min(below[lane], a), below2[lane])
                below[lane] = max(below[lane], a)


@_inline
def _furthest(kept, count, own, clamp, lanes):  # type: ignore[no-untyped-def]  # pragma: no cover
    """By how many entries a line keeps too many or too few at most; lines that stay at zero do not matter."""
    off = np.int32(0)
    for lane in range(lanes):
        short = max(np.int32(count - kept[lane]), np.int32(0))
        short = np.int32(0) if clamp and own[lane] <= 0 else short
        off = max(off, max(short, np.int32(kept[lane] - count)))
    return off


@_inline
def _recentre(count, lanes, kept, near, centre):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Move the thresholds of lines that are off by two or more past the two nearest scores."""
    above2, below2 = near[1], near[3]
    for lane in range(lanes):
        off = np.int32(kept[lane] - count)
        further = np.int32(np.int32(above2[lane]) + 1) if off > 1 else np.int32(0)
        centre[lane] += np.int32(below2[lane]) if off < -1 else further


@_inline
def _nearest(count, lanes, kept, near, own, centre, step):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Steps to the middle of lines of which at most one score too many or too few is above the threshold."""
    above, above2, below, below2 = near[0], near[1], near[2], near[3]
    for lane in range(lanes):
        more, fewer = kept[lane] > count, kept[lane] < count
        upper = above2[lane] if more else (below[lane] if fewer else above[lane])
        lower = above[lane] if more else (below2[lane] if fewer else below[lane])
        middle = np.int32(np.int32(upper) + np.int32(lower) + 2) >> 1
        step[lane] = middle + centre[lane] - own[lane]


@_inline
def _move(potential, step, lanes, first, relax, clamp):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Move potentials by relaxed steps; where ``clamp``, neither the middle nor what is reached is below zero."""
    for lane in range(lanes):
        u = potential[lane]
        d = max(step[lane], np.int32(-u)) if clamp else step[lane]
        to = np.int32(u + d) if first else np.int32(u + d + (d >> relax))
        potential[lane] = max(to, np.int32(0)) if clamp else to


@_compile
def _balance(u, v, size, number):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Shift the potentials of blocks so that as little as possible is cut off at zero, and cut."""
    for first in range(0, number * size, size):
        least_row, least_column = u[first], v[first]
        for k in range(first, first + size):
            least_row, least_column = min(least_row, u[k]), min(least_column, v[k])
        shift = (least_column - least_row) >> 1
        for k in range(first, first + size):
            u[k], v[k] = max(u[k] + shift, np.int32(0)), max(v[k] - shift, np.int32(0))


@_inline
def _fits(kept, potential, start, size, count, at_most):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Whether all lines of a block keep what they must."""
    wrong = 0
    for lane in range(start, start + size):
        if at_most:
            wrong += (kept[lane] > count) | ((kept[lane] < count) & (potential[lane] > 0))
        else:
            wrong += kept[lane] != count
    return wrong == 0


@cache
def compiled(size: int) -> tuple[Any, int]:
    """Return the kernel for blocks of one size, and how many blocks it treats together."""
    group = max(1, _LANES // size)
    lanes = group * size
    narrow = size >= _NARROW

    @compiled_if_possible()
    def run(  # type: ignore[no-untyped-def]  # pragma: no cover
        codes, count, comparators, first_sweep, eager_at, sweeps, at_most, balance_at, rows, columns, mask, used
    ):
        by_column = np.zeros((size, lanes), np.int32)  # [j, row i of each block]
        by_row = np.zeros((size, lanes), np.int32)  # [i, column j of each block]
        table, near = np.zeros((size, lanes), np.int32), np.zeros((4, lanes), np.uint32)
        kept, across = np.zeros(lanes, np.int32), np.zeros(lanes, np.int32)
        centre, step = np.zeros(lanes, np.int32), np.zeros(lanes, np.int32)
        u, v = np.zeros(lanes, np.int32), np.zeros(lanes, np.int32)
        active = np.zeros(group, np.bool_)
        for first in range(0, codes.shape[0], group):
            number = min(group, codes.shape[0] - first)
            for block in range(number):
                start = block * size
                active[block] = True
                for i in range(size):
                    u[start + i] = rows[first + block, i]
                    v[start + i] = columns[first + block, i]
                    entries = codes[first + block, i]
                    to = by_row[i]
                    for j in range(size):
                        to[start + j] = entries[j]
                    for j in range(size):
                        by_column[j, start + i] = entries[j]
            for block in range(number, group):
                active[block] = False
            left = number
            for sweep in range(first_sweep, sweeps + 1):
                clamp = at_most and sweep >= balance_at
                relax = 2 if sweep < eager_at else 1
                if at_most and sweep == balance_at:
                    _balance(u, v, size, number)
                for side in range(2):
                    scores, own, others = by_column, u, v
                    if side == 1:
                        scores, own, others = by_row, v, u
                    if narrow:
                        _pass(scores, others, own, size, group, kept, near)
                    else:
                        _subtract(scores, others, size, group, table)
                        if side == 0:
                            _count(scores, others, own, size, group, kept)
                    if side == 0:
                        counted = False
                        for block in range(number if clamp or not at_most else 0):
                            start = block * size
                            if active[block] and _fits(kept, u, start, size, count, at_most):
                                if not counted:
                                    _count(by_row, u, v, size, group, across)
                                    counted = True
                                if _fits(across, v, start, size, count, at_most):
                                    active[block] = False
                                    left -= 1
                                    used[first + block] = sweep - first_sweep
                                    for k in range(size):
                                        rows[first + block, k], columns[first + block, k] = u[start + k], v[start + k]
                        if left == 0 or sweep == sweeps:
                            break
                    off = _FAR
                    if narrow and sweep > 0:
                        off = _furthest(kept, count, own, clamp, lanes)
                    if off <= _REACH:
                        for lane in range(lanes):
                            centre[lane] = own[lane]
                        for _ in range(_REACH // 2):
                            if off <= 1:
                                break
                            _recentre(count, lanes, kept, near, centre)
                            _pass(scores, others, centre, size, group, kept, near)
                            off = _furthest(kept, count, own, clamp, lanes)
                    if off <= 1:
                        _nearest(count, lanes, kept, near, own, centre, step)
                    else:
                        if narrow:
                            _subtract(scores, others, size, group, table)
                        _select(table, comparators, lanes)
                        _middle(table, count, own, lanes, step)
                    _move(own, step, lanes, sweep == 0, relax, clamp)
                if left == 0 or sweep == sweeps:
                    break
            for block in range(number):
                at = first + block
                if active[block]:
                    used[at] = sweeps - first_sweep
                    for k in range(size):
                        rows[at, k], columns[at, k] = u[block * size + k], v[block * size + k]
                for i in range(size):
                    entries, out, shift, others = codes[at, i], mask[at, i], rows[at, i], columns[at]
                    for j in range(size):
                        out[j] = entries[j] - shift - others[j] > 0

    return run, group
