"""Exact transposable masks of blocks: against the linear program, by their own certificates, on every kind of block."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from mipprune.kernels import compiling, transport, transport_repair
from mipprune.kernels.transport import Transport, solve_blocks
from mipprune.kernels.transport_batched import sweep_batched
from mipprune.kernels.transport_codes import encode
from mipprune.kernels.transport_network import selection_network

FAMILIES = (
    "gaussian",
    "t3",
    "lognormal",
    "scaled",
    "bf16",
    "integers",
    "constant",
    "zeros",
    "padded",
    "signed",
    "rank one",
)


def make(family: str, blocks: int, size: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    normal = rng.standard_normal((blocks, size, size))
    if family == "padded":
        normal[:, size // 2 + 1 :, :] = 0.0
        normal[:, :, size - 1 :] = 0.0
    scores = {
        "gaussian": lambda: np.abs(normal),
        "t3": lambda: np.abs(rng.standard_t(3, normal.shape)),
        "lognormal": lambda: np.exp(3.0 * normal),
        "scaled": lambda: np.abs(normal) * np.exp(rng.standard_normal((blocks, 1, size))),
        "bf16": lambda: torch.from_numpy(np.abs(normal)).bfloat16().float().numpy(),
        "integers": lambda: rng.integers(0, 17, normal.shape),
        "constant": lambda: np.full(normal.shape, 0.3),
        "zeros": lambda: np.zeros(normal.shape),
        "padded": lambda: np.abs(normal),
        "signed": lambda: normal,
        "rank one": lambda: np.abs(normal[:, :, :1] * normal[:, :1, :]),
    }[family]()
    return torch.from_numpy(np.asarray(scores, dtype=np.float32))


def linear_program(scores: Tensor, count: int, at_most: bool) -> float:
    """Optimum of one block by the dual simplex of HiGHS."""
    size = len(scores)
    lines = sp.vstack(
        [sp.kron(sp.eye(size), np.ones((1, size))), sp.kron(np.ones((1, size)), sp.eye(size))], format="csr"
    )
    rows = {"A_ub": lines, "b_ub": np.full(2 * size, count)}
    if not at_most:
        rows = {"A_eq": lines, "b_eq": np.full(2 * size, count)}
    return -float(linprog(-scores.double().numpy().ravel(), bounds=(0, 1), method="highs-ds", **rows).fun)


def bounds(scores: Tensor, found: Transport, count: int) -> Tensor:
    reduced = scores.double() - found.rows.unsqueeze(2) - found.columns.unsqueeze(1)
    return count * (found.rows.sum(1) + found.columns.sum(1)) + reduced.clamp_min(0).sum((1, 2))


def values(scores: Tensor, found: Transport) -> Tensor:
    return (scores.double() * found.mask).sum((1, 2))


def assert_optimal(scores: Tensor, found: Transport, count: int, at_most: bool) -> None:
    """Admissible masks whose potentials prove them optimal, block by block."""
    lines = torch.cat([found.mask.sum(1), found.mask.sum(2)], dim=1)
    assert bool((lines <= count).all() if at_most else (lines == count).all())
    if at_most:
        assert bool((found.rows >= 0).all() and (found.columns >= 0).all())
    scale = scores.double().abs().flatten(1).sum(1) + 1e-300
    gap = bounds(scores, found, count) - values(scores, found)
    assert bool((gap >= -1e-12 * scale).all())
    assert bool((gap <= 1e-12 * scale).all()), f"largest gap {float((gap / scale).max())}"


def test_completing_a_mask_can_cost_value() -> None:
    scores = torch.tensor([[[0.0, 0, 1], [1, 1, 0], [1, 1, 0]]])
    assert float(values(scores, solve_blocks(scores, 2))) == 4.0
    assert float(values(scores, solve_blocks(scores, 2, at_most=True))) == 5.0


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 16, 32, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_is_proved_optimal(family: str, size: int) -> None:
    blocks = max(2, 2048 // size**2)
    for count, at_most in itertools.product(sorted({1, size // 4 or 1, size // 2, size - 1}), (False, True)):
        scores = make(family, blocks, size)
        found = solve_blocks(scores, count, at_most=at_most)
        assert bool(found.feasible.all())
        assert_optimal(scores, found, count, at_most)


@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize("size", [3, 4, 8, 16])
def test_values_are_those_of_the_linear_program(size: int, at_most: bool) -> None:
    for family in FAMILIES:
        scores = make(family, 2, size, seed=1)
        for count in sorted({1, size // 2, size - 1}):
            found = values(scores, solve_blocks(scores, count, at_most=at_most))
            best = [linear_program(block, count, at_most) for block in scores]
            np.testing.assert_allclose(found.numpy(), best, rtol=1e-9, atol=1e-9, err_msg=f"{family} {count}")


@given(seed=st.integers(0, 10**6), size=st.sampled_from([3, 4, 6]), levels=st.sampled_from([1, 2, 4]))
def test_tied_blocks_with_fixed_entries_are_optimal(seed: int, size: int, levels: int) -> None:
    """Few distinct scores, of any sign, and entries fixed at random: the value is that of the linear program."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(-levels, levels + 1, (1, size, size)).astype(np.float32))
    fixed = torch.from_numpy(
        (rng.integers(-1, 2, (1, size, size)) * (rng.random((1, size, size)) < 0.2)).astype(np.int8)
    )
    count, at_most = 1 + seed % (size - 1), bool(seed % 2)
    found = solve_blocks(scores, count, at_most=at_most, fixed=fixed)
    pushed = linear_program(scores[0] + 1000.0 * fixed[0], count, at_most) - 1000.0 * int((fixed > 0).sum())
    if bool(found.feasible.all()):
        assert bool(found.mask[fixed > 0].all()) and not bool(found.mask[fixed < 0].any())
        assert float(values(scores, found)) == pytest.approx(pushed, abs=1e-6)
    else:
        assert pushed < -500.0 or at_most


