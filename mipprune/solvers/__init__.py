"""Solvers: each a frozen dataclass of its parameters."""

from __future__ import annotations

from .admm import ADMM
from .highs import Highs
from .local_search import LocalSearch
from .obc import OBC
from .one_shot import Magnitude, SparseGPT, Wanda
from .projected_gradient import ProjectedGradient
from .scip import Scip

__all__ = ["ADMM", "OBC", "Highs", "LocalSearch", "Magnitude", "ProjectedGradient", "Scip", "SparseGPT", "Wanda"]

ALL = (
    ADMM,
    Highs,
    LocalSearch,
    Magnitude,
    OBC,
    ProjectedGradient,
    Scip,
    SparseGPT,
    Wanda,
)
"""Every solver of the package, so that tests run over all of them."""
