"""HiGHS on the canonical data: linear models directly, cones by outer approximation."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ...core.canonical import Canonical, to_highs_lp
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem, SolverFailure
from ..bounds.relaxation import Bounded
from .model import (
    Incumbent,
    Instance,
    Outcome,
    conclude,
    first_member,
    mask_model,
    mask_of_columns,
    reason,
)
from .outer_approximation import OuterApproximation, configured, load, set_option, start_threads

__all__ = ["Highs"]

_LOG = logging.getLogger("mipprune")

# HiGHS's words for the end of a run; whatever is not here is a failure.
_STOPS = {
    "kOptimal": Stop.GAP,
    "kInfeasible": Stop.CONVERGED,
    "kTimeLimit": Stop.TIME,
    "kSolutionLimit": Stop.NODES,
    "kIterationLimit": Stop.ITERATIONS,
    "kObjectiveTarget": Stop.GAP,
    "kObjectiveBound": Stop.GAP,
    "kInterrupt": Stop.USER,
    "kMemoryLimit": Stop.NUMERICAL,
}


@dataclass(frozen=True)
class Highs:
    r"""Exact solution by HiGHS: its branch and bound for linear models, outer approximation for quadratic ones.

    Parameters
    ----------
    strength : {"perspective", "big-m"}
        How weights and mask are tied; perspectives become cuts :math:`q \ge 2 r w - r^2 z`.
    splits : int, optional
        Steps of the search for the diagonal split that the perspectives use. 0 takes the loss's own split.
    threads : int, optional
        Threads of HiGHS.
    relaxation_rounds : int, optional
        Rounds of cuts on the linear relaxation before integrality is asked for.
    cut_tolerance : float, optional
        Violation, relative to an objective of about 1, above which a cone is cut.
    parameters : mapping or tuple of pairs, optional
        Further HiGHS options; they override everything set here.
    seed : int, optional
        HiGHS's random seed.

    Notes
    -----
    HiGHS has no mixed-integer quadratic solver. Cones are replaced by tangents, first at solutions of the linear
    relaxation, then at those of mixed-integer rounds and at the refitted point of every mask that HiGHS finds. The
    latter makes the approximation exact on that mask, so that no mask is best twice and the method is finite. The dual
    bound of each round bounds the problem; upper bounds are values of refitted points.

    References
    ----------
    Duran and Grossmann, "An outer-approximation algorithm for a class of mixed-integer nonlinear programs",
    Mathematical Programming 36 (1986), doi:10.1007/BF02592064.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> scores = torch.tensor([[3.0, 1.0, 2.0, 4.0]])
    >>> problem = mp.Problem(mp.Linear(-scores), mp.Masks(mp.NofM(2, 4)))
    >>> Highs().solve(problem).value
    -7.0
    """

    strength: str = "perspective"
    splits: int = 3
    threads: int = 1
    relaxation_rounds: int = 60
    cut_tolerance: float = 1e-7
    parameters: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    name: str = "Highs"

    def __post_init__(self) -> None:
        if int(self.threads) < 1:
            raise InvalidProblem(f"threads is {self.threads}; it must be at least 1")
        if not self.cut_tolerance > 0 or self.relaxation_rounds < 0:
            raise InvalidProblem("cut_tolerance must be positive and relaxation_rounds must not be negative")
        object.__setattr__(self, "parameters", tuple(sorted(dict(self.parameters).items())))

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        return reason(problem, self.strength)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Solve; see :meth:`Solver.solve`.

        Parameters
        ----------
        problem : Problem
        budget : Budget
            Iterations are the mixed-integer rounds, nodes those of all rounds together.
        start : Tensor, shape of the problem, optional
            Repaired and passed on as incumbent. Default: the repaired start of the loss.
        progress : callable, optional
            Called in every round and at HiGHS's own reports; returning ``True`` stops.

        Raises
        ------
        Unsupported
            With the reason of :meth:`rejects`.
        SolverFailure
            If HiGHS breaks down.
        """
        import highspy

        accept(self, problem)
        start_threads(self.threads)
        run = _Search(self, Incumbent(problem, Watch(budget, progress)))
        try:
            outcome = run.search(start)
        except KeyboardInterrupt:
            outcome = run.outcome(Stop.USER)
        version = highspy.Highs().version()
        tolerance = run.instance.tolerance if run.instance is not None else 0.0
        return conclude(
            problem,
            run.incumbent,
            outcome,
            solver=self.name,
            claimant=("HiGHS", version, tolerance),
            seed=self.seed,
        )

    def back_end(self) -> Any:
        """Return a HiGHS instance with this solver's options."""
        assert isinstance(self.parameters, tuple)
        return configured(self.threads, self.seed, self.parameters)


