"""Chains of problems: one pool of cuts, falling values, bounds that serve backwards."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mipprune as mp
from mipprune import LeastSquares, Problem, Sparse, Stable
from mipprune.solvers.cuts.chain import FrontierPoint, frontier, frontier_upwards
from mipprune.solvers.cuts.cutting_planes import CuttingPlanes
from mipprune.testing import enumerate_optimum

BUDGET = mp.Budget(gap=1e-6)


def make(seed: int, p: int = 8) -> tuple[LeastSquares, Tensor]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 5))
    held = x[:, rng.integers(0, 5, p)] <= rng.standard_normal(p) * 0.6
    y = x[:, 0] + 0.5 * (x[:, 1] > 0) + 0.4 * rng.standard_normal(40)
    often = torch.from_numpy(np.sort(rng.integers(1, 9, p))[::-1].copy())
    return LeastSquares(held.astype(float), (y - y.mean()) / y.std(), 4.0), often


def chain(loss: LeastSquares, often: Tensor, count: int = 3) -> list[Problem]:
    sums = torch.cat([torch.zeros(1, dtype=often.dtype), often.cumsum(0)])
    levels = sorted(set((sums[count:] - sums[:-count]).tolist()), reverse=True)
    return [Problem(loss, Sparse(Stable(count, often, level))) for level in levels]


def frequency(point: FrontierPoint) -> int:
    assert point.mask is not None and isinstance(point.problem.structure, Sparse)
    supports = point.problem.structure.supports
    assert isinstance(supports, Stable)
    return int(supports.frequencies[point.mask].sum())


@pytest.mark.parametrize("master", ["highs", "scip", "own"])
def test_every_point_is_optimal_and_values_fall(master: str, highs: Any, scip: Any) -> None:
    for seed in range(2 if master == "highs" else 1):
        problems = chain(*make(seed))
        points = frontier(problems, solver=CuttingPlanes(master), budget=BUDGET)
        assert len(points) == len(problems)
        last = np.inf
        for point, problem in zip(points, problems, strict=True):
            optimum, _ = enumerate_optimum(problem)
            assert point.solution.value == pytest.approx(optimum, rel=1e-5)
            assert point.proven <= optimum * (1 + 1e-12)
            assert point.claimed is None or point.claimed <= optimum * (1 + 1e-6)
            assert problem.violation(point.solution.point) == 0
            assert point.claimed_gap <= point.checked_gap + 1e-15
            mp.check(problem, point.solution)
            assert point.solution.value <= last
            last = point.solution.value


def test_bounds_rise_towards_the_smaller_families_and_stay_checked() -> None:
    points = frontier(chain(*make(5)), budget=mp.Budget(gap=0.05))
    assert all(later.proven <= earlier.proven for earlier, later in pairwise(points))
    assert all(point.claimed_gap <= 0.05 for point in points)
    for point in points:
        assert point.tangent is not None
        assert point.tangent.bound(point.problem) == point.proven
        assert point.proven <= enumerate_optimum(point.problem)[0] * (1 + 1e-12)


def test_the_first_point_is_the_most_frequent_set() -> None:
    loss, _ = make(1)
    often = torch.arange(9, 1, -1)
    first = frontier(chain(loss, often))[0]
    assert first.mask is not None and first.mask.nonzero().ravel().tolist() == [0, 1, 2]
    assert first.solution.status is mp.Status.OPTIMAL and first.solution.proof is mp.Proof.CHECKED


def test_the_walk_upwards_meets_every_undominated_pair() -> None:
    loss, often = make(2, p=9)
    supports = Stable(3, often, 0)

    def build(least: int) -> Problem:
        return Problem(loss, Sparse(Stable(3, often, least)))

    points = frontier_upwards(build, frequency, budget=mp.Budget(gap=1e-9))
    best: dict[int, float] = {}
    for number in range(1 << 9):
        mask = torch.tensor([bool(number >> j & 1) for j in range(9)])
        if supports.contains(mask):
            value = loss.value(torch.where(mask, loss.minimise_on(mask), 0.0))
            level = int(often[mask].sum())
            best[level] = min(value, best.get(level, np.inf))
    frontier_values, least = [], np.inf
    for level in sorted(best, reverse=True):
        if best[level] < least * (1 - 1e-9):
            least = best[level]
            frontier_values.append(least)
    assert [point.solution.value for point in points] == pytest.approx(frontier_values, rel=1e-6)
    levels = [frequency(point) for point in points]
    assert levels == sorted(levels, reverse=True)


def test_a_chain_in_the_wrong_order_is_refused() -> None:
    problems = chain(*make(3))
    with pytest.raises(mp.InvalidProblem, match="order the chain"):
        frontier(problems[::-1])


def test_a_listener_can_stop_the_chain() -> None:
    seen: list[int] = []

    def listen(number: int, point: FrontierPoint) -> bool:
        seen.append(number)
        return number == 1

    assert len(frontier(chain(*make(4)), progress=listen)) == 2 and seen == [0, 1]


def test_an_empty_family_at_the_beginning_does_not_end_the_chain() -> None:
    loss, often = make(6)
    problems = [Problem(loss, Sparse(Stable(3, often, level))) for level in (10_000, 5)]
    points = frontier(problems)
    assert points[0].solution.status is mp.Status.INFEASIBLE and points[0].mask is None
    assert points[1].solution.status is mp.Status.OPTIMAL
