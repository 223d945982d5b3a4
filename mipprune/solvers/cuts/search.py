"""The search behind cutting planes: members, the relaxation with its checked tangent, rounds of masters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.arrays import as_tensor, exact
from ...core.certificate import Tangent
from ...core.problem import Problem
from ...core.separable import Separable
from ...core.solution import Stop
from ...core.solver import Watch
from ...losses import LeastSquares
from ..exact.model import Incumbent, Outcome, mask_model
from .cut import Cut, CutPool
from .exchange import exchange
from .master import Master, MasterRun

__all__ = ["CutSearch"]

Array = np.ndarray[Any, Any]

_RECENT = 20  # cuts that a lean master keeps whatever they carry
_STOPS = {
    "kOptimal": Stop.GAP,
    "kTimeLimit": Stop.TIME,
    "kSolutionLimit": Stop.NODES,
    "kIterationLimit": Stop.ITERATIONS,
    "kInterrupt": Stop.USER,
    "kObjectiveBound": Stop.GAP,
    "kObjectiveTarget": Stop.GAP,
}


class CutSearch:
    """One run: the pool of cuts, the master, the incumbent."""

    def __init__(
        self,
        problem: Problem,
        watch: Watch,
        pool: CutPool,
        master: Master | None,
        back_end: Callable[[], Any],
        *,
        relaxation_cuts: int,
    ) -> None:
        self.problem, self.watch, self.pool, self.back_end = problem, watch, pool, back_end
        self.relaxation_cuts = relaxation_cuts
        self.incumbent = Incumbent(problem, watch)
        self.rows = mask_model(problem)
        self.master = master
        self.nodes = self.rounds = 0
        self.setup: float | None = None
        self.version: str | None = None
        self._seen: set[bytes] = set()
        self._multipliers: Array | None = None
        self._center: Tensor | None = None

    def outcome(self, stop: Stop, *, infeasible: bool = False) -> Outcome:
        """Return the end of the run."""
        return Outcome(stop, infeasible=infeasible, nodes=self.nodes, iterations=self.rounds, setup_seconds=self.setup)

    @property
    def proven_closes(self) -> bool:
        """Whether the checked bound alone closes the gap."""
        value, proven = self.incumbent.value, self.incumbent.proven
        return math.isfinite(value) and value - proven <= self.watch.budget.gap * abs(value)

    def begin(self, start: Tensor | None) -> Outcome | None:
        """Find a member and solve the relaxation; return the end of the run if that settles it."""
        assert self.rows is not None
        if self.master is None:
            self.master = Master(self.rows, self.back_end)
            self.master.add(self.pool.cuts)
        else:
            self.master.replace_rows(self.rows, self.pool.cuts)
        # The oracle's choice at zero costs nothing; the loss's own start would be a regression on all columns.
        zero = torch.zeros(self.problem.shape, dtype=torch.float64)
        given = zero if start is None else exact(as_tensor(start, "start", shape=self.problem.shape))
        member = self.problem.repair(given)
        if self.problem.violation(member) != 0:
            found = self._any_mask()
            if found is None:
                due = self.watch.due()
                return self.outcome(due or Stop.CONVERGED, infeasible=due is None)
            member = self.pool.weights(found.double())
        self._offer(member)
        self._improve()
        self.relaxation()
        self.setup = self.watch.seconds
        stop = Stop.GAP if self.incumbent.closed else self.watch.due()
        return None if stop is None else self.outcome(stop)

    def _any_mask(self) -> Tensor | None:
        """Ask HiGHS for some mask of the family."""
        assert self.master is not None
        self.pool.cut_at(torch.zeros(self.problem.shape, dtype=torch.float64))
        self.master.add(self.pool.cuts[self.master.cuts :])
        run = self._solve_master(1e-2)
        return torch.from_numpy(run.masks[-1] > 0.5).reshape(self.problem.shape) if run.masks else None

    # ------------------------------------------------------------------------------------------------ members

    def incumbent_mask(self) -> Array | None:
        """Return an admissible mask around the incumbent's support as 0/1 numbers."""
        if self.incumbent.point is None:
            return None
        assert isinstance(self.problem.structure, Sparse)
        mask = self.problem.structure.supports.cover(self.incumbent.point != 0)
        return np.asarray(mask.reshape(-1).double().numpy())

    def active_cuts(self, recent: int) -> list[Cut]:
        """Return the cuts that carry the bound of the relaxation, and the latest ones."""
        cuts = self.pool.cuts
        kept = set(range(max(0, len(cuts) - recent), len(cuts)))
        if self._multipliers is not None:
            kept |= set(np.flatnonzero(self._multipliers > 0).tolist())
        return [cuts[index] for index in sorted(kept)]

    def offer_mask(self, mask: Tensor, *, improve: bool = False) -> float:
        """Evaluate a mask that fits, cut there, keep its point; return its best value (``inf`` if it does not fit)."""
        assert isinstance(self.problem.structure, Sparse)
        if self.problem.structure.supports.violation(mask) != 0:
            return math.inf
        key = mask.numpy().tobytes()
        point = self.pool.weights(mask.double(), self.incumbent.point)
        if key not in self._seen:
            self._seen.add(key)
            self._cut(point)
            self._offer(point)
            if improve:
                self._improve(mask)
        return self.problem.value(point)

    def _offer(self, point: Tensor) -> None:
        if self.problem.violation(point) == 0:
            self.incumbent.take(point)

    def _improve(self, mask: Tensor | None = None) -> None:
        """Exchange columns, and cut at what is found."""
        if not isinstance(self.pool.loss, LeastSquares):
            if self.incumbent.point is not None and mask is None:
                self.offer_mask(self.incumbent.point != 0)
            return
        assert self.incumbent.point is not None
        begin = self.incumbent.point != 0 if mask is None else mask
        self.offer_mask(exchange(self.problem, self.pool, begin, watch=self.watch))

    def _cut(self, point: Tensor) -> None:
        assert self.master is not None
        self.pool.cut_at(point)
        self.master.add(self.pool.cuts[self.master.cuts :])  # in the order of the pool: multipliers belong to its cuts

    # ------------------------------------------------------------------------------------------------ relaxation

    def relaxation(self) -> None:
        """Cut at fractional masks until the relaxation is solved; round on the way; leave a checked tangent.

        The query point lies between the master's solution and the best fractional mask so far, which avoids most of
        the zigzag of pure cutting planes; when that cut does not move the master, the solution itself is cut off.
        """
        assert self.master is not None
        if not self.pool.cuts:
            self._cut(torch.zeros(self.problem.shape, dtype=torch.float64))
        center: Array | None = None
        best, last, mixing = math.inf, -math.inf, 0.5
        run: MasterRun | None = None
        for number in range(self.relaxation_cuts + 1):
            if self.watch.due() is not None:
                break
            run = self.master.relax(self.watch.remaining)
            if run.status != "kOptimal":
                break
            self.incumbent.report(run.bound)
            value = self.incumbent.value
            solved = best - run.bound <= max(1e-5, 0.02 * self.watch.budget.gap) * abs(value)
            if number == self.relaxation_cuts or solved:
                break
            if number % 10 == 0 and self._prove(run) and self.incumbent.closed:
                break
            shares = np.clip(run.masks[0], 0.0, 1.0)
            if number % 5 == 0:
                self.round_shares(shares, improve=number % 15 == 0)
            stuck = run.bound <= last + 1e-7 * abs(value)
            query = shares if center is None or stuck else mixing * shares + (1.0 - mixing) * center
            reached = self.cut_at_shares(query)
            if reached < best:
                best, center, self._center = reached, query, self.pool.cuts[-1].point
            last = run.bound
        if run is not None and run.status == "kOptimal":
            self.round_shares(np.clip(run.masks[0], 0.0, 1.0), improve=True)
            self._prove(run)

    def drop_idle_cuts(self, recent: int) -> None:
        """Keep the cuts that carry the relaxation and the latest ones only; the master is loaded anew."""
        assert self.master is not None and self.rows is not None
        self.pool.cuts[:] = self.active_cuts(recent)
        self._multipliers = None
        self.master.rebuild(self.rows, self.pool.cuts)

    def cut_at_shares(self, shares: Array) -> float:
        """Cut at a fractional mask and return the perspective's value there."""
        point = self.pool.weights(torch.from_numpy(shares).reshape(self.problem.shape))
        self._cut(point)
        return self.pool.cuts[-1].at(shares)

    def round_shares(self, shares: Array, *, improve: bool = False) -> None:
        """Offer the mask of the family that keeps the largest shares."""
        linear = -torch.from_numpy(np.maximum(shares, 1e-12)).reshape(self.problem.shape)
        model = Separable(constant=0.0, linear=linear, curvature=torch.ones_like(linear))
        self.offer_mask(self.problem.structure.argmin(model).point != 0, improve=improve)

    def _prove(self, run: MasterRun) -> bool:
        """Evaluate the tangent at the combination of the cuts; keep it if it proves more than before.

        Only for least squares is the combination of dual vectors that of the points; otherwise the tangent at the best
        fractional mask is a rival.
        """
        assert run.multipliers is not None
        self._multipliers = run.multipliers
        points = [self.pool.combined(run.multipliers)]
        if not isinstance(self.pool.loss, LeastSquares) and self._center is not None:
            points.append(self._center)
        better = False
        for point in points:
            tangent, bound = Tangent.bounded(self.problem, point, self.pool.split)
            if bound > self.incumbent.proven:
                self.incumbent.tangent, self.incumbent.proven, better = tangent, bound, True
        if better:
            self.incumbent.report(None)
        return better

    # ------------------------------------------------------------------------------------------------ masters

    def _solve_master(self, gap: float, *, lean: bool = False) -> MasterRun:
        """Solve the mixed-integer master; a lean one leaves out old cuts that do not carry the relaxation."""
        assert self.master is not None
        idle: Array = np.zeros(0, dtype=np.int64)
        if lean and self._multipliers is not None:
            idle = np.flatnonzero(self._multipliers[: max(self.master.cuts - _RECENT, 0)] <= 0)
        nodes = self.watch.budget.nodes
        mask = self.incumbent_mask()
        start = None if mask is None else (mask, self.incumbent.value + 1e-9 * abs(self.incumbent.value))
        interrupt: Callable[[float], bool] = self._asked
        run = self.master.solve(
            gap=gap,
            seconds=self.watch.remaining,
            nodes=None if nodes is None else max(nodes - self.nodes, 1),
            start=start,
            interrupt=interrupt,
            idle=idle.tolist(),
        )
        self.nodes += run.nodes
        return run

    def _asked(self, bound: float) -> bool:
        return self.incumbent.report(bound if math.isfinite(bound) else None)

    def masters(self) -> Outcome:
        """Solve mixed-integer masters and cut at every mask that they find, until the gap is closed."""
        assert self.master is not None
        tight, stalled = 0.5 * self.watch.budget.gap, 0
        while True:
            before = (self.incumbent.bound, self.incumbent.value, self.master.cuts)
            open_gap = self.incumbent.gap
            loose = math.isfinite(open_gap) and not stalled
            run = self._solve_master(
                max(tight, 0.2 * open_gap) if loose else tight, lean=self.master.large and not stalled
            )
            self.rounds += 1
            if run.status == "kInfeasible":
                return self.outcome(Stop.NUMERICAL)
            if math.isfinite(run.bound):
                self.incumbent.report(run.bound)
            for mask in run.masks:
                self.offer_mask(torch.from_numpy(mask > 0.5).reshape(self.problem.shape), improve=True)
            if self.incumbent.closed:
                return self.outcome(Stop.GAP)
            if run.status not in ("kOptimal", "kObjectiveBound", "kObjectiveTarget"):
                return self.outcome(self.watch.stopped or _STOPS.get(run.status, Stop.NUMERICAL))
            moved = (self.incumbent.bound, self.incumbent.value, self.master.cuts) != before
            stalled = 0 if moved else stalled + 1
            if stalled > 1:
                return self.outcome(Stop.NUMERICAL)  # the cuts are exact up to the back end's tolerance
            stop = self.watch.due(iterations=self.rounds, nodes=self.nodes)
            if stop is not None:
                return self.outcome(stop)
