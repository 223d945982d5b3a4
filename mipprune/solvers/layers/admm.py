"""Operator splitting for layer-wise pruning (ALPS)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...core.structure import Supports
from ...errors import InvalidProblem
from ...structures.partition import PartitionBudget
from .layer import Layer, finish, layer_parts, product, reason_against_layer

__all__ = ["ADMM"]


@dataclass(frozen=True)
class ADMM:
    r"""Alternating directions with a growing penalty, then a refit on the support found (ALPS).

    Parameters
    ----------
    penalty : float
        First penalty :math:`\rho`, > 0, in unit-diagonal variables.
    growth : (float, float, float)
        Factors on the penalty when the support changed much, some, or little between two checks.
    shares : (float, float)
        What "much" and "some" mean, as changed entries over kept entries.
    period : int
        Iterations between two checks.
    iterations : int
        Largest number of iterations.
    settled : (int, float)
        From this iteration on the run also stops once the changed share is below this.
    largest_penalty : float
        Cap on the penalty.
    refit_iterations : int
        Conjugate-gradient iterations of the final refit (small layers are refitted exactly).
    dtype : torch.dtype, optional
        Precision of the iterations; default float32 for large layers and float64 for small ones.

    Notes
    -----
    With H of unit diagonal (a rescaling that changes neither masks nor values), dense weights C and any family of
    supports,

    .. math:: W &\leftarrow (CH - V + \rho D)(H + \rho I)^{-1} \\
              D &\leftarrow P_{\mathcal M}(W + V/\rho) \\
              V &\leftarrow V + \rho (W - D)

    and :math:`\rho` grows until the support stands still. The support returned is that of the best mask of W. When the
    very first checks already show (almost) no change, the penalty was too large: it is divided by 5 and the run starts
    anew. For families other than budgets on entries, the mask of the first projection is refitted too and the better
    one returned. An iteration needs one product and one selection; :math:`V` and :math:`D` live on complementary
    entries of :math:`A = W + V/\rho`, so that only A and its mask are stored.

    References
    ----------
    Meng, Behdin, Wang, Mazumder, "ALPS: improved optimization for highly sparse one-shot pruning for large language
    models", arXiv 2406.07831; the defaults are those of the published code.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(2, 8), x.T @ x, mp.NofM(2, 4))
    >>> solution = ADMM().solve(problem)
    >>> int(solution.mask.sum()), solution.status.value
    (8, 'feasible')
    """

    penalty: float = 0.1
    growth: tuple[float, float, float] = (1.3, 1.2, 1.1)
    shares: tuple[float, float] = (0.1, 0.005)
    period: int = 3
    iterations: int = 300
    settled: tuple[int, float] = (30, 3e-4)
    largest_penalty: float = 1e6
    refit_iterations: int = 10
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise InvalidProblem(f"penalty is {self.penalty}; it must be > 0")
        if min(self.growth) <= 1:
            raise InvalidProblem(f"growth is {self.growth}; every factor must be > 1, or the support need not settle")
        if self.period < 1 or self.iterations < 1 or self.refit_iterations < 0:
            raise InvalidProblem("period and iterations must be at least 1, refit_iterations at least 0")

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "ADMM"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`: layer-wise quadratics over any family of supports, without box or price."""
        return reason_against_layer(problem, per_row_gram=True)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; a start is the first point, and a member of S is returned unless it is improved."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss, supports = layer_parts(problem)
        if problem.violation(loss.center) == 0:  # the dense weights need no pruning, and nothing is better
            return finish(self, problem, loss.center, watch=watch, stop=Stop.CONVERGED, iterations=0)
        layer = Layer.of(problem, self.dtype)
        first = layer.center if start is None else (start.to(layer.center.device) / layer.scale).to(layer.center)
        run = _Run(self, layer, supports, first)
        stop = run.iterate(watch)
        point = layer.to_weights(run.refitted())
        if start is not None and problem.violation(start) == 0 and problem.value(start) < problem.value(point):
            point = start.to(point)
        return finish(self, problem, point, watch=watch, stop=stop, iterations=run.iteration)


