"""Budgets whose costs need 60 bits: counts of cheap weights beside layers that cost 2^56 each are not lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mipprune import Budgets


@pytest.mark.parametrize("seed", [751, 1334, *range(20)])
def test_cheap_weights_beside_dear_ones_are_counted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dear = 2.0 ** int(rng.integers(54, 57))
    few, many = int(rng.integers(2, 9)), int(rng.integers(40, 100))
    rng.integers(2, 4)
    kept = int(rng.integers(1, few))
    limit = kept * dear + float(rng.integers(0, 3)) * 64
    fixed = min(int(rng.integers(0, 40)), int(limit - kept * dear))
    cheap = np.sort(rng.random(many) * rng.choice([1e-3, 1, 10]))[::-1]
    others = np.sort(1 + rng.random(few) * rng.choice([1e-3, 1e-6, 0.1]))[::-1] * rng.choice([1, 100])
    on = torch.zeros(many + few, dtype=torch.bool)
    on[:fixed] = True
    family = Budgets([many, few], [[1.0, dear]], [limit]).restrict(on, torch.zeros_like(on))
    costs, limits = family.whole  # as the decimals that denote them
    gain = torch.from_numpy(np.concatenate([cheap, others]))
    best = 0.0
    for count in range(kept + 1):
        room = int(limits[0]) - fixed - count * int(costs[1, 0])
        if room >= 0:
            best = max(best, cheap[: fixed + min(room, many - fixed)].sum() + others[:count].sum())
    found = family.select(gain)
    assert found.value == pytest.approx(best, rel=1e-12)
    for closed in (float(found.witness[-1]), 1e-3, 0.1, 1.0, 10.0, 100.0):  # whatever the witness says it closed
        found.witness[-1] = closed
        assert family.select_bound(gain, found.witness) >= best * (1 - 1e-13)
