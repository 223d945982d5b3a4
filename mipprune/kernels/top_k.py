"""Keeping the largest entries of blocks, and spreading a budget over them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["keep_largest", "spread_budget"]


def keep_largest(keys: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` largest keys of each row; ties go to the lower index.

    Parameters
    ----------
    keys : Tensor, shape (blocks, size)
        No NaN; infinities are ordinary values.
    count : int
        Entries to keep in each block, clipped to [0, size].
    """
    blocks, size = keys.shape
    if count >= size:
        return torch.ones_like(keys, dtype=torch.bool)
    if count <= 0 or blocks == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    threshold = torch.kthvalue(keys, size - count + 1, dim=1, keepdim=True).values
    mask = keys > threshold
    tied = keys == threshold
    missing = count - mask.sum(dim=1, keepdim=True)
    return mask | (tied & (tied.cumsum(dim=1) <= missing))


def spread_budget(
    weight: Tensor, offset: Tensor, budget: int, on: Tensor | None = None, off: Tensor | None = None
) -> Tensor:
    r"""Minimise :math:`\sum_i \text{weight}_i^2/(z_i + \text{offset}_i)` over 0 <= z <= 1 with at most ``budget`` in each row.

    Parameters
    ----------
    weight, offset : Tensor, shape (blocks, size)
        ``offset`` > 0.
    budget : int
    on, off : bool Tensor, shape (blocks, size), optional
        Entries with z = 1 (they use the budget) and z = 0.

    Returns
    -------
    Tensor, shape (blocks, size)
        ``z = clip(|weight| t - offset, 0, 1)`` with one multiplier t for each row, found by bisection and Newton steps.
    """
    size = weight.shape[1]
    weight = weight.abs()
    if on is not None or off is not None:
        on = torch.zeros_like(weight, dtype=torch.bool) if on is None else on
        off = torch.zeros_like(on) if off is None else off
        weight = torch.where(on | off, 0.0, weight)
        left = (budget - on.sum(dim=1, keepdim=True)).clamp_min(0).to(weight.dtype)
    else:
        left = torch.full((weight.shape[0], 1), float(budget), dtype=weight.dtype, device=weight.device)
    useful = weight > 0
    # z reaches 1 at t = (1 + offset)/weight and leaves 0 at t = offset/weight.
    ratio = torch.where(useful, (1.0 + offset) / torch.where(useful, weight, 1.0), 0.0)
    high = ratio.amax(dim=1, keepdim=True)
    low = torch.zeros_like(high)
    if budget < size or on is not None:
        for _ in range(60 if weight.dtype == torch.float64 else 36):
            t = 0.5 * (low + high)
            used = (weight * t - offset).clamp_(0.0, 1.0).sum(dim=1, keepdim=True)
            over = used > left
            high = torch.where(over, t, high)
            low = torch.where(over, low, t)
        t = torch.where((weight * high - offset).clamp(0.0, 1.0).sum(dim=1, keepdim=True) <= left, high, low)
    else:
        t = high
    z = torch.where(useful, (weight * t - offset).clamp(0.0, 1.0), 0.0)
    return z if on is None else torch.where(on, 1.0, z)
