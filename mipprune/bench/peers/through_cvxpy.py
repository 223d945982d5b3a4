"""Any mixed-integer solver that cvxpy knows: Gurobi, cuOpt, COPT, Xpress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.certificate import Claim
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Solver, Watch, accept
from ...errors import SolverFailure, Unsupported

__all__ = ["CVXPY", "ThroughCvxpy"]

_LARGEST = 100_000
_UNTOUCHED = 1  # Gurobi's status of a model that was loaded only
_TIME_LIMITS = {"GUROBI": "TimeLimit", "CUOPT": "time_limit", "COPT": "TimeLimit", "XPRESS": "timelimit"}


@dataclass(frozen=True)
class ThroughCvxpy:
    """A solver behind cvxpy, given the same model as SCIP and HiGHS.

    Its point is judged; only Gurobi's bound is read.

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
        """Solve; see :class:`mipprune.Solver`. ``start`` is not used.

        Raises
        ------
        Unsupported
            If the solver does not take such a model, or its licence none of this size.
        """
        import cvxpy as cp

        accept(self, problem)
        watch = Watch(budget, progress)
        model = problem.to_cvxpy()
        try:
            data, chain, inverse = model.get_problem_data(self.solver)
        except cp.SolverError as error:
            raise Unsupported(f"{self.solver} takes no such model: {str(error).splitlines()[0]}") from error
        options: dict[str, Any] = {}
        name = _TIME_LIMITS.get(self.solver)
        if watch.budget.seconds is not None and name is not None:
            options[name] = max(watch.remaining, 0.1)
        if self.solver == "GUROBI":
            options |= {"MIPGap": watch.budget.gap, "Threads": torch.get_num_threads()}
        try:
            raw = chain.solve_via_data(model, data, warm_start=False, verbose=False, solver_opts=options)
            if self.solver == "GUROBI" and raw["model"].Status == _UNTOUCHED:
                raw["model"].optimize()  # raises what cvxpy kept to itself
            model.unpack_results(raw, chain, inverse)
        except cp.SolverError:  # a limit was reached without a point
            return Solution.of(problem, None, stop=Stop.TIME, stats=watch.stats(device="cpu"), solver=self.name)
        except Exception as error:  # each package has exceptions of its own
            if "licen" not in str(error).lower():
                raise SolverFailure(f"{self.solver} broke down: {error}") from error
            raise Unsupported(f"size-limited licence: {error}") from error
        found = next((variable.value for variable in model.variables() if variable.name() == "w"), None)
        point = None if found is None else problem.repair(torch.from_numpy(np.asarray(found)).reshape(problem.shape))
        nodes, claim = _of_gurobi(model, watch.budget.gap) if self.solver == "GUROBI" else (None, None)
        return Solution.of(
            problem,
            point,
            stop=Stop.CONVERGED if watch.due() is None else Stop.TIME,
            claim=claim,
            tolerance=watch.budget.gap,
            stats=watch.stats(nodes=nodes, device="cpu"),
            solver=self.name,
        )


def _of_gurobi(model: Any, gap: float) -> tuple[int | None, Claim | None]:
    """Nodes and bound; what cvxpy adds to the objective is the difference of the two objective values."""
    native = model.solver_stats.extra_stats
    try:
        bound, value, nodes = float(native.ObjBound), float(native.ObjVal), int(native.NodeCount)
    except (AttributeError, TypeError, ValueError):
        return None, None
    if not np.isfinite(bound) or abs(bound) >= 1e100 or model.value is None:
        return nodes, None
    version = metadata.version("gurobipy")
    return nodes, Claim("Gurobi", version, bound + (float(model.value) - value), max(gap, 1e-4))


CVXPY: dict[str, Callable[[], Solver]] = {
    "gurobi": partial(ThroughCvxpy, "GUROBI"),
    "cuopt": partial(ThroughCvxpy, "CUOPT"),
}
"""What every family may be given."""
