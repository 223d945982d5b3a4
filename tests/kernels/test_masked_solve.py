"""Refits on given supports: conjugate gradients and direct solves against dense solves, row by row."""

from __future__ import annotations

import pytest
import torch

from mipprune.kernels.masked_solve import conjugate_gradient, direct, minimise


def case(rows: int, width: int, *, per_row: bool = False, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 3 * width, width) if per_row else (3 * width, width)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    gram = inputs.mT @ inputs / width + 0.1 * torch.eye(width, dtype=torch.float64)
    target = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, width, generator=generator) < torch.rand(rows, 1, generator=generator)
    mask[0] = False
    mask[-1] = True
    return gram, target, mask


def by_dense_solves(gram, target, mask):
    out = torch.zeros_like(target)
    for row in range(len(target)):
        kept = mask[row].nonzero().ravel()
        own = gram if gram.ndim == 2 else gram[row]
        if len(kept):
            out[row, kept] = torch.linalg.solve(own[kept][:, kept], target[row, kept])
    return out


@pytest.mark.parametrize("per_row", [False, True])
def test_both_ways_solve_the_normal_equations(per_row, device):
    gram, target, mask = case(9, 20, per_row=per_row)
    expected = by_dense_solves(gram, target, mask)
    gram, target, mask = gram.to(device), target.to(device), mask.to(device)
    torch.testing.assert_close(direct(gram, target, mask).cpu(), expected, rtol=1e-9, atol=1e-10)
    center = torch.linalg.solve(gram, target.unsqueeze(2)).squeeze(2)
    iterated = conjugate_gradient(gram, center, mask, torch.zeros_like(target), iterations=60)
    torch.testing.assert_close(iterated.cpu(), expected, rtol=1e-7, atol=1e-9)


def test_direct_solves_in_several_batches(monkeypatch):
    from mipprune.kernels import masked_solve

    gram, target, mask = case(30, 16)
    monkeypatch.setattr(masked_solve, "_DIRECT_ENTRIES", 300)
    torch.testing.assert_close(direct(gram, target, mask), by_dense_solves(gram, target, mask))


def test_ten_iterations_reach_the_exact_value_to_1e_5():
    gram, target, mask = case(40, 60, seed=3)
    exact = by_dense_solves(gram, target, mask)
    start = torch.linalg.solve(gram, target.mT).mT

    def value(w):
        return float(((w @ gram) * w).sum() - 2 * (w * target).sum())

    refitted = conjugate_gradient(gram, start, mask, start, iterations=10)
    floor = value(exact)
    assert floor <= value(refitted) <= floor + 1e-5 * abs(floor)
    assert value(refitted) <= value(torch.where(mask, start, 0.0))


def test_the_iteration_ends_when_it_gains_next_to_nothing():
    gram, target, mask = case(40, 60, seed=3)
    center = torch.linalg.solve(gram, target.mT).mT
    exact = direct(gram, target, mask)

    def value(w):
        return float((((w - center) @ gram) * (w - center)).sum())

    rough, fine = (conjugate_gradient(gram, center, mask, center, iterations=100, share=s) for s in (1e-2, 1e-6))
    assert value(exact) * (1 + 1e-6) < value(rough) < value(exact) * 1.1
    assert value(fine) <= value(exact) * (1 + 1e-5)
    assert not torch.equal(fine, conjugate_gradient(gram, center, mask, center, iterations=100))


def test_minimise_starts_from_the_center_and_keeps_zeros():
    gram, target, mask = case(5, 12)
    w = minimise(gram, target, mask)
    torch.testing.assert_close(w, by_dense_solves(gram, target @ gram, mask), rtol=1e-9, atol=1e-10)
    assert not w[~mask].any()


def test_a_singular_block_is_solved_in_the_least_squares_sense():
    gram = torch.ones(2, 2, dtype=torch.float64)
    target = torch.tensor([[2.0, 2.0]], dtype=torch.float64)
    w = direct(gram, target, torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(w, torch.ones(1, 2, dtype=torch.float64))
