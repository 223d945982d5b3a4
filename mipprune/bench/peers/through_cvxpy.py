"""Any mixed-integer solver that cvxpy knows: Gurobi, cuOpt, MOSEK, CPLEX, COPT, Xpress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept

__all__ = ["ThroughCvxpy"]

_LARGEST = 100_000
_TIME_LIMITS = {
    "GUROBI": "TimeLimit",
    "CUOPT": "time_limit",
    "MOSEK": "mosek_params",
    "CPLEX": "cplex_params",
    "COPT": "TimeLimit",
    "XPRESS": "timelimit",
}


@dataclass(frozen=True)
class ThroughCvxpy:
    """A solver behind cvxpy, given the same model as SCIP and HiGHS. Its point is judged; its bound is not asked for.

    Parameters
    ----------
    solver : str
        As cvxpy spells it, for example ``"GUROBI"``.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.formulations.transposable_mask(torch.ones(2, 2), mp.TransposableNofM(1, 2))
    >>> ThroughCvxpy("NO_SUCH_SOLVER").rejects(problem)
    'cvxpy finds no solver NO_SUCH_SOLVER here; install its package (and its licence)'
    """

    solver: str

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return f"{self.solver} through cvxpy"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        import cvxpy as cp

        if self.solver not in cp.installed_solvers():
            return f"cvxpy finds no solver {self.solver} here; install its package (and its licence)"
        if problem.size > _LARGEST:
            return f"{problem.size} entries; models are built up to {_LARGEST}"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Solve; see :class:`mipprune.Solver`. ``start`` is not used."""
        import cvxpy as cp

        accept(self, problem)
        watch = Watch(budget or Budget(), progress)
        model = problem.to_cvxpy()
        options: dict[str, Any] = {}
        name = _TIME_LIMITS.get(self.solver)
        if watch.budget.seconds is not None and name is not None and not name.endswith("params"):
            options[name] = watch.budget.seconds
        try:
            model.solve(solver=self.solver, **options)
        except cp.SolverError:  # a limit was reached without a point
            return Solution.of(problem, None, stop=Stop.TIME, stats=watch.stats(device="cpu"), solver=self.name)
        found = next((variable.value for variable in model.variables() if variable.name() == "w"), None)
        point = None if found is None else problem.repair(torch.from_numpy(np.asarray(found)).reshape(problem.shape))
        stop = Stop.TIME if watch.due() is not None else Stop.CONVERGED
        return Solution.of(problem, point, stop=stop, stats=watch.stats(device="cpu"), solver=self.name)
