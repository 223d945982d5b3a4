"""Ascent on the row-wise bound: its gradient is right, it only improves bounds, and these stay below enumeration."""

from __future__ import annotations

import numpy as np
import torch

from mipprune.core.loss import Cells
from mipprune.kernels.graph_appraisal import Shift, appraise
from mipprune.kernels.graph_ascent import ascend
from mipprune.kernels.graph_relax import relax_graph
from mipprune.losses import PseudoLikelihood
from tests.graphs import enumerate_values, random_instance, random_split, uniform_model

NONE = (np.zeros(0, dtype=np.int64), np.zeros(0))


def test_the_bound_of_the_published_instance_rises_by_prices() -> None:
    samples, _ = uniform_model(12, 120)
    loss = PseudoLikelihood(torch.tensor(np.cov(samples.T, bias=True)), 0.05)
    penalties = loss.penalties(0.05, -1.0, 1.0)
    fixed = np.zeros(66, dtype=np.int8)
    common = np.full(12, 0.999 * np.linalg.eigvalsh(loss.matrix)[0])
    shift = Shift(common, np.zeros((0, 0)))

    def bound(point: tuple[np.ndarray, np.ndarray]) -> float:
        return appraise(loss.matrix, loss.largest, *point, fixed, shift, penalties, parts=False).bound

    flat, values, _ = relax_graph(loss.matrix, fixed, shift, penalties, NONE, 1e-9)
    found, point = ascend(loss.matrix, fixed, shift, penalties, (flat, values), bound)
    assert found == bound(point)
    assert found > bound((flat, values)) + 0.01
    enough, _ = ascend(loss.matrix, fixed, shift, penalties, (flat, values), bound, enough=-np.inf)
    assert enough == bound((flat, values))  # nothing was asked for
    stopped, _ = ascend(loss.matrix, fixed, shift, penalties, (flat, values), bound, go_on=lambda: False)
    assert stopped == bound((flat, values))


def test_the_derivatives_are_those_of_the_smooth_minimum() -> None:
    from mipprune.kernels.graph_rows import soft_rows

    rng = np.random.default_rng(0)
    p = 5
    for trial in range(20):
        slopes = rng.standard_normal((p, p))
        slopes += slopes.T
        shares = rng.uniform(0.3, 0.7, (p, p))
        own, linear = rng.uniform(0, 0.5, (p, p)), rng.uniform(1, 2, p)
        state = rng.choice(np.array([-1, 0, 0, 1], dtype=np.int8), (p, p))
        price, half = rng.uniform(0, 0.2, (p, p)), np.full((p, p), 0.05)
        upper = np.full((p, p), rng.choice([0.3, np.inf]))
        points = np.tile(np.linspace(0.3, 2.0, 9), (p, 1))

        def run(a: np.ndarray, c: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            value, mean, copies = np.zeros(p), np.zeros(p), np.zeros((p, p))
            soft_rows(0, p, c, a, shares, own, state, price, half, -upper, upper, points, 30.0, value, mean, copies)  # noqa: B023
            return float(value.sum()), mean, copies

        _, mean, copies = run(linear, slopes)
        step = 1e-6
        for i in range(p):
            moved = np.where(np.arange(p) == i, step, 0.0)
            slope = (run(linear + moved, slopes)[0] - run(linear - moved, slopes)[0]) / (2 * step)
            assert abs(slope - mean[i]) < 1e-5, trial
            j = int(rng.integers(p))
            change = np.zeros((p, p))
            change[i, j] = step
            slope = (run(linear, slopes + change)[0] - run(linear, slopes - change)[0]) / (2 * step)
            assert abs(slope - copies[i, j]) < 1e-4, trial


def test_bounds_after_ascent_never_exceed_enumeration() -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        instance = random_instance(rng, 3 if seed % 4 else 4)
        loss, size = instance.loss, instance.size
        values = enumerate_values(instance)
        bits = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
        price, lower, upper = instance.sides()
        penalties = loss.penalties(price, lower[0], upper[0])
        fixed = rng.choice(np.array([-1, 0, 0, 0, 1], dtype=np.int8), size)
        split = random_split(rng, loss, fixed >= 0)
        p = loss.nodes
        extra = np.zeros((0, 0)) if split is None else split[p:].numpy().reshape(p, p)
        shift = Shift(np.zeros(p), extra)
        start = relax_graph(loss.matrix, fixed, shift, penalties, NONE, 1e-8, sweeps=200)[:2]
        cell = [torch.tensor(part)[None] for part in (fixed > 0, fixed < 0)]
        cells = Cells(*cell, None if split is None else split[None])

        def bound(found: tuple[np.ndarray, np.ndarray]) -> float:
            point = torch.zeros((1, size), dtype=torch.float64)  # noqa: B023
            point[0, torch.tensor(found[0])] = torch.tensor(found[1])
            return float(loss.appraise(point, cells, price, lower, upper, parts=False).bound[0])  # noqa: B023

        best, point = ascend(loss.matrix, fixed, shift, penalties, start, bound, steps=15)
        inside = (bits[:, fixed < 0] == 0).all(axis=1) & (bits[:, fixed > 0] == 1).all(axis=1)
        assert best <= values[inside].min(), seed
        assert best >= bound(start), seed
        assert not np.isin(point[0], np.flatnonzero(fixed < 0)).any()
