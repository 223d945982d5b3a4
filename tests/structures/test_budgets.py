"""Budgets: the exact selection against HiGHS and stored optima, its bound against everything that could break it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mipprune import (
    Budgets,
    Cardinality,
    CertificateError,
    InvalidProblem,
    Linear,
    Masks,
    Oracle,
    Problem,
    check,
    solve,
)
from mipprune.kernels import knapsack, knapsack_bins, knapsack_passes
from mipprune.structures import budget_oracle
from mipprune.testing import check_supports, enumerate_masks
from tests.budget_instances import REFERENCE, costs_of, r50, sizes_of

COSTS = [1, 7, 13, 49, 57, 100, 196, 784, 3136]


def draw(rng: np.random.Generator, *, resources: int = 0, most: int = 14) -> tuple[Budgets, Tensor]:
    """A small random instance: 1 to 5 layers, 1 to 3 budgets, scores of several kinds, bounds now and then."""
    layers, count = int(rng.integers(1, 6)), resources or int(rng.integers(1, 4))
    sizes = rng.integers(1, most + 1, layers)
    costs = rng.choice(COSTS, (count, layers))
    if count > 1:
        costs[0] = 1
    limits = np.floor(costs @ sizes * rng.uniform(0.05, 1.0, count))
    lower = upper = None
    if rng.random() < 0.3:
        lower = np.minimum(sizes, rng.integers(0, 2, layers))
        lower = None if (costs @ lower > limits).any() else lower
        upper = np.maximum(rng.integers(0, most + 1, layers), 0 if lower is None else lower)
    kind = rng.integers(4)
    p = int(sizes.sum())
    gain = rng.standard_normal(p) ** 2
    if kind == 1:
        gain = rng.integers(-1, 4, p).astype(float)
    elif kind == 2:
        gain = 10.0 ** rng.uniform(-8, 8, p)
    elif kind == 3:
        gain = rng.standard_normal(p)
    return Budgets(sizes, costs, limits, lower, upper), torch.from_numpy(gain)


def by_highs(family: Budgets, gain: Tensor) -> float:
    """The optimum of the full integer program by HiGHS."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    layer = np.repeat(np.arange(len(family.sizes)), family.sizes.numpy())
    rows = np.equal(layer, np.arange(len(family.sizes))[:, None]).astype(float)
    low = 0 if family.lower is None else family.lower.numpy()
    high = np.inf if family.upper is None else family.upper.numpy()
    answer = milp(
        -gain.numpy(),
        integrality=np.ones(gain.numel()),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(family.costs.numpy()[:, layer], -np.inf, family.limits.numpy()),
            LinearConstraint(rows, low, high),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert answer.status == 0, answer.message
    return -float(answer.fun)


@pytest.mark.exact
@pytest.mark.parametrize("block", range(6))
def test_300_random_instances_equal_highs(block: int) -> None:
    rng = np.random.default_rng(block)
    for _ in range(50):
        family, gain = draw(rng)
        found = family.select(gain)
        assert family.contains(found.mask)
        assert found.value == pytest.approx(by_highs(family, gain), rel=1e-6, abs=1e-9)
        assert found.value <= found.bound <= found.value + 1e-11 * max(1.0, float(gain.abs().sum()))  # gap closed


@pytest.mark.parametrize("entry", REFERENCE["optima"][:3], ids=lambda entry: str(entry["p"]))
def test_stored_optima(entry: dict[str, Any]) -> None:
    scores = torch.cat(r50(entry["p"], entry["seed"]))
    sizes = [part.numel() for part in r50(entry["p"], entry["seed"])]
    family = Budgets(sizes, [[1.0] * 54, costs_of("resnet50")], [entry["kept"], entry["cost"]])
    assert scores.numel() == entry["entries"]
    found = family.select(scores)
    assert found.value == pytest.approx(entry["optimum"], rel=1e-9)
    assert 0 <= found.bound - found.value <= 1e-12 * found.value
    assert bool((family.usage(found.mask) <= family.limits).all())
    open_witness = found.witness.clone()
    open_witness[-1] = 0.0
    dual = family.select_bound(scores, open_witness)
    assert dual == pytest.approx(entry.get("dual", dual), rel=1e-11)
    assert found.bound < dual < found.value * (1 + 2e-5)


@pytest.mark.parametrize("network", REFERENCE["networks"])
def test_stored_networks_add_up(network: str) -> None:
    sizes, costs = np.array(sizes_of(network)), np.array(costs_of(network))
    assert sizes.sum() == REFERENCE["networks"][network]["entries"]
    assert sizes @ costs == REFERENCE["networks"][network]["dense"]


# ------------------------------------------------------------------------------------------- the bound


def brute_force(family: Budgets, gain: Tensor) -> float:
    """The best sum over all admissible masks, -inf when there is none."""
    masks = enumerate_masks(tuple(gain.shape))
    values = [math.fsum(gain[mask].tolist()) for mask in masks if family.contains(mask)]
    return max(values, default=-math.inf)


@given(seed=st.integers(0, 2**32 - 1), closed=st.sampled_from([0.0, 1e-3, 0.3, 2.0, 1e9]), near=st.booleans())
def test_no_witness_proves_too_much(seed: int, closed: float, near: bool) -> None:
    """Arbitrary multipliers, thresholds and claims of a closed gap: the bound holds for all of them."""
    rng = np.random.default_rng(seed)
    family, gain = draw(rng, most=3)
    gain = gain[:12]
    if gain.numel() != family.entries:
        return
    on, off = torch.from_numpy(rng.random((2, gain.numel())) < 0.1)
    if rng.random() < 0.5:
        family = family.restrict(on, off & ~on)
    best = brute_force(family, gain)
    found = family.select(gain)
    if best == -math.inf:
        assert found.bound == -math.inf
        return
    slack = 1e-12 * float(gain.abs().sum())
    assert best - slack <= found.value <= found.bound <= best + 1e-9 * float(gain.abs().sum()) + slack
    resources, layers = len(family.limits), len(family.sizes)
    scale = float(gain.abs().max()) + 1e-9
    witness = torch.from_numpy(
        np.concatenate(
            [
                rng.exponential(scale, resources) * (rng.random(resources) < 0.7) / 50,
                rng.normal(0.3, 1.0, layers) * scale,
                [closed * scale],
            ]
        )
    )
    if near and found.witness is not None:
        witness = found.witness * torch.from_numpy(1 + rng.normal(0, 10.0 ** rng.uniform(-12, 0), witness.numel()))
        witness[:resources] = witness[:resources].clamp_min(0)
        witness[-1] = closed * scale
    assert family.select_bound(gain, witness) >= best


def test_a_witness_bounds_similar_gains_too() -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        family, gain = draw(rng)
        witness = family.select(gain).witness
        other = gain * torch.from_numpy(1 + 0.05 * rng.standard_normal(gain.numel()))
        assert family.select_bound(other, witness) >= family.select(other).value - 1e-12 * float(other.abs().sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:-1], "gap that was closed"),
        (lambda w: torch.cat([-w[:1] - 1, w[1:]]), "negative multiplier"),
        (lambda w: torch.cat([w[:-1], w[-1:] - 1e9]), "negative gap"),
        (lambda w: w * math.nan, "all finite"),
    ],
)
def test_what_is_no_witness_is_refused(change: Any, message: str) -> None:
    family = Budgets([3, 3], [[1, 1], [10, 1]], [3, 12])
    gain = torch.tensor([9.0, 8.0, 7.0, 3.0, 2.0, 1.0])
    with pytest.raises(CertificateError, match=message):
        family.select_bound(gain, change(family.select(gain).witness))


