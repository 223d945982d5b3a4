"""Solvers: each a frozen dataclass of its parameters."""

from __future__ import annotations

from .admm import ADMM
from .one_shot import Magnitude, SparseGPT, Wanda
from .scip import Scip

__all__ = ["ADMM", "Magnitude", "Scip", "SparseGPT", "Wanda"]

ALL = (
    ADMM,
    Magnitude,
    Scip,
    SparseGPT,
    Wanda,
)
"""Every solver of the package, so that tests run over all of them."""
