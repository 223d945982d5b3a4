"""Paths over the price of an entry: each solution starts from the last, and each has its certified bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import exact
from ..core.problem import Problem
from ..core.separable import Separable
from ..core.solution import Solution, Stop
from ..core.solver import Budget, Solver
from ..errors import InvalidProblem
from ..losses.least_squares import LeastSquares
from ..structures.any_support import AnySupport
from .branch_and_bound import BranchAndBound

__all__ = ["PathPoint", "regularization_path"]


class PathPoint(NamedTuple):
    """One point of a path."""

    price: float
    problem: Problem
    """with that price; :func:`mipprune.check` takes it with the solution"""
    solution: Solution


def regularization_path(
    problem: Problem,
    prices: Sequence[float] | None = None,
    *,
    ratio: float = 0.9,
    smallest: float = 1e-3,
    most: int | None = None,
    budget: Budget | None = None,
    solver: Solver | None = None,
) -> list[PathPoint]:
    r"""Solve a problem at falling prices of an entry, each solution started from the last.

    Parameters
    ----------
    problem : Problem
        Under ``Sparse(AnySupport(), ...)``, for instance of :func:`mipprune.formulations.sparse_regression`; its own
        price is not used.
    prices : sequence of float, optional
        In this order, >= 0. Default, for least squares: from the price above which no column pays for itself downwards,
        the next one being the largest at which another column would enter the last solution, but at most ``ratio``
        times the last price.
    ratio, smallest : float
        In (0, 1). Without ``prices``, the path ends below ``smallest`` times its first price.
    most : int, optional
        End the path after the first solution with at least so many entries.
    budget : Budget, optional
        Of each point; default one node, which gives the heuristics of the root and its bound. A larger one proves more.
    solver : Solver, optional
        Default :class:`~mipprune.BranchAndBound`.

    Returns
    -------
    list of PathPoint
        An interrupt ends the path with the points so far.

    Raises
    ------
    InvalidProblem
        On another structure, prices for single entries only, bad numbers, or no prices for another loss.

    Notes
    -----
    The heuristics are those of L0Learn: coordinate descent with the true penalty and exchanges of columns, warm along
    the path. Where there are more than 1,536 columns they are screened by their correlation with the residual:
    relaxations are solved on an active set, the columns near their thresholds, which is checked on all columns and
    enlarged until none is missing; products of columns are formed for those alone. Screening changes no bound: every
    bound is that of a tangent on all columns.

    References
    ----------
    arXiv 1803.01454 (L0Learn); the rule for the next price is that of l0bnb (arXiv 2004.06152).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> problem = mp.formulations.sparse_regression(x, 3 * x[:, 2] - x[:, 5], l0=0.0, l2=1e-3)
    >>> path = mp.solvers.regularization_path(problem, most=2)
    >>> [point.solution.mask.nonzero().ravel().tolist() for point in path][-1]
    [2, 5]
    >>> all(point.solution.bound <= point.solution.value for point in path)
    True
    """
    structure, loss = problem.structure, problem.loss
    if not isinstance(structure, Sparse) or (structure.supports.largest_count(problem.size) or 0) < problem.size:
        raise InvalidProblem("a path over prices is for Sparse(AnySupport(), ...); a limit on the count leaves no path")
    if not (0 < ratio < 1 and 0 < smallest < 1) or (most is not None and most < 1):
        raise InvalidProblem(f"ratio {ratio} and smallest {smallest} must be in (0, 1), most {most} at least 1")
    if prices is None and not isinstance(loss, LeastSquares):
        raise InvalidProblem(f"for {type(loss).__name__} there is no rule for the prices; give them")
    if prices is not None and not all(math.isfinite(price) and price >= 0 for price in prices):
        raise InvalidProblem("prices must be finite and >= 0")
    solver, budget, found = solver or BranchAndBound(), budget or Budget(nodes=1), list[PathPoint]()
    first = _entering(problem, torch.zeros(problem.shape, dtype=torch.float64)) if prices is None else 0.0
    pending = [first] if prices is None else list(prices)[::-1]
    try:
        while pending:
            price = float(pending.pop())
            here = replace(problem, structure=Sparse(structure.supports, structure.box, price))
            start = found[-1].solution.point if found else None
            solution = solver.solve(here, budget=budget, start=start)
            found.append(PathPoint(price, here, solution))
            full = most is not None and solution.mask is not None and int(solution.mask.sum()) >= most
            if solution.stop is Stop.USER or solution.point is None or full:
                break
            if prices is None:
                following = min(ratio * price, _entering(problem, exact(solution.point)))
                if following >= smallest * first and following > 0.0:
                    pending = [following]
    except KeyboardInterrupt:
        pass
    return found


def _entering(problem: Problem, point: Tensor) -> float:
    """Return the largest price at which a further entry would pay for itself beside a point, the others at rest."""
    loss, structure = problem.reference.loss, problem.structure
    assert isinstance(loss, LeastSquares) and isinstance(structure, Sparse)
    slope = loss.gradient(point)
    curvature = loss.matrix.squares + loss.ridge
    model = Separable(constant=0.0, linear=slope, curvature=curvature.expand(slope.shape))
    free = Sparse(AnySupport(), structure.box, 0.0)
    gain = torch.where(free.gain(model) > 0, free.gain_bound(model), 0.0)  # allowances alone are no price to begin with
    outside = gain[point == 0]
    return float(outside.max()) if len(outside) else 0.0
