"""Stable rule sets: the problem, the list of levels, the most frequent set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune import CuttingPlanes, InvalidProblem
from mipprune.formulations import most_frequent, stability_levels, stable_rules
from mipprune.rules import binned_candidates
from mipprune.solvers import frontier
from mipprune.testing import check_problem, enumerate_optimum

COLUMNS = (torch.rand(30, 8, generator=torch.Generator().manual_seed(0)) < 0.4).double()
RESPONSE = COLUMNS[:, 2] - COLUMNS[:, 5] + 0.3 * torch.randn(30, generator=torch.Generator().manual_seed(1))
OFTEN = [9, 7, 7, 4, 3, 3, 1, 0]


def test_the_problem_agrees_with_its_declarations() -> None:
    check_problem(stable_rules(COLUMNS, RESPONSE, count=3, least=14, frequencies=OFTEN, gamma=2.0), trials=3)


def test_weights_of_samples_are_repetitions() -> None:
    weights = torch.ones(30)
    weights[3], weights[7] = 2.0, 0.0
    weighted = stable_rules(COLUMNS, RESPONSE, count=3, frequencies=OFTEN, sample_weight=weights)
    rows = [*range(7), 3, *range(8, 30)]
    repeated = stable_rules(COLUMNS[rows], RESPONSE[rows], count=3, frequencies=OFTEN)
    w = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert weighted.value(w) == pytest.approx(repeated.value(w), rel=1e-12)


def test_levels_are_the_distinct_sums_of_windows() -> None:
    assert stability_levels(OFTEN, 3) == (23, 18, 14, 10, 7, 4)
    assert stability_levels(OFTEN, 99) == (34,)
    assert stability_levels([2, 2, 2, 2], 2) == (4,)
    shuffled = np.random.default_rng(0).permutation(OFTEN)
    assert stability_levels(shuffled, 3) == stability_levels(OFTEN, 3)
    with pytest.raises(InvalidProblem, match="at least one rule"):
        stability_levels(OFTEN, 0)
    with pytest.raises(InvalidProblem, match="whole numbers"):
        stability_levels([0.5, 1.0], 1)


def test_a_tie_across_the_boundary_is_left_out() -> None:
    assert most_frequent(OFTEN, 3).nonzero().ravel().tolist() == [0, 1, 2]
    assert most_frequent(OFTEN, 2).nonzero().ravel().tolist() == [0]
    assert not most_frequent([3, 3, 3], 2).any()
    assert bool(most_frequent([3, 3, 3], 3).all()) and not most_frequent([3, 1], 0).any()


def test_the_first_level_is_the_most_frequent_set_exactly_when_it_is_strict() -> None:
    strict = stable_rules(COLUMNS, RESPONSE, count=3, least=23, frequencies=OFTEN)
    mask = frontier([strict])[0].mask
    assert mask is not None and torch.equal(mask, most_frequent(OFTEN, 3))
    tied = stable_rules(COLUMNS, RESPONSE, count=2, least=16, frequencies=OFTEN)
    point = frontier([tied])[0]
    assert point.mask is not None and bool((point.mask | ~most_frequent(OFTEN, 2)).all())
    assert point.solution.value == pytest.approx(enumerate_optimum(tied)[0], rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 3, "least": 24, "frequencies": OFTEN}, "no set is as stable"),
        ({"count": 3, "frequencies": OFTEN[:-1]}, "frequencies have shape"),
        ({"count": 3, "frequencies": None}, "frequencies are missing"),
        ({"count": 3, "frequencies": [0.5] * 8}, "whole numbers"),
        ({"count": -1, "frequencies": OFTEN}, "whole number"),
        ({"count": 3, "frequencies": OFTEN, "gamma": 0.0}, "gamma"),
        ({"count": 3, "frequencies": OFTEN, "least": -2}, "whole number"),
    ],
)
def test_what_is_no_problem_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        stable_rules(COLUMNS, RESPONSE, **options)


def test_a_forest_leads_to_a_certified_frontier() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((150, 4))
    y = X[:, 0] + (X[:, 1] > 0) * X[:, 2] + 0.2 * rng.standard_normal(150)
    y = (y - y.mean()) / y.std()
    rules = binned_candidates(X, y, trees=60).rules
    levels = stability_levels(rules.count, 6)[:6]
    problems = [stable_rules(rules, y, count=6, least=level) for level in levels]
    points = frontier(problems, solver=CuttingPlanes(), budget=mp.Budget(gap=0.05, seconds=20))
    values = [point.solution.value for point in points]
    assert values == sorted(values, reverse=True)
    for point, level in zip(points, levels, strict=True):
        assert point.mask is not None and int(rules.count[point.mask.numpy()].sum()) >= level
        assert point.claimed_gap <= 0.05
        mp.check(point.problem, point.solution)
