"""Masks of one iteration after another: each from the last potentials, in few sweeps, and optimal all the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import mipprune as mp
from mipprune import ADMM, TransposableNofM
from mipprune.formulations import layerwise
from mipprune.kernels.compiling import has_numba
from mipprune.kernels.transport import Transport
from tests.layers import cached_layer


@dataclass(frozen=True, eq=False)
class Counting(TransposableNofM):
    """Writes down the sweeps of all blocks in every call; cold ones sweep each from nothing until it settles."""

    log: list[Tensor] = field(default_factory=list)
    cold: bool = False

    def solve(self, gain: Tensor, start: tuple[Tensor, Tensor] | None = None, **settings: Any) -> Transport:
        found = super().solve(gain) if self.cold else super().solve(gain, start, **settings)
        self.log.append(found.sweeps)
        return found


def kept(gain: Tensor, mask: Tensor) -> float:
    return float(gain.double()[mask].sum())


@pytest.mark.skipif(not has_numba(), reason="without numba all projections sweep until they settle")
@pytest.mark.parametrize(
    ("n", "m", "most"), [(2, 4, 1), (1, 3, 1), (4, 8, 2), (4, 16, 2), (16, 32, 3), (20, 64, 4), (9, 33, 4)]
)
def test_few_sweeps_and_the_same_masks(n: int, m: int, most: int) -> None:
    family = Counting(n, m)
    keep = family.keeper()
    generator = torch.Generator().manual_seed(11)
    gain = torch.randn(130, 100, generator=generator).abs()  # m does not divide the sides
    for step in range(6):
        mask = keep(gain)
        assert step == 0 or int(family.log[-1].max()) <= most
        assert torch.equal(mask, TransposableNofM(n, m).keep(gain))
        gain = gain * (1 + 0.2 * torch.randn(130, 100, generator=generator))


@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1, 2, 3, 4, 5, 8, 17]),
    sense=st.sampled_from(["exact", "at_most"]),
    kind=st.sampled_from(["normal", "ties", "zeros", "wide", "constant", "double", "elsewhere"]),
    fixed=st.booleans(),
)
def test_a_run_of_any_gains_is_exact(seed: int, size: int, sense: str, kind: str, fixed: bool) -> None:
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
            "double": normal.double() * 1e200,
            "elsewhere": normal * 10.0 ** (12 * (step % 2)) + 1e6 * (step % 3),
        }[kind]
        mask = keep(gain)
        assert family.violation(mask) == 0
        assert kept(gain, mask) == pytest.approx(kept(gain, family.keep(gain)), rel=1e-9, abs=1e-12)


def test_another_shape_starts_anew() -> None:
    keep = TransposableNofM(2, 5).keeper()
    for shape in ((10, 10), (5, 20), (20, 5), (7, 7)):
        assert keep(torch.ones(shape)).shape == shape


@pytest.mark.skipif(not has_numba(), reason="without numba all projections sweep until they settle")
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (8, 16), (16, 32)])
def test_admm_takes_half_the_sweeps_and_ends_at_the_same_point(n: int, m: int) -> None:
    weight, gram = cached_layer(96, 96, 384, 0)
    sweeps, found = {}, {}
    for cold in (False, True):
        family = Counting(n, m, cold=cold)
        solution = found[cold] = ADMM().solve(layerwise(weight, gram, family))
        assert solution.violation == 0 and solution.mask is not None and family.contains(solution.mask)
        sweeps[cold] = sum(float(each.double().mean()) for each in family.log)
    assert sweeps[False] <= 0.5 * sweeps[True]
    assert found[False].value == pytest.approx(found[True].value, rel=1e-9)


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
