"""Sparse regression by the tree: optima against enumeration and SCIP, bounds, limits, resumption, invariances."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mipprune import (
    AnySupport,
    BranchAndBound,
    Budget,
    Cardinality,
    InvalidProblem,
    LeastSquares,
    Problem,
    Proof,
    Scip,
    Sparse,
    SparseTree,
    Status,
    Stop,
    check,
    load,
    save,
    solve,
)
from mipprune.bench.families.sparse_regression import correlated_regression
from mipprune.core.loss import Cells
from mipprune.core.replay import Totals, gain_bounds
from mipprune.formulations import sparse_regression
from mipprune.testing import check_solver, enumerate_optimum

REFERENCE = json.loads((Path(__file__).parents[2] / "reference" / "l0.json").read_text())


def instance(n: int, p: int, k: int, rho: float = 0.1, snr: float = 10.0, seed: int = 0, **options: Any) -> Problem:
    made = correlated_regression(n, p, k, rho, snr, seed)
    options = {"l0": made.l0, "l2": made.l2, "box": made.box, **options}
    return sparse_regression(made.x, made.y, fit_intercept=False, standardize=False, **options)


def random_problem(rng: np.random.Generator, *, boxed: bool) -> Problem:
    """A tiny problem of one of many kinds: wide or tall, ties, zero columns, prices of each, a limit."""
    p = int(rng.integers(2, 7))
    n = int(rng.integers(2, 12))
    design = rng.standard_normal((n, p)) + rng.choice([0.0, 3.0]) * rng.standard_normal((n, 1))
    if rng.random() < 0.2:
        design[:, -1] = design[:, 0]
    if rng.random() < 0.1:
        design[:, 0] = 0.0
    response = rng.standard_normal(n) * rng.choice([0.1, 1.0, 5.0]) + design[:, 0]
    ridge = torch.from_numpy(rng.uniform(0.01, 1.0, p)) if rng.random() < 0.5 else float(rng.uniform(0.01, 1.0))
    price = torch.from_numpy(rng.uniform(0.0, 1.0, p)) if rng.random() < 0.5 else float(rng.uniform(0.0, 1.0))
    supports = Cardinality(int(rng.integers(0, p + 1))) if rng.random() < 0.4 else AnySupport()
    box = torch.from_numpy(rng.uniform(0.2, 2.0, p)) if boxed else None
    limits = None if box is None else (-box, box * float(rng.uniform(0.5, 2.0)))
    return Problem(
        LeastSquares(torch.from_numpy(design), torch.from_numpy(response), ridge), Sparse(supports, limits, price)
    )


def brute_force(problem: Problem) -> float:
    """The best value over all supports, without box: one ridge system for each."""
    loss = problem.loss
    design, response, ridge = loss.design.numpy(), loss.response.numpy(), loss.ridge.numpy()
    p = len(ridge)
    price = torch.as_tensor(problem.structure.price_per_entry, dtype=torch.float64).expand(p).numpy()
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=p)))
    masks = masks[masks.sum(axis=1) <= problem.structure.supports.largest_count(p)]
    gram = design.T @ design + np.diag(ridge)
    systems = masks[:, :, None] * masks[:, None, :] * gram + np.eye(p) * (1 - masks[:, :, None])
    right = masks * (design.T @ response)
    fits = np.linalg.solve(systems, right[:, :, None])[:, :, 0]
    return float((0.5 * response @ response - 0.5 * (fits * right).sum(axis=1) + masks @ price).min())


def test_tiny_problems_agree_with_enumeration() -> None:
    """500 problems without a box."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        problem = random_problem(rng, boxed=False)
        best = brute_force(problem)
        solution = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
        slack = solution.rounding + 1e-12 * abs(best)
        assert solution.status is Status.OPTIMAL and solution.proof is Proof.CHECKED
        assert abs(solution.value - best) <= 1e-6 * abs(best) + slack
        assert solution.bound <= best + slack


def test_tiny_problems_with_boxes_agree_with_enumeration() -> None:
    rng = np.random.default_rng(1)
    for _ in range(25):
        problem = random_problem(rng, boxed=True)
        best, _ = enumerate_optimum(problem)
        solution = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
        assert solution.value == pytest.approx(best, rel=2e-6, abs=1e-9)
        assert solution.bound <= best * (1 + 1e-9) + 1e-12
        check(problem, solution, exact=True)