def test_one_per_line_is_assignment() -> None:
    scores = make("gaussian", 20, 8)
    found = values(scores, solve_blocks(scores, 1))
    for block, value in zip(scores.numpy(), found.tolist(), strict=True):
        rows, columns = linear_sum_assignment(block, maximize=True)
        assert value == pytest.approx(float(block[rows, columns].sum(dtype=np.float64)), rel=1e-12)


def test_two_of_four_against_all_ninety_patterns() -> None:
    lines = [np.array([i in chosen for i in range(4)]) for chosen in itertools.combinations(range(4), 2)]
    grids = (np.array(rows) for rows in itertools.product(lines, repeat=4))
    patterns = np.array([grid for grid in grids if (grid.sum(axis=0) == 2).all()])
    assert len(patterns) == 90
    scores = make("t3", 500, 4)
    best = (scores.double().reshape(-1, 16) @ torch.from_numpy(patterns.reshape(90, 16).T.astype(float))).amax(1)
    torch.testing.assert_close(values(scores, solve_blocks(scores, 2)), best, rtol=1e-12, atol=0)


@given(seed=st.integers(0, 10**6), size=st.sampled_from([3, 4, 5, 8]), at_most=st.booleans())
def test_symmetries(seed: int, size: int, at_most: bool) -> None:
    family = FAMILIES[seed % len(FAMILIES)]
    scores, count = make(family, 3, size, seed), 1 + seed % (size - 1)
    best = values(scores, solve_blocks(scores, count, at_most=at_most))
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(size, generator=generator) for _ in range(2))
    moved = scores.mT[:, rows][:, :, columns].contiguous() * 4.0
    assert torch.allclose(values(moved, solve_blocks(moved, count, at_most=at_most)), 4.0 * best, rtol=1e-9)
    if at_most:
        assert bool((best >= values(scores, solve_blocks(scores, count)) - 1e-9 * best.abs()).all())
        return
    shifted = scores.double() + torch.randn(3, size, 1, generator=generator).double()
    change = (shifted - scores).sum((1, 2)) * count / size
    assert torch.allclose(values(shifted, solve_blocks(shifted, count)), best + change, rtol=1e-9, atol=1e-9)
    pruned = (scores.double() * ~solve_blocks(-scores, size - count).mask).sum((1, 2))
    assert torch.allclose(pruned, best, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize("size", [3, 8, 32])
def test_torch_and_compiled_sweeps_agree_bit_for_bit(size: int, at_most: bool, device: torch.device) -> None:
    for family, first in itertools.product(("gaussian", "bf16", "integers", "zeros", "signed"), (0, 6)):
        codes = encode(make(family, 30, size), at_most)
        zero = torch.zeros(30, size, dtype=torch.int32)
        settings = {"first_sweep": first, "eager_at": first + 6, "sweeps": 20, "balance_at": 5}
        compiled = transport._sweep_compiled(
            codes.values, size // 2, zero.clone(), zero.clone(), at_most=at_most, **settings
        )
        there = [x.to(device) for x in (codes.values, zero, zero)]
        batched = sweep_batched(there[0], size // 2, *there[1:], at_most=at_most, **settings)
        for mine, theirs in zip(compiled, batched, strict=True):
            assert torch.equal(mine, theirs.cpu())


@pytest.mark.parametrize("size", [4, 5, 16, 32])
def test_masks_on_any_device_are_proved_and_worth_the_same(size: int, device: torch.device) -> None:
    for family, at_most in itertools.product(("gaussian", "bf16", "zeros"), (False, True)):
        scores = make(family, 20, size, seed=3)
        here, there = (solve_blocks(x, size // 2, at_most=at_most) for x in (scores, scores.to(device)))
        found = Transport(*(part.cpu() for part in there))
        assert_optimal(scores, found, size // 2, at_most)
        torch.testing.assert_close(values(scores, here), values(scores, found), rtol=1e-12, atol=0)


def test_without_numba_everything_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = make("integers", 4, 5)
    compiled = [solve_blocks(scores, 2, at_most=at_most) for at_most in (False, True)]
    monkeypatch.setattr(transport, "has_numba", lambda: False)
    monkeypatch.setattr(compiling, "has_numba", lambda: False)
    try:
        importlib.reload(transport_repair)
        assert not hasattr(transport_repair._run, "py_func")
        plain = [solve_blocks(scores, 2, at_most=at_most) for at_most in (False, True)]
    finally:
        monkeypatch.undo()
        importlib.reload(transport_repair)
    for at_most, mine, theirs in zip((False, True), compiled, plain, strict=True):
        assert_optimal(scores, theirs, 2, at_most)
        assert torch.equal(values(scores, mine), values(scores, theirs))


def test_starting_from_the_last_potentials_saves_sweeps() -> None:
    scores = make("gaussian", 200, 16)
    for at_most in (False, True):
        first = solve_blocks(scores, 8, at_most=at_most)
        noise = torch.from_numpy(np.random.default_rng(5).standard_normal(scores.shape)).float()
        near = scores * (1 + 0.001 * noise)
        cold = solve_blocks(near, 8, at_most=at_most)
        warm = solve_blocks(near, 8, at_most=at_most, start=(first.rows, first.columns))
        assert_optimal(near, warm, 8, at_most)
        assert warm.sweeps.double().mean() <= 0.5 * cold.sweeps.double().mean()


def test_wild_starts_do_no_harm() -> None:
    scores = make("t3", 20, 8)
    for at_most in (False, True):
        start = torch.full((20, 8), 1e30, dtype=torch.float64), torch.full((20, 8), float("nan"), dtype=torch.float64)
        exact = solve_blocks(scores, 3, at_most=at_most, start=start)
        assert_optimal(scores, exact, 3, at_most)
        assert torch.equal(exact.mask, solve_blocks(scores, 3, at_most=at_most, start=start, rest="complete").mask)


@pytest.mark.parametrize("at_most", [False, True])
def test_a_few_sweeps_give_good_masks_and_say_how_good(at_most: bool) -> None:
    for family, size in itertools.product(("gaussian", "t3", "scaled"), (8, 16, 32)):
        scores = make(family, 40, size)
        for count in (size // 2, size // 4):
            found = solve_blocks(scores, count, at_most=at_most, sweeps=8, rest="round")
            lines = torch.cat([found.mask.sum(1), found.mask.sum(2)], dim=1)
            assert bool((lines <= count).all() if at_most else (lines == count).all())
            total, bound = float(values(scores, found).sum()), float(bounds(scores, found, count).sum())
            assert total <= bound * (1 + 1e-12)
            if not at_most:
                assert (bound - total) / bound <= 1e-4, f"{family} {count}:{size}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [2, 5, 8, 16, 32])
def test_paths_complete_what_any_number_of_sweeps_leaves(family: str, size: int) -> None:
    scores = make(family, 400 // size, size)
    for count in sorted({1, size // 2, size - 1} - {0}):
        exact = solve_blocks(scores, count)
        for sweeps in (0, 1, 3, None):
            start = None if sweeps is None else (torch.zeros(len(scores), size, dtype=torch.float64),) * 2
            found = solve_blocks(scores, count, start=start, sweeps=sweeps, rest="complete")
            lines = torch.cat([found.mask.sum(1), found.mask.sum(2)], dim=1)
            assert bool((lines == count).all())
            torch.testing.assert_close(values(scores, found), values(scores, exact), rtol=1e-9, atol=1e-9)
            if family in ("gaussian", "t3", "scaled"):  # without ties
                assert torch.equal(found.mask, exact.mask)
                gap = bounds(scores, found, count) - values(scores, found)
                assert bool((gap <= 1e-9 * scores.double().abs().flatten(1).sum(1)).all())
            assert sweeps is None or bool((found.sweeps <= sweeps).all())


@pytest.mark.parametrize("size", [5, 16, 130])
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e150, 1.7e308])
def test_paths_complete_blocks_of_any_magnitude(size: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(size)
    for levels in (4, 0):
        first = torch.rand(4, size, size, dtype=torch.float64, generator=generator)
        first = (first * levels).round() / levels if levels else first
        later = first * (0.7 + 0.3 * torch.rand(first.shape, dtype=torch.float64, generator=generator))
        potentials = solve_blocks(first * scale, size // 2)[1:3]
        found = solve_blocks(later * scale, size // 2, start=potentials, rest="complete")  # type: ignore[arg-type]
        assert bool((torch.cat([found.mask.sum(1), found.mask.sum(2)]) == size // 2).all())
        exact = solve_blocks(later * scale, size // 2)
        torch.testing.assert_close(values(later, found), values(later, exact), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize(("count", "size"), [(2, 4), (1, 4), (3, 4), (1, 3), (1, 2)])
def test_small_blocks_are_rounded_to_their_best_mask(count: int, size: int) -> None:
    for family in ("gaussian", "integers", "zeros", "signed"):
        scores = make(family, 200, size)
        rounded, exact = solve_blocks(scores, count, sweeps=1, rest="round"), solve_blocks(scores, count)
        torch.testing.assert_close(values(scores, rounded), values(scores, exact), rtol=1e-6, atol=1e-6)


def test_fixed_entries_and_impossible_ones() -> None:
    scores = make("gaussian", 40, 4)
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randint(-1, 2, scores.shape, generator=generator, dtype=torch.int8)
    fixed *= (torch.rand(scores.shape, generator=generator) < 0.5).to(torch.int8)
    for at_most in (False, True):
        found = solve_blocks(scores, 2, at_most=at_most, fixed=fixed)
        for block, signs, mask, feasible in zip(scores, fixed, found.mask, found.feasible.tolist(), strict=True):
            pushed = linear_program(block + 100.0 * signs, 2, at_most) - 100.0 * int((signs > 0).sum())
            possible = pushed > -50.0
            if at_most:  # what must not be kept costs nothing to leave
                possible = bool(((signs > 0).sum(0) <= 2).all() and ((signs > 0).sum(1) <= 2).all())
            assert feasible == possible
            if feasible:
                assert bool(mask[signs > 0].all()) and not bool(mask[signs < 0].any())
                assert float(block[mask].sum()) == pytest.approx(pushed, abs=1e-4)
    assert {True, False} == set(found.feasible.tolist())


@pytest.mark.parametrize("size", [2, 5, 8, 16])
def test_selection_networks(size: int, rng: np.random.Generator) -> None:
    for count in range(1, size):
        keys = rng.integers(0, 6, (size, 100))
        expected = -np.sort(-keys, axis=0)
        for a, b in selection_network(size, count):
            keys[a], keys[b] = np.maximum(keys[a], keys[b]), np.minimum(keys[a], keys[b])
        assert (keys[count - 1 : count + 1] == expected[count - 1 : count + 1]).all()


def test_extreme_counts_and_magnitudes() -> None:
    scores = make("signed", 6, 4)
    for at_most in (False, True):
        for count in (0, 4):
            assert_optimal(scores, solve_blocks(scores, count, at_most=at_most), count, at_most)
        for factor in (1e-38, 1e36):
            assert_optimal(scores * factor, solve_blocks(scores * factor, 2, at_most=at_most), 2, at_most)
        wide = scores.double() * 1e300
        assert_optimal(wide, solve_blocks(wide, 2, at_most=at_most), 2, at_most)
    assert solve_blocks(torch.zeros(0, 4, 4), 2).mask.shape == (0, 4, 4)
