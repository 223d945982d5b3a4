"""Stable rule sets as estimators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import mipprune as mp
from mipprune.estimators import StableRules, StableRulesClassifier
from mipprune.formulations import stability_levels
from mipprune.rules import binned_key, extract_rules, mean_agreement

SMALL: dict[str, Any] = {"n_rules": 4, "n_estimators": 30, "level": 4, "gamma": 0.003, "random_state": 0}
NOT_EQUIVALENT = {
    "check_sample_weight_equivalence_on_dense_data": "a forest draws its samples at random, weighted or repeated",
}


def data(n: int = 160, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 4))
    return X, 3.0 * (X[:, 0] > 0.2) - 2.0 * (X[:, 1] > 0) * (X[:, 2] < 0.5) + 0.3 * rng.standard_normal(n) + 7.0


@parametrize_with_checks(
    [
        StableRules(n_rules=3, n_estimators=5, level=1, bins=4, random_state=0),
        StableRulesClassifier(n_rules=3, n_estimators=5, level=1, bins=4, random_state=0),
    ],
    expected_failed_checks=lambda estimator: NOT_EQUIVALENT,
)
def test_the_conventions_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_the_prediction_is_the_sum_of_the_effects_of_the_rules() -> None:
    X, y = data()
    model = StableRules(**SMALL).fit(X, y)
    held = np.stack([rule.holds(X) for rule in model.rules_], axis=1)
    np.testing.assert_array_equal(held, model.rule_matrix(X) > 0)
    np.testing.assert_allclose(model.predict(X), held @ model.coef_ + model.intercept_, rtol=1e-12)
    assert 1 <= len(model.rules_) <= 4 and model.score(X, y) > 0.7
    labels = y > np.median(y)
    classifier = StableRulesClassifier(**SMALL).fit(X, labels)
    odds = np.stack([rule.holds(X) for rule in classifier.rules_], axis=1) @ classifier.coef_ + classifier.intercept_
    np.testing.assert_allclose(classifier.predict_proba(X)[:, 1], 1 / (1 + np.exp(-odds)), rtol=1e-12)
    assert classifier.score(X, labels) > 0.85 and classifier.classes_.tolist() == [False, True]


@pytest.mark.parametrize("kind", [StableRules, StableRulesClassifier])
def test_the_set_is_as_stable_as_asked_and_its_bound_can_be_checked(kind: Any) -> None:
    X, y = data(seed=3)
    y = y if kind is StableRules else (y > y.mean()).astype(int)
    for level in ("frequent", 7, "low"):
        model = kind(**{**SMALL, "level": level}).fit(X, y)
        frequencies = model.problem_.structure.supports.frequencies
        levels = stability_levels(frequencies, 4)
        place = {"frequent": 1, "low": len(levels)}.get(level, level)
        total = round(model.stability_ * 30)
        assert total >= levels[min(place, len(levels)) - 1] or level == "low"
        assert model.lower_bound_ <= model.objective_ * (1 + 1e-12)
        mp.check(model.problem_, model.solution_)
        values = [point.solution.value for point in model.frontier_]
        assert values == sorted(values, reverse=True)


def test_a_frame_gives_its_names_and_the_table_is_readable() -> None:
    X, y = data()
    frame = pd.DataFrame(X, columns=["age", "height", "weight", "pulse"])
    model = StableRules(**SMALL).fit(frame, y)
    assert model.feature_names_in_.tolist() == list(frame.columns)
    text = str(model)
    assert "IF" in text and any(name in text for name in frame.columns) and "always" in text
    assert "CASE WHEN" in model.export("sql")
    assert "StableRules" in str(StableRules())
    np.testing.assert_array_equal(model.predict(frame), model.predict(frame.copy()))


def test_a_fitted_forest_keeps_its_thresholds() -> None:
    X, y = data()
    forest = RandomForestRegressor(25, max_depth=2, random_state=0).fit(X, y)
    model = StableRules(n_rules=4, level=3, gamma=0.003, ensemble=forest).fit(X, y)
    assert model.ensemble_ is forest and model.binner_ is None
    known = {binned_key(rule, None) for rule in extract_rules(forest, X, nodes="leaves").rules}
    assert set(model.keys_) <= known
    fresh = StableRules(
        n_rules=4, level=3, gamma=0.003, ensemble=RandomForestRegressor(25, max_depth=2, random_state=0)
    ).fit(X, y)
    assert fresh.binner_ is not None and hasattr(fresh.ensemble_, "estimators_")
    classifier = StableRulesClassifier(
        n_rules=4, level=3, gamma=0.003, ensemble=RandomForestClassifier(25, max_depth=2, random_state=0)
    )
    assert classifier.fit(X, y > 6).score(X, y > 6) > 0.7


def test_samples_of_weight_zero_do_not_count() -> None:
    X, y = data()
    weights = np.ones(len(y))
    weights[100:] = 0.0
    y_wrong = y.copy()
    y_wrong[100:] = 1e6
    with_zeros = StableRules(**SMALL).fit(X, y_wrong, sample_weight=weights)
    without = StableRules(**SMALL).fit(X[:100], y[:100], sample_weight=np.ones(100))
    np.testing.assert_allclose(with_zeros.predict(X), without.predict(X))


def test_nothing_to_split_is_a_constant() -> None:
    X = np.ones((20, 2))
    model = StableRules(n_rules=3, n_estimators=5).fit(X, np.arange(20.0))
    assert model.rules_ == () and model.predict(X).tolist() == [9.5] * 20
    labels = np.array([0] * 15 + [1] * 5)
    classifier = StableRulesClassifier(n_rules=3, n_estimators=5).fit(X, labels)
    assert classifier.predict_proba(X)[0, 1] == pytest.approx(0.25)
    constant = StableRules(n_rules=3, n_estimators=5, random_state=0).fit(data()[0], np.full(160, 2.5))
    np.testing.assert_allclose(constant.predict(data()[0]), 2.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "highest"}, "level"),
        ({"level": 0}, "level"),
        ({"level": True}, "level"),
        ({"n_rules": 0}, "n_rules"),
        ({"n_rules": 2.5}, "n_rules"),
        ({"gamma": -1.0}, "gamma"),
        ({"gap": -1.0}, "gap"),
        ({"time_limit": 0}, "seconds"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    X, y = data(60)
    with pytest.raises(mp.InvalidProblem, match=message):
        StableRules(**{**SMALL, **options}).fit(X, y)


def test_the_frontier_falls_in_error_as_stability_is_given_up() -> None:
    X, y = data(seed=2)
    for model, target in ((StableRules(**SMALL), y), (StableRulesClassifier(**SMALL), y > y.mean())):
        found = model.path(X, target, points=5)
        assert len(found) == 5
        frame = found.to_frame()
        assert (frame["objective"].diff().dropna() <= 0).all()
        assert (frame["bound"] <= frame["objective"] * (1 + 1e-12)).all()
        assert (frame["stability"] * 30 >= 1).all() and 0 <= found.knee() < 5
    whole = StableRules(n_rules=2, n_estimators=8, gamma=0.003, random_state=0).path(X, y, points=None)
    frame = whole.to_frame()
    assert frame["level"].is_monotonic_decreasing and frame["objective"].is_monotonic_decreasing
    assert frame["level"].is_unique


def test_rule_sets_of_folds_can_be_compared() -> None:
    X, y = data(240)
    sets = [StableRules(**{**SMALL, "random_state": seed}).fit(X[seed::3], y[seed::3]).keys_ for seed in range(3)]
    assert 0.0 < mean_agreement(sets) <= 1.0
    assert mean_agreement([sets[0], sets[0]]) == 1.0


def test_it_works_inside_scikit_learn() -> None:
    X, y = data()
    scores = cross_val_score(StableRules(**SMALL), X, y, cv=3)
    assert scores.shape == (3,) and scores.mean() > 0.6
