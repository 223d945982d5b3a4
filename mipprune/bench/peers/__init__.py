"""Other packages as solvers, for comparison; each says why it takes no part where it is not installed."""

from __future__ import annotations

from .graphs import GraphicalLassoPath
from .regression import Abess, LassoPath, MatchingPursuit
from .through_cvxpy import ThroughCvxpy

__all__ = ["Abess", "GraphicalLassoPath", "LassoPath", "MatchingPursuit", "ThroughCvxpy"]
