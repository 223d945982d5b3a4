r"""Fractional transposable masks of least perspective cost: the proximal step of the relaxation over the hull of masks.

.. math:: \min_z \sum_{ij} \frac{w_{ij}^2}{z_{ij} + o_{ij}} + \sum_{ij} p_{ij} z_{ij}
          \quad\text{subject to}\quad \sum_j z_{ij} = \sum_i z_{ij} = n,\ 0 \le z \le 1

With multipliers :math:`\lambda, \mu` of rows and columns, the shares are those of
:math:`w_{ij}/\sqrt{p_{ij} + \lambda_i + \mu_j} - o_{ij}`, clipped to [0, 1]. Rows and columns are made to fit in turns:
coordinate ascent on the dual, in which the multiplier of one line is the root of a decreasing function.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .compiling import compiled_if_possible, has_numba
from .threads import over_rows

__all__ = ["spread_blocks"]

_TOLERANCE = 2e-3  # relative, on the sums of lines; no bound rests on them
_ROUNDS = 20  # of rows and columns; more of them improve the bounds of layers by less than 0.1 percent
_STEPS = 60  # of one line at most
_FLOOR = 0.003  # weights of nothing over the largest of the block: they take what the others leave; less is stiff
_PARALLEL = 1 << 14  # entries from which waking the threads pays


def spread_blocks(
    weight: Tensor,
    offset: Tensor,
    count: int,
    *,
    price: float | Tensor = 0.0,
    at_most: bool = False,
    fixed: Tensor | None = None,
) -> Tensor:
    """Spread ``count`` units over each row and each column of blocks.

    Parameters
    ----------
    weight, offset : Tensor, shape (blocks, size, size)
        ``offset`` > 0.
    count : int
        Sum of the shares of a line.
    price : float or Tensor
        Of a unit, >= 0, for all entries or for each (blocks, size, size).
    at_most : bool
        Whether lines may hold less.
    fixed : int8 Tensor like ``weight``, optional
        1 where the share is one, -1 where it is zero, 0 elsewhere.

    Returns
    -------
    Tensor, shape (blocks, size, size)
        Shares in [0, 1]; the sums of columns are met to 0.2 percent, those of rows nearly always.

    Examples
    --------
    >>> weight = torch.tensor([[[3.0, 1.0], [1.0, 3.0]]])
    >>> spread_blocks(weight, torch.ones(1, 2, 2), 1).round(decimals=3)
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    weight = weight.abs()
    top = weight.flatten(1).amax(dim=1) if weight.numel() else weight.new_zeros(len(weight))
    weight = torch.maximum(weight, (_FLOOR * top).clamp_min(1e-30)[:, None, None] * offset.clamp_max(1.0))
    if weight.device.type == "cpu" and has_numba():
        z = _on_cpu(weight, offset, count, price, at_most, fixed)
    else:  # multipliers of rows and columns may cancel: float64 throughout
        z = _anywhere(weight.double(), offset.double(), count, price, at_most, fixed).to(weight.dtype)
    return z if fixed is not None or count >= weight.shape[1] else _into_hull(z, count, at_most)


