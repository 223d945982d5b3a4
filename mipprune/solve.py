"""``solve``: one function for every problem, and the visible ladder by which it chooses."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from .core.arrays import as_tensor
from .core.problem import Problem
from .core.solution import Proof, Solution
from .core.solver import Budget, Progress, Solver
from .errors import Unsupported
from .losses.least_squares import LeastSquares
from .losses.linear import Linear
from .losses.quadratic import Quadratic
from .solvers.bounds.dual_bundle import DualBundle
from .solvers.bounds.relaxation import certify
from .solvers.branch_and_bound import BranchAndBound
from .solvers.descent.edge_descent import EdgeDescent
from .solvers.descent.projected_gradient import ProjectedGradient
from .solvers.descent.task_descent import TaskDescent
from .solvers.layers.admm import ADMM
from .solvers.oracle import Oracle
from .solvers.rules.reweighted_rules import ReweightedRules
from .solvers.rules.tree_descent import TreeDescent
from .solvers.tree.roads import node_bound

__all__ = ["choose", "solve"]

_TREE = 128  # entries up to which the tree usually closes the gap within seconds (benchmarks/layerwise)
_PAIRS = 20_000  # of a graph, up to which a node costs milliseconds (benchmarks/graphical_models)


def choose(problem: Problem) -> Solver:
    """Return the solver that :func:`solve` takes when none is named.

    1. A linear loss: one oracle call, which is exact.
    2. A loss that few dual variables decide (low-rank gradients): the bundle method, bound and point together; its
       ridge is too little curvature for a tree.
    3. At most 128 entries: branch and bound, which proves the optimum.
    4. Sparse regression, and graphical models of at most 20,000 pairs (200 variables), where bounds at nodes are known:
       branch and bound too. A weak price makes it long; give a ``Budget(seconds=...)``.
    5. Larger graphical models: descent over edges, with a bound.
    6. A layer-wise quadratic: operator splitting (ADMM, the method of ALPS).
    7. Rules: descent over trees for least squares over antichains, reweighted least squares for the logistic loss.
       Least squares over the supports of tasks: descent over tasks and exchanges of columns.
    8. Anything else with a majorant: projected gradient.

    For 6 to 8 the answer of ``solve`` is certified afterwards.
    """
    if isinstance(problem.loss, Linear):
        return Oracle()
    if DualBundle().rejects(problem) is None:
        return DualBundle()
    searched = problem.size <= _PAIRS or isinstance(problem.loss, LeastSquares)
    if problem.size <= _TREE or (searched and node_bound(problem) is not None):
        return BranchAndBound()
    if EdgeDescent().rejects(problem) is None:
        return EdgeDescent()
    if isinstance(problem.loss, Quadratic) and ADMM().rejects(problem) is None:
        return ADMM()
    for special in (TreeDescent(), ReweightedRules(), TaskDescent()):
        if special.rejects(problem) is None:
            return special
    return ProjectedGradient()


def solve(
    problem: Problem,
    solver: Solver | None = None,
    *,
    budget: Budget | None = None,
    start: Tensor | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Solve a problem.

    Parameters
    ----------
    problem : Problem
    solver : Solver, optional
        For example ``mp.ADMM()`` or ``mp.Scip()``; by default :func:`choose` decides, and an answer without a bound is
        certified.
    budget : Budget, optional
        Limits; the default asks for a relative gap of 1e-4 without any limit.
    start : Tensor, shape of the problem, optional
        A point to start from; one at which the objective overflows is left aside.
    progress : callable, optional
        Receives (seconds, value, bound); returning ``True`` stops the run.

    Returns
    -------
    Solution

    Raises
    ------
    Unsupported
        If the solver named does not take the problem, or is no solver.
    InvalidProblem
        If the start is not an array of finite numbers of the problem's shape.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(2, 8), x.T @ x, mp.NofM(2, 4))
    >>> mp.solve(problem).proof.value
    'checked'
    """
    budget = budget or Budget()
    start = None if start is None else as_tensor(start, "start", shape=problem.shape)
    if start is not None and not math.isfinite(problem.value(start)):
        start = None  # so far out that nothing compares with it
    chosen = choose(problem) if solver is None else solver
    if isinstance(chosen, type) or not isinstance(chosen, Solver):
        raise Unsupported(f"{chosen!r} is not a solver; give an object such as mipprune.ADMM() or mipprune.Scip()")
    solution = chosen.solve(problem, budget=budget, start=start, progress=progress)
    if solver is None and solution.proof is Proof.NONE and solution.point is not None:
        if budget.seconds is not None:
            budget = replace(budget, seconds=max(budget.seconds - (solution.stats.seconds or 0.0), 1e-3))
        return certify(problem, solution, budget=budget, progress=progress)
    return solution
