"""A generic best-first branch and bound over ``restrict``; its nodes are tangents, so the tree is a certificate."""

from __future__ import annotations

import heapq
import itertools
import math
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.certificate import Tangent, Tree
from ..core.parts import largest_part, parts_of
from ..core.problem import Problem
from ..core.separable import Separable
from ..core.solution import Solution, Stop
from ..core.solver import Budget, Progress, Watch, accept
from ..errors import InvalidProblem
from ..losses.graph_blocks import GraphBlocks
from ..losses.least_squares import LeastSquares
from .bounds.relaxation import Relaxed, best_tangent, relax
from .first_point import first_point
from .parts import solve_parts
from .tree.blocks import graph_labels, solve_blocks
from .tree.drive import Checkpoints, drive
from .tree.interrupts import Interrupts
from .tree.roads import node_bound
from .tree.search import Settings

__all__ = ["BranchAndBound"]

_LARGEST = 4096  # entries of one tree
_MOST = 65_536  # entries of all parts


@dataclass(eq=False)
class _Node:
    """A node of the tree: the restricted problem, its tangent and bound, and where it stands in the stored tree."""

    problem: Problem
    tangent: Tangent
    bound: float
    relaxed: Relaxed | None
    entry: int = -1
    children: tuple[int, int] = (-1, -1)


@dataclass(eq=False)
class _Search:
    """The state of one run."""

    root: Problem
    split: Tensor
    value: float
    point: Tensor
    budget: Budget
    iterations: int
    nodes: list[_Node] = field(default_factory=list)
    open_nodes: list[tuple[float, int]] = field(default_factory=list)

    @property
    def target(self) -> float:
        """Bound at which a node is closed."""
        return self.value - self.budget.tolerance(self.value) * abs(self.value)

    @property
    def bound(self) -> float:
        """Smallest bound over the leaves, open and closed."""
        return min((node.bound for node in self.nodes if node.entry < 0), default=-math.inf)

    def offer(self, point: Tensor) -> None:
        """Take a member of S as incumbent when it is better."""
        value = self.root.value(point)
        if value < self.value:
            self.value, self.point = value, point

    def round(self, node: _Node) -> None:
        """Offer the refitted mask nearest to the node's fractional one."""
        if node.relaxed is None:
            return
        shares = node.relaxed.shares + 1e-6 * node.relaxed.primal.abs() / (1e-300 + node.relaxed.primal.abs().max())
        mask = node.problem.structure.argmin(_keep_model(shares.nan_to_num(0.0, 0.0, 0.0))).point != 0
        candidate = self.root.loss.minimise_on(mask, start=node.relaxed.primal)
        candidate = torch.where(mask, candidate, torch.zeros_like(candidate))
        if self.root.structure.violation(candidate) == 0:
            self.offer(candidate)
        else:
            self.offer(self.root.repair(candidate))

    def add(self, node: _Node) -> int:
        """Store a node; push it when it is still open."""
        self.nodes.append(node)
        number = len(self.nodes) - 1
        if node.bound < self.target and node.relaxed is not None:
            heapq.heappush(self.open_nodes, (node.bound, number))
        return number

    def child(self, parent: _Node, entry: int, kept: bool) -> _Node:
        """Bound the child of a node in which one entry is fixed."""
        flags = torch.zeros(self.root.size, dtype=torch.bool)
        flags[entry] = True
        fixed, none = flags.reshape(self.root.shape), torch.zeros(self.root.shape, dtype=torch.bool)
        problem = parent.problem.restrict(fixed if kept else none, none if kept else fixed)
        inherited = parent.tangent.bound(problem)
        if inherited >= self.target:  # the parent's tangent closes it already
            return _Node(problem, parent.tangent, inherited, None)
        tangent, bound, relaxed = self._bound(problem, parent)
        if inherited >= bound:
            tangent, bound = parent.tangent, inherited
        return _Node(problem, tangent, bound, relaxed)

    def _bound(self, problem: Problem, parent: _Node) -> tuple[Tangent, float, Relaxed]:
        assert problem.on is not None and problem.off is not None and parent.relaxed is not None
        loss, split = self.root.loss.condition(problem.on, problem.off, self.split)
        reduced = Problem(loss, problem.structure, on=problem.on, off=problem.off)
        start = torch.where(problem.off, 0.0, parent.relaxed.primal)
        relaxed = relax(reduced, split, start, iterations=self.iterations, cutoff=self.target)
        point, lifted = self.root.loss.lift(relaxed.point, split, problem.on, problem.off)
        tangent, bound = Tangent.bounded(problem, point.nan_to_num(0.0, 0.0, 0.0), lifted)  # any point proves something
        if bool((problem.on | problem.off).all()):
            # One support is left. At its best point the slope of the loss keeps every entry where it is, so that the
            # tangent there proves the value of the point itself.
            last = Tangent.bounded(problem, self._finished(problem), lifted)
            tangent, bound = max((tangent, bound), last, key=lambda pair: pair[1])
        return tangent, bound, relaxed

    @staticmethod
    def _finished(problem: Problem) -> Tensor:
        """Return the best point of a problem with all entries fixed."""
        assert problem.on is not None
        point = torch.where(problem.on, problem.loss.minimise_on(problem.on), 0.0)
        return point if problem.structure.violation(point) == 0 else problem.repair(point)

    def branch(self, number: int) -> None:
        """Split a node at the free entry whose fraction costs the relaxation most."""
        node = self.nodes[number]
        assert node.relaxed is not None
        free = torch.ones(self.root.shape, dtype=torch.bool)
        if node.problem.on is not None and node.problem.off is not None:
            free = ~(node.problem.on | node.problem.off)
        if not bool(free.any()):
            return
        shares = node.relaxed.shares
        score = torch.where(free, shares * (1.0 - shares) + 1e-9 * shares, -1.0)
        entry = int(score.argmax())
        count = len(self.nodes)
        try:
            off = self.add(self.child(node, entry, kept=False))
            on = self.add(self.child(node, entry, kept=True))
            node.entry, node.children, node.relaxed = entry, (off, on), None
        except BaseException:  # an interrupt must not leave one child alone
            node.entry, node.children = -1, (-1, -1)
            del self.nodes[count:]
            raise
        for child in (off, on):
            self.round(self.nodes[child])

    def tree(self) -> Tree:
        """Return the certificate."""
        leaves = tuple(node.tangent for node in self.nodes if node.entry < 0)
        index = torch.tensor([node.entry for node in self.nodes], dtype=torch.int64)
        children = torch.tensor([node.children for node in self.nodes], dtype=torch.int64)
        return Tree(index, children.reshape(-1, 2), leaves)


