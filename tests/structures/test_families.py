"""Every family of supports against enumeration, alone and inside every adapter."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from typing import Any

import pytest
import torch

import mipprune.structures
from mipprune import (
    Budgets,
    Cardinality,
    Groups,
    InvalidProblem,
    Linear,
    Masks,
    NofM,
    PerRow,
    Problem,
    Sparse,
    Supports,
)
from mipprune import TransposableNofM as Transposable
from mipprune.structures import ALL, Antichain, AnySupport, Rooted, Stable
from mipprune.structures.multiple_choice import MultipleChoice
from mipprune.testing import check_problem, check_structure, check_supports

SCATTERED = torch.tensor([0, 2, 1, 0])
FREQUENCIES = torch.tensor([[5, 1, 3, 0], [2, 2, 7, 1]])
COUPLED = [[[0, 1], [1, 0], [2, 2]], [[0, 3], [2, 1]], [[1, 1], [1, 2], [0, 0]]]
FAMILIES: list[tuple[Supports, tuple[int, ...]]] = [
    (Cardinality(3), (2, 4)),
    (Cardinality(0), (2, 2)),
    (Cardinality(99), (1, 5)),
    (Cardinality(3), (7,)),
    (PerRow(1), (2, 4)),
    (PerRow(3), (3, 3)),
    (NofM(2, 4), (2, 4)),
    (NofM(1, 2), (2, 4)),
    (NofM(3, 3), (1, 6)),
    (Groups(2, 1), (2, 4)),
    (Groups(SCATTERED, 2), (2, 4)),
    (Groups(torch.tensor([0, 5, 5]), 1), (3, 3)),
    (Groups(1, 0), (1, 4)),
    (Stable(3, FREQUENCIES, 9), (2, 4)),
    (Stable(3, FREQUENCIES, 15), (2, 4)),
    (Stable(4, torch.tensor([1, 1, 1, 1, 1, 0]), 3), (6,)),
    (Transposable(1, 2), (2, 4)),
    (Transposable(1, 3, "at_most"), (3, 3)),
    (Transposable(2, 3), (3, 3)),
    (Transposable(1, 2), (3, 3)),
    (MultipleChoice([[0.0, 1.0, 2.0], [0.0, 2.0, 3.0], [0.0, 1.0]], 4.0), (8,)),
    (
        MultipleChoice(COUPLED, [6, 7], [(0, 1, torch.arange(12).reshape(3, 2, 2) % 3), (2, 0, torch.ones(3, 3, 2))]),
        (8,),
    ),
    (AnySupport(), (2, 3)),
    (Budgets([3, 3], [[1, 1], [10, 1]], [3, 12]), (2, 3)),
    (Budgets([4, 3, 4], [[1, 1, 1], [10, 1, 3]], [6, 33], lower=[1, 0, 1], upper=[2, 2, 3]), (11,)),
    (Budgets([4, 2, 4], [0.1, 0.2, 0.3], 0.9), (10,)),
    (Budgets([3, 4, 3], [[1, 1, 1], [10, 1, 3], [0, 5, 2]], [7, 33, 20]), (10,)),
    (AnySupport(), (5,)),
    (Antichain(torch.tensor([-1, 0, 0, -1, 3, 4, 4])), (7,)),
    (Antichain(torch.tensor([-1, 0, 0, -1, 3, 4, 4]), 2), (7,)),
    (Rooted(torch.tensor([-1, 0, 0, -1, 3, 4, 4])), (7,)),
]


def name(case: Any) -> str:
    return f"{case.describe()}" if isinstance(case, Supports) else str(case)


@pytest.mark.parametrize(("supports", "shape"), FAMILIES, ids=name)
def test_a_family_keeps_its_promises(supports: Supports, shape: tuple[int, ...]) -> None:
    supports.check_shape(shape)
    check_supports(supports, shape, trials=5)


@pytest.mark.parametrize(("supports", "shape"), [FAMILIES[i] for i in (0, 4, 7, 9, 13)], ids=name)
def test_a_restricted_family_keeps_its_promises(supports: Supports, shape: tuple[int, ...]) -> None:
    on, off = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    on[0, 1] = off[0, 3] = True
    check_supports(supports.restrict(on, off), shape, trials=3)


SMALL = [
    Cardinality(3),
    PerRow(2),
    NofM(1, 3),
    Groups(torch.tensor([0, 1, 0]), 1),
    Stable(3, FREQUENCIES[:, :3], 8),
    Transposable(1, 2),
    Transposable(1, 2, "at_most"),
]
PRICES = torch.tensor([[0.0, 0.3, 0.1], [1.0, 0.2, 0.05]])
LOWER, UPPER = -torch.tensor([[0.3, 0.0, 1.0], [2.0, 0.5, 0.1]]), torch.tensor([[0.2, 1.0, 0.4], [0.3, 0.1, 2.0]])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "price": {"price": 0.2},
    "prices": {"price": PRICES},
    "box": {"box": 0.5},
    "sides and prices": {"box": (LOWER, UPPER), "price": PRICES},
    "sign": {"box": (0.0, math.inf)},
    "box without zero": {"box": (0.25, 2.0), "price": 0.1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("supports", SMALL, ids=name)
def test_weights_on_a_family(supports: Supports, options: dict[str, Any]) -> None:
    check_structure(Sparse(supports, **options), (2, 3), trials=2)


@pytest.mark.parametrize("supports", SMALL, ids=name)
def test_masks_of_a_family(supports: Supports) -> None:
    check_structure(Masks(supports), (2, 3), trials=3)
    score = torch.randn(2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    check_problem(Problem(Linear(-score, 1.0), Masks(supports)), trials=3)


def test_the_tuple_of_all_families_is_complete() -> None:
    """Every concrete family in the modules is in ALL, is exported, and is tested above."""
    found = set()
    for module in pkgutil.iter_modules(mipprune.structures.__path__, "mipprune.structures."):
        for value in vars(importlib.import_module(module.name)).values():
            own = inspect.isclass(value) and value.__module__ == module.name and not value.__name__.startswith("_")
            if own and issubclass(value, Supports) and not inspect.isabstract(value):
                found.add(value)
    assert found == set(ALL)
    assert {kind.__name__ for kind in ALL} <= set(mipprune.structures.__all__)
    assert {type(supports) for supports, _ in FAMILIES} == set(ALL)


# ------------------------------------------------------------------------------------------------ refused data


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cardinality(-1), "whole number"),
        (lambda: PerRow(1.5), "whole number"),
        (lambda: PerRow(True), "whole number"),
        (lambda: NofM(3, 2), "n <= m"),
        (lambda: NofM(0, 2), "n <= m"),
        (lambda: Groups(0, 1), "at least 1"),
        (lambda: Groups(torch.tensor([0.5, 1.0]), 1), "group numbers"),
        (lambda: Groups(torch.tensor([-1, 0]), 1), "group numbers"),
        (lambda: NofM(2, 4).check_shape((2, 6)), "divisible by 4"),
        (lambda: Groups(4, 1).check_shape((2, 6)), "do not divide"),
        (lambda: Groups(SCATTERED, 1).check_shape((2, 6)), "4 group labels"),
        (lambda: Groups(1, 1).check_shape(()), "at least one axis"),
    ],
)
def test_what_is_no_family_is_refused(build: Any, message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        build()


def test_a_count_beyond_the_entries_is_no_constraint() -> None:
    gain = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    for supports in (Cardinality(100), PerRow(100), NofM(4, 4), Groups(2, 100)):
        assert bool(supports.keep(gain).all())


def test_ties_go_to_the_lower_index_in_every_precision() -> None:
    gain = torch.ones(2, 4)
    for kind in (torch.float32, torch.float64):
        assert PerRow(2).keep(gain.to(kind)).tolist() == [[True, True, False, False]] * 2
        assert Cardinality(3).keep(gain.to(kind)).tolist() == [[True, True, True, False], [False] * 4]


@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold_for_many_entries_of_very_different_size(seed: int) -> None:
    """Exactly rounded sums against the stated bound, where naive summation is off by many units."""
    generator = torch.Generator().manual_seed(seed)
    gain = torch.randn(50, 64, generator=generator, dtype=torch.float64).exp().pow(8)
    for supports in (Cardinality(700), PerRow(20), NofM(2, 4), Groups(8, 3)):
        found = supports.select(gain)
        value = math.fsum(gain[found.mask].tolist())
        assert value <= found.bound <= value * (1 + 1e-11)


@pytest.mark.parametrize(
    ("supports", "shape"), [case for case in FAMILIES if not isinstance(case[0], Transposable)], ids=name
)
def test_fixings_that_are_no_masks_of_one_shape_are_refused(supports: Supports, shape: tuple[int, ...]) -> None:
    """They would be broadcast, or end in an error of torch wherever they are used first."""
    none, first = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    first.view(-1)[0] = True
    for on, off in ((none, none[..., :-1]), (none.unsqueeze(0), none), (none, none + 0.5), (none, "off"), (None, none)):
        with pytest.raises(InvalidProblem, match=r"^(on|off) "):
            supports.restrict(on, off)  # type: ignore[arg-type]
    wide = torch.zeros((1, *shape, 3), dtype=torch.bool)
    with pytest.raises(InvalidProblem):
        supports.restrict(none, first).restrict(wide, wide)
    if not isinstance(supports, Groups):  # whose fixings are those of columns, whatever stands before
        with pytest.raises(InvalidProblem):
            supports.restrict(none, first).select(torch.zeros(wide.shape, dtype=torch.float64))
    gain = torch.arange(1.0, 1 + first.numel(), dtype=torch.float64).reshape(shape)
    as_numbers = supports.restrict(none.int(), first.double())
    assert torch.equal(as_numbers.keep(gain), supports.restrict(none, first).keep(gain))
