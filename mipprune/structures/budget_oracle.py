"""The oracle of budgets: the best mask, its multipliers, and the bound that they prove."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core.arrays import UNIT_ROUNDOFF, accurate_sum
from ..errors import InvalidProblem
from ..kernels import knapsack
from ..kernels.knapsack_bins import BINS, core_groups, count_bins
from ..kernels.knapsack_passes import SUM_ERROR, Survey, excess, mark, survey
from .budget_plan import Plan

__all__ = ["Choice", "Dual", "choose", "dual_bound", "kept_sum", "open_gains"]

_VERIFIED = 4_000_000  # entries near the thresholds up to which the closing of the gap is verified again

_BINNED = 1 << 19  # entries from which counting in bins is faster than sorting
_MOST_GROUPS = 256  # of which bins are kept in memory
_WIDTH = 8  # bins extracted on either side of a threshold, at first


class Dual(NamedTuple):
    """A witness, taken apart."""

    lam: NDArray[np.float64]
    """(resources,), >= 0, per unit of each resource"""
    theta: NDArray[np.float64]
    """(layers,): entries above are kept by the dual"""
    closed: float
    """how much of the integrality gap the search closed"""


class Choice(NamedTuple):
    """The best mask of the open entries."""

    mask: Tensor
    value: float
    dual: Dual


class Open(NamedTuple):
    """Gains with everything that cannot be chosen at -inf."""

    gain: Tensor
    seen: Survey
    infinite: bool
    """whether an entry that can be kept gains +inf"""


def open_gains(plan: Plan, gain: Tensor) -> Open:
    """Take fixed entries, and infinite gains that fit nowhere, out of the gains."""
    seen = survey(gain, plan.layers)
    if seen.invalid:
        raise InvalidProblem("the gains contain NaN or -inf; clean the scores before choosing a mask")
    if plan.closed is not None:
        gain = gain.masked_fill(plan.closed.to(gain.device), -math.inf)
        seen = survey(gain, plan.layers)
    wild = seen.infinite & (plan.high == 0)
    if wild.any():
        gain = gain.clone()
        for layer in np.flatnonzero(wild):
            plan.layers.part(gain, int(layer)).fill_(-math.inf)
        seen = survey(gain, plan.layers)
    return Open(gain, seen, bool(seen.infinite.any()))


def _tame(given: Open, plan: Plan) -> Open:
    """Replace +inf by a number beyond all sums of the others."""
    gain = given.gain.double()
    finite = torch.where(torch.isinf(gain), 0.0, gain)
    large = 2.0 * float(finite.abs().sum()) + 1.0
    gain = torch.where(gain == math.inf, large, gain)
    return Open(gain, survey(gain, plan.layers), True)


def _descending(parts: list[Tensor], above: float) -> NDArray[np.float64]:
    """Return the entries of some tensors that are larger than a number, by falling size, in float64 on the CPU."""
    if parts[0].device.type == "cpu":  # numpy sorts with wide vector instructions
        arrays = [part.numpy() for part in parts]
        whole = np.concatenate([array[array > above] for array in arrays])
        whole.sort()
        return whole[::-1].astype(np.float64)
    kept = torch.cat([part[part > above] for part in parts])
    return np.asarray(kept.sort(descending=True).values.double().cpu().numpy())


def _ranked(values: NDArray[np.float64], count: int, kind: torch.dtype) -> tuple[float, float, int]:
    """Return above which number to keep, the tied value, and how many ties, so that ``count`` values are kept."""
    if count == 0:
        return math.inf, 0.0, 0
    last = float(values[count - 1])
    tied_from = int(np.searchsorted(-values, -last, side="left"))
    tied_to = int(np.searchsorted(-values, -last, side="right"))
    if tied_to == count:  # all of them: keep what is larger than the next smaller number
        step = np.nextafter(np.float32(last) if kind == torch.float32 else np.float64(last), -np.inf)
        return float(step), 0.0, 0
    return last, last, count - tied_from


def choose(plan: Plan, gain: Tensor) -> Choice:
    """Return the best mask of a feasible plan.

    Parameters
    ----------
    plan : Plan
    gain : Tensor, shape (entries,)
    """
    given = open_gains(plan, gain)
    if given.infinite:
        given = _tame(given, plan)
    gain, positive = given.gain, given.seen.positive
    layers, low, high = plan.layers, plan.low, plan.high
    forced = (positive <= low) | (high == low)  # more than the least count never pays, or never fits
    free = ~forced & ~plan.own & ~plan.costs.any(axis=1)
    members = _members(plan, ~forced & ~free)
    above = np.where(free, 0.0, np.inf)
    theta = np.where(free, 0.0, np.nan)
    ties: list[tuple[list[int], float, int]] = []
    for layer in np.flatnonzero(forced & (low > 0)):
        values = _descending([layers.part(gain, int(layer))], -math.inf)
        theta[layer] = values[low[layer] - 1]
        above[layer], tied, count = _ranked(values, int(low[layer]), gain.dtype)
        if count:
            ties.append(([int(layer)], tied, count))
    limits = plan.limits - plan.costs.T @ np.where(forced, low, 0)
    groups, lam, group_theta, found = _solve(plan, given, members, limits)
    for g, group in enumerate(members):
        values = groups.values[groups.start[g] : groups.start[g + 1]]
        edge, tied, count = _ranked(values, int(found.counts[g] - groups.base[g]), gain.dtype)
        if math.isinf(edge) and groups.base[g] > 0:  # all above the stored ones, and none of them
            top = groups.ceiling[g].astype(np.float32 if gain.dtype == torch.float32 else np.float64)
            edge = float(np.nextafter(top, -np.inf, dtype=top.dtype))
        above[group], theta[group] = edge, group_theta[g]
        if count:
            ties.append((group, tied, count))
    price = plan.costs @ lam
    # The least count of a layer holds its dual up only where the price is above the last score that is kept.
    theta = np.where(np.isnan(theta) | (forced & (high > low) & (theta > price)), price, theta)
    mask, value = mark(gain, layers, above, ties)
    return Choice(mask, value, Dual(lam, theta, found.proven))


def _members(
    plan: Plan, taking_part: NDArray[np.bool_], *keys: NDArray[np.float64], own: bool = True
) -> list[list[int]]:
    """Group layers of equal costs (and equal keys); with ``own``, a layer with bounds of its own stands alone."""
    found: dict[tuple[object, ...], list[int]] = {}
    for layer in np.flatnonzero(taking_part).tolist():
        alone = layer if own and plan.own[layer] else -1
        key = (alone, plan.costs[layer].tobytes(), *(float(array[layer]) for array in keys))
        found.setdefault(key, []).append(layer)
    return list(found.values())


def _solve(
    plan: Plan, given: Open, members: list[list[int]], limits: NDArray[np.int64]
) -> tuple[knapsack.Groups, NDArray[np.float64], NDArray[np.float64], knapsack.Found]:
    gain, positive = given.gain, given.seen.positive
    low = np.array([plan.low[group].sum() for group in members], np.int64)
    high = np.array([np.minimum(plan.high[group], positive[group]).sum() for group in members], np.int64)
    costs = np.ascontiguousarray(plan.costs[[group[0] for group in members]]).reshape(len(members), limits.size)
    if gain.numel() >= _BINNED and 0 < len(members) <= _MOST_GROUPS:
        largest = max(float(given.seen.largest[group].max()) for group in members)
        bins = count_bins(gain, plan.layers, members, largest)
        width = _WIDTH
        while width < BINS:
            groups = core_groups(gain, plan.layers, members, bins, low, high, costs, limits, width)
            if groups is not None:
                lam, theta, found = knapsack.solve(groups)
                if not found.outside:
                    return groups, lam, theta, found
            width *= 8
    parts = [_descending([plan.layers.part(gain, layer) for layer in group], 0.0) for group in members]
    lengths = np.array([part.size for part in parts], np.int64)
    groups = knapsack.Groups(
        values=np.concatenate([np.empty(0), *parts]),
        cum=np.concatenate([np.empty(0, np.int64), *(np.arange(1, size + 1) for size in lengths)]),
        start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        base=np.zeros(len(members), np.int64),
        low=low,
        high=high,
        floor=np.full(len(members), -np.inf),
        ceiling=np.full(len(members), np.inf),
        costs=costs,
        limits=limits,
    )
    return groups, *knapsack.solve(groups)


def kept_sum(gain: Tensor, mask: Tensor | None) -> tuple[float, float]:
    """Return the sum of the gains of a flat mask and a bound on its rounding error."""
    if mask is None:
        return 0.0, 0.0
    kept = gain[mask.to(gain.device)].double().cpu()
    return accurate_sum(torch.nn.functional.pad(kept, (0, -kept.numel() % 256)).reshape(-1, 256))


def dual_bound(plan: Plan, gain: Tensor, dual: Dual) -> float:
    r"""Return an upper bound of the best sum of gains from any multipliers and thresholds.

    Parameters
    ----------
    plan : Plan
    gain : Tensor, shape (entries,)
    dual : Dual
        ``lam`` >= 0; anything finite otherwise.

    Notes
    -----
    With :math:`\delta_l = \theta_l - \lambda\cdot c_l`, every admissible choice is worth at most

    .. math:: \lambda\cdot b + \sum_l \Big[h_l\,\delta_l^+ - m_l\,\delta_l^- + \sum_{i\in l}(a_i-\theta_l)_+\Big]

    where :math:`m_l \le k_l \le h_l` bound the counts. The coefficients outside the inner sum are exact fractions.
    What the witness says the search closed is subtracted after all choices with a smaller gap were looked at again.
    Multipliers or thresholds so large that sums leave the range of float64 prove nothing: ``inf``.
    """
    given = open_gains(plan, gain)
    if given.infinite:
        return math.inf
    try:
        bound = _finite_bound(plan, gain, given, dual)
    except (OverflowError, ValueError):
        return math.inf
    return math.inf if math.isnan(bound) else bound


def _finite_bound(plan: Plan, gain: Tensor, given: Open, dual: Dual) -> float:
    theta = np.where(plan.high == 0, 0.0, dual.theta)
    width = dual.closed if dual.closed > 0 else -1.0
    sums = excess(given.gain, plan.layers, theta, width, most=_VERIFIED)
    active = plan.high > 0
    lam = [Fraction(float(x)) for x in dual.lam]
    level = sum((x * int(b) for x, b in zip(lam, plan.limits, strict=True)), Fraction(0))
    for layer in np.flatnonzero(active):
        price = sum((x * int(c) for x, c in zip(lam, plan.costs[layer], strict=True)), Fraction(0))
        delta = Fraction(float(theta[layer])) - price
        level += delta * int(plan.high[layer] if delta > 0 else plan.low[layer])
    above = math.fsum(sums.sums[active].tolist())
    fixed, error = kept_sum(gain, plan.on)
    closed = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        usable = bool(np.isfinite(plan.costs @ dual.lam).all())
    if sums.near is not None and dual.closed > 0 and usable:
        closed = _verified(plan, dual._replace(theta=theta), active, sums.near, sums.above)
    total = math.fsum([float(level), above, fixed, -closed])
    size = abs(float(level)) + above + abs(fixed) + closed
    return total + SUM_ERROR * above + error + 4.0 * UNIT_ROUNDOFF * size


def _beyond(theta: float, distance: float) -> float:
    """Return a number whose computed distance from ``theta`` is at least the one given."""
    edge = theta + distance
    while abs(edge - theta) < abs(distance):
        edge = math.nextafter(edge, math.copysign(math.inf, distance))
    return edge


def _verified(
    plan: Plan,
    dual: Dual,
    active: NDArray[np.bool_],
    near: list[NDArray[np.float64]],
    above: NDArray[np.int64],
) -> float:
    """Return how much of the gap is closed, by going through all choices that miss the dual value by less.

    Putting layers of equal costs and thresholds together forgets their own bounds, which leaves the answer valid and
    mostly as good; where it is not, they are told apart.
    """
    together = _closed(plan, dual, _members(plan, active, dual.theta, own=False), near, above)
    if together >= dual.closed * (1.0 - 1e-6) or not plan.own.any():
        return together
    return max(together, _closed(plan, dual, _members(plan, active, dual.theta), near, above))


def _closed(
    plan: Plan,
    dual: Dual,
    members: list[list[int]],
    near: list[NDArray[np.float64]],
    above: NDArray[np.int64],
) -> float:
    """Return how much of the gap is closed for layers put together in one way."""
    parts, floor, ceiling, base, low, high = [], [], [], [], [], []
    for group in members:
        values = np.sort(np.concatenate([near[layer] for layer in group]))[::-1]
        base.append(int(above[group].sum()))
        low.append(int(plan.low[group].sum()))
        high.append(int(plan.high[group].sum()))
        # Entries that gain nothing are never worth keeping beyond the least count.
        useful = int((values > 0).sum())
        parts.append(values[: max(useful, low[-1] - base[-1])])
        complete = dual.theta[group[0]] <= dual.closed  # every entry that gains is near or above
        hidden = not complete or base[-1] + parts[-1].size < low[-1]
        floor.append(_beyond(dual.theta[group[0]], -dual.closed) if hidden else -math.inf)
        ceiling.append(_beyond(dual.theta[group[0]], dual.closed) if base[-1] > 0 else math.inf)
    lengths = np.array([part.size for part in parts], np.int64)
    groups = knapsack.Groups(
        values=np.concatenate([np.empty(0), *parts]),
        cum=np.empty(0, np.int64),
        start=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        base=np.array(base, np.int64),
        low=np.array(low, np.int64),
        high=np.array(high, np.int64),
        floor=np.array(floor, np.float64),
        ceiling=np.array(ceiling, np.float64),
        costs=np.ascontiguousarray(plan.costs[[group[0] for group in members]]).reshape(len(members), dual.lam.size),
        limits=plan.limits,
    )
    theta = np.array([dual.theta[group[0]] for group in members], np.float64)
    return knapsack.verify(groups, dual.lam, theta, dual.closed)
