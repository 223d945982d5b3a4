"""Graphical models as problems: their readings agree, invariances hold, bad data are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune.formulations import covariance_of, graphical_model, likelihood_refit
from mipprune.kernels.pairs import nodes_of, pair_index, pattern_of, split_pairs
from mipprune.testing import check_problem
from tests.graphs import uniform_model

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "problem",
    [
        graphical_model(uniform_model(4, 40)[0], l0=0.05, l2=0.05),
        graphical_model(RNG.standard_normal((3, 4)), l0=0.05, l2=0.05, box=0.7),  # fewer samples than variables
        graphical_model(uniform_model(4, 40)[0], l0=np.linspace(0.01, 0.1, 6), l2=np.linspace(0.0, 0.1, 6), box=0.5),
    ],
    ids=["ridge", "box, singular", "by pair"],
)
def test_all_readings_agree(problem: mp.Problem) -> None:
    check_problem(problem, trials=3)


def test_the_objective_is_the_published_one() -> None:
    samples, _ = uniform_model(5, 50)
    problem = graphical_model(samples, l0=0.05, l2=0.1, standardize=False)
    w = torch.zeros(10, dtype=torch.float64)
    w[0], w[4], w[9] = -0.2, 0.1, 0.3
    theta = problem.loss.precision(w).numpy()
    scaled = (samples - samples.mean(axis=0)) / math.sqrt(len(samples))
    rows = [-math.log(theta[i, i]) + np.sum((scaled @ theta[:, i]) ** 2) / theta[i, i] for i in range(5)]
    assert problem.value(w) == pytest.approx(sum(rows) + 3 * 0.05 + 0.1 * float((w**2).sum()), abs=1e-12)
    for i in range(5):  # the diagonal is the best one
        for factor in (0.99, 1.01):
            other = theta.copy()
            other[i, i] *= factor
            assert -math.log(other[i, i]) + np.sum((scaled @ other[:, i]) ** 2) / other[i, i] > rows[i]
    empty = problem.value(torch.zeros(10))
    assert empty == pytest.approx(5 + np.log((scaled**2).sum(axis=0)).sum(), abs=1e-12)


def test_units_and_order_do_not_matter() -> None:
    samples, _ = uniform_model(6, 60)
    units, order = np.array([1.0, 10.0, 0.1, 3.0, 1.0, 0.5]), np.array([3, 0, 5, 1, 4, 2])
    budget = mp.Budget(gap=0.0, absolute_gap=1e-7)
    base = mp.solve(graphical_model(samples, l0=0.05, l2=0.05), mp.BranchAndBound(), budget=budget)
    scaled = mp.solve(graphical_model(samples * units, l0=0.05, l2=0.05), mp.BranchAndBound(), budget=budget)
    turned = mp.solve(graphical_model(samples[:, order], l0=0.05, l2=0.05), mp.BranchAndBound(), budget=budget)
    assert scaled.value == pytest.approx(base.value, abs=2e-7)
    assert turned.value == pytest.approx(base.value, abs=2e-7)
    i, j = np.triu_indices(6, 1)
    product = units[i] * units[j]  # with ridge and box in other units, and no scaling, only a constant changes
    raw = graphical_model(samples, l0=0.05, l2=0.05, box=0.6, standardize=False)
    moved = graphical_model(samples * units, l0=0.05, l2=0.05 * product**2, box=0.6 / product, standardize=False)
    values = [mp.solve(problem, mp.BranchAndBound(), budget=budget).value for problem in (raw, moved)]
    assert values[1] - values[0] == pytest.approx(2 * np.log(units).sum(), abs=1e-6)


def test_the_empty_graph_is_certified_where_it_must_be() -> None:
    covariance, _ = covariance_of(uniform_model(6, 60)[0])
    largest = float((covariance - torch.diag(covariance.diagonal())).abs().max())
    problem = graphical_model(covariance, l0=1.01 * 4 * largest**2 / 0.05, l2=0.05, covariance=True)
    solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-9))
    assert not solution.mask.any()
    assert solution.stats.nodes <= 2
    assert solution.status is mp.Status.OPTIMAL


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": np.full((10, 3), 1.0)}, "constant"),
        ({"data": [[1.0, 2.0]]}, "at least two"),
        ({"data": [[1.0, float("nan")], [0.0, 1.0]]}, "NaN"),
        ({"data": np.eye(3), "l0": -1.0}, "l0 has negative"),
        ({"data": np.eye(3), "l2": 0.0}, "l2 > 0"),
        ({"data": np.eye(3), "l2": [0.1, 0.1]}, "l2 has shape"),
        ({"data": np.eye(3), "box": -1.0}, "box"),
        ({"data": [[1.0, 2.0], [2.0, 1.0]], "covariance": True}, "semidefinite"),
        ({"data": [[1.0, 0.2], [0.1, 1.0]], "covariance": True}, "symmetric"),
        ({"data": [[0.0, 0.0], [0.0, 1.0]], "covariance": True}, "positive"),
    ],
)
def test_bad_data_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(mp.InvalidProblem, match=message):
        graphical_model(**{"l0": 0.1, "l2": 0.1, **arguments})


def test_a_singular_covariance_is_raised_a_little_and_said_so() -> None:
    samples = RNG.standard_normal((5, 20)).astype(np.float32)
    problem = graphical_model(samples, l0=0.1, l2=0.1)
    assert problem.loss.is_convex
    rise = problem.loss.covariance.diagonal() - 1.0
    assert 0 < float(rise.max()) < 1e-11
    solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(seconds=1, nodes=20))
    mp.check(problem, solution)


def test_the_refit_meets_the_conditions_of_the_maximiser() -> None:
    samples, theta = uniform_model(9, 60)
    covariance, _ = covariance_of(samples)
    graph = torch.tensor(theta != 0)
    precision = likelihood_refit(covariance, graph)
    inverse = torch.linalg.inv(precision)
    assert float((inverse - covariance)[graph].abs().max()) < 1e-8
    assert not precision[~graph].any()
    assert float(torch.linalg.eigvalsh(precision)[0]) > 0
    full = likelihood_refit(covariance, torch.ones(36, dtype=torch.bool))
    torch.testing.assert_close(full, torch.linalg.inv(covariance), atol=1e-7, rtol=1e-7)
    with pytest.raises(mp.SolverFailure, match="singular"):
        likelihood_refit(torch.ones(3, 3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(mp.InvalidProblem, match="graph"):
        likelihood_refit(covariance, torch.ones(4))


def test_pairs_are_numbered_as_torch_does() -> None:
    for p in (2, 3, 7):
        i, j = (part.numpy() for part in torch.triu_indices(p, p, 1))
        flat = np.arange(len(i))
        np.testing.assert_array_equal(np.stack(split_pairs(flat, p)), np.stack([i, j]))
        np.testing.assert_array_equal(pair_index(i, j, p), flat)
        assert nodes_of(len(i)) == p
        pattern = pattern_of(i[::2], j[::2], p)
        rows = np.repeat(np.arange(p), np.diff(pattern.indptr))
        np.testing.assert_array_equal(rows[pattern.twin], pattern.indices)
        np.testing.assert_array_equal(pattern.indices[pattern.twin], rows)
    assert nodes_of(5) is None


def test_data_handed_in_stay_as_they_are() -> None:
    data = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5.0
    before = data.clone()
    covariance_of(data)
    assert torch.equal(data, before)