class _Search:
    """One run: its instance, incumbent and counters."""

    def __init__(self, solver: Highs, incumbent: Incumbent) -> None:
        self.solver, self.incumbent, self.watch = solver, incumbent, incumbent.watch
        self.instance: Instance | None = None
        self.nodes = self.rounds = 0
        self.setup: float | None = None

    def outcome(self, stop: Stop, *, infeasible: bool = False) -> Outcome:
        """Return the end of the run with the bound reached."""
        return Outcome(
            stop,
            infeasible=infeasible,
            nodes=self.nodes,
            iterations=self.rounds,
            setup_seconds=self.setup,
        )

    def search(self, start: Tensor | None) -> Outcome:
        """Find a member, lower the problem, close the gap."""
        problem = self.incumbent.problem
        member = first_member(problem, start)
        if member is None:
            found = self._any_mask(problem)
            if isinstance(found, Outcome):
                return found
            member = found
        self.incumbent.take(member)
        bounded = self.incumbent.prove(self.solver.splits)
        if self.incumbent.closed:
            return self.outcome(Stop.GAP)
        split = None if bounded is None else bounded.split
        self.instance = instance = Instance.of(problem, member, self.solver.strength, split)
        self.setup = self.watch.seconds
        if instance.canonical.is_linear:
            status = self._integer(instance, to_highs_lp(instance.canonical), self.watch.budget.gap)[0]
            return self.outcome(self.watch.stopped or _STOPS[status])
        return self._approximate(instance, bounded)

    def _any_mask(self, problem: Problem) -> Tensor | Outcome:
        """Find some member of S when no start is one, or prove that there is none."""
        canonical = mask_model(problem)
        if canonical is None:
            return Outcome(Stop.NUMERICAL)
        highs = self.solver.back_end()
        set_option(highs, "time_limit", max(min(self.watch.remaining, 1e20), 1e-3))
        load(highs, to_highs_lp(canonical))
        highs.run()
        status = highs.getModelStatus().name
        solution = highs.getSolution()
        if status == "kOptimal" or (status in _STOPS and solution.value_valid and status != "kInfeasible"):
            return mask_of_columns(problem, canonical, np.array(solution.col_value))
        return Outcome(_STOPS.get(status, Stop.NUMERICAL), infeasible=status == "kInfeasible")

    def _approximate(self, instance: Instance, bounded: Bounded | None) -> Outcome:
        """Rounds of cuts on the linear relaxation, then mixed-integer rounds."""
        outer = OuterApproximation(instance.canonical, self.solver.back_end())
        if bounded is not None:
            outer.cut(instance.relaxed_columns(bounded), None)  # spares most of the rounds that would lead there
        self._cut_at(outer, instance, instance.start)
        stop = self._relaxation_rounds(outer, instance)
        stalled = 0
        tight = 0.5 * self.watch.budget.gap
        while stop is None:
            before = (self.incumbent.bound, self.incumbent.value)
            asked = max(tight, 0.2 * self.incumbent.gap) if math.isfinite(self.incumbent.gap) and not stalled else tight
            status, found = self._integer(instance, outer.integer_model(), asked, outer)
            self.rounds += 1
            if self.incumbent.closed:
                return self.outcome(Stop.GAP)
            if status not in ("kOptimal", "kInfeasible"):
                return self.outcome(self.watch.stopped or _STOPS[status])
            added = sum(outer.cut(x, self.solver.cut_tolerance) for x in found)
            moved = (self.incumbent.bound, self.incumbent.value) != before
            stalled = 0 if added and moved else stalled + 1
            if stalled > 2 or (stalled > 1 and not added):
                return self.outcome(Stop.NUMERICAL)  # the approximation is exact up to the tolerance of its cuts
            stop = self.watch.due(iterations=self.rounds, nodes=self.nodes)
        return self.outcome(stop)

    def _cut_at(self, outer: OuterApproximation, instance: Instance, point: Tensor) -> None:
        """Make the approximation exact around a member of S."""
        x = instance.columns_of(point)
        if x is not None:
            outer.cut(x, None)

    def _relaxation_rounds(self, outer: OuterApproximation, instance: Instance) -> Stop | None:
        """Cut off solutions of the linear relaxation until its value hardly moves; their roundings give members."""
        last = -math.inf
        slow = 0
        for _ in range(self.solver.relaxation_rounds):
            stop = self.watch.due()
            if stop is not None:
                return stop
            run = outer.relax(self.watch.remaining)
            if run.x is None:
                if run.status.name == "kTimeLimit":
                    return Stop.TIME
                raise SolverFailure(f"HiGHS ends the linear relaxation with {run.status.name}")
            self.incumbent.report(instance.canonical.restored(run.objective))
            if self.incumbent.closed:
                return Stop.GAP
            slow = slow + 1 if run.objective - last <= 2e-3 * max(self.incumbent.gap, 1e-9) else 0
            if slow >= 3 or outer.cut(run.x, self.solver.cut_tolerance) == 0:
                return None
            last = run.objective
        return None

    def _integer(
        self, instance: Instance, model: Any, gap: float, outer: OuterApproximation | None = None
    ) -> tuple[str, list[np.ndarray[Any, Any]]]:
        """Run HiGHS's branch and bound on one relaxation; return its status and the solutions found on the way."""
        highs = self.solver.back_end()
        set_option(highs, "mip_rel_gap", gap)
        set_option(highs, "time_limit", max(min(self.watch.remaining, 1e20), 1e-3))
        if self.watch.budget.nodes is not None:
            set_option(highs, "mip_max_nodes", max(self.watch.budget.nodes - self.nodes, 1))
        load(highs, model)
        self._pass_start(highs, instance, outer)
        found: list[np.ndarray[Any, Any]] = []
        errors = self._listen(highs, instance, found)
        highs.run()
        if errors:
            raise errors[0]
        status, info = highs.getModelStatus().name, highs.getInfo()
        if status not in _STOPS:
            raise SolverFailure(f"HiGHS ends with {status}: {highs.modelStatusToString(highs.getModelStatus())}")
        self.nodes += max(int(info.mip_node_count), 0)
        if highs.getSolution().value_valid and status != "kInfeasible":
            found.append(np.array(highs.getSolution().col_value))
        for x in found:
            point = self.incumbent.offer(instance, x)
            if point is not None and outer is not None:
                self._cut_at(outer, instance, point)
        if status == "kInfeasible":
            _LOG.warning("HiGHS calls a model infeasible that has a point; its bound is dropped")
        elif math.isfinite(info.mip_dual_bound):
            self.incumbent.report(instance.canonical.restored(info.mip_dual_bound))
        return status, found

    def _pass_start(self, highs: Any, instance: Instance, outer: OuterApproximation | None) -> None:
        """Pass the best member whole: it is feasible in every outer approximation."""
        import highspy

        assert self.incumbent.point is not None
        x = instance.columns_of(self.incumbent.point)
        if x is None:
            return
        solution = highspy.HighsSolution()
        solution.col_value = x if outer is None else outer.extended(x)
        highs.setSolution(solution)

    def _listen(self, highs: Any, instance: Instance, found: list[np.ndarray[Any, Any]]) -> list[BaseException]:
        """Subscribe to solutions and to the question whether to stop; exceptions are kept for after the run."""
        errors: list[BaseException] = []
        canonical: Canonical = instance.canonical

        def improving(event: Any) -> None:
            found.append(np.array(event.data_out.mip_solution))

        def interrupt(event: Any) -> None:
            try:
                raw = float(event.data_out.mip_dual_bound)
                stop = self.incumbent.report(canonical.restored(raw) if math.isfinite(raw) else None)
            except BaseException as error:  # nothing may pass through HiGHS's C++ code; raised again after the run
                errors.append(error)
                stop = True
            if stop:
                event.data_in.user_interrupt = True

        highs.cbMipImprovingSolution.subscribe(improving)
        highs.cbMipInterrupt.subscribe(interrupt)
        return errors
