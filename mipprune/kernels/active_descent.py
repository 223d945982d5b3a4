"""Descent on the few entries of an L0 relaxation that are in use: passes over single ones, steps of all together."""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible
from .perspective import kept_minimiser, relaxed_minimiser

__all__ = ["leap", "sweep"]

_compiled = compiled_if_possible()
_fast = compiled_if_possible(fastmath={"contract", "reassoc"})


@_fast
def sweep(matrix, t, r, shift, l2, lower, upper, kept, sides, count):  # type: ignore[no-untyped-def]
    """One pass over the active entries; returns the decrease of the smooth and separable parts, roughly."""
    moved = 0.0
    for i in range(count):
        curvature = matrix[i, i] - shift[i]
        old = t[i]
        linear = -(r[i] + curvature * old)
        if kept[i]:
            new = kept_minimiser(0.5 * curvature, linear, l2[i], lower[i], upper[i])
        else:
            new = relaxed_minimiser(
                0.5 * curvature,
                linear,
                l2[i],
                lower[i],
                upper[i],
                sides[i, 0],
                sides[i, 1],
                sides[i, 2],
                sides[i, 3],
            )
        if new != old:
            change = new - old
            row = matrix[i]
            for k in range(count):
                r[k] -= change * row[k]
            r[i] += shift[i] * change
            t[i] = new
            moved += curvature * change * change
    return 0.5 * moved


@_compiled
def leap(matrix, t, r, shift, l2, lower, upper, kept, sides, count):  # type: ignore[no-untyped-def]
    """Move the entries inside one piece of their penalty to where all their slopes vanish, as far as the pieces go.

    Passes over single entries crawl where columns are much alike; conjugate gradients do not.
    """
    low, high, bend = np.empty(count), np.empty(count), np.empty(count)
    x, slope, along, image = np.zeros(count), np.zeros(count), np.zeros(count), np.zeros(count)
    inside = np.zeros(count, np.bool_)
    square = 0.0
    for i in range(count):
        if kept[i]:
            low[i], high[i], bend[i], pull = lower[i], upper[i], 2.0 * l2[i], 2.0 * l2[i] * t[i]
        elif t[i] > 0.0:
            if t[i] < sides[i, 0]:
                low[i], high[i], bend[i], pull = 0.0, sides[i, 0], 0.0, sides[i, 1]
            else:
                low[i], high[i], bend[i], pull = sides[i, 0], upper[i], 2.0 * l2[i], 2.0 * l2[i] * t[i]
        elif t[i] < 0.0:
            if -t[i] < sides[i, 2]:
                low[i], high[i], bend[i], pull = -sides[i, 2], 0.0, 0.0, -sides[i, 3]
            else:
                low[i], high[i], bend[i], pull = lower[i], -sides[i, 2], 2.0 * l2[i], 2.0 * l2[i] * t[i]
        else:
            continue
        inside[i] = low[i] < t[i] < high[i]
        if inside[i]:
            slope[i] = r[i] - pull
            along[i] = slope[i]
            square += slope[i] * slope[i]
    goal = 1e-8 * square
    for _ in range(150):
        if square <= goal:
            break
        image[:] = 0.0
        for k in range(count):
            if along[k] != 0.0:
                row = matrix[k]
                weight = along[k]
                for i in range(count):
                    image[i] += weight * row[i]
        stiff = 0.0
        for i in range(count):
            if inside[i]:
                image[i] += (bend[i] - shift[i]) * along[i]
                stiff += image[i] * along[i]
        if not stiff > 0.0:
            break
        step = square / stiff
        new = 0.0
        for i in range(count):
            if inside[i]:
                x[i] += step * along[i]
                slope[i] -= step * image[i]
                new += slope[i] * slope[i]
        for i in range(count):
            along[i] = slope[i] + new / square * along[i] if inside[i] else 0.0
        square = new
    reach = 1.0
    for i in range(count):
        if x[i] > 0.0:
            reach = min(reach, (high[i] - t[i]) / x[i])
        elif x[i] < 0.0:
            reach = min(reach, (low[i] - t[i]) / x[i])
    for k in range(count):
        change = reach * x[k]
        if change != 0.0:
            row = matrix[k]
            for i in range(count):
                r[i] -= change * row[i]
            r[k] += shift[k] * change
            t[k] = min(max(t[k] + change, low[k]), high[k])
