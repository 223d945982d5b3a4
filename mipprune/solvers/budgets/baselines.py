"""Other ways to choose weights within budgets: the golden-section method of FALCON's authors, and rankings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Masks
from ...core.arrays import exact
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...losses.linear import Linear
from ...structures.budgets import Budgets

__all__ = ["GoldenSection", "GreedyBudget"]

Array = np.ndarray[Any, Any]
_RATIO = (math.sqrt(5.0) - 1.0) / 2.0


def _family(problem: Problem) -> Budgets | str:
    """The budgets of a selection problem without bounds and fixings, or why it is none."""
    if not isinstance(problem.loss, Linear) or not isinstance(problem.structure, Masks):
        return "it sums up scores of kept weights: formulations.flop_selection(...)"
    family = problem.structure.supports
    if not isinstance(family, Budgets):
        return "it chooses within budgets: formulations.flop_selection(...)"
    if family.on is not None or family.off is not None or family.lower is not None or family.upper is not None:
        return "it knows neither fixed entries nor bounds on the counts of layers; mp.solve(problem) does"
    return family


def _data(problem: Problem, family: Budgets) -> tuple[Array, Array]:
    """Scores (p,) and costs of layers (layers, resources)."""
    assert isinstance(problem.loss, Linear)
    return -exact(problem.loss.cost).reshape(-1).numpy(), family.whole[0]


def _finish(problem: Problem, mask: Array, watch: Watch, name: str, tolerance: float, steps: int) -> Solution:
    point = torch.from_numpy(mask).reshape(problem.shape).to(torch.float64)
    stats = watch.stats(iterations=steps, device="cpu")
    stop = watch.stopped or Stop.CONVERGED
    return Solution.of(problem, point, stop=stop, tolerance=tolerance, stats=stats, solver=name)


@dataclass(frozen=True)
class GoldenSection:
    """Golden section on the multiplier of the FLOP budget, then one ranking by reduced score.

    The method of FALCON's release, restated: the multiplier of the non-zeros is the K-th largest reduced score; the
    final ranking is cut at the first weight that breaks a budget, and ties at the cut are dropped. What is left of the
    budgets is not used, and the absolute tolerance ends the search early when the scores are small. It has no bound of
    its own: compare it with ``mp.solve``.

    Parameters
    ----------
    tolerance : float
        Absolute, on the multiplier.

    References
    ----------
    arXiv 2403.07094.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> scores = [torch.tensor([9.0, 8.0, 7.0]), torch.tensor([3.0, 2.0, 1.0])]
    >>> problem = mp.formulations.flop_selection(scores, [10, 1], nnz=3, flops=12)
    >>> GoldenSection().solve(problem).value, mp.solve(problem).value
    (-14.0, -14.0)
    """

    tolerance: float = 1e-12

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "golden"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`: a budget on the non-zeros and one other, and nothing else."""
        family = _family(problem)
        if isinstance(family, str):
            return family
        uniform = [bool((row == row[0]).all()) and bool(row[0] > 0) for row in family.costs]
        if len(uniform) != 2 or not any(uniform):
            return "it takes a budget on the non-zeros and one other; mp.solve(problem) takes any number"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Choose; ``start`` is not needed and ignored."""
        accept(self, problem)
        watch = Watch(budget, progress)
        family = _family(problem)
        assert isinstance(family, Budgets)
        (scores, table), limits = _data(problem, family), family.whole[1]
        counted = 0 if (table[:, 0] == table[0, 0]).all() else 1
        count = min(int(limits[counted] // table[0, counted]), scores.size)
        limit = int(limits[1 - counted])
        costs = np.repeat(table[:, 1 - counted], family.sizes.numpy())
        steps = 0

        def dual(price: float) -> float:
            nonlocal steps
            steps += 1
            reduced = scores - price * costs
            floor = 0.0
            if 0 < count < reduced.size:
                floor = max(float(np.partition(reduced, reduced.size - count)[reduced.size - count]), 0.0)
            return floor * count + price * limit + float(np.maximum(reduced - floor, 0.0).sum())

        paid = costs > 0
        low, high = 0.0, float((scores[paid] / costs[paid]).max(initial=0.0))
        left, right = high - _RATIO * (high - low), low + _RATIO * (high - low)
        at_left, at_right = dual(left), dual(right)
        while high - low > self.tolerance and watch.due(iterations=steps) is None:
            if at_left <= at_right:
                high, right, at_right = right, left, at_left
                left = high - _RATIO * (high - low)
                at_left = dual(left)
            else:
                low, left, at_left = left, right, at_right
                right = low + _RATIO * (high - low)
                at_right = dual(right)
            watch.report(None, None)
            if left >= right:  # the interval is as short as the numbers allow
                break
        if watch.stopped is None:
            watch.stopped = watch.due(iterations=steps)
        reduced = scores - 0.5 * (low + high) * costs
        mask = np.zeros(scores.size, dtype=bool)
        order = np.argsort(-reduced, kind="stable")
        order = order[scores[order] > 0]
        fits = min(count, int(np.searchsorted(np.cumsum(costs[order]), limit, side="right")))
        if fits < order.size:
            fits = int(np.searchsorted(-reduced[order], -reduced[order[fits]], side="left"))
        mask[order[:fits]] = True
        return _finish(problem, mask, watch, self.name, watch.budget.gap, steps)


@dataclass(frozen=True)
class GreedyBudget:
    """Rank the weights by score per share of the budgets and keep each one that still fits.

    Parameters
    ----------
    power : float
        The score is divided by this power of the shares that a weight takes of the budgets: 1 is the density greedy of
        knapsack problems, 0 ranks by score alone.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> scores = [torch.tensor([5.0, 1.0, 1.0]), torch.tensor([3.0, 2.5, 2.0])]
    >>> problem = mp.formulations.flop_selection(scores, [10, 1], nnz=3, flops=12)
    >>> GreedyBudget().solve(problem).value, mp.solve(problem).value
    (-7.5, -10.5)
    """

    power: float = 1.0

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "greedy"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`: any number of budgets, nothing fixed and no bounds on counts."""
        family = _family(problem)
        return family if isinstance(family, str) else None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Choose; ``start`` is not needed and ignored."""
        accept(self, problem)
        watch = Watch(budget, progress)
        family = _family(problem)
        assert isinstance(family, Budgets)
        (scores, costs), limits = _data(problem, family), family.whole[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(costs > 0, costs / limits.astype(float), 0.0).sum(axis=1) ** self.power
            sizes = family.sizes.numpy()
            rank = scores / np.repeat(np.where(shares > 0, shares, 1e-300), sizes)
        layer = np.repeat(np.arange(sizes.size), sizes)
        order = np.argsort(-rank, kind="stable")
        order = order[(scores[order] > 0) & np.isfinite(rank[order])]
        mask = np.zeros(scores.size, dtype=bool)
        left = limits.copy()
        rounds = 0
        while order.size and watch.due(iterations=rounds) is None:
            rounds += 1
            used = np.cumsum(costs[layer[order]], axis=0)
            fits = int((used <= left).all(axis=1).argmin()) if (used[-1] > left).any() else order.size
            mask[order[:fits]] = True
            left = left - (used[fits - 1] if fits else 0)
            order = order[fits:]
            order = order[(costs[layer[order]] <= left).all(axis=1)]  # a layer that is too dear now stays so
        return _finish(problem, mask, watch, self.name, watch.budget.gap, rounds)
