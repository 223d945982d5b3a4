"""Exchanges between the rows of transposable masks: each change by refits, every step admissible, local optimality."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mipprune import TransposableNofM
from mipprune.kernels import block_swaps, block_swaps_batched, swaps, swaps_compiled
from mipprune.kernels.block_swaps import Blocks

LEAST = 1e-9


def make(width: int, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """A well-conditioned H of unit diagonal, and weights."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2 * width + 5, width, generator=generator, dtype=torch.float64)
    inputs[:, 1:] += 0.7 * inputs[:, :-1]
    gram = inputs.T @ inputs
    scale = gram.diagonal().rsqrt()
    gram = scale[:, None] * gram * scale + 0.01 * torch.eye(width, dtype=torch.float64)
    return gram, torch.randn(rows, width, generator=generator, dtype=torch.float64)


class Values:
    """Values of refits by numpy, row by row; rows seen before are remembered."""

    def __init__(self, gram: Tensor, center: Tensor) -> None:
        self.gram, self.center, self.seen = gram.numpy(), center.numpy(), {}

    def row(self, r: int, kept: np.ndarray) -> float:
        key = (r, kept.tobytes())
        if key not in self.seen:
            rest = -self.center[r]
            rest[kept] += np.linalg.solve(self.gram[np.ix_(kept, kept)], self.gram[kept] @ self.center[r])
            self.seen[key] = float(rest @ self.gram @ rest)
        return self.seen[key]

    def __call__(self, mask: Tensor) -> float:
        return sum(self.row(r, kept) for r, kept in enumerate(mask.numpy()))


def neighbours(mask: Tensor, size: int) -> list[Tensor]:
    """Masks that differ in at most two rows and two columns of a block: cycles, exchanges, insertions, removals."""
    found = []
    rows, width = mask.shape
    for top, left in product(range(0, rows, size), range(0, width, size)):
        lines = [(r, c) for r in range(top, min(top + size, rows)) for c in range(left, min(left + size, width))]
        for entry in lines:
            found.append([entry])
        for one, other in combinations(lines, 2):
            if mask[one] != mask[other] and (one[0] == other[0] or one[1] == other[1]):
                found.append([one, other])
            if one[0] < other[0] and one[1] != other[1]:
                cycle = [one, other, (one[0], other[1]), (other[0], one[1])]
                if mask[cycle[0]] == mask[cycle[1]] != mask[cycle[2]] == mask[cycle[3]]:
                    found.append(cycle)
    out = []
    for entries in found:
        trial = mask.clone()
        for entry in entries:
            trial[entry] = ~trial[entry]
        out.append(trial)
    return out


