"""Pruning in one pass: magnitude, Wanda, SparseGPT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.arrays import working_dtype
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem, SolverFailure
from ...kernels.surgeon import inverse_factor, sweep
from ...kernels.top_k import keep_largest
from ...losses.quadratic import Quadratic
from ...structures.cardinality import Cardinality
from .layer import Layer, finish, layer_parts, reason_against_layer, row_groups

__all__ = ["Magnitude", "SparseGPT", "Wanda"]

_REFIT_ITERATIONS = 30


def _assessed(
    solver: Magnitude | Wanda | SparseGPT,
    problem: Problem,
    point: Tensor,
    mask: Tensor,
    *,
    refit: bool,
    watch: Watch,
) -> Solution:
    """Refit if asked for, report the value, and end."""
    if refit:
        layer = Layer.of(problem)
        fitted = layer.refit((point / layer.scale).to(layer.center), mask, _REFIT_ITERATIONS)
        point = torch.where(mask, layer.to_weights(fitted), 0.0)
    return finish(solver, problem, point, watch=watch, stop=Stop.CONVERGED)


@dataclass(frozen=True)
class Magnitude:
    """Keep the largest weights in absolute value, under any family of supports.

    Parameters
    ----------
    refit : bool
        Refit the kept weights to the calibration data.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.formulations.layerwise(torch.tensor([[3.0, -1.0], [0.5, 2.0]]), torch.eye(2), mp.Cardinality(2))
    >>> Magnitude().solve(problem).mask
    tensor([[ True, False],
            [False,  True]])
    """

    refit: bool = False

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "Magnitude"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        return reason_against_layer(problem, per_row_gram=True)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; a one-pass method has no use for a start."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss, supports = layer_parts(problem)
        mask = supports.keep(loss.center.abs())
        point = torch.where(mask, loss.center, 0.0)
        return _assessed(self, problem, point, mask, refit=self.refit, watch=watch)


@dataclass(frozen=True)
class Wanda:
    r"""Keep the weights with the largest :math:`|w_{ri}|\,\|X_i\|`, compared within each row.

    Parameters
    ----------
    refit : bool
        Refit the kept weights to the calibration data.

    Notes
    -----
    It is the exact solution of the problem with H replaced by the diagonal of the undamped :math:`X^\top X`. A budget
    for the whole layer is shared out evenly over the rows (the method compares within rows); what does not divide goes
    to the rows with the largest next score. Families that couple entries otherwise receive the squared scores as gains.

    References
    ----------
    Sun, Liu, Bair, Kolter, "A simple and effective pruning approach for large language models", arXiv 2306.11695.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> gram = torch.diag(torch.tensor([1.0, 100.0]))
    >>> problem = mp.formulations.layerwise(torch.tensor([[3.0, -1.0]]), gram, mp.PerRow(1))
    >>> Wanda().solve(problem).mask
    tensor([[False,  True]])
    """

    refit: bool = False

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "Wanda"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        return reason_against_layer(problem, per_row_gram=True)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; a one-pass method has no use for a start."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss, supports = layer_parts(problem)
        scores = wanda_scores(loss)
        if isinstance(supports, Cardinality) and supports.on is None:
            mask = _spread_over_rows(scores, supports.count)
        else:
            mask = supports.keep(scores)
        point = torch.where(mask, loss.center, 0.0)
        return _assessed(self, problem, point, mask, refit=self.refit, watch=watch)


def wanda_scores(loss: Quadratic) -> Tensor:
    """Return ``w_ri^2 ||X_i||^2`` with the damping taken out of the diagonal; (out, in)."""
    return loss.center.square() * (loss.diagonal - loss.ridge).clamp_min(0.0)


def _spread_over_rows(scores: Tensor, count: int) -> Tensor:
    """Keep ``count`` entries: equally many in each row, the remainder where the next score is largest."""
    rows, width = scores.shape
    each, extra = divmod(min(count, rows * width), rows)
    mask = keep_largest(scores, each)
    if extra:
        best, where = scores.masked_fill(mask, -1.0).max(dim=1)
        lucky = keep_largest(best.unsqueeze(0), extra).squeeze(0)
        mask[lucky, where[lucky]] = True
    return mask & (scores > 0)


@dataclass(frozen=True)
class SparseGPT:
    r"""Prune the inputs one after another and move each error to the inputs not yet visited.

    Parameters
    ----------
    refit : bool
        Refit all kept weights at the end; the sweep itself never corrects weights that it has passed.
    block : int
        Inputs whose mask is chosen and whose errors are propagated together.
    dtype : torch.dtype, optional
        Working precision; default float32 for large layers and float64 for small ones.

    Notes
    -----
    With :math:`H^{-1} = U^\top U`, U upper triangular, the scores are :math:`w_{ri}^2/U_{ii}^2`. Budgets per layer or
    per row are shared out evenly over the blocks (the published code removes one weight more in each block than that);
    groups of N:M and blocks of transposable masks choose when the sweep reaches them. Any other family of supports
    chooses its mask once, from the scores at the start.

    References
    ----------
    Frantar, Alistarh, "SparseGPT: massive language models can be accurately pruned in one-shot", arXiv 2301.00774.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(2, 8), x.T @ x, mp.NofM(2, 4))
    >>> int(SparseGPT().solve(problem).mask.sum())
    8
    """

    refit: bool = False
    block: int = 128
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.block < 1:
            raise InvalidProblem(f"block is {self.block}; it must be at least 1")

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "SparseGPT"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        return reason_against_layer(problem)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; a one-pass method has no use for a start."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss, _ = layer_parts(problem)
        precision = working_dtype(problem.size, self.dtype)
        factor = _factor(loss.gram, precision)
        weight = loss.center.to(precision).mT.clone(memory_format=torch.contiguous_format)  # the sweep overwrites it
        choose, group, block = self._rule(problem, weight, factor)
        mask = sweep(weight, factor, choose, block=block, group=group).mT
        point = weight.mT.contiguous().double()
        return _assessed(self, problem, point, mask, refit=self.refit, watch=watch)

    def _rule(
        self, problem: Problem, weight: Tensor, factor: Tensor
    ) -> tuple[Callable[[Tensor, int, int], Tensor], int, int]:
        """Return how masks are chosen, for how many inputs at a time, and the block length."""
        width, rows = weight.shape
        groups = row_groups(problem)
        window = layer_parts(problem)[1].window() if problem.on is None else None
        if groups is None and window is not None:
            keep = layer_parts(problem)[1].keep
            block = max(self.block // window, 1) * window
            return (lambda scores, first, last: keep(scores.mT.contiguous()).mT), window, block
        if groups is None or groups.on is not None:
            scores = (weight.square() / factor.diagonal().square().unsqueeze(1)).mT
            chosen = layer_parts(problem)[1].keep(scores.contiguous()).mT
            return lambda scores, first, last: chosen[first:last], self.block, self.block
        if groups.whole or groups.size == width:
            total = min(groups.budget, width * (rows if groups.whole else 1))

            def share(scores: Tensor, first: int, last: int) -> Tensor:
                count = total * last // width - total * first // width
                if groups.whole:
                    return keep_largest(scores.reshape(1, -1), count).reshape(scores.shape)
                return keep_largest(scores.mT.contiguous(), count).mT

            return share, self.block, self.block
        budget, size = groups.budget, groups.size
        block = max(self.block // size, 1) * size
        return (lambda scores, first, last: keep_largest(scores.mT.contiguous(), budget).mT), size, block


def _factor(gram: Tensor, precision: torch.dtype) -> Tensor:
    """Return U in the working precision, computed in float64 when that precision does not suffice."""
    for attempt in (precision, torch.float64):
        factor = inverse_factor(gram.to(attempt))
        if factor is not None:
            return factor.to(precision)
    raise SolverFailure("the Cholesky factorisation of gram failed in float64; raise the damping (0.01 is usual)")
