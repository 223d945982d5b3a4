"""The contract of a solver: honest numbers, the same answer twice, budgets kept."""

from __future__ import annotations

import math
import time
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from ..core.arrays import digest
from ..core.problem import Problem
from ..core.solution import Proof, Solution, Status, Stop, check
from ..core.solver import Budget, Solver
from ..errors import Unsupported
from .require import random_point, require

__all__ = ["check_solver"]

_OVERHEAD = 10.0  # seconds that a run may take beyond its limit: loading back ends, compiling kernels


def check_solver(
    solver: Solver, problem: Problem, *, optimum: float | None = None, budget: Budget | None = None
) -> Solution | None:
    """Check a solver on one problem.

    Parameters
    ----------
    solver : Solver
        Any object with the protocol.
    problem : Problem
        Small enough that solving it a few times is no burden.
    optimum : float, optional
        The known optimum, for instance from :func:`enumerate_optimum`.
    budget : Budget, optional
        For the main run; default no limit.

    Returns
    -------
    Solution or None
        Of the main run; ``None`` when the solver rejects the problem.

    Raises
    ------
    AssertionError
        Naming the first broken promise: a rejection without a reason, a point outside S, a bound above the optimum, an
        optimum that is none, another answer the second time, a budget that is not kept, an input that was changed.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(2, 4), x.T @ x, mp.NofM(1, 2))
    >>> mp.testing.check_solver(mp.ADMM(), problem).violation
    0.0
    """
    name = solver.name
    require(isinstance(name, str) and bool(name.strip()), "name: it must be a non-empty string")
    require(isinstance(solver, Solver), f"{name}: it lacks a method of the Solver protocol")
    require(_is_frozen(solver), f"{name}: a solver is a frozen dataclass of its parameters")
    mark, parameters = digest(problem.loss, problem.structure), repr(solver)
    reason = solver.rejects(problem)
    if reason is not None:
        _check_rejection(solver, problem, reason)
        return None
    budget = budget or Budget()
    solution = solver.solve(problem, budget=budget)
    _check_solution(name, problem, solution, optimum)
    second = solver.solve(problem, budget=budget)
    if budget.seconds is None:
        _check_same(name, solution, second)
    _check_start(solver, problem, budget, optimum)
    _check_budget(solver, problem, optimum)
    _check_progress(solver, problem, budget, optimum)
    require(digest(problem.loss, problem.structure) == mark, f"{name}: it changed the problem it was given")
    require(repr(solver) == parameters, f"{name}: it changed its own parameters")
    return solution


def _is_frozen(solver: Solver) -> bool:
    if not is_dataclass(solver):
        return False
    names = [field.name for field in fields(solver)]
    try:
        setattr(solver, names[0] if names else "probe", None)
    except AttributeError:  # FrozenInstanceError derives from it
        return True
    return False


def _check_rejection(solver: Solver, problem: Problem, reason: str) -> None:
    require(isinstance(reason, str) and bool(reason.strip()), f"{solver.name}: it rejects a problem without a reason")
    try:
        solver.solve(problem)
    except Unsupported as error:
        require(reason in str(error), f"{solver.name}: solve raises Unsupported without the reason that rejects gives")
        return
    raise AssertionError(f"{solver.name}: it rejects the problem ({reason}), but solve does not raise Unsupported")


def _check_solution(name: str, problem: Problem, solution: Solution, optimum: float | None) -> None:
    require(isinstance(solution, Solution), f"{name}: solve must return a Solution, not {type(solution).__name__}")
    require(solution.stats.seconds is not None, f"{name}: the time of the run is not stated")
    require(bool(solution.solver), f"{name}: the solution does not say who found it")
    if solution.point is None:
        require(
            solution.status in (Status.NO_POINT, Status.INFEASIBLE), f"{name}: no point, but {solution.status.value}"
        )
        require(
            solution.status is not Status.INFEASIBLE or optimum in (None, math.inf),
            f"{name}: infeasible, but it is not",
        )
        return
    violation, value = problem.violation(solution.point), problem.value(solution.point)
    require(violation == 0, f"{name}: the point violates S by {violation}")
    slack = 2 * problem.rounding(solution.point) + 1e-14 * abs(value)
    require(abs(value - solution.value) <= slack, f"{name}: it says {solution.value!r}, the point is worth {value!r}")
    check(problem, solution)
    if solution.bound is not None:
        require(solution.bound <= value + slack, f"{name}: the bound {solution.bound!r} is above the value {value!r}")
    if optimum is not None:
        _check_against(name, problem, solution, optimum, slack)


