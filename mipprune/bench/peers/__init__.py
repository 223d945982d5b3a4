"""Other packages as solvers, for comparison; each says why it takes no part where it is not installed."""

from __future__ import annotations

from .elsewhere import Elsewhere, choose_pythons, close_peers, memory_elsewhere, versions_elsewhere
from .exact import El0ps, L0bnb
from .graphs import GraphicalLassoPath, SkglmGraph
from .regression import Abess, LassoPath, MatchingPursuit, RuleFitSelection, SkglmPath
from .through_cvxpy import CVXPY, ThroughCvxpy

__all__ = [
    "CVXPY",
    "Abess",
    "El0ps",
    "Elsewhere",
    "GraphicalLassoPath",
    "L0bnb",
    "LassoPath",
    "MatchingPursuit",
    "RuleFitSelection",
    "SkglmGraph",
    "SkglmPath",
    "ThroughCvxpy",
    "choose_pythons",
    "close_peers",
    "memory_elsewhere",
    "versions_elsewhere",
]
