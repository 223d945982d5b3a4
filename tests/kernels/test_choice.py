"""One option for each variable within budgets: the search and every bound against enumeration."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mipprune.kernels import choice_search
from mipprune.kernels.choice import Choice, TooWide, minimise_dual
from mipprune.kernels.whole_numbers import whole_numbers

PLENTY = 1 << 18


def draw(seed: int) -> tuple[Choice, float]:
    """A small instance of a random kind with its enumerated optimum, -inf where nothing fits."""
    rng = np.random.default_rng(seed)
    layers, resources = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    sizes = rng.integers(1, 5, layers)
    kind = seed % 4
    gains = [rng.standard_normal(size) for size in sizes]
    if kind == 1:
        gains = [rng.integers(-2, 3, size).astype(float) for size in sizes]  # ties
    if kind == 2:
        gains = [gain * 10.0 ** rng.uniform(-8, 8, len(gain)) for gain in gains]
    costs = [rng.integers(0, 12, (size, resources)).astype(float) for size in sizes]
    pairs = [
        (a, b, rng.integers(0, 9, (sizes[a], sizes[b], resources)).astype(float))
        for a, b in itertools.permutations(range(layers), 2)
        if kind != 3 and rng.random() < 0.25
    ]
    free = Choice(gains, costs, np.zeros(resources), pairs)
    every = [np.array(option) for option in itertools.product(*(range(size) for size in sizes))]
    used = np.array([free.cost(option) for option in every])
    budgets = np.floor(np.quantile(used, rng.choice([0.0, 0.1, 0.3, 0.6, 1.0]), axis=0)) - float(rng.random() < 0.15)
    inside = (used <= budgets).all(axis=1)
    exact = [math.fsum(gain[j] for gain, j in zip(gains, option)) for option in every]
    return Choice(gains, costs, budgets, pairs), max((v for v, fits in zip(exact, inside) if fits), default=-math.inf)


@pytest.mark.parametrize("part", range(4))
def test_the_search_finds_and_proves_the_enumerated_optimum(part: int) -> None:
    for seed in range(part, 600, 4):
        model, optimum = draw(seed)
        best = choice_search.maximise(model, PLENTY)
        if optimum == -math.inf:
            assert best.choice is None and best.bound == -math.inf
            continue
        assert best.choice is not None and bool((model.cost(best.choice) <= model.budgets).all())
        assert model.gain(best.choice) == pytest.approx(optimum, abs=4 * model.rounding)
        assert optimum <= best.bound <= optimum + 8 * model.rounding
        again = choice_search.bound(model, best.multipliers, best.level, PLENTY)[0]
        assert again == best.bound


@given(seed=st.integers(0, 10**6), limit=st.integers(1, 8), size=st.sampled_from([0.0, 0.01, 1.0, 100.0]))
def test_no_bound_is_below_the_optimum(seed: int, limit: int, size: float) -> None:
    """At any multipliers, any level, and with far too little room for the search."""
    model, optimum = draw(seed)
    rng = np.random.default_rng(seed)
    multipliers = size * rng.random((2, len(model.budgets)))
    assert float(model.bounds(multipliers).min()) >= optimum
    around = optimum if math.isfinite(optimum) else 0.0
    for level in (math.inf, -math.inf, around, around - 0.5, around + 0.5):
        assert choice_search.bound(model, multipliers, level, limit)[0] >= optimum
        assert choice_search.bound(model, multipliers, level, PLENTY)[0] >= optimum
    cramped = choice_search.maximise(model, limit)
    assert cramped.bound >= optimum
    assert cramped.choice is None or bool((model.cost(cramped.choice) <= model.budgets).all())


@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold_to_the_last_digit_for_many_layers(seed: int) -> None:
    """At most k of n layers take their second option: the optimum is a sum of largest differences, without rounding."""
    rng = np.random.default_rng(seed)
    layers, resources = 150, 1 + seed % 3
    spread = 10.0 ** rng.uniform(-6, 6, layers) if seed % 2 else np.ones(layers)
    gains = [rng.standard_normal(2) * size for size in spread]
    kept = int(rng.integers(1, layers))
    costs = [np.array([[0.0] * resources, [1.0] * resources])] * layers
    model = Choice(gains, costs, np.full(resources, float(kept)))
    rises = sorted((Fraction(gain[1]) - Fraction(gain[0]) for gain in gains), reverse=True)
    optimum = sum(Fraction(gain[0]) for gain in gains) + sum(rise for rise in rises[:kept] if rise > 0)
    best = choice_search.maximise(model, PLENTY)
    assert Fraction(best.bound) >= optimum
    assert best.bound == pytest.approx(float(optimum), abs=1e-11 * model.gain_size)
    for level in (best.level, best.bound - 1e-14 * abs(best.bound), -math.inf):
        assert Fraction(choice_search.bound(model, best.multipliers, level, PLENTY)[0]) >= optimum


def test_the_dual_is_the_linear_relaxation() -> None:
    """Without pairs the least Lagrangian bound is the value of the relaxed knapsack."""
    from scipy.optimize import linprog

    for seed in range(3, 400, 4):
        model, optimum = draw(seed)
        if optimum == -math.inf:
            continue
        sizes = [len(gain) for gain in model.gains]
        once = np.repeat(np.eye(len(sizes)), sizes, axis=1)
        relaxed = linprog(
            -np.concatenate(model.gains),
            A_ub=np.concatenate(model.costs).T,
            b_ub=model.budgets,
            A_eq=once,
            b_eq=np.ones(len(sizes)),
        )
        best = float(model.bounds(minimise_dual(model).multipliers).min())
        assert best == pytest.approx(-relaxed.fun, abs=1e-7 * (1 + abs(relaxed.fun)))


def test_a_chain_keeps_one_layer_as_its_state() -> None:
    rng = np.random.default_rng(0)
    sizes = [5, 7, 6, 4]
    pairs = [(a, a + 1, rng.integers(0, 9, (sizes[a], sizes[a + 1], 1)).astype(float)) for a in range(3)]
    model = Choice([rng.random(s) for s in sizes], [np.zeros((s, 1)) for s in sizes], np.array([9.0]), pairs)
    assert max(step.states for step in model.steps) <= 7


def test_layers_that_are_all_coupled_are_refused_rather_than_tried() -> None:
    pairs = [(a, b, np.ones((20, 20, 1))) for a, b in itertools.combinations(range(8), 2)]
    model = Choice([np.zeros(20)] * 8, [np.zeros((20, 1))] * 8, np.array([9.0]), pairs)
    with pytest.raises(TooWide, match="states"):
        _ = model.steps


@given(
    st.lists(st.lists(st.floats(0, 1e12), min_size=1, max_size=4), min_size=1, max_size=5),
    st.floats(0, 1e13),
    st.sampled_from([0, 1, 3, 17]),
)
def test_whole_numbers_decide_as_the_decimals_do(tables: list[list[float]], budget: float, digits: int) -> None:
    """Up to the stated rounding: totals clearly within are within, totals clearly beyond are beyond."""
    rounded = [np.array([round(cost, digits) for cost in table]) for table in tables]
    limit = round(budget, digits)
    whole, most = whole_numbers(rounded, limit)
    largest = sum(float(table.max()) for table in rounded)
    tolerance = (len(tables) + 2) * 2.0**-50 * (largest + limit)
    for option in itertools.product(*(range(len(table)) for table in rounded)):
        total = math.fsum(float(table[j]) for table, j in zip(rounded, option))
        within = math.fsum(float(table[j]) for table, j in zip(whole, option)) <= most
        assert all(float(table[j]).is_integer() for table, j in zip(whole, option))
        if total <= limit - tolerance or total == limit == round(total):
            assert within
        if total > limit + tolerance:
            assert not within


def test_decimals_are_read_as_written() -> None:
    whole, most = whole_numbers([np.array([0.1]), np.array([0.2])], 0.3)
    assert whole[0][0] + whole[1][0] == most  # although 0.1 + 0.2 > 0.3 in float64
    whole, most = whole_numbers([np.array([1e-9]), np.array([2e-9])], 2.9e-9)
    assert whole[0][0] + whole[1][0] > most
