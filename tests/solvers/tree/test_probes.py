"""Probes, and relaxations on the columns near their thresholds: against enumeration, and tampered with."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

import mipprune as mp
from mipprune.errors import CertificateError
from mipprune.solvers.tree import probes, regression, together
from mipprune.solvers.tree.regression import RegressionBound


def least(x: np.ndarray, y: np.ndarray, l0: float, l2: float, box: float, most: int) -> float:
    """The optimum by enumeration of supports."""
    best = math.inf
    p = x.shape[1]
    for count in range(most + 1):
        for support in itertools.combinations(range(p), count):
            inside = list(support)
            if not inside:
                best = min(best, 0.5 * float(y @ y))
                continue
            stacked = np.vstack([x[:, inside], math.sqrt(2 * l2) * np.eye(count)])
            right = np.concatenate([y, np.zeros(count)])
            if math.isfinite(box):
                t = lsq_linear(stacked, right, (-box, box), tol=1e-13).x
            else:
                t = np.linalg.lstsq(stacked, right, rcond=None)[0]
            best = min(best, 0.5 * float(((right - stacked @ t) ** 2).sum()) + l0 * count)
    return best


def problem_of(x: np.ndarray, y: np.ndarray, l0: float, l2: float, box: float, most: int) -> mp.Problem:
    supports = mp.AnySupport() if most == x.shape[1] else mp.Cardinality(most)
    loss = mp.LeastSquares(torch.from_numpy(x), torch.from_numpy(y), 2 * l2)
    return mp.Problem(loss, mp.Sparse(supports, box if math.isfinite(box) else None, l0))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe wherever a node has a fraction, as if every column were far from the first."""
    monkeypatch.setattr(
        probes.Prober,
        "worthwhile",
        lambda self, strategy, node, relaxed, cutoff: 0 < cutoff - relaxed.bound < 0.7 * self.failed,
    )


@pytest.mark.parametrize("full", [3, 1536])
@pytest.mark.usefixtures("eager")
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["price", "count", "both"]), boxed=st.booleans())
def test_trees_with_probes_never_prove_more_than_the_optimum(full: int, seed: int, kind: str, boxed: bool) -> None:
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(2, 9)), int(rng.integers(4, 8))
    x = rng.normal(size=(n, p))
    if seed % 3 == 0:
        x[:, 1] = x[:, 0]  # ties
    if seed % 5 == 0:
        x[:, 2] = 0.0
    if seed % 7 == 0:
        x = np.round(x)
    y = x[:, :2].sum(axis=1) + 0.3 * rng.normal(size=n)
    l0 = 0.0 if kind == "count" else float(rng.choice([1e-3, 0.02, 0.1]) * (y @ y))
    most = p if kind == "price" else 2
    l2, box = float(rng.choice([1e-3, 0.05])), float(rng.choice([0.4, 1.5])) if boxed else math.inf
    problem = problem_of(x, y, l0, l2, box, most)
    before, regression.FULL = regression.FULL, full
    try:
        solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-6))
    finally:
        regression.FULL = before
    best = least(x, y, l0, l2, box, most)
    assert solution.bound is not None
    assert solution.bound <= best + 1e-9 * (1 + best)
    assert solution.value >= best - 1e-9 * (1 + best)
    assert solution.value <= best + 2e-6 * (1 + best) or solution.status is not mp.Status.OPTIMAL
    assert seed % 3 == 0 or solution.status is mp.Status.OPTIMAL
    mp.check(problem, solution, exact=seed % 4 == 0)


@pytest.mark.usefixtures("eager")
def test_probes_narrow_intervals_and_tampering_with_one_is_noticed() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 60))
    x /= np.linalg.norm(x, axis=0)
    y = x[:, :3].sum(axis=1) + 0.02 * rng.normal(size=40)
    problem = problem_of(x, y, 0.05, 0.01, 3.0, 60)
    solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-4))
    tree = solution.certificate
    assert isinstance(tree, mp.SparseTree) and solution.status is mp.Status.OPTIMAL
    mp.check(problem, solution)
    chained = (tree.index < 0) & (tree.children[:, 0] >= 0)
    assert int(chained.sum()) > 3
    narrowed = (tree.step_kind == 3).nonzero().ravel()
    assert len(narrowed)
    value = tree.step_value.clone()
    value[narrowed[0]] *= 0.05  # more than the tangent proves
    false = dataclasses.replace(solution, certificate=dataclasses.replace(tree, step_value=value))
    with pytest.raises(CertificateError):
        mp.check(problem, false)


def test_relaxations_on_near_columns_bound_as_those_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, 300))
    x /= np.linalg.norm(x, axis=0)
    y = x[:, :4].sum(axis=1) + 0.2 * rng.normal(size=30)
    problem = problem_of(x, y, 0.05, 0.02, 2.0, 300)
    bounds = []
    for full in (1536, 20):
        monkeypatch.setattr(regression, "FULL", full)
        strategy = RegressionBound.of(problem)
        assert strategy.wide == (full == 20)
        found = strategy.evaluate(strategy.root(), math.inf, 1e-9, lambda: False)[-1]
        bounds.append(found.bound)
        if strategy.wide:
            assert len(strategy.live.places) < 300
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-6)


def test_probes_of_columns_whose_squares_underflow_do_not_end_the_search() -> None:
    """Curvature of zero leaves nothing to follow a moved entry with, and steps of 1e-170 have no square."""
    strategy = RegressionBound.of(problem_of(1e-170 * np.eye(3), np.ones(3), 0.1, 0.0, 1.0, 3))
    root = strategy.root()
    points = together._followed(strategy, strategy.cell(root), np.ones(3), [together.Part(1, 1.0, 0.5)])
    assert np.isfinite(points).all()
    tighter = dataclasses.replace(root, upper=np.array([1e-170, 1.0, 1.0]))
    prober, zero = probes.Prober(), np.zeros(3)
    prober._learn(together.Part(0, 1.0, 0.0), zero, zero, zero, 1.0, root, tighter)
    assert 0.02 <= prober.curvature <= 2.0
