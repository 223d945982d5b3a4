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
def _update(table, count, potential, lanes, first, relax, clamp):  # type: ignore[no-untyped-def]  # pragma: no cover
    upper, lower = table[count - 1], table[count]
    for lane in range(lanes):
        middle = (upper[lane] + lower[lane]) >> 1
        if clamp:
            middle = max(middle, np.int32(0))
        if first:
            potential[lane] = middle
        else:
            step = middle - potential[lane]
            moved = potential[lane] + step + (step >> relax)
            potential[lane] = max(moved, np.int32(0)) if clamp else moved


@_inline
def _fits(table, potential, start, size, count, at_most):  # type: ignore[no-untyped-def]  # pragma: no cover
    for i in range(start, start + size):
        kept = 0
        for k in range(size):
            kept += table[k, i] > potential[i]
        if kept > count or (kept < count and (not at_most or potential[i] > 0)):
            return False
    return True


@cache
def compiled(size: int) -> tuple[Any, int]:
    """Return the kernel for blocks of one size, and how many blocks it treats together."""
    group = max(1, _LANES // size)
    lanes = group * size

    @compiled_if_possible()
    def run(  # type: ignore[no-untyped-def]  # pragma: no cover
        codes, count, comparators, first_sweep, sweeps, relax, at_most, balance_at, rows, columns, mask, used
    ):
        by_column = np.zeros((size, lanes), np.int32)  # [j, row i of each block]
        by_row = np.zeros((size, lanes), np.int32)  # [i, column j of each block]
        table = np.zeros((size, lanes), np.int32)
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
                    for j in range(size):
                        code = codes[first + block, i, j]
                        by_column[j, start + i] = code
                        by_row[i, start + j] = code
            left = number
            for sweep in range(first_sweep, sweeps + 1):
                clamp = at_most and sweep >= balance_at
                if at_most and sweep == balance_at:
                    for block in range(number):
                        part = slice(block * size, (block + 1) * size)
                        shift = (v[part].min() - u[part].min()) >> 1
                        u[part] = np.maximum(u[part] + shift, 0)
                        v[part] = np.maximum(v[part] - shift, 0)
                _subtract(by_column, v, size, group, table)
                if clamp or not at_most:
                    for block in range(number):
                        start = block * size
                        if not active[block] or not _fits(table, u, start, size, count, at_most):
                            continue
                        columns_fit = True
                        for j in range(start, start + size):
                            kept = 0
                            for i in range(size):
                                kept += by_row[i, j] - u[start + i] > v[j]
                            if kept > count or (kept < count and (not at_most or v[j] > 0)):
                                columns_fit = False
                                break
                        if columns_fit:
                            active[block] = False
                            left -= 1
                            used[first + block] = sweep - first_sweep
                            rows[first + block] = u[start : start + size]
                            columns[first + block] = v[start : start + size]
                if left == 0 or sweep == sweeps:
                    break
                _select(table, comparators, lanes)
                _update(table, count, u, lanes, sweep == 0, relax, clamp)
                _subtract(by_row, u, size, group, table)
                _select(table, comparators, lanes)
                _update(table, count, v, lanes, sweep == 0, relax, clamp)
            for block in range(number):
                if active[block]:
                    start = block * size
                    used[first + block] = sweeps - first_sweep
                    rows[first + block] = u[start : start + size]
                    columns[first + block] = v[start : start + size]
                for i in range(size):
                    for j in range(size):
                        reduced = codes[first + block, i, j] - rows[first + block, i] - columns[first + block, j]
                        mask[first + block, i, j] = reduced > 0

    return run, group
