"""Solvers: each a frozen dataclass of its parameters."""

from __future__ import annotations

from .scip import Scip

__all__ = ["Scip"]

ALL = (Scip,)
"""Every solver of the package, so that tests run over all of them."""
