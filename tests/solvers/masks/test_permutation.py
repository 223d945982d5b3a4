"""The permutation search: never worse, what it reports is what the exact mask keeps, and it finds planted structure."""

from __future__ import annotations

import pytest
import torch

import mipprune as mp
from mipprune.solvers import search_permutation


@pytest.mark.parametrize("sense", ["exact", "at_most"])
@pytest.mark.parametrize("shape", [(16, 24), (4, 16), (16, 4)])
def test_what_is_reported_is_what_is_kept(shape: tuple[int, int], sense: str) -> None:
    scores = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).abs()
    family = mp.TransposableNofM(2, 4, sense)
    for rounds in (0, 1, 2, 41):
        found = search_permutation(scores, family, rounds=rounds)
        assert sorted(found.rows.tolist()) == list(range(shape[0]))
        assert sorted(found.columns.tolist()) == list(range(shape[1]))
        assert found.before == pytest.approx(family.select(scores).value, rel=1e-12)
        assert found.after == pytest.approx(family.select(scores[found.rows][:, found.columns]).value, rel=1e-9)
        assert found.after >= found.before
    assert found.gain > 0
    again = search_permutation(scores, family, rounds=41)
    assert torch.equal(again.rows, found.rows) and torch.equal(again.columns, found.columns)


def test_planted_structure_is_found() -> None:
    """Two kinds of columns that fit together, shuffled: exchanges undo most of the loss."""
    pattern = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).repeat(4, 4)
    noise = 0.01 * torch.rand(16, 16, generator=torch.Generator().manual_seed(1))
    shuffled = (pattern + noise)[:, torch.randperm(16, generator=torch.Generator().manual_seed(2))]
    family = mp.TransposableNofM(2, 4)
    best = family.select(pattern + noise).value
    found = search_permutation(shuffled, family, rounds=200)
    assert found.before < 0.9 * best
    assert found.after > found.before + 0.7 * (best - found.before)


def test_bad_input() -> None:
    family = mp.TransposableNofM(2, 4)
    with pytest.raises(mp.InvalidProblem, match="whole 4 x 4 blocks"):
        search_permutation(torch.ones(6, 8), family)
    mask = torch.zeros(8, 8, dtype=torch.bool)
    with pytest.raises(mp.InvalidProblem, match="fixed"):
        search_permutation(torch.ones(8, 8), family.restrict(mask, mask))