def _into_hull(z: Tensor, count: int, at_most: bool) -> Tensor:
    """Shrink crowded lines, and where lines must be full mix in as much of the even spread as their filling needs."""
    z = z * (count / z.sum(dim=2, keepdim=True).clamp_min(count))
    z = z * (count / z.sum(dim=1, keepdim=True).clamp_min(count))
    if at_most:
        return z
    short = (count - z.sum(dim=2)).clamp_min(0.0), (count - z.sum(dim=1)).clamp_min(0.0)
    most = torch.maximum(short[0].amax(dim=1), short[1].amax(dim=1))[:, None]
    # Of the rest a share t is given up. Row i then lacks a = t count + (1 - t) short, column j likewise b, and entry
    # (i, j) receives a b / sum(a): no more than t, the room that even a full entry has, for this t.
    root = math.sqrt(count)
    t = (most / (root * (math.sqrt(z.shape[1]) - root))).clamp_max(1.0)
    rows, columns = (t * count + (1.0 - t) * side for side in short)
    total = rows.sum(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    return (1.0 - t[:, :, None]) * z + rows.unsqueeze(2) * (columns / total).unsqueeze(1)


def _shares(weight: Tensor, offset: Tensor, slope: Tensor, fixed: Tensor | None) -> Tensor:
    tiny = torch.finfo(weight.dtype).tiny
    z = torch.where(slope > 0, weight * slope.clamp_min(tiny).rsqrt() - offset, 1.0).clamp(0.0, 1.0)
    if fixed is not None:
        z = torch.where(fixed > 0, 1.0, torch.where(fixed < 0, 0.0, z))
    return z


def _anywhere(
    weight: Tensor, offset: Tensor, count: int, price: float | Tensor, at_most: bool, fixed: Tensor | None
) -> Tensor:
    """The torch form: all lines of one side at once, by bisection."""
    rows, columns = weight.new_zeros(weight.shape[:2]), weight.new_zeros(weight.shape[:2])
    reach = (weight / offset).square()
    for _ in range(_ROUNDS):
        for dim in (2, 1):
            others = price + (columns.unsqueeze(1) if dim == 2 else rows.unsqueeze(2))
            low, high = -others.amax(dim=dim), (reach - others).amax(dim=dim)
            low = low.clamp_min(0.0) if at_most else low
            high = torch.maximum(low, high)
            bottom = low
            for _ in range(40):
                middle = (low + high) / 2
                z = _shares(weight, offset, middle.unsqueeze(dim) + others, fixed)
                crowded = z.sum(dim=dim) > count
                low, high = torch.where(crowded, middle, low), torch.where(crowded, high, middle)
            high = torch.where(low == bottom, bottom, high) if at_most else high  # every trial had room
            rows, columns = (high, columns) if dim == 2 else (rows, high)
        z = _shares(weight, offset, price + rows.unsqueeze(2) + columns.unsqueeze(1), fixed)
        excess = z.sum(dim=2) - count
        wrong = torch.where(rows > 0, excess.abs(), excess.clamp_min(0.0)) if at_most else excess.abs()
        if not wrong.numel() or float(wrong.max()) <= _TOLERANCE * count:
            break
    return z


def _on_cpu(
    weight: Tensor, offset: Tensor, count: int, price: float | Tensor, at_most: bool, fixed: Tensor | None
) -> Tensor:
    z = torch.empty_like(weight, memory_format=torch.contiguous_format)
    none = torch.empty(0, *weight.shape[1:], dtype=torch.int8)
    given = weight, offset.expand_as(weight).to(weight.dtype), none if fixed is None else fixed
    w, o, signs = (x.contiguous().numpy() for x in given)
    costs = price if isinstance(price, Tensor) else torch.full((1, *weight.shape[1:]), float(price))
    prices, shares = costs.to(torch.float64).contiguous().numpy(), z.numpy()

    def task(first: int, last: int) -> None:
        own = signs if fixed is None else signs[first:last]
        cost = prices[first:last] if len(prices) == len(w) else prices
        _run(w[first:last], o[first:last], own, count, cost, at_most, shares[first:last])

    if weight.numel() < _PARALLEL or torch.get_num_threads() == 1:
        task(0, len(z))
    else:
        over_rows(task, len(z), chunk=max(1, _PARALLEL // (4 * weight.shape[1] ** 2)))
    return z


_compile = compiled_if_possible(fastmath={"reassoc", "contract", "nsz"})  # the result steers and enters no bound


@_compile
def _fit(weight, offset, others, free, left, slack, at_most, start):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Multiplier with which the free shares of a line sum up to ``left``."""
    largest, high = -np.inf, -np.inf
    for k in range(len(weight)):
        largest = max(largest, others[k])
        high = max(high, (weight[k] / offset[k]) ** 2 - others[k])
    low = -0.5 * max(high, 0.0) if at_most else -largest  # below zero stands for zero, until that has been tried
    high = max(high, max(low, 0.0) if at_most else low)
    x = min(max(start, max(low, 0.0) if at_most else low), high)
    for _ in range(_STEPS):
        total, slope = 0.0, 0.0
        for k in range(len(weight)):
            s = others[k] + x
            share = weight[k] / np.sqrt(s) if s > 0.0 else 1.0 + offset[k]
            z = min(max(share - offset[k], 0.0), 1.0)
            total += z * free[k]
            slope += share / s * free[k] if 0.0 < z < 1.0 else 0.0
        excess = total - left
        if abs(excess) <= slack or (at_most and excess <= 0.0 and x <= 0.0):
            break
        if excess > 0.0:
            low = x
        else:
            high = x
        x = x + 2.0 * excess / slope if slope > 0.0 else np.inf
        if not low < x < high:
            x = 0.5 * (low + high)
        if at_most and x <= 0.0:
            x = 0.0
    return x


@_compile
def _evaluate(weight, offset, free, rows, columns, price, left, curvature, excess):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Dual value of a block, the excess of its lines, and the curvature of each entry."""
    size = len(rows)
    value = 0.0
    for k in range(size):
        excess[0, k], excess[1, k] = -left[0, k], -left[1, k]
        value -= left[0, k] * rows[k] + left[1, k] * columns[k]
    for i in range(size):
        for j in range(size):
            s = rows[i] + columns[j] + price[i, j]
            share = weight[i, j] / np.sqrt(s) if s > 0.0 else 1.0 + offset[i, j]
            z = min(max(share - offset[i, j], 0.0), 1.0)
            curvature[i, j] = 0.5 * share / s * free[i, j] if 0.0 < z < 1.0 else 0.0
            value += (weight[i, j] ** 2 / (z + offset[i, j]) + s * z) * free[i, j]
            excess[0, i] += z * free[i, j]
            excess[1, j] += z * free[i, j]
    return value


@_compile
def _direction(curvature, excess, multipliers, at_most, diagonal, step, rest, search, image):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Newton direction by conjugate gradients; lines without an entry between 0 and 1, or at their bound, stay."""
    size = curvature.shape[0]
    for k in range(size):
        diagonal[0, k], diagonal[1, k] = 0.0, 0.0
    for i in range(size):
        for j in range(size):
            diagonal[0, i] += curvature[i, j]
            diagonal[1, j] += curvature[i, j]
    product = 0.0
    for side in range(2):
        for k in range(size):
            if at_most and multipliers[side, k] <= 0.0 and excess[side, k] < 0.0:
                diagonal[side, k] = 0.0
            held = diagonal[side, k] <= 0.0
            step[side, k], rest[side, k] = 0.0, 0.0 if held else excess[side, k]
            search[side, k] = 0.0 if held else excess[side, k] / diagonal[side, k]
            product += rest[side, k] * search[side, k]
    first = product
    for _ in range(2 * size):
        if product <= 1e-6 * first:
            break
        for k in range(size):
            image[0, k], image[1, k] = diagonal[0, k] * search[0, k], diagonal[1, k] * search[1, k]
        for i in range(size):
            for j in range(size):
                image[0, i] += curvature[i, j] * search[1, j]
                image[1, j] += curvature[i, j] * search[0, i]
        bend = 0.0
        for side in range(2):
            for k in range(size):
                image[side, k] = image[side, k] if diagonal[side, k] > 0.0 else 0.0
                bend += image[side, k] * search[side, k]
        if bend <= 0.0:
            break
        length, following = product / bend, 0.0
        for side in range(2):
            for k in range(size):
                if diagonal[side, k] > 0.0:
                    step[side, k] += length * search[side, k]
                    rest[side, k] -= length * image[side, k]
                    following += rest[side, k] ** 2 / diagonal[side, k]
        for side in range(2):
            for k in range(size):
                if diagonal[side, k] > 0.0:
                    search[side, k] = rest[side, k] / diagonal[side, k] + following / product * search[side, k]
        product = following


@_compile
def _newton(weight, offset, free, multipliers, price, left, at_most, curvature, work, slack):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Take a Newton step on all multipliers, where it improves the dual; True when the lines fit as they are."""
    size = weight.shape[0]
    excess, diagonal, step, rest, search, image, trial = work
    value = _evaluate(weight, offset, free, multipliers[0], multipliers[1], price, left, curvature, excess)
    worst = 0.0
    for side in range(2):
        for k in range(size):
            if not (at_most and excess[side, k] < 0.0 and multipliers[side, k] <= 0.0):
                worst = max(worst, abs(excess[side, k]))
    if worst <= slack:
        return True
    _direction(curvature, excess, multipliers, at_most, diagonal, step, rest, search, image)
    length = 1.0
    for _ in range(5):
        for side in range(2):
            for k in range(size):
                trial[side, k] = multipliers[side, k] + length * step[side, k]
                if at_most:
                    trial[side, k] = max(trial[side, k], 0.0)
        if _evaluate(weight, offset, free, trial[0], trial[1], price, left, curvature, excess) > value:
            for side in range(2):
                for k in range(size):
                    multipliers[side, k] = trial[side, k]
            break
        length *= 0.25
    return False


@_compile
def _run(weight, offset, fixed, count, prices, at_most, z):  # type: ignore[no-untyped-def]  # pragma: no cover
    size = weight.shape[1]
    # Weights, offsets, prices and free entries, each by rows and by columns.
    w, o, price, free = (
        np.zeros((2, size, size)),
        np.zeros((2, size, size)),
        np.zeros((2, size, size)),
        np.ones((2, size, size)),
    )
    multipliers, left, others = np.zeros((2, size)), np.zeros((2, size)), np.zeros(size)
    curvature, work = np.zeros((size, size)), np.zeros((7, 2, size))
    for b in range(weight.shape[0]):
        least = np.inf
        for i in range(size):
            multipliers[0, i], multipliers[1, i], left[0, i], left[1, i] = 0.0, 0.0, count, count
        for i in range(size):
            for j in range(size):
                w[0, i, j], o[0, i, j] = weight[b, i, j], offset[b, i, j]
                least = min(least, o[0, i, j])
                w[1, j, i], o[1, j, i] = weight[b, i, j], offset[b, i, j]
                price[0, i, j] = price[1, j, i] = prices[b if prices.shape[0] > 1 else 0, i, j]
                if fixed.shape[0] > 0:
                    sign = fixed[b, i, j]
                    free[0, i, j], free[1, j, i] = sign == 0, sign == 0
                    left[0, i] -= sign > 0
                    left[1, j] -= sign > 0
        slack = _TOLERANCE * min(count, 10.0 * least)  # the cost is steep where offsets are small
        for _ in range(_ROUNDS):
            for side in range(2):
                for i in range(size):
                    for k in range(size):
                        others[k] = multipliers[1 - side, k] + price[side, i, k]
                    multipliers[side, i] = _fit(
                        w[side, i], o[side, i], others, free[side, i], left[side, i], slack / 4, at_most,
                        multipliers[side, i],
                    )  # fmt: skip
            if _newton(w[0], o[0], free[0], multipliers, price[0], left, at_most, curvature, work, slack):
                break
        for i in range(size):
            for j in range(size):
                s = multipliers[0, i] + multipliers[1, j] + price[0, i, j]
                share = w[0, i, j] / np.sqrt(s) if s > 0.0 else 1.0 + o[0, i, j]
                z[b, i, j] = min(max(share - o[0, i, j], 0.0), 1.0)
                if free[0, i, j] == 0.0:
                    z[b, i, j] = 1.0 if fixed[b, i, j] > 0 else 0.0
