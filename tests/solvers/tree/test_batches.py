"""Trees whose nodes are relaxed several at a time: the same optima, accepted certificates, limits and resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mipprune import BranchAndBound, Budget, InvalidProblem, Problem, SparseTree, Status, Stop, Unsupported, check
from mipprune.bench.families.sparse_regression import correlated_regression
from mipprune.formulations import sparse_regression
from tests.solvers.tree.test_regression import brute_force, random_problem


def instance(seed: int = 0, **options: Any) -> Problem:
    made = correlated_regression(80, 100, 4, 0.4, 5.0, seed)
    chosen = {"l0": made.l0, "l2": made.l2, "box": made.box, **options}
    return sparse_regression(made.x, made.y, fit_intercept=False, standardize=False, **chosen)


def test_tiny_problems_agree_with_enumeration() -> None:
    rng = np.random.default_rng(0)
    solver, budget = BranchAndBound(batch=4), Budget(gap=1e-9, absolute_gap=1e-9)
    for _ in range(60):
        problem = random_problem(rng, boxed=False)
        solution = solver.solve(problem, budget=budget)
        best = brute_force(problem)
        assert solution.value == pytest.approx(best, rel=1e-7, abs=1e-7)
        assert check(problem, solution).bound <= best + 1e-9 * max(1.0, abs(best))


def test_the_same_optimum_with_and_without(device: torch.device) -> None:
    problem, budget = instance(), Budget(gap=1e-3, seconds=60)
    alone = BranchAndBound().solve(problem, budget=budget)
    together = BranchAndBound(batch=16).solve(problem.to(device=device), budget=budget)
    assert alone.status is together.status is Status.OPTIMAL
    assert together.value == pytest.approx(alone.value, rel=1e-9)
    assert isinstance(together.certificate, SparseTree)
    assert check(problem, together).gap <= 1e-3


def test_a_count_goes_the_usual_way() -> None:
    problem = instance(l0=None, k=3)
    budget = Budget(gap=1e-2, nodes=40)
    alone, together = (BranchAndBound(batch=batch).solve(problem, budget=budget) for batch in (1, 8))
    assert together.value == pytest.approx(alone.value, rel=1e-9)
    assert check(problem, together).bound <= alone.value


def test_limits_hold() -> None:
    problem = instance(1)
    few = BranchAndBound(batch=8).solve(problem, budget=Budget(gap=0.0, nodes=20))
    assert few.stop is Stop.NODES
    assert few.stats.nodes <= 30
    brief = BranchAndBound(batch=64).solve(problem, budget=Budget(gap=0.0, seconds=0.5))
    assert brief.stop in (Stop.TIME, Stop.GAP)
    assert check(problem, brief).bound <= brief.value


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    problem, path = instance(), tmp_path / "run.state"
    solver = BranchAndBound(batch=8, checkpoint=path, checkpoint_seconds=0.0)
    whole = BranchAndBound(batch=8).solve(problem, budget=Budget(gap=1e-4))
    cut = solver.solve(problem, budget=Budget(gap=1e-4, nodes=70))
    assert cut.stop is Stop.NODES
    rest = solver.solve(problem, budget=Budget(gap=1e-4), resume=path)
    assert rest.value == whole.value
    assert rest.bound == whole.bound
    assert len(rest.certificate) == len(whole.certificate)


@pytest.mark.parametrize("batch", [0, 2.5, "4", None])
def test_what_is_no_number_of_nodes_is_refused(batch: Any) -> None:
    with pytest.raises(InvalidProblem, match=f"batch is {batch!r}"):
        BranchAndBound(batch=batch)


def test_a_design_that_may_not_become_dense_is_refused_before_the_search() -> None:
    data = sp.random_array((1000, 40_000), density=1e-4, rng=np.random.default_rng(0), format="csc")
    problem = sparse_regression(data, np.ones(1000), l0=0.1, l2=0.1)
    assert BranchAndBound().rejects(problem) is None
    assert "batch=4" in (BranchAndBound(batch=4).rejects(problem) or "")
    with pytest.raises(Unsupported, match="made dense"):
        BranchAndBound(batch=4).solve(problem)
