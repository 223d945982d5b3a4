"""The proximal step of the perspective relaxation, checked against the convex hull of enumerated masks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.structure import Supports
from .require import require

__all__ = ["check_spread"]

_STEPS = 600  # of the Frank-Wolfe method, with away from-scratch line searches by bisection
_QUALITY = 0.02  # relative; the step steers an iteration and enters no bound


def check_spread(supports: Supports, members: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> None:
    """Check that ``spread`` answers with a point of the convex hull that is close to the best one.

    Parameters
    ----------
    supports : Supports
    members : Tensor, shape (members, entries)
        All admissible masks, as 0/1 rows.
    shape : tuple of int
    generator : torch.Generator
    """
    for price in (0.0, 0.3):
        weight = torch.randn(shape, generator=generator, dtype=torch.float64)
        offset = 10.0 ** torch.empty(shape).uniform_(-2, 1, generator=generator).double()
        z = supports.spread(weight, offset, price)
        if z is None:
            return
        require(tuple(z.shape) == shape, f"spread: shape {tuple(z.shape)} instead of {shape}")
        require(bool(((z >= -1e-9) & (z <= 1 + 1e-9)).all()), "spread: it has entries outside [0, 1]")
        flat = z.double().reshape(-1)
        for _ in range(10):
            direction = torch.randn(members.shape[1], generator=generator, dtype=torch.float64)
            reach, most = float(direction @ flat), float((members @ direction).max())
            slack = 1e-3 * float(direction.abs().sum())
            require(reach <= most + slack, "spread: the point is outside the convex hull of the admissible masks")
        squares, offsets = weight.reshape(-1).square(), offset.reshape(-1)
        value = float((squares / (flat + offsets)).sum() + price * flat.sum())
        bound = _lower_bound(squares, offsets, price, members)
        slack = _QUALITY * (abs(bound) + price * members.shape[1])
        require(value <= bound + slack, f"spread: its value is {value:.6g}, the hull has points with {bound:.6g}")


def _lower_bound(squares: Tensor, offsets: Tensor, price: float, members: Tensor) -> float:
    """Lower bound, by the Frank-Wolfe method, of the minimum of ``squares/(z + offsets) + price z`` over the hull."""
    z = members.mean(dim=0)
    best = -torch.inf
    for _ in range(_STEPS):
        slope = price - squares / (z + offsets).square()
        value = float((squares / (z + offsets)).sum() + price * z.sum())
        vertex = members[int((members @ slope).argmin())]
        toward = vertex - z
        best = max(best, value + float(slope @ toward))
        if value - best <= 1e-3 * abs(value):
            break
        low, high = 0.0, 1.0
        for _ in range(30):
            size = 0.5 * (low + high)
            ahead = float(((price - squares / (z + size * toward + offsets).square()) * toward).sum())
            low, high = (size, high) if ahead < 0 else (low, size)
        z = z + low * toward
    return best