def _check_against(name: str, problem: Problem, solution: Solution, optimum: float, slack: float) -> None:
    slack += 1e-9 * abs(optimum)
    require(solution.value >= optimum - slack, f"{name}: value {solution.value!r} below the optimum {optimum!r}")
    if solution.bound is not None:
        # A certificate has no tolerance; the word of a back end holds within the one it states.
        claimed = solution.proof is Proof.CLAIMED and solution.claim is not None
        room = (
            solution.claim.tolerance * max(abs(optimum), 1e-6 * problem.loss.scale)
            if claimed and solution.claim
            else 0.0
        )
        require(
            solution.bound <= optimum + slack + room, f"{name}: bound {solution.bound!r} above the optimum {optimum!r}"
        )
    if solution.status is Status.OPTIMAL:
        room = 2 * solution.tolerance * abs(optimum) + slack
        require(
            solution.value <= optimum + room, f"{name}: 'optimal' with {solution.value!r}, the optimum is {optimum!r}"
        )


def _check_same(name: str, first: Solution, second: Solution) -> None:
    same = (first.point is None) == (second.point is None) and first.bound == second.bound
    if same and first.point is not None and second.point is not None:
        same = torch.equal(first.point, second.point)
    require(same, f"{name}: solving twice gives two answers, {first.value!r} and {second.value!r}")


def _check_start(solver: Solver, problem: Problem, budget: Budget, optimum: float | None) -> None:
    start = random_point(problem.loss.start(), torch.Generator().manual_seed(7)).to(problem.loss.start())
    kept: Tensor = start.clone()
    solution = solver.solve(problem, budget=budget, start=start)
    require(torch.equal(start, kept), f"{solver.name}: it changed the start it was given")
    _check_solution(f"{solver.name} from a start", problem, solution, optimum)


def _check_budget(solver: Solver, problem: Problem, optimum: float | None) -> None:
    for budget in (Budget(seconds=0.05), Budget(iterations=1), Budget(nodes=1)):
        began = time.perf_counter()
        solution = solver.solve(problem, budget=budget)
        seconds = time.perf_counter() - began
        _check_solution(f"{solver.name} with {budget}", problem, solution, optimum)
        if budget.seconds is not None:
            late = seconds - budget.seconds
            require(late <= _OVERHEAD, f"{solver.name}: {late:.1f} seconds beyond a limit of {budget.seconds} seconds")


def _check_progress(solver: Solver, problem: Problem, budget: Budget, optimum: float | None) -> None:
    """Progress reports are in order and within each other; a callback that asks to stop is heard."""
    seen: list[tuple[float, float | None, float | None]] = []

    def listen(seconds: float, value: float | None, bound: float | None) -> bool:
        seen.append((seconds, value, bound))
        return True

    solution = solver.solve(problem, budget=budget, progress=listen)
    _check_solution(f"{solver.name} interrupted", problem, solution, optimum)
    if not seen:
        return
    times = [seconds for seconds, _, _ in seen]
    require(times == sorted(times) and times[0] >= 0, f"{solver.name}: progress goes back in time")
    for _, value, bound in seen:
        if value is not None and bound is not None:
            slack = solution.rounding + 1e-6 * abs(value)
            require(
                bound <= value + slack, f"{solver.name}: progress reports the bound {bound!r} above the value {value!r}"
            )
    finished = solution.status is Status.OPTIMAL or solution.stop in (Stop.USER, Stop.CONVERGED, Stop.GAP)
    require(finished, f"{solver.name}: progress asked to stop, but the run ended with {solution.stop.value!r}")