@dataclass(frozen=True)
class BranchAndBound:
    """Best-first branch and bound with the package's own bounds; proves optima of small problems.

    Parameters
    ----------
    iterations : int
        Splitting steps at a node.
    splits : int
        Frank-Wolfe steps on the root's diagonal split.
    intervals : bool
        For sparse regression: narrow the intervals of kept entries on the way down.
    memory : float
        For sparse regression: GiB that the tree may take before the run stops.
    checkpoint : path, optional
        For sparse regression and graphical models: a file that receives the whole state of the run now and then,
        written beside and moved into place. A killed run goes on from it by ``solve(..., resume=path)`` and ends with
        the same certificate as if it had not been killed (in one process, on the same machine with as many threads).
    checkpoint_seconds : float
        At least so much time lies between two states, >= 0.
    executor : concurrent.futures.Executor, optional
        For sparse regression and graphical models: processes that search parts of the tree, for instance a
        ``ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))`` (forked ones may hang once torch has
        run) or dask's ``client.get_executor()``. Each gets the data once; incumbents and what was learned about
        branching are shared. The optimum is the same; the tree depends on who was first.
    workers : int
        How many parts are searched at a time.
    batch : int
        For sparse regression: how many open nodes are relaxed at a time, by accelerated proximal steps on the device of
        the problem's tensors. 1 relaxes them one by one with compiled coordinate descent, which is faster on a CPU.

    Notes
    -----
    A node fixes entries on or off. Its relaxation is solved on the free entries (kept ones minimised out, pruned ones
    dropped, the root's split enlarged as far as the smaller problem allows); the point found is lifted back, and the
    bound is
    that of the resulting tangent, evaluated in float64. The stored :class:`~mipprune.Tree` is re-checked without the
    solver.

    Practical for rows of up to about 60 inputs and layers of up to some hundred weights.

    Sparse regression and graphical models, where a price or a count alone limits the support, are searched with bounds
    of their own: each node's tangent fixes several entries at once and narrows the intervals of kept coefficients, the
    estimates by which it branches are corrected by what was found before, and where few columns are left, curvature of
    X'X joins the ridge. The certificate is a :class:`~mipprune.SparseTree`. A tree can be resumed for the gap it was
    made for; for a smaller one the search starts anew from its incumbent.

    Problems that fall apart are solved part by part, and graphs block by block where no edge between two blocks can pay
    for itself; the certificates are then :class:`~mipprune.Parts` and :class:`~mipprune.GraphBlocks`.

    References
    ----------
    arXiv 2004.06152 (relaxations of L0L2 regression); arXiv 2110.07308 and Guyard et al., ICML 2024 (fixing several
    entries); arXiv 2302.14471 (intervals).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(1, 8), x.T @ x, mp.Cardinality(3))
    >>> mp.solve(problem, mp.BranchAndBound()).status.value
    'optimal'
    """

    iterations: int = 30
    splits: int = 8
    intervals: bool = True
    memory: float = 4.0
    checkpoint: str | Path | None = None
    checkpoint_seconds: float = 60.0
    executor: Executor | None = None
    workers: int = 2
    batch: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.batch, int) or self.batch < 1:
            raise InvalidProblem(
                f"batch is {self.batch!r}; a whole number of nodes, at least one, is relaxed at a time"
            )

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "branch and bound"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if node_bound(problem) is not None:
            if self.batch > 1 and isinstance(problem.loss, LeastSquares) and problem.loss.too_large is not None:
                return f"with batch={self.batch}, {problem.loss.too_large} (batch=1)"
            return None
        if problem.size > _MOST:
            return f"{problem.size} entries; even in parts at most {_MOST} are searched (use a heuristic and certify)"
        largest = problem.size if problem.size <= _LARGEST else largest_part(problem)
        if largest > _LARGEST:
            return f"{largest} entries; the tree is meant for at most {_LARGEST} (use a heuristic and certify)"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
        resume: Solution | str | Path | None = None,
    ) -> Solution:
        """Solve; the answer carries the tree as its certificate. ``start`` is repaired and used as first incumbent.

        ``resume`` is an earlier solution whose :class:`~mipprune.SparseTree` is taken up again, or the file of a
        ``checkpoint``, from which the run goes on exactly as it would have.
        """
        accept(self, problem)
        parts = parts_of(problem) if resume is None and self.checkpoint is None else ()
        if parts:
            alone = replace(self, executor=None)
            options: dict[str, Any] = {"budget": budget, "start": start, "progress": progress}
            return solve_parts(alone, problem, parts, executor=self.executor, **options)
        watch = Watch(budget)
        if isinstance(resume, Solution) and isinstance(resume.certificate, GraphBlocks):
            start, resume = resume.point, None  # the trees of blocks are not taken up again, only the point
        with Interrupts() as interrupts:
            blocks = graph_labels(problem, start) if resume is None and self.checkpoint is None else None
            if blocks is None or interrupts.noted:
                return self._solve(problem, watch.left(), start, progress, resume, interrupts)
        whole = solve_blocks(
            replace(self, executor=None),
            problem,
            *blocks,
            budget=watch.left(),
            progress=progress,
            executor=self.executor,
        )
        if whole is not None:
            return whole
        with Interrupts() as interrupts:  # everything is linked after all
            return self._solve(problem, watch.left(), start, progress, None, interrupts)

    def _solve(
        self,
        problem: Problem,
        budget: Budget,
        start: Tensor | None,
        progress: Progress | None,
        resume: Solution | str | Path | None,
        interrupts: Interrupts,
    ) -> Solution:
        strategy = node_bound(problem)
        if strategy is not None:
            path = None if self.checkpoint is None else Path(self.checkpoint)
            settings = Settings(
                gap=budget.gap, absolute_gap=budget.absolute_gap, intervals=self.intervals, memory=self.memory,
                batch=self.batch,
            )  # fmt: skip
            return drive(
                problem,
                strategy,
                settings,
                budget=budget,
                start=start,
                progress=progress,
                resume=Path(resume) if isinstance(resume, str) else resume,
                checkpoints=Checkpoints(path, self.checkpoint_seconds),
                executor=self.executor,
                workers=self.workers,
                name=self.name,
                interrupts=interrupts,
            )
        if resume is not None or self.checkpoint is not None:
            raise InvalidProblem("only trees over single entries (sparse regression, graphs) can be resumed")
        watch = Watch(budget, progress)
        work = problem.reference
        point = first_point(work, start, watch)
        search = _Search(work, torch.zeros(()), work.value(point), point, budget, self.iterations)
        stop, setup = Stop.GAP, None
        try:
            interrupts.release()
            root = best_tangent(
                work, point, splits=self.splits, iterations=self.iterations, watch=watch, target=search.target
            )
            search.split = torch.zeros(work.shape, dtype=torch.float64) if root.split is None else root.split
            search.add(_Node(work, root.tangent, root.bound, root.relaxed))
            setup = watch.seconds
            search.round(search.nodes[0])
            watch.report(search.value, search.bound)
            stop = self._run(search, watch)
            interrupts.hold()
        except KeyboardInterrupt:
            stop = Stop.USER
        interrupts.hold()
        stats = watch.stats(setup_seconds=setup, nodes=len(search.nodes), device="cpu")
        tree = search.tree() if search.nodes else None
        bound = search.bound if tree is not None else None
        solution = Solution.of(
            problem,
            search.point if work.violation(search.point) == 0 else None,
            stop=stop,
            certificate=tree,
            bound=bound,
            infeasible=bound == math.inf,
            tolerance=budget.tolerance(search.value),
            stats=stats,
            solver=self.name,
        )
        return replace(solution, stop=Stop.USER) if interrupts.came else solution

    @staticmethod
    def _run(search: _Search, watch: Watch) -> Stop:
        for _ in itertools.count():
            while search.open_nodes and search.open_nodes[0][0] >= search.target:
                heapq.heappop(search.open_nodes)
            if not search.open_nodes:
                return Stop.GAP if search.bound >= search.target else Stop.NUMERICAL
            reason = watch.due(nodes=len(search.nodes))
            if reason is not None:
                return reason
            before = search.value
            bound, number = heapq.heappop(search.open_nodes)
            search.branch(number)
            if search.value < before or len(search.nodes) % 20 < 2:
                watch.report(search.value, min(bound, search.value))
        raise AssertionError("unreachable")


def _keep_model(shares: Tensor) -> Separable:
    """Return a separable model whose minimiser over S keeps the largest shares."""
    return Separable(constant=0.0, linear=-shares.clamp_min(1e-12), curvature=torch.ones_like(shares))
