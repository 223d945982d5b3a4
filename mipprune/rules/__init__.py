"""Decision rules: read from tree ensembles, evaluated exactly, written out as text, SQL and code."""

from __future__ import annotations

from .binning import QuantileBinner
from .conditions import Condition, Rule
from .extraction import extract_rules
from .matrix import RuleMatrix
from .readers import TreeArrays, read_trees

__all__ = ["Condition", "QuantileBinner", "Rule", "RuleMatrix", "TreeArrays", "extract_rules", "read_trees"]
