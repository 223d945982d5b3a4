"""Feasible points of L0 problems from a start: coordinate descent with the true penalty, refits and exchanges.

The objective is ``constant - <b, t> + 1/2 t'Gt + sum over kept of (l0 + l2 t^2)``, kept entries in intervals, at most
``most`` of them. Only rows of G of entries that are kept at some time are needed; a routine that lacks one says which.
"""

from __future__ import annotations

import math

import numpy as np

from .compiling import compiled_if_possible
from .perspective import kept_minimiser

__all__ = ["improve"]

_compiled = compiled_if_possible()
_fast = compiled_if_possible(fastmath={"contract", "reassoc"})


@_fast
def _move(row, c, change):  # type: ignore[no-untyped-def]
    for i in range(c.size):
        c[i] -= change * row[i]


@_compiled
def _decrease(c, curvature, l0, l2, lower, upper):  # type: ignore[no-untyped-def]
    """Best kept value against zero, and what it gains."""
    t = kept_minimiser(0.5 * curvature, -c, l2, lower, upper)
    return t, c * t - (0.5 * curvature + l2) * t * t - l0


@_compiled
def _refit(rows, slot, diagonal, l2, lower, upper, t, c, inside, count, sweeps):  # type: ignore[no-untyped-def]
    """Coordinate descent on the kept entries."""
    for _ in range(sweeps):
        moved = 0.0
        size = 0.0
        for i in range(count):
            j = inside[i]
            old = t[j]
            new = kept_minimiser(0.5 * diagonal[j], -(c[j] + diagonal[j] * old), l2[j], lower[j], upper[j])
            if new != old:
                change = new - old
                row = rows[slot[j]]
                for k in range(count):
                    c[inside[k]] -= change * row[inside[k]]
                t[j] = new
                moved += diagonal[j] * change * change
            size += diagonal[j] * new * new
        if moved <= 1e-14 * size:
            break


@_compiled
def _all(rows, slot, b, t, c, inside, count):  # type: ignore[no-untyped-def]
    c[:] = b
    for i in range(count):
        j = inside[i]
        if t[j] != 0.0:
            _move(rows[slot[j]], c, t[j])


@_compiled
def _value(constant, b, c, t, l0, l2, inside, count):  # type: ignore[no-untyped-def]
    value = constant
    for i in range(count):
        j = inside[i]
        value -= 0.5 * t[j] * (b[j] + c[j])
        if t[j] != 0.0:
            value += l0[j] + l2[j] * t[j] * t[j]
    return value


@_compiled
def improve(  # type: ignore[no-untyped-def]
    rows, slot, b, diagonal, constant, l0, l2, lower, upper, allowed, most, t, c, swaps
):
    """Improve a sparse point in place until no single change helps (and no exchange, ``swaps`` at most).

    Parameters
    ----------
    rows, slot, b, diagonal, constant, l0, l2, lower, upper
        As in :func:`~mipprune.kernels.node_descent.relax`; ``diagonal`` is that of G.
    allowed : bool array, shape (size,)
        Entries that may be kept.
    most : int
    t, c : array, shape (size,)
        Start, with at most ``most`` non-zeros, all allowed; c is workspace.
    swaps : int
        Exchanges at most.

    Returns
    -------
    missing : int
        An entry whose row is needed; call again with it. -1 when done.
    value : float
    """
    size = t.size
    inside = np.empty(size, np.int64)
    count = 0
    for j in range(size):
        if t[j] != 0.0:
            if slot[j] < 0:
                return j, math.inf
            inside[count] = j
            count += 1
    _all(rows, slot, b, t, c, inside, count)
    value = math.inf
    spare = np.empty(size)
    exchanges = 0
    for _ in range(1000):
        _refit(rows, slot, diagonal, l2, lower, upper, t, c, inside, count, 200)
        # The entry that pays least for itself leaves.
        least = 0.0
        worst = -1
        for i in range(count):
            j = inside[i]
            own = c[j] * t[j] + (0.5 * diagonal[j] - l2[j]) * t[j] * t[j] - l0[j]
            if own < least or (t[j] == 0.0 and worst < 0):
                least = min(own, 0.0)
                worst = i
        dropped = worst >= 0
        if dropped:
            t[inside[worst]] = 0.0
            count -= 1
            inside[worst] = inside[count]
        _all(rows, slot, b, t, c, inside, count)
        if dropped:
            continue
        now = _value(constant, b, c, t, l0, l2, inside, count)
        stalled = value < math.inf and not now < value - 1e-13 * abs(value)
        value = now
        if stalled:
            break
        # The best entry to add.
        best = 1e-12 * abs(value)
        into = -1
        out = -1
        if count < most:
            for j in range(size):
                if allowed[j] and t[j] == 0.0 and diagonal[j] > 0.0:
                    gain = _decrease(c[j], diagonal[j], l0[j], l2[j], lower[j], upper[j])[1]
                    if gain > best:
                        best = gain
                        into = j
        if into < 0 and exchanges < swaps:
            for i in range(count):
                k = inside[i]
                spare[:] = c
                _move(rows[slot[k]], spare, -t[k])
                own = spare[k] * t[k] - (0.5 * diagonal[k] + l2[k]) * t[k] * t[k] - l0[k]
                for j in range(size):
                    if allowed[j] and t[j] == 0.0 and diagonal[j] > 0.0:
                        gain = _decrease(spare[j], diagonal[j], l0[j], l2[j], lower[j], upper[j])[1] - own
                        if gain > best:
                            best = gain
                            into = j
                            out = i
            if into >= 0:
                exchanges += 1
        if into < 0:
            break
        if slot[into] < 0:
            return into, value
        if out >= 0:
            k = inside[out]
            _move(rows[slot[k]], c, -t[k])
            t[k] = 0.0
            count -= 1
            inside[out] = inside[count]
        t[into] = _decrease(c[into], diagonal[into], l0[into], l2[into], lower[into], upper[into])[0]
        if t[into] == 0.0:
            break
        _move(rows[slot[into]], c, t[into])
        inside[count] = into
        count += 1
    return -1, value
