"""The figures of merit against their definitions, worked out by hand or by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mipprune.bench.metrics import (
    compare_pairs,
    gap_between,
    gap_integral,
    performance_profile,
    primal_integral,
    shifted_geometric_mean,
)

_numbers = st.floats(-1e6, 1e6)


@given(_numbers, _numbers)
def test_the_gap_is_symmetric_and_between_zero_and_one(a: float, b: float) -> None:
    assert gap_between(a, b) == gap_between(b, a)
    assert 0.0 <= gap_between(a, b) <= 1.0
    assert (gap_between(a, b) == 0.0) == (a == b)


def test_the_gap_of_what_is_missing_is_one() -> None:
    assert gap_between(None, 1.0) == gap_between(math.inf, 1.0) == gap_between(1.0, math.nan) == 1.0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(1, 5)), max_size=8), st.floats(0.5, 12))
def test_the_primal_integral_is_the_area_under_the_gap(steps: list[tuple[float, float]], horizon: float) -> None:
    trace = [(t, v, None) for t, v in steps]
    times = np.linspace(0, horizon, 20001)
    times = 0.5 * (times[1:] + times[:-1])
    best = np.array([min([gap_between(v, 1.0) for s, v in steps if s <= t], default=1.0) for t in times[::50]])
    assert primal_integral(trace, 1.0, horizon) == pytest.approx(float(best.mean() * horizon), abs=0.02 * horizon)


def test_integrals_end_at_the_horizon() -> None:
    assert primal_integral([], 1.0, 7.0) == 7.0
    assert primal_integral([(9.0, 1.0, None)], 1.0, 7.0) == 7.0
    assert gap_integral([(1.0, 2.0, 1.0), (3.0, 2.0, 2.0)], 5.0) == 1.0 + 2 * 0.5


def test_the_shifted_mean_is_one_for_equal_values_and_lies_between_the_extremes() -> None:
    assert shifted_geometric_mean([4.0, 4.0, 4.0], 10.0) == pytest.approx(4.0)
    assert 1.0 < shifted_geometric_mean([1.0, 100.0], 1.0) < 100.0
    assert math.isnan(shifted_geometric_mean([]))


def test_a_profile_ends_at_the_share_that_is_solved_and_starts_at_the_share_of_wins() -> None:
    inf = math.inf
    profile = performance_profile({"a": [1.0, 3.0, inf, 2.0], "b": [2.0, 1.0, inf, 2.0]})
    assert profile["a"] == [(1.0, 0.5), (3.0, 0.75)]
    assert profile["b"] == [(1.0, 0.5), (2.0, 0.75)]
    assert performance_profile({}) == {}
    assert performance_profile({"a": []}) == {"a": []}


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=12), st.integers(0, 5))
def test_profiles_rise_and_someone_wins_every_solved_instance(costs: list[float], seed: int) -> None:
    other = np.random.default_rng(seed).permutation(costs).tolist()
    profile = performance_profile({"a": costs, "b": other})
    for steps in profile.values():
        assert [share for _, share in steps] == sorted(share for _, share in steps)
        assert steps[-1][1] == pytest.approx(1.0)
    assert profile["a"][0][1] + profile["b"][0][1] >= 1.0 - 1e-12


def test_a_paired_comparison_sees_a_slowdown_and_no_more() -> None:
    rng = np.random.default_rng(0)
    old = rng.uniform(1, 10, 30)
    noise = np.exp(0.02 * rng.standard_normal(30))
    slower = compare_pairs(old.tolist(), (1.3 * old * noise).tolist())
    assert slower.significant and slower.ratio == pytest.approx(1.3, rel=0.03)
    assert slower.low < slower.ratio < slower.high
    assert not compare_pairs(old.tolist(), old.tolist()).significant
    assert compare_pairs([], []).pairs == 0
