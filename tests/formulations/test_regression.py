"""Sparse regression: the objective is the one stated, scaling comes back, wrong data get an answer in words."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import mipprune as mp
from mipprune.errors import InvalidProblem
from mipprune.formulations import RegressionData, sparse_regression
from mipprune.losses.designs import SparseDesign


def _data(n: int = 30, p: int = 6, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) * rng.uniform(0.1, 10, p) + rng.uniform(-5, 5, p)
    return X, X[:, 1] - 2 * X[:, 4] + 3 + 0.3 * rng.standard_normal(n)


def test_the_objective_is_as_stated_without_one_half_on_the_ridge() -> None:
    X, y = _data()
    problem = sparse_regression(X, y, l0=0.3, l2=0.2, fit_intercept=False, standardize=False)
    b = torch.tensor([0.0, 1.5, 0.0, 0.0, -2.0, 0.1], dtype=torch.float64)
    expected = 0.5 * np.sum((y - X @ b.numpy()) ** 2) + 0.3 * 3 + 0.2 * float(b @ b)
    assert problem.value(b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", [{"l0": 0.01, "l2": 0.01}, {"k": 2, "l2": 0.01}, {"k": 3, "l2": 0.0}])
def test_the_tree_finds_the_best_of_all_supports(seed: int, form: dict[str, Any]) -> None:
    X, y = _data(seed=seed)
    data = RegressionData.of(X, y)
    problem = data.problem(**form)
    A, t = data.design.numpy(), data.response.numpy()
    best = np.inf
    for size in range(form.get("k", 6) + 1):
        for columns in map(list, combinations(range(6), size)):
            part = A[:, columns]
            b = np.linalg.solve(part.T @ part + 2 * form["l2"] * np.eye(size), part.T @ t) if size else np.zeros(0)
            value = 0.5 * np.sum((t - part @ b) ** 2) + form.get("l0", 0.0) * size + form["l2"] * b @ b
            best = min(best, value)
    solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-8))
    assert solution.value == pytest.approx(best, rel=1e-8)
    assert solution.bound is not None and solution.bound <= best * (1 + 1e-12)
    mp.check(problem, solution)


def test_coefficients_come_back_in_the_units_of_the_data() -> None:
    X, y = _data()
    data = RegressionData.of(X, y)
    solution = mp.solve(data.problem(k=6, l2=0.0), mp.BranchAndBound())
    assert solution.point is not None
    coefficients, intercept = data.restore(solution.point)
    design = np.column_stack([X, np.ones(len(X))])
    expected = np.linalg.lstsq(design, y, rcond=None)[0]
    assert np.allclose(coefficients.numpy(), expected[:-1]) and intercept == pytest.approx(expected[-1])


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("standardize", [True, False])
def test_predictions_do_not_depend_on_how_data_are_stored(fit_intercept: bool, standardize: bool) -> None:
    X, y = _data()
    data = RegressionData.of(X, y, fit_intercept=fit_intercept, standardize=standardize)
    point = torch.linspace(-1, 1, 6, dtype=torch.float64)
    coefficients, intercept = data.restore(point)
    inside = data.design @ point * data.response_scale + data.response_center
    assert np.allclose(X @ coefficients.numpy() + intercept, inside.numpy())
    if standardize:
        assert torch.allclose(data.design.norm(dim=0), torch.ones(6, dtype=torch.float64))
        assert float(data.response.norm()) == pytest.approx(1.0)


def test_a_constant_column_is_never_chosen() -> None:
    X, y = _data()
    for constant in (0.0, 1e8, 1.0 / 3.0):
        X[:, 2] = constant
        data = RegressionData.of(X, y)
        assert not data.design[:, 2].any() and data.scale[2] == 1
        solution = mp.solve(data.problem(l0=1e-6, l2=1e-3))
        assert solution.mask is not None and not solution.mask[2]


def test_float32_and_scipy_sparse_data_are_taken() -> None:
    X, y = _data()
    narrow = RegressionData.of(X.astype(np.float32), y)
    assert narrow.design.dtype == torch.float32
    X[np.abs(X) < 2] = 0.0
    dense, sparse = sparse_regression(X, y, k=2, l2=0.1), sparse_regression(sp.csr_array(X), y, k=2, l2=0.1)
    b = torch.linspace(-1, 1, 6, dtype=torch.float64)
    assert sparse.value(b) == pytest.approx(dense.value(b), rel=1e-13)
    assert isinstance(sparse.loss, mp.LeastSquares) and isinstance(sparse.loss.design, SparseDesign)


def test_boxes_and_prices_per_column() -> None:
    X, y = _data()
    box = np.full(6, 0.2)
    problem = sparse_regression(X, y, l0=np.linspace(0.001, 0.002, 6), l2=np.full(6, 0.01), box=box)
    solution = mp.solve(problem, mp.BranchAndBound())
    assert solution.point is not None and float(solution.point.abs().max()) <= 0.2
    mp.check(problem, solution)
    one_sided = sparse_regression(X, y, k=3, l2=0.01, box=(0.0, 5.0))
    answer = mp.solve(one_sided, mp.BranchAndBound())
    assert answer.point is not None and float(answer.point.min()) >= 0


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({}, "either a price l0"),
        ({"l0": 0.1, "k": 2}, "either a price l0"),
        ({"l0": -1.0}, "negative"),
        ({"l0": 0.1, "l2": float("nan")}, "l2 has negative, infinite or missing"),
        ({"l0": np.ones(3), "l2": 0.1}, "one per column"),
        ({"k": 2, "l2": 0.1, "box": (1.0, 2.0)}, "must be <= 0"),
        ({"k": 2, "l2": 0.1, "box": 0.0}, "must be above"),
        ({"k": 2, "l2": 0.1, "box": (0.0, 1.0, 2.0)}, "3 parts"),
    ],
)
def test_mistakes_are_named(form: dict[str, Any], message: str) -> None:
    X, y = _data()
    with pytest.raises(InvalidProblem, match=message):
        sparse_regression(X, y, **form)


def test_bad_data_are_named() -> None:
    X, y = _data()
    for bad, message in ((X[:0], "at least one sample"), (X[:, :0], "at least one"), (X * np.nan, "NaN|finite")):
        with pytest.raises(InvalidProblem, match=message):
            sparse_regression(bad, y[: len(bad)], k=1)
    with pytest.raises(InvalidProblem, match="shape"):
        sparse_regression(X, y[:-1], k=1)
    wide = np.random.default_rng(0).standard_normal((4, 9))
    with pytest.raises(InvalidProblem, match="nothing bounds"):
        sparse_regression(wide, np.arange(4.0), l0=0.1)
