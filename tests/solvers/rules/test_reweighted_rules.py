"""Rules for two classes by reweighted least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import mipprune as mp
from mipprune.formulations import rule_selection
from mipprune.rules import extract_rules
from mipprune.solvers import ReweightedRules


@pytest.mark.parametrize("count", [1, 2, 3])
def test_near_the_optimum_of_small_problems(count: int) -> None:
    gaps = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        M = (rng.random((30, 8)) < 0.5).astype(float)
        y = (M @ rng.normal(size=8) + 0.5 * rng.normal(size=30) > 0).astype(float)
        problem = rule_selection(M, y, gamma=1.0, count=count, loss="logistic")
        optimum, _ = mp.testing.enumerate_optimum(problem)
        found = ReweightedRules().solve(problem)
        assert found.value >= optimum * (1 - 1e-9)
        gaps.append(found.value / optimum - 1)
    assert np.median(gaps) <= 1e-9 and max(gaps) < 0.05


def test_real_forest_and_bound() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    forest = RandomForestClassifier(20, max_depth=2, random_state=0).fit(X[:300], y[:300])
    rules = extract_rules(forest, X[:300])
    problem = rule_selection(rules, y[:300], gamma=0.05, count=5, loss="logistic")
    values = [ReweightedRules(rounds=k).solve(problem).value for k in (1, 3, 20)]
    assert values[0] >= values[1] >= values[2] and values[2] < 0.5 * problem.loss.scale
    found = ReweightedRules(exchanges=True).solve(problem)
    certified = mp.certify(problem, found, iterations=40, strength=1.0, splits=0)
    assert certified.gap < 0.1
    mp.check(problem, certified)


def test_conformance() -> None:
    rng = np.random.default_rng(0)
    M, y = (rng.random((25, 6)) < 0.5).astype(float), rng.random(25) < 0.5
    mp.testing.check_solver(ReweightedRules(), rule_selection(M, y, gamma=0.5, count=2, loss="logistic"))
    parents = torch.tensor([-1, 0, 0, -1, -1, -1])
    mp.testing.check_solver(ReweightedRules(), rule_selection(M, y, price=0.1, loss="logistic", parents=parents))
    with pytest.raises(mp.Unsupported, match="logistic"):
        ReweightedRules().solve(rule_selection(M, y, count=2))
