"""Trees over the edges of a graphical model: published optima, enumeration, tampering, interrupts; descent at scale."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune.formulations import graphical_model
from mipprune.kernels.graph_batched import descend_batched
from mipprune.kernels.graph_search import improve
from mipprune.solvers import EdgeDescent
from tests.graphs import enumerate_values, random_instance, uniform_model
from tests.layers import reference

INSTANCES = reference("graphical_models")["instances"]


def published(p: int, n: int | None = None, seed: int = 0) -> mp.Problem:
    samples, theta = uniform_model(p, n or 10 * p, seed)
    return graphical_model(samples, l0=0.05, l2=0.05, box=float(np.abs(theta).max()), standardize=False)


@pytest.mark.parametrize("instance", INSTANCES[:4], ids=lambda instance: f"p={instance['p']}")
def test_published_optima_are_proven_by_small_trees(instance: dict[str, Any]) -> None:
    problem = published(instance["p"])
    solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-5))
    assert solution.status is mp.Status.OPTIMAL
    assert solution.value == pytest.approx(instance["optimum"], abs=1.1e-5)
    checked = mp.check(problem, solution)
    assert checked.bound is not None and checked.bound >= solution.value - 1e-5
    assert len(solution.certificate) <= 100  # the page of the plain relaxation needs up to 124,339


def test_the_root_bound_of_twenty_nodes_is_within_a_fifth() -> None:
    problem = published(20)
    solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(nodes=3))
    assert solution.value == pytest.approx(INSTANCES[4]["best"], abs=1e-6)
    bound = mp.check(problem, solution).bound
    assert bound is not None and solution.value - bound < 0.2


def test_five_hundred_tiny_instances_equal_enumeration() -> None:
    total = exact = 0.0
    for seed in range(520):
        instance = random_instance(np.random.default_rng(seed), 4 if seed % 8 == 0 else 3)
        problem, optimum = instance.problem, enumerate_values(instance).min()
        solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-9))
        slack = 1e-8 * (problem.loss.scale + abs(optimum))
        assert solution.bound is not None
        assert solution.bound <= optimum + solution.rounding, seed
        assert solution.value == pytest.approx(optimum, abs=slack), seed
        if seed % 20 == 0:
            mp.check(problem, solution, exact=True)
        total, exact = total + solution.value, exact + optimum
    assert total == pytest.approx(exact, rel=1e-8)


@pytest.fixture(scope="module")
def solved() -> tuple[mp.Problem, mp.Solution]:
    problem = published(8)
    solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-6))
    assert len(solution.certificate) >= 5
    return problem, solution


def test_altered_certificates_are_refused(solved: tuple[mp.Problem, mp.Solution]) -> None:
    problem, solution = solved
    tree = solution.certificate
    assert isinstance(tree, mp.SparseTree)
    mp.check(problem, solution)
    branching = int((tree.index >= 0).nonzero()[0])
    flipped, pruned, moved = tree.children.clone(), tree.children.clone(), tree.point_value.clone()
    flipped[branching] = flipped[branching].flip(0)
    pruned[branching, 1] = -1
    moved[len(moved) // 2] += 0.05
    bad = [replace(tree, children=flipped), replace(tree, children=pruned), replace(tree, point_value=moved)]
    if tree.split_value.numel():
        bad.append(replace(tree, split_value=1.5 * tree.split_value))
    fewer = tree.index.clone()
    fewer[branching] = -1
    bad.append(replace(tree, index=fewer))
    for certificate in bad:
        with pytest.raises(mp.CertificateError):
            mp.check(problem, replace(solution, certificate=certificate))
    for raised in (solution.bound + 1e-4, solution.bound - 1e-3):
        with pytest.raises(mp.CertificateError):
            mp.check(problem, replace(solution, bound=raised, tolerance=1.0))
    other = graphical_model(problem.loss.covariance, l0=0.05, l2=0.06, box=1.0, covariance=True)
    with pytest.raises(mp.CertificateError, match="fingerprint"):
        mp.check(other, solution)


def test_scip_agrees() -> None:
    problem = published(4)
    ours = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=1e-8))
    scip = mp.Scip().solve(problem, budget=mp.Budget(seconds=60, gap=1e-5))
    assert scip.proof is not mp.Proof.NONE
    assert scip.value == pytest.approx(ours.value, abs=1e-6)
    assert scip.bound == pytest.approx(ours.value, rel=1e-4)
    assert "log" in str(mp.Highs().rejects(problem))


def test_an_interrupt_returns_the_best_so_far() -> None:
    problem, calls = published(14, seed=1), []

    def stop(seconds: float, value: float | None, bound: float | None) -> bool:
        calls.append(value)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return False

    solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=0.0, absolute_gap=1e-6), progress=stop)
    assert solution.stop is mp.Stop.USER
    assert solution.point is not None
    checked = mp.check(problem, solution)
    assert checked.bound is not None and checked.bound <= solution.value


def test_an_absolute_gap_counts() -> None:
    problem = published(12)
    loose = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=0.05))
    tight = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-6))
    for solution, gap in ((loose, 0.05), (tight, 1e-6)):
        assert solution.status is mp.Status.OPTIMAL
        assert solution.value - solution.bound <= gap
        mp.check(problem, solution)
    assert (loose.stats.nodes or 0) <= (tight.stats.nodes or 0)
    with pytest.raises(mp.InvalidProblem, match="absolute_gap"):
        mp.Budget(absolute_gap=-1.0)


# ------------------------------------------------------------------------------------------------------- descent


@pytest.mark.parametrize("batched", [False, True])
def test_descent_is_a_local_optimum_with_a_checked_bound(batched: bool) -> None:
    samples, _ = uniform_model(60, 600)
    problem = graphical_model(samples, l0=0.02, l2=0.05)
    solution = EdgeDescent(batched=batched).solve(problem)
    checked = mp.check(problem, solution)
    assert checked.bound is not None and checked.bound <= solution.value
    assert 20 < int(solution.mask.sum()) < 150
    rng = np.random.default_rng(0)
    for k in rng.permutation(problem.size)[:60]:  # one edge more or less is no better
        mask = solution.mask.clone()
        mask[k] = ~mask[k]
        other = problem.loss.minimise_on(mask, start=solution.point)
        assert problem.value(other) >= solution.value - 2e-3


def test_descent_finds_small_optima() -> None:
    worse = 0
    for seed in range(40):
        instance = random_instance(np.random.default_rng(seed), 4)
        values = enumerate_values(instance)
        value = EdgeDescent().solve(instance.problem).value
        assert value >= values.min() - 1e-9 * (1 + abs(values.min()))
        assert value <= values[0] + 1e-9  # never worse than the empty graph
        worse += value > values.min() + 1e-6 * (1 + abs(values.min()))
    assert worse <= 10


def test_batched_steps_add_up() -> None:
    samples, _ = uniform_model(30, 90)
    problem = graphical_model(samples, l0=0.02, l2=0.05, box=0.4)
    matrix = problem.loss.covariance
    parts = [torch.full((1, 1), value, dtype=torch.float64) for value in (0.02, 0.05, -0.4, 0.4)]
    values = [
        problem.value(descend_batched(matrix, *parts, steps=steps)[tuple(torch.triu_indices(30, 30, 1))])
        for steps in (0, 1, 2, 4, 8, 1000)
    ]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] - 0.1
    flat = descend_batched(matrix, *parts)[tuple(torch.triu_indices(30, 30, 1))].numpy()
    entries = np.flatnonzero(flat)
    found = improve(problem.loss.matrix, (entries, flat[entries]), problem.loss.penalties(0.02, -0.4, 0.4), swaps=0)
    assert len(found[0]) <= len(entries)


def test_descent_says_what_it_does_not_take() -> None:
    problem = mp.formulations.layerwise(torch.ones(1, 4), torch.eye(4), mp.NofM(2, 4))
    assert "graphical model" in str(EdgeDescent().rejects(problem))
    with pytest.raises(mp.Unsupported, match="graphical model"):
        EdgeDescent().solve(problem)
    with pytest.raises(mp.InvalidProblem, match="swaps"):
        EdgeDescent(swaps=-1)