@pytest.mark.parametrize("supports", [AnySupport(), Cardinality(2)])
def test_random_dual_points_never_exceed_the_optimum(supports: Any) -> None:
    """10,000 tangents, good and absurd ones, at the root and in random cells whose optimum is enumerated."""
    rng = np.random.default_rng(2)
    design = torch.from_numpy(rng.standard_normal((12, 6)))
    response = design[:, 0] - design[:, 1] + 0.3 * torch.from_numpy(rng.standard_normal(12))
    problem = Problem(LeastSquares(design, response, 0.3), Sparse(supports, 1.0, 0.4))
    best = enumerate_optimum(problem)[0]
    start = problem.loss.start()
    scale = torch.from_numpy(rng.choice([0.0, 0.01, 1.0, 10.0], (10_000, 1)))
    points = start * torch.from_numpy(rng.uniform(0, 1.5, (10_000, 6))) + scale * torch.from_numpy(
        rng.standard_normal((10_000, 6))
    )
    none = torch.zeros((10_000, 6), dtype=torch.bool)
    models = problem.loss.tangents(points, Cells(none, none))
    sides = torch.full((10_000, 6), 1.0, dtype=torch.float64)
    gains = gain_bounds(problem.structure, models, -sides, sides, torch.full((6,), 0.4, dtype=torch.float64))
    bounds = Totals.of(gains, none, none, supports.largest_count(6), models.constant).bound()
    assert float(bounds.max()) <= best
    assert float(bounds.max()) >= best - 0.2 * abs(best)


@pytest.mark.parametrize("row", REFERENCE["optima"], ids=lambda row: str(row["columns"]))
def test_stored_optima_are_reproduced(row: dict[str, Any]) -> None:
    problem = instance(200, row["columns"], 5, 0.5, 5.0)
    solution = solve(problem, BranchAndBound(), budget=Budget(gap=1e-7))
    assert solution.status is Status.OPTIMAL
    assert solution.value == pytest.approx(row["value"], rel=1e-9)
    check(problem, solution)


@pytest.mark.exact
def test_scip_agrees() -> None:
    problem = instance(200, 20, 5, 0.5, 5.0)
    claimed = Scip().solve(problem, budget=Budget(gap=1e-6, seconds=60))
    assert claimed.value == pytest.approx(0.104082, abs=1e-6)
    assert claimed.value == pytest.approx(REFERENCE["optima"][0]["value"], rel=1e-6)


def test_the_standard_instance_takes_fewer_nodes_than_published() -> None:
    """From a cold start, with one checked certificate; the published counts are El0ps's."""
    problem = instance(500, 1000, 10)
    for gap, nodes in REFERENCE["standard"]["published_nodes"].items():
        solution = BranchAndBound().solve(problem, budget=Budget(gap=float(gap)))
        assert solution.status is Status.OPTIMAL
        assert solution.value == pytest.approx(REFERENCE["standard"]["value"], abs=1e-6)
        assert solution.stats.nodes < nodes
    checked = check(problem, solution)
    assert checked.gap <= 1e-4
    tree = solution.certificate
    assert isinstance(tree, SparseTree)
    assert tree.leaves < 100 and tree.nbytes < 2_000_000


@pytest.mark.parametrize("form", ["price", "count"])
def test_a_solver_s_promises_are_kept(form: str) -> None:
    made = correlated_regression(30, 8, 3, 0.3, 5.0, 1)
    options: dict[str, Any] = {"l0": made.l0} if form == "price" else {"k": 3}
    problem = sparse_regression(made.x, made.y, l2=0.02, **options)
    assert check_solver(BranchAndBound(), problem, optimum=enumerate_optimum(problem)[0]) is not None


@pytest.mark.parametrize("form", ["price", "count"])
def test_limits_leave_a_valid_bound_and_the_run_can_be_resumed(form: str, tmp_path: Path) -> None:
    made = correlated_regression(60, 40, 6, 0.7, 3.0, 2)
    options: dict[str, Any] = {"l0": made.l0} if form == "price" else {"k": 6}
    problem = sparse_regression(made.x, made.y, l2=0.01, fit_intercept=False, standardize=False, **options)
    whole = BranchAndBound().solve(problem, budget=Budget(gap=1e-5))
    assert whole.status is Status.OPTIMAL and whole.stats.nodes > 10
    part = BranchAndBound().solve(problem, budget=Budget(gap=1e-5, nodes=7))
    assert part.stop is Stop.NODES and part.stats.nodes >= 7
    assert check(problem, part).bound <= whole.value
    assert part.bound <= whole.bound * (1 + 1e-9)
    entry = load(save(tmp_path / "part.safetensors", {"part": (problem, part)}))["part"]
    resumed = BranchAndBound().solve(entry.problem, budget=Budget(gap=1e-5), resume=entry.solution)
    assert resumed.status is Status.OPTIMAL
    assert resumed.value == pytest.approx(whole.value, rel=1e-9)
    assert resumed.bound == pytest.approx(whole.bound, rel=1e-5)
    check(problem, resumed)


