"""What the layer-wise heuristics share: which problems they take, unit-diagonal variables, and how they end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.arrays import working_dtype
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Solver, Watch
from ...core.structure import Supports
from ...kernels import diagonal_split
from ...kernels.masked_solve import conjugate_gradient, direct
from ...losses.quadratic import Quadratic
from ...structures.partition import PartitionBudget

__all__ = ["Layer", "RowGroups", "finish", "layer_parts", "product", "reason_against_layer", "row_groups"]

_REFIT_SHARE = 3e-6  # the refit ends once an iteration gains no more than this, relatively
_SMALL, _NARROW = 1 << 14, 1 << 10  # entries, and kept entries of a row, up to which an exact refit costs nothing


def reason_against_layer(problem: Problem, *, per_row_gram: bool = False) -> str | None:
    """Return why ``problem`` is not layer-wise pruning (a quadratic over a family of supports), or ``None``."""
    loss, structure = problem.loss, problem.structure
    if not isinstance(loss, Quadratic):
        return f"its loss is {type(loss).__name__}, and this method needs a layer-wise Quadratic; try ProjectedGradient"
    if not isinstance(structure, Sparse):
        return f"its structure is {type(structure).__name__}, and this method chooses supports: Sparse(...)"
    if structure.box is not None:
        return "the weights are boxed, which its refit would ignore; try ProjectedGradient"
    price = structure.price_per_entry
    if bool((torch.as_tensor(price) != 0).any()):
        return "kept entries have a price, and this method only knows budgets; try ProjectedGradient"
    if loss.gram.ndim == 3 and not per_row_gram:
        return (
            "each row has its own Gram matrix, and this method shares one factorisation; try ADMM or ProjectedGradient"
        )
    return None


def layer_parts(problem: Problem) -> tuple[Quadratic, Supports]:
    """Return the loss and the family of supports of a problem that :func:`reason_against_layer` accepts."""
    loss, structure = problem.loss, problem.structure
    assert isinstance(loss, Quadratic) and isinstance(structure, Sparse)
    return loss, structure.supports


def finish(
    solver: Solver, problem: Problem, point: Tensor, *, watch: Watch, stop: Stop, iterations: int = 1
) -> Solution:
    """Assess the point of a heuristic; a point outside S (empty restricted sets) counts as none."""
    loss = problem.loss
    found = torch.where(torch.isfinite(point), point, 0.0).to(loss.start().dtype)
    valid = problem.violation(found) == 0
    solution = Solution.of(problem, found if valid else None, stop=stop, tolerance=watch.budget.gap, solver=solver.name)
    if solution.point is not None and not (watch.trace and watch.trace[-1][1] == solution.value):
        watch.report(solution.value, None)
    return replace(solution, stats=watch.stats(iterations=iterations, device=str(point.device)))


class RowGroups(NamedTuple):
    """A partition of each row into consecutive groups with a budget each, or one budget for the whole layer."""

    size: int
    """entries of a group; a divisor of the row length"""
    budget: int
    """kept entries of a group, at most; of the layer when ``whole``"""
    whole: bool
    """the budget is shared by all rows"""
    on: Tensor | None
    off: Tensor | None


def row_groups(problem: Problem) -> RowGroups | None:
    """Return the structure as :class:`RowGroups`, or ``None`` when it is no such partition."""
    _, supports = layer_parts(problem)
    if not isinstance(supports, PartitionBudget):
        return None
    rows, width = problem.shape
    size = supports.block_size((rows, width))
    if size <= width and width % size == 0:
        return RowGroups(size, supports.budget, False, supports.on, supports.off)
    if size >= rows * width:
        return RowGroups(width, supports.budget, True, supports.on, supports.off)
    return None


def product(
    rows: Tensor, matrix: Tensor, *, base: Tensor | None = None, factor: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """Return ``base + factor * rows @ matrix`` for one shared matrix (in, in), or each row's own of (out, in, in)."""
    if matrix.ndim == 2 and base is not None:
        if out is None:
            return torch.addmm(base, rows, matrix, alpha=factor)
        return torch.addmm(base, rows, matrix, alpha=factor, out=out)
    result = rows @ matrix if matrix.ndim == 2 else (rows.unsqueeze(1) @ matrix).squeeze(1)
    if base is not None:
        result = torch.add(base, result, alpha=factor)
    return result if out is None else out.copy_(result)


@dataclass(frozen=True, eq=False)
class Layer:
    r"""A layer in unit-diagonal variables: ``w' = w sqrt(diag H)``, ``H' = E H E``; masks and values are unchanged.

    Attributes
    ----------
    gram : Tensor, shape (in, in) or (out, in, in)
        H' with unit diagonal, in the working precision.
    center : Tensor, shape (out, in)
        Dense weights in these variables, divided by their root mean square so that no format overflows.
    scale : Tensor, shape (in,) or (out, in)
        ``w = w' * scale``.
    """

    gram: Tensor
    center: Tensor
    scale: Tensor
    unit: float
    """values of the loss are ``unit ** 2`` times those in these variables"""

    @classmethod
    def of(cls, problem: Problem, dtype: torch.dtype | None = None) -> Layer:
        """Rescale the problem; the scaling itself is computed in float64."""
        loss, _ = layer_parts(problem)
        precision = working_dtype(problem.size, dtype)
        inverse_root = diagonal_split.inverse_root(loss.diagonal.double())
        gram = inverse_root.unsqueeze(-1) * loss.gram.double() * inverse_root.unsqueeze(-2)
        center = loss.center.double() / inverse_root
        unit = float(center.square().mean().sqrt()) if center.numel() else 1.0
        unit = unit if unit > 0 else 1.0
        gram, center = gram.to(precision), (center / unit).to(precision)
        return cls(gram, center, inverse_root * unit, unit)

    def value(self, w: Tensor) -> float:
        """Return the loss at ``w`` (these variables) without its offset, in the working precision."""
        delta = w - self.center
        return self.unit**2 * float((product(delta, self.gram) * delta).sum())

    def refit(self, w: Tensor, mask: Tensor, iterations: int) -> Tensor:
        """Return the weights refitted on ``mask``: exactly where that is cheap, else iterating from ``w``."""
        largest = int(mask.sum(dim=1).max()) if mask.numel() else 0
        if largest**3 <= iterations * w.shape[1] ** 2 or (w.numel() <= _SMALL and largest <= _NARROW):
            return direct(self.gram, product(self.center, self.gram), mask)
        return conjugate_gradient(self.gram, self.center, mask, w, iterations=iterations, share=_REFIT_SHARE)

    def to_weights(self, w: Tensor) -> Tensor:
        """Return ``w`` in the original variables, in float64."""
        return w.double() * self.scale
