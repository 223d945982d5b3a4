"""Running a search from a problem to a solution: start, limits, interrupts, resumption, checkpoints."""

from __future__ import annotations

import heapq
import math
import time
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.arrays import exact
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch
from ...core.sparse_tree import SparseTree
from ...errors import InvalidProblem
from .interrupts import Interrupts
from .ledger import Ledger
from .search import Search, Settings
from .state import load_state, pack, save_state, unpack
from .strategy import NodeBound
from .subtrees import search_together

__all__ = ["Checkpoints", "drive"]


class Checkpoints:
    """The file to which the state of a run goes now and then, if there is one.

    Parameters
    ----------
    path : Path, optional
    seconds : float
        At least so much time lies between two states; 0 writes one after every renewal of the search.
    """

    def __init__(self, path: Path | None, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._due = time.perf_counter() + seconds

    def keep(self, problem: Problem, search: Search) -> None:
        """Write the state if it is time to."""
        if self.path is not None and time.perf_counter() >= self._due:
            save_state(self.path, problem.fingerprint, search.settings, pack(search))
            self._due = time.perf_counter() + self.seconds


def drive(
    problem: Problem,
    strategy: NodeBound,
    settings: Settings,
    *,
    budget: Budget,
    start: Tensor | None,
    progress: Progress | None,
    resume: Solution | Path | None,
    checkpoints: Checkpoints,
    executor: Executor | None,
    workers: int,
    name: str,
    interrupts: Interrupts,
) -> Solution:
    """Search and return the solution with the tree as its certificate."""
    watch = Watch(budget, progress)
    search = Search(problem.size, problem.reference.loss.scale, strategy, settings, watch)
    search.interrupted = lambda: interrupts.came
    stop, setup = Stop.GAP, None
    try:
        interrupts.release()
        _begin(problem, search, start, resume)
        setup = watch.seconds
        if executor is not None:
            stop = search_together(search, executor, workers, lambda: checkpoints.keep(problem, search))
        else:
            stop = _alone(problem, search, checkpoints)
        interrupts.hold()
    except KeyboardInterrupt:
        stop = Stop.USER
    interrupts.hold()
    solution = _solution(problem, search, stop, setup, name)
    return replace(solution, stop=Stop.USER) if interrupts.came else solution


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # such points are no better than others
def _begin(problem: Problem, search: Search, start: Tensor | None, resume: Solution | Path | None) -> None:
    """Bring a search to where its work begins."""
    if isinstance(resume, Path):
        unpack(search, load_state(resume, problem.fingerprint, search.settings))
        if start is not None:
            _offer(problem, search, start)
        return
    search.offer(problem.value(torch.zeros(problem.shape)), search.point)
    for value, better in search.strategy.improved_from(search.point):
        search.offer(value, better)
    for point in (start, None if resume is None else resume.point):
        if point is not None:
            _offer(problem, search, point)
    if resume is None or resume.certificate is None:
        search.start()
    else:
        _restore(problem, search, resume)


def _alone(problem: Problem, search: Search, checkpoints: Checkpoints) -> Stop:
    """Search in this process, with renewals at fixed numbers of nodes so that every run goes the same way."""
    while True:
        reason = search.run(nodes=search.next_renewal)
        if reason is not None:
            return reason
        search.renew()
        if search.due() is None:  # a limit may have cut a dive short, which a run without it would not have done
            checkpoints.keep(problem, search)


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
