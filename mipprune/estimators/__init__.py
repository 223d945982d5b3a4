"""Estimators with the conventions of scikit-learn; this package needs it."""

from __future__ import annotations

from .frontier import ParetoFrontier
from .graphical import L0GraphicalModel
from .l0 import L0Regressor, L0RegressorCV
from .rule_extractor import RuleExtractorClassifier, RuleExtractorRegressor
from .stable_rules import StableRules, StableRulesClassifier

__all__ = [
    "L0GraphicalModel",
    "L0Regressor",
    "L0RegressorCV",
    "ParetoFrontier",
    "RuleExtractorClassifier",
    "RuleExtractorRegressor",
    "StableRules",
    "StableRulesClassifier",
]
