"""Smooth convex losses."""

from __future__ import annotations

from .least_squares import LeastSquares
from .linear import Linear
from .logistic import Logistic
from .low_rank import LowRank
from .pseudo_likelihood import PseudoLikelihood
from .quadratic import Quadratic

__all__ = ["LeastSquares", "Linear", "Logistic", "LowRank", "PseudoLikelihood", "Quadratic"]

ALL = (LeastSquares, Linear, Logistic, LowRank, PseudoLikelihood, Quadratic)
"""Every loss of the package, so that tests run over all of them."""
