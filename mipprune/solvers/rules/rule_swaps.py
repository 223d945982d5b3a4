"""Greedy selection of columns and exchanges that keep antichains, for least squares with a ridge."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from ...kernels.rule_search import SupportState
from ...losses.least_squares import LeastSquares
from ...structures.antichain import Antichain
from ...structures.cardinality import Cardinality

__all__ = ["RuleSwaps"]


@dataclass(frozen=True)
class RuleSwaps:
    r"""Forward selection, then the best of all additions, removals and exchanges until none helps; restarts.

    Parameters
    ----------
    restarts : int
        How often part of the best support is exchanged for random columns before the search goes on, >= 0.
    share : float
        Share of the support that a restart gives up, in (0, 1].
    tolerance : float
        Smallest decrease that counts, relative to the value of the empty model, > 0.
    seed : int
        Of the restarts.

    Notes
    -----
    For least squares with a ridge > 0 over ``Sparse(Cardinality(k) or Antichain(parents, k), price=...)``. The values
    of all moves follow from one p x k table (see ``kernels.rule_search.SupportState``), so that the best of all p k
    exchanges costs about as much as one product with the columns. An exchange may only bring in a column that is
    comparable with none of those that stay.

    References
    ----------
    Derived here; arXiv 2403.12983 (OSSCAR) uses such exchanges for layers.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> M = (torch.rand(40, 12, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    >>> problem = mp.formulations.rule_selection(M, M[:, 3] - M[:, 7], gamma=1.0, count=2)
    >>> RuleSwaps().solve(problem).mask.nonzero().ravel().tolist()
    [3, 7]
    """

    restarts: int = 0
    share: float = 0.5
    tolerance: float = 1e-9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.restarts < 0 or not 0 < self.share <= 1 or not self.tolerance > 0:
            raise InvalidProblem(
                f"restarts {self.restarts}, share {self.share}, tolerance {self.tolerance}: "
                "restarts >= 0, 0 < share <= 1 and tolerance > 0 are needed"
            )

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "RuleSwaps"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if not isinstance(problem.loss, LeastSquares):
            return f"it exchanges columns of a least-squares loss, not of {type(problem.loss).__name__}"
        structure = problem.structure
        if not isinstance(structure, Sparse) or not isinstance(structure.supports, Cardinality | Antichain):
            return "it needs Sparse(Cardinality(k)) or Sparse(Antichain(parents, k))"
        if structure.box is not None:
            return "it keeps no box around the weights"
        if not bool((torch.as_tensor(problem.loss.ridge) > 0).all()):
            return "every column needs a ridge > 0, so that equal columns can be told apart"
        return problem.loss.too_large

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`mipprune.Solver.solve`; the search goes on from ``start``, which is repaired if need be."""
        accept(self, problem)
        watch = Watch(budget, progress)
        if is_empty(problem):
            return Solution.of(problem, None, stop=Stop.CONVERGED, infeasible=True, solver=self.name)
        search = _Search(problem, self.tolerance, watch)
        first: list[int] = []
        if start is not None:
            member = start if problem.violation(start) == 0 else problem.repair(start)
            first = member.nonzero().ravel().tolist()
        best, value, done = search.fixed, float("inf"), 0
        generator = torch.Generator().manual_seed(self.seed)
        try:
            stop = search.run(first)
            best, value = search.chosen, search.value
            while stop is None and done < self.restarts and best:
                done += 1
                stop = search.run(search.shaken(best, self.share, generator))
                if search.value < value:
                    best, value = search.chosen, search.value
                    watch.report(value, None)
            if search.value < value:
                best = search.chosen
        except KeyboardInterrupt:
            stop = Stop.USER
            if search.value < value:
                best = search.chosen
        mask = torch.zeros(problem.shape, dtype=torch.bool)
        mask[best] = True
        point = torch.where(mask, problem.reference.loss.minimise_on(mask), 0.0)
        return Solution.of(
            problem,
            point,
            stop=stop or Stop.CONVERGED,
            tolerance=watch.budget.gap,
            stats=watch.stats(iterations=search.steps, device=str(search.state.design.device), seed=self.seed),
            solver=self.name,
        )


def is_empty(problem: Problem) -> bool:
    """Tell whether no support is admissible, because of fixings that contradict the family."""
    structure = problem.structure
    assert isinstance(structure, Sparse)
    return structure.supports.select(torch.zeros(problem.shape, dtype=torch.float64)).bound == -math.inf


class _Search:
    """Local search over supports of one problem."""

    def __init__(self, problem: Problem, tolerance: float, watch: Watch) -> None:
        loss, structure = problem.loss, problem.structure
        assert isinstance(loss, LeastSquares) and isinstance(structure, Sparse)
        self.supports, self.watch = structure.supports, watch
        assert isinstance(self.supports, Cardinality | Antichain)
        device = loss.design.device
        price = torch.as_tensor(structure.price_per_entry, dtype=torch.float64, device=device).expand(loss.shape)
        ridge = torch.as_tensor(loss.ridge).to(device=device, dtype=torch.float64)
        self.state = SupportState(loss.dense.double(), loss.response.double(), ridge, price.clone())
        p = loss.shape[0]
        self.most = p if self.supports.count is None else min(self.supports.count, p)
        none = torch.zeros(p, dtype=torch.bool)
        on = none if self.supports.on is None else self.supports.on.cpu()
        off = none if self.supports.off is None else self.supports.off.cpu()
        self.off, self.fixed = off.to(device), on.nonzero().ravel().tolist()
        self.least = tolerance * max(self.state.base, 1e-300)
        self._near: dict[int, Tensor] = {}
        self.steps = 0

    @property
    def chosen(self) -> list[int]:
        """The support at hand."""
        return list(self.state.chosen)

    @property
    def value(self) -> float:
        """Its value."""
        return self.state.value

    def _comparable(self, j: int) -> Tensor:
        if j not in self._near:
            flags = self.supports.comparable(j) if isinstance(self.supports, Antichain) else torch.zeros(len(self.off))
            self._near[j] = flags.to(self.off.device, torch.float64)
        return self._near[j]

    def run(self, start: list[int]) -> Stop | None:
        """Go from a support to one that no single move improves; returns the reason to stop early, or ``None``."""
        kept = [j for j in start if j not in self.fixed and not bool(self.off[j])]
        self.state.move_to(self.fixed + kept)
        while (stop := self.watch.due(iterations=self.steps)) is None:
            move = self._best_move()
            if move is None:
                return None
            before = self.state.value
            previous = self.chosen
            self.state.move_to(move)
            self.steps += 1
            if not self.state.value < before:  # rounding: what was promised did not come true
                self.state.move_to(previous)
                return None
        return stop

    def _best_move(self) -> list[int] | None:
        """Return the support after the move that decreases the value most, or ``None`` when none does."""
        state, s = self.state, len(self.state.chosen)
        near = torch.stack([self._comparable(j) for j in state.chosen], dim=1) if s else state.table
        conflicts = near.sum(dim=1)
        allowed = (conflicts == 0) & ~self.off
        exchangeable = (conflicts[:, None] - near == 0) & ~self.off[:, None]
        droppable = torch.tensor([j not in self.fixed for j in state.chosen], dtype=torch.bool).to(self.off.device)
        moves = state.moves(allowed, exchangeable, droppable)
        best, move = -self.least, None
        if s < self.most and (value := float(moves.add.min())) < best:
            best, move = value, [*state.chosen, int(moves.add.argmin())]
        if s and (value := float(moves.drop.min())) < best:
            best, i = value, int(moves.drop.argmin())
            move = state.chosen[:i] + state.chosen[i + 1 :]
        if s and (value := float(moves.swap.min())) < best:
            j, i = divmod(int(moves.swap.argmin()), s)
            move = [*state.chosen[:i], j, *state.chosen[i + 1 :]]
        return move

    def shaken(self, support: list[int], share: float, generator: torch.Generator) -> list[int]:
        """Return the support without a random part of it; the search fills it up again, in another order."""
        free = [j for j in support if j not in self.fixed]
        gone = max(1, round(share * len(free)))
        order = torch.randperm(len(free), generator=generator).tolist()
        kept = [free[i] for i in order[gone:]]
        for _ in range(gone):  # random columns in the place of those that left: greedy alone would choose them again
            blocked = self.off.clone()
            for j in [*self.fixed, *kept]:
                blocked |= self._comparable(j).bool()
                blocked[j] = True
            open_ = (~blocked).nonzero().ravel()
            if len(open_) == 0:
                break
            weights = self.state.slope[open_].square() / (self.state.squares + self.state.ridge)[open_] + 1e-300
            pick = int(torch.multinomial((weights / weights.sum()).cpu(), 1, generator=generator))
            kept.append(int(open_[pick]))
        return kept
