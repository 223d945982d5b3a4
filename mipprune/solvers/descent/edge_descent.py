"""Graphical models at scale: L0 coordinate descent with exchanges, and one bound that anyone can check."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.arrays import as_tensor, exact, working_dtype
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...core.sparse_tree import SparseTree
from ...errors import CertificateError, InvalidProblem
from ...kernels.graph_appraisal import Penalties, Shift
from ...losses.pseudo_likelihood import PseudoLikelihood
from ..tree.graph import LOCAL, GraphBound
from ..tree.ledger import Ledger

__all__ = ["EdgeDescent"]

Array = np.ndarray[Any, Any]
Point = tuple[Array, Array]

_SMALL = 128  # nodes up to which every row gets a diagonal on all of its pairs
_CLIMB = 1200  # nodes up to which the shift is searched for and the tangent climbs on the bound; more with time enough
_ENOUGH = 2e-8  # seconds, times the cube of the nodes, that this takes at least
_SEARCH, _ASCENT = 0.55, 0.85  # shares of the time left at which the search for a shift, and the ascent, end
_WEAK = 100.0  # prices of an edge beyond which a gap is open to another try
_COARSE = 0.03  # largest change of an entry at which a coarse relaxation stops, in per cent of the diagonal
_ACCURACY = 1e-3  # of the relaxation before that, in units of the loss


@dataclass(frozen=True)
class EdgeDescent:
    """Heuristic for graphical models of up to some ten thousand nodes, with the bound of the root relaxation.

    Parameters
    ----------
    swaps : int
        Rounds in which pairs are added and exchanged row by row (the method CDPSI), >= 0. With 0 only the pairs of the
        start are improved.
    batched : bool, optional
        Change many pairs at once by operations on p x p tensors before that. Default: when the data are on an
        accelerator, where these run.
    bound : bool
        Attach the bound of the root relaxation.

    Notes
    -----
    Descent visits pairs of a growing sparse pattern; a product with S is formed from the few entries of a column, so
    that no p x p array is needed besides S. Everything else is of the size of the vector of pairs.

    Up to about a thousand nodes (two thousand under a time limit that is long enough) the bound is then improved: each
    row hands curvature of S to the penalties of the pairs that matter to it, and the point of tangency climbs on the
    bound. That takes some tens of seconds for a thousand nodes and a dozen p x p arrays, and closes most of the gap
    where S is well away from singular. Beyond, the bound is that of the relaxation with the smallest eigenvalue of S
    as the curvature of all rows.

    References
    ----------
    arXiv 2307.09366 (CD and CDPSI).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> x[:, 1] += x[:, 0]
    >>> problem = mp.formulations.graphical_model(x, l0=0.1, l2=0.05)
    >>> EdgeDescent().solve(problem).mask.nonzero().ravel().tolist()
    [0]
    """

    swaps: int = 10
    batched: bool | None = None
    bound: bool = True

    def __post_init__(self) -> None:
        if int(self.swaps) < 0:
            raise InvalidProblem(f"swaps is {self.swaps}; it must be >= 0")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "edge descent"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if not isinstance(problem.loss, PseudoLikelihood) or not isinstance(problem.structure, Sparse):
            return "it descends on the pairs of a graphical model; see formulations.graphical_model"
        if problem.on is not None or problem.off is not None:
            return "entries are fixed"
        if not GraphBound.takes(problem):
            return "it needs zero inside the box, a ridge or a box for every pair, and no limit on the number of edges"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Solve; ``budget.seconds`` is looked at between rounds. ``start`` (shape of the problem) is improved."""
        from ...kernels.graph_search import improve

        accept(self, problem)
        watch = Watch(budget, progress)
        loss, penalties = problem.reference.loss, penalties_of(problem)
        assert isinstance(loss, PseudoLikelihood)
        point: Point = (np.zeros(0, dtype=np.int64), np.zeros(0))
        if start is not None:
            given = exact(as_tensor(start, "start", shape=problem.shape)).numpy()
            entries = np.flatnonzero(given)
            point = (entries, given[entries])
        stop, tree, value = Stop.CONVERGED, None, None
        try:
            if self._is_batched(problem):
                point = _batched(problem, point, watch)
            point = improve(loss.matrix, point, penalties, swaps=int(self.swaps), go_on=lambda: watch.due() is None)
            value = _value(problem, point)
            watch.report(value, None)
            if self.bound:
                tree = root_certificate(problem, point, watch)
            stop = watch.due() or Stop.CONVERGED
        except KeyboardInterrupt:
            stop = Stop.USER
        return Solution.of(
            problem,
            _dense(problem, point),
            stop=stop,
            certificate=None if tree is None else tree[0],
            bound=None if tree is None else tree[1],
            tolerance=watch.budget.tolerance(_value(problem, point) if value is None else value),
            stats=watch.stats(device="cpu"),
            solver=self.name,
        )

    def _is_batched(self, problem: Problem) -> bool:
        assert isinstance(problem.loss, PseudoLikelihood)
        return problem.loss.covariance.is_cuda if self.batched is None else self.batched


