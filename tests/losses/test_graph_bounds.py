"""Bounds of graphical models: never above enumeration, in float64 and exactly, for any point, cell and shift."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from mipprune import CertificateError
from mipprune.core.loss import Cells
from mipprune.kernels.graph_appraisal import Shift
from mipprune.kernels.graph_relax import relax_graph
from mipprune.losses import PseudoLikelihood
from tests.graphs import Instance, enumerate_values, random_instance, random_split, uniform_model

CELLS, POINTS = 8, 10  # for each instance


def draw_point(rng: np.random.Generator, loss: PseudoLikelihood) -> np.ndarray:
    size, kind = loss.shape[0], rng.integers(4)
    if kind == 0:
        return rng.standard_normal(size) * 10.0 ** rng.integers(-2, 3)
    if kind == 1:
        return rng.standard_normal(size) * (rng.random(size) < 0.4) * 0.3
    return loss.start().numpy() * rng.choice([0.3, 1.0]) * (rng.random(size) < 0.7)


def hunt(seed: int) -> int:
    """Try cells, shifts and points on one instance; return how many finite bounds were compared."""
    rng = np.random.default_rng(seed)
    instance = random_instance(rng, 3 if seed % 2 else 4)
    loss, size = instance.loss, instance.size
    values = enumerate_values(instance)
    bits = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    price, lower, upper = instance.sides()
    finite = 0
    for number in range(CELLS):
        fixed = np.zeros(size, dtype=int) if number % 3 == 0 else rng.choice([-1, 0, 0, 0, 1], size)
        owner = np.where((fixed < 0) & (rng.random(size) < 0.5), 0, fixed)  # where the shift was proven
        split = random_split(rng, loss, owner >= 0)
        points = np.stack([np.where(owner < 0, 0.0, draw_point(rng, loss)) for _ in range(POINTS)])
        on, off = (torch.tensor(part).expand(POINTS, size) for part in (fixed > 0, fixed < 0))
        cell = Cells(on, off, None if split is None else split.expand(POINTS, -1))
        found = loss.appraise(torch.tensor(points), cell, price, lower.expand(POINTS, -1), upper.expand(POINTS, -1))
        inside = (bits[:, fixed < 0] == 0).all(axis=1) & (bits[:, fixed > 0] == 1).all(axis=1)
        assert float(found.bound.max()) <= values[inside].min(), (seed, number)
        finite += int(torch.isfinite(found.bound).sum())
        for k in np.flatnonzero(fixed == 0):
            assert float(found.if_on[:, k].max()) <= values[inside & (bits[:, k] == 1)].min(), (seed, number, k)
            assert float(found.if_off[:, k].max()) <= values[inside & (bits[:, k] == 0)].min(), (seed, number, k)
        if number == seed % 4:
            compare_exactly(instance, points[0], Cells(*(part if part is None else part[:1] for part in cell)), fixed)
    return finite


def compare_exactly(instance: Instance, point: np.ndarray, cell: Cells, fixed: np.ndarray) -> None:
    loss = instance.loss
    found = loss.appraise(torch.tensor(point)[None], cell, *instance.sides())
    try:
        bound, on, off = loss.rational_appraise(torch.tensor(point), cell, *instance.sides())
    except CertificateError:
        assert not torch.isfinite(found.bound[0])
        return
    if torch.isfinite(found.bound[0]):
        assert Fraction(float(found.bound[0])) <= bound
        size = loss.scale + np.abs(point).max() ** 2 * np.abs(loss.matrix).max()
        assert float(bound) - float(found.bound[0]) <= 1e-9 * (abs(float(bound)) + size)
        for k in np.flatnonzero(fixed == 0):
            assert float(found.if_on[0, k]) <= on[k]
            assert float(found.if_off[0, k]) <= off[k]


def test_lines_lie_above_gains_for_every_slope_within_the_error() -> None:
    from mipprune.kernels.graph_bound import _line, _tabulate

    rng = np.random.default_rng(0)
    for _ in range(300):
        first = rng.uniform(0.2, 2.0)
        points = np.array([first, first * rng.uniform(1.01, 2.0)])
        slope, error, bend, own, price = (np.array([x]) for x in rng.uniform(0.01, [1, 0.3, 0.5, 1, 0.3]))
        half = rng.choice([0.3, np.inf])
        low, high = np.array([-half]), np.array([half])
        gains, slacks, where = (np.empty((2, 1)) for _ in range(3))
        _tabulate(1, points, slope, error, bend, own, low, high, price, gains, slacks, where)
        center, sure = rng.choice([0.0, 10.0]), np.array([bool(rng.integers(2))])
        rows = (gains[0], gains[1], where[0], where[1])
        intercept, rise, _ = _line(1, *points, center, *rows, own, sure, slacks[0])
        for t in np.linspace(*points, 20):
            for k in (slope + error, slope - error):
                v = np.clip(k / (2.0 * (bend + own / t)), low, high)
                gain = float((k * v - (bend + own / t) * v * v - price)[0])
                assert intercept + rise * t >= (gain if sure[0] else max(gain, 0.0)) - 1e-12


@pytest.mark.parametrize("block", range(4))
def test_ten_thousand_random_points_never_prove_too_much(block: int) -> None:
    compared = sum(hunt(seed) for seed in range(32 * block, 32 * (block + 1)))
    assert compared > 0.9 * 32 * CELLS * POINTS


def test_random_tangents_never_prove_too_much() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        instance = random_instance(rng, 4)
        least = enumerate_values(instance).min()
        problem = instance.problem
        for _ in range(10):
            assert problem.bound(torch.tensor(draw_point(rng, instance.loss))) <= least


def test_without_shift_the_bound_is_the_relaxation() -> None:
    samples, theta = uniform_model(8, 80)
    loss = PseudoLikelihood(torch.tensor(np.cov(samples.T, bias=True)), 0.05)
    box = float(np.abs(theta).max())
    fixed, penalties = np.zeros(28, dtype=np.int8), loss.penalties(0.05, -box, box)
    flat, values, _ = relax_graph(
        loss.matrix, fixed, Shift.none(8), penalties, (np.zeros(0, dtype=np.int64), np.zeros(0)), 1e-12
    )
    point = torch.zeros(28, dtype=torch.float64)
    point[flat] = torch.tensor(values)
    none = torch.zeros((1, 28), dtype=torch.bool)
    sides = (torch.full((28,), 0.05).double(), torch.full((1, 28), -box).double(), torch.full((1, 28), box).double())
    bound = float(loss.appraise(point[None], Cells(none, none), *sides).bound[0])
    slope = 2 * np.sqrt(0.05 * 0.05)
    assert np.abs(values).max() < 1.0  # the penalty is linear up to sqrt(l0/l2) = 1
    relaxed = loss.value(point) - 0.05 * np.sum(values**2) + slope * np.abs(values).sum()
    assert bound == pytest.approx(relaxed, abs=1e-8)
    assert bound == pytest.approx(6.7102, abs=1e-4)  # the published root bound of this instance


def test_a_shift_that_is_too_large_is_refused() -> None:
    loss = PseudoLikelihood(torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.1], [0.2, 0.1, 1.0]]).double())
    allowed = torch.ones(3, dtype=torch.bool)
    row = torch.zeros(12, dtype=torch.float64)
    row[3 + 1], row[3 + 2] = 0.95, 0.95  # S without node 0 has the smallest eigenvalue 0.9
    assert not loss.proves_split(row, allowed)
    row[3 + 1], row[3 + 2] = 0.89, 0.89
    assert loss.proves_split(row, allowed)
    only = torch.tensor([True, False, True])  # node 2 is out of row 0: its curvature need not be shared
    row[3 + 1], row[3 + 2] = 0.99, 5.0
    assert loss.proves_split(row, only)
    assert not loss.proves_split(torch.full((12,), 1.0).double(), allowed)


def test_a_covariance_that_is_not_convex_proves_nothing() -> None:
    loss = PseudoLikelihood(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), 0.1)
    with pytest.raises(CertificateError, match="semidefinite"):
        loss.minorant(torch.zeros(1))
    none = torch.zeros((1, 1), dtype=torch.bool)
    with pytest.raises(CertificateError, match="semidefinite"):
        loss.appraise(torch.zeros(1, 1).double(), Cells(none, none), *(torch.ones(1, 1).double() for _ in range(3)))
