"""From a mask to the best point on it: what makes a back end's solution the problem's own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem

__all__ = ["admissible_mask", "curvature", "on_mask"]


def admissible_mask(problem: Problem, point: Tensor) -> Tensor:
    """Return the support of a member of S, or an admissible mask around it: whole groups keep zeros too."""
    structure = problem.structure
    mask = structure.mask_of(point).cpu()
    if not isinstance(structure, Sparse) or structure.supports.contains(mask):
        return mask
    around = structure.supports.keep(torch.where(mask, 1.0, -1e-9))
    return around if bool((around >= mask).all()) else mask


def on_mask(problem: Problem, mask: Tensor, near: Tensor) -> Tensor:
    """Return the best point found on one mask (inside the box, if there is one)."""
    refitted = torch.where(mask, problem.reference.loss.minimise_on(mask, start=near).double(), 0.0)
    if problem.violation(refitted) == 0:
        return refitted
    structure = problem.structure
    if isinstance(structure, Sparse) and structure.box is not None:
        return problem.minimise_in_box(mask, near)
    return replace(problem.reference, structure=structure.restrict(mask, ~mask)).repair(near)


def curvature(problem: Problem) -> Tensor:
    """Return the diagonal curvature of the loss's majorant at 0, > 0; ones where there is none to go by."""
    majorant = problem.reference.loss.majorant(torch.zeros(problem.shape, dtype=torch.float64))
    if majorant is None or not bool((majorant.curvature > 0).any()):
        return torch.ones(problem.shape, dtype=torch.float64)
    found = majorant.curvature.double().cpu().expand(problem.shape)
    return torch.where(found > 0, found, found[found > 0].median())