def test_a_tampered_certificate_is_found_out() -> None:
    from dataclasses import replace

    scores = torch.cat(r50(3000))
    sizes = [part.numel() for part in r50(3000)]
    family = Budgets(sizes, [[1.0] * 54, costs_of("resnet50")], [600, 100_000])
    problem = Problem(Linear(-scores), Masks(family))
    solution = solve(problem)
    assert solution.gap < 1e-12
    check(problem, solution)
    for place, change in ((0, 1.5), (1, 0.5), (10, 0.9)):
        witness = solution.certificate.witness.clone()
        witness[place] *= change
        forged = replace(solution, certificate=replace(solution.certificate, witness=witness))
        with pytest.raises(CertificateError, match="bound"):
            check(problem, forged)


def test_exact_arithmetic_accepts_the_bound() -> None:
    rng = np.random.default_rng(11)
    for _ in range(10):
        family, gain = draw(rng, most=6)
        problem = Problem(Linear(-gain), Masks(family))
        solution = Oracle().solve(problem)
        assert check(problem, solution, exact=True).bound <= solution.value + 1e-12


# --------------------------------------------------------------------------------------- the ways to select


@pytest.fixture
def instances() -> list[tuple[Budgets, Tensor]]:
    rng = np.random.default_rng(5)
    scores = torch.cat(r50(20_000))
    sizes = [part.numel() for part in r50(20_000)]
    made = [draw(rng) for _ in range(25)]
    made.append((Budgets(sizes, [[1.0] * 54, costs_of("resnet50")], [2000, 200_000]), scores))
    made.append((Budgets(sizes, [[1.0] * 54, costs_of("resnet50")], [9000, 200_000], upper=400), scores.float()))
    made.append((Budgets(sizes, [1.0] * 54, 3000, lower=5), -scores.log()))
    return made


