"""Solvers: each a frozen dataclass of its parameters."""

from __future__ import annotations

from .admm import ADMM
from .highs import Highs
from .obc import OBC
from .one_shot import Magnitude, SparseGPT, Wanda
from .scip import Scip

__all__ = ["ADMM", "Highs", "Magnitude", "OBC", "Scip", "SparseGPT", "Wanda"]

ALL = (ADMM, Highs, Magnitude, OBC, Scip, SparseGPT, Wanda,)
"""Every solver of the package, so that tests run over all of them."""
