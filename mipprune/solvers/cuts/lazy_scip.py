"""One SCIP tree in which the cuts of the best value are separated, at fractional masks too."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...core.canonical import to_scip
from ...core.solution import Stop
from ...errors import InvalidProblem, SolverFailure
from ..exact.model import Outcome
from .cut import Cut

if TYPE_CHECKING:
    from .search import CutSearch

__all__ = ["search_one_tree"]

Array = np.ndarray[Any, Any]

_STOPS = {
    "optimal": Stop.GAP,
    "gaplimit": Stop.GAP,
    "infeasible": Stop.CONVERGED,
    "timelimit": Stop.TIME,
    "nodelimit": Stop.NODES,
    "totalnodelimit": Stop.NODES,
    "userinterrupt": Stop.USER,
    "terminate": Stop.USER,
}
_SEPARATED = 400  # cuts at fractional masks in one run; more of them only slow the linear programs down
_VIOLATED = 1e-4  # relative violation that such a cut must have
_ACCEPTED = 1e-6  # relative amount by which the value column may be below a mask's value
_ABOVE = 1e-7  # relative amount by which it is above in what we hand to SCIP, so that tolerances do not reject it
_RECENT = 50  # latest cuts that enter the tree beside those active in the relaxation


def search_one_tree(search: CutSearch, parameters: tuple[tuple[str, Any], ...], seed: int) -> Outcome:
    """Run SCIP on the master problem of a search with lazy cuts.

    Parameters
    ----------
    search : Search
        After its relaxation: with a pool of cuts and an incumbent.
    parameters : tuple of pairs
        Further SCIP parameters.
    seed : int

    Raises
    ------
    SolverFailure
        If SCIP breaks down.
    """
    import pyscipopt

    master, watch = search.master, search.watch
    assert master is not None
    model, variables = to_scip(master.rows)
    masks = [variables[column] for column in master.mask_columns.tolist()]
    proven = search.incumbent.proven
    theta = model.addVar("theta", vtype="C", lb=proven if math.isfinite(proven) else None, ub=None)
    model.setObjective(theta, "minimize")
    _configure(model, search, parameters, seed)
    for cut in search.active_cuts(_RECENT):
        model.addCons(_expression(cut, masks, theta) >= cut.constant)
    handler = _handler(pyscipopt)(search, masks, theta)
    model.includeConshdlr(
        handler,
        "value",
        "the best value of a mask",
        sepapriority=1,
        enfopriority=-1,
        chckpriority=-1,
        sepafreq=1,
        propfreq=-1,
        eagerfreq=-1,
        maxprerounds=0,
        needscons=False,
    )
    start = search.incumbent_mask()
    if start is not None and len(masks) == len(variables):
        solution = model.createSol()
        for variable, share in zip(masks, start.tolist(), strict=True):
            model.setSolVal(solution, variable, share)
        model.setSolVal(solution, theta, search.incumbent.value + _ABOVE * abs(search.incumbent.value))
        model.addSol(solution)
    search.version = f"SCIP {model.getMajorVersion()}.{model.getMinorVersion()}.{model.getTechVersion()}"
    if watch.due() is None:
        try:
            model.optimize()
        except Exception as error:  # PySCIPOpt raises bare exceptions with SCIP's words
            raise SolverFailure(f"SCIP failed: {error}") from error
    if handler.error is not None:
        raise handler.error
    status = model.getStatus()
    if status == "unknown":
        return search.outcome(watch.due() or Stop.NUMERICAL)
    search.nodes += int(model.getNTotalNodes())
    bound = float(model.getDualbound())
    search.incumbent.report(bound if abs(bound) < 1e19 and status != "infeasible" else None)
    return search.outcome(watch.stopped or _STOPS.get(status, Stop.NUMERICAL))


def _configure(model: Any, search: CutSearch, parameters: tuple[tuple[str, Any], ...], seed: int) -> None:
    budget = search.watch.budget
    if math.isfinite(search.watch.remaining):
        model.setParam("limits/time", max(search.watch.remaining, 1e-3))
    if budget.nodes is not None:
        model.setParam("limits/totalnodes", budget.nodes)
    settings: dict[str, Any] = {
        "limits/gap": 0.5 * budget.gap,
        "randomization/randomseedshift": seed,
        # The model is not complete: what relies on seeing all rows must be off.
        "misc/usesymmetry": 0,
        "misc/allowstrongdualreds": False,
        "misc/allowweakdualreds": False,
        "presolving/maxrounds": 0,
        **dict(parameters),
    }
    for name, value in settings.items():
        try:
            model.setParam(name, value)
        except (KeyError, ValueError) as error:
            raise InvalidProblem(f"SCIP does not take the parameter {name} = {value!r}: {error}") from error


def _expression(cut: Cut, masks: list[Any], theta: Any) -> Any:
    import pyscipopt

    used = np.flatnonzero(cut.gain).tolist()
    return theta + pyscipopt.quicksum(float(cut.gain[j]) * masks[j] for j in used)


def _handler(pyscipopt: Any) -> Any:
    """Return the constraint handler's class; its base exists only where SCIP is installed."""
    result = pyscipopt.SCIP_RESULT

    class Handler(pyscipopt.Conshdlr):
        def __init__(self, search: CutSearch, masks: list[Any], theta: Any) -> None:
            self.search, self.masks, self.theta = search, masks, theta
            self.error: BaseException | None = None
            self.separated = 0
            self.known: dict[bytes, tuple[float, Cut]] = {}

        def _shares(self, solution: Any) -> tuple[Array, float]:
            get = self.model.getSolVal
            shares = np.array([get(solution, variable) for variable in self.masks])
            return np.clip(shares, 0.0, 1.0), float(get(solution, self.theta))

        def _value(self, shares: Array) -> tuple[float, Cut]:
            """The best value at a mask and the cut there."""
            chosen = shares > 0.5
            key = chosen.tobytes()
            if key not in self.known:
                mask = torch.from_numpy(chosen).reshape(self.search.problem.shape)
                self.search.offer_mask(mask, improve=True)
                cut = self.search.pool.cut_at(self.search.pool.weights(mask.double()))
                self.known[key] = cut.at(chosen.astype(np.float64)), cut
            return self.known[key]

        def _guarded(self, work: Any, fallback: Any) -> dict[str, Any]:
            if self.error is None:
                try:
                    return {"result": work()}
                except BaseException as error:  # nothing may pass through SCIP's C code; raised again after the run
                    self.error = error
                    self.model.interruptSolve()
            return {"result": fallback}

        def conscheck(self, constraints, solution, *rest, **options):  # type: ignore[no-untyped-def]
            def work() -> Any:
                shares, theta = self._shares(solution)
                value, _ = self._value(shares)
                return result.FEASIBLE if theta >= value - _ACCEPTED * abs(value) else result.INFEASIBLE

            return self._guarded(work, result.INFEASIBLE)

        def _enforce(self) -> dict[str, Any]:
            def work() -> Any:
                shares, theta = self._shares(None)
                value, cut = self._value(shares)
                if theta >= value - _ACCEPTED * abs(value):
                    return result.FEASIBLE
                self.model.addCons(_expression(cut, self.masks, self.theta) >= cut.constant)
                return result.CONSADDED

            return self._guarded(work, result.INFEASIBLE)

        def consenfolp(self, constraints, n_useful, infeasible):  # type: ignore[no-untyped-def]
            return self._enforce()

        def consenfops(self, constraints, n_useful, infeasible, objective_infeasible):  # type: ignore[no-untyped-def]
            return self._enforce()

        def conssepalp(self, constraints, n_useful):  # type: ignore[no-untyped-def]
            def work() -> Any:
                bound = float(self.model.getDualbound())
                if self.search.incumbent.report(bound if abs(bound) < 1e19 else None):
                    self.model.interruptSolve()
                if self.separated >= _SEPARATED:
                    return result.DIDNOTRUN
                shares, theta = self._shares(None)
                point = self.search.pool.weights(torch.from_numpy(shares).reshape(self.search.problem.shape))
                cut = self.search.pool.cut_at(point)
                if cut.at(shares) <= theta + _VIOLATED * abs(theta):
                    return result.DIDNOTFIND
                self.separated += 1
                self.model.addCons(_expression(cut, self.masks, self.theta) >= cut.constant)
                return result.CONSADDED

            return self._guarded(work, result.DIDNOTRUN)

        def conslock(self, constraint, lock_type, positive, negative):  # type: ignore[no-untyped-def]
            # theta may only grow, masks may move neither way without a look at the cuts.
            self.model.addVarLocks(self.theta, positive, negative)
            for variable in self.masks:
                self.model.addVarLocks(variable, positive + negative, positive + negative)

    return Handler
