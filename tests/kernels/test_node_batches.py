"""Relaxations of many nodes at once against those solved one by one, and what their bounds are worth at any point."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mipprune.kernels.node_batches import Quadratics, Stack, relax_together, steepest
from mipprune.kernels.node_descent import relax


def drawn(rng: np.random.Generator, n: int, p: int, nodes: int) -> tuple[Tensor, Tensor, Stack]:
    """Return a design, a response and nodes of one tree: some entries off, some on, some intervals narrow or open."""
    design = rng.standard_normal((n, p)) * rng.choice([0.1, 1.0, 4.0], p) + rng.standard_normal((n, 1))
    design[:, rng.random(p) < 0.1] = 0.0
    response = rng.standard_normal(n) + design[:, 0]
    fixed = rng.choice(np.array([-1, 0, 0, 0, 1], dtype=np.int8), (nodes, p))
    ridge = np.where(rng.random(p) < 0.2, 0.0, rng.uniform(0.05, 2.0, p))
    lower, upper = -rng.uniform(0.0, 2.0, (nodes, p)), rng.uniform(0.0, 2.0, (nodes, p))
    lower = np.where(rng.random((nodes, p)) < 0.2, 0.3 * upper, lower)  # zero, or at least so much
    upper = np.where((rng.random((nodes, p)) < 0.2) & (ridge > 0), math.inf, upper)
    price = np.where(rng.random(p) < 0.2, 0.0, rng.uniform(0.0, 2.0, p))
    l2 = np.broadcast_to(0.5 * ridge, (nodes, p)).copy()
    parts = (fixed, np.zeros((nodes, p)), price, l2, lower, upper)
    return torch.from_numpy(design), torch.from_numpy(response), Stack(*map(torch.from_numpy, parts))


def one_by_one(design: Tensor, response: Tensor, stack: Stack, row: int) -> tuple[float, float]:
    """Return bound and value of one relaxation by compiled coordinate descent."""
    p = design.shape[1]
    gram, pull = (design.mT @ design).numpy(), (design.mT @ response).numpy()
    t, work = np.zeros(p), np.empty((3, p))
    fixed, shift, l2, lower, upper = (
        part[row].numpy() for part in (stack.fixed, stack.shift, stack.l2, stack.lower, stack.upper)
    )
    constant = 0.5 * float(response @ response)
    found = relax(
        gram, np.arange(p), pull, shift, constant, fixed, stack.price.numpy(), l2, lower, upper, p, 0.0, t, *work,
        math.inf, 1e-12, 1000,
    )  # fmt: skip
    return found[1], found[2]


def test_relaxations_agree_with_those_solved_one_by_one(device: torch.device) -> None:
    rng = np.random.default_rng(0)
    for _ in range(25):
        n, p = int(rng.integers(2, 30)), int(rng.integers(1, 25))
        design, response, stack = drawn(rng, n, p, 7)
        form = Quadratics(design.to(device), (design.mT @ response).to(device), 0.5 * float(response @ response))
        sent = Stack(*(part.to(device) for part in stack))
        start = torch.zeros(7, p, dtype=torch.float64, device=device)
        points, slopes, bounds, values = relax_together(form, sent, start, cutoff=math.inf, accuracy=1e-9, rounds=200)
        exact_slopes = (response - points.cpu() @ design.mT) @ design
        assert torch.allclose(slopes.cpu(), exact_slopes, atol=1e-9)
        assert bool((points[sent.fixed < 0] == 0).all())
        for row in range(7):
            bound, value = one_by_one(design, response, stack, row)
            scale = 1.0 + abs(value)
            assert float(bounds[row]) <= value + 1e-9 * scale
            assert bound <= float(values[row]) + 1e-9 * scale
            if float(values[row]) - float(bounds[row]) <= 1e-9:
                assert float(bounds[row]) == pytest.approx(bound, abs=1e-6 * scale)


def test_most_relaxations_are_solved() -> None:
    rng = np.random.default_rng(1)
    design, response, stack = drawn(rng, 60, 40, 32)
    form = Quadratics(design, design.mT @ response, 0.5 * float(response @ response))
    start = torch.zeros(32, 40, dtype=torch.float64)
    *_, bounds, values = relax_together(form, stack, start, cutoff=math.inf, accuracy=1e-6, rounds=200)
    assert int((values - bounds <= 1e-6).sum()) >= 28


def test_a_cutoff_ends_the_work_and_a_refusal_to_go_on_still_bounds() -> None:
    rng = np.random.default_rng(2)
    design, response, stack = drawn(rng, 20, 15, 5)
    form = Quadratics(design, design.mT @ response, 0.5 * float(response @ response))
    start = torch.zeros(5, 15, dtype=torch.float64)
    *_, at_once, _ = relax_together(form, stack, start, cutoff=math.inf, accuracy=0.0, go_on=lambda: False)
    *_, solved, values = relax_together(form, stack, start, cutoff=math.inf, accuracy=1e-9, rounds=100)
    assert bool((at_once <= values + 1e-9).all())
    assert bool((solved >= at_once).all())
    *_, reached, _ = relax_together(form, stack, start, cutoff=float(at_once.min()), accuracy=0.0)
    assert float(reached.min()) == float(at_once.min())


def test_a_wide_design_is_multiplied_by_its_factors() -> None:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    points = torch.randn(3, 30, generator=generator, dtype=torch.float64)
    form = Quadratics(design, torch.zeros(30, dtype=torch.float64), 0.0)
    assert torch.allclose(form.times(points), points @ (design.mT @ design))
    columns = torch.tensor([2, 3, 7])
    part = form.part(columns)
    assert torch.allclose(part, design[:, columns].mT @ design[:, columns])
    assert float(torch.linalg.eigvalsh(torch.diag(steepest(part)) - part)[0]) >= -1e-3 * float(part.diagonal().max())


def test_a_design_of_zeros_is_harmless() -> None:
    form = Quadratics(torch.zeros(3, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 1.5)
    one = torch.ones(1, 2, dtype=torch.float64)
    stack = Stack(torch.zeros(1, 2, dtype=torch.int8), 0 * one, one[0], one, -one, one)
    _, _, bounds, values = relax_together(form, stack, 0 * one, cutoff=math.inf, accuracy=1e-9)
    assert float(bounds) == float(values) == 1.5
