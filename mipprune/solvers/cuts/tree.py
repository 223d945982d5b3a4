"""A tree of our own over the cuts: every node is bounded by a tangent, so that the tree is a certificate."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.certificate import Tangent, Tree
from ...core.problem import Problem
from ...core.solution import Stop
from ..exact.model import Outcome
from .search import CutSearch

__all__ = ["search_own_tree"]

Array = np.ndarray[Any, Any]

_ROUNDS = 6  # cuts at a node, at most
_RISE = 0.02  # share of the open gap by which a round must raise the bound for another one
_CROWDED = 400  # cuts in the master from which the idle ones are dropped


@dataclass(eq=False)
class _Node:
    """A node: its restricted problem, tangent, bound and fractional mask; ``entry`` and ``children`` once branched."""

    problem: Problem
    tangent: Tangent
    bound: float
    shares: Array | None
    entry: int = -1
    children: tuple[int, int] = (-1, -1)


def search_own_tree(search: CutSearch) -> Outcome:
    """Branch on entries of the mask until every leaf is bounded well enough; the tree becomes the run's certificate.

    Parameters
    ----------
    search : CutSearch
        After its relaxation: with a pool of cuts, an incumbent and its tangent.

    Notes
    -----
    At a node the linear relaxation of the master with its fixings gives multipliers; the tangent at the combination of
    the cuts is bounded by the family's own selection under the same fixings. Cuts hold everywhere and are shared.
    """
    return _TreeSearch(search).run()


class _TreeSearch:
    def __init__(self, search: CutSearch) -> None:
        self.search, self.incumbent, self.watch = search, search.incumbent, search.watch
        self.nodes: list[_Node] = []
        self.open: list[tuple[float, int]] = []
        none = torch.zeros(search.problem.shape, dtype=torch.bool)
        self.root = search.problem.restrict(none, none)

    @property
    def target(self) -> float:
        """Bound at which a node is closed."""
        return self.incumbent.value - self.watch.budget.gap * abs(self.incumbent.value)

    def run(self) -> Outcome:
        """Best bound first."""
        assert self.incumbent.tangent is not None
        stop = Stop.GAP
        try:
            self._add(self._bounded(self.root, None))
            while True:
                while self.open and self.open[0][0] >= self.target:
                    heapq.heappop(self.open)
                if not self.open:
                    break
                due = self.watch.due(nodes=len(self.nodes))
                if due is not None:
                    stop = due
                    break
                _, number = heapq.heappop(self.open)
                self._branch(self.nodes[number])
                self._report()
        except KeyboardInterrupt:
            stop = Stop.USER
        self._conclude()
        return self.search.outcome(stop)

    def _report(self) -> None:
        before = self.incumbent.proven
        self.incumbent.proven = max(before, min(self._bound, self.incumbent.value))
        self.incumbent.report(None)
        self.incumbent.proven = before

    @property
    def _bound(self) -> float:
        return min(node.bound for node in self.nodes if node.entry < 0)

    def _conclude(self) -> None:
        """Hand the tree over as the certificate of the run, if it proves more than the root's tangent."""
        self.search.nodes = len(self.nodes)
        if not self.nodes or self._bound <= self.incumbent.proven:
            return
        leaves = tuple(node.tangent for node in self.nodes if node.entry < 0)
        index = torch.tensor([node.entry for node in self.nodes], dtype=torch.int64)
        children = torch.tensor([node.children for node in self.nodes], dtype=torch.int64).reshape(-1, 2)
        self.incumbent.tangent, self.incumbent.proven = Tree(index, children, leaves), self._bound
        self.incumbent.report(None)

    # ------------------------------------------------------------------------------------------ nodes

    def _add(self, node: _Node) -> int:
        self.nodes.append(node)
        number = len(self.nodes) - 1
        if node.bound < self.target and node.shares is not None:
            heapq.heappush(self.open, (node.bound, number))
        return number

    def _branch(self, node: _Node) -> None:
        """Fix the entry whose share is most undecided."""
        problem = node.problem
        assert problem.on is not None and problem.off is not None and node.shares is not None
        free = (~(problem.on | problem.off)).reshape(-1).numpy()
        if not free.any():
            return
        score = np.where(free, np.minimum(node.shares, 1.0 - node.shares) + 1e-6 * node.shares, -1.0)
        entry = int(score.argmax())
        flags = torch.zeros(problem.size, dtype=torch.bool)
        flags[entry] = True
        fixed, none = flags.reshape(problem.shape), torch.zeros(problem.shape, dtype=torch.bool)
        off = self._bounded(problem.restrict(none, fixed), node)
        on = self._bounded(problem.restrict(fixed, none), node)
        node.entry, node.children, node.shares = entry, (self._add(off), self._add(on)), None

    def _bounded(self, problem: Problem, parent: _Node | None) -> _Node:
        """Bound a part of the set: the parent's tangent first, then tangents at the multipliers of its relaxation."""
        tangent = parent.tangent if parent is not None else self.incumbent.tangent
        assert isinstance(tangent, Tangent)
        bound = tangent.bound(problem)
        if bound >= self.target:
            return _Node(problem, tangent, bound, None)
        single = self._single(problem)
        if single is not None:
            return _Node(problem, *max((tangent, bound), single, key=lambda pair: pair[1]), None)
        shares = parent.shares if parent is not None and parent.shares is not None else np.zeros(problem.size)
        search, master = self.search, self.search.master
        assert master is not None and problem.on is not None and problem.off is not None
        master.fix(problem.on.reshape(-1).numpy(), problem.off.reshape(-1).numpy())
        center = None
        for number in range(_ROUNDS):
            run = master.relax(self.watch.remaining)
            if run.status == "kInfeasible":
                return _Node(problem, tangent, bound, shares)  # branching goes on until the selection sees it
            if run.status != "kOptimal" or run.multipliers is None:
                break
            shares = np.clip(run.masks[0], 0.0, 1.0)
            rival = Tangent.bounded(problem, search.pool.combined(run.multipliers), search.pool.split)
            rise = rival[1] - bound
            if rise > 0:
                tangent, bound = rival
            settled = rise <= _RISE * (self.target - bound) and number > 1
            if bound >= self.target or settled or self.watch.due() is not None:
                break
            query = shares if center is None else 0.5 * (shares + center)
            search.cut_at_shares(query)
            center = query
        if len(self.nodes) % 10 == 0:
            search.round_shares(shares)
        if master.cuts > _CROWDED:
            search.drop_idle_cuts(_CROWDED // 4)
        return _Node(problem, tangent, bound, None if bound >= self.target else shares)

    def _single(self, problem: Problem) -> tuple[Tangent, float] | None:
        """The tangent at the best point of a problem with all entries fixed, which proves its value."""
        assert problem.on is not None and problem.off is not None
        if not bool((problem.on | problem.off).all()):
            return None
        point: Tensor = self.search.pool.weights(problem.on.double())
        if self.search.problem.violation(point) == 0:
            self.incumbent.take(point)
        tangent, bound = Tangent.bounded(problem, point, self.search.pool.split)
        return tangent, bound if not math.isnan(bound) else -math.inf
