"""Smooth convex losses."""

from __future__ import annotations

from .least_squares import LeastSquares
from .linear import Linear
from .low_rank import LowRank
from .quadratic import Quadratic

__all__ = ["LeastSquares", "Linear", "LowRank", "Quadratic"]

ALL = (LeastSquares, Linear, LowRank, Quadratic)
"""Every loss of the package, so that tests run over all of them."""
