"""Exact search among the choices whose loss against the Lagrangian dual is small.

With multipliers and one threshold for each group, the dual value exceeds the value of any admissible choice by exactly

    sum over groups of loss_g(k_g)  +  sum over budgets of lambda_r slack_r,       every term >= 0,

where loss_g(k) adds |score - threshold| over the items on the wrong side of the threshold (and, for a group whose
bounds matter, the distance to the bound times what the bound is worth). So a choice that misses the dual by at most D
has every k_g in a window, and the windows are short.
"""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["dive", "windows"]

_compile = compiled_if_possible()


@_compile
def _outward(values, first, last, base, low, high, beneath, beyond, theta, over, under, width, counts, losses, room):  # type: ignore[no-untyped-def]  # pragma: no cover
    """List the counts of one group with a loss of at most ``width``, by increasing loss.

    Sums run outward from the threshold and have non-negative terms only, so that their relative error is small.
    Returns (how many, the longest sum); -1 instead when the window leaves the stored items, -2 when there is no room.
    """
    place, end = first, last
    while place < end:
        middle = (place + end) >> 1
        if values[middle] > theta:
            place = middle + 1
        else:
            end = middle
    found = 0
    longest = 0
    for direction in range(2):  # up from the threshold, then down
        at = place
        distance = 0.0
        steps = 0
        if direction == 1:
            if at == first:
                if base > 0 and beyond < width and base - 1 >= low:
                    return -1, steps
                break
            at -= 1
            distance = values[at] - theta
            steps = 1
        while distance <= width:
            count = at - first + base
            if low <= count <= high:
                loss = distance + over * (high - count) + under * (count - low)
                if loss <= width:
                    if found >= room:
                        return -2, steps
                    counts[found], losses[found] = count, loss
                    found += 1
            if direction == 0:
                if count >= high:
                    break
                if at == last:
                    if distance + beneath < width:
                        return -1, steps
                    break
                distance += theta - values[at]
                at += 1
            else:
                if count <= low:
                    break
                if at == first:
                    if base > 0 and distance + beyond < width:
                        return -1, steps
                    break
                at -= 1
                distance += values[at] - theta
            steps += 1
        longest = max(longest, steps)
    order = np.argsort(losses[:found])
    counts[:found] = counts[:found][order]
    losses[:found] = losses[:found][order]
    return found, longest


@_compile
def windows(values, start, base, low, high, beneath, beyond, theta, over, under, width, room):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the windows of all groups as (counts, losses, positions, longest sum, status).

    ``beneath`` and ``beyond`` say how far from the threshold the items are, at least, that are not stored, below the
    stored ones and above. ``status`` is 0, or 1 when a window leaves the stored items, or 2 when the windows hold more
    than ``room`` counts.
    """
    groups = base.size
    space = 1024
    counts, losses = np.empty(space, np.int64), np.empty(space)
    place = np.zeros(groups + 1, np.int64)
    longest = 0
    for g in range(groups):
        at = place[g]
        while True:
            found, steps = _outward(
                values, start[g], start[g + 1], base[g], low[g], high[g], beneath[g], beyond[g], theta[g], over[g],
                under[g], width, counts[at:], losses[at:], space - at,
            )  # fmt: skip
            if found != -2:
                break
            if space >= room:
                return counts, losses, place, longest, 2
            space = min(4 * space, room)
            more_counts, more_losses = np.empty(space, np.int64), np.empty(space)
            more_counts[:at], more_losses[:at] = counts[:at], losses[:at]
            counts, losses = more_counts, more_losses
        if found == -1:
            return counts, losses, place, longest, 1
        place[g + 1] = at + found
        longest = max(longest, steps)
    return counts, losses, place, longest, 0


@_compile
def _range(left, cost_a, cost_b, lam, best, least, most):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return between which counts of group A some count of B in [least, most] fits and wastes less than ``best``.

    Derived in floating point and widened by the rounding and by one at either end, since every candidate is tested
    exactly afterwards; counts times costs may have 60 bits.
    """
    low, high = -np.inf, np.inf
    for r in range(left.size):
        a, b = float(cost_a[r]), float(cost_b[r])
        room = left[r] - b * least
        room += 1e-15 * (abs(left[r]) + b * abs(least))
        if a > 0.0:
            high = min(high, room / a)
        elif room < 0.0:
            return 1.0, 0.0
        for s in range(left.size):
            if lam[s] <= 0.0:
                continue
            waste = best / lam[s]
            a_s, b_s = float(cost_a[s]), float(cost_b[s])
            need = left[s] - waste - b_s * most
            need -= 1e-15 * (abs(left[s]) + waste + b_s * abs(most))
            if r == 0:
                if a_s > 0.0:
                    low = max(low, need / a_s)
                elif need > 1e-9 * (abs(left[s]) + b_s * abs(most) + waste):
                    return 1.0, 0.0
            if b > 0.0 and b_s > 0.0 and r != s:
                slope = a_s / b_s - a / b
                side = (left[s] - waste) / b_s - left[r] / b
                noise = 1e-12 * (abs(left[s]) / b_s + waste / b_s + abs(left[r]) / b)
                if abs(slope) > 1e-9 * (a_s / b_s + a / b):
                    if slope > 0.0:
                        low = max(low, (side - noise) / slope)
                    else:
                        high = min(high, (side - noise) / slope)
    return low - 1.0, high + 1.0


