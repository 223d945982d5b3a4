"""Rule extractors: scikit-learn's conventions, what they choose and prove, paths, exports that compute the same."""

from __future__ import annotations

import math
import sqlite3
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import mipprune as mp
from mipprune.estimators import ParetoFrontier, RuleExtractorClassifier, RuleExtractorRegressor
from mipprune.rules import RuleModel, export_rules

SMALL: dict[str, Any] = {"n_rules": 4, "n_estimators": 8, "max_depth": 2, "bound": False, "random_state": 0}


NOT_EQUIVALENT = {
    "check_sample_weight_equivalence_on_dense_data": "a forest draws its samples at random, weighted or repeated",
}


@parametrize_with_checks(
    [RuleExtractorRegressor(**SMALL), RuleExtractorClassifier(**SMALL)],
    expected_failed_checks=lambda estimator: NOT_EQUIVALENT,
)
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def diabetes() -> tuple[pd.DataFrame, pd.Series]:
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    return X, y


def run_sql(query: str, frame: pd.DataFrame, table: str = "data") -> np.ndarray:
    database = sqlite3.connect(":memory:")
    names = ['"' + str(name).replace('"', '""') + '"' for name in frame.columns]
    database.execute(f'CREATE TABLE "{table}" ({", ".join(name + " REAL" for name in names)})')
    rows = [[None if math.isnan(v) else v for v in row] for row in frame.astype(float).to_numpy().tolist()]
    database.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(names))})', rows)
    return np.array([row[0] for row in database.execute(query)])


@pytest.mark.parametrize("antichain", [True, False])
def test_regression_is_certified_and_exports_agree(diabetes: tuple[pd.DataFrame, pd.Series], antichain: bool) -> None:
    X, y = diabetes
    model = RuleExtractorRegressor(n_rules=6, n_estimators=40, antichain=antichain, random_state=0).fit(
        X[:300], y[:300]
    )
    assert 1 <= len(model.rules_) <= 6 and model.score(X[300:], y[300:]) > 0.3
    assert model.lower_bound_ <= model.objective_ and model.gap_ < 0.05
    mp.check(model.problem_, model.solution_)
    if antichain:
        assert model.problem_.structure.supports.violation(model.solution_.mask) == 0
    predicted = model.predict(X)
    assert run_sql(model.export("sql", table="people"), X, "people") == pytest.approx(predicted, abs=1e-9)
    assert RuleModel.from_json(model.export("json"))(X) == pytest.approx(predicted, abs=1e-12)
    space: dict[str, Any] = {}
    exec(model.export("python"), space)
    rows = X.to_dict("records")
    assert [space["prediction"](row) for row in rows] == pytest.approx(predicted.tolist(), abs=1e-12)
    holds = model.rule_matrix(X)
    assert model.intercept_ + holds @ model.coef_ == pytest.approx(predicted, abs=1e-9)
    assert "bmi" in str(model) and "IF" in str(model)
    assert list(model.visualize().columns)[:2] == ["rule", "coef"] and model.complexity_ >= len(model.rules_)
    assert export_rules(model, "markdown").startswith("| effect")
    magnitude = np.abs(model.coef_)
    assert (np.diff(magnitude) <= 0).all()


