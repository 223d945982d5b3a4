"""Lowering of cvxpy problems: canonical data, and their exits to SCIP, HiGHS and files."""

from __future__ import annotations

from .data import LOGARITHMS, Affine, Canonical
from .export import complete, to_highs_lp, to_scip, write_model

__all__ = ["LOGARITHMS", "Affine", "Canonical", "complete", "to_highs_lp", "to_scip", "write_model"]
