"""Supports that share: the oracle against every mask, its bound at random multipliers, its fixings."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune.errors import InvalidProblem
from mipprune.structures import SharedSupports


def masks_of(structure: SharedSupports, size: int) -> torch.Tensor:
    """All masks within the budgets and the fixings, from their definition."""
    masks = mp.testing.enumerate_masks((size,))
    inside = (masks.reshape(len(masks), structure.tasks, -1).sum(dim=2) <= structure.count).all(dim=1)
    if structure.on is not None and structure.off is not None:
        inside &= (masks | ~structure.on).all(dim=1) & ~(masks & structure.off).any(dim=1)
    return masks[inside]


def charges_of(structure: SharedSupports, masks: torch.Tensor) -> torch.Tensor:
    z = masks.double().reshape(len(masks), structure.tasks, -1)
    return 0.5 * structure.weight * (z - z.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2))


def test_the_price_is_the_squared_distance_from_the_mean() -> None:
    for mask in mp.testing.enumerate_masks((12,))[::37]:
        z = mask.double().reshape(3, 4)
        expected = 0.35 * float((z - z.mean(dim=0)).square().sum())
        tight = SharedSupports(3, 4, 0.7).restrict(mask, ~mask)
        assert tight.price(mask.double()) == pytest.approx(expected, abs=1e-14)


def test_the_price_is_that_of_the_cheapest_mask_around_the_support() -> None:
    for count in (1, 2, 3):
        structure = SharedSupports(3, count, 1.0)
        masks = masks_of(structure, 9)
        charges = charges_of(structure, masks)
        for mask in masks[::5]:
            around = charges[(masks | ~mask).all(dim=1)]
            assert structure.price(mask.double()) == pytest.approx(float(around.min()), abs=1e-14)
    many = torch.zeros(2, 40)  # greedily
    many[0, :20] = 1.0
    assert SharedSupports(2, 20, 1.0).price(many.reshape(-1)) == 0.0
    many[1, 20:30] = 1.0
    assert SharedSupports(2, 20, 1.0).price(many.reshape(-1)) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("tasks", "columns", "count"), [(2, 4, 1), (3, 3, 2), (3, 4, 2), (4, 2, 1), (1, 5, 2), (3, 3, 0)]
)
def test_bounds_are_never_below_the_best_mask(tasks: int, columns: int, count: int) -> None:
    """With and without fixings, at the oracle's own and at random multipliers; the mask found is seldom second."""
    rng, missed, trials = np.random.default_rng(tasks * columns), 0, 60
    size = tasks * columns
    for trial in range(trials):
        structure = SharedSupports(tasks, count, float(rng.choice([0.0, 0.3, 2.0, 50.0])))
        if trial % 2:
            flags = torch.from_numpy(rng.choice(3, size=size, p=[0.7, 0.15, 0.15]))
            structure = structure.restrict(flags == 1, flags == 2)
        linear = torch.from_numpy(np.round(rng.normal(size=size), 1 if trial % 3 else 9) * 10.0 ** (trial % 5 - 2))
        model = mp.core.separable.Separable(
            constant=0.0, linear=linear, curvature=torch.ones(size, dtype=torch.float64)
        )
        masks = masks_of(structure, size)
        found = structure.argmin(model)
        if len(masks) == 0:
            assert found.bound == math.inf
            continue
        best = float((charges_of(structure, masks) - masks.double() @ (0.5 * linear.square())).min())
        assert found.bound <= best + 1e-14 * abs(best)
        assert structure.violation(found.point) == 0
        assert model.value(found.point) + structure.price(found.point) >= best - 1e-12 * abs(best)
        missed += found.value > best + 1e-9 * abs(best)
        random = torch.from_numpy(rng.exponential(size=tasks))
        assert structure.argmin_bound(model, random) <= best + 1e-14 * abs(best)
        assert structure.argmin_bound(model, None) <= best + 1e-14 * abs(best)
    assert missed <= trials // 5


def test_bounds_hold_in_exact_arithmetic() -> None:
    """Gains over many orders of magnitude, tied ones, stated rounding of the slopes, extreme prices and multipliers."""
    rng = np.random.default_rng(11)
    for _ in range(150):
        tasks = int(rng.integers(1, 4))
        columns = int(rng.integers(1, 9 // tasks + 1))
        size, count = tasks * columns, int(rng.integers(0, columns + 1))
        weight = float(rng.choice([0.0, 1e-12, 0.1, 1.0, 1e3, 1e8]))
        structure = SharedSupports(tasks, count, weight)
        linear = rng.normal(size=size) * 10.0 ** rng.integers(-9, 9, size=size if rng.random() < 0.5 else 1)
        linear = np.round(linear) if rng.random() < 0.4 else linear
        curvature = float(rng.choice([1.0, 0.3]))
        model = mp.core.separable.Separable(
            constant=0.0,
            linear=torch.from_numpy(linear),
            curvature=torch.full((size,), curvature, dtype=torch.float64),
            linear_error=torch.from_numpy(1e-10 * np.abs(linear)) if rng.random() < 0.3 else None,
        )
        masks = masks_of(structure, size)
        estimates = charges_of(structure, masks) - masks.double() @ (0.5 / curvature * model.linear.square())
        best = min(
            Fraction(weight) / 2 * sum(Fraction(m) - Fraction(m * m, tasks) for m in kept.sum(axis=0).tolist())
            - sum((Fraction(float(a)) ** 2 / (2 * Fraction(curvature)) for a in linear[kept.reshape(-1)]), Fraction(0))
            for kept in (
                masks[i].reshape(tasks, columns).numpy()
                for i in estimates.topk(min(5, len(masks)), largest=False).indices
            )
        )
        found = structure.argmin(model)
        random = torch.from_numpy(rng.exponential(size=tasks) * 10.0 ** rng.integers(-3, 6))
        for bound in (found.bound, structure.argmin_bound(model, None), structure.argmin_bound(model, random)):
            assert Fraction(bound) <= best


def test_fixing_everything_makes_the_bound_the_value() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.randn(9, generator=generator, dtype=torch.float64)
    model = mp.core.separable.Separable(constant=1.0, linear=linear, curvature=torch.ones(9, dtype=torch.float64))
    for mask in masks_of(SharedSupports(3, 2, 0.3), 9):
        found = SharedSupports(3, 2, 0.3).restrict(mask, ~mask).argmin(model)
        assert found.bound == pytest.approx(found.value, abs=1e-13)
        assert torch.equal(found.point != 0, mask)


def test_structure_keeps_the_contract() -> None:
    for box in (None, 1.5):
        mp.testing.check_structure(SharedSupports(3, 2, 0.4, box), (9,), trials=5)


@pytest.mark.parametrize("change", [{"tasks": 0}, {"count": -1}, {"weight": -1.0}, {"weight": math.inf}])
def test_bad_arguments(change: dict[str, float]) -> None:
    with pytest.raises(mp.errors.InvalidProblem):
        SharedSupports(**{"tasks": 2, "count": 1, "weight": 1.0, **change})  # type: ignore[arg-type]
    with pytest.raises(mp.errors.InvalidProblem, match="one after the other"):
        SharedSupports(2, 1, 1.0).check_shape((3,))


def test_fixings_of_another_shape_are_refused() -> None:
    for structure in (SharedSupports(3, 4, 0.7), SharedSupports(3, 4, 0.7)._family):
        for on, off in ((torch.zeros(6), torch.zeros(5)), (torch.zeros(2, 3), torch.zeros(2, 3))):
            with pytest.raises(InvalidProblem, match="shape"):
                structure.restrict(on, off)
