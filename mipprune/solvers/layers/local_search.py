"""Local search over supports: exchanges within rows or between them, moves of budget between rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Solver, Watch, accept
from ...errors import InvalidProblem
from ...kernels.swaps import Trace, prepare, search
from .admm import ADMM
from .block_exchanges import BlockExchanges, reason_against_blocks
from .exchanges import Exchanges
from .layer import RowGroups, finish, layer_parts, reason_against_layer, row_groups

__all__ = ["LocalSearch"]

_TABLE_ENTRIES = 1 << 25  # of the tables held at a time (256 MiB)


@dataclass(frozen=True)
class LocalSearch:
    r"""Improve a support by single exchanges with exact refits, until none helps.

    Parameters
    ----------
    start_solver : Solver, optional
        Where to start from when no start is given; default :class:`ADMM`.
    rounds : int
        Largest number of times the layer's budget is moved between rows.
    depth : int
        Most entries that a row gains or loses in one round.
    exchanges : int
        Most exchanges within a row in one round; with transposable masks, of a group of rows for each of them.
    tolerance : float
        Smallest decrease that counts, relative to the mean value of a row.

    Notes
    -----
    For a row with kept set T, :math:`P = H_{TT}^{-1}`, refitted weights w and residual correlations
    :math:`r = (c - w)H`, exchanging the kept p for the pruned j changes the value by

    .. math:: \frac{w_p^2}{P_{pp}} - \frac{(r_j + B_{jp} w_p/P_{pp})^2}{S_j + B_{jp}^2/P_{pp}},
              \qquad B = H_{\cdot T}P,\quad S_j = H_{jj} - H_{jT} P H_{Tj},

    so that the best of all pairs costs one pass over B and the update is of rank two. Exchanges of N:M stay within
    their group. Under a layer budget each row then offers its greedy insertions and removals, and budget moves from
    rows where removals are cheap to rows where insertions gain more; this is repeated until nothing moves. Only
    decreases are accepted, so the result is never worse than the start.

    Under transposable masks (:class:`TransposableNofM`) M consecutive rows share blocks, and what keeps the sums of all
    lines is a cycle of four entries: row j gives up p and takes q, row l gives up q and takes p. Rows separate, so with
    :math:`\delta_j(p \to q)` from above it changes the value by exactly

    .. math:: \delta_j(p \to q) + \delta_l(q \to p),

    and the best cycle of a block is found from the least :math:`\delta_j(p \to q)` over the rows for each pair (p, q).
    Lines that may keep fewer (``at_most``, and blocks cut by the edge of the matrix) have a dump line: one more row and
    one more column in each block, whose entries hold as many units as a line is short of. They cost nothing, so that
    :math:`\delta_j(p \to \text{dump})` is a removal, :math:`\delta_j(\text{dump} \to q)` an insertion, and the dump row
    makes any exchange for nothing while its units last. The result is optimal with respect to all these; fixed entries
    never move. Iterations, of budgets and of statistics, are exchanges there, and rounds elsewhere.

    References
    ----------
    arXiv 2403.12983 (OSSCAR) for the identities of removal and insertion, there for groups; the cycles with their dump
    line are derived here.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(2, 8), x.T @ x, mp.Cardinality(5))
    >>> LocalSearch().solve(problem).value <= mp.ADMM().solve(problem).value
    True
    """

    start_solver: Solver | None = None
    rounds: int = 20
    depth: int = 6
    exchanges: int = 1000
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.depth < 1 or self.exchanges < 0:
            raise InvalidProblem("rounds and exchanges must be at least 0, depth at least 1")
        if not self.tolerance > 0:
            raise InvalidProblem(f"tolerance is {self.tolerance}; it must be > 0, or rounding errors pass for progress")

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "LocalSearch"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`: budgets per layer, per row or per group of inputs, and transposable masks."""
        reason = reason_against_layer(problem)
        return reason_against_blocks(problem) if reason is None and row_groups(problem) is None else reason

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; a start outside S is repaired first."""
        accept(self, problem)
        watch = Watch(budget, progress)
        point = self._first_point(problem, watch, start)
        if point is None:
            return Solution.of(
                problem, None, stop=Stop.CONVERGED, stats=watch.stats(), tolerance=watch.budget.gap, solver=self.name
            )
        first_value = problem.value(point)
        watch.report(first_value, None)
        iterations = 0
        try:
            run = self._run(problem, point, first_value, watch)
            stop = run.iterate()
            iterations, improved = run.iterations, run.point()
        except KeyboardInterrupt:  # once more, or before the search has begun
            return finish(self, problem, point, watch=watch, stop=Stop.USER, iterations=iterations)
        value = problem.value(improved)
        if value < first_value:
            point = improved
            watch.report(value, None)
        return finish(self, problem, point, watch=watch, stop=stop, iterations=iterations)

    def _first_point(self, problem: Problem, watch: Watch, start: Tensor | None) -> Tensor | None:
        if start is not None:
            start = start.to(problem.loss.start())
            if problem.violation(start) == 0:
                return start
            repaired = problem.repair(start)
            return repaired if problem.violation(repaired) == 0 else None  # no member, where fixings contradict
        solver = ADMM() if self.start_solver is None else self.start_solver
        first = solver.solve(problem, budget=replace(watch.budget, iterations=None))
        watch.stopped = Stop.USER if first.stop is Stop.USER else None
        return first.point

    def _run(self, problem: Problem, point: Tensor, value: float, watch: Watch) -> Exchanges:
        groups = row_groups(problem)
        if groups is None:
            return BlockExchanges(problem, point, value, watch, tolerance=self.tolerance, exchanges=self.exchanges)
        return _RowExchanges(self, problem, groups, point, watch)


class _RowExchanges(Exchanges):
    """The rows of a layer, with what each would gain or lose by a change of its budget."""

    def __init__(self, solver: LocalSearch, problem: Problem, groups: RowGroups, point: Tensor, watch: Watch) -> None:
        mask = problem.structure.mask_of(point)
        super().__init__(problem, point, mask, groups.on, groups.off, watch, solver.tolerance)
        self.solver, self.groups = solver, groups
        self.offset = layer_parts(problem)[0].offset
        self.depth = solver.depth if groups.whole else 0
        self.values = torch.zeros(len(mask), dtype=torch.float64, device=self.mask.device)
        self.trace = Trace.empty(len(mask), self.depth, self.layer.center)

    def iterate(self) -> Stop:
        """Search rows and move budget between them until nothing changes or a limit is reached."""
        kept: Tensor | None = None
        try:
            stop = self._search(torch.arange(len(self.mask), device=self.mask.device))
            self.iterations = 1
            while stop is None and self.depth and self.iterations <= self.solver.rounds:
                kept, value = self.mask.clone(), float(self.values.sum())
                changed = self._move_budget()
                if len(changed) == 0:
                    return Stop.CONVERGED
                stop = self.watch.due(iterations=self.iterations) or self._search(changed)
                self.iterations += 1
                if stop is not None or float(self.values.sum()) >= value:
                    self.mask = kept
                    return stop or Stop.CONVERGED
                kept = None
        except KeyboardInterrupt:
            self.mask = self.mask if kept is None else kept  # moved budget pays only once the rows were searched
            return Stop.USER
        if stop is not None:
            return stop
        return Stop.ITERATIONS if self.depth and self.iterations > self.solver.rounds else Stop.CONVERGED

    def _slots(self, counts: Tensor) -> int:
        if self.groups.whole:
            return int(counts.max()) + self.depth
        return self.mask.shape[1] // self.groups.size * min(self.groups.budget, self.groups.size)

    def _search(self, rows: Tensor) -> Stop | None:
        """Bring rows to local optima, batch by batch; rows of a finished batch keep what they gained."""
        counts = self.mask[rows].sum(dim=1)
        rows = rows[counts.argsort(stable=True)]  # similar counts share a batch, so that little is padded
        width = self.mask.shape[1]
        while len(rows):
            stop = self.watch.due()
            if stop is not None:
                return stop
            slots = max(self._slots(self.mask[rows].sum(dim=1)), 1)
            part = rows[: max(1, _TABLE_ENTRIES // (width * slots))]
            rows = rows[len(part) :]
            self._search_batch(part, max(self._slots(self.mask[part].sum(dim=1)), 1))
            if len(rows) and self.watch.progress is not None:
                self.watch.report(None, None)
        self.watch.report(self.offset + self.layer.unit**2 * float(self.values.sum()), None)
        return None

    def _search_batch(self, rows: Tensor, slots: int) -> None:
        center = self.layer.center[rows]
        state = prepare(self.layer.gram, center, self.mask[rows], slots)
        trace = Trace.empty(len(rows), self.depth, center)
        search(
            self.layer.gram,
            state,
            self.on[rows] | ~state.sound[:, None],
            self.off[rows] | ~state.sound[:, None],
            size=self.groups.size,
            budget=0 if self.groups.whole else self.groups.budget,
            limit=self.solver.exchanges,
            least=self.least,
            trace=trace,
        )
        kept = state.slot >= 0
        # The gradient vanishes on the kept entries, so that the value is what the pruned ones still correlate with.
        self.values[rows] = torch.where(kept, 0.0, center * state.level).sum(dim=1)
        self.mask[rows] = kept
        self.take(rows, state, state.sound)
        for whole, own in zip(self.trace, trace, strict=True):
            whole[rows] = own

    def _move_budget(self) -> Tensor:
        """Give budget to the rows that gain most by it, from those that lose least; returns the rows that changed."""
        spare = self.groups.budget - int(self.mask.sum())
        gains = self.trace.gains.cummin(dim=1).values  # a prefix of the trace is taken, so its worst step decides
        costs = self.trace.costs.cummax(dim=1).values
        best, gaining = gains.flatten().sort(descending=True, stable=True)
        cheap, losing = costs.flatten().sort(stable=True)
        free = int((best[: max(spare, 0)] > self.least).sum())
        pairs = min(len(best) - free, len(cheap))
        moved = int((best[free : free + pairs] > cheap[:pairs] + self.least).sum())
        gaining, losing = gaining[: free + moved] // self.depth, losing[:moved] // self.depth
        rows = len(self.mask)
        inserted, removed = torch.bincount(gaining, minlength=rows), torch.bincount(losing, minlength=rows)
        both = torch.minimum(inserted, removed)  # giving and taking at once would not add up as the traces say
        inserted, removed = inserted - both, removed - both
        step = torch.arange(self.depth, device=self.mask.device)
        for count, entries, value in (
            (inserted, self.trace.insertions, True),
            (removed, self.trace.removals, False),
        ):
            row, column = (step < count.unsqueeze(1)).nonzero(as_tuple=True)
            self.mask[row, entries[row, column]] = value
        return ((inserted + removed) > 0).nonzero().flatten()
