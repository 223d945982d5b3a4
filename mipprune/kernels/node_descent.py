"""Relaxations of L0 problems at the nodes of a tree: coordinate descent on an active set, with rows of the Gram matrix.

The smooth part is ``constant - <b, t> + 1/2 t'(G - Diag(shift)) t``; an entry pays the envelope of its L0 penalty when
it is free, its parabola when it is on. A limit on the number of kept entries is priced by a multiplier, which is
searched. The bound of any point needs the correlations ``c = b - (G - Diag(shift)) t`` alone.
"""

from __future__ import annotations

import math

import numpy as np

from .active_descent import leap, sweep
from .compiling import compiled_if_possible
from .perspective import (
    conjugate,
    envelope,
    relaxed_penalty,
    share,
)

__all__ = ["closeness", "correlations", "largest_sum", "relax", "tangent_bound"]

_compiled = compiled_if_possible()
_fast = compiled_if_possible(fastmath={"contract", "reassoc"})
_PATIENCE = 10_000_000_000  # products in one relaxation, some seconds: whoever called then looks at the clock


@_fast
def correlations(rows, slot, b, shift, t, c):  # type: ignore[no-untyped-def]
    """Write ``b - (G - Diag(shift)) t`` into ``c``; return an entry whose row is missing, or -1."""
    size = t.size
    inside = np.empty(size, np.int64)
    count = 0
    for j in range(size):
        if t[j] != 0.0:
            if slot[j] < 0:
                return j
            inside[count] = j
            count += 1
    for first in range(0, size, 1024):  # so that this part of c stays in the nearest cache
        last = min(first + 1024, size)
        c[first:last] = b[first:last]
        for k in range(count):
            weight = t[inside[k]]
            row = rows[slot[inside[k]]]
            for i in range(first, last):
                c[i] -= weight * row[i]
    for k in range(count):
        c[inside[k]] += shift[inside[k]] * t[inside[k]]
    return -1


