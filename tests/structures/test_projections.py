"""Projections of one iteration after another: cut short while the masks move, exact when asked and when they settle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mipprune as mp
from mipprune import ADMM, TransposableNofM
from mipprune.core.structure import Keeper
from mipprune.formulations import layerwise
from mipprune.kernels.transport import Transport
from tests.layers import cached_layer


@dataclass(frozen=True, eq=False)
class Counting(TransposableNofM):
    """Writes down the sweeps of all blocks in every call; cold ones start each from nothing."""

    log: list[Tensor] = field(default_factory=list)
    cold: bool = False

    def solve(self, gain: Tensor, start: tuple[Tensor, Tensor] | None = None, **settings: Any) -> Transport:
        found = super().solve(gain, None if self.cold else start, **settings)
        self.log.append(found.sweeps)
        return found


def kept(gain: Tensor, mask: Tensor) -> float:
    return float(gain.double()[mask].sum())


def drifting(keep: Callable[..., Tensor], shape: tuple[int, int], steps: int, change: float) -> tuple[Tensor, Tensor]:
    """Let gains drift; returns the last and the mask for it."""
    generator = torch.Generator().manual_seed(11)
    gain = torch.randn(shape, generator=generator).abs()
    mask = keep(gain, exact=False)
    for _ in range(steps):
        gain = gain * (1 + change * torch.randn(shape, generator=generator))
        mask = keep(gain, exact=False)
    return gain, mask


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3), (4, 8), (4, 16), (16, 32)])
def test_one_sweep_while_the_masks_move_and_an_exact_one_when_asked(n: int, m: int) -> None:
    family = Counting(n, m)
    keep = family.keeper()
    gain, mask = drifting(keep, (70, 100), 4, 0.2)  # m does not divide the sides
    assert all(int(sweeps.max()) <= 1 for sweeps in family.log[1:])
    if m <= 4:  # the best of all masks
        assert kept(gain, mask) == pytest.approx(kept(gain, family.keep(gain)), rel=1e-6)
        assert family.violation(mask) == 0
    else:
        lines = family._lines(mask)
        assert bool((lines != n).any()) and float((lines - n).clamp_min(0).double().mean()) < 0.5
    exact = keep(gain, exact=True)
    assert family.contains(exact) and kept(gain, exact) == pytest.approx(kept(gain, family.keep(gain)), rel=1e-9)


def test_exact_once_they_settle() -> None:
    family = TransposableNofM(8, 16)
    keep = family.keeper()
    gain, _ = drifting(keep, (64, 64), 3, 0.2)
    masks = [keep(gain * (1 + 1e-6 * number), exact=False) for number in range(12)]
    assert family.contains(masks[-1])
    assert kept(gain, masks[-1]) == pytest.approx(kept(gain, family.keep(gain)), rel=1e-9)


def test_at_most_in_small_blocks_is_exact_all_along() -> None:
    family = TransposableNofM(4, 8, "at_most")
    gain, mask = drifting(family.keeper(), (32, 32), 3, 0.3)
    assert family.violation(mask) == 0
    assert kept(gain, mask) == pytest.approx(kept(gain, family.keep(gain)), rel=1e-9)


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([2, 3, 4, 5, 8]),
    sense=st.sampled_from(["exact", "at_most"]),
    kind=st.sampled_from(["normal", "ties", "zeros", "wide", "constant"]),
    fixed=st.booleans(),
)
def test_exact_calls_are_exact_after_any_run(seed: int, size: int, sense: str, kind: str, fixed: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    family = TransposableNofM(1 + seed % size, size, sense)
    if fixed:
        off = torch.zeros(10, 13, dtype=torch.bool)
        off[0, 0] = family.n < size
        family = family.restrict(torch.zeros_like(off), off)
    keep = family.keeper()
    for step in range(5):
        normal = torch.randn(10, 13, generator=generator)
        gain = {
            "normal": normal,
            "ties": (2 * normal).round(),
            "zeros": torch.zeros(10, 13),
            "wide": (12 * normal).exp(),
            "constant": torch.full((10, 13), 0.3),
        }[kind]
        mask = keep(gain, exact=step % 2 == 1)
        if step % 2 == 1 or fixed:
            assert family.violation(mask) == 0
            assert kept(gain, mask) == pytest.approx(kept(gain, family.keep(gain)), rel=1e-9, abs=1e-12)


def test_another_shape_starts_anew() -> None:
    keep: Keeper = TransposableNofM(2, 5).keeper()
    for shape in ((10, 10), (5, 20), (20, 5), (7, 7)):
        assert keep(torch.ones(shape), exact=False).shape == shape


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (8, 16), (16, 32)])
def test_admm_takes_half_the_sweeps_and_is_as_good(n: int, m: int) -> None:
    weight, gram = cached_layer(96, 96, 384, 0)
    sweeps, values = {}, {}
    for name, cold, solver in (
        ("default", False, ADMM()),
        ("exact", False, ADMM(exact_projections=True)),
        ("cold", True, ADMM(exact_projections=True)),
    ):
        family = Counting(n, m, cold=cold)
        solution = solver.solve(layerwise(weight, gram, family))
        assert solution.violation == 0 and solution.mask is not None and family.contains(solution.mask)
        sweeps[name] = sum(float(each.double().mean()) for each in family.log)
        values[name] = solution.value
    assert sweeps["default"] <= 0.5 * sweeps["cold"] and sweeps["exact"] < sweeps["cold"]
    assert values["exact"] == pytest.approx(values["cold"], rel=1e-6)
    assert values["default"] <= 1.003 * values["cold"]  # how far another penalty moves it, too
    assert values["default"] == pytest.approx(values["cold"], rel=1e-6) or m > 4


@pytest.mark.parametrize("iterations", [1, 4, 8])
def test_a_run_cut_off_while_the_masks_move_ends_at_an_admissible_one(iterations: int) -> None:
    weight, gram = cached_layer(96, 96, 384, 0)
    family = TransposableNofM(8, 16)
    problem = layerwise(weight, gram, family)
    limited = ADMM().solve(problem, budget=mp.Budget(iterations=iterations))
    assert limited.stop is mp.Stop.ITERATIONS and limited.mask is not None and family.contains(limited.mask)

    calls = iter([True])

    def interrupt(seconds: float, value: float | None, bound: float | None) -> bool:
        if next(calls, False):
            raise KeyboardInterrupt
        return False

    stopped = ADMM().solve(problem, progress=interrupt)
    assert stopped.stop is mp.Stop.USER and stopped.mask is not None and family.contains(stopped.mask)
