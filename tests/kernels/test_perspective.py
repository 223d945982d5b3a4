"""Functions of one coefficient against search on a grid, in all regimes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mipprune.kernels import node_descent, perspective

CASES = [
    (0.3, 0.5, -2.0, 2.0),  # the tangent point lies inside
    (0.3, 0.01, -1.0, 1.0),  # beyond the interval
    (0.3, 0.0, -1.5, 1.5),  # no ridge
    (0.3, 0.4, -math.inf, math.inf),  # no interval
    (0.3, 0.4, 0.2, 1.7),  # an interval away from zero
    (0.3, 0.4, -0.4, 2.5),
    (0.0, 0.4, -1.0, 1.0),  # no price
]


def true_penalty(t: np.ndarray, l0: float, l2: float, lower: float, upper: float) -> np.ndarray:
    out = np.where(t == 0, 0.0, l0 + l2 * t * t)
    return np.where((t != 0) & ((t < lower) | (t > upper)), math.inf, out)


@pytest.mark.parametrize(("l0", "l2", "lower", "upper"), CASES)
def test_the_envelope_is_the_biconjugate(l0: float, l2: float, lower: float, upper: float) -> None:
    sides = perspective.envelope(l0, l2, lower, upper)
    grid = np.linspace(max(lower, -10.0), min(upper, 10.0), 10001)
    slopes = np.linspace(-12, 12, 2401)
    conjugates = [max(0.0, perspective.conjugate(float(c), l2, lower, upper) - l0) for c in slopes]
    reach = np.linspace(min(max(lower, -4.0), 0.0), max(min(upper, 4.0), 0.0), 81)
    for t in reach:
        expected = max(c * t - value for c, value in zip(slopes, conjugates, strict=True))
        found = perspective.relaxed_penalty(float(t), l0, l2, *sides)
        assert found == pytest.approx(expected, abs=2e-2 * (1 + abs(t)))
        assert found <= float(true_penalty(np.array([t]), l0, l2, lower, upper)[0]) + 1e-12
    for c in (-3.0, -0.7, 0.0, 0.2, 1.3, 6.0):
        expected = float((c * grid - l2 * grid**2).max())
        assert perspective.conjugate(c, l2, lower, upper) == pytest.approx(expected, abs=1e-3 * (1 + abs(expected)))
        if math.isfinite(upper):
            assert perspective.conjugate(c, l2, lower, upper) >= expected - 1e-12


@pytest.mark.parametrize(("l0", "l2", "lower", "upper"), CASES)
@pytest.mark.parametrize("a", [0.5, 3.0])
def test_minimisers_agree_with_a_grid(l0: float, l2: float, lower: float, upper: float, a: float) -> None:
    sides = perspective.envelope(l0, l2, lower, upper)
    reach = np.linspace(min(max(lower, -6.0), 0.0), max(min(upper, 6.0), 0.0), 6001)
    kept = np.linspace(max(lower, -6.0), min(upper, 6.0), 6001)
    relaxed = np.array([perspective.relaxed_penalty(float(t), l0, l2, *sides) for t in reach])
    for b in (-4.0, -1.1, -0.3, 0.0, 0.4, 2.2):
        t = perspective.relaxed_minimiser(a, b, l2, lower, upper, *sides)
        value = a * t * t + b * t + perspective.relaxed_penalty(t, l0, l2, *sides)
        assert value <= float((a * reach**2 + b * reach + relaxed).min()) + 1e-12
        assert 0.0 <= perspective.share(t, sides[0], sides[2]) <= 1.0
        t = perspective.kept_minimiser(a, b, l2, lower, upper)
        assert (a + l2) * t * t + b * t <= float(((a + l2) * kept**2 + b * kept).min()) + 1e-12
        assert lower <= t <= upper
        t, decrease = perspective.sparse_minimiser(a, b, l0, l2, lower, upper)
        least = min(0.0, float((a * kept**2 + b * kept + l0 + l2 * kept**2).min()))
        assert -decrease <= least + 1e-12
        assert -decrease == pytest.approx(a * t * t + b * t + (l0 + l2 * t * t if t else 0.0), abs=1e-12)


def test_the_largest_sum_is_that_of_sorting() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = np.round(rng.standard_normal(rng.integers(0, 12)), 1)
        count = int(rng.integers(0, 8))
        total, last, following = node_descent.largest_sum(values, count, np.empty(count + 1))
        ordered = np.append(np.sort(values[values > 0])[::-1], np.zeros(count + 2))
        assert total == pytest.approx(ordered[:count].sum())
        assert following == pytest.approx(ordered[count])
        if count:
            assert last == pytest.approx(ordered[count - 1])
