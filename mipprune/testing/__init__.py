"""Public conformance suites: what a user runs on a loss, a family, a structure, a problem or a solver of their own.

Each function draws random data from its own seed and raises ``AssertionError`` with a sentence that says what was
found and what the contract asks for. None of them needs pytest.
"""

from __future__ import annotations

from .enumeration import enumerate_masks, enumerate_optimum
from .losses import check_loss
from .problems import check_problem
from .solvers import check_solver
from .structures import check_structure
from .supports import check_supports

__all__ = [
    "check_loss",
    "check_problem",
    "check_solver",
    "check_structure",
    "check_supports",
    "enumerate_masks",
    "enumerate_optimum",
]
