"""Running a search from a problem to a solution: start, limits, interrupts, resumption, checkpoints."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.arrays import exact
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch
from ...core.sparse_tree import SparseTree
from ...errors import InvalidProblem
from .ledger import Ledger
from .search import Search, Settings
from .strategy import NodeBound
from .subtrees import search_together

__all__ = ["Checkpoint", "drive"]


@dataclass(frozen=True)
class Checkpoint:
    """What to do with the state of a long run.

    Parameters
    ----------
    keep : callable
        Receives a :class:`~mipprune.Solution`, for example to save it.
    seconds : float
        How often.
    """

    keep: Callable[[Solution], None]
    seconds: float


def drive(
    problem: Problem,
    strategy: NodeBound,
    settings: Settings,
    *,
    budget: Budget,
    start: Tensor | None,
    progress: Progress | None,
    resume: Solution | None,
    checkpoint: Checkpoint | None,
    executor: Executor | None,
    workers: int,
    name: str,
) -> Solution:
    """Search and return the solution with the tree as its certificate."""
    watch = Watch(budget, progress)
    search = Search(problem.size, problem.reference.loss.scale, strategy, settings, watch)
    stop, setup = Stop.GAP, None
    try:
        search.offer(problem.value(torch.zeros(problem.shape)), search.point)
        for value, better in strategy.improved_from(search.point):
            search.offer(value, better)
        for point in (start, None if resume is None else resume.point):
            if point is not None:
                _offer(problem, search, point)
        if resume is None or resume.certificate is None:
            search.start()
        else:
            _restore(problem, search, resume)
        setup = watch.seconds
        if executor is not None:
            stop = search_together(search, executor, workers)
            return _solution(problem, search, stop, setup, name)
        next_save = math.inf if checkpoint is None else time.perf_counter() + checkpoint.seconds
        while True:
            until = next_save if checkpoint is not None else math.inf
            reason = search.run(until)
            if reason is not None:
                stop = reason
                break
            assert checkpoint is not None
            checkpoint.keep(_solution(problem, search, Stop.TIME, setup, name))
            next_save = time.perf_counter() + checkpoint.seconds
    except KeyboardInterrupt:
        stop = Stop.USER
    return _solution(problem, search, stop, setup, name)


def _offer(problem: Problem, search: Search, point: Tensor) -> None:
    """Offer a point of the user's, repaired if need be, and what descent makes of it."""
    dense = torch.as_tensor(point, dtype=torch.float64).cpu().reshape(problem.shape)
    if problem.violation(dense) != 0:
        dense = exact(problem.repair(dense))
    entries = np.flatnonzero(dense.reshape(-1).numpy())
    search.offer(problem.value(dense), (entries, dense.reshape(-1).numpy()[entries].copy()))
    for value, better in search.strategy.improved_from((entries, dense.reshape(-1).numpy()[entries].copy())):
        search.offer(value, better)


def _restore(problem: Problem, search: Search, resume: Solution) -> None:
    """Open the leaves of a stored tree that are below the cutoff again.

    Parts that the tree discarded stay so. If one of them is below the cutoff, since the tree was made for a larger gap,
    the search starts anew, with the incumbent.
    """
    tree = resume.certificate
    if not isinstance(tree, SparseTree):
        raise InvalidProblem(f"a {type(tree).__name__} cannot be resumed; give a solution of this solver's tree")
    if resume.fingerprint != problem.fingerprint:
        raise InvalidProblem("the solution to resume was made for another problem")
    search.ledger = Ledger.of(tree)
    ledger, claims = search.ledger, tree.claim.numpy()
    leaves = np.flatnonzero((ledger.index.data < 0) & (ledger.children.data[:, 0] < 0))
    is_leaf = np.zeros(len(claims), dtype=bool)
    is_leaf[leaves] = True
    search.closed = float(claims[~is_leaf].min(initial=np.inf))
    if search.closed < search.cutoff:
        search.closed, search.ledger = math.inf, Ledger()
        search.start()
        return
    for leaf in leaves.tolist():
        claim = float(claims[leaf])
        if claim >= search.cutoff:
            search.closed = min(search.closed, claim)
        elif ledger.step_end.data[leaf] > ledger.step_start.data[leaf]:
            below = ledger.add(leaf, -1, 0, int(ledger.tangent.data[leaf]), int(ledger.split.data[leaf]))
            ledger.children.data[leaf] = (below, -1)
            search.heap.append((claim, below))
        else:
            search.heap.append((claim, leaf))
    heapq.heapify(search.heap)


def _solution(problem: Problem, search: Search, stop: Stop, setup: float | None, name: str) -> Solution:
    dense = torch.zeros(problem.size, dtype=torch.float64)
    entries, values = search.point
    dense[torch.from_numpy(np.asarray(entries))] = torch.from_numpy(np.asarray(values))
    point = dense.reshape(problem.shape)
    tree, bound = search.ledger.tree(problem) if search.ledger.has_tangents else (None, None)
    return Solution.of(
        problem,
        point,
        stop=stop,
        certificate=tree,
        bound=bound,
        tolerance=search.watch.budget.tolerance(search.value),
        stats=search.watch.stats(setup_seconds=setup, nodes=search.evaluated, device="cpu"),
        solver=name,
    )
