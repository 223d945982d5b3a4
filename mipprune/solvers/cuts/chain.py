"""A chain of problems with one loss and growing families of supports: cuts, points and bounds serve along the chain."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...core.adapters import Sparse
from ...core.certificate import Certificate
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget
from ...errors import InvalidProblem
from .cutting_planes import CuttingPlaneRun, CuttingPlanes

__all__ = ["FrontierPoint", "frontier", "frontier_upwards"]


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """One problem of the chain with its solution and both grounds of its bound.

    Attributes
    ----------
    problem : Problem
    solution : Solution
        Its bound is the checked one where that closes the gap or is the better one, else the claimed one.
    claimed : float or None
        Best lower bound by the word of the back end, from this problem or a later (less constrained) one.
    proven : float
        Best lower bound that a stored certificate proves; ``-inf`` without one.
    tangent : Tangent, Tree or None
        Proves ``proven``.
    seconds : float
        Spent on this problem.
    """

    problem: Problem
    solution: Solution
    claimed: float | None
    proven: float
    tangent: Certificate | None
    seconds: float

    @property
    def mask(self) -> Tensor | None:
        """The selected entries: the support, with what an admissible mask needs besides (kept with weight 0)."""
        if self.solution.mask is None:
            return None
        assert isinstance(self.problem.structure, Sparse)
        return self.problem.structure.supports.cover(self.solution.mask)

    @property
    def checked_gap(self) -> float:
        """Relative gap to the bound that needs nobody's word; ``inf`` without one."""
        return self._gap(self.proven)

    @property
    def claimed_gap(self) -> float:
        """Relative gap to the better of both bounds."""
        return self._gap(max(self.proven, -math.inf if self.claimed is None else self.claimed))

    def _gap(self, bound: float) -> float:
        value = self.solution.value
        return max(0.0, value - bound) / max(abs(value), 1e-12) if math.isfinite(value) else math.inf


def frontier(
    problems: Sequence[Problem],
    *,
    solver: CuttingPlanes | None = None,
    budget: Budget | None = None,
    start: Tensor | None = None,
    progress: Callable[[int, FrontierPoint], bool | None] | None = None,
) -> tuple[FrontierPoint, ...]:
    """Solve a chain of problems, each with a larger family than the one before.

    Parameters
    ----------
    problems : sequence of Problem
        One loss and one price; the families are nested, the smallest first (a falling list of least frequencies).
    solver : CuttingPlanes, optional
        Default: the one with a tree of its own, whose bounds are checked however far it gets.
    budget : Budget, optional
        For each problem; the gap is the tolerance of every point (default 5 %, the published setting, and no limit).
    start : Tensor, optional
        For the first problem.
    progress : callable, optional
        Receives the number of a problem and its point; returning ``True`` stops after it.

    Returns
    -------
    tuple of FrontierPoint
        One for each problem solved (all, unless the run was stopped). Values fall along the chain: a point of a smaller
        family is one of every larger family. Bounds serve backwards: what bounds a larger family bounds a smaller one.

    Raises
    ------
    Unsupported
        If the solver rejects a problem.
    InvalidProblem
        If losses or prices differ, or the point of a problem does not fit the next family.

    Notes
    -----
    One master is kept along the chain. Cuts are properties of the loss and stay valid; of the family only right-hand
    sides change.

    References
    ----------
    arXiv 2506.08030.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(60, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    >>> loss = mp.LeastSquares(x, x[:, 0] + x[:, 1] + x[:, 6], ridge=1.0)
    >>> often = torch.tensor([9, 8, 7, 5, 3, 2, 1, 1])
    >>> chain = [mp.Problem(loss, mp.Sparse(mp.Stable(3, often, least))) for least in (24, 18, 0)]
    >>> [point.mask.nonzero().ravel().tolist() for point in frontier(chain)]
    [[0, 1, 2], [0, 1, 6], [0, 1, 6]]
    """
    solver, budget = solver or CuttingPlanes("own"), budget or Budget(gap=0.05)
    points: list[FrontierPoint] = []
    run: CuttingPlaneRun | None = None
    for number, problem in enumerate(problems):
        if run is not None and run.solution.point is not None and problem.violation(run.solution.point) != 0:
            raise InvalidProblem(
                f"problem {number} does not admit the point of the one before; order the chain from the smallest "
                "family to the largest"
            )
        point, run = _solved(problem, solver, budget, start, run)
        points.append(point)
        start = run.solution.point if run.solution.point is not None else start
        if run.solution.stop is Stop.USER or (progress is not None and progress(number, point)):
            break
    return _propagated(points, budget.gap)


