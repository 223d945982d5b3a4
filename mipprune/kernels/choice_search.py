"""Exact search for the best choice within budgets, and the bound that a finished search proves.

Partial choices are extended variable by variable. One is dropped when a Lagrangian bound of what can follow does not
exceed a given level of gain, or when another with the same state has no smaller gain and no larger cost. When the
search ends without having had to drop others for want of room, no choice within the budgets gains more than the level
or the best one found, whichever is larger: that is a proof, up to a stated rounding, repeated by running it again.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .choice import Array, Choice, minimise_dual

__all__ = ["Best", "Found", "bound", "maximise", "search"]

_BEAM = 2048  # partial choices kept in the search for a first good choice
_WIDE_BEAM = 1 << 15  # and in that for a better one, where the exact search is too large
_SPREAD = (0.0, 0.01, -0.01, 0.03, -0.03, 0.08, -0.08, 0.2, -0.2, 0.5, -0.4)  # relative changes of the best multipliers
_FEW = 64  # partial choices with which others are compared where there are three resources or more
_ROOM = 8  # how many times more extensions than partial choices may be held at once


class Found(NamedTuple):
    """What a search over partial choices found."""

    choice: Array | None
    """the best choice within the budgets, if any was reached"""
    complete: bool
    """whether everything above the level was reached or proven not to exist"""


class Best(NamedTuple):
    """The answer of :func:`maximise`."""

    choice: Array | None
    """``None`` when nothing fits into the budgets, or (``bound`` > -inf) nothing was found that does"""
    multipliers: Array
    """(rows, resources): what the bound rests on"""
    level: float
    """gain above which everything was searched; ``inf`` when the multipliers alone prove the bound"""
    bound: float
    """no choice within the budgets gains more; ``-inf`` when there is none"""


def search(model: Choice, multipliers: Array, level: float, limit: int, *, beam: bool = False) -> Found:
    """Look for the best choice with a gain above ``level``, keeping at most ``limit`` partial choices at a time.

    Parameters
    ----------
    model : Choice
    multipliers : array, shape (rows, resources)
        >= 0. More rows make sharper bounds.
    level : float
        May be -inf.
    limit : int
        When more partial choices are left, the search is not complete.
    beam : bool
        Go on then with those that have the best bounds; otherwise give up.
    """
    from . import choice_loops

    after, least = model.completions(multipliers), model.least_costs()
    offset = multipliers @ model.budgets + model.allowance(multipliers)
    gain, cost = np.zeros(1), np.zeros((1, len(model.budgets)))
    state, complete = np.zeros(1, dtype=np.int64), True
    history: list[tuple[Array, Array]] = []
    for number, step in enumerate(model.steps):
        gains = model.gains[step.variable]
        follow, must = np.ascontiguousarray(after[number + 1].T), np.ascontiguousarray(least[number + 1].T)
        parts: list[tuple[Array, ...]] = []
        chunk, held = max(1, (1 << 20) // len(gains)), 0
        for first in range(0, len(gain), chunk):
            part = slice(first, first + chunk)
            room = len(gain[part]) * len(gains)
            out: tuple[Any, ...] = (np.empty(room, np.int64), np.empty(room, np.int32), np.empty(room))
            count = choice_loops.extend(
                *(gain[part], cost[part], state[part], gains, step.cost, step.following),
                *(follow, offset, multipliers, must, model.budgets, level, out),
            )
            parts.append((out[0][:count] + first, out[1][:count].copy(), out[2][:count].copy()))
            held += count
            if held > _ROOM * limit:
                if not beam:
                    return Found(None, False)
                parts, complete = [_largest(parts, limit)], False
                held = limit
        parents, options, upper = (np.concatenate(column) for column in zip(*parts, strict=True))
        new_gain, new_state = gain[parents] + gains[options], step.following[state[parents], options]
        new_cost = cost[parents] + step.cost[state[parents], options]
        kept = _undominated(new_state, new_cost, new_gain)
        if len(kept) > limit:
            if not beam:
                return Found(None, False)
            kept, complete = kept[_top(upper[kept], limit)], False
        gain, cost, state = new_gain[kept], new_cost[kept], new_state[kept]
        history.append((parents[kept], options[kept]))
        if len(gain) == 0:
            return Found(None, complete)
    place, choice = int(gain.argmax()), np.zeros(len(model.gains), dtype=np.int64)
    for step, (parents, options) in zip(reversed(model.steps), reversed(history), strict=True):
        choice[step.variable], place = options[place], int(parents[place])
    return Found(choice, complete)


def _top(upper: Array, count: int) -> Array:
    """Return the places of the largest entries, in their order."""
    return np.sort(np.argpartition(-upper, count)[:count])


def _largest(parts: list[tuple[Array, ...]], count: int) -> tuple[Array, ...]:
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    top = _top(columns[2], count)
    return tuple(column[top] for column in columns)


def _undominated(state: Array, cost: Array, gain: Array) -> Array:
    """Return the places of the partial choices that no other one dominates."""
    from . import choice_loops

    keep = np.zeros(len(gain), dtype=np.bool_)
    if cost.shape[1] > 2:
        size = (cost / cost.max(axis=0, initial=1.0)).sum(axis=1)
        order = np.lexsort((size, -gain, state))
        choice_loops.undominated_by_few(order, state, cost, size, _FEW, keep)
        return np.flatnonzero(keep)
    order = np.lexsort((-gain, *cost.T[::-1], state))
    rank, ranks = np.zeros(1, dtype=np.int64), 0
    if cost.shape[1] == 2:
        values, rank = np.unique(cost[:, 1], return_inverse=True)
        ranks = len(values)
    choice_loops.undominated(order, state, cost, rank, ranks, gain, keep)
    return np.flatnonzero(keep)


def _spread(multipliers: Array) -> Array:
    """Return the best multipliers, changed a little in each resource and in all, and the others that were met."""
    best = multipliers[0]
    rows = [best * (1.0 + change) for change in _SPREAD]
    if len(best) > 1:
        for r in range(len(best)):
            rows += [best * (1.0 + change * (np.arange(len(best)) == r)) for change in _SPREAD[1:]]
    return np.unique(np.vstack([np.array(rows), multipliers[1:6]]), axis=0)


def bound(model: Choice, multipliers: Array, level: float, limit: int) -> tuple[float, Array | None]:
    """Return an upper bound of the gain of every choice within the budgets, and the choice that the search met, if any.

    Parameters
    ----------
    model : Choice
    multipliers : array, shape (rows, resources)
        >= 0; any will do, good ones prove more.
    level : float
        Gain above which everything is searched; ``inf`` for no search.
    limit : int
        As for :func:`search`. Where it is reached, the multipliers' own bound is returned.
    """
    if bool((model.least_costs()[0][:, 0] > model.budgets).any()):
        return -math.inf, None
    dual = float(model.bounds(multipliers).min())
    if dual < model.least_gain:
        return -math.inf, None  # the multipliers prove that nothing fits
    if not level < dual:
        return dual, None
    found = search(model, multipliers, level, limit)
    if not found.complete:
        return dual, found.choice
    if found.choice is None:
        return (level if level > -math.inf else -math.inf), None
    # One rounding each: of what another choice gains, of what the best one is compared by, and of its gain here.
    return min(dual, max(level, model.gain(found.choice) + 4.0 * model.rounding)), found.choice


def maximise(model: Choice, limit: int) -> Best:
    """Return the choice with the largest gain within the budgets, and what proves it.

    Parameters
    ----------
    model : Choice
    limit : int
        Partial choices kept at a time in the search that closes the gap of the dual bound. Where it does not suffice,
        the level is raised halfway to the dual bound a few times, and what is proven then is the bound.
    """
    dual = minimise_dual(model)
    multipliers = _spread(dual.multipliers)
    upper = float(model.bounds(multipliers).min()) if bool(np.isfinite(multipliers).all()) else math.inf
    if bool((model.least_costs()[0][:, 0] > model.budgets).any()) or upper < model.least_gain:
        return Best(None, multipliers, math.inf, -math.inf)
    choice = _better(model, dual.choice, search(model, multipliers, -math.inf, min(_BEAM, limit), beam=True).choice)
    level = -math.inf if choice is None else model.gain(choice)
    for attempt in range(4):
        proven, met = bound(model, multipliers, level, limit)
        choice = _better(model, choice, met)
        if choice is None and proven == -math.inf:
            return Best(None, multipliers, level, -math.inf)
        if proven < upper or upper <= level:
            return Best(choice, multipliers, level, proven)
        if attempt == 0:  # too much to search through: look for a better choice, and prove what can be proven
            choice = _better(model, choice, search(model, multipliers, level, _WIDE_BEAM, beam=True).choice)
        value = model.least_gain if choice is None else model.gain(choice)
        level = upper - (upper - value) * 0.5 ** (attempt + 1)
    return Best(choice, multipliers, math.inf, upper)


def _better(model: Choice, one: Array | None, other: Array | None) -> Array | None:
    if one is None or other is None:
        return other if one is None else one
    return other if model.gain(other) > model.gain(one) else one
