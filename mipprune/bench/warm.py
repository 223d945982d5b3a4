"""Runs before the clock starts, so that nothing is compiled and no library is loaded while a solver is measured."""

from __future__ import annotations

import contextlib
import time

from ..core.problem import Problem
from ..core.solver import Budget, Solver
from ..errors import MippruneError
from .families import Family
from .peers import Elsewhere

__all__ = ["warm_up"]

_TINY_SECONDS = 20.0
_SECONDS = 0.5  # on an instance of the quick suite
_TRIES = 5
_SEED = 1000  # of no recorded run


def warm_up(family: Family, solver: Solver) -> None:
    """Run a solver on the tiny instance of a family, and shortly on small ones of its quick suite.

    A run that took much longer than its limit was compiling, and is repeated: what it would have reached next may have
    to be compiled too. Peers in processes of their own do this there.

    Parameters
    ----------
    family : Family
    solver : Solver
    """
    _run(family.tiny_problem(), solver, _TINY_SECONDS)
    if isinstance(solver, Elsewhere):
        return
    quick = family.suites["quick"]
    for parameters in (quick[0], quick[-1]):
        problem = family.problem(parameters, _SEED)
        for _ in range(_TRIES):
            if _run(problem, solver, _SECONDS) <= 2.0 * _SECONDS:
                break


def _run(problem: Problem, solver: Solver, seconds: float) -> float:
    """Return the seconds that a run took, 0 when the solver does not take the problem."""
    if solver.rejects(problem) is not None:
        return 0.0
    started = time.perf_counter()
    with contextlib.suppress(MippruneError):  # it will say so on the instance itself
        solver.solve(problem, budget=Budget(seconds=seconds))
    return time.perf_counter() - started
