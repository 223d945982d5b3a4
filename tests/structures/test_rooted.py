"""Rooted: conformance, the recursion against enumeration, and pruning the layers of a forest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor

import mipprune as mp
from mipprune.formulations import layer_pruning
from mipprune.solvers import LayerDescent
from mipprune.structures import Rooted


@pytest.mark.parametrize("parents", [[-1, 0, 1, -1, 3, 4], [-1, 0, 0, 1, 1, 2, 2], [3, 3, 3, -1, -1]])
def test_conformance(parents: list[int]) -> None:
    mp.testing.check_supports(Rooted(torch.tensor(parents)), shape=(len(parents),), trials=3)


def data(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4))
    return X, X[:, 0] * (X[:, 1] > 0) + 0.3 * rng.normal(size=n)


@pytest.mark.parametrize("kind", [RandomForestRegressor, GradientBoostingRegressor])
def test_all_layers_together_are_the_ensemble(kind: type) -> None:
    X, y = data()
    model = kind(n_estimators=6, max_depth=3, random_state=0).fit(X, y)
    problem = layer_pruning(model, X, y)
    whole = torch.ones(problem.shape, dtype=torch.float64)
    assert problem.violation(whole) == 0
    assert problem.value(whole) == pytest.approx(0.5 * float(((y - model.predict(X)) ** 2).sum()), rel=1e-9)


def test_descent_and_tree_agree_on_small_forests() -> None:
    X, y = data()
    forest = RandomForestRegressor(3, max_depth=3, random_state=0).fit(X, y)
    for price in (0.1, 2.0):
        problem = layer_pruning(forest, X, y, price=price)
        assert problem.size <= 12
        mp.testing.check_problem(problem, trials=2)
        optimum, _ = mp.testing.enumerate_optimum(problem)
        found = LayerDescent(restarts=5).solve(problem)
        assert found.value >= optimum * (1 - 1e-12) and found.value <= optimum * 1.02
        proven = mp.solve(problem, mp.BranchAndBound(), start=found.point)
        assert proven.value == pytest.approx(optimum, rel=1e-9) and proven.status is mp.Status.OPTIMAL
        mp.check(problem, proven)


def test_prices_prune_layers_of_a_large_forest() -> None:
    X, y = data(200)
    forest = RandomForestRegressor(60, max_depth=5, random_state=0).fit(X, y)
    kept = []
    for price in (0.0, 0.02, 0.1):
        problem = layer_pruning(forest, X, y, price=price)
        found = LayerDescent().solve(problem)
        assert found.value <= problem.value(torch.ones(problem.shape, dtype=torch.float64))
        kept.append(int(found.mask.sum()))
    assert kept[0] > kept[1] > kept[2] > 0
    mp.testing.check_solver(
        LayerDescent(), layer_pruning(RandomForestRegressor(4, max_depth=2).fit(X, y), X, y, price=0.2)
    )
    with pytest.raises(mp.Unsupported, match="chains"):
        LayerDescent().solve(mp.Problem(problem.loss, mp.Masks(mp.Cardinality(3))))
