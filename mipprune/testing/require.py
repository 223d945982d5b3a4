"""The one assertion of the suites, and the random arrays they draw."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["random_mask", "random_point", "require", "separable_size"]


def require(condition: bool, message: str) -> None:
    """Raise ``AssertionError`` with the message unless the condition holds (also under ``python -O``)."""
    if not condition:
        raise AssertionError(message)


def random_mask(shape: tuple[int, ...], generator: torch.Generator, density: float | None = None) -> Tensor:
    """Return a random mask with the given density, or with a random one."""
    share = float(torch.rand((), generator=generator)) if density is None else density
    mask: Tensor = torch.rand(shape, generator=generator) < share
    return mask


def random_point(around: Tensor, generator: torch.Generator) -> Tensor:
    """Return a float64 point around another one, at a distance between a tenth of and ten times its own size."""
    around = around.double().cpu()
    size = float(around.abs().mean()) or 1.0
    reach: float = size * 10.0 ** float(torch.empty(()).uniform_(-1.0, 1.0, generator=generator))
    return around + reach * torch.randn(around.shape, generator=generator, dtype=torch.float64)


def separable_size(linear: Tensor, curvature: Tensor, w: Tensor, constant: float = 0.0) -> float:
    """Return the sum of the absolute terms of a separable model at ``w``: what its rounding error is relative to."""
    w = w.double()
    terms = linear.double().abs() * w.abs() + 0.5 * curvature.double().abs() * w.square()
    total = float(terms.sum()) + abs(constant)
    return total if math.isfinite(total) else math.inf
