"""Paths over the price of a column: warm starts, bounds at each point, the rule for the next price, interrupts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import mipprune as mp
from mipprune.bench.families.sparse_regression import correlated_regression
from mipprune.formulations import graphical_model, sparse_regression
from mipprune.solvers import EdgeDescent, regularization_path
from mipprune.solvers.path import _entering
from mipprune.testing import enumerate_optimum


def problem(p: int = 12, seed: int = 3) -> mp.Problem:
    made = correlated_regression(40, p, 3, 0.5, 5.0, seed)
    return sparse_regression(made.x, made.y, l0=0.0, l2=0.02, box=1.0, fit_intercept=False, standardize=False)


def test_each_point_has_a_checked_bound_and_solved_ones_are_optimal() -> None:
    base = problem()
    quick = regularization_path(base, smallest=0.003)
    proven = regularization_path(base, [point.price for point in quick], budget=mp.Budget(gap=1e-9))
    assert len(quick) == len(proven) > 5
    assert not quick[0].solution.mask.any() and int(quick[-1].solution.mask.sum()) > 2
    for fast, slow in zip(quick, proven, strict=True):
        optimum = enumerate_optimum(slow.problem)[0]
        for point in (fast, slow):
            assert point.problem.structure.price_per_entry == point.price
            assert mp.check(point.problem, point.solution).bound <= optimum * (1 + 1e-9)
        assert slow.solution.value == pytest.approx(optimum, rel=1e-8)


def test_the_next_price_is_where_another_column_would_enter() -> None:
    """Just above it no column pays beside the point, the others at rest; just below it one does."""
    base = problem()
    for point in regularization_path(base, smallest=0.003)[::4]:
        at = point.solution.point.double()
        price, loss = _entering(base, at), base.loss
        decrease = []
        for j in (at == 0).nonzero().ravel().tolist():
            values = torch.linspace(-1.0, 1.0, 2001, dtype=torch.float64)
            moved = at.repeat(len(values), 1)
            moved[:, j] = values
            decrease.append(loss.value(at) - min(loss.value(row) for row in moved[::20]))
        assert price >= max(decrease) - 1e-12 and price <= max(decrease) * 1.05 + 1e-6
    prices = [point.price for point in regularization_path(base, ratio=0.8, smallest=0.1)]
    assert prices[0] == pytest.approx(_entering(base, torch.zeros(12, dtype=torch.float64)))
    assert all(b <= 0.8 * a for a, b in itertools.pairwise(prices)) and prices[-1] >= 0.1 * prices[0]


def test_the_path_ends_where_it_should() -> None:
    base = problem()
    assert int(regularization_path(base, most=2)[-1].solution.mask.sum()) >= 2
    assert all(int(point.solution.mask.sum()) < 2 for point in regularization_path(base, most=2)[:-1])
    assert [point.price for point in regularization_path(base, [0.01, 0.0])] == [0.01, 0.0]
    silent = sparse_regression(torch.eye(3), torch.zeros(3), l0=0.0, l2=0.1, fit_intercept=False, standardize=False)
    assert len(regularization_path(silent)) == 1

    class Impatient:
        name = "impatient"

        def __init__(self, after: int) -> None:
            self.left = after

        def rejects(self, problem: mp.Problem) -> str | None:
            return None

        def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return mp.BranchAndBound().solve(problem, **options)

    assert len(regularization_path(base, solver=Impatient(3))) == 3


def test_graphs_need_prices_and_limits_on_the_count_have_no_path() -> None:
    graph = graphical_model(torch.randn(30, 5, generator=torch.Generator().manual_seed(0)), l0=0.0, l2=0.1)
    path = regularization_path(graph, [0.3, 0.05], solver=EdgeDescent())
    assert [int(point.solution.mask.sum()) for point in path] == sorted(int(p.solution.mask.sum()) for p in path)
    with pytest.raises(mp.InvalidProblem, match="no rule"):
        regularization_path(graph)
    counted = mp.Problem(problem().loss, mp.Sparse(mp.Cardinality(3)))
    with pytest.raises(mp.InvalidProblem, match="limit"):
        regularization_path(counted)
    for wrong in ({"ratio": 1.0}, {"smallest": 0.0}, {"most": 0}, {"prices": [-1.0]}, {"prices": [float("nan")]}):
        with pytest.raises(mp.InvalidProblem):
            regularization_path(problem(), **wrong)
