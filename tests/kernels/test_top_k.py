"""Selection of the largest keys: every code path against a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mipprune.kernels import top_k
from mipprune.kernels.top_k import keep_largest


def by_stable_sort(keys: torch.Tensor, count: int) -> torch.Tensor:
    """The definition: sort each row downwards, stably, and keep the first entries."""
    order = np.argsort(-keys.cpu().numpy(), axis=1, kind="stable")[:, : max(count, 0)]
    mask = np.zeros(keys.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)
    return torch.from_numpy(mask)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(-1, 42),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_small_blocks_agree_with_a_stable_sort(seed, blocks, size, count, dtype):
    rng = np.random.default_rng(seed)
    keys = torch.from_numpy(rng.integers(-3, 4, (blocks, size)).astype(float)).to(dtype)  # many ties
    assert torch.equal(keep_largest(keys, count), by_stable_sort(keys, count))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 70_000), (3, 40_000), (300, 256), (9_000, 4), (5_000, 8), (2_000, 32)])
@pytest.mark.parametrize("kind", ["normal", "ties", "signs", "constant", "outlier"])
def test_large_arrays_agree_with_a_stable_sort(shape, kind, dtype, device):
    rng = np.random.default_rng(7)
    keys = rng.standard_normal(shape)
    if kind == "ties":
        keys = np.round(keys)
    elif kind == "signs":
        keys = np.where(rng.random(shape) < 0.5, -0.0, 0.0) + (rng.random(shape) < 0.2)
    elif kind == "constant":
        keys = np.full(shape, -2.5)
    elif kind == "outlier":
        keys[0, 0], keys[0, 1], keys[-1, -1] = np.inf, -np.inf, 1e30
    keys = torch.from_numpy(keys).to(device=device, dtype=dtype)
    for count in (1, shape[1] // 3, shape[1] // 2, shape[1] - 1):
        assert torch.equal(keep_largest(keys, count).cpu(), by_stable_sort(keys, count))


def test_sorted_keys_defeat_the_sample_but_not_the_result():
    # A periodic pattern with the period of the sample: the sample sees only the smallest keys.
    keys = torch.arange(1 << 16, dtype=torch.float32).reshape(-1, 8).flip(1).contiguous()
    keys[:, 0] = -1.0
    keys = keys.reshape(1, -1)
    for count in (5, 1000, 50_000):
        assert torch.equal(keep_largest(keys, count), by_stable_sort(keys, count))


def test_the_path_without_numba_gives_the_same_mask(monkeypatch):
    keys = torch.from_numpy(np.round(np.random.default_rng(0).standard_normal((2, 40_000)), 2))
    compiled = keep_largest(keys, 12_345)
    monkeypatch.setattr(top_k, "has_numba", lambda: False)
    assert torch.equal(keep_largest(keys, 12_345), compiled)


def test_count_beyond_the_block_keeps_everything_and_zero_nothing():
    keys = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert keep_largest(keys, 9).all() and not keep_largest(keys, 0).any()
