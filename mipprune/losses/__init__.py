"""Smooth convex losses."""

from __future__ import annotations

from .least_squares import LeastSquares
from .linear import Linear
from .quadratic import Quadratic

__all__ = ["LeastSquares", "Linear", "Quadratic"]

ALL = (LeastSquares, Linear, Quadratic)
"""Every loss of the package, so that tests run over all of them."""
