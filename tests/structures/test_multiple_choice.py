"""One option of each layer: bad data, borderline costs, infinite gains, too little room, and tampered witnesses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import mipprune.kernels.choice as choice_module
from mipprune import (
    CertificateError,
    Highs,
    InvalidProblem,
    Linear,
    Masks,
    Oracle,
    Problem,
    SolverFailure,
)
from mipprune.structures import MultipleChoice
from mipprune.testing import check_supports, enumerate_masks

TWO = [[0.0, 1.0, 2.0], [0.0, 2.0]]


def members_of(family: MultipleChoice) -> torch.Tensor:
    masks = enumerate_masks((family.size,))
    return masks[torch.tensor([family.contains(mask) for mask in masks])]


def coupled(seed: int, resources: int = 1) -> MultipleChoice:
    generator = torch.Generator().manual_seed(seed)
    tables = [torch.randint(0, 6, (size, resources), generator=generator) for size in (3, 2, 3)]
    pairs = [(0, 1, torch.randint(0, 5, (3, 2, resources), generator=generator))]
    pairs += [(2, 1, torch.randint(0, 5, (3, 2, resources), generator=generator))]
    return MultipleChoice(tables, [9.0 + 2.0 * resources] * resources, pairs)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("resources", [1, 3])
def test_coupled_families_keep_their_promises(seed: int, resources: int) -> None:
    check_supports(coupled(seed, resources), (8,), seed=seed, trials=3)


def test_little_room_leaves_a_valid_bound() -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        free = coupled(seed, 1 + seed % 2)
        cramped = MultipleChoice(free.costs, free.budgets, free.pairs, labels=1)
        members = members_of(free)
        gain = torch.from_numpy(rng.standard_normal(8))
        best = float((members.double() @ gain).max()) if len(members) else -math.inf
        try:
            found = cramped.select(gain)
        except SolverFailure as error:
            assert "labels" in str(error)
            continue
        assert found.bound >= best >= found.value - 1e-12
        assert cramped.select_bound(gain, found.witness) == found.bound


def test_a_witness_bounds_other_gains_too() -> None:
    rng = np.random.default_rng(1)
    family = coupled(1, 2)
    members = members_of(family).double()
    for _ in range(50):
        gain, other = torch.from_numpy(rng.standard_normal((2, 8)))
        witness = family.select(gain).witness
        assert family.select_bound(other, witness) >= float((members @ other).max())
        assert witness is not None
        noisy = witness + torch.from_numpy(rng.random(tuple(witness.shape)))
        assert family.select_bound(gain, noisy) >= float((members @ gain).max())


@pytest.mark.parametrize(
    ("witness", "message"),
    [
        (torch.zeros(3), "rows of 1 multipliers"),
        (torch.zeros(0, 2), "rows of 1 multipliers"),
        (torch.zeros(2, 3), "rows of 1 multipliers"),
        (torch.tensor([[math.nan, 0.0]]), "without NaN"),
        (torch.tensor([[-1.0, 0.0]]), "negative"),
        (torch.tensor([[math.inf, 0.0]]), "infinite"),
    ],
)
def test_a_witness_that_proves_nothing_is_refused(witness: torch.Tensor, message: str) -> None:
    with pytest.raises(CertificateError, match=message):
        MultipleChoice(TWO, 3.0).select_bound(torch.ones(5), witness)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MultipleChoice([], 1.0), "no layer"),
        (lambda: MultipleChoice([[]], 1.0), "no option"),
        (lambda: MultipleChoice(TWO, []), "at least one"),
        (lambda: MultipleChoice(TWO, -1.0), ">= 0"),
        (lambda: MultipleChoice(TWO, math.nan), "NaN"),
        (lambda: MultipleChoice([[1.0, -2.0]], 1.0), "negative"),
        (lambda: MultipleChoice([[1.0, math.nan]], 1.0), "NaN"),
        (lambda: MultipleChoice([[1.0, math.inf]], 1.0), "infinite"),
        (lambda: MultipleChoice(TWO, [1.0, 2.0]), "2 resource"),
        (lambda: MultipleChoice([["a"]], 1.0), "cannot be read"),
        (lambda: MultipleChoice(TWO, 1.0, labels=0), "at least one"),
        (lambda: MultipleChoice(TWO, 1.0, [(0, 0, torch.ones(3, 3))]), "two different"),
        (lambda: MultipleChoice(TWO, 1.0, [(0, 2, torch.ones(3, 3))]), "two different"),
        (lambda: MultipleChoice(TWO, 1.0, [(0, 1, torch.ones(2, 3))]), "expected"),
        (lambda: MultipleChoice(TWO, 1.0, [(0, 1, -torch.ones(3, 2))]), "negative"),
        (lambda: MultipleChoice(TWO, 1.0).check_shape((4,)), "vector of 5"),
        (lambda: MultipleChoice(TWO, 1.0).select(torch.full((5,), math.nan)), "NaN"),
        (lambda: MultipleChoice(TWO, 1.0).options(torch.ones(5)), "exactly one"),
    ],
)
def test_what_is_no_family_is_refused(build: Any, message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        build()


def test_budgets_that_nothing_meets_leave_no_member() -> None:
    family = MultipleChoice([[2.0, 3.0], [2.0, 4.0]], 3.0)
    assert family.select(torch.ones(4)).bound == -math.inf
    assert family.violation(torch.zeros(4, dtype=torch.bool)) > 0
    two = MultipleChoice([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]]], [1.0, 4.0])  # each alone can be met
    assert two.select(torch.zeros(4)).bound > -math.inf
    none = MultipleChoice([[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]]], [3.0, 1.0])
    assert none.select(torch.zeros(4)).bound == -math.inf


def test_a_budget_met_to_the_last_digit_is_met() -> None:
    family = MultipleChoice([[0.1, 0.2], [0.2, 0.3]], 0.3)
    assert family.select(torch.tensor([1.0, 0.0, 1.0, 0.0])).value == 2.0
    assert family.violation(torch.tensor([False, True, True, False])) == 1
    big = MultipleChoice([[2.0**40, 2.0**40 + 1.0], [3.0]], 2.0**40 + 3.0)
    assert big.options(big.select(torch.tensor([0.0, 1.0, 0.0])).mask).tolist() == [0, 0]
    assert big.usage(big.select(torch.zeros(3)).mask).tolist() == [2.0**40 + 3.0]


def test_an_infinite_gain_counts_only_where_a_member_has_it() -> None:
    family = MultipleChoice(TWO, 2.0)
    assert family.select(torch.tensor([0.0, 0.0, math.inf, 0.0, 1.0])).value == math.inf
    dear = MultipleChoice([[0.0, 9.0], [0.0, 2.0]], 2.0)
    found = dear.select(torch.tensor([0.0, math.inf, 0.0, 1.0]))
    assert found.value == 1.0 and found.bound == pytest.approx(1.0)


@pytest.mark.exact
def test_layers_coupled_beyond_any_table_keep_valid_bounds_and_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "_LARGEST", 5000)
    rng = np.random.default_rng(0)
    width = torch.arange(1, 21)
    pairs = [(a, b, torch.outer(width, width)) for a in range(7) for b in range(a)]
    family = MultipleChoice([torch.zeros(20)] * 7, 0.3 * 21 * 400, pairs)
    gain = torch.from_numpy(np.sort(rng.random((7, 20)), axis=1)).reshape(-1)
    found = family.select(gain)
    assert family.contains(found.mask) and found.bound >= found.value
    assert family.select_bound(gain, found.witness) == found.bound
    for _ in range(300):  # no member that is drawn is worth more than the bound
        mask = torch.zeros(7, 20, dtype=torch.bool)
        mask[torch.arange(7), torch.from_numpy(rng.integers(0, 20, 7))] = True
        assert not family.contains(mask.reshape(-1)) or float(gain[mask.reshape(-1)].sum()) <= found.bound
    small = MultipleChoice(
        [torch.zeros(6)] * 4, 40.0, [(a, b, torch.outer(width[:6], width[:6])) for a, b, _ in pairs[:6]]
    )
    problem = Problem(Linear(-gain.reshape(7, 20)[:4, :6].reshape(-1)), Masks(small))
    assert Highs().solve(problem).value == pytest.approx(Oracle().solve(problem).value, rel=1e-9)


def test_loosened_costs_bracket_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_module, "_LARGEST", 5)  # everything is too wide
    for seed in range(4):
        family = coupled(seed, 1 + seed % 2)
        members = members_of(family)
        for trial in range(20):
            gain = torch.from_numpy(np.random.default_rng(trial).standard_normal(8))
            best = float((members.double() @ gain).max()) if len(members) else -math.inf
            try:
                found = family.select(gain)
            except SolverFailure as error:
                assert "none was ruled out" in str(error)
                continue
            assert found.bound >= best
            assert found.bound == -math.inf or (family.contains(found.mask) and found.value <= best + 1e-12)


def test_what_follows_from_a_fixing() -> None:
    family = MultipleChoice([[0.0, 1.0, 5.0], [0.0, 2.0], [1.0]], 3.0)
    none = torch.zeros(6, dtype=torch.bool)
    on, off = family.propagate(none, none)
    assert off.tolist() == [False, False, True, False, False, False] and on.tolist() == [False] * 5 + [True]
    kept = none.clone()
    kept[4] = True
    on, off = family.propagate(kept, none)
    assert on.tolist() == [True, False, False, False, True, True]