@_compiled
def largest_sum(values, count, heap):  # type: ignore[no-untyped-def]
    """Return the sum of the ``count`` largest numbers > 0, the smallest of them and the next one (0 where missing).

    ``heap`` has room for count + 1 numbers.
    """
    size = 0
    for value in values:
        if value > 0.0:
            if size <= count:
                place = size
                size += 1
                while place > 0 and heap[(place - 1) // 2] > value:
                    heap[place] = heap[(place - 1) // 2]
                    place = (place - 1) // 2
                heap[place] = value
            elif value > heap[0]:
                place = 0
                while True:
                    child = 2 * place + 1
                    if child >= size:
                        break
                    if child + 1 < size and heap[child + 1] < heap[child]:
                        child += 1
                    if heap[child] >= value:
                        break
                    heap[place] = heap[child]
                    place = child
                heap[place] = value
    total = 0.0
    last = 0.0
    following = 0.0
    if size <= count:
        smallest = math.inf
        for i in range(size):
            total += heap[i]
            smallest = min(smallest, heap[i])
        return total, (smallest if size == count and count > 0 else 0.0), 0.0
    following = heap[0]
    last = math.inf
    for i in range(1, size):
        total += heap[i]
        last = min(last, heap[i])
    return total, last, following


@_compiled
def tangent_bound(constant, b, c, t, fixed, l0, l2, lower, upper, left, gains, work, heap):  # type: ignore[no-untyped-def]
    """Return the bound of the tangent at ``t`` with the last and the following gain; writes the gains.

    ``left`` is how many free entries may be kept; at least the number of free ones when there is no limit.
    """
    total = 0.0
    bend = 0.0
    free = 0
    plain = 0.0
    for j in range(t.size):
        if t[j] != 0.0:
            bend += t[j] * (b[j] - c[j])
        work[j] = 0.0
        if fixed[j] < 0:
            gains[j] = 0.0
            continue
        gain = conjugate(c[j], l2[j], lower[j], upper[j]) - l0[j]
        gains[j] = gain
        if fixed[j] > 0:
            total += gain
        else:
            free += 1
            if gain > 0.0:
                plain += gain
                work[j] = gain
    base = constant - 0.5 * bend - total
    if left >= free:
        return base - plain, 0.0, 0.0
    top, last, following = largest_sum(work, left, heap)
    return base - top, (last if left > 0 else math.inf), following


@_compiled
def closeness(c, fixed, l0, price, l2, lower, upper, out):  # type: ignore[no-untyped-def]
    """Write how near each free entry at zero is to being worth a fraction: above 1 the relaxation wants it."""
    for j in range(c.size):
        out[j] = 0.0
        if fixed[j] == 0:
            _, up_slope, _, down_slope = envelope(l0[j] + price, l2[j], lower[j], upper[j])
            slope, size = (up_slope, c[j]) if c[j] > 0.0 else (down_slope, -c[j])
            out[j] = size / slope if slope > 0.0 else math.inf


@_compiled
def relax(  # type: ignore[no-untyped-def]
    rows, slot, b, shift, constant, fixed, l0, l2, lower, upper, left, price,
    t, c, gains, best, cutoff, accuracy, rounds,
):  # fmt: skip
    """Solve the relaxation of a node until its bound reaches ``cutoff`` or the gap of the relaxation its ``accuracy``.

    Parameters
    ----------
    rows, slot : array (capacity, size), int64 array (size,)
        Rows of G, and where the row of an entry stands (-1: not there).
    b, shift, l0, l2, lower, upper : array, shape (size,)
        Of each entry; the curvature 2 l2 includes ``shift``, which was taken from G.
    constant : float
    fixed : int8 array, shape (size,)
        -1 off, 0 free, 1 on.
    left : int
        How many free entries may be kept.
    price : float
        Where the search of the multiplier of that limit starts.
    t, c, gains, best : array, shape (size,)
        Start (0 where off); on return the point with the best bound, its correlations and gains. ``best`` is workspace.
    cutoff, accuracy : float
    rounds : int
        Of solving on the active set and looking at all entries. A relaxation also ends, unsolved, after so many
        products that it would take seconds.

    Returns
    -------
    missing : int
        An entry whose row is needed to go on; call again with the row. -1 when done.
    bound, value : float
        Of the tangent at t, and of the relaxation.
    price : float
        The multiplier.
    last, following : float
        Of the gains, see :func:`largest_sum`.
    """
    size = t.size
    active = np.empty(size, np.int64)
    place = np.full(size, -1, np.int64)
    count = 0
    free = 0
    for j in range(size):
        if fixed[j] == 0:
            free += 1
        if fixed[j] > 0 or (t[j] != 0.0 and fixed[j] == 0):
            if slot[j] < 0:
                return j, -math.inf, math.inf, price, 0.0, 0.0
            active[count] = j
            place[j] = count
            count += 1
        elif fixed[j] < 0:
            t[j] = 0.0
    limited = left < free
    if not limited:
        price = 0.0
    room = max(2 * count, 32)
    matrix = np.empty((room, room))
    small = np.empty((6, room))
    sides = np.empty((room, 4))
    kept = np.empty(room, np.bool_)
    work = np.empty(size)
    waiting = np.empty(size, np.int64)
    heap = np.empty(max(left, 0) + 2)
    filled = 0
    low, high = 0.0, math.inf
    best[:] = t  # whose tangent, like any other, may overflow and prove nothing
    best_bound = -math.inf
    best_value = math.inf
    best_price = price
    tolerance = max(accuracy, 1e-300)
    slack = 1e-3 if cutoff < math.inf else 0.0
    cutoff = cutoff if cutoff < math.inf else 1e300
    missing = correlations(rows, slot, b, shift, t, c)
    inner = 40
    spent = 0
    strict = 1e-3
    for step in range(rounds):
        # The bound of the present point, and entries that the active set lacks.
        bound, last, following = tangent_bound(constant, b, c, t, fixed, l0, l2, lower, upper, left, gains, work, heap)
        value = constant
        total_share = 0.0
        for i in range(count):
            j = active[i]
            value -= 0.5 * t[j] * (b[j] + c[j])
            if fixed[j] > 0:
                value += l0[j] + l2[j] * t[j] * t[j]
            else:
                up, up_slope, down, down_slope = envelope(l0[j] + price, l2[j], lower[j], upper[j])
                value += relaxed_penalty(t[j], l0[j] + price, l2[j], up, up_slope, down, down_slope)
                total_share += share(t[j], up, down)
        value -= price * left if limited else 0.0
        if bound > best_bound:
            best_bound = bound
            best[:] = t
            best_price = price
            best_value = value
        added = 0
        lacking = 0
        for j in range(size):
            if fixed[j] == 0 and place[j] < 0:
                up, up_slope, down, down_slope = envelope(l0[j] + price, l2[j], lower[j], upper[j])
                work[lacking] = max(c[j] - up_slope, -c[j] - down_slope)
                if work[lacking] > 0.0:
                    waiting[lacking] = j
                    lacking += 1
        # The worst ones only: from a poor point most entries look as if they were needed.
        share_of = max(count, 32)
        threshold = np.partition(work[:lacking], lacking - share_of)[lacking - share_of] if lacking > share_of else 0.0
        for i in range(lacking):
            if work[i] >= threshold:
                j = waiting[i]
                if slot[j] < 0:
                    for k in range(lacking):  # say which ones, so that they come together
                        gains[waiting[k]] = math.inf if work[k] >= threshold else gains[waiting[k]]
                    return j, best_bound, best_value, price, last, following
                active[count] = j
                place[j] = count
                count += 1
                added += 1
        settled = not limited or (price == 0.0 and total_share <= left) or abs(total_share - left) <= 1e-4 * left
        if step > 0 and (
            bound >= cutoff or (added == 0 and settled and value - bound <= max(tolerance, slack * (cutoff - bound)))
        ):
            break
        if count == 0 or step == rounds - 1 or spent > _PATIENCE:
            break
        if limited and step > 0 and not settled:
            if total_share > left:
                low = price
                guess = price * total_share / left if left > 0 else 4.0 * price
                if price == 0.0:
                    guess = max(following, 1e-12 * abs(bound))
            else:
                high = price
                guess = price * max(total_share / left, 0.25)
            if high < math.inf and not low < guess < high:
                guess = math.sqrt(low * high) if low > 0.0 else 0.5 * high
                if low == 0.0 and high < 1e-9 * abs(following):
                    guess = 0.0
            price = guess
        # Descent on the active set.
        if count > room:
            room = 2 * count
            grown = np.empty((room, room))
            grown[:filled, :filled] = matrix[:filled, :filled]
            matrix = grown
            small = np.empty((6, room))
            sides = np.empty((room, 4))
            kept = np.empty(room, np.bool_)
        for i in range(filled, count):
            row = rows[slot[active[i]]]
            for k in range(i + 1):
                matrix[i, k] = row[active[k]]
                matrix[k, i] = matrix[i, k]
        filled = count
        for i in range(count):
            j = active[i]
            small[0, i], small[1, i], small[2, i] = t[j], c[j], shift[j]
            small[3, i], small[4, i], small[5, i] = l2[j], lower[j], upper[j]
            kept[i] = fixed[j] > 0
            sides[i, 0], sides[i, 1], sides[i, 2], sides[i, 3] = envelope(l0[j] + price, l2[j], lower[j], upper[j])
        goal = strict * max(tolerance, slack * (cutoff - bound) if slack > 0.0 else tolerance)
        if added == 0:  # the gap is far more sensitive than the value
            strict *= 0.1
            inner = min(2 * inner, 20000)
        for number in range(inner):
            spent += count * count
            if spent > _PATIENCE:
                break
            moved = sweep(matrix, small[0], small[1], small[2], small[3], small[4], small[5], kept, sides, count)
            if moved <= goal:
                break
            if number % 30 == 29:
                leap(matrix, small[0], small[1], small[2], small[3], small[4], small[5], kept, sides, count)
        for i in range(count):
            t[active[i]] = small[0, i]
        correlations(rows, slot, b, shift, t, c)
    if missing >= 0:
        return missing, -math.inf, math.inf, price, 0.0, 0.0
    t[:] = best
    correlations(rows, slot, b, shift, t, c)
    best_bound, last, following = tangent_bound(constant, b, c, t, fixed, l0, l2, lower, upper, left, gains, work, heap)
    return -1, best_bound, best_value, best_price, last, following
