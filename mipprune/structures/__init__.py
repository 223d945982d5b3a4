"""Families of supports."""

from __future__ import annotations

from .antichain import Antichain
from .any_support import AnySupport
from .budgets import Budgets
from .cardinality import Cardinality, PerRow
from .groups import Groups
from .multiple_choice import MultipleChoice
from .n_of_m import NofM
from .rooted import Rooted
from .shared import SharedSupports
from .stable import Stable
from .transposable import TransposableNofM

__all__ = [
    "Antichain",
    "AnySupport",
    "Budgets",
    "Cardinality",
    "Groups",
    "MultipleChoice",
    "NofM",
    "PerRow",
    "Rooted",
    "SharedSupports",
    "Stable",
    "TransposableNofM",
]

ALL = (
    Antichain,
    AnySupport,
    Budgets,
    Cardinality,
    Groups,
    MultipleChoice,
    NofM,
    PerRow,
    Rooted,
    Stable,
    TransposableNofM,
)
"""Every family of the package, so that tests run over all of them."""
