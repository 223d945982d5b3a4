"""Rules for two classes: reweighted least-squares problems, each given to a solver for least squares."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Solver, Watch, accept
from ...errors import InvalidProblem
from ...losses.least_squares import LeastSquares
from ...losses.logistic import Logistic
from .rule_swaps import RuleSwaps, is_empty
from .tree_descent import TreeDescent

__all__ = ["ReweightedRules"]

_LEAST = 1e-6  # share of the largest weight that every sample keeps, so that no model is flat


@dataclass(frozen=True)
class ReweightedRules:
    r"""Choose supports for the logistic loss by least squares around the point at hand.

    Parameters
    ----------
    rounds : int
        Most rounds, >= 1.
    exchanges : bool
        Use :class:`RuleSwaps` also where :class:`TreeDescent` applies.

    Notes
    -----
    At a point with margins m, errors :math:`\pi` and pulls g, a round replaces the loss of each sample by
    :math:`g_i t + \tfrac12 h_i t^2`, t the change of its margin: first with the second derivative
    :math:`h_i = \omega_i\pi_i(1-\pi_i)` (reweighted least squares); when the refitted support is no better, with its
    upper bound :math:`\omega_i/4`, where every decrease of the model is one of the loss. Supports are refitted by
    Newton's method, and only decreases are accepted.

    References
    ----------
    Derived here from the majorant of the logistic loss; selection by arXiv 2506.20114.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> M = (torch.rand(60, 9, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    >>> problem = mp.formulations.rule_selection(M, M[:, 2] > 0, gamma=1.0, count=1, loss="logistic")
    >>> ReweightedRules().solve(problem).mask.nonzero().item()
    2
    """

    rounds: int = 20
    exchanges: bool = False

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InvalidProblem(f"rounds is {self.rounds}; at least one is needed")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "ReweightedRules"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if not isinstance(problem.loss, Logistic):
            return f"it reweights the logistic loss, not {type(problem.loss).__name__}; see RuleSwaps and TreeDescent"
        return RuleSwaps().rejects(_squared(problem, torch.zeros(problem.shape), bound=True))

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`mipprune.Solver.solve`."""
        accept(self, problem)
        watch = Watch(budget, progress)
        if is_empty(problem):
            return Solution.of(problem, None, stop=Stop.CONVERGED, infeasible=True, solver=self.name)
        work = problem.reference
        point = work.repair(torch.zeros(problem.shape) if start is None else start.cpu()).double()
        value, done, stop = work.value(point), 0, Stop.ITERATIONS
        try:
            while done < self.rounds:
                done += 1
                before = value
                for bound in (False, True):
                    point, value = self._round(work, point, value, bound, watch)
                    if value < before or watch.due() is not None:
                        break
                watch.report(value, None)
                reason = watch.due(iterations=done)
                if reason is not None or not value < before - 1e-9 * abs(before):
                    stop = reason or Stop.CONVERGED
                    break
        except KeyboardInterrupt:
            stop = Stop.USER
        stats = watch.stats(iterations=done, device="cpu")
        return Solution.of(problem, point, stop=stop, tolerance=watch.budget.gap, stats=stats, solver=self.name)

    def _round(self, problem: Problem, point: Tensor, value: float, bound: bool, watch: Watch) -> tuple[Tensor, float]:
        model = _squared(problem, point, bound)
        left = Budget(seconds=None if watch.budget.seconds is None else max(watch.remaining, 1e-3))
        descent = TreeDescent()
        tried: list[Solver] = [descent] if descent.rejects(model) is None else []
        if self.exchanges or not tried:
            tried.append(RuleSwaps())
        for solver in tried:
            found = solver.solve(model, budget=left, start=point if bound else None)
            if found.mask is None:
                continue
            refitted = torch.where(found.mask, problem.loss.minimise_on(found.mask), 0.0)
            there = problem.value(refitted)
            if there < value and problem.violation(refitted) == 0:
                point, value = refitted, there
        return point, value


def _squared(problem: Problem, point: Tensor, bound: bool) -> Problem:
    """Return the least-squares model of the problem around a point."""
    loss, structure = problem.loss, problem.structure
    assert isinstance(loss, Logistic) and isinstance(structure, Sparse)
    design, labels, ridge, weights, offset = loss._double()
    fitted = design @ point.to(design)
    share = torch.sigmoid(-labels * (fitted + offset))
    pull = -labels * weights * share
    bend = 0.25 * weights if bound else weights * share * (1.0 - share)
    bend = bend.clamp_min(_LEAST * float(bend.max().clamp_min(1e-300)))
    root = bend.sqrt()
    return replace(problem, loss=LeastSquares(design * root[:, None], root * (fitted - pull / bend), ridge=ridge))
