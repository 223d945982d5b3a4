"""mipprune: structured mixed-integer problems of machine learning, with lower bounds that anyone can re-check."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from . import formulations, losses, solvers, structures, testing
from .core.adapters import Masks, Sparse
from .core.certificate import Certificate, Claim, Tangent, Tree
from .core.loss import Loss
from .core.parts import Parts, parts_of
from .core.problem import Problem
from .core.separable import Separable
from .core.solution import Checked, Proof, Solution, Stats, Status, Stop, check
from .core.solver import Budget, Solver
from .core.sparse_tree import SparseTree
from .core.structure import Argmin, Selection, Structure, Supports
from .errors import CertificateError, InvalidProblem, MippruneError, SolverFailure, Unsupported
from .io import load, save
from .losses import LeastSquares, Linear, Logistic, LowRank, Quadratic
from .losses.graph_blocks import GraphBlocks
from .solve import choose, solve
from .solvers import (
    ADMM,
    OBC,
    BlockSearch,
    BranchAndBound,
    CuttingPlanes,
    DiscreteFirstOrder,
    DualBundle,
    Highs,
    LocalSearch,
    Magnitude,
    Oracle,
    ProjectedGradient,
    RuleSwaps,
    Saliency,
    Scip,
    SparseGPT,
    TreeDescent,
    Wanda,
    certify,
)
from .structures import Antichain, AnySupport, Budgets, Cardinality, Groups, NofM, PerRow, Stable, TransposableNofM

__version__ = "0.1.0"

__all__ = [
    "ADMM",
    "OBC",
    "Antichain",
    "AnySupport",
    "Argmin",
    "BlockSearch",
    "BranchAndBound",
    "Budget",
    "Budgets",
    "Cardinality",
    "Certificate",
    "CertificateError",
    "Checked",
    "Claim",
    "CuttingPlanes",
    "DiscreteFirstOrder",
    "DualBundle",
    "GraphBlocks",
    "Groups",
    "Highs",
    "InvalidProblem",
    "LeastSquares",
    "Linear",
    "LocalSearch",
    "Logistic",
    "Loss",
    "LowRank",
    "Magnitude",
    "Masks",
    "MippruneError",
    "NofM",
    "Oracle",
    "Parts",
    "PerRow",
    "Problem",
    "ProjectedGradient",
    "Proof",
    "Quadratic",
    "RuleSwaps",
    "Saliency",
    "Scip",
    "Selection",
    "Separable",
    "Solution",
    "Solver",
    "SolverFailure",
    "Sparse",
    "SparseGPT",
    "SparseTree",
    "Stable",
    "Stats",
    "Status",
    "Stop",
    "Structure",
    "Supports",
    "Tangent",
    "TransposableNofM",
    "Tree",
    "TreeDescent",
    "Unsupported",
    "Wanda",
    "bench",
    "certify",
    "check",
    "choose",
    "estimators",
    "formulations",
    "load",
    "losses",
    "networks",
    "parts_of",
    "save",
    "solve",
    "solvers",
    "structures",
    "testing",
]


def __getattr__(name: str) -> Any:
    """Import ``networks``, ``bench`` and ``estimators`` on first use: a modelling session never needs them."""
    if name in ("networks", "bench", "estimators"):
        return import_module(f"mipprune.{name}")
    raise AttributeError(f"module 'mipprune' has no attribute {name!r}")
