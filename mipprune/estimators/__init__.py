"""Estimators with the conventions of scikit-learn; this package needs it."""

from __future__ import annotations

from .frontier import ParetoFrontier
from .rule_extractor import RuleExtractorClassifier, RuleExtractorRegressor
from .stable_rules import StableRules, StableRulesClassifier

__all__ = [
    "ParetoFrontier",
    "RuleExtractorClassifier",
    "RuleExtractorRegressor",
    "StableRules",
    "StableRulesClassifier",
]
