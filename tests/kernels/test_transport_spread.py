"""Fractional transposable masks: against a conic solver, both forms against each other, degenerate blocks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mipprune.kernels import transport_spread
from mipprune.kernels.transport_spread import spread_blocks


@pytest.fixture
def careful(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rounds as it takes; only the torch form reads them anew."""
    monkeypatch.setattr(transport_spread, "has_numba", lambda: False)
    monkeypatch.setattr(transport_spread, "_ROUNDS", 60)
    monkeypatch.setattr(transport_spread, "_TOLERANCE", 1e-4)


def draw(blocks: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(blocks, size, size, generator=generator, dtype=torch.float64)
    return weight, 0.05 + torch.rand(blocks, size, size, generator=generator, dtype=torch.float64)


def cost(z: Tensor, weight: Tensor, offset: Tensor, price: float | Tensor) -> Tensor:
    return (weight.square() / (z + offset)).sum((1, 2)) + (price * z).sum((1, 2))


@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize(("size", "count", "price"), [(4, 2, 0.0), (4, 1, 0.3), (6, 4, 0.3)])
def test_cost_is_that_of_a_conic_solver(size: int, count: int, price: float, at_most: bool, careful: None) -> None:
    import cvxpy as cp

    weight, offset = draw(1, size, 7)
    z = cp.Variable((size, size), nonneg=True)
    sums = [cp.sum(z, axis=0), cp.sum(z, axis=1)]
    prices = price * (1 + torch.arange(size * size, dtype=torch.float64).reshape(1, size, size) % 3)  # of each entry
    limits = [z <= 1] + [line <= count if at_most else line == count for line in sums]
    goal = cp.sum(cp.multiply(weight[0].square().numpy(), cp.inv_pos(z + offset[0].numpy())))
    goal += cp.sum(cp.multiply(prices[0].numpy(), z))
    cp.Problem(cp.Minimize(goal), limits).solve()
    best = float(cost(torch.from_numpy(np.asarray(z.value))[None], weight, offset, prices))
    shares = spread_blocks(weight, offset, count, price=prices, at_most=at_most)
    for lines in (shares.sum(1), shares.sum(2)):
        assert float(lines.max()) <= count * 1.002
        assert at_most or float(lines.min()) >= count * 0.998
    assert float(cost(shares, weight, offset, prices)) == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("at_most", [False, True])
def test_compiled_and_plain_forms_agree(dtype: torch.dtype, at_most: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_spread, "_ROUNDS", 60)  # of the plain form, which has no Newton steps
    for size, count in ((4, 2),):
        weight, offset = (x.to(dtype) for x in draw(4, size, size))
        compiled = spread_blocks(weight, 0.3 + offset, count, at_most=at_most)
        with monkeypatch.context() as patch:
            patch.setattr(transport_spread, "has_numba", lambda: False)
            plain = spread_blocks(weight, 0.3 + offset, count, at_most=at_most)
        assert compiled.dtype == plain.dtype == dtype
        costs = [cost(z.double(), weight.double(), 0.3 + offset.double(), 0.0) for z in (compiled, plain)]
        torch.testing.assert_close(costs[0], costs[1], rtol=0.02, atol=0)
        for shares in (compiled, plain):
            assert bool(((shares >= 0) & (shares <= 1)).all())
            assert float(torch.cat([shares.sum(1), shares.sum(2)]).max()) <= 1.001 * count


@pytest.mark.parametrize("numba", [True, False])
def test_fixed_shares_stay(numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not numba:
        monkeypatch.setattr(transport_spread, "has_numba", lambda: False)
    weight, offset = draw(12, 6, 3)
    fixed = torch.zeros(12, 6, 6, dtype=torch.int8)
    fixed[:, 0, 0], fixed[:, 1, 1:3] = 1, -1
    shares = spread_blocks(weight, offset, 3, fixed=fixed)
    assert bool((shares[:, 0, 0] == 1).all()) and bool((shares[:, 1, 1:3] == 0).all())
    assert float((shares.sum(1) - 3).abs().mean()) <= 0.05


def test_degenerate_blocks_have_finite_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    zero = torch.zeros(1, 4, 4)
    sparse = torch.zeros(1, 4, 4)
    sparse[0, 0] = 1.0
    everywhere = torch.ones(1, 4, 4)
    for weight, at_most, price in itertools.product(
        (zero, sparse, everywhere, 1e12 * everywhere), (False, True), (0.0, 1.0)
    ):
        for offset in (1e-6, 1e6):
            for numba in (True, False):
                with monkeypatch.context() as patch:
                    if not numba:
                        patch.setattr(transport_spread, "has_numba", lambda: False)
                    shares = spread_blocks(weight, torch.full((1, 4, 4), offset), 2, at_most=at_most, price=price)
                assert bool(torch.isfinite(shares).all()) and bool(((shares >= 0) & (shares <= 1)).all())
    even = spread_blocks(everywhere, 0.5 * everywhere, 2)
    torch.testing.assert_close(even, 0.5 * everywhere, rtol=0.02, atol=0)
    assert spread_blocks(torch.zeros(0, 4, 4), torch.ones(0, 4, 4), 2).shape == (0, 4, 4)
