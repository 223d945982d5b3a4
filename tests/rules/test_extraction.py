"""Rules read from ensembles: the same decisions for every x, merged duplicates, supports, quantile bins."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    BaggingRegressor,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

import mipprune as mp
from mipprune.rules import Condition, QuantileBinner, Rule, extract_rules, read_trees
from mipprune.rules.readers import TreeArrays, single_precision


def data(n: int = 120, features: int = 4, seed: int = 0, missing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, features)) * 10.0 ** rng.integers(-3, 4, size=features)
    X[:, 0] = np.round(X[:, 0] / np.abs(X[:, 0]).max() * 5)  # ties
    y = np.sin(X[:, 0]) + (X[:, 1] > 0) + 0.1 * rng.normal(size=n)
    if missing:
        X[rng.random(X.shape) < missing] = np.nan
    return X, y


def near_thresholds(trees: list[TreeArrays], X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Samples whose values are thresholds or their neighbours in float32 and float64: where decisions change."""
    out = X[rng.integers(len(X), size=400)].copy()
    for row in out:
        tree = trees[int(rng.integers(len(trees)))]
        for node in np.flatnonzero(tree.feature >= 0):
            t = tree.threshold[node]
            row[tree.feature[node]] = rng.choice(
                [t, np.nextafter(t, np.inf), np.nextafter(t, -np.inf), float(np.float32(t))]
            )
    return out


@pytest.mark.parametrize("kind", [RandomForestRegressor, ExtraTreesRegressor, GradientBoostingRegressor])
def test_columns_are_the_decision_paths_of_scikit_learn(kind: Any) -> None:
    X, y = data()
    model = kind(n_estimators=12, max_depth=4, random_state=0).fit(X, y)
    rules = extract_rules(model, X, constant="keep")
    trees = np.ravel(model.estimators_)
    paths = np.hstack([tree.decision_path(X.astype(np.float32)).toarray() for tree in trees])
    nonempty = paths.sum(axis=0) > 0
    assert np.array_equal(rules.matrix.toarray(), paths[:, nonempty])
    assert np.array_equal(rules.node, np.concatenate([np.arange(t.tree_.node_count) for t in trees])[nonempty])
    assert np.array_equal(rules.support, paths.sum(axis=0)[nonempty])
    assert rules.trees == len(trees) and np.array_equal(rules.depth, [rule.depth for rule in rules.rules])
    hard = near_thresholds(read_trees(model), X, np.random.default_rng(1))
    expected = np.hstack([tree.decision_path(hard.astype(np.float32)).toarray() for tree in trees])
    assert np.array_equal(rules.transform(hard).toarray(), expected[:, nonempty])


@given(st.floats(width=64, allow_nan=False, min_value=-1e30, max_value=1e30), st.booleans(), st.integers(-3, 3))
@settings(max_examples=200, deadline=None)
def test_thresholds_move_to_where_single_precision_changes_its_mind(t: float, strict: bool, steps: int) -> None:
    if strict:
        t = float(np.float32(t))
    moved = float(single_precision(t, strict=strict)[0])
    for x in (t, moved, float(np.float32(t)), float(np.nextafter(np.float32(t), np.float32(math.inf)))):
        for _ in range(abs(steps)):
            x = math.nextafter(x, math.inf if steps > 0 else -math.inf)
        single = float(np.float32(x))
        assert (x <= moved) == (single < t if strict else single <= t)


