"""Graphs that fall into blocks: pairs across that cannot pay for themselves, and trees for each block alone."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.arrays import exact
from ...core.certificate import Certificate
from ...core.problem import Problem
from ...core.separable import Separable
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Solver, Watch
from ...kernels.pairs import split_pairs
from ...losses.graph_blocks import GraphBlocks, block_parts
from ...losses.pseudo_likelihood import PseudoLikelihood
from ..parts import solve_parts
from .graph import GraphBound
from .strategy import Array

__all__ = ["graph_labels", "solve_blocks"]

_LARGEST = 512  # nodes up to which a second relaxation of the root costs next to nothing
_MARGIN = 1.2  # slopes may grow by this factor in the trees before a pair across would have a gain
_ROUNDS = 4  # how often blocks are merged where they turn out to be linked


def graph_labels(problem: Problem, start: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
    """Return the blocks into which a graph seems to fall, and a point without pairs across; ``None`` for one block.

    Two nodes are linked when a local optimum, the start or the relaxation of the root has their pair, or the slope of
    the relaxation there, enlarged by a margin, would gain anything. This only suggests blocks: what proves them is the
    certificate.
    """
    loss = problem.reference.loss
    if type(loss) is not PseudoLikelihood or loss.nodes > _LARGEST or not _is_plain(problem):
        return None
    strategy = GraphBound.of(problem)
    _, best = strategy.improved_from((np.zeros(0, dtype=np.int64), np.zeros(0)))[0]
    accuracy = 1e-6 * loss.scale
    relaxed = strategy.evaluate(strategy.root(), np.inf, accuracy, lambda: False)[-1]
    linked = relaxed.primal != 0
    linked[best[0]] = True
    dense = torch.zeros(problem.size, dtype=torch.float64)
    dense[torch.from_numpy(best[0])] = torch.from_numpy(best[1])
    if start is not None:
        given = exact(problem.repair(start)).reshape(problem.shape)
        linked |= (given != 0).numpy()
        dense = given if problem.value(given) < problem.value(dense) else dense
    for point in (dense, torch.from_numpy(relaxed.primal)):
        model = loss.minorant(point)
        assert isinstance(problem.structure, Sparse)
        gain = problem.structure.gain_bound(
            Separable(constant=0.0, linear=_MARGIN * model.linear, curvature=model.curvature)
        )
        linked |= (gain > 0).numpy()
    labels = _components(linked, loss.nodes)
    return (labels, dense) if int(labels.max()) > 0 else None


def _is_plain(problem: Problem) -> bool:
    structure = problem.structure
    if not isinstance(structure, Sparse) or problem.on is not None or problem.off is not None:
        return False
    return (structure.supports.largest_count(problem.size) or 0) >= problem.size and GraphBound.takes(problem)


def _components(linked: Array, p: int) -> Tensor:
    """Number the components of a graph on p nodes, given by pair."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    i, j = split_pairs(np.flatnonzero(linked), p)
    graph = coo_matrix((np.ones(len(i), dtype=np.int8), (i, j)), shape=(p, p))
    return torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))


def solve_blocks(
    solver: Solver,
    problem: Problem,
    labels: Tensor,
    start: Tensor,
    budget: Budget,
    progress: Progress | None,
    executor: Executor | None,
) -> Solution | None:
    """Solve each block by the same solver; blocks that turn out to be linked are merged and solved again.

    Returns
    -------
    Solution or None
        ``None`` when all blocks had to be merged.
    """
    wanted = 0.99 * max(budget.gap * abs(problem.value(start)), budget.absolute_gap)
    watch, best = Watch(budget), None
    try:
        for _ in range(_ROUNDS):
            limits = replace(watch.left(), gap=0.0, absolute_gap=wanted)
            solution = _solved(solver, problem, labels, start, limits, progress, executor)
            if best is None or (solution.bound or -np.inf) >= (best.bound or -np.inf):
                best = solution
            crossing = _crossing(problem, solution)
            if solution.gap_closed or solution.stop not in (Stop.GAP, Stop.NUMERICAL) or not crossing.any():
                break
            labels = _merged(labels, crossing)
            if int(labels.max()) == 0:
                return None
            assert solution.point is not None
            start = solution.point
    except KeyboardInterrupt:
        best = Solution.of(problem, start, stop=Stop.USER) if best is None else replace(best, stop=Stop.USER)
    return best


def _solved(
    solver: Solver,
    problem: Problem,
    labels: Tensor,
    start: Tensor,
    budget: Budget,
    progress: Progress | None,
    executor: Executor | None,
) -> Solution:
    def joined(certificates: tuple[Certificate, ...], bounds: list[float]) -> tuple[Certificate, float]:
        certificate = GraphBlocks(labels, certificates)
        return certificate, certificate.joined(problem, bounds)

    parts = block_parts(problem, labels)
    options = {"budget": budget, "start": start, "progress": progress, "executor": executor}
    return solve_parts(solver, problem, parts, join=joined, **options)  # type: ignore[arg-type]


def _crossing(problem: Problem, solution: Solution) -> Array:
    """Which pairs across the blocks of a solution may gain something."""
    assert isinstance(solution.certificate, GraphBlocks)
    found: Array = (solution.certificate.gains(problem) > 0).numpy()
    return found


def _merged(labels: Tensor, crossing: Array) -> Tensor:
    """Join the blocks that some pairs link."""
    i, j = split_pairs(np.arange(len(crossing)), len(labels))
    within = (labels.numpy()[i] == labels.numpy()[j]) | crossing
    return _components(within, len(labels))
