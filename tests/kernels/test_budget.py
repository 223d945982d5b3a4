"""Spreading a budget: the compiled rows, the torch form and threads agree; nobody's thread settings are touched."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mipprune.kernels import budget as module
from mipprune.kernels.budget import spread_budget

GENERATOR = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("price", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(50, 4), (3, 40), (1, 500)])
def test_compiled_and_plain_forms_agree(
    shape: tuple[int, int], price: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(shape, generator=GENERATOR, dtype=dtype)
    offset = 0.1 + torch.rand(shape, generator=GENERATOR, dtype=dtype)
    on = torch.rand(shape, generator=GENERATOR) < 0.05
    off = (torch.rand(shape, generator=GENERATOR) < 0.2) & ~on
    for fixed in ({}, {"on": on, "off": off}):
        z = spread_budget(weight, offset, shape[1] // 2, price=price, **fixed)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_compiled", lambda: None)
            plain = spread_budget(weight, offset, shape[1] // 2, price=price, **fixed)
        assert float((z - plain).abs().max()) <= 2e-3
        assert float(z.sum(dim=1).max()) <= (shape[1] // 2) * (1 + 2e-4) + (int(on.sum(dim=1).max()) if fixed else 0)


def test_rows_on_several_threads_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(5000, 8, generator=GENERATOR)
    offset = 0.1 + torch.rand(5000, 8, generator=GENERATOR)
    alone = spread_budget(weight, offset, 3)
    monkeypatch.setattr(module, "_PARALLEL", 100)
    assert torch.equal(spread_budget(weight, offset, 3), alone)


def test_the_number_of_threads_stays_as_it_was_set() -> None:
    """Parallel loops compiled by numba share OpenMP with torch and once reset its number of threads, for good."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from mipprune.kernels.budget import spread_budget\n"
        "x = torch.rand(40000, 4)\n"
        "spread_budget(x, x + 0.1, 2); spread_budget(x.double(), x.double() + 0.1, 2)\n"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