def penalties_of(problem: Problem) -> Penalties:
    """Return price, ridge and box by pair; single numbers stay single."""
    structure, loss = problem.structure, problem.reference.loss
    assert isinstance(structure, Sparse) and isinstance(loss, PseudoLikelihood)
    lower, upper = structure.box or (-math.inf, math.inf)
    return loss.penalties(structure.price_per_entry, lower, upper)


def _dense(problem: Problem, point: Point) -> Tensor:
    out = torch.zeros(problem.size, dtype=torch.float64)
    out[torch.from_numpy(point[0])] = torch.from_numpy(point[1])
    return out.reshape(problem.shape)


def _value(problem: Problem, point: Point) -> float:
    return problem.value(_dense(problem, point))


def _batched(problem: Problem, point: Point, watch: Watch) -> Point:
    """Improve a point by many pairs at once, on the device of the data."""
    from ...kernels.graph_batched import descend_batched

    loss = problem.loss
    assert isinstance(loss, PseudoLikelihood)
    matrix = loss.covariance.to(working_dtype(problem.size, None))
    p = loss.nodes
    i, j = torch.triu_indices(p, p, 1, device=matrix.device)

    def square(part: Array) -> Tensor:
        values = torch.from_numpy(part).to(matrix)
        if values.numel() == 1:
            return values.reshape(1, 1)
        out = torch.zeros_like(matrix)
        out[i, j] = values
        return out + out.mT

    begin = square(_dense(problem, point).numpy())
    found = descend_batched(
        matrix, *(square(part) for part in penalties_of(problem)), start=begin, go_on=lambda: watch.due() is None
    )
    values = found[i, j].double().cpu().numpy()
    entries = np.flatnonzero(values)
    return entries, values[entries]


def root_certificate(problem: Problem, point: Point, watch: Watch) -> tuple[SparseTree, float] | None:
    """Return a tree of one node: the tangent at the root relaxation, with the curvature of S that all rows can share.

    ``None`` when the time is up before there is one.
    """
    loss, penalties = problem.reference.loss, penalties_of(problem)
    assert isinstance(loss, PseudoLikelihood)
    p, limited = loss.nodes, math.isfinite(watch.remaining)
    if p <= _SMALL:
        return _climbed_certificate(problem, point, watch)
    first = _common_certificate(problem, point, watch)
    climbs = (p <= LOCAL if limited else p <= _CLIMB) and _ENOUGH * p**3 <= watch.remaining
    if not climbs or _value(problem, point) - first[1] <= float(penalties.price.mean()):
        return first
    return max(first, _climbed_certificate(problem, point, watch), key=lambda pair: pair[1])


def _common_certificate(problem: Problem, point: Point, watch: Watch) -> tuple[SparseTree, float]:
    """Return the certificate of the relaxation in which all rows share the smallest eigenvalue of S."""
    from ...kernels.graph_relax import relax_graph
    from ...kernels.graph_shift import common_shift

    loss, penalties = problem.reference.loss, penalties_of(problem)
    assert isinstance(loss, PseudoLikelihood)
    p, fixed = loss.nodes, np.zeros(1, dtype=np.int8)
    found = common_shift(loss.matrix, proven=False) if watch.due() is None else None
    shift = Shift.none(p) if found is None else found
    flat, values, _ = relax_graph(loss.matrix, fixed, shift, penalties, point, 1e-5, lambda: watch.due() is None)
    inside = values != 0.0
    point = (flat[inside], values[inside])
    try:
        return _one_node(problem, point, shift)
    except CertificateError:  # the shift has no proof
        return _one_node(problem, point, Shift.none(p))


def _climbed_certificate(problem: Problem, point: Point, watch: Watch) -> tuple[SparseTree, float]:
    """Return the certificate of the root of a tree: the shift is searched for, the tangent improved by ascent."""
    bound, begun, left = GraphBound.of(problem), watch.seconds, watch.remaining
    root = replace(bound.root(), start=point)

    def late(share: float) -> bool:
        return watch.seconds > begun + share * left or watch.due() is not None

    found = bound.searched(root, lambda: not late(_SEARCH))
    shift, proven = Shift.none(bound.loss.nodes), -math.inf
    if found is not None:
        shift = found[0]
        proven, point = bound.climbed(root, shift, found[1], math.inf, lambda: late(_ASCENT), long=True)
    if proven < _value(problem, root.start) - _WEAK * float(bound.price.mean()):
        # With a small ridge and little time no shift may be the better one; a coarse solution takes a moment.
        accuracy = _ACCURACY * bound.loss.scale if found is None else (_COARSE * bound.loss.nodes) ** 2
        plain = bound.evaluate(root, math.inf, accuracy, lambda: watch.due() is not None)[0]
        if plain.bound > proven:
            shift, point = Shift.none(bound.loss.nodes), plain.point
    return _one_node(problem, point, shift)


def _one_node(problem: Problem, point: Point, shift: Shift) -> tuple[SparseTree, float]:
    ledger = Ledger()
    root, split = ledger.add(-1, -1, 0, -1, -1), -1
    row = np.concatenate([shift.common, shift.extra.ravel()])
    nodes = np.flatnonzero(row)
    if len(nodes):
        split = ledger.add_split(root, nodes, row[nodes])
    ledger.tangent.data[root] = ledger.add_tangent(*point, split)
    return ledger.tree(problem)
