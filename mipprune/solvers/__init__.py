"""Solvers: each a frozen dataclass of its parameters; and ``certify``, which attaches a bound to any point."""

from __future__ import annotations

from .bounds.dual_bundle import DualBundle
from .bounds.relaxation import certify
from .branch_and_bound import BranchAndBound
from .budgets.baselines import GoldenSection, GreedyBudget
from .budgets.block_search import BlockSearch
from .budgets.discrete_first_order import DiscreteFirstOrder
from .budgets.saliency import Saliency
from .budgets.spdy import SpdyDP
from .cuts.chain import FrontierPoint, frontier, frontier_upwards
from .cuts.cutting_planes import CuttingPlanes
from .descent.edge_descent import EdgeDescent
from .descent.projected_gradient import ProjectedGradient
from .descent.task_descent import TaskDescent
from .exact.highs import Highs
from .exact.scip import Scip
from .layers.admm import ADMM
from .layers.local_search import LocalSearch
from .layers.obc import OBC
from .layers.one_shot import Magnitude, SparseGPT, Wanda
from .masks.baselines import (
    BiNMMask,
    EntropicMask,
    GreedyMask,
    PatternMask,
    RandomMask,
    SweepMask,
    TwoApproximationMask,
)
from .masks.permutation import Permutation, search_permutation
from .oracle import Oracle
from .path import PathPoint, regularization_path
from .rules.layer_descent import LayerDescent
from .rules.reweighted_rules import ReweightedRules
from .rules.rule_swaps import RuleSwaps
from .rules.tree_descent import PricePoint, TreeDescent

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
    "PathPoint",
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
    "regularization_path",
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
