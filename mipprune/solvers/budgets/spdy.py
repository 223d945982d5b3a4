"""Allocation by dynamic programming over a budget cut into buckets: the usual method, with its rounding visible."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Masks
from ...core.arrays import exact
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from ...losses.linear import Linear
from ...structures.multiple_choice import MultipleChoice

__all__ = ["SpdyDP"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SpdyDP:
    """The dynamic program of SPDY: one budget, cut into buckets, and costs rounded up to whole buckets.

    Rounding up keeps the answer within the budget and makes it worse than the optimum, by up to a bucket for each
    layer. It has no bound of its own: compare it with ``mp.solve``.

    Parameters
    ----------
    buckets : int
        Into which the budget is cut.

    References
    ----------
    SPDY, arXiv 2201.13096, which takes 10,000 buckets.

    Examples
    --------
    >>> import mipprune as mp
    >>> problem = mp.formulations.allocation([[9.0, 4.0, 0.0], [5.0, 0.0]], [[0.0, 1.0, 3.0], [0.0, 2.0]], 3.0)
    >>> SpdyDP().solve(problem).value, SpdyDP(buckets=3).solve(problem).value  # a third of 10,000 is rounded up
    (5.0, 4.0)
    """

    buckets: int = 10_000

    def __post_init__(self) -> None:
        if int(self.buckets) < 1:
            raise InvalidProblem(f"buckets is {self.buckets}; at least one is needed")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "spdy_dp"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`: linear losses over one option for each layer, one budget, nothing fixed."""
        structure = problem.structure
        if not isinstance(problem.loss, Linear) or not isinstance(structure, Masks):
            return "it sums up the errors of options: formulations.allocation(...)"
        family = structure.supports
        if not isinstance(family, MultipleChoice) or family.on is not None or family.off is not None:
            return "it chooses one option for each layer, with nothing fixed: formulations.allocation(...)"
        if len(family.budgets) > 1 or len(family.pairs):
            return "it takes one budget without pairs of layers; mp.solve(problem) takes any number"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Solve; ``start`` is ignored. There is no point where the rounded costs of all choices exceed the budget."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss, structure = problem.loss, problem.structure
        assert isinstance(loss, Linear) and isinstance(structure, Masks)
        family = structure.supports
        assert isinstance(family, MultipleChoice)
        errors = np.split(exact(loss.cost).numpy(), np.cumsum([len(table) for table in family.costs])[:-1])
        best = np.zeros(self.buckets + 1)
        taken = []
        for error, cost in zip(errors, self._rounded(family)):
            longer = np.full(self.buckets + 1, np.inf)
            option = np.zeros(self.buckets + 1, dtype=np.int64)
            for j, (e, c) in enumerate(zip(error.tolist(), cost.tolist())):
                if c > self.buckets:
                    continue
                value = best[: self.buckets + 1 - c] + e
                better = value < longer[c:]
                longer[c:][better], option[c:][better] = value[better], j
            best = longer
            taken.append(option)
        point = None if math.isinf(best[-1]) else self._point(family, taken)
        watch.report(None if point is None else float(best[-1]), None)
        return Solution.of(
            problem,
            point,
            stop=Stop.CONVERGED,
            tolerance=watch.budget.gap,
            stats=watch.stats(device="cpu"),
            solver=self.name,
        )

    def _rounded(self, family: MultipleChoice) -> list[Array]:
        """Costs in buckets, rounded up in exact arithmetic; one bucket more than there are stands for too much."""
        tables, _, (limit,) = family.whole
        whole, beyond = int(limit), self.buckets + 1

        def rounded(cost: float) -> int:
            if whole == 0:
                return 0 if cost == 0 else beyond
            return min(-(-int(cost) * self.buckets // whole), beyond)

        return [np.array([rounded(cost) for cost in table[:, 0].tolist()], dtype=np.int64) for table in tables]

    def _point(self, family: MultipleChoice, taken: list[Array]) -> Tensor:
        """Walk back through the table."""
        room, mask, last = self.buckets, torch.zeros(family.size, dtype=torch.float64), family.size
        for option, cost, table in zip(reversed(taken), reversed(self._rounded(family)), reversed(family.costs)):
            last -= len(table)
            chosen = int(option[room])
            mask[last + chosen] = 1.0
            room -= int(cost[chosen])
        return mask
