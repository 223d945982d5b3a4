"""Peers: refitted supports are judged like any other answer, and what is absent says so."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune.bench import judge
from mipprune.bench.peers import CVXPY, Abess, GraphicalLassoPath, LassoPath, MatchingPursuit, ThroughCvxpy
from mipprune.bench.peers.regression import _distinct, best_refitted


def _problem(count: int = 3) -> mp.Problem:
    generator = torch.Generator().manual_seed(1)
    design = torch.randn(40, 10, generator=generator, dtype=torch.float64)
    response = design[:, [1, 4, 7]].sum(1) + 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
    return mp.Problem(mp.LeastSquares(design, response, ridge=0.1), mp.Sparse(mp.Cardinality(count)))


@pytest.mark.parametrize("peer", [MatchingPursuit(), LassoPath(), Abess()], ids=lambda peer: peer.name)
def test_columns_are_chosen_and_refitted(peer: MatchingPursuit | LassoPath | Abess) -> None:
    problem = _problem()
    if find_spec(peer.package) is None:
        assert "is not installed" in str(peer.rejects(problem))
        return
    answer = peer.solve(problem)
    assert judge(problem, answer).faults == ()
    assert answer.mask is not None and answer.mask.nonzero().flatten().tolist() == [1, 4, 7]
    best = mp.solve(problem, mp.BranchAndBound())
    assert answer.value == pytest.approx(best.value, rel=1e-9), "the right support, refitted, is the optimum"


def test_peers_refuse_what_they_would_solve_wrongly() -> None:
    problem = _problem()
    free = mp.Problem(problem.loss, mp.Sparse(mp.structures.AnySupport()))
    fixed = problem.restrict(torch.arange(10) == 0, torch.zeros(10, dtype=torch.bool))
    layer = mp.formulations.layerwise(torch.ones(1, 4), torch.eye(4), mp.Cardinality(2))
    for other in (free, fixed, layer):
        assert "it takes least squares" in str(MatchingPursuit().rejects(other))


def test_points_are_brought_into_boxes_and_antichains_and_paths_compared_at_prices() -> None:
    loss = _problem().loss
    boxed = mp.Problem(loss, mp.Sparse(mp.Cardinality(3), box=0.5))
    priced = mp.Problem(loss, mp.Sparse(mp.structures.AnySupport(), price=1.0, box=2.0))
    parents = torch.tensor([-1, 0, 0, -1, 3, 3, -1, 6, 6, -1])
    chained = mp.Problem(loss, mp.Sparse(mp.structures.Antichain(parents, 4)))
    for problem in (boxed, priced, chained):
        best = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-9)).value
        for peer in (MatchingPursuit(), LassoPath()):
            answer = peer.solve(problem)
            assert judge(problem, answer).faults == ()
            assert best - 1e-9 <= answer.value <= best + 0.2 * abs(best)


def test_a_long_path_is_looked_at_from_end_to_end() -> None:
    path = np.vstack([np.tril(np.ones((300, 300))), np.full(300, np.nan), np.eye(300)[:1]])
    sizes = [int(mask.sum()) for mask in _distinct(path, None, 250)]
    assert len(sizes) == 100 and sizes[0] == 1 and sizes[-1] == 250 and max(np.diff(sizes)) <= 3
    path[5, :3] = (3.0, 1.0, 2.0)
    assert [int(mask.sum()) for mask in _distinct(path[5:6], 2, 250)] == [2]
    problem = mp.Problem(_problem().loss, mp.Sparse(mp.structures.AnySupport(), price=1.0))
    best = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-9))
    assert best.mask is not None and int(best.mask.sum()) == 3
    points = np.vstack([best.mask.numpy(), np.ones(10), np.zeros(10)])
    assert problem.value(best_refitted(problem, points)) == pytest.approx(best.value, rel=1e-9)


@pytest.mark.exact
def test_a_solver_behind_cvxpy_answers_with_a_judged_point_and_no_bound() -> None:
    problem = _problem()
    answer = ThroughCvxpy("SCIP").solve(problem, budget=mp.Budget(seconds=30))
    assert judge(problem, answer).faults == () and answer.bound is None
    assert answer.value == pytest.approx(mp.solve(problem, mp.BranchAndBound()).value, rel=1e-4)
    assert "finds no solver" in str(ThroughCvxpy("NOT_THERE").rejects(problem))
    assert {factory().rejects(problem) for factory in CVXPY.values()}, "present or absent, it says so"


@pytest.mark.exact
def test_a_model_that_a_solver_does_not_take_is_unsupported_not_failed() -> None:
    with pytest.raises(mp.Unsupported, match="HIGHS takes no such model"):
        ThroughCvxpy("HIGHS").solve(_problem(), budget=mp.Budget(seconds=5))


def test_the_graphical_lasso_is_refitted_and_never_below_the_optimum() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    samples[:, 1] += samples[:, 0]
    problem = mp.formulations.graphical_model(samples, l0=0.05, l2=0.05)
    answer = GraphicalLassoPath().solve(problem)
    best = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-6))
    assert judge(problem, answer).faults == () and answer.bound is None
    assert best.value - 1e-9 <= answer.value <= best.value + 0.05
    assert "graphical models with a price" in str(GraphicalLassoPath().rejects(_problem()))
