"""Other packages as solvers, for comparison; each says why it takes no part where it is not installed."""

from __future__ import annotations

from .regression import Abess, LassoPath, MatchingPursuit
from .through_cvxpy import ThroughCvxpy

__all__ = ["Abess", "LassoPath", "MatchingPursuit", "ThroughCvxpy"]
