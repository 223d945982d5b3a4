"""Midpoint sweeps on the dual of the transportation problem, compiled for the CPU; several small blocks at a time.

Everything is an int32 operation without rounding, so that any other implementation of the same sweeps (torch, Triton)
ends with the same potentials bit for bit.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["compiled"]

_LANES = 32  # rows of all blocks treated together: two registers of 16 numbers, or four of 8
_VECTOR = 8  # numbers in a register at least


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
        for block in range(group):
            shift = potential[block * size + k]
            start = block * size
            for i in range(size):
                out[k, start + i] = scores[k, start + i] - shift


@_inline
def _update(table, count, potential, chosen, lanes, first, relax, clamp):  # type: ignore[no-untyped-def]  # pragma: no cover
    upper, lower = table[count - 1], table[count]
    for lane in range(lanes):
        middle = (upper[lane] + lower[lane]) >> 1
        if clamp:
            middle = max(middle, np.int32(0))
        if not first:
            step = middle - potential[lane]
            middle = potential[lane] + step + (step >> relax)
            if clamp:
                middle = max(middle, np.int32(0))
        potential[lane] = middle if chosen[lane] else potential[lane]


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


@_compile
def _store(u, v, start, rows, columns):  # type: ignore[no-untyped-def]  # pragma: no cover
    for k in range(len(rows)):
        rows[k], columns[k] = u[start + k], v[start + k]


@_inline
def _mark(table, potential, lanes, count, at_most, kept, wrong):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Mark the lines that keep too many or too few."""
    for lane in range(lanes):
        kept[lane] = 0
    for k in range(table.shape[0]):
        entries = table[k]
        for lane in range(lanes):
            kept[lane] += np.int32(1) if entries[lane] > potential[lane] else np.int32(0)
    for lane in range(lanes):
        short = (kept[lane] < count) & ((not at_most) | (potential[lane] > 0))
        wrong[lane] = np.int32(1) if (kept[lane] > count) | short else np.int32(0)


@_compile
def _choose(wrong, size, active, local, lines, moved):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Mark what moves: the wrong lines of a block where they are few, or all; list them unless a whole block moves."""
    found, whole = 0, not local
    for block in range(len(active)):
        start, bad = block * size, 0
        for lane in range(start, start + size):
            bad += wrong[lane]
        if not active[block]:
            bad = 0
        elif not local or bad > size // 4:
            bad, whole = size, True
        moved[block] += bad
        for lane in range(start, start + size):
            if bad == size or bad == 0:
                wrong[lane] = bad > 0
            elif wrong[lane]:
                lines[found] = lane
                found += 1
    return -1 if whole else found


@_compile
def _columns_fit(by_row, u, v, start, size, count, at_most):  # type: ignore[no-untyped-def]  # pragma: no cover
    for j in range(start, start + size):
        kept = 0
        for i in range(size):
            kept += by_row[i, j] - u[start + i] > v[j]
        if kept > count or (kept < count and (not at_most or v[j] > 0)):
            return False
    return True


@cache
def compiled(size: int) -> tuple[Any, int]:
    """Return the kernel for blocks of one size, and how many blocks it treats together."""
    group = max(1, _LANES // size)
    lanes = group * size

    @compiled_if_possible()
    def run(  # type: ignore[no-untyped-def]  # pragma: no cover
        codes,
        count,
        comparators,
        first_sweep,
        local_until,
        sweeps,
        relax,
        at_most,
        balance_at,
        rows,
        columns,
        mask,
        used,
    ):
        by_column = np.zeros((size, lanes), np.int32)  # [j, row i of each block]
        by_row = np.zeros((size, lanes), np.int32)  # [i, column j of each block]
        table = np.zeros((size, lanes), np.int32)
        packed = np.zeros((size, _VECTOR), np.int32)  # lines that move, where only some do
        few, all_of = np.zeros(_VECTOR, np.int32), np.ones(_VECTOR, np.int32)
        kept, wrong = np.zeros(lanes, np.int32), np.zeros(lanes, np.int32)
        lines, moved = np.zeros(lanes, np.int64), np.zeros(group, np.int32)
        u, v = np.zeros(lanes, np.int32), np.zeros(lanes, np.int32)
        active = np.zeros(group, np.bool_)
        for first in range(0, codes.shape[0], group):
            number = min(group, codes.shape[0] - first)
            for block in range(number):
                start = block * size
                active[block] = True
                moved[block] = 0
                for i in range(size):
                    u[start + i] = rows[first + block, i]
                    v[start + i] = columns[first + block, i]
                    for j in range(size):
                        code = codes[first + block, i, j]
                        by_column[j, start + i] = code
                        by_row[i, start + j] = code
            for block in range(number, group):
                active[block] = False
            left = number
            for sweep in range(first_sweep, sweeps + 1):
                clamp = at_most and sweep >= balance_at
                if at_most and sweep == balance_at:
                    _balance(u, v, size, number)
                _subtract(by_column, v, size, group, table)
                _mark(table, u, lanes, count, at_most, kept, wrong)
                for block in range(number if clamp or not at_most else 0):
                    start = block * size
                    bad = 0
                    for lane in range(start, start + size):
                        bad += wrong[lane]
                    if active[block] and bad == 0 and _columns_fit(by_row, u, v, start, size, count, at_most):
                        active[block] = False
                        left -= 1
                        used[first + block] = moved[block]
                        _store(u, v, start, rows[first + block], columns[first + block])
                if left == 0 or sweep == sweeps:
                    break
                for side in range(2):
                    potential = u if side == 0 else v
                    if side == 1:
                        _subtract(by_row, u, size, group, table)
                        if sweep < local_until:
                            _mark(table, v, lanes, count, at_most, kept, wrong)
                    found = _choose(wrong, size, active, sweep < local_until, lines, moved)
                    if found < 0:
                        _select(table, comparators, lanes)
                        _update(table, count, potential, wrong, lanes, sweep == 0, relax, clamp)
                        continue
                    for part in range(0, found, _VECTOR):
                        width = min(_VECTOR, found - part)
                        for place in range(width):
                            few[place] = potential[lines[part + place]]
                        for k in range(size):
                            entries, chosen = table[k], packed[k]
                            for place in range(width):
                                chosen[place] = entries[lines[part + place]]
                        _select(packed, comparators, _VECTOR)
                        _update(packed, count, few, all_of, _VECTOR, False, relax, clamp)
                        for place in range(width):
                            potential[lines[part + place]] = few[place]
            for block in range(number):
                if active[block]:
                    start = block * size
                    used[first + block] = moved[block]
                    _store(u, v, start, rows[first + block], columns[first + block])
                for i in range(size):
                    for j in range(size):
                        reduced = codes[first + block, i, j] - rows[first + block, i] - columns[first + block, j]
                        mask[first + block, i, j] = reduced > 0

    return run, group
