"""Which problems have node bounds of their own."""

from __future__ import annotations

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...losses.least_squares import LeastSquares
from ...losses.pseudo_likelihood import PseudoLikelihood
from .graph import GraphBound
from .regression import RegressionBound
from .strategy import NodeBound

__all__ = ["node_bound"]


def node_bound(problem: Problem) -> NodeBound | None:
    """Return the strategy for a problem, or ``None`` when only the generic tree takes it."""
    structure = problem.structure
    if not isinstance(structure, Sparse) or problem.on is not None or problem.off is not None:
        return None
    if structure.supports.largest_count(problem.size) is None:
        return None
    if isinstance(problem.loss, LeastSquares):
        return RegressionBound.of(problem) if RegressionBound.takes(problem) else None
    if isinstance(problem.loss, PseudoLikelihood):
        return GraphBound.of(problem) if GraphBound.takes(problem) else None
    return None
