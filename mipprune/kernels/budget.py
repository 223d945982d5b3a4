"""Spreading a budget over the entries of blocks: the proximal step of the perspective relaxation."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compiling import compiled_if_possible, has_numba
from .threads import over_rows

__all__ = ["spread_budget", "spread_groups"]

_PARALLEL = 1 << 16  # entries from which waking the threads pays
_TOLERANCE = 1e-4  # relative, on the row sums; no bound rests on them


def spread_budget(
    weight: Tensor,
    offset: Tensor,
    budget: int,
    *,
    price: float = 0.0,
    on: Tensor | None = None,
    off: Tensor | None = None,
) -> Tensor:
    r"""Spread a budget over the entries of each row.

    Minimise :math:`\sum_i \text{weight}_i^2/(z_i + \text{offset}_i) + \text{price}\, z_i`.

    Parameters
    ----------
    weight, offset : Tensor, shape (blocks, size)
        ``offset`` > 0.
    budget : int
        Largest sum of ``0 <= z <= 1`` in a row.
    price : float
        Of a unit of z, >= 0.
    on, off : bool Tensor, shape (blocks, size), optional
        Entries with z = 1 (they use the budget) and z = 0.

    Returns
    -------
    Tensor, shape (blocks, size)
        ``z = clip(|weight| t - offset, 0, 1)`` with one multiplier t for each row, found by Newton steps kept inside a
        shrinking bracket; the row sums meet the budget to 1e-4 relative.
    """
    weight = weight.abs()
    left = torch.full((weight.shape[0], 1), float(budget), dtype=weight.dtype, device=weight.device)
    if on is not None and off is not None:
        weight = torch.where(on | off, 0.0, weight)
        left = (left - on.sum(dim=1, keepdim=True)).clamp_min(0)
    ceiling = price**-0.5 if price > 0 else float("inf")
    kernel = _compiled() if weight.device.type == "cpu" else None
    if kernel is not None:
        z = torch.empty_like(weight)
        arrays = [x.contiguous().numpy() for x in (weight, offset)] + [left.ravel().numpy()]
        _share_rows(kernel, arrays, ceiling, z.numpy())
    else:
        z = _spread(weight, offset, left, ceiling)
    return z if on is None else torch.where(on, 1.0, z)


def _share_rows(kernel: Any, arrays: list[np.ndarray[Any, Any]], ceiling: float, z: np.ndarray[Any, Any]) -> None:
    """Run the compiled kernel, on several threads when there is enough to do."""

    def task(first: int, last: int) -> None:
        weight, offset, left = (array[first:last] for array in arrays)
        kernel(weight, offset, left, ceiling, _TOLERANCE, z[first:last])

    if z.size < _PARALLEL:
        task(0, len(z))
    else:
        over_rows(task, len(z), chunk=max(1, _PARALLEL // (4 * z.shape[1])))


def _spread(weight: Tensor, offset: Tensor, left: Tensor, ceiling: float) -> Tensor:
    """The torch form, all rows at once."""
    useful = weight > 0
    safe = torch.where(useful, weight, 1.0)
    # z_i leaves 0 at t = offset/weight and reaches 1 at t = (1 + offset)/weight.
    high = torch.where(useful, (1.0 + offset) / safe, 0.0).amax(dim=1, keepdim=True).clamp_max(ceiling)
    low = torch.where(useful, offset / safe, torch.inf).amin(dim=1, keepdim=True).clamp_max(high)
    t = high
    for step in range(60):
        z = (weight * t - offset).clamp(0.0, 1.0)
        excess = z.sum(dim=1, keepdim=True) - left
        if bool(((excess.abs() <= _TOLERANCE * left) | ((t == high) & (excess <= 0))).all()):
            break
        high, low = torch.where(excess > 0, t, high), torch.where(excess > 0, low, t)
        slope = torch.where((z > 0) & (z < 1), weight, 0.0).sum(dim=1, keepdim=True)
        newton = t - excess / slope
        middle = (low * high).sqrt()
        t = torch.where((newton > low) & (newton < high) & (step % 3 != 2), newton, middle)
    return z


def spread_groups(
    squares: Tensor, offsets: Tensor, labels: Tensor, budget: int, prices: Tensor, on: Tensor, off: Tensor
) -> Tensor:
    r"""Spread a budget over groups that share one z each.

    Minimise :math:`\sum_g \sum_{i \in g} \text{squares}_i/(z_g + \text{offsets}_i) + \text{prices}_g z_g` with a budget
    on the sum of z.

    Parameters
    ----------
    squares, offsets : Tensor, shape (rows, in)
    labels : int64 Tensor, shape (in,)
        Group of each column.
    budget : int
    prices : Tensor, shape (groups,)
    on, off : bool Tensor, shape (groups,)
        Groups with z = 1 (they use the budget) and z = 0.

    Returns
    -------
    float64 Tensor, shape (groups,)

    Notes
    -----
    With a multiplier mu, the share z of a group solves ``slope(z) = mu + price``. The inverse root of the slope is
    linear in z when the
    offsets of a group agree, so it is tabulated at 9 points and interpolated; mu is found by bisection on its
    logarithm.
    """
    groups = prices.numel()
    grid = torch.linspace(0.0, 1.0, 9, dtype=torch.float64, device=squares.device)
    terms = squares.double() / (grid[:, None, None] + offsets.double()).clamp_min(1e-12).square()
    slopes = torch.zeros(9, groups, dtype=torch.float64, device=squares.device).index_add(1, labels, terms.sum(dim=1))
    table = slopes.clamp_min(1e-300).rsqrt().mT.contiguous()  # (groups, 9), increasing along a row
    steps = (table[:, 1:] - table[:, :-1]).clamp_min(1e-300)

    def shares(multiplier: Tensor) -> Tensor:
        place = (multiplier + prices.double()).clamp_min(1e-300).rsqrt().unsqueeze(1)
        cell = (torch.searchsorted(table, place) - 1).clamp(0, 7)
        inside = ((place - table.gather(1, cell)) / steps.gather(1, cell)).clamp(0.0, 1.0)
        return torch.where(on, 1.0, torch.where(off, 0.0, ((cell + inside) / 8.0).squeeze(1)))

    none = torch.zeros((), dtype=torch.float64, device=squares.device)
    if float(shares(none).sum()) <= budget:
        return shares(none)
    high = slopes[0].max().clamp_min(1e-290)
    low = high * 1e-24
    for _ in range(50):
        middle = (low * high).sqrt()
        crowded = shares(middle).sum() > budget
        low, high = torch.where(crowded, middle, low), torch.where(crowded, high, middle)
    return shares(high)


@cache
def _compiled() -> Any | None:
    if not has_numba():
        return None

    # Reassociation is fine here: the result steers an iteration and enters no bound. The caller gives rows to threads:
    # those of numba would change how many torch uses, since both share one OpenMP runtime.
    @compiled_if_possible(fastmath={"reassoc", "contract", "nsz"})
    def run(weight, offset, left, ceiling, tolerance, z):  # type: ignore[no-untyped-def]  # pragma: no cover
        blocks, size = weight.shape
        for b in range(blocks):
            high, low = 0.0, 1e300
            for i in range(size):
                if weight[b, i] > 0.0:
                    high = max(high, (1.0 + offset[b, i]) / weight[b, i])
                    low = min(low, offset[b, i] / weight[b, i])
            high = min(high, ceiling)
            low = min(low, high)
            t = high
            for step in range(60):
                used, slope = 0.0, 0.0
                for i in range(size):
                    share = weight[b, i] * t - offset[b, i]
                    inner = min(max(share, 0.0), 1.0)
                    used += inner
                    slope += weight[b, i] if inner == share else 0.0
                excess = used - left[b]
                if abs(excess) <= tolerance * left[b] or (t == high and excess <= 0.0):
                    break
                if excess > 0.0:
                    high = t
                else:
                    low = t
                newton = t - excess / slope if slope > 0.0 else -1.0
                t = newton if low < newton < high and step % 3 != 2 else np.sqrt(low * high)
            for i in range(size):
                z[b, i] = min(max(weight[b, i] * t - offset[b, i], 0.0), 1.0)

    return run
