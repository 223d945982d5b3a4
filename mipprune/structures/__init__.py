"""Families of supports."""

from __future__ import annotations

from .cardinality import Cardinality, PerRow
from .groups import Groups
from .n_of_m import NofM
from .transposable import TransposableNofM

__all__ = ["Cardinality", "Groups", "NofM", "PerRow", "TransposableNofM"]

ALL = (Cardinality, Groups, NofM, PerRow, TransposableNofM)
"""Every family of the package, so that tests run over all of them."""