def leaf_sum(model: Any, X: np.ndarray, at: np.ndarray) -> np.ndarray:
    rules = extract_rules(model, X, nodes="leaves", constant="keep", columns="value")
    return rules.transform(at).sum(axis=1)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_histogram_gradient_boosting(missing: float) -> None:
    X, y = data(300, missing=missing)
    model = HistGradientBoostingRegressor(max_iter=8, max_depth=3, min_samples_leaf=5).fit(X, y)
    hard = near_thresholds(read_trees(model), X, np.random.default_rng(1))
    assert leaf_sum(model, X, hard) + float(np.ravel(model._baseline_prediction)[0]) == pytest.approx(
        model.predict(hard), abs=1e-9
    )


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_forests_with_missing_values(missing: float) -> None:
    X, y = data(150, missing=missing)
    model = RandomForestRegressor(8, max_depth=3, random_state=0).fit(X, y)
    assert leaf_sum(model, X, X) / 8 == pytest.approx(model.predict(X), abs=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_xgboost(missing: float) -> None:
    xgboost = pytest.importorskip("xgboost", reason="XGBoost is optional and not installed")
    X, y = data(200, missing=missing)
    model = xgboost.XGBRegressor(n_estimators=7, max_depth=3, base_score=0.0).fit(X, y)
    hard = near_thresholds(read_trees(model), X, np.random.default_rng(1))
    assert leaf_sum(model, X, hard) == pytest.approx(model.predict(hard), abs=1e-5)
    assert len(read_trees(model.get_booster())) == 7


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_lightgbm(missing: float) -> None:
    lightgbm = pytest.importorskip("lightgbm", reason="LightGBM is optional and not installed")
    X, y = data(200, missing=missing)
    model = lightgbm.LGBMRegressor(n_estimators=7, max_depth=3, min_child_samples=5, verbose=-1).fit(X, y)
    hard = near_thresholds(read_trees(model), X, np.random.default_rng(1))
    assert leaf_sum(model, X, hard) == pytest.approx(model.predict(hard), abs=1e-9)


def test_bagged_trees_see_features_of_their_own() -> None:
    X, y = data()
    model = BaggingRegressor(DecisionTreeRegressor(max_depth=3), 9, max_features=0.5, random_state=0).fit(X, y)
    assert leaf_sum(model, X, X) / 9 == pytest.approx(model.predict(X), abs=1e-12)


def test_parents_are_nearest_ancestors_and_survive_selection() -> None:
    X, y = data()
    model = RandomForestRegressor(6, max_depth=4, random_state=0).fit(X, y)
    rules = extract_rules(model, X)
    for chosen in (rules, rules.take(np.arange(0, len(rules), 3)), rules.take(np.arange(len(rules))[::-2])):
        paths = [rule.path for rule in chosen.rules]
        for j, path in enumerate(paths):
            above = [
                i
                for i, other in enumerate(paths)
                if chosen.tree[i] == chosen.tree[j] and len(other) < len(path) and path[: len(other)] == other
            ]
            nearest = max(above, key=lambda i: len(paths[i]), default=-1)
            assert chosen.parent[j] == nearest


def test_merging_equal_columns_and_equal_rules() -> None:
    X, y = data(60)
    rules = extract_rules(RandomForestRegressor(20, max_depth=2, random_state=0).fit(X, y), X)
    merged = rules.unique()
    dense = rules.matrix.toarray()
    assert len(merged) == len(np.unique(dense, axis=1).T) < len(rules)
    assert merged.count.sum() == len(rules) and merged.parent is None
    assert np.array_equal(merged.frequency, merged.count / 20)
    both = rules.unique(complements=True)
    assert len(both) == len(np.unique(np.where(dense[:1] == 1, 1 - dense, dense), axis=1).T)
    named = rules.unique(by="rule")
    assert len(named) == len({rule.key for rule in rules.rules}) and named.count.sum() == len(rules)
    first = [next(i for i, r in enumerate(rules.rules) if r.key == rule.key) for rule in named.rules]
    assert first == sorted(first) and np.array_equal(named.value, rules.value[first])


def test_constant_rules_become_one_column() -> None:
    """Roots of all trees hold everywhere: dropped, merged into one column, or kept in their trees."""
    X, y = data()
    model = RandomForestRegressor(5, max_depth=2, random_state=0).fit(X, y)
    kept, merged, dropped = (extract_rules(model, X, constant=name) for name in ("keep", "merge", "drop"))
    assert (kept.support == len(X)).sum() == 5 and (kept.parent == -1).sum() == 5
    assert (merged.support == len(X)).sum() == 1 and merged.tree[-1] == -1 and merged.count[-1] == 5
    assert merged.rules[-1].text() == "TRUE" and merged.parent[-1] == -1
    assert (dropped.support < len(X)).all() and len(dropped) == len(merged) - 1 == len(kept) - 5


def test_redundant_conditions_are_merged() -> None:
    path = (
        Condition(0, "<=", 3.0, True),
        Condition(0, ">", 1.0, True),
        Condition(0, "<=", 2.0, False),
        Condition(1, ">", 0.5, True),
    )
    rule = Rule(path)
    assert rule.conditions == (Condition(0, ">", 1.0), Condition(0, "<=", 2.0), Condition(1, ">", 0.5, True))
    assert len(rule.key) == 4 and rule.depth == 4 and rule.features == (0, 1)
    rng = np.random.default_rng(0)
    X = rng.choice([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, math.nan], size=(200, 2))
    expected = np.ones(200, dtype=bool)
    for condition in path:
        expected &= condition.holds(X[:, condition.feature])
    assert np.array_equal(rule.holds(X), expected)
    assert rule.text(["age", "bmi"], digits=2) == "age > 1 and age <= 2 and (bmi > 0.5 or missing)"


def test_quantile_bins_use_training_edges_and_rules_return_in_units_of_the_feature() -> None:
    X, y = data(200)
    X[:, 3] = (X[:, 3] > 0).astype(float)
    train, test = X[:150], X[150:] * 1.7
    binner = QuantileBinner().fit(train)
    assert binner.edges_[3] is None and len(binner.edges_[1]) == 9
    codes = binner.transform(train)
    counts = np.bincount(codes[:, 1].astype(int))
    assert len(counts) == 10 and counts.min() >= 14 and counts.max() <= 16
    model = RandomForestRegressor(20, max_depth=3, random_state=0).fit(codes, y[:150])
    rules = extract_rules(model, train, binner=binner, constant="keep")
    for part in (train, test):
        paths = np.hstack(
            [tree.decision_path(binner.transform(part).astype(np.float32)).toarray() for tree in model.estimators_]
        )
        assert np.array_equal(rules.transform(part).toarray(), paths)
    thresholds = {c.threshold for rule in rules.rules for c in rule.path if c.feature == 1}
    assert thresholds <= set(binner.edges_[1].tolist())


def test_names_of_features() -> None:
    import pandas as pd

    X, y = data()
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = DecisionTreeRegressor(max_depth=2).fit(frame, y)
    assert extract_rules(model, frame).feature_names == extract_rules(model, X).feature_names == tuple("abcd")
    with pytest.raises(mp.InvalidProblem, match="names"):
        extract_rules(model, X, feature_names=["a"])


def test_classifiers_give_the_share_of_the_second_class() -> None:
    X, y = data()
    labels = y > np.median(y)
    forest = RandomForestClassifier(5, max_depth=3, random_state=0).fit(X, labels)
    assert leaf_sum(forest, X, X) / 5 == pytest.approx(forest.predict_proba(X)[:, 1], abs=1e-12)
    boosted = GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=0).fit(X, labels)
    assert extract_rules(boosted, X).trees == 4
    several = RandomForestClassifier(3, max_depth=2).fit(X, np.digitize(y, [0, 1]))
    assert extract_rules(several, X).trees == 3
    with pytest.raises(mp.InvalidProblem, match="more than two classes"):
        extract_rules(several, X, columns="value")


def test_what_cannot_be_read_says_why() -> None:
    X, y = data()
    with pytest.raises(mp.InvalidProblem, match="not fitted"):
        extract_rules(RandomForestRegressor(), X)
    with pytest.raises(mp.Unsupported, match="no ensemble of trees"):
        extract_rules(LinearRegression().fit(X, y), X)
    model = DecisionTreeRegressor(max_depth=2).fit(X, y)
    for wrong in (X[:, :1], X[0], X[:0]):
        with pytest.raises(mp.InvalidProblem):
            extract_rules(model, wrong)
    for option in ("nodes", "columns", "constant"):
        with pytest.raises(mp.InvalidProblem, match=option):
            extract_rules(model, X, **{option: "all of them"})
    rules = extract_rules(model, X)
    with pytest.raises(mp.InvalidProblem, match="twice"):
        rules.take([0, 0])
    with pytest.raises(mp.InvalidProblem, match="charge"):
        rules.charge("price")
    assert rules.charge("depth").tolist() == (rules.depth + 1).tolist()
    stump = DecisionTreeRegressor(max_depth=2).fit(X, np.zeros(len(X)))
    assert len(extract_rules(stump, X)) == 0 and extract_rules(stump, X).dense().shape == (len(X), 0)
