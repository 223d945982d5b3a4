"""The knapsack with a count against enumeration and against a mixed-integer solver."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from mipprune.kernels import stable_selection
from mipprune.kernels.stable_selection import largest_sum, rounding

Array = np.ndarray[Any, Any]


def enumerated(gain: Array, weight: Array, count: int, least: int) -> float | None:
    sums = [
        float(gain[list(chosen)].sum())
        for size in range(count + 1)
        for chosen in itertools.combinations(range(len(gain)), size)
        if weight[list(chosen)].sum() >= least
    ]
    return max(sums, default=None)


@given(data=st.data())
def test_the_choice_is_the_best_of_all(data: Any) -> None:
    n = data.draw(st.integers(0, 9))
    kind = data.draw(st.sampled_from(["whole", "spread", "tiny"]))
    numbers = st.integers(-4, 4) if kind == "whole" else st.floats(-1e6, 1e6, allow_subnormal=False)
    gain = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), dtype=np.float64)
    gain = gain * 1e-200 if kind == "tiny" else gain
    weight = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), dtype=np.int64)
    count, least = data.draw(st.integers(0, 5)), data.draw(st.integers(-2, 20))
    found = largest_sum(gain, weight, count, least)
    best = enumerated(gain, weight, count, least)
    if best is None:
        assert found is None
        return
    assert found is not None and found.sum() <= count and weight[found].sum() >= least
    assert gain[found].sum() >= best - rounding(gain, count)


@pytest.mark.parametrize("seed", range(6))
def test_many_items_against_a_mixed_integer_solver(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, count = 150, 8
    weight = np.sort(rng.integers(1, 40, n))[::-1].copy()
    gain = rng.random(n) if seed % 2 else rng.integers(0, 6, n).astype(float)
    top = int(weight[:count].sum())
    for least in (top, top - 3, top // 2):
        found = largest_sum(gain, weight, count, least)
        assert found is not None and found.sum() <= count and weight[found].sum() >= least
        rows = LinearConstraint(np.stack([np.ones(n), weight]), [0, least], [count, np.inf])
        exact = milp(-gain, constraints=rows, integrality=np.ones(n), bounds=Bounds(0, 1), options={"mip_rel_gap": 0})
        assert gain[found].sum() == pytest.approx(-exact.fun, rel=1e-6)


def test_dominated_items_are_left_out_of_a_large_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """With gains all alike, only the heaviest items are of use; without them, the table would not fit."""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 4000, 5000)
    top = int(np.sort(weight)[-15:].sum())
    found = largest_sum(np.zeros(5000), weight, 15, top - 1)
    assert found is not None and weight[found].sum() >= top - 1
    monkeypatch.setattr(stable_selection, "_MANY", 0)  # the search for dominated items in every case
    for seed in range(30):
        rng = np.random.default_rng(seed)
        gain, weight = rng.integers(-3, 4, 9).astype(float), rng.integers(0, 5, 9)
        best, found = enumerated(gain, weight, 3, 8), largest_sum(gain, weight, 3, 8)
        assert (found is None) == (best is None)
        assert found is None or gain[found].sum() == best


def test_a_table_beyond_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stable_selection, "_CELLS", 10)
    monkeypatch.setattr(stable_selection, "_MANY", 1000)
    with pytest.raises(MemoryError, match="common factor"):
        largest_sum(np.ones(9), np.arange(1, 10), 4, 25)