@_compile
def _by_count(counts, losses, first, last):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the smallest count of a window and its losses by rising count, inf where rounding left a hole."""
    least, most = counts[first], counts[first]
    for i in range(first, last):
        least, most = min(least, counts[i]), max(most, counts[i])
    ordered = np.full(most - least + 1, np.inf)
    for i in range(first, last):
        ordered[counts[i] - least] = losses[i]
    return least, ordered


@_compile
def dive(counts, losses, place, costs, limits, lam, best, nodes, chosen):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Search all choices within the windows for the smallest gap below ``best``.

    Parameters
    ----------
    counts, losses, place : arrays
        As made by :func:`windows`, for at least two groups.
    costs : int64 array, shape (groups, budgets)
    limits : int64 array, shape (budgets,)
    lam : float64 array, shape (budgets,)
    best : float
        Only smaller gaps are of interest.
    nodes : int
        Most nodes to visit.
    chosen : int64 array, shape (groups,)
        Overwritten with the best choice found.

    Returns
    -------
    best : float
        The smallest gap found, or the ``best`` given.
    visited : int
    complete : bool
        Whether every choice with a smaller gap was looked at.
    """
    groups, budgets = costs.shape
    order = np.argsort(place[1:] - place[:-1])
    free = groups - 2
    a, b = order[groups - 2], order[groups - 1]
    for g in range(groups):
        if place[g] == place[g + 1]:
            return best, 0, True
    least_a, loss_a = _by_count(counts, losses, place[a], place[a + 1])
    least_b, loss_b = _by_count(counts, losses, place[b], place[b + 1])
    top_a, top_b = least_a + loss_a.size - 1, least_b + loss_b.size - 1
    # What the groups from a level on use at least and at most, and lose at least.
    fewest = np.zeros((free + 1, budgets), np.int64)
    most = np.zeros((free + 1, budgets), np.int64)
    rest = np.zeros(free + 1)
    rest[free] = losses[place[a]] + losses[place[b]]
    for r in range(budgets):
        fewest[free, r] = costs[a, r] * least_a + costs[b, r] * least_b
        most[free, r] = costs[a, r] * top_a + costs[b, r] * top_b
    for level in range(free - 1, -1, -1):
        g = order[level]
        low, high = counts[place[g]], counts[place[g]]
        for i in range(place[g], place[g + 1]):
            low, high = min(low, counts[i]), max(high, counts[i])
        rest[level] = rest[level + 1] + losses[place[g]]
        for r in range(budgets):
            fewest[level, r] = fewest[level + 1, r] + costs[g, r] * low
            most[level, r] = most[level + 1, r] + costs[g, r] * high
    cursor = np.zeros(free + 1, np.int64)
    spent = np.zeros(free + 1)
    left = np.empty((free + 1, budgets), np.int64)
    left[0] = limits
    if free > 0:
        cursor[0] = place[order[0]]
    visited = 0
    level = 0
    while level >= 0:
        if level == free:
            low, high = _range(left[free], costs[a], costs[b], lam, best - spent[free], least_b, top_b)
            first = least_a if low <= least_a else int(np.ceil(min(low, top_a + 1.0)))
            last = top_a if high >= top_a else int(np.floor(max(high, least_a - 1.0)))
            for k in range(first, last + 1):
                visited += 1
                gap = spent[free] + loss_a[k - least_a]
                if gap >= best:
                    continue
                fill = top_b
                for r in range(budgets):
                    room = left[free, r] - costs[a, r] * k
                    if room < 0:
                        fill = least_b - 1
                    elif costs[b, r] > 0:
                        fill = min(fill, room // costs[b, r])
                if fill < least_b:
                    continue
                gap += loss_b[fill - least_b]
                for r in range(budgets):
                    gap += lam[r] * (left[free, r] - costs[a, r] * k - costs[b, r] * fill)
                if gap < best:
                    best = gap
                    for j in range(free):
                        chosen[order[j]] = counts[cursor[j] - 1]
                    chosen[a], chosen[b] = k, fill
            if visited > nodes:
                return best, visited, False
            level -= 1
            continue
        g = order[level]
        i = cursor[level]
        if i == place[g + 1] or spent[level] + losses[i] + rest[level + 1] >= best:
            level -= 1
            continue
        cursor[level] = i + 1
        visited += 1
        if visited > nodes:
            return best, visited, False
        loss = spent[level] + losses[i]
        floor = loss + rest[level + 1]
        fits = True
        for r in range(budgets):
            remaining = left[level, r] - costs[g, r] * counts[i]
            left[level + 1, r] = remaining
            if remaining < fewest[level + 1, r]:
                fits = False
                break
            floor += lam[r] * max(remaining - most[level + 1, r], 0)
        if fits and floor < best:
            level += 1
            spent[level] = loss
            if level < free:
                cursor[level] = place[order[level]]
    return best, visited, True
