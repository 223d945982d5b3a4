"""The other ways to pick rules: frequency, lasso, fused concave penalty, weighted sum."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest

from mipprune import InvalidProblem
from mipprune.kernels.priced_descent import descend
from mipprune.rules.baselines import frequent_rules, independent_of_earlier, lasso_rules
from mipprune.rules.candidates import binned_candidates
from mipprune.rules.fire import fire_rules, fused_prox
from mipprune.rules.weighted_sum import weighted_sum_rules

Array = np.ndarray[Any, Any]


def data(n: int = 80, p: int = 30, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 5))
    columns = (x[:, rng.integers(0, 5, p)] <= rng.standard_normal(p) * 0.7).astype(float)
    y = x[:, 0] + (x[:, 1] > 0) + 0.3 * rng.standard_normal(n)
    return columns, (y - y.mean()) / y.std()


def test_frequent_rules_skip_what_earlier_ones_span() -> None:
    columns, _ = data()
    columns[:, 3] = 1.0 - columns[:, 0]
    columns[:, 4] = columns[:, 1]
    columns[:, 5] = 1.0
    found = frequent_rules(columns, np.arange(30, 0, -1), 5)
    assert np.flatnonzero(found).tolist() == [0, 1, 2, 6, 7]
    everything = independent_of_earlier(columns)
    rank = np.linalg.matrix_rank(np.hstack([np.ones((80, 1)), columns]))
    assert len(everything) == rank - 1


def test_the_lasso_ends_at_the_last_point_with_few_rules() -> None:
    columns, y = data()
    for count in (1, 4, 9):
        chosen, weights = lasso_rules(columns, y, count)
        assert 1 <= chosen.sum() <= count
        assert (weights[~chosen] == 0).all() and (weights[chosen] != 0).all()
    scale = columns.std(axis=0)
    standard = (columns - columns.mean(axis=0)) / scale
    first = lasso_rules(columns, y, 1)[0]
    assert np.flatnonzero(first)[0] == np.abs(standard.T @ y).argmax()
    assert not lasso_rules(columns, np.zeros(80), 3)[0].any()


def test_the_fused_map_is_the_minimiser() -> None:
    rng = np.random.default_rng(1)
    for trial in range(25):
        m = int(rng.integers(2, 8))
        center = rng.integers(-3, 4, m) + (trial % 2) * rng.standard_normal(m)
        level = float(rng.random() * 2)
        w = cp.Variable(m)
        cp.Problem(cp.Minimize(0.5 * cp.sum_squares(w - center) + level * cp.tv(w))).solve(solver=cp.CLARABEL)

        def value(w: Array, center: Array = center, level: float = level) -> float:
            return 0.5 * float(((w - center) ** 2).sum()) + level * float(np.abs(np.diff(w)).sum())

        found = fused_prox(center.astype(float), level)
        assert value(found) <= value(w.value) + 1e-9
        np.testing.assert_allclose(found, w.value, atol=1e-3)
    assert fused_prox(np.array([2.0]), 5.0).tolist() == [2.0]
    assert fused_prox(np.array([1.0, 3.0]), 0.0).tolist() == [1.0, 3.0]


def test_fire_shrinks_towards_counting_and_stays_within_the_count() -> None:
    columns, y = data()
    trees = np.arange(30) // 3
    for count in (2, 6):
        chosen, weights = fire_rules(columns, y, trees, count)
        assert 1 <= chosen.sum() <= count and (weights[~chosen] == 0).all()
    # Without fusion and with gamma near one, a single orthogonal column is kept at its least squares weight.
    only = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    weights = fire_rules(only, np.array([1.0, -1.0, 0.9, -0.9]), [0], 1, fusion=0.0)[1]
    assert weights[0] == pytest.approx(0.95, rel=1e-6)
    with pytest.raises(InvalidProblem, match="non-decreasing"):
        fire_rules(columns, y, trees[::-1], 3)
    with pytest.raises(InvalidProblem, match="gamma > 1"):
        fire_rules(columns, y, trees, 3, gamma=1.0)


def test_descent_with_prices_ends_where_no_coordinate_helps() -> None:
    rng = np.random.default_rng(3)
    columns, y = data(seed=3)
    gram, pull = columns.T @ columns, columns.T @ y
    prices = rng.normal(0.5, 1.0, 30)
    weights, left = np.zeros(30), pull.copy()
    count = descend(gram, left, prices, weights, 500, 1e-10)
    assert count == np.count_nonzero(weights)
    np.testing.assert_allclose(left, pull - gram @ weights, atol=1e-8)

    def value(w: Array) -> float:
        return 0.5 * float(((y - columns @ w) ** 2).sum()) + float(prices[w != 0].sum())

    best = value(weights)
    for j in range(30):
        for new in (0.0, weights[j] + left[j] / gram[j, j], weights[j] + 0.01, weights[j] - 0.01):
            moved = weights.copy()
            moved[j] = new
            assert value(moved) >= best - 1e-8


def test_the_weighted_sum_goes_from_stable_to_accurate() -> None:
    columns, y = data(p=40, seed=5)
    often = np.arange(40, 0, -1)
    sets = weighted_sum_rules(columns, y, often, 6)
    assert sets and all(0 < chosen.sum() <= 6 for chosen in sets)

    def left(chosen: Array) -> float:
        held = np.hstack([np.ones((80, 1)), columns[:, chosen]])
        return float(((y - held @ np.linalg.lstsq(held, y, rcond=None)[0]) ** 2).sum())

    assert left(sets[-1]) < left(sets[0])
    assert often[sets[0]].sum() > often[sets[-1]].sum()
    with pytest.raises(InvalidProblem, match="between 0 and 1"):
        weighted_sum_rules(columns, y, often, 6, shares=[1.0])
    with pytest.raises(InvalidProblem, match="needed"):
        weighted_sum_rules(columns, y[:-1], often, 6)


def test_candidates_are_counted_over_the_trees() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 3))
    y = (X[:, 0] > 0) + 0.1 * rng.standard_normal(120)
    found = binned_candidates(X, y, trees=40, seed=1)
    counts = found.rules.count
    assert (np.diff(counts) <= 0).all()
    assert counts.sum() == len(found.leaves) and found.rules.trees == 40
    assert len({rule.key for rule in found.rules.rules}) == len(found.rules)
    total = np.asarray(found.leaves.matrix.sum(axis=1)).ravel() / 40  # every sample is in one leaf of every tree
    np.testing.assert_allclose(total, found.forest.predict(found.binner.transform(X)), atol=1e-12)
    again = binned_candidates(X, y, trees=40, seed=1)
    assert [rule.key for rule in again.rules.rules] == [rule.key for rule in found.rules.rules]
    labels = binned_candidates(X, X[:, 0] > 0, trees=5, classes=True, columns="indicator")
    assert set(np.unique(labels.rules.matrix.toarray())) == {0.0, 1.0}