def test_resuming_something_else_is_refused() -> None:
    problem, other = instance(40, 12, 3), instance(40, 12, 3, seed=1)
    solution = BranchAndBound().solve(problem)
    with pytest.raises(InvalidProblem, match="another problem"):
        BranchAndBound().solve(other, resume=solution)
    generic = Problem(problem.loss, Sparse(Cardinality(2).restrict(torch.zeros(12).bool(), torch.zeros(12).bool())))
    with pytest.raises(InvalidProblem, match="resumed"):
        BranchAndBound().solve(generic, resume=solution)


def test_an_interrupt_in_the_middle_of_a_node_leaves_a_whole_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    from mipprune.solvers.tree.regression import RegressionBound

    problem = instance(60, 40, 6, 0.7, 3.0, 2)
    original, calls = RegressionBound.scores, []

    def interrupted(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(RegressionBound, "scores", interrupted)
    cut = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
    assert cut.stop is Stop.USER and cut.proof is Proof.CHECKED
    check(problem, cut)
    whole = BranchAndBound().solve(problem, budget=Budget(gap=1e-6), resume=cut)
    assert whole.status is Status.OPTIMAL


def test_units_and_order_do_not_matter() -> None:
    """Scaling a column with its ridge and box, and permuting columns, leave value and bound as they are."""
    made = correlated_regression(50, 20, 4, 0.5, 5.0, 3)
    l2 = np.full(20, 0.02)
    base = sparse_regression(made.x, made.y, l0=made.l0, l2=l2, box=made.box, fit_intercept=False, standardize=False)
    first = BranchAndBound().solve(base, budget=Budget(gap=1e-6))
    scale = np.random.default_rng(0).uniform(0.2, 5.0, 20)
    order = np.random.default_rng(1).permutation(20)
    for x, ridge, box in (
        (made.x * scale, l2 * scale**2, made.box / scale),
        (made.x[:, order], l2[order], np.full(20, made.box)),
    ):
        other = sparse_regression(x, made.y, l0=made.l0, l2=ridge, box=box, fit_intercept=False, standardize=False)
        second = BranchAndBound().solve(other, budget=Budget(gap=1e-6))
        assert second.value == pytest.approx(first.value, rel=2e-6)
        assert abs(second.bound - first.bound) <= 2e-6 * first.value


def test_the_empty_and_the_full_support() -> None:
    x, y = torch.eye(3, dtype=torch.float64), torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    dear = solve(sparse_regression(x, y, l0=100.0, l2=0.1, fit_intercept=False, standardize=False))
    assert dear.value == 7.0 and not dear.mask.any()
    cheap = solve(sparse_regression(x, y, l0=0.0, l2=0.1, fit_intercept=False, standardize=False))
    assert cheap.mask.all() and cheap.status is Status.OPTIMAL
    none = solve(sparse_regression(x, y, k=0, l2=0.1, fit_intercept=False, standardize=False))
    assert none.value == 7.0 and none.status is Status.OPTIMAL


def test_without_ridge_a_box_is_enough() -> None:
    made = correlated_regression(40, 10, 3, 0.2, 10.0, 0)
    problem = sparse_regression(made.x, made.y, l0=made.l0, l2=0.0, box=1.0, fit_intercept=False, standardize=False)
    solution = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
    assert solution.value == pytest.approx(enumerate_optimum(problem)[0], rel=1e-6)
    check(problem, solution, exact=True)


def test_intervals_are_optional() -> None:
    problem = instance(60, 40, 6, 0.7, 3.0, 2)
    plain = BranchAndBound(intervals=False).solve(problem, budget=Budget(gap=1e-6))
    narrowed = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
    assert plain.value == pytest.approx(narrowed.value, rel=1e-6)
    tree = plain.certificate
    assert isinstance(tree, SparseTree) and int(tree.step_kind.max()) <= 1


def test_a_good_start_is_used() -> None:
    problem = instance(60, 40, 6, 0.7, 3.0, 2)
    best = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
    again = BranchAndBound().solve(problem, budget=Budget(gap=1e-6, nodes=1), start=best.point)
    assert again.value <= best.value * (1 + 1e-12)
    assert math.isfinite(again.bound)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ridge", [5e-324, 1e-310, 1e-300, 1e-160])
def test_a_ridge_that_bounds_nothing_leaves_an_answer(ridge: float) -> None:
    """Relaxations then overflow where columns are alike; such a point became part of the certificate."""
    rng = np.random.default_rng(0)
    for n, p in ((1, 1), (5, 3), (3, 5), (6, 6), (6, 6)):
        design, response = rng.standard_normal((n, p)), rng.standard_normal(n)
        design[:, -1] = design[:, 0]
        for options in ({"l0": 0.1}, {"l0": 1e-3, "box": 1e6}, {"k": 1, "box": 1e300}, {"k": 2}):
            problem = sparse_regression(design, response, l2=ridge, fit_intercept=False, standardize=False, **options)
            solution = solve(problem, budget=Budget(nodes=50))
            assert check(problem, solution).value == solution.value < math.inf
