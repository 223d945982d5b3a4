"""The fused kernel in Triton's interpreter on the CPU: the same numbers as the other sweeps, bit for bit."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

# The interpreter is chosen when Triton is imported, hence in a process of its own. It takes as long for many blocks as
# for one, and a second to sort the largest, so that few sweeps are made; blocks of all kinds go through one call.
_INTERPRETED = """
import torch
from mipprune.kernels.transport import _sweep_compiled
from mipprune.kernels.transport_batched import sweep_batched
from mipprune.kernels.transport_codes import encode
from mipprune.kernels.transport_triton import available, sweep_fused

generator = torch.Generator().manual_seed(0)


def kinds(blocks, size):
    normal = torch.randn(blocks, size, size, generator=generator)
    wide, padded = (6 * normal).exp(), normal.abs()
    padded[:, size // 2 + 1 :] = 0.0
    ties, constant, narrow = (4 * normal.abs()).round(), torch.full_like(normal, 0.3), normal.abs().bfloat16().float()
    every = torch.stack([normal.abs(), ties, narrow, normal, wide, padded, constant, 0 * normal])
    return every[torch.arange(blocks) % len(every), torch.arange(blocks)]


cold, narrow, warm = (2, 0, 3, 6), (1, 0, 3, 6), (2, 6, 7, 8)
plan = [
    (4, 37, False, [cold, warm]),  # the last program is not full
    (4, 37, True, [cold, narrow, warm]),
    (8, 9, False, [narrow, warm]),
    (8, 9, True, [cold, warm]),
    (16, 3, False, [warm]),
    (16, 3, True, [cold]),
    (32, 1, True, [cold]),
    (64, 1, False, [(2, 1, 1, 2)]),
]
assert not available(5)
for size, blocks, at_most, cases in plan:
    assert available(size)
    codes = encode(kinds(blocks, size), at_most).values
    rows, columns = (torch.randint(-99, 99, (blocks, size), generator=generator, dtype=torch.int32) for _ in "uv")
    for part, first, eager, last in cases:
        count = size // part if part > 1 else size - 1
        settings = {"at_most": at_most, "balance_at": 5, "first_sweep": first, "eager_at": eager, "sweeps": last}
        given = [x if first else torch.zeros_like(x) for x in (rows, columns)]
        if at_most:
            given = [x.clamp_min(0) for x in given]
        fused = sweep_fused(codes, count, *given, **settings)
        batched = sweep_batched(codes, count, *given, **settings)
        compiled = _sweep_compiled(codes, count, *(x.clone() for x in given), **settings)
        for mine, torch_s, numba_s in zip(fused, batched, compiled):
            assert torch.equal(mine, torch_s) and torch.equal(mine, numba_s), (size, at_most, count, first)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no wheel for this platform")
def test_the_fused_kernel_in_the_interpreter_agrees_bit_for_bit() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    outcome = subprocess.run(
        [sys.executable, "-c", _INTERPRETED], env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
