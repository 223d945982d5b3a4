"""Block descent over chains of 0/1 entries: how many layers of each tree to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Masks
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from ...losses.least_squares import LeastSquares
from ...structures.rooted import Rooted

__all__ = ["LayerDescent"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LayerDescent:
    r"""Choose the depth of one tree at a time, exactly, until no tree changes; then leave one out at random and go on.

    Parameters
    ----------
    sweeps : int
        Most sweeps of a descent.
    restarts : int
        How often a random tree is emptied before the descent goes on; kept when the end is better.
    seed : int

    Notes
    -----
    For least squares over ``Masks(Rooted(parents))`` whose trees are chains, as
    :func:`~mipprune.formulations.layer_pruning` builds them. A chain of D layers has D + 1 prefixes, whose values
    follow from the products of the residual with the prefix sums of the columns. The value never increases.

    References
    ----------
    ForestPrune (AISTATS 2023).
    """

    sweeps: int = 100
    restarts: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sweeps < 1 or self.restarts < 0:
            raise InvalidProblem(f"sweeps is {self.sweeps} and restarts {self.restarts}; at least 1 and 0 are needed")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "LayerDescent"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        structure = problem.structure
        if not isinstance(problem.loss, LeastSquares) or not isinstance(structure, Masks):
            return "it chooses masks for a least-squares loss over chains: Masks(Rooted(parents)) is needed"
        supports = structure.supports
        if not isinstance(supports, Rooted):
            return "its blocks are chains: Masks(Rooted(parents)) is needed"
        parent = supports.parents
        if bool((torch.bincount(parent[parent >= 0], minlength=1) > 1).any()):
            return "its blocks are chains, but an entry has two children"
        if supports.on is not None or supports.off is not None:
            return "it keeps no fixings"
        return problem.loss.too_large

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`mipprune.Solver.solve`; the descent begins at ``start`` (default: all layers)."""
        accept(self, problem)
        watch = Watch(budget, progress)
        chains = _Chains(problem)
        whole = torch.ones(problem.shape, dtype=torch.float64)
        begin = whole if start is None else start if problem.violation(start) == 0 else problem.repair(start)
        depth = chains.depths(begin)
        best, rng, stop = depth.copy(), np.random.default_rng(self.seed), Stop.CONVERGED
        try:
            best = chains.descend(depth, self.sweeps, watch)
            value = chains.value(best)
            for _ in range(self.restarts):
                reason = watch.due()
                if reason is not None or not (best > 0).any():
                    stop = reason or stop
                    break
                trial = best.copy()
                trial[rng.choice(np.flatnonzero(best > 0))] = 0
                trial = chains.descend(trial, self.sweeps, watch)
                there = chains.value(trial)
                if there < value:
                    best, value = trial, there
                    watch.report(value, None)
        except KeyboardInterrupt:
            stop = Stop.USER
        stats = watch.stats(iterations=chains.done, device="cpu", seed=self.seed)
        return Solution.of(
            problem, chains.mask(best), stop=stop, tolerance=watch.budget.gap, stats=stats, solver=self.name
        )


class _Chains:
    """Prefix sums of the columns of every chain."""

    def __init__(self, problem: Problem) -> None:
        loss, structure = problem.reference.loss, problem.structure
        assert isinstance(loss, LeastSquares) and isinstance(structure, Masks)
        supports = structure.supports
        assert isinstance(supports, Rooted)
        parent: Array = supports.parents.numpy()
        child = np.full(len(parent), -1)
        child[parent[parent >= 0]] = np.flatnonzero(parent >= 0)
        self.chains: list[Array] = []
        for root in np.flatnonzero(parent < 0):
            chain = [root]
            while child[chain[-1]] >= 0:
                chain.append(child[chain[-1]])
            self.chains.append(np.array(chain))
        design, self.response = loss.dense.numpy(), loss.response.numpy()
        ridge = torch.as_tensor(loss.ridge).numpy()
        self.sums = [np.cumsum(design[:, chain], axis=1).T.copy() for chain in self.chains]  # (layers, n)
        self.costs = [np.concatenate([[0.0], np.cumsum(0.5 * ridge[chain])]) for chain in self.chains]
        self.halves = [np.concatenate([[0.0], 0.5 * np.square(part).sum(axis=1)]) for part in self.sums]
        self.size, self.done = len(parent), 0

    def depths(self, point: Tensor) -> Array:
        """Number of layers kept of each chain."""
        kept = (point != 0).numpy()
        return np.array([int(kept[chain].sum()) for chain in self.chains], dtype=np.int64)

    def mask(self, depth: Array) -> Tensor:
        """The point with so many layers of each chain."""
        out = torch.zeros(self.size, dtype=torch.float64)
        for chain, layers in zip(self.chains, depth, strict=True):
            out[chain[:layers]] = 1.0
        return out

    def _residual(self, depth: Array) -> Array:
        residual: Array = self.response.copy()
        for part, layers in zip(self.sums, depth, strict=True):
            if layers:
                residual -= part[layers - 1]
        return residual

    def value(self, depth: Array) -> float:
        """The objective."""
        cost = sum(float(cost[layers]) for cost, layers in zip(self.costs, depth, strict=True))
        return 0.5 * float(np.square(self._residual(depth)).sum()) + cost

    def descend(self, depth: Array, sweeps: int, watch: Watch) -> Array:
        """Return depths that no single chain improves, from the given ones."""
        depth = depth.copy()
        residual = self._residual(depth)
        for _ in range(sweeps):
            self.done += 1
            changed = False
            for t, part in enumerate(self.sums):
                layers = int(depth[t])
                if layers:
                    residual += part[layers - 1]
                values = self.halves[t] + self.costs[t]
                values[1:] -= part @ residual
                better = int(values.argmin())
                if values[better] < values[layers] - 1e-12 * (abs(values[layers]) + self.halves[t][-1]):
                    depth[t] = layers = better
                    changed = True
                if layers:
                    residual -= part[layers - 1]
            if not changed or watch.due() is not None:
                break
        return depth
