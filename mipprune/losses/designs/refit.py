"""Ridge regression on some columns: by factorisations, and from products alone where they are not written out."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import LARGEST
from .shifted import Shifted

__all__ = ["by_factors", "by_products", "is_wide"]


def is_wide(samples: int, ridge: Tensor) -> bool:
    """Whether :func:`by_factors` would need too large a matrix for so many samples and columns."""
    count = len(ridge)
    wide = count > samples and bool((ridge > 0).all())
    return count * samples + (0 if wide else count * count) > LARGEST


def by_factors(design: Tensor, response: Tensor, ridge: Tensor) -> Tensor:
    """Return the minimiser of ``1/2 ||y - X b||^2 + 1/2 <r, b^2>``; an n x n system when p > n (Woodbury).

    Parameters
    ----------
    design : float64 Tensor, shape (n, p)
    response, ridge : float64 Tensor, shape (n,) and (p,)
    """
    if design.shape[1] > design.shape[0] and bool((ridge > 0).all()):
        scaled = design / ridge
        system = torch.eye(len(response), dtype=torch.float64, device=design.device) + scaled @ design.mT
        dual, info = torch.linalg.solve_ex(system, response)
        out: Tensor = scaled.mT @ dual
        if int(info) == 0 and bool(torch.isfinite(out).all()):  # else the ridge is next to nothing
            return out
    stacked = torch.cat([design, torch.diag(ridge.sqrt())])
    right = torch.cat([response, torch.zeros_like(ridge)])
    solution: Tensor = torch.linalg.lstsq(stacked.cpu(), right.cpu(), driver="gelsd").solution
    return solution.to(design)


def by_products(design: Shifted, response: Tensor, ridge: Tensor, steps: int = 500, tolerance: float = 1e-13) -> Tensor:
    """Return the minimiser from products with X and X' alone, by conjugate gradients.

    Parameters
    ----------
    design : Shifted, shape (n, p)
    response : float64 Tensor, shape (n,)
    ridge : float64 Tensor, shape (p,)
        >= 0.
    steps : int
        At most; scaled by the diagonal of X'X + r.
    tolerance : float
        Of the scaled gradient, relative to the one at zero.

    Returns
    -------
    Tensor, shape (p,)
    """
    diagonal = design.squares + ridge
    inverse = torch.where(diagonal > 0, 1.0 / diagonal, 0.0)
    point = torch.zeros_like(ridge)
    slope = response @ design
    scaled = inverse * slope
    along, size = scaled, float(slope @ scaled)
    goal = tolerance**2 * size
    for _ in range(steps):
        if size <= goal:
            break
        image = (design @ along) @ design + ridge * along
        stiff = float(along @ image)
        if not stiff > 0:
            break
        point = point + size / stiff * along
        slope = slope - size / stiff * image
        scaled = inverse * slope
        new = float(slope @ scaled)
        along, size = scaled + new / size * along, new
    return point
