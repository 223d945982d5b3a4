"""Descent over tasks: never above its start, mostly at the optimum of small problems, and an honest solver."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import mipprune as mp
from mipprune.formulations import multitask_regression
from mipprune.solvers import TaskDescent


def problem_of(sharing: float, seed: int = 0, tasks: int = 3, p: int = 5, n: int = 12) -> mp.Problem:
    generator = torch.Generator().manual_seed(seed)
    X = [torch.randn(n + task, p, generator=generator, dtype=torch.float64) for task in range(tasks)]
    y = [
        x[:, 0] + x[:, 1 + task % (p - 1)] + 0.7 * torch.randn(len(x), generator=generator, dtype=torch.float64)
        for task, x in enumerate(X)
    ]
    return multitask_regression(X, y, 2, support_sharing=sharing, value_sharing=0.05, ridge=0.02)


SHARING = [0.0, 0.05, 0.5, math.inf]


@pytest.mark.parametrize("sharing", SHARING)
def test_small_problems_end_at_the_optimum(sharing: float) -> None:
    found = 0
    for seed in range(4):
        problem = problem_of(sharing, seed)
        exact = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-7))
        ours = TaskDescent().solve(problem)
        assert ours.violation == 0 and ours.value >= exact.bound
        found += ours.value <= exact.value * (1 + 1e-6)
    assert found >= 3


@pytest.mark.parametrize("sharing", SHARING)
def test_the_search_helps_and_never_hurts(sharing: float) -> None:
    problem = problem_of(sharing, seed=5, tasks=4, p=20, n=25)
    descent = TaskDescent(exchanges=0).solve(problem)
    searched = TaskDescent().solve(problem)
    assert searched.value <= descent.value
    trace = [value for _, value, _ in searched.stats.trace]
    assert all(after <= before for before, after in itertools.pairwise(trace))
    worst = TaskDescent().solve(problem, start=torch.flip(descent.point, dims=(0,)))
    assert worst.violation == 0
    assert searched.value == pytest.approx(trace[-1], rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_priced_differences_cost_no_more_than_none_or_any(seed: int) -> None:
    """The ends with a common support, and without the price, are members here too, and never better."""
    problem = problem_of(0.3, seed, tasks=3, p=15, n=16)
    value = TaskDescent().solve(problem).value
    for sharing in (0.0, math.inf):
        point = TaskDescent().solve(problem_of(sharing, seed, tasks=3, p=15, n=16)).point
        assert value <= problem.value(point) * (1 + 1e-9)


@pytest.mark.parametrize("sharing", SHARING)
def test_no_single_exchange_is_left(sharing: float) -> None:
    """Every exchange of one unit within a task (of a column, for a common support) is refitted and compared."""
    problem = problem_of(sharing, seed=7, p=6)
    solution = TaskDescent().solve(problem)
    mask = solution.mask.reshape(3, 6)
    tasks = [slice(None)] if sharing == math.inf else [slice(k, k + 1) for k in range(3)]
    for rows in tasks:
        kept = mask[rows].any(dim=0)
        for out in kept.nonzero().ravel():
            for into in (~kept).nonzero().ravel():
                other = mask.clone()
                other[rows, out], other[rows, into] = False, True
                point = torch.where(other.reshape(-1), problem.loss.minimise_on(other.reshape(-1)), 0.0)
                z = other.double()
                price = 0.0 if sharing == math.inf else 0.5 * sharing * float((z - z.mean(dim=0)).square().sum())
                assert problem.loss.value(point) + price >= solution.value * (1 - 1e-7)


@pytest.mark.parametrize("sharing", SHARING)
def test_solver_keeps_the_contract(sharing: float) -> None:
    problem = problem_of(sharing, tasks=2, p=4)
    optimum = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-9)).value
    assert mp.testing.check_solver(TaskDescent(), problem, optimum=optimum) is not None


def test_ctrl_c_returns_the_best_so_far() -> None:
    problem = problem_of(0.05, tasks=4, p=20, n=25)

    def interrupt(seconds: float, value: float | None, bound: float | None) -> bool:
        if seconds > 0 and value is not None and value < problem.loss.scale * 0.9:
            raise KeyboardInterrupt
        return False

    solution = TaskDescent().solve(problem, progress=interrupt)
    assert solution.stop is mp.Stop.USER
    assert solution.violation == 0 and solution.value < problem.loss.scale


def test_what_it_does_not_take() -> None:
    problem = problem_of(0.05)
    none = torch.zeros(problem.shape, dtype=torch.bool)
    assert "fixed" in str(TaskDescent().rejects(problem.restrict(none, none)))
    assert "box" in str(
        TaskDescent().rejects(mp.Problem(problem.loss, mp.structures.SharedSupports(3, 2, 0.1, box=1.0)))
    )
    assert "supports of tasks" in str(TaskDescent().rejects(mp.Problem(problem.loss, mp.Sparse(mp.Cardinality(2)))))
    with pytest.raises(mp.errors.InvalidProblem):
        TaskDescent(sweeps=0)
