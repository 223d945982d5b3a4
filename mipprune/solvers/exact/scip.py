"""SCIP on the canonical data: warm start, trace, interrupt, bound, repaired point."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ...core.canonical import Canonical, to_scip
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem, MippruneError, SolverFailure
from .model import (
    CONE_TOLERANCE,
    Incumbent,
    Instance,
    Outcome,
    conclude,
    first_member,
    mask_model,
    mask_of_columns,
    reason,
)

__all__ = ["Scip"]

_LOG = logging.getLogger("mipprune")

# SCIP's words for the end of a run; whatever is not here is trouble.
_STOPS = {
    "optimal": Stop.GAP,
    "gaplimit": Stop.GAP,
    "infeasible": Stop.CONVERGED,
    "timelimit": Stop.TIME,
    "nodelimit": Stop.NODES,
    "totalnodelimit": Stop.NODES,
    "stallnodelimit": Stop.NODES,
    "sollimit": Stop.ITERATIONS,
    "bestsollimit": Stop.ITERATIONS,
    "restartlimit": Stop.ITERATIONS,
    "userinterrupt": Stop.USER,
    "terminate": Stop.USER,
}
_NO_LIMIT = 1e20


@dataclass(frozen=True)
class Scip:
    r"""Exact solution by SCIP's spatial branch and bound on second-order cones.

    Parameters
    ----------
    strength : {"perspective", "big-m"}
        How weights and mask are tied: perspective cones beside linear links, or links alone (which can be the faster
        choice when the loss has next to no diagonal curvature).
    splits : int, optional
        Steps of the search for the diagonal split that the perspective cones use (its relaxation is also the checked
        bound of a run that is cut short). 0 takes the loss's own split.
    threads : int, optional
        1 (the default) runs the sequential, deterministic search. More start SCIP's concurrent mode, which is not
        deterministic and reports no progress.
    parameters : mapping or tuple of pairs, optional
        Further SCIP parameters, such as ``{"limits/memory": 4000.0}``; they override everything set here.
    seed : int, optional
        SCIP's random seed shift.

    Notes
    -----
    The problem is lowered by :meth:`Problem.to_cvxpy`; every entry of the residual is a square of its own and the
    perspective of an entry is the rotated cone :math:`w_i^2 \le q_i z_i`. Weights are scaled by the root of their
    curvature and the objective by the value of the first point, so that SCIP's tolerances (1e-6) are relative to about
    1. SCIP's points are never trusted: the mask of each is refitted and evaluated by the problem. Its dual bound is a
    :class:`Claim`.

    References
    ----------
    Bolusani et al., "The SCIP Optimization Suite 9.0", arXiv 2402.17702.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> gram = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> problem = mp.formulations.layerwise(torch.tensor([[1.0, 3.0]]), gram, mp.Cardinality(1), damping=0.0)
    >>> solution = Scip().solve(problem)
    >>> solution.status.value, round(solution.value, 6)
    ('optimal', 1.5)
    """

    strength: str = "perspective"
    splits: int = 3
    threads: int = 1
    parameters: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    name: str = "Scip"

    def __post_init__(self) -> None:
        if int(self.threads) < 1:
            raise InvalidProblem(f"threads is {self.threads}; it must be at least 1")
        object.__setattr__(self, "parameters", tuple(sorted(dict(self.parameters).items())))

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        return reason(problem, self.strength, logarithms=True)

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
            Seconds, gap and nodes are passed on; iterations mean nothing here.
        start : Tensor, shape of the problem, optional
            Repaired and passed on as incumbent. Default: the repaired start of the loss, so that a run that is cut
            short at once still returns a point.
        progress : callable, optional
            Called at every node and incumbent; returning ``True`` stops.

        Raises
        ------
        Unsupported
            With the reason of :meth:`rejects`.
        SolverFailure
            If SCIP breaks down.
        """
        import pyscipopt

        accept(self, problem)
        incumbent = Incumbent(problem, Watch(budget, progress))
        try:
            outcome, tolerance = self._run(incumbent, start)
        except KeyboardInterrupt:  # outside SCIP, which turns Ctrl-C into a status of its own
            outcome, tolerance = Outcome(Stop.USER), CONE_TOLERANCE
        version = ".".join(str(part) for part in _version(pyscipopt))
        return conclude(
            problem,
            incumbent,
            outcome,
            solver=self.name,
            claimant=("SCIP", version, tolerance),
            seed=self.seed,
        )

    def _run(self, incumbent: Incumbent, start: Tensor | None) -> tuple[Outcome, float]:
        problem, watch = incumbent.problem, incumbent.watch
        member = first_member(problem, start)
        if member is None:
            found = self._any_mask(problem, watch)
            if isinstance(found, Outcome):
                return found, 0.0
            member = found
        incumbent.take(member)
        bounded = incumbent.prove(self.splits)
        if incumbent.closed:
            return Outcome(Stop.GAP, setup_seconds=watch.seconds), 0.0
        instance = Instance.of(problem, member, self.strength, bounded.split if bounded else None)
        with _in_own_words():
            model, variables = to_scip(instance.canonical)
            self._configure(model, watch, incumbent.value)
            _warm_start(model, variables, instance)
        handler = _listen(model, variables, instance, incumbent)
        setup = watch.seconds
        if watch.due() is None:
            _optimise(model, self.threads)
        if handler.error is not None:
            raise handler.error
        return self._outcome(model, variables, instance, incumbent, setup), instance.tolerance

    def _any_mask(self, problem: Problem, watch: Watch) -> Tensor | Outcome:
        """Find some member of S when no start is one, or prove that there is none."""
        canonical = mask_model(problem)
        if canonical is None:
            return Outcome(Stop.NUMERICAL)
        model, variables = to_scip(canonical)
        self._configure(model, watch)
        model.setParam("limits/solutions", 1)
        _optimise(model, 1)
        if model.getNSols() == 0:
            status = model.getStatus()
            return Outcome(_STOPS.get(status, Stop.NUMERICAL), infeasible=status == "infeasible")
        return mask_of_columns(problem, canonical, _values(model, model.getBestSol(), variables))

    def _configure(self, model: Any, watch: Watch, value: float = math.inf) -> None:
        budget = watch.budget
        if math.isfinite(watch.remaining):
            model.setParam("limits/time", max(watch.remaining, 1e-3))
        if budget.nodes is not None:
            model.setParam("limits/totalnodes", budget.nodes)
        model.setParam("limits/gap", budget.tolerance(value))
        model.setParam("randomization/randomseedshift", self.seed)
        model.setParam("parallel/maxnthreads", self.threads)
        model.setParam("parallel/minnthreads", self.threads)
        for name, value in dict(self.parameters).items():
            try:
                model.setParam(name, value)
            except (KeyError, ValueError) as error:
                raise InvalidProblem(f"SCIP does not take the parameter {name} = {value!r}: {error}") from error

    def _outcome(
        self, model: Any, variables: list[Any], instance: Instance, incumbent: Incumbent, setup: float
    ) -> Outcome:
        status = model.getStatus()
        if status in ("unbounded", "inforunbd"):
            raise SolverFailure(f"SCIP calls the model {status}; the loss must be bounded below on S")
        for solution in model.getSols()[:20]:
            incumbent.offer(instance, _values(model, solution, variables))
        stop = incumbent.watch.stopped or _STOPS.get(status, Stop.NUMERICAL)
        if status == "unknown":  # not started, for want of time or by the user
            stop = incumbent.watch.due() or Stop.NUMERICAL
        nodes = int(model.getNTotalNodes()) if status != "unknown" else 0
        if status == "infeasible":
            # The model holds every point at least as good as a known member: SCIP contradicts its own start.
            _LOG.warning("SCIP calls a model infeasible that has a point; its bound is dropped")
            return Outcome(Stop.NUMERICAL, nodes=nodes, setup_seconds=setup)
        if status != "unknown":
            incumbent.report(_bound(model, instance.canonical))
        return Outcome(stop, nodes=nodes, setup_seconds=setup)