def test_bins_and_sorting_select_the_same(
    instances: list[tuple[Budgets, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for family, gain in instances:
        monkeypatch.setattr(budget_oracle, "_BINNED", 1 << 60)
        sorted_ = family.select(gain)
        monkeypatch.setattr(budget_oracle, "_BINNED", 1)
        binned = family.select(gain)
        assert binned.value == pytest.approx(sorted_.value, rel=1e-13, abs=1e-13)
        assert family.contains(binned.mask)
        assert binned.bound == pytest.approx(sorted_.bound, rel=1e-11, abs=1e-11)


def test_narrow_bins_widen_until_the_windows_fit(
    instances: list[tuple[Budgets, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = knapsack_bins.core_groups
    monkeypatch.setattr(budget_oracle, "core_groups", lambda *a: calls.append(a[-1]) or original(*a))
    monkeypatch.setattr(budget_oracle, "_BINNED", 1)
    monkeypatch.setattr(budget_oracle, "_WIDTH", 1)
    family, gain = instances[-3]
    narrow = family.select(gain)
    monkeypatch.setattr(budget_oracle, "_BINNED", 1 << 60)
    assert narrow.value == pytest.approx(family.select(gain).value, rel=1e-13)
    assert len(calls) > 1


def test_plain_torch_selects_the_same(
    instances: list[tuple[Budgets, Tensor]], device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code path of accelerators, on the CPU by hiding the compiled passes."""
    for family, gain in instances:
        expected = family.select(gain)
        for least in (1, 1 << 60):
            with monkeypatch.context() as patch:
                patch.setattr(budget_oracle, "_BINNED", least)
                for module in (knapsack_passes, knapsack_bins):
                    patch.setattr(module, "compiled", lambda gain: False)
                found = family.select(gain.to(device))
            assert found.mask.device.type == device.type
            assert found.value == pytest.approx(expected.value, rel=1e-12, abs=1e-12)
            assert found.bound == pytest.approx(expected.bound, rel=1e-11, abs=1e-11)
            assert family.select_bound(gain, found.witness) >= expected.value - 1e-12 * abs(expected.value)


def test_one_budget_of_equal_costs_is_a_cardinality() -> None:
    gain = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    family = Budgets([100, 300, 100], [2, 2, 2], 241)
    assert torch.equal(family.keep(gain), Cardinality(120).keep(gain))
    assert torch.equal(family.keep(gain.reshape(5, 100)), Cardinality(120).keep(gain).reshape(5, 100))


def test_ties_go_to_the_lower_index() -> None:
    family = Budgets([4, 4], [[1, 1]], [5])
    for kind in (torch.float32, torch.float64):
        assert family.keep(torch.ones(8, dtype=kind)).int().tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


def test_masses_of_equal_gains() -> None:
    """Windows hold whole runs of ties here; the answer stays exact."""
    rng = np.random.default_rng(2)
    for levels in (1, 2, 5):
        gain = torch.from_numpy(rng.integers(1, levels + 1, 3000).astype(float))
        family = Budgets([1000, 1000, 1000], [[1, 1, 1], [7, 3, 2]], [1200, 4001])
        found = family.select(gain)
        assert found.value == pytest.approx(by_highs(family, gain), rel=1e-9)
        assert found.bound <= found.value * (1 + 1e-3)


def test_many_different_costs_and_budgets() -> None:
    """54 groups and three budgets; where the search is cut short, the MILP's choice is taken and the bound holds."""
    rng = np.random.default_rng(8)
    scores = torch.cat(r50(5_000))
    sizes = np.array([part.numel() for part in r50(5_000)])
    costs = np.stack([np.ones(54), rng.integers(1, 4000, 54), rng.integers(1, 50, 54)])
    family = Budgets(sizes, costs, np.floor(costs @ sizes * [0.2, 0.15, 0.2]))
    found = family.select(scores)
    assert found.value <= found.bound <= found.value * (1 + 1e-4)
    short = _with_nodes(family, scores, 10)
    assert short.value == pytest.approx(found.value, rel=1e-4)
    assert short.bound >= found.value


def _with_nodes(family: Budgets, gain: Tensor, nodes: int) -> Any:
    original = knapsack.solve
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knapsack, "solve", lambda groups: original(groups, nodes))
        return family.select(gain)


# ----------------------------------------------------------------------------------------------- the data


def test_decimals_are_what_they_denote() -> None:
    family = Budgets([1, 1], [0.1, 0.2], 0.3)
    assert family.contains(torch.tensor([True, True]))
    tight = Budgets([1, 1], [0.1, 0.2], 0.29999)
    assert tight.violation(torch.tensor([True, True])) > 0
    check_supports(Budgets([3, 3], [1 / 3, math.pi], 5.0), (6,), trials=2)


def test_budgets_of_many_digits_are_kept() -> None:
    """Plain Python numbers must not pass through float32."""
    family = Budgets([25_502_912], [49.0], [817_836_851.0])
    assert family.whole[1].tolist() == [817_836_851]
    assert float(family.limits[0]) == 817_836_851.0


def test_fixed_entries_use_the_budgets() -> None:
    family = Budgets([3, 3], [[1, 1], [10, 1]], [3, 12])
    gain = torch.tensor([9.0, 8.0, 7.0, 3.0, 2.0, 1.0])
    on, off = torch.zeros(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)
    on[2], off[3] = True, True
    restricted = family.restrict(on, off)
    found = restricted.select(gain)
    assert found.mask.int().tolist() == [0, 0, 1, 0, 1, 1]
    assert found.value == 10.0
    implied_on, implied_off = family.propagate(on, off)
    assert implied_off.int().tolist() == [1, 1, 0, 1, 0, 0]
    assert implied_on.int().tolist() == on.int().tolist()
    nothing = family.restrict(torch.tensor([True, True, False, False, False, False]), off)
    assert nothing.select(gain).bound == -math.inf


def test_infinite_gains_come_first() -> None:
    family = Budgets([2, 2], [[1, 1], [10, 1]], [2, 5])
    assert family.select(torch.tensor([math.inf, 1.0, 2.0, 3.0])).value == 5.0  # fits nowhere
    found = family.select(torch.tensor([1.0, 1.0, math.inf, 3.0]))
    assert found.value == found.bound == math.inf
    assert found.mask.int().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_gains_that_are_no_numbers_are_refused(bad: float) -> None:
    with pytest.raises(InvalidProblem, match="NaN or -inf"):
        Budgets([3], [1], 2).select(torch.tensor([1.0, bad, 2.0]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Budgets([], [], []), "at least one layer"),
        (lambda: Budgets([3.5], [1], 1), "whole number"),
        (lambda: Budgets([3], [-1], 1), "negative"),
        (lambda: Budgets([3], [math.nan], 1), "NaN"),
        (lambda: Budgets([3], [math.inf], 1), "upper count 0"),
        (lambda: Budgets([3], [[1, 2]], 1), "one column for each"),
        (lambda: Budgets([3], [1], [1, 2]), "2 entries for 1 resources"),
        (lambda: Budgets([3], [1], -1), "negative"),
        (lambda: Budgets([3], ["x"], 1), "cannot be read"),
        (lambda: Budgets([3, 3], [1, 1], 9, lower=[1, 2, 3]), "3 entries for 2 layers"),
        (lambda: Budgets([3], [2], 3, lower=2), "budget is 3"),
        (lambda: Budgets([3], [2], 30, lower=4), "at least 4"),
        (lambda: Budgets([3], [2], 30, lower=2, upper=1), "at most 1"),
        (lambda: Budgets([3], [1], 1, grid=0.3), "power of two"),
        (lambda: Budgets([3], [1], 1).check_shape((2, 2)), "has 4"),
        (lambda: Budgets([3], [1], 1).select(torch.ones(4)), "has 4"),
    ],
)
def test_what_is_no_budget_is_refused(build: Any, message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        build()


def test_nothing_and_everything() -> None:
    gain = torch.tensor([1.0, 2.0, 3.0])
    assert not Budgets([3], [1], 0).keep(gain).any()
    assert Budgets([3], [1], math.inf).keep(gain).all()
    assert Budgets([3], [0], 0).keep(gain).all()  # what costs nothing is always kept
    assert Budgets([0, 3], [[1, 1], [5, 0]], [3, 0]).select(gain).value == 6.0
    assert not Budgets([3], [1], 3).keep(-gain).any()
    assert Budgets([3], [1], 3, lower=1).keep(-gain).tolist() == [True, False, False]
