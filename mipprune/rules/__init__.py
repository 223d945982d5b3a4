"""Decision rules: read from tree ensembles, evaluated exactly, written out as text, SQL and code."""

from __future__ import annotations

from .baselines import frequent_rules, lasso_rules
from .binning import QuantileBinner
from .candidates import Candidates, binned_candidates
from .conditions import Condition, Rule
from .export import export_rules
from .extraction import extract_rules
from .fire import fire_rules
from .matrix import RuleMatrix
from .model import RuleModel, readable
from .readers import TreeArrays, read_trees
from .stability import binned_key, dice_sorensen, jaccard, mean_agreement, ochiai, percentage_of_overlap
from .weighted_sum import weighted_sum_rules

__all__ = [
    "Candidates",
    "Condition",
    "QuantileBinner",
    "Rule",
    "RuleMatrix",
    "RuleModel",
    "TreeArrays",
    "binned_candidates",
    "binned_key",
    "dice_sorensen",
    "export_rules",
    "extract_rules",
    "fire_rules",
    "frequent_rules",
    "jaccard",
    "lasso_rules",
    "mean_agreement",
    "ochiai",
    "percentage_of_overlap",
    "read_trees",
    "readable",
    "weighted_sum_rules",
]