def _version(module: Any) -> tuple[int, ...]:
    model = module.Model()
    return int(model.getMajorVersion()), int(model.getMinorVersion()), int(model.getTechVersion())


def _bound(model: Any, canonical: Canonical) -> float | None:
    raw = float(model.getDualbound())
    return None if abs(raw) >= _NO_LIMIT else canonical.restored(canonical.sign * raw)


def _values(model: Any, solution: Any, variables: list[Any]) -> np.ndarray[Any, Any]:
    return np.array([model.getSolVal(solution, variable) for variable in variables])


@contextlib.contextmanager
def _in_own_words() -> Iterator[None]:
    try:
        yield
    except MippruneError:
        raise
    except Exception as error:  # PySCIPOpt raises bare exceptions with SCIP's words
        raise SolverFailure(f"SCIP failed: {error}") from error


def _optimise(model: Any, threads: int) -> None:
    with _in_own_words():
        if threads == 1:
            model.optimize()
        else:
            model.solveConcurrent()


def _warm_start(model: Any, variables: list[Any], instance: Instance) -> None:
    """Pass the start whole; what SCIP refuses stays our own incumbent."""
    x = instance.columns_of(instance.start)
    if x is None:
        _LOG.info("the start does not determine all columns of the model; SCIP starts without it")
        return
    solution = model.createSol()
    for variable, value in zip(variables, x.tolist(), strict=True):
        model.setSolVal(solution, variable, value)
    if not model.addSol(solution):
        _LOG.info("SCIP does not take the start within its tolerances")


def _listen(model: Any, variables: list[Any], instance: Instance, incumbent: Incumbent) -> Any:
    """Attach an event handler that repairs incumbents, keeps the trace, and lets the user stop the run."""
    import pyscipopt

    kinds = pyscipopt.SCIP_EVENTTYPE
    events = (kinds.BESTSOLFOUND, kinds.NODESOLVED, kinds.LPSOLVED)

    class Listener(pyscipopt.Eventhdlr):
        error: BaseException | None = None

        def eventinit(self) -> None:
            for event in events:
                self.model.catchEvent(event, self)

        def eventexit(self) -> None:
            for event in events:
                self.model.dropEvent(event, self)

        def eventexec(self, event: Any) -> None:
            if self.error is not None:
                return
            try:
                if event.getType() == kinds.BESTSOLFOUND:
                    incumbent.offer(instance, _values(self.model, self.model.getBestSol(), variables))
                stop = incumbent.report(_bound(self.model, instance.canonical))
            except BaseException as error:  # nothing may pass through SCIP's C code; it is raised again after the run
                self.error, stop = error, True
            if stop:
                self.model.interruptSolve()

    handler = Listener()
    model.includeEventhdlr(handler, "mipprune", "repairs incumbents, keeps the trace")
    return handler
