"""Optima of small problems by trying every mask."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Masks, Sparse
from ..core.problem import Problem
from ..core.structure import Supports
from ..errors import InvalidProblem, Unsupported

__all__ = ["enumerate_masks", "enumerate_optimum", "members_of"]

_LARGEST = 20  # entries; a million masks
_CHUNK = 1 << 14  # masks whose systems are solved together
_SWEEPS = 400  # of coordinate descent inside a box


def enumerate_masks(shape: tuple[int, ...]) -> Tensor:
    """Return all masks of an array.

    Parameters
    ----------
    shape : tuple of int
        Of at most 20 entries.

    Returns
    -------
    bool Tensor, shape (2 ** entries, *shape)

    Raises
    ------
    InvalidProblem
        If there are more than 20 entries.

    Examples
    --------
    >>> enumerate_masks((1, 2)).int().tolist()
    [[[0, 0]], [[1, 0]], [[0, 1]], [[1, 1]]]
    """
    size = math.prod(shape)
    if size > _LARGEST:
        raise InvalidProblem(f"{size} entries have 2^{size} masks; enumeration is meant for at most {_LARGEST}")
    numbers = torch.arange(1 << size).unsqueeze(1)
    return ((numbers >> torch.arange(size)) & 1).bool().reshape(-1, *shape)


def members_of(supports: Supports, shape: tuple[int, ...]) -> Tensor:
    """Return the admissible masks of a family, one by one asked of ``contains``: bool, shape (members, *shape)."""
    masks = enumerate_masks(shape)
    return masks[torch.tensor([supports.contains(mask) for mask in masks], dtype=torch.bool)]


def enumerate_optimum(problem: Problem) -> tuple[float, Tensor | None]:
    """Solve a small problem by trying every admissible mask.

    Parameters
    ----------
    problem : Problem
        Of at most 20 entries, over :class:`Sparse` or :class:`Masks`.

    Returns
    -------
    value : float
        ``problem.value`` at the best point found, ``inf`` when no mask is admissible. It is the value of a member of
        the set, so that no valid bound is above it; it is the optimum up to the accuracy of the refits.
    mask : bool Tensor, or None
        The admissible mask of that point.

    Raises
    ------
    Unsupported
        For another kind of structure.

    Notes
    -----
    A loss with an affine gradient is refitted on all masks at once; any other by its own ``minimise_on``, mask by mask.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> weight = torch.tensor([[1.0, 2.0, 3.0]])
    >>> problem = mp.formulations.layerwise(weight, torch.eye(3), mp.Cardinality(2), damping=0.0)
    >>> value, mask = enumerate_optimum(problem)
    >>> value, mask.tolist()
    (1.0, [[False, True, True]])
    """
    structure = problem.structure
    if not isinstance(structure, Sparse | Masks):
        raise Unsupported(f"enumeration knows Sparse and Masks, not {type(structure).__name__}")
    masks = members_of(structure.supports, problem.shape)
    if len(masks) == 0:
        return math.inf, None
    if isinstance(structure, Masks):
        values = [problem.value(mask.double()) for mask in masks]
        best = int(np.argmin(values))
        return values[best], masks[best]
    hessian = _hessian(problem)
    points = _refit_each(problem, masks) if hessian is None else _refit_all(problem, masks, *hessian)
    prices = torch.as_tensor(structure.price_per_entry, dtype=torch.float64).expand(problem.shape)
    estimates = [
        problem.reference.loss.value(point) + float(prices[mask].sum())
        for point, mask in zip(points, masks, strict=True)
    ]
    order = np.argsort(estimates)[:10]
    exact = [(problem.value(points[i]), int(i)) for i in order]
    value, best = min(exact)
    return value, masks[best]


def _hessian(problem: Problem) -> tuple[Tensor, Tensor] | None:
    """Hessian and gradient at 0 of a loss over the flat entries, ``None`` unless its gradient is affine."""
    loss = problem.reference.loss
    size, shape = problem.size, problem.shape
    zero = loss.gradient(torch.zeros(shape, dtype=torch.float64)).reshape(size)
    unit = torch.eye(size, dtype=torch.float64)
    matrix = torch.stack([loss.gradient(row.reshape(shape)).reshape(size) - zero for row in unit])
    for seed in range(2):
        point = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        expected, found = zero + matrix @ point, loss.gradient(point.reshape(shape)).reshape(size)
        terms = zero.abs() + matrix.abs() @ point.abs()
        if bool(((expected - found).abs() > 1e-9 * terms.clamp_min(1e-300)).any()):
            return None
    matrix = 0.5 * (matrix + matrix.mT)
    return None if not bool((matrix.diagonal() > 0).all()) else (matrix, zero)


def _refit_each(problem: Problem, masks: Tensor) -> list[Tensor]:
    reference = problem.reference
    points = []
    for mask in masks:
        point = torch.where(mask, reference.loss.minimise_on(mask).double(), 0.0)
        if problem.violation(point) != 0:  # it left the box
            inside = Problem(reference.loss, problem.structure.restrict(mask, ~mask))
            point = inside.repair(point)
        points.append(point)
    return points


def _refit_all(problem: Problem, masks: Tensor, hessian: Tensor, slope: Tensor) -> list[Tensor]:
    """Minimisers of ``slope w + w H w/2`` on each mask, inside the box if there is one."""
    flat = masks.reshape(len(masks), -1)
    limits = problem.structure._limits(torch.zeros(problem.shape, dtype=torch.float64))  # type: ignore[attr-defined]
    points = []
    for first in range(0, len(flat), _CHUNK):
        part = flat[first : first + _CHUNK]
        found = _solve(hessian, slope, part)
        if limits is not None:
            lower, upper = (torch.where(part, side.reshape(-1), 0.0) for side in limits)
            found = _inside_box(hessian, slope, part, found, lower, upper)
        points.append(found)
    return list(torch.cat(points).reshape(masks.shape))


def _solve(hessian: Tensor, slope: Tensor, free: Tensor, fixed: Tensor | None = None) -> Tensor:
    """Minimise over the free entries (sets, size), the others being ``fixed`` (default 0)."""
    inside = free.unsqueeze(-1) & free.unsqueeze(-2)
    scale = hessian.diagonal().rsqrt()
    unit = scale.unsqueeze(1) * hessian * scale
    system = torch.where(inside, unit, 0.0) + torch.diag_embed((~free).double())
    pull = slope if fixed is None else slope + fixed @ hessian
    right = torch.where(free, -pull * scale, 0.0)
    factor, info = torch.linalg.cholesky_ex(system)
    if bool((info == 0).all()):
        found = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
    else:
        found = torch.linalg.lstsq(system, right.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
    return torch.where(free, found * scale, 0.0 if fixed is None else fixed)


def _inside_box(hessian: Tensor, slope: Tensor, mask: Tensor, start: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Coordinate descent for all masks together, then an exact solve on what is not at a side of the box."""
    w = torch.maximum(torch.minimum(start, upper), lower)
    for _ in range(_SWEEPS):
        before = w.clone()
        for i in range(w.shape[1]):
            step = (slope[i] + w @ hessian[:, i]) / hessian[i, i]
            w[:, i] = torch.maximum(torch.minimum(w[:, i] - step, upper[:, i]), lower[:, i])
        if bool(((w - before).abs() <= 1e-14 * w.abs()).all()):
            break
    inner = mask & (w > lower) & (w < upper)
    polished = _solve(hessian, slope, inner, torch.where(inner, 0.0, w))
    polished = torch.maximum(torch.minimum(polished, upper), lower)

    def objective(point: Tensor) -> Tensor:
        return point @ slope + 0.5 * (point @ hessian * point).sum(dim=1)

    return torch.where((objective(polished) < objective(w)).unsqueeze(1), polished, w)
