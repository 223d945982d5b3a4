"""The candidates of stable rule sets: leaves of shallow trees on quantile bins, counted over a forest."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .binning import QuantileBinner
from .extraction import extract_rules
from .matrix import RuleMatrix

__all__ = ["Candidates", "binned_candidates"]


class Candidates(NamedTuple):
    """Candidate rules with what they were read from."""

    rules: RuleMatrix
    """the leaves, equal rules merged, the most frequent first; ``count`` says in how many trees each occurs"""
    leaves: RuleMatrix
    """all leaves, those of a tree side by side"""
    binner: QuantileBinner
    forest: Any


def binned_candidates(
    X: Any,
    y: Any,
    *,
    trees: int = 500,
    depth: int = 2,
    share: float = 1.0 / 3.0,
    bins: int = 10,
    columns: str = "value",
    classes: bool = False,
    sample_weight: Any = None,
    seed: Any = 0,
    threads: int | None = None,
) -> Candidates:
    """Fit a forest of shallow trees on quantile bins and read its leaves as rules.

    Parameters
    ----------
    X : array (n, features)
        Numbers; categories as 0/1 columns. Edges of the bins come from these samples only.
    y : array (n,)
        Standardised response, or labels 0/1.
    trees, depth : int
        Of the forest.
    share : float
        Share of the features that a split may look at, in (0, 1].
    bins : int
        Quantile bins of a feature with at least as many distinct values.
    columns : {"value", "indicator"}
        What a column of the rule matrix holds where the rule applies: the value of the leaf at its first occurrence, or
        1.
    classes : bool
        Whether ``y`` holds labels; the values of leaves are then shares of the label 1.
    sample_weight : array (n,), optional
        Passed to the forest.
    seed : int or numpy RandomState
    threads : int, optional

    Returns
    -------
    Candidates

    References
    ----------
    arXiv 2506.08030 (MOSS): 500 trees of depth 2, a third of the features, 10 bins.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    binner = QuantileBinner(bins, distinct=bins)
    codes = binner.fit_transform(X)
    kind = RandomForestClassifier if classes else RandomForestRegressor
    forest = kind(n_estimators=trees, max_depth=depth, max_features=share, random_state=seed, n_jobs=threads)
    forest.fit(codes, y, sample_weight=sample_weight)
    leaves = extract_rules(forest, X, nodes="leaves", columns=columns, binner=binner)
    merged = leaves.unique(by="rule")
    order = np.argsort(-merged.count, kind="stable")
    return Candidates(merged.take(order), leaves, binner, forest)