class _Run:
    """State of one run.

    ``a`` is W + V/rho, ``rest`` its part off the mask, which is V/rho after the update, ``right`` is D - V/rho - C.
    """

    def __init__(self, solver: ADMM, layer: Layer, supports: Supports, first: Tensor) -> None:
        self.solver, self.layer, self.supports = solver, layer, supports
        self.keep = supports.keeper()
        self.first = first
        self.penalty = solver.penalty
        self.iteration = 0
        self.w = first.clone()
        self.a, self.rest = torch.empty_like(first), torch.zeros_like(first)
        self.right, self.gain = torch.empty_like(first), torch.empty_like(first)
        self.first_mask = self.mask = self.keep(first * first)
        self.kept = max(int(self.mask.sum()), 1)
        self.restart()

    def refitted(self) -> Tensor:
        """Return the refit on the mask of W, or on the first mask where only whole groups can change hands."""
        masks = [self.keep(self.w * self.w)]
        if not isinstance(self.supports, PartitionBudget):
            masks.append(self.first_mask)
        points = [self.layer.refit(self.w, mask, self.solver.refit_iterations) for mask in masks]
        return points[0] if len(points) == 1 else min(points, key=self.layer.value)

    def restart(self) -> None:
        """Begin with W the first point, D its projection and V = 0."""
        self.w.copy_(self.first)
        self.rest.zero_()
        torch.mul(self.first, self.first_mask, out=self.right)
        self.right.sub_(self.layer.center)
        self.inverse = _shifted_inverse(self.layer.gram, self.penalty)

    def iterate(self, watch: Watch) -> Stop:
        """Run until the support stands still or a budget is spent."""
        solver, last, grown = self.solver, self.mask, False
        try:
            while self.iteration < solver.iterations:
                self.step()
                stop = watch.due(iterations=self.iteration)
                if stop is not None:
                    return stop
                if self.iteration % solver.period:
                    continue
                changed = int(torch.count_nonzero(self.mask != last))
                last = self.mask
                if watch.progress is not None:
                    watch.report(None, None)
                if changed == 0 and grown:
                    return Stop.CONVERGED
                if self.iteration >= solver.settled[0] and changed < solver.settled[1] * self.kept:
                    return Stop.CONVERGED
                grown = self._adapt(changed, grown)
        except KeyboardInterrupt:
            return Stop.USER
        return Stop.ITERATIONS

    def step(self) -> None:
        """One update of W, D and V."""
        # (CH - V + rho D)(H + rho I)^-1 as a correction of C, which keeps its accuracy near C and needs no CH.
        product(self.right, self.inverse, base=self.layer.center, factor=self.penalty, out=self.w)
        torch.add(self.w, self.rest, out=self.a)
        torch.mul(self.a, self.a, out=self.gain)
        self.mask = self.keep(self.gain)
        # Several times faster than torch.where, and than a product with booleans.
        torch.mul(self.a, (~self.mask).view(torch.int8), out=self.rest)
        torch.sub(self.a, self.rest, alpha=2.0, out=self.right)
        self.right.sub_(self.layer.center)
        self.iteration += 1

    def _adapt(self, changed: int, grown: bool) -> bool:
        """Change the penalty after a check; returns whether it has ever grown."""
        much, some = (share * self.kept for share in self.solver.shares)
        if not grown and changed <= some:
            self.penalty /= 5.0
            if changed:
                self.restart()
            else:
                self._change_penalty(5.0)
            return False
        factor = self.solver.growth[0 if changed > much else 1 if changed > some else 2]
        before, self.penalty = self.penalty, min(self.penalty * factor, self.solver.largest_penalty)
        if self.penalty != before:
            self._change_penalty(before / self.penalty)
        return True

    def _change_penalty(self, ratio: float) -> None:
        """Keep V and D and express them with the new penalty."""
        torch.sub(self.a, self.rest, out=self.right)
        self.rest.mul_(ratio)
        self.right.sub_(self.rest).sub_(self.layer.center)
        self.inverse = _shifted_inverse(self.layer.gram, self.penalty)


def _shifted_inverse(gram: Tensor, shift: float) -> Tensor:
    """Return ``(gram + shift I)^-1``; in float64 when the working precision does not suffice."""
    for precision in (gram.dtype, torch.float64):
        shifted = gram.to(precision, copy=True)
        torch.diagonal(shifted, dim1=-2, dim2=-1).add_(shift)
        factor, info = torch.linalg.cholesky_ex(shifted)
        if not bool((info != 0).any()):
            return torch.cholesky_inverse(factor).to(gram.dtype)
    raise InvalidProblem("gram + penalty I is not positive definite; gram is far from positive semidefinite")
