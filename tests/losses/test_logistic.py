"""The logistic loss: conformance, bounds at any point, sample weights, agreement with scikit-learn and cvxpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mipprune as mp
from mipprune import Logistic
from mipprune.formulations import rule_selection


def sample(n: int, p: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    return torch.from_numpy(X), torch.from_numpy((X[:, 0] + rng.normal(size=n) > 0).astype(float))


@pytest.mark.parametrize("case", ["plain", "weighted", "wide", "0/1 columns"])
def test_conformance(case: str) -> None:
    X, y = sample(12, 4, 0)
    if case == "wide":
        X, y = sample(5, 9, 1)
    if case == "0/1 columns":
        X = (X > 0).double()
    weights = torch.arange(12.0) if case == "weighted" else None
    offset = torch.linspace(-1, 1, 12) if case == "weighted" else None
    mp.testing.check_loss(
        Logistic(X, y, ridge=torch.linspace(0.1, 1.0, X.shape[1]), weights=weights, offset=offset), trials=8
    )


@given(st.integers(0, 10_000), st.floats(-4, 4), st.floats(-6, 2))
@settings(max_examples=20, deadline=None)
def test_no_bound_is_above_the_optimum(seed: int, reach: float, ridge: float) -> None:
    """Points of tangency anywhere, also where probabilities are 0 and 1 in float64."""
    rng = np.random.default_rng(seed)
    X = torch.from_numpy((rng.random((10, 6)) < 0.5) * 10.0 ** float(rng.integers(-2, 3)))
    y = torch.from_numpy((rng.random(10) < 0.5).astype(float))
    loss = Logistic(X, y, ridge=10.0**ridge, weights=torch.from_numpy(rng.random(10)))
    problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(2), price=float(rng.choice([0.0, 0.1]))))
    optimum, _ = mp.testing.enumerate_optimum(problem)
    for _ in range(5):
        bound = problem.bound(torch.from_numpy(rng.normal(size=6) * 10.0**reach))
        assert bound <= optimum
    solution = mp.certify(problem, iterations=50, strength=1.0)
    assert solution.bound <= optimum + problem.rounding(solution.point)
    mp.check(problem, solution)


def test_the_refit_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    X, y = sample(80, 5, 2)
    weights = torch.from_numpy(np.random.default_rng(0).random(80))
    loss = Logistic(X, y, ridge=0.5, weights=weights)
    ours = loss.minimise_on(torch.ones(5, dtype=torch.bool))
    theirs = LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(X, y, sample_weight=weights)
    assert ours.tolist() == pytest.approx(theirs.coef_[0].tolist(), abs=1e-6)


def test_selection_by_its_gradient_in_the_mask() -> None:
    """dc/dz_j = -(gamma/2) (m_j' g)^2 with the pull g of the refit: the same formula as for least squares."""
    rng = np.random.default_rng(0)
    M = torch.from_numpy((rng.random((30, 5)) < 0.5).astype(float))
    y, gamma = torch.from_numpy((rng.random(30) < 0.4).astype(float)), 0.8

    def value(z: Tensor) -> tuple[float, Tensor]:
        loss = Logistic(M * z.sqrt(), y, ridge=1 / gamma)
        b = loss.minimise_on(torch.ones(5, dtype=torch.bool))
        pull = -loss.labels * torch.sigmoid(-loss.labels * ((M * z.sqrt()) @ b))
        return loss.value(b), -0.5 * gamma * (M.T @ pull).square()

    z = torch.from_numpy(rng.random(5))
    _, gradient = value(z)
    for j in range(5):
        step = torch.zeros(5, dtype=torch.float64).index_fill(0, torch.tensor([j]), 1e-5)
        slope = (value(z + step)[0] - value(z - step)[0]) / 2e-5
        assert slope == pytest.approx(float(gradient[j]), rel=1e-5)


def test_rule_selection_for_two_classes() -> None:
    rng = np.random.default_rng(1)
    M = (rng.random((40, 8)) < 0.5).astype(float)
    y = (M[:, 2] + M[:, 5] + 0.3 * rng.normal(size=40) > 1).astype(float)
    problem = rule_selection(M, y, gamma=1.0, count=2, loss="logistic")
    mp.testing.check_problem(problem, trials=3)
    optimum, mask = mp.testing.enumerate_optimum(problem)
    assert mask is not None and optimum < problem.loss.scale
    found = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(seconds=20))
    assert found.value == pytest.approx(optimum, rel=1e-6)
    mp.check(problem, found)
    weights = np.repeat([1.0, 2.0], 20)
    weighted = rule_selection(M, y, gamma=1.0, count=2, loss="logistic", sample_weight=weights)
    repeated = rule_selection(
        np.repeat(M, weights.astype(int), axis=0), np.repeat(y, weights.astype(int)), loss="logistic", gamma=1.0
    )
    w = torch.from_numpy(rng.normal(size=8))
    assert weighted.value(w) == pytest.approx(repeated.value(w), rel=1e-12)


def test_wrong_data_say_why() -> None:
    X, y = sample(5, 2, 0)
    for arguments, message in (
        ({"labels": torch.arange(5.0)}, "labels"),
        ({"ridge": -1.0}, ">= 0"),
        ({"ridge": torch.ones(3)}, "ridge has shape"),
        ({"weights": -torch.ones(5)}, ">= 0"),
        ({"offset": torch.ones(2)}, "offset has shape"),
    ):
        with pytest.raises(mp.InvalidProblem, match=message):
            Logistic(**{"design": X, "labels": y, **arguments})
    with pytest.raises(mp.CertificateError, match="exceeds the ridge"):
        Logistic(X, y, ridge=1.0).minorant(torch.zeros(2), torch.full((2,), 2.0))
    with pytest.raises(mp.InvalidProblem, match="loss"):
        rule_selection(X, y, loss="hinge")
