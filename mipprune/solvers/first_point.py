"""The first point of an exact search: what a heuristic of the family finds quickly, or the repaired start."""

from __future__ import annotations

import math

from torch import Tensor

from ..core.arrays import exact
from ..core.problem import Problem
from ..core.solution import Stop
from ..core.solver import Budget, Solver, Watch
from .descent.task_descent import TaskDescent
from .layers.local_search import LocalSearch
from .rules.rule_swaps import RuleSwaps

__all__ = ["first_point"]

_SHARE = 0.1  # of the time that is left
_HEURISTICS: tuple[Solver, ...] = (LocalSearch(), RuleSwaps(), TaskDescent())


def first_point(problem: Problem, start: Tensor | None, watch: Watch) -> Tensor:
    """Return a member of S to begin with.

    Parameters
    ----------
    problem : Problem
        In float64 on the CPU.
    start : Tensor, optional
        The user's, which is repaired and nothing else.
    watch : Watch
        A heuristic gets a tenth of the time that is left.
    """
    point = problem.repair(problem.loss.start() if start is None else exact(start))
    if start is not None and not math.isfinite(problem.value(point)):  # so far out that nothing compares with it
        point = problem.repair(problem.loss.start())
    if start is not None or problem.on is not None:
        return point
    for heuristic in _HEURISTICS:
        if heuristic.rejects(problem) is not None:
            continue
        seconds = None if watch.budget.seconds is None else max(_SHARE * watch.remaining, 1e-3)
        solution = heuristic.solve(problem, budget=Budget(seconds=seconds))
        if solution.stop is Stop.USER:
            watch.stopped = Stop.USER
        if solution.point is not None and solution.value < problem.value(point):
            return exact(solution.point)
        break
    return point