def frontier_upwards(
    build: Callable[[int], Problem],
    level: Callable[[FrontierPoint], int],
    *,
    first: int = 0,
    last: int | None = None,
    solver: CuttingPlanes | None = None,
    budget: Budget | None = None,
    limit: int = 1000,
    progress: Callable[[int, FrontierPoint], bool | None] | None = None,
) -> tuple[FrontierPoint, ...]:
    """Walk the whole frontier from the least constrained problem to the last feasible one.

    Parameters
    ----------
    build : callable
        Returns the problem whose level is at least a given whole number.
    level : callable
        Returns the level of a point (for stable rules the frequency of its mask).
    first, last : int
        Where to begin, and the largest level that may be asked for.
    solver, budget, progress
        See :func:`frontier`.
    limit : int
        Largest number of problems.

    Returns
    -------
    tuple of FrontierPoint
        The level of a point plus 1 is the next bound, so that each level that occurs is met. Ordered as by
        :func:`frontier`, the most constrained first; without the points that another one dominates.
    """
    solver, budget = solver or CuttingPlanes("own"), budget or Budget(gap=0.05)
    points: list[FrontierPoint] = []
    run: CuttingPlaneRun | None = None
    least = first
    for number in range(limit):
        point, run = _solved(build(least), solver, budget, None, run)
        if run.solution.point is None:
            break
        points.append(point)
        if run.solution.stop is Stop.USER or (progress is not None and progress(number, point)):
            break
        least = max(level(point), least) + 1
        if last is not None and least > last:
            break
    best = math.inf
    ordered = _propagated(points[::-1], budget.gap)
    kept: list[FrontierPoint] = []
    for point in ordered:  # from high level to low: a point must be better than every point of a higher level
        if point.solution.value < best:
            best = point.solution.value
            kept.append(point)
    return tuple(kept)


def _solved(
    problem: Problem, solver: CuttingPlanes, budget: Budget, start: Tensor | None, earlier: CuttingPlaneRun | None
) -> tuple[FrontierPoint, CuttingPlaneRun]:
    began = time.perf_counter()
    run = solver.run(problem, budget=budget, start=start, earlier=earlier)
    seconds = time.perf_counter() - began
    return FrontierPoint(problem, run.solution, run.claimed, run.proven, run.tangent, seconds), run


def _propagated(points: list[FrontierPoint], gap: float) -> tuple[FrontierPoint, ...]:
    """Let points serve every family that admits them, and bounds of a family all smaller ones."""
    claimed: float | None = None
    tangent: Certificate | None = None
    later = -math.inf
    out: list[FrontierPoint] = []
    found = {id(point.solution.point): point.solution for point in points if point.solution.point is not None}
    members = [solution.point for solution in sorted(found.values(), key=lambda solution: solution.value)]
    for number in range(len(points) - 1, -1, -1):
        point = points[number]
        problem = point.problem
        if point.claimed is not None and (claimed is None or point.claimed > claimed):
            claimed = point.claimed
        best, proven = point.tangent, point.proven
        if tangent is not None and later > proven:
            again = tangent.bound(problem)  # on the smaller family it proves at least as much
            if again > proven:
                best, proven = tangent, again
        tangent, later = best, proven
        chosen = next((member for member in members if problem.violation(member) == 0), point.solution.point)
        out.append(_assessed(point, chosen, claimed, best, proven, gap))
    return tuple(out[::-1])


def _assessed(
    point: FrontierPoint,
    chosen: Tensor | None,
    claimed: float | None,
    tangent: Certificate | None,
    proven: float,
    gap: float,
) -> FrontierPoint:
    problem, old = point.problem, point.solution
    value = math.inf if chosen is None else problem.value(chosen)
    closes = tangent is not None and (value - proven <= gap * abs(value) or claimed is None or proven >= claimed)
    claim = None if old.claim is None or claimed is None else replace(old.claim, bound=claimed)
    solution = Solution.of(
        problem,
        chosen,
        stop=old.stop,
        certificate=tangent if closes else None,
        bound=proven if closes else None,
        claim=claim,
        tolerance=gap,
        stats=old.stats,
        solver=old.solver,
        infeasible=old.status.value == "infeasible",
    )
    return replace(point, solution=solution, claimed=claimed, proven=proven, tangent=tangent)
