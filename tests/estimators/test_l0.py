"""Sparse regression and graphical models with scikit-learn's conventions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, clone
from sklearn.utils.estimator_checks import check_estimator

import mipprune as mp
from mipprune.errors import InvalidProblem
from mipprune.estimators import L0GraphicalModel, L0Regressor, L0RegressorCV
from mipprune.losses.designs import SparseDesign


@pytest.mark.parametrize(
    "estimator",
    [L0Regressor(), L0RegressorCV(n_prices=3, criterion="bic"), L0GraphicalModel(time_limit=5.0)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_conventions_of_scikit_learn_hold(estimator: BaseEstimator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of checks that scikit-learn skips
        results = check_estimator(estimator, on_fail=None)
    failed = [(result["check_name"], result["exception"]) for result in results if result["status"] == "failed"]
    assert len(results) > 30 and failed == []


def _regression(n: int = 120, p: int = 12) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((n, p)) * rng.uniform(0.5, 20, p) + 7
    return X, 2 * X[:, 2] - X[:, 9] + 5 + rng.standard_normal(n)


def test_sparse_data_give_the_model_of_dense_ones() -> None:
    X, y = _regression()
    X = np.where(X > 8, X, 0.0)
    for make in (lambda: L0Regressor(k=2), lambda: L0RegressorCV(n_prices=3, criterion="cv", cv=3)):
        usual, sparse = make().fit(X, y), make().fit(csr_array(X), y)
        assert isinstance(sparse.problem_.loss.design, SparseDesign)
        assert np.allclose(usual.coef_, sparse.coef_) and np.allclose(usual.predict(X), sparse.predict(csr_array(X)))


def test_a_regressor_finds_the_columns_and_proves_them() -> None:
    X, y = _regression()
    for model in (L0Regressor(k=2), L0Regressor(l0=0.01)):
        model.fit(X, y)
        assert model.selected_.tolist() == [2, 9]
        assert model.gap_ <= 1e-3 and model.score(X, y) > 0.9
        mp.check(model.problem_, model.solution_)
    assert model.intercept_ == pytest.approx(5, abs=1.5)


def test_a_heuristic_may_stand_in_and_proves_nothing() -> None:
    X, y = _regression()
    model = L0Regressor(k=2, solver=mp.ProjectedGradient()).fit(X, y)
    assert model.gap_ is None and len(model.selected_) <= 2


@pytest.mark.parametrize("criterion", ["cv", "bic", "ebic"])
def test_the_price_is_chosen_from_the_data(criterion: str) -> None:
    X, y = _regression()
    model = L0RegressorCV(criterion=criterion, n_prices=8, cv=3).fit(X, y)
    assert {2, 9} <= set(model.selected_.tolist()) and len(model.selected_) <= 4
    assert model.l0_ == model.prices_[np.argmin(model.scores_)]
    assert model.path_.shape == (8, 12) and (np.diff(model.prices_) < 0).all()
    assert model.counts_[0] <= 1 and model.gap_ <= 1e-3


def test_the_path_is_drawn() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    X, y = _regression()
    axes = L0RegressorCV(criterion="bic", n_prices=5).fit(X, y).plot_path()
    assert axes.get_xscale() == "log" and len(axes.lines) >= 3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (L0Regressor(k=0), "k is 0"),
        (L0Regressor(k=1.5), "k is 1.5"),
        (L0Regressor(l0=-1.0), "negative"),
        (L0RegressorCV(criterion="best"), "choose cv"),
        (L0RegressorCV(smallest=2.0), "inside"),
        (L0GraphicalModel(l0=-1.0), "negative"),
    ],
)
def test_bad_parameters_are_named(model: Any, message: str) -> None:
    X, y = _regression()
    with pytest.raises(InvalidProblem, match=message):
        model.fit(X, y)


def _graph(n: int = 400) -> np.ndarray[Any, Any]:
    X = np.random.default_rng(0).standard_normal((n, 6))
    X[:, 1] += X[:, 0]
    X[:, 5] -= X[:, 3]
    return X * [1, 10, 0.1, 3, 5, 1] + 4


def test_a_graphical_model_finds_the_edges_in_the_units_of_the_data() -> None:
    X = _graph()
    model = L0GraphicalModel(l0=0.1).fit(X)
    assert model.edges_.tolist() == [[0, 1], [3, 5]]
    assert model.refitted_ and model.smallest_eigenvalue_ > 0 and model.gap_in_edges_ <= 1e-2
    mp.check(model.problem_, model.solution_)
    # A likelihood refit reproduces variances and the covariances of edges.
    sample = np.cov(X.T, bias=True)
    assert np.allclose(np.diag(model.covariance_), np.diag(sample))
    assert model.covariance_[0, 1] == pytest.approx(sample[0, 1])
    dense = clone(model).set_params(l0=0.0).fit(X)
    assert dense.score(X) >= model.score(X) > clone(model).set_params(l0=10.0).fit(X).score(X)


def test_the_graph_has_names_and_partial_correlations() -> None:
    pandas = pytest.importorskip("pandas")
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model = L0GraphicalModel(l0=0.1).fit(pandas.DataFrame(_graph(), columns=list("abcdef")))
    graph = model.to_networkx()
    assert sorted(graph.edges) == [("a", "b"), ("d", "f")]
    assert graph.edges["a", "b"]["weight"] == pytest.approx(0.7, abs=0.1)
    assert graph.edges["d", "f"]["weight"] < 0
    assert model.plot() is not None


def test_without_a_refit_the_pseudo_likelihood_estimate_stays() -> None:
    model = L0GraphicalModel(l0=0.1, refit=False).fit(_graph())
    assert not model.refitted_ and model.precision_[0, 1] != 0
