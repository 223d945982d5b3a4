"""Pruning by the dual: the masks that the oracle answers while the bound is maximised are the candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.arrays import as_tensor, working_dtype
from ...core.certificate import Certificate, Tangent
from ...core.loss import Loss
from ...core.problem import Problem
from ...core.solution import Solution, Status, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from .bundle import Bundle, maximise_dual, view

__all__ = ["DualBundle"]


@dataclass(frozen=True)
class DualBundle:
    r"""Maximise the bound of a low-rank problem, and keep the best support that its oracle proposes on the way.

    Parameters
    ----------
    iterations : int
        Oracle calls at most.
    dtype : torch.dtype, optional
        Working precision; default that of :func:`~mipprune.core.arrays.working_dtype`. The certificate is evaluated in
        float64 whatever it is.

    Notes
    -----
    The dual vector u of a tangent has as many entries as there are gradients. The oracle at u returns a support;
    refitted on it, the weights have the value that the maximum of its quadratic piece states (see
    :func:`~mipprune.solvers.bounds.bundle.maximise_dual`). Few of the p terms of the problem can be fractional in the
    relaxation, at most n plus the number of budgets plus one (Shapley-Folkman), so that bound and value meet up to a
    share of the order of n over the number of kept weights. Derived here.

    References
    ----------
    arXiv 2403.07094 (FALCON) and arXiv 2302.14623 (CHITA) for the problem.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> generator = torch.Generator().manual_seed(0)
    >>> gradients = torch.randn(4, 300, generator=generator, dtype=torch.float64)
    >>> dense = torch.randn(300, generator=generator, dtype=torch.float64)
    >>> problem = mp.Problem(mp.LowRank(gradients, dense, ridge=2.0), mp.Sparse(mp.Cardinality(60)))
    >>> solution = DualBundle().solve(problem)
    >>> solution.gap < 1e-2, solution.proof.value
    (True, 'checked')
    """

    iterations: int = 60
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InvalidProblem(f"iterations is {self.iterations}; it must be at least 1")

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "DualBundle"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        loss = problem.loss
        # A good split can cost seconds for other losses, so that their having no dual view is found out first.
        split = None if type(loss).dual is Loss.dual else loss.best_split()
        if split is None or view(problem, split) is None:
            return (
                "its bound is not decided by few dual variables: this method takes losses such as LowRank over "
                "Sparse(supports) without a box; try ProjectedGradient"
            )
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; a start in S is the first candidate, any other gives the first dual vector."""
        accept(self, problem)
        watch = Watch(budget, progress)
        work = problem.to(dtype=working_dtype(problem.size, self.dtype))
        split = work.loss.best_split()
        assert split is not None
        dual = view(work, split)
        assert dual is not None
        begin = work.loss.start() if start is None else as_tensor(start, "start", shape=problem.shape)
        bundle, stop = Bundle(), Stop.ITERATIONS
        try:
            while bundle.iterations < self.iterations:
                before = bundle.iterations
                maximise_dual(work, dual, begin, bundle=bundle, iterations=1, tolerance=watch.budget.gap)
                if bundle.iterations == before or bundle.mask is None:
                    stop = Stop.CONVERGED
                    break
                watch.report(bundle.value, bundle.bound)
                due = watch.due(iterations=bundle.iterations)
                if due is not None or bundle.value - bundle.bound <= 0.9 * watch.budget.gap * abs(bundle.value):
                    stop = due or Stop.GAP
                    break
        except KeyboardInterrupt:
            stop = Stop.USER
        point = None
        if bundle.mask is not None:
            point = problem.loss.minimise_on(bundle.mask)
            point = torch.where(bundle.mask.to(point.device), point, 0.0)
            point = None if problem.violation(point) != 0 else point
        certificate: Certificate | None = None
        bound = None
        if bundle.point is not None:
            certificate, bound = Tangent.bounded(problem, dual.point(bundle.point))
        stats = watch.stats(iterations=bundle.iterations, oracle_calls=bundle.iterations, device=str(split.device))
        solution = Solution.of(
            problem,
            point,
            stop=stop,
            certificate=certificate,
            bound=bound,
            tolerance=watch.budget.gap,
            stats=stats,
            solver=self.name,
            infeasible=bound == float("inf"),
        )
        if stop is Stop.GAP and solution.status is not Status.OPTIMAL:  # closed in working precision only
            solution = replace(solution, stop=Stop.CONVERGED)
        return solution
