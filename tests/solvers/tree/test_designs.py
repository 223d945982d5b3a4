"""Trees over sparse and stored columns: the optimum of all supports, bounds not above it, files that are checked."""

from __future__ import annotations

import math
import weakref
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import mipprune as mp
from mipprune.formulations import RegressionData
from mipprune.io import load, save
from mipprune.losses.designs import SparseDesign, StoredDesign
from mipprune.solvers.tree import columns, live, nearby, probes, regression

Array = np.ndarray[Any, Any]


def _data(n: int, p: int, seed: int) -> tuple[Array, Array]:
    """Small whole numbers, many of them zero, in a few scales."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-3, 4, (n, p)) * (rng.random((n, p)) < 0.5)
    truth = (rng.random(p) < 0.4) * rng.standard_normal(p)
    return X.astype(np.float64), X @ truth + 0.3 * rng.standard_normal(n)


def _best(problem: mp.Problem, most: int) -> float:
    """The best value over all supports, from refits inside the box."""
    loss = problem.reference.loss
    assert isinstance(loss, mp.LeastSquares)
    best = problem.value(torch.zeros(problem.shape))
    for size in range(1, most + 1):
        for chosen in combinations(range(problem.size), size):
            mask = torch.zeros(problem.shape, dtype=torch.bool)
            mask[list(chosen)] = True
            point = torch.where(mask, loss.minimise_on(mask), 0.0)
            if problem.violation(point) > 0:
                point = problem.minimise_in_box(mask, point)
            best = min(best, problem.value(point))
    return best


def _as(form: str, X: Array) -> Any:
    if form == "sparse":
        return sp.csr_array(X)
    return StoredDesign.of(X.astype(np.int8 if form == "int8" else np.float32))


@pytest.mark.parametrize("form", ["sparse", "int8", "float32"])
@pytest.mark.parametrize("seed", range(4))
def test_the_tree_finds_the_best_of_all_supports(form: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    n, p = [(12, 6), (5, 8), (1, 4), (8, 7)][seed]
    X, y = _data(n, p, seed)
    options: dict[str, Any] = [
        {"l0": 0.02, "l2": 0.01, "box": 2.0},
        {"k": 2, "l2": 0.02},
        {"l0": 0.01, "l2": 0.1},
        {"l0": 0.005, "l2": 0.001, "box": 1.0},
    ][seed]
    usual = RegressionData.of(X, y).problem(**options)
    best = _best(usual, options.get("k", p))
    for wide in (False, True):
        if wide:
            monkeypatch.setattr(regression, "FULL", 2)  # relaxations on some columns, checked on all
            monkeypatch.setattr(live, "NEAREST", 4)
        problem = RegressionData.of(_as(form, X), y).problem(**options)
        solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-7))
        assert solution.value == pytest.approx(best, rel=1e-7, abs=1e-12)
        assert solution.bound is not None and solution.bound <= best + 1e-12
        assert solution.gap is not None and solution.gap <= 1.1e-7
        assert mp.check(problem, solution).bound == pytest.approx(solution.bound)
        exactly = mp.check(problem, solution, exact=True)
        assert exactly.bound is not None and solution.bound <= exactly.bound <= best + 1e-12


@pytest.mark.parametrize("seed", range(30))
def test_bounds_at_random_points_are_those_of_dense_data_and_never_above_a_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(1, 9)), int(rng.integers(2, 7))
    X, y = _data(n, p, seed)
    if seed % 5 == 0:
        X += 1e6 * rng.integers(0, 2, p)  # means that nearly all cancels against
    if seed % 7 == 0:
        y = np.zeros(n)
    options: dict[str, Any] = {"l0": 0.02, "l2": 0.02, "box": 1.5} if seed % 2 else {"k": 2, "l2": 0.02}
    usual = RegressionData.of(X, y).problem(**options)
    best = _best(usual, options.get("k", p))
    problems = [RegressionData.of(given, y).problem(**options) for given in (sp.coo_array(X), StoredDesign.of(X))]
    for _ in range(10):
        v = torch.from_numpy(rng.standard_normal(p) * 10.0 ** rng.integers(-3, 2) * (rng.random(p) < 0.6))
        for problem in problems:
            loss = problem.reference.loss
            assert isinstance(loss, mp.LeastSquares)
            bounds = [problem.bound(v), problem.bound(v, loss.best_split())]
            assert max(bounds) <= best + 1e-12
            if seed % 5:
                assert bounds[0] == pytest.approx(usual.bound(v, loss.own_split()), rel=1e-9, abs=1e-10) or n >= p


@pytest.mark.parametrize("form", ["sparse", "int8"])
def test_a_stored_solution_is_checked_from_its_file(form: str, tmp_path: Path) -> None:
    X, y = _data(15, 9, 3)
    problem = RegressionData.of(_as(form, X), y).problem(l0=0.01, l2=0.01, box=2.0)
    solution = mp.solve(problem, mp.BranchAndBound())
    path = save(tmp_path / "fit.safetensors", {"fit": (problem, solution)})
    entry = load(path)["fit"]
    assert mp.check(entry.problem, entry.solution).gap == pytest.approx(solution.gap)
    assert isinstance(entry.problem.loss, mp.LeastSquares)
    assert isinstance(entry.problem.loss.design, SparseDesign if form == "sparse" else StoredDesign)
    other = RegressionData.of(_as(form, X + np.eye(15, 9)), y).problem(l0=0.01, l2=0.01, box=2.0)
    with pytest.raises(mp.CertificateError, match="fingerprint"):
        mp.check(other, solution)


@pytest.mark.parametrize("form", ["dense", "sparse", "int8"])
@pytest.mark.parametrize("seed", range(3))
def test_probes_on_the_columns_at_hand_prove_nothing_wrong(
    form: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = _data(9, 8, 20 + seed)
    options: dict[str, Any] = {"l0": 0.01, "l2": 0.005, "box": 1.5}
    best = _best(RegressionData.of(X, y).problem(**options), 8)
    made = []
    monkeypatch.setattr(regression, "FULL", 2)
    monkeypatch.setattr(regression, "_PROBED", 2)
    monkeypatch.setattr(live, "NEAREST", 3)
    once = lambda self, *given: self.failed == math.inf and given[3] < math.inf  # noqa: E731
    monkeypatch.setattr(probes.Prober, "worthwhile", once)
    together = nearby.Nearby.together
    monkeypatch.setattr(nearby.Nearby, "together", lambda *given: made.append(1) or together(*given))  # type: ignore[func-returns-value]
    problem = RegressionData.of(X if form == "dense" else _as(form, X), y).problem(**options)
    solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-6))
    assert made and solution.value == pytest.approx(best, rel=1e-6)
    checked = mp.check(problem, solution, exact=True)
    assert solution.bound is not None and checked.bound is not None
    assert solution.bound <= checked.bound <= best + 1e-12


def test_rows_formed_ahead_never_exceed_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = _data(30, 14, 2)
    monkeypatch.setattr(columns, "_WIDE", 2)
    monkeypatch.setattr(regression, "FULL", 2)
    monkeypatch.setattr(columns, "FULL", 2)
    problem = RegressionData.of(sp.csr_array(X), y).problem(l0=1e-4, l2=1e-3)
    zero = problem.value(torch.zeros(14))
    for room in range(2, 15):
        monkeypatch.setattr(columns, "room_of", lambda size, room=room: room)
        strategy = regression.RegressionBound.of(problem)
        value, (entries, _) = strategy.improved(np.zeros(14), 14)
        assert 0 < len(entries) <= room and value < zero


def test_a_strategy_that_is_let_go_frees_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = _data(9, 8, 1)
    monkeypatch.setattr(regression, "FULL", 2)
    monkeypatch.setattr(regression, "_PROBED", 2)
    strategy = regression.RegressionBound.of(RegressionData.of(sp.csr_array(X), y).problem(l0=0.01, l2=0.1))
    strategy.evaluate(strategy.root(), math.inf, 1e-6, lambda: False)
    assert strategy.live.places.size and strategy.coarse is not strategy
    gone = weakref.ref(strategy)
    del strategy
    assert gone() is None  # at once: no circle waits for the collector


def test_sparse_columns_that_share_no_row_fall_apart() -> None:
    blocks = [_data(5, 3, seed) for seed in (0, 1)]
    X, y = sp.block_diag([block for block, _ in blocks]), np.concatenate([side for _, side in blocks])
    options: dict[str, Any] = {"fit_intercept": False, "standardize": False}
    given = {"l0": 0.1, "l2": 0.1}
    whole = mp.formulations.sparse_regression(X, y, **given, **options)
    solution = mp.solve(whole, mp.BranchAndBound())
    assert isinstance(solution.certificate, mp.Parts)
    assert solution.value == pytest.approx(_best(whole, 6), rel=1e-4)
    mp.check(whole, solution)
