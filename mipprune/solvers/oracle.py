"""One oracle call: the exact answer when the loss itself is separable."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.certificate import Tangent
from ..core.problem import Problem
from ..core.solution import Solution, Stop
from ..core.solver import Budget, Progress, Watch, accept
from ..losses.linear import Linear

__all__ = ["Oracle"]


@dataclass(frozen=True)
class Oracle:
    """Solve a problem with a linear loss by one call of the structure's oracle; the bound is the oracle's own.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.Problem(mp.Linear([[-3.0, -1.0, -2.0, -4.0]]), mp.Masks(mp.NofM(2, 4)))
    >>> solution = mp.solve(problem, mp.Oracle())
    >>> solution.value, solution.proof.value
    (-7.0, 'checked')
    """

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "oracle"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if not isinstance(problem.loss, Linear):
            return f"its loss is {type(problem.loss).__name__}, and one oracle call is exact for a linear loss only"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Solve; ``start`` is not needed and ignored."""
        accept(self, problem)
        watch = Watch(budget, progress)
        anchor = torch.zeros((), dtype=torch.float64).expand(problem.shape)  # a linear function has one tangent
        answer = problem.structure.argmin(problem.loss.minorant(anchor))  # in the precision and where the data are
        evaluated = answer.point.device.type == "cpu" and answer.point.dtype == torch.float64
        if answer.bound == float("inf"):
            return Solution.of(problem, None, stop=Stop.CONVERGED, infeasible=True, stats=watch.stats(oracle_calls=1))
        watch.report(answer.value, answer.bound)
        return Solution.of(
            problem,
            answer.point,
            stop=Stop.CONVERGED,
            certificate=Tangent(anchor, None, answer.witness),
            bound=answer.bound if evaluated else None,
            tolerance=watch.budget.gap,
            stats=watch.stats(oracle_calls=1, device=str(answer.point.device)),
            solver=self.name,
        )