class Instance:
    """A random layer with a random admissible mask and fixings that it satisfies."""

    def __init__(self, n: int, m: int, sense: str, rows: int, width: int, fixed: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        free = TransposableNofM(n, m, sense)
        self.gram, self.center = make(width, rows, seed)
        self.mask = free.keep(torch.rand(rows, width, generator=generator, dtype=torch.float64))
        if sense == "at_most":  # not all lines full
            self.mask &= torch.rand(rows, width, generator=generator) < 0.8
        held = torch.rand(rows, width, generator=generator) < fixed
        self.on, self.off = self.mask & held, ~self.mask & held
        self.supports = free.restrict(self.on, self.off)
        assert self.supports.contains(self.mask)
        self.value = Values(self.gram, self.center)
        self.m, self.slots = m, Blocks(n, m, m, False).slots(width)

    def blocks(self, height: int) -> Blocks:
        return Blocks(self.supports.n, self.m, height, self.supports.at_most)

    def parts(self) -> list[tuple[slice, int]]:
        whole = len(self.mask) // self.m * self.m
        ends = [(slice(0, whole), self.m), (slice(whole, len(self.mask)), len(self.mask) - whole)]
        return [(rows, height) for rows, height in ends if rows.start < rows.stop]

    def search(self, mask: Tensor, *, compiled: bool, limit: int = 10**6) -> int:
        """Search all groups, and return how many exchanges there were."""
        run = block_swaps.search if compiled else block_swaps_batched.search
        made = 0
        for rows, height in self.parts():
            state = swaps.prepare(self.gram, self.center[rows], mask[rows], self.slots)
            fixings = self.on[rows], self.off[rows]
            counts = run(self.gram, state, mask[rows], *fixings, self.blocks(height), limit=limit, least=LEAST)
            assert torch.equal(state.slot >= 0, mask[rows])
            made += int(counts.sum())
        return made


def instances() -> st.SearchStrategy[Instance]:
    def build(m: int, n: int, sense: str, rows: int, width: int, fixed: float, seed: int) -> Instance:
        return Instance(min(n, m), m, sense, rows, width, fixed, seed)

    sizes = st.integers(1, 9)
    senses = st.sampled_from(["exact", "at_most"])
    fixed = st.sampled_from([0.0, 0.0, 0.2, 0.6])
    return st.builds(build, st.integers(1, 4), st.integers(1, 4), senses, sizes, sizes, fixed, st.integers(0, 10**6))


@given(instances())
def test_each_exchange_is_admissible_and_the_last_mask_is_locally_optimal(instance):
    mask, before = instance.mask.clone(), instance.value(instance.mask)
    for _ in range(200):
        made = instance.search(mask, compiled=True, limit=1)
        assert instance.supports.contains(mask)
        after = instance.value(mask)
        assert after < before if made else after == before
        before = after
        if not made:
            break
    assert not made
    for trial in neighbours(mask, instance.m):
        if instance.supports.contains(trial):
            assert instance.value(trial) >= before - 1.01 * LEAST


@given(instances())
def test_compiled_and_batched_searches_find_the_same_mask(instance):
    masks = [instance.mask.clone(), instance.mask.clone()]
    made = [instance.search(mask, compiled=compiled) for mask, compiled in zip(masks, (True, False), strict=True)]
    assert torch.equal(*masks) and made[0] == made[1]
    assert instance.supports.contains(masks[1])


@pytest.mark.parametrize("sense", ["exact", "at_most"])
@pytest.mark.parametrize("shape", [(4, 8), (8, 4), (3, 7), (7, 10)])
def test_every_change_is_the_difference_of_two_refits(shape, sense):
    instance = Instance(2, 4, sense, *shape, 0.15, 3)
    finite = 0
    for rows, height in instance.parts():
        center, mask, blocks = instance.center[rows], instance.mask[rows], instance.blocks(height)
        value = Values(instance.gram, center)
        state = swaps.prepare(instance.gram, center, mask, instance.slots)
        fixings = instance.on[rows], instance.off[rows]
        change = block_swaps_batched._Groups(instance.gram, state, *fixings, blocks).change
        for r, b, i, k in product(*map(range, change.shape)):
            p, q = 4 * b + i if i < 4 else None, 4 * b + k if k < 4 else None
            inside = all(c is None or c < shape[1] for c in (p, q))
            out = inside and (p is None or bool(mask[r, p] & ~fixings[0][r, p]))
            into = inside and (q is None or not bool(mask[r, q] | fixings[1][r, q]))
            if torch.isfinite(change[r, b, i, k]):
                trial = mask.clone()
                if p is not None:
                    trial[r, p] = False
                if q is not None:
                    trial[r, q] = True
                expected = value.row(r, trial[r].numpy()) - value.row(r, mask[r].numpy())
                assert float(change[r, b, i, k]) == pytest.approx(expected, rel=1e-8, abs=1e-10)
                assert out and into
                finite += 1
            elif p is not None and q is not None:
                assert not (out and into)
    assert finite > 10


def test_an_exchange_is_a_removal_and_an_insertion():
    gram, center = make(12, 1, 0)
    mask = torch.zeros(1, 12, dtype=torch.bool)
    mask[0, [0, 3, 4, 7, 9]] = True
    fresh = mask.clone()
    fresh[0, 3], fresh[0, 5] = False, True
    together, one_by_one = (swaps.prepare(gram, center, mask, 7) for _ in range(2))
    work = np.empty((3, 7))
    swaps_compiled.exchange(gram.numpy(), *(part[0].numpy() for part in together[:5]), 3, 5, work)
    arrays = [part[0].numpy() for part in one_by_one[:5]]
    slot = int(one_by_one.slot[0, 3])
    swaps_compiled.remove(*arrays, 3, work)
    swaps_compiled.insert(gram.numpy(), *arrays, 5, slot, work)
    for part, other in zip(together, one_by_one, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-10, atol=1e-12)
    anew = swaps.prepare(gram, center, fresh, 7)
    torch.testing.assert_close(together.pivot, anew.pivot, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(together.level, anew.level, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_search_that_must_end_leaves_an_admissible_and_better_mask(compiled, monkeypatch):
    monkeypatch.setattr(block_swaps, "_CALL", 1)  # one exchange in a call
    instance = Instance(4, 8, "exact", 24, 24, 0.0, 1)
    state = swaps.prepare(instance.gram, instance.center, instance.mask, instance.slots)
    mask, calls = instance.mask.clone(), []
    free = torch.zeros_like(mask)
    run = block_swaps.search if compiled else block_swaps_batched.search

    def go_on():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        run(instance.gram, state, mask, free, free, instance.blocks(8), limit=100, least=LEAST, go_on=go_on)
    assert instance.supports.contains(mask) and not torch.equal(mask, instance.mask)
    before, after = (instance.value(some) for some in (instance.mask, mask))
    assert after < before
    made = run(instance.gram, state, mask, free, free, instance.blocks(8), limit=3, least=LEAST, go_on=lambda: False)
    assert made.tolist() == [0, 0, 0]


def test_dependent_inputs_stay_out():
    gram, center = make(8, 4, 0)
    gram[5], gram[:, 5] = gram[1], gram[:, 1]  # the same input twice
    gram[5, 5] = gram[1, 5] = gram[5, 1] = gram[1, 1]
    mask = torch.tensor([[True, True, False, False] * 2, [False, False, True, True] * 2] * 2)
    mask[0, 5], mask[0, 6], mask[1, 5], mask[1, 6] = False, True, True, False
    mask[2, 5], mask[2, 6], mask[3, 5], mask[3, 6] = False, True, True, False
    supports = TransposableNofM(2, 4)
    assert supports.contains(mask)
    state = swaps.prepare(gram, center, mask, 4)
    assert bool(state.sound.all())
    free, blocks = torch.zeros_like(mask), Blocks(2, 4, 4, False)
    block_swaps.search(gram, state, mask, free, free, blocks, limit=100, least=LEAST)
    assert supports.contains(mask) and not bool((mask[:, 1] & mask[:, 5]).any())
    assert bool(torch.isfinite(state.level).all())
