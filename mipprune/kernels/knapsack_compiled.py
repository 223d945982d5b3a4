"""Compiled passes over gains in layers; imported when first needed.

Sums add blocks of 128 terms in any order, so that they vectorise, and the block sums with a compensated addition.
"""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible

__all__ = [
    "count_between",
    "excess_pieces",
    "histogram_piece",
    "mark_pieces",
    "near_pieces",
    "survey_pieces",
    "take_between",
    "tie_layer",
]

_compile = compiled_if_possible()
_reorder = compiled_if_possible(fastmath={"reassoc", "contract", "nsz"})
_BLOCK = 128


@_compile
def survey_pieces(gain, starts, stops, first, last, positive, largest, invalid):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count positive and invalid entries of pieces and find the largest."""
    for piece in range(first, last):
        more = 0
        bad = 0
        top = gain[starts[piece]]
        for i in range(starts[piece], stops[piece]):
            x = gain[i]
            more += x > 0.0
            bad += not (x > -np.inf)
            top = x if x > top else top
        positive[piece] = more
        invalid[piece] = bad
        largest[piece] = top


@_reorder
def _block_excess(gain, first, last, theta, width):  # type: ignore[no-untyped-def]  # pragma: no cover
    total = 0.0
    for i in range(first, last):
        total += max(np.float64(gain[i]) - theta, 0.0)
    return total


@_compile
def _block_counts(gain, first, last, theta, width):  # type: ignore[no-untyped-def]  # pragma: no cover
    close = 0
    over = 0
    for i in range(first, last):
        distance = np.float64(gain[i]) - theta
        close += abs(distance) <= width
        over += distance > width
    return close, over


@_compile
def excess_pieces(gain, owner, starts, stops, first, last, theta, width, sums, near, above):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Sum what exceeds the threshold of each piece, and count what is near it and beyond."""
    for piece in range(first, last):
        limit = theta[owner[piece]]
        total, lost = 0.0, 0.0
        close, over = 0, 0
        for block in range(starts[piece], stops[piece], _BLOCK):
            end = min(block + _BLOCK, stops[piece])
            part = _block_excess(gain, block, end, limit, width)
            if width >= 0.0:
                here, beyond = _block_counts(gain, block, end, limit, width)
                close += here
                over += beyond
            raised = total + part  # two-sum: the rounding of the addition is kept apart
            virtual = raised - total
            lost += (total - (raised - virtual)) + (part - virtual)
            total = raised
        sums[piece] = total + lost
        near[piece] = close
        above[piece] = over


@_compile
def near_pieces(gain, owner, starts, stops, theta, width, near, place, values):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Collect the entries near the thresholds, piece after piece."""
    for piece in range(owner.size):
        if near[piece] == 0:
            continue
        limit = theta[owner[piece]]
        at = place[piece]
        for i in range(starts[piece], stops[piece]):
            if abs(np.float64(gain[i]) - limit) <= width:
                values[at] = gain[i]
                at += 1


@_reorder
def _block_mark(gain, first, last, above, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    total = 0.0
    for i in range(first, last):
        x = np.float64(gain[i])
        kept = x > above
        mask[i] = kept
        total += x if kept else 0.0
    return total


@_compile
def mark_pieces(gain, owner, starts, stops, first, last, above, mask, sums):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Mark the entries above the threshold of each piece and sum them."""
    for piece in range(first, last):
        limit = above[owner[piece]]
        total, lost = 0.0, 0.0
        for block in range(starts[piece], stops[piece], _BLOCK):
            part = _block_mark(gain, block, min(block + _BLOCK, stops[piece]), limit, mask)
            raised = total + part
            virtual = raised - total
            lost += (total - (raised - virtual)) + (part - virtual)
            total = raised
        sums[piece] = total + lost


@_compile
def tie_layer(gain, first, last, value, left, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Mark the first ``left`` entries that equal ``value``; returns how many are still to be marked."""
    for i in range(first, last):
        if left == 0:
            break
        if gain[i] == value:
            mask[i] = True
            left -= 1
    return left


@_compile
def histogram_piece(bits, first, last, offset, shift, counts):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count positive floats, given by their bits, in bins of their leading bits."""
    for i in range(first, last):
        if bits[i] > 0:
            counts[max((bits[i] >> shift) - offset, 0)] += 1


@_compile
def count_between(gain, owner, starts, stops, first, last, floor, ceiling, found):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Count the positive entries of each piece between the floor and the ceiling of its group."""
    for piece in range(first, last):
        g = owner[piece]
        inside = 0
        if g >= 0:
            low, high = floor[g], ceiling[g]
            for i in range(starts[piece], stops[piece]):
                x = np.float64(gain[i])
                inside += (x > 0.0) & (x >= low) & (x < high)
        found[piece] = inside


@_compile
def take_between(gain, owner, starts, stops, first, last, floor, ceiling, found, place, taken):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Copy what :func:`count_between` counted to its place."""
    for piece in range(first, last):
        if found[piece] == 0:
            continue
        low, high = floor[owner[piece]], ceiling[owner[piece]]
        at = place[piece]
        for i in range(starts[piece], stops[piece]):
            x = np.float64(gain[i])
            if (x > 0.0) & (x >= low) & (x < high):
                taken[at] = gain[i]
                at += 1
