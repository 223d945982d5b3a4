"""Solvers: each a frozen dataclass of its parameters; and ``certify``, which attaches a bound to any point."""

from __future__ import annotations

from .admm import ADMM
from .block_search import BlockSearch
from .branch_and_bound import BranchAndBound
from .budget_baselines import GoldenSection, GreedyBudget
from .chain import FrontierPoint, frontier, frontier_upwards
from .cutting_planes import CuttingPlanes
from .discrete_first_order import DiscreteFirstOrder
from .dual_bundle import DualBundle
from .edge_descent import EdgeDescent
from .highs import Highs
from .layer_descent import LayerDescent
from .local_search import LocalSearch
from .mask_baselines import (
    BiNMMask,
    EntropicMask,
    GreedyMask,
    PatternMask,
    RandomMask,
    SweepMask,
    TwoApproximationMask,
)
from .obc import OBC
from .one_shot import Magnitude, SparseGPT, Wanda
from .oracle import Oracle
from .permutation import Permutation, search_permutation
from .projected_gradient import ProjectedGradient
from .relaxation import certify
from .reweighted_rules import ReweightedRules
from .rule_swaps import RuleSwaps
from .saliency import Saliency
from .scip import Scip
from .spdy import SpdyDP
from .task_descent import TaskDescent
from .tree_descent import PricePoint, TreeDescent

__all__ = [
    "ADMM",
    "OBC",
    "BiNMMask",
    "BlockSearch",
    "BranchAndBound",
    "CuttingPlanes",
    "DiscreteFirstOrder",
    "DualBundle",
    "EdgeDescent",
    "EntropicMask",
    "FrontierPoint",
    "GoldenSection",
    "GreedyBudget",
    "GreedyMask",
    "Highs",
    "LayerDescent",
    "LocalSearch",
    "Magnitude",
    "Oracle",
    "PatternMask",
    "Permutation",
    "PricePoint",
    "ProjectedGradient",
    "RandomMask",
    "ReweightedRules",
    "RuleSwaps",
    "Saliency",
    "Scip",
    "SparseGPT",
    "SpdyDP",
    "SweepMask",
    "TaskDescent",
    "TreeDescent",
    "TwoApproximationMask",
    "Wanda",
    "certify",
    "frontier",
    "frontier_upwards",
    "search_permutation",
]

ALL = (
    ADMM,
    OBC,
    BiNMMask,
    BlockSearch,
    BranchAndBound,
    CuttingPlanes,
    DiscreteFirstOrder,
    DualBundle,
    EdgeDescent,
    EntropicMask,
    GoldenSection,
    GreedyBudget,
    GreedyMask,
    Highs,
    LayerDescent,
    LocalSearch,
    Magnitude,
    Oracle,
    PatternMask,
    ProjectedGradient,
    RandomMask,
    Saliency,
    ReweightedRules,
    RuleSwaps,
    Scip,
    SparseGPT,
    SpdyDP,
    SweepMask,
    TaskDescent,
    TreeDescent,
    TwoApproximationMask,
    Wanda,
)
"""Every solver of the package, so that tests run over all of them."""
