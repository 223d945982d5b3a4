"""The state of a descent over trees: blocks, weights, residual, and the two orders of going through the blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solution import Stop
from ...core.solver import Watch
from ...kernels.tree_batches import TreeBatch
from ...losses.least_squares import LeastSquares
from ...structures.antichain import Antichain

__all__ = ["Descent", "blocks_of"]

Array = np.ndarray[Any, Any]


def blocks_of(design: Tensor, supports: Antichain) -> tuple[Array, Array] | None:
    """Return (block, member): runs of trees whose columns hold for disjoint samples; ``None`` if branches overlap.

    Block b has the columns ``member[block[b]:block[b + 1]]``, parents before children.
    """
    from ...kernels.antichains import top_down

    parent = supports.parents.numpy()
    order = top_down(parent)
    assert order is not None
    holds = np.ascontiguousarray((design != 0).cpu().numpy().T)
    inner = np.flatnonzero(parent >= 0)
    if len(inner):
        inner = inner[np.argsort(parent[inner], kind="stable")]
        used, first = np.unique(parent[inner], return_index=True)
        below = np.add.reduceat(
            holds[inner], first, axis=0, dtype=np.int32
        )  # children of a node that hold for a sample
        if bool((below > holds[used]).any()):
            return None
    root = np.arange(len(parent))
    for v in order:
        if parent[v] >= 0:
            root[v] = root[parent[v]]
    number, covered, label = -1, None, np.zeros(len(parent), dtype=np.int64)
    for r in np.flatnonzero(parent < 0):  # neighbours whose samples are disjoint, such as the halves of one tree
        if covered is None or bool((covered & holds[r]).any()):
            number, covered = number + 1, np.zeros(holds.shape[1], dtype=bool)
        covered |= holds[r]
        label[r] = number
    label = label[root]
    member = order[np.argsort(label[order], kind="stable")]
    return np.concatenate([[0], np.cumsum(np.bincount(label, minlength=number + 1))]).astype(np.int64), member


class Descent:
    """The state of a descent over one problem, whose prices may change."""

    def __init__(self, problem: Problem, sweeps: int, tolerance: float, greedy: bool = False) -> None:
        from ...kernels.tree_blocks import compressed

        loss, structure = problem.reference.loss, problem.structure
        assert isinstance(loss, LeastSquares) and isinstance(structure, Sparse)
        supports = structure.supports
        assert isinstance(supports, Antichain)
        self.problem, self.sweeps = problem, sweeps
        self.design: Array = loss.dense.numpy()
        self.response: Array = loss.response.numpy()
        found = blocks_of(loss.dense, supports)
        assert found is not None
        self.block, self.member = found
        self.columns = compressed(self.design)
        self.squares = np.square(self.design).sum(axis=0)
        self.ridge: Array = torch.as_tensor(loss.ridge).numpy()
        self.charge(problem)
        self.parent: Array = supports.parents.numpy()
        self.on, self.free, left = supports._fixed
        self.count = None if supports.count is None else left + int(self.on.sum())
        self.least = tolerance * loss.scale
        self.weight = np.zeros(len(self.parent))
        self.residual = self.response.copy()
        self.best, self.value = torch.zeros(0, dtype=torch.float64), math.inf
        self.done = 0
        self.batch = self._batched(problem) if greedy else None

    def _batched(self, problem: Problem) -> TreeBatch:
        """The state of the greedy order, on the device of the problem."""
        assert isinstance(problem.loss, LeastSquares)
        design = problem.loss.dense.double()
        label = np.empty(len(self.parent), dtype=np.int64)
        label[self.member] = np.repeat(np.arange(len(self.block) - 1), np.diff(self.block))

        def there(values: Array) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(design.device)

        return TreeBatch(
            design=design,
            response=problem.loss.response.double(),
            ridge=there(self.ridge.astype(np.float64)),
            price=there(self.price),
            parent=there(self.parent),
            block=there(label),
            free=there(self.free),
            forced=there(self.on),
            weight=there(self.weight),
        )

    def begin(self, point: Tensor) -> None:
        """Go on from a member of the set."""
        self.weight = point.detach().cpu().double().numpy().copy()
        self.residual = self.response - self.design @ self.weight

    def charge(self, problem: Problem) -> None:
        """Take the prices of another problem over the same columns and trees."""
        assert isinstance(problem.structure, Sparse)
        price = torch.as_tensor(problem.structure.price_per_entry, dtype=torch.float64).numpy()
        self.price: Array = np.broadcast_to(price, problem.shape).copy()

    def run(self, extra: float, watch: Watch) -> Stop | None:
        """Descend with an extra price for every rule; returns the reason to stop early, or ``None``."""
        from ...kernels.tree_blocks import sweep

        if self.batch is not None:
            return self._run_greedy(self.batch, extra, watch)
        left = self.sweeps
        while left > 0:
            part = min(left, 20)
            done = sweep(
                *self.columns, self.squares, self.ridge, self.price + extra, self.block, self.member, self.parent,
                self.free, self.on, self.weight, self.residual, part, self.least,
            )  # fmt: skip
            self.done, left = self.done + done, left - part
            if done < part or left <= 0:
                break
            if (stop := watch.due()) is not None:
                return stop
        self.residual = self.response - self.design @ self.weight  # rounding of many updates does not pile up
        return watch.due()

    def _run_greedy(self, batch: TreeBatch, extra: float, watch: Watch) -> Stop | None:
        """Take the best block again and again; as many steps as there are blocks count as a sweep."""
        blocks = max(len(self.block) - 1, 1)
        batch.price = torch.from_numpy(self.price + extra).to(batch.weight)
        batch.weight = torch.from_numpy(self.weight).to(batch.weight)
        batch.refresh()
        stop: Stop | None = None
        for _ in range(self.sweeps):
            done = batch.run(blocks, self.least / blocks)
            self.done += 1
            stop = watch.due()
            if done < blocks or stop is not None:
                break
            batch.refresh()
        self.weight = batch.weight.cpu().numpy().copy()
        self.residual = self.response - self.design @ self.weight
        return stop

    def point(self, problem: Problem | None = None) -> Tensor:
        """Return the point at hand, refitted on its support unless that is worse."""
        problem = self.problem if problem is None else problem
        point = torch.from_numpy(self.weight.copy())
        mask = (point != 0) | torch.from_numpy(self.on)
        refitted = torch.where(mask, problem.loss.minimise_on(mask).to(point), 0.0)
        return refitted if problem.value(refitted) <= problem.value(point) else point

    def offer(self, point: Tensor) -> None:
        """Take a point as the best one if it is a member of the set and better than the best so far."""
        if self.problem.violation(point) == 0:
            value = self.problem.value(point)
            if value < self.value:
                self.best, self.value = point, value

    def within_budget(self, watch: Watch, steps: int = 25) -> Stop | None:
        """Bisect an extra price of every rule until the budget holds; every member met is offered as the best."""
        top = float(np.square(self.response @ self.design).max(initial=0.0) / 2) / max(
            float((self.squares + self.ridge).min(initial=1.0)), 1e-300
        )
        low, high = 0.0, top
        for _ in range(steps):
            middle = (low * high) ** 0.5 if low > 0 else high * 1e-2
            stop = self.run(middle, watch)
            count = int((self.weight != 0).sum())
            if count <= (self.count or 0):
                self.offer(self.point())
                high = middle
            else:
                low = middle
            if stop is not None:
                return stop
            if count == self.count or high <= low * (1 + 1e-4) or high <= 1e-9 * top:
                break
        return None
