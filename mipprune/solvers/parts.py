"""Problems that fall apart, part by part: points joined, bounds added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import torch
from torch import Tensor

from ..core.certificate import Certificate, Tangent
from ..core.parts import Part, Parts, added_up
from ..core.problem import Problem
from ..core.solution import Solution, Stats, Stop
from ..core.solver import Budget, Progress, Solver, Watch
from .bounds.relaxation import best_tangent
from .first_point import first_point

__all__ = ["solve_parts"]

Join = Callable[[tuple[Certificate, ...], list[float]], tuple[Certificate, float]]
_FIRST = 0.1  # share of the time for a first bound
_SPLITS, _ITERATIONS = 4, 20  # of the relaxation of the whole
_LONGER = 2.0  # how many times the seconds of its last search a part must be given to be searched again


def solve_parts(
    solver: Solver,
    problem: Problem,
    parts: Sequence[Part],
    *,
    budget: Budget | None,
    start: Tensor | None,
    progress: Progress | None,
    executor: Executor | None = None,
    join: Join | None = None,
) -> Solution:
    """Solve each part by the same solver, and return one solution of the whole.

    Parameters
    ----------
    solver : Solver
        Its solutions carry certificates.
    problem : Problem
    parts : sequence of Part
        All of ``parts_of(problem)``.
    budget : Budget, optional
        Time is shared out equally; what a part leaves goes to those after it, and what is left in the end to parts
        that are still open. Parts that time or an interrupt leave out keep the bound of the relaxation of the whole.
    start : Tensor, optional
        Of the shape of the problem.
    progress : callable, optional
        Called after each part.
    executor : concurrent.futures.Executor, optional
        Parts are handed to it, all at once; each then gets an equal share of the time.
    join : callable, optional
        Makes one certificate, with its bound, of those of the parts and their bounds; default :class:`Parts`.
    """
    watch = Watch(budget, progress)
    work = problem.reference
    point = first_point(work, start, watch).ravel().clone()
    starts = [point[part.entries].reshape(part.problem.shape) for part in parts]
    dense = point.reshape(work.shape)
    whole = _whole_tangent(work, dense, watch) if join is None else Tangent(dense.clone())
    if executor is None:
        answers = _in_turn(solver, parts, starts, watch)
    else:
        answers = _together(solver, parts, starts, watch, executor)
    found: dict[int, Solution] = {}
    stop: Stop | None = None
    try:
        for number, solution in answers:
            found[number] = solution
            if solution.point is None:  # an empty part leaves no point at all
                break
            point[parts[number].entries] = solution.point.ravel()
            watch.report(work.value(point.reshape(problem.shape)), None)
            if solution.stop is Stop.USER or watch.stopped is not None:
                stop = Stop.USER
                break
    except KeyboardInterrupt:
        stop = Stop.USER
    missing = any(solution.point is None for solution in found.values())
    joined = None if missing else point.reshape(problem.shape)
    certificate, bound = (join or _added)(*_proven(parts, whole, found))
    return Solution.of(
        problem,
        joined,
        stop=stop or _reason(parts, found),
        certificate=certificate,
        bound=bound,
        tolerance=watch.budget.tolerance(math.inf if joined is None else work.value(joined)),
        stats=_stats(found, watch),
        solver=solver.name,
        infeasible=bound == math.inf,
    )


def _whole_tangent(problem: Problem, point: Tensor, watch: Watch) -> Tangent:
    """The relaxation of the whole, quick for all parts together; without a limit every part is solved anyway."""
    if watch.budget.seconds is None:
        return Tangent(point)
    limit = Watch(Budget(seconds=max(_FIRST * watch.remaining, 1e-3)))
    return best_tangent(problem, point, splits=_SPLITS, iterations=_ITERATIONS, watch=limit).tangent


def _added(certificates: tuple[Certificate, ...], bounds: list[float]) -> tuple[Certificate, float]:
    return Parts(certificates), added_up(bounds)


def _proven(
    parts: Sequence[Part], whole: Tangent, found: Mapping[int, Solution]
) -> tuple[tuple[Certificate, ...], list[float]]:
    """For each part what its search proved, or its piece of the tangent of the whole where that proves more."""
    proofs: list[tuple[Certificate, float]] = []
    for number, part in enumerate(parts):
        solution = found.get(number)
        candidates: list[tuple[Certificate, float]] = []
        if solution is not None and solution.certificate is not None and solution.bound is not None:
            candidates.append((solution.certificate, solution.bound))
        if not candidates or solution is None or solution.stop is not Stop.GAP:
            candidates.append(Tangent.bounded(part.problem, *_piece(whole, part)))
        proofs.append(max(candidates, key=lambda proof: proof[1]))
    return tuple(certificate for certificate, _ in proofs), [bound for _, bound in proofs]


def _piece(whole: Tangent, part: Part) -> tuple[Tensor, Tensor | None]:
    """Point and split of a tangent on one part."""

    def on(values: Tensor) -> Tensor:
        return values.expand(whole.point.shape).reshape(-1)[part.entries].reshape(part.problem.shape)

    return on(whole.point), None if whole.split is None else on(whole.split)


def _reason(parts: Sequence[Part], found: Mapping[int, Solution]) -> Stop:
    """Why the whole ended: the first reason of a part other than a closed gap."""
    others = [solution.stop for solution in found.values() if solution.stop is not Stop.GAP]
    return others[0] if others else (Stop.GAP if len(found) == len(parts) else Stop.TIME)


def _stats(found: Mapping[int, Solution], watch: Watch) -> Stats:
    return watch.stats(nodes=sum(solution.stats.nodes or 0 for solution in found.values()), device="cpu")


def _share(budget: Budget, parts: int, left: int, remaining: float, nodes: int) -> Budget:
    """What one of the parts that are left may use."""
    return replace(
        budget,
        seconds=None if budget.seconds is None else max(remaining / left, 1e-3),
        nodes=None if budget.nodes is None else max((budget.nodes - nodes) // left, 1),
        absolute_gap=budget.absolute_gap / parts,
    )


def _in_turn(
    solver: Solver, parts: Sequence[Part], starts: Sequence[Tensor], watch: Watch
) -> Iterator[tuple[int, Solution]]:
    """Solve one part after another, and those that ran out of time again while there is much more of it."""
    nodes, last = 0, dict[int, Solution]()
    turn = list(range(len(parts)))
    while turn:
        still_open = []
        for place, number in enumerate(turn):
            if watch.due(nodes=nodes) is not None:
                return
            limits = _share(watch.budget, len(parts), len(turn) - place, watch.remaining, nodes)
            before = last.get(number)
            if before is not None and (limits.seconds or 0.0) < _LONGER * (before.stats.seconds or 0.0):
                continue
            start = starts[number] if before is None else before.point
            last[number] = solution = solver.solve(parts[number].problem, budget=limits, start=start)
            nodes += solution.stats.nodes or 0
            if solution.stop is Stop.TIME:
                still_open.append(number)
            if before is None or _is_tighter(solution, before):
                yield number, solution
        turn = still_open


def _is_tighter(solution: Solution, before: Solution) -> bool:
    """Whether a search from the point of an earlier one ended with a better bound."""
    return solution.bound is not None and (before.bound is None or solution.bound > before.bound)


def _together(
    solver: Solver, parts: Sequence[Part], starts: Sequence[Tensor], watch: Watch, executor: Executor
) -> Iterator[tuple[int, Solution]]:
    limits = _share(watch.budget, len(parts), len(parts), watch.remaining, 0)
    futures = [
        executor.submit(_solve, solver, part.problem, limits, start) for part, start in zip(parts, starts, strict=True)
    ]
    try:
        for number, future in enumerate(futures):
            yield number, future.result()
    finally:
        for future in futures:
            future.cancel()


def _solve(solver: Solver, problem: Problem, budget: Budget, start: Tensor) -> Solution:
    """One part, in a process of its own."""
    torch.set_num_threads(1)
    return solver.solve(problem, budget=budget, start=start)
