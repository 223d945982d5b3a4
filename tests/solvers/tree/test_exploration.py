import math

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune.bench.families.sparse_regression import correlated_regression
from mipprune.solvers.tree.exploration import Exploring
from mipprune.solvers.tree.regression import RegressionBound


def _problem(n, p, rho, seed, **structure):
    made = correlated_regression(n, p, 5, rho, 5, seed)
    given = structure or {"l0": made.l0, "box": made.box}
    return mp.formulations.sparse_regression(
        made.x, made.y, l2=made.l2, fit_intercept=False, standardize=False, **given
    )


def _root(strategy):
    node = strategy.root()
    return strategy.evaluate(node, math.inf, 1e-6, lambda: False)[-1]


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_goes_beyond_exchanges_of_single_columns(rho):
    problem = _problem(60, 120, rho, 0)
    strategy = RegressionBound.of(problem)
    assert isinstance(strategy, Exploring)
    ((value, point),) = strategy.improved_from((np.zeros(0, dtype=np.int64), np.zeros(0)))
    found = list(strategy.explored(point, _root(strategy), 2, 1, lambda: False))
    best, entries = min(found, key=lambda item: item[0])
    assert best < value - 1e-6
    dense = torch.zeros(120, dtype=torch.float64)
    dense[torch.from_numpy(entries[0])] = torch.from_numpy(entries[1])
    assert problem.violation(dense) == 0 and problem.value(dense) == pytest.approx(best, rel=1e-12)


def test_what_is_found_follows_from_the_arguments_alone():
    problem = _problem(60, 120, 0.9, 1)
    runs = []
    for _ in range(2):
        strategy = RegressionBound.of(problem)
        empty = (np.zeros(0, dtype=np.int64), np.zeros(0))
        runs.append(list(strategy.explored(empty, _root(strategy), 1, 7, lambda: False)))
    assert [value for value, _ in runs[0]] == [value for value, _ in runs[1]]
    assert not list(strategy.explored(empty, _root(strategy), 2, 7, lambda: True))


@pytest.mark.parametrize("structure", [{"k": 3}, {"k": 4, "box": 0.2}, {"l0": 1e-3, "box": 0.02}])
def test_limits_and_tight_boxes_hold(structure):
    problem = _problem(50, 80, 0.7, 2, **structure)
    strategy = RegressionBound.of(problem)
    empty = (np.zeros(0, dtype=np.int64), np.zeros(0))
    for value, (entries, values) in strategy.explored(empty, _root(strategy), 2, 1, lambda: False):
        dense = torch.zeros(80, dtype=torch.float64)
        dense[torch.from_numpy(entries)] = torch.from_numpy(values)
        assert problem.violation(dense) == 0 and problem.value(dense) == pytest.approx(value, rel=1e-12)


def test_wide_problems_explore_the_columns_that_matter():
    problem = _problem(80, 1700, 0.5, 0)
    strategy = RegressionBound.of(problem)
    assert strategy.wide
    ((value, point),) = strategy.improved_from((np.zeros(0, dtype=np.int64), np.zeros(0)))
    found = list(strategy.explored(point, _root(strategy), 1, 1, lambda: False))
    assert found and min(item[0] for item in found) <= value + 1e-12


def test_the_tree_proves_what_exploration_finds():
    problem = _problem(40, 16, 0.7, 3)
    solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-6, seconds=30))
    checked = mp.check(problem, solution)
    assert solution.status.value == "optimal" and checked.bound <= checked.value
