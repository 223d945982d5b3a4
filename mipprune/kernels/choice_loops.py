"""The compiled loops of the search over partial choices: extending them, and dropping those that others dominate."""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["extend", "undominated", "undominated_by_few"]


@compiled_if_possible()
def extend(  # type: ignore[no-untyped-def]
    gain, cost, state, gains, added, following, after, offset, multipliers, least, budgets, level, out
):  # pragma: no cover
    """Extend partial choices by every option, unless a bound says that nothing above the level can follow.

    ``after`` (states, rows) holds the largest reduced gains that can follow, ``offset`` (rows,) the price of the
    budgets with the rounding allowance, ``least`` (states, resources) the least costs that must follow. Returns how
    many entries of the arrays in ``out`` were filled: parents, options, and upper bounds.
    """
    parents, options, upper = out
    resources = budgets.shape[0]
    rows = offset.shape[0]
    count = 0
    last = 0  # the row that ruled out the one before will probably rule out this one
    for i in range(gain.shape[0]):
        s = state[i]
        for j in range(gains.shape[0]):
            t = following[s, j]
            fits = True
            for r in range(resources):
                if cost[i, r] + added[s, j, r] + least[t, r] > budgets[r]:
                    fits = False
                    break
            if not fits:
                continue
            g = gain[i] + gains[j]
            best = np.inf
            for step in range(rows):
                k = last + step if last + step < rows else last + step - rows
                value = g + after[t, k] + offset[k]
                for r in range(resources):
                    value -= multipliers[k, r] * (cost[i, r] + added[s, j, r])
                if value < best:
                    best = value
                    if best <= level:
                        last = k
                        break
            if best <= level:
                continue
            parents[count] = i
            options[count] = j
            upper[count] = best
            count += 1
    return count


@compiled_if_possible()
def undominated(order, state, cost, rank, ranks, gain, keep):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Mark the partial choices that no other one of the same state beats in gain and in every cost.

    ``order`` sorts by state, costs, and falling gain. With one resource the best gain so far decides; with two, the
    best gain so far at no larger a second cost, kept in a binary indexed tree over the ranks of the second costs.
    """
    resources = cost.shape[1]
    size = order.shape[0]
    tree = np.full(ranks + 1 if resources == 2 else 1, -np.inf)
    stamp = np.full(tree.shape[0], -1)
    best = -np.inf
    for place in range(size):
        i = order[place]
        fresh = place == 0 or state[order[place - 1]] != state[i]
        if resources == 2:
            position = rank[i] + 1
            best = -np.inf
            while position > 0:
                if stamp[position] == state[i] and tree[position] > best:
                    best = tree[position]
                position -= position & -position
        elif fresh:
            best = -np.inf
        keep[i] = gain[i] > best
        if not keep[i]:
            continue
        best = gain[i]
        if resources == 2:
            position = rank[i] + 1
            while position <= ranks:
                if stamp[position] != state[i] or tree[position] < gain[i]:
                    stamp[position] = state[i]
                    tree[position] = gain[i]
                position += position & -position


@compiled_if_possible()
def undominated_by_few(order, state, cost, size, few, keep):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Mark the partial choices that none of the ``few`` cheapest better ones met so far beats, for three costs or more.

    ``order`` sorts by state and falling gain, so that whoever comes earlier beats a later one when none of its costs is
    larger; ``size`` says which ones are cheap. Not all that are dominated are found, which costs room and no more.
    """
    resources = cost.shape[1]
    champions = np.empty(few, np.int64)
    count = 0
    for place in range(order.shape[0]):
        i = order[place]
        if place == 0 or state[order[place - 1]] != state[i]:
            count = 0
        beaten = False
        for c in range(count):
            j = champions[c]
            inside = True
            for r in range(resources):
                if cost[j, r] > cost[i, r]:
                    inside = False
                    break
            if inside:
                beaten = True
                break
        keep[i] = not beaten
        if beaten:
            continue
        if count < few:
            champions[count] = i
            count += 1
        else:
            worst = 0
            for c in range(1, few):
                if size[champions[c]] > size[champions[worst]]:
                    worst = c
            if size[i] < size[champions[worst]]:
                champions[worst] = i