def test_the_chosen_columns_are_those_of_the_solution(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    """Readable thresholds hold for the same training samples as the columns that were chosen and bounded."""
    X, y = diabetes
    model = RuleExtractorRegressor(n_rules=5, n_estimators=30, random_state=1, bound=False).fit(X, y)
    chosen = model.problem_.loss.design[:, model.solution_.mask].numpy()
    ours = model.rule_matrix(X)
    assert sorted(map(bytes, ours.T.astype(np.uint8))) == sorted(map(bytes, chosen.T.astype(np.uint8)))


def test_fitted_and_unfitted_ensembles(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = diabetes
    forest = RandomForestRegressor(20, max_depth=2, random_state=0).fit(X, y)
    before = forest.predict(X)
    model = RuleExtractorRegressor(forest, n_rules=3, bound=False).fit(X, y)
    assert model.ensemble_ is forest and np.array_equal(forest.predict(X), before)
    boosted = RuleExtractorRegressor(GradientBoostingRegressor(n_estimators=15, random_state=0), n_rules=3, bound=False)
    assert boosted.fit(X, y).ensemble_ is not boosted.ensemble and not hasattr(boosted.ensemble, "estimators_")
    with pytest.raises(mp.Unsupported, match="no ensemble"):
        RuleExtractorRegressor(LinearRegression(), bound=False).fit(X, y)


def test_missing_values_go_where_the_trees_send_them(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = diabetes
    X = X.mask(np.random.default_rng(0).random(X.shape) < 0.15)
    model = RuleExtractorRegressor(n_rules=8, n_estimators=30, random_state=0, bound=False).fit(X, y)
    assert any(c.missing for rule in model.rules_ for c in rule.conditions)
    assert run_sql(model.export("sql"), X) == pytest.approx(model.predict(X), abs=1e-9)
    complete = RuleExtractorRegressor(n_rules=8, n_estimators=30, random_state=0, bound=False).fit(X.fillna(0.0), y)
    assert run_sql(complete.export("sql"), X) == pytest.approx(complete.predict(X), abs=1e-9)


def test_weights_repeat_samples(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = diabetes[0].to_numpy()[:150], diabetes[1].to_numpy()[:150]
    weights = np.tile([0, 1, 3], 50)
    forest = RandomForestRegressor(15, max_depth=2, random_state=0).fit(X, y)
    index = np.repeat(np.arange(150), weights)
    one = RuleExtractorRegressor(forest, n_rules=3, bound=False).fit(X, y, sample_weight=weights)
    two = RuleExtractorRegressor(forest, n_rules=3, bound=False).fit(X[index], y[index])
    assert one.predict(X) == pytest.approx(two.predict(X), rel=1e-9)
    assert one.rule_model_.coverage == pytest.approx(two.rule_model_.coverage)


def test_the_tree_proves_the_choice(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = diabetes
    model = RuleExtractorRegressor(
        n_rules=3, n_estimators=5, antichain=False, solver="tree", time_limit=300.0, random_state=0
    ).fit(X, y)
    assert model.gap_ <= 1e-4 and model.solution_.status is mp.Status.OPTIMAL
    mp.check(model.problem_, model.solution_)


def test_depth_can_be_charged(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = diabetes
    forest = RandomForestRegressor(40, max_depth=4, random_state=0).fit(X, y)
    depths = []
    for weight in (0.0, 1.0, 3.0):
        model = RuleExtractorRegressor(forest, n_rules=8, depth_weight=weight, bound=False).fit(X, y)
        depths.append(sum(rule.depth for rule in model.rules_))
    assert depths[0] > depths[1] >= depths[2]


def test_classification(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    labels = np.where(y == 1, "benign", "malignant")
    model = RuleExtractorClassifier(n_rules=4, n_estimators=15, random_state=0).fit(X[:400], labels[:400])
    assert model.classes_.tolist() == ["benign", "malignant"] and model.score(X[400:], labels[400:]) > 0.9
    assert 0 <= model.gap_ < 0.2 and model.lower_bound_ <= model.objective_
    mp.check(model.problem_, model.solution_)
    assert run_sql(model.export("sql"), X) == pytest.approx(model.decision_function(X), abs=1e-9)
    probabilities = model.predict_proba(X)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(X)))
    assert np.array_equal(model.predict(X) == "malignant", probabilities[:, 1] > 0.5)
    forest = RandomForestClassifier(10, max_depth=2, random_state=0).fit(X, y)
    other = RuleExtractorClassifier(forest, n_rules=3, solver="swaps", antichain=False, bound=False).fit(X, y)
    assert other.score(X, y) > 0.9


def test_the_path_is_a_frontier(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = diabetes
    model = RuleExtractorRegressor(n_estimators=40, gamma=0.05, random_state=0)
    frontier = model.path(X, y, points=12, bound=True)
    frame = frontier.to_frame()
    assert len(frontier) == 12 and frame["rules"].iloc[0] <= 1 and frame["rules"].is_monotonic_increasing
    assert (frame["bound"] <= frame["objective"]).all() and frame["gap"].max() < 0.25
    for point, row in zip(frontier, frontier.rows, strict=True):
        error = float(((y - point(X)) ** 2).mean() / y.var(ddof=0))
        assert error == pytest.approx(row["error"], rel=1e-9) and len(point) == row["rules"]
    assert 0 < frontier.knee() < 11 and not frame["dominated"].iloc[frontier.knee()]
    with pytest.raises(mp.InvalidProblem, match="antichain"):
        RuleExtractorRegressor(antichain=False).path(X, y)


def test_frontiers_know_what_is_dominated() -> None:
    rows = tuple({"error": e, "stability": s} for e, s in ((1.0, 5.0), (0.5, 4.0), (0.5, 3.0), (0.4, 1.0), (0.6, 6.0)))
    frontier = ParetoFrontier(tuple(range(5)), rows, x="error", y="stability", larger=("stability",))
    assert frontier.dominated.tolist() == [True, False, True, False, False]
    assert list(frontier) == [0, 1, 2, 3, 4] and frontier[1] == 1
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is optional and not installed")
    matplotlib.use("Agg")
    axes = frontier.plot(label="x")
    assert axes.get_xlabel() == "error" and len(axes.lines) == 2
    with pytest.raises(mp.InvalidProblem, match="number"):
        ParetoFrontier((0,), ({"error": math.nan, "rules": 1},), x="error", y="rules")
    with pytest.raises(mp.InvalidProblem, match="no points"):
        ParetoFrontier((), (), x="a", y="b").knee()


def test_in_pipelines_and_searches(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = diabetes
    pipeline = make_pipeline(StandardScaler(), RuleExtractorRegressor(**SMALL))
    assert pipeline.fit(X, y).score(X, y) > 0.2
    search = GridSearchCV(RuleExtractorRegressor(**SMALL), {"n_rules": [1, 4]}, cv=2).fit(X, y)
    assert search.best_params_["n_rules"] == 4


def test_wrong_parameters_say_why(diabetes: tuple[pd.DataFrame, pd.Series]) -> None:
    X, y = diabetes
    for parameters, message in (
        ({"n_rules": 0}, "n_rules"),
        ({"n_rules": 2.5}, "n_rules"),
        ({"gamma": -1.0}, "gamma"),
        ({"debias": 0.0}, "debias"),
        ({"solver": "simplex"}, "solver"),
        ({"solver": mp.RuleSwaps}, "solver"),
        ({"depth_weight": -1.0}, "price"),
    ):
        with pytest.raises(mp.InvalidProblem, match=message):
            RuleExtractorRegressor(**{**SMALL, **parameters}).fit(X, y)
    constant = RuleExtractorRegressor(**SMALL).fit(X, np.full(len(y), 3.0))
    assert len(constant.rules_) == 0 and (constant.predict(X) == 3.0).all()
    assert "always" in str(constant) and run_sql(constant.export("sql"), X).tolist() == [3.0] * len(X)
