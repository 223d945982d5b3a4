"""Accumulated Gram matrices are accurate, semidefinite, and refuse bad data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mipprune.errors import InvalidProblem
from mipprune.networks.gram import Gram, gram_of


def test_accumulation_equals_the_product_of_everything(generator: torch.Generator, device: torch.device) -> None:
    x = torch.randn(1000, 7, dtype=torch.float64, generator=generator)
    gram = Gram(7, device=device)
    for part in x.split(137):
        gram.add(part.to(device))
    assert gram.tokens == 1000
    torch.testing.assert_close(gram.matrix().cpu(), x.T @ x, rtol=1e-13, atol=1e-11)
    torch.testing.assert_close(gram.diagonal().cpu(), x.square().sum(dim=0), rtol=1e-13, atol=1e-11)


def test_blocks_of_columns_fit_together(generator: torch.Generator) -> None:
    """Wider than one block of columns and longer than one chunk of rows."""
    x = torch.randn(4500, 1100, generator=generator)
    product = gram_of(x)
    assert torch.equal(product, product.T)
    exact = x.double().T @ x.double()
    torch.testing.assert_close(product, exact, rtol=0, atol=1e-6 * float(exact.diagonal().max()))


def test_many_correlated_float32_tokens_stay_positive_semidefinite(generator: torch.Generator) -> None:
    """A rank-deficient stream with outlier features; one float32 sum over all tokens misses the bound on the error."""
    mixing = torch.randn(8, 48, generator=generator)
    mixing[:, :2] *= 30
    gram = Gram(48)
    exact = torch.zeros(48, 48, dtype=torch.float64)
    for _ in range(20):
        rows = torch.randn(8192, 8, generator=generator) @ mixing + 0.5
        gram.add(rows)
        exact += rows.double().T @ rows.double()
    assert gram.tokens == 163_840
    eigenvalues = torch.linalg.eigvalsh(gram.matrix())
    assert float(eigenvalues[0]) >= -5e-9 * float(eigenvalues[-1])
    assert float((gram.matrix() - exact).abs().max() / exact.abs().max()) < 5e-8
    damped = gram.matrix() + 0.01 * gram.diagonal().mean() * torch.eye(48, dtype=torch.float64)
    torch.linalg.cholesky(damped)


def test_float64_inputs_are_not_rounded_to_float32(generator: torch.Generator) -> None:
    x = torch.randn(5000, 3, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(gram_of(x), x.T @ x, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_multiplied_in_float32(dtype: torch.dtype, generator: torch.Generator) -> None:
    x = torch.randn(3000, 5, generator=generator).to(dtype)
    exact = x.double().T @ x.double()
    torch.testing.assert_close(gram_of(x), exact, rtol=1e-5, atol=1e-2)


def test_coarse_products_that_the_user_allowed_are_not_used_and_the_setting_returns(generator: torch.Generator) -> None:
    x = torch.randn(2000, 64, generator=generator) + 3
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        product = gram_of(x)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    exact = x.double().T @ x.double()
    torch.testing.assert_close(product, exact, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_with_the_name_of_the_layer(bad: float) -> None:
    x = torch.ones(10, 3)
    x[4, 1] = bad
    x[7, 2] = bad
    with pytest.raises(InvalidProblem, match=r"'block\.3' received NaN or infinite inputs in 2 of 10 tokens"):
        Gram(3, name="block.3").add(x)


def test_overflow_is_told_apart_from_bad_inputs() -> None:
    with pytest.raises(InvalidProblem, match="overflow"):
        Gram(2, name="wide").add(torch.full((4, 2), 1e30))


def test_shapes_are_checked() -> None:
    with pytest.raises(InvalidProblem, match=r"has 3 inputs.*\(5, 4\)"):
        Gram(3, name="a").add(torch.zeros(5, 4))
    with pytest.raises(InvalidProblem, match="at least one input"):
        Gram(0)


def test_a_matrix_on_disk_equals_one_in_memory(tmp_path: Path, generator: torch.Generator) -> None:
    x = torch.randn(50, 4, generator=generator)
    path = tmp_path / "deep" / "gram.npy"
    stored, held = Gram(4, path=path), Gram(4)
    for part in x.split(20):
        stored.add(part)
        held.add(part)
    assert torch.equal(stored.matrix(), held.matrix())
    np.testing.assert_allclose(np.load(path), held.matrix().numpy(), rtol=1e-12)
