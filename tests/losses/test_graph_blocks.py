"""Graphs in blocks: bounds against enumeration for any blocks, right or wrong; tampering; the merging of blocks."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune.formulations import graphical_model
from mipprune.kernels.graph_appraisal import Penalties, Shift, appraise, vectors_of
from mipprune.kernels.pairs import split_pairs
from mipprune.losses import PseudoLikelihood
from mipprune.losses.graph_blocks import GraphBlocks, block_parts
from mipprune.solvers.tree import blocks as blockwise
from tests.graphs import Instance, enumerate_values, random_instance, uniform_model


def weakly_linked(rng: np.random.Generator, p: int, labels: np.ndarray, noise: float) -> Instance:
    """A random instance whose blocks are linked by little."""
    instance = random_instance(rng, p)
    matrix = instance.loss.matrix.copy()
    scale = np.sqrt(np.outer(matrix.diagonal(), matrix.diagonal()))
    across = labels[:, None] != labels[None, :]
    matrix[across] = 0.0
    drawn = np.triu(rng.uniform(-noise, noise, matrix.shape), 1)
    matrix += np.where(across, (drawn + drawn.T) * scale, 0.0)
    matrix += np.diag(p * noise * matrix.diagonal())
    loss = PseudoLikelihood(torch.tensor(matrix), instance.loss.ridge)
    return Instance(loss, instance.price, instance.lower, instance.upper)


def certified(problem: mp.Problem, labels: np.ndarray, rng: np.random.Generator) -> GraphBlocks:
    """Blocks with certificates of all kinds: finished trees, trees cut short, tangents at random points."""
    pieces: list[Any] = []
    blocks = torch.tensor(labels)
    for part in block_parts(problem, blocks):
        kind = rng.integers(3)
        if kind == 0:
            pieces.append(mp.Tangent(torch.tensor(0.3 * rng.standard_normal(part.problem.size))))
        else:
            nodes = None if kind == 1 else int(rng.integers(1, 4))
            solution = mp.BranchAndBound().solve(part.problem, budget=mp.Budget(gap=1e-9, nodes=nodes))
            pieces.append(solution.certificate or mp.Tangent(torch.zeros(part.problem.shape)))
    return GraphBlocks(blocks, tuple(pieces))


def test_the_bound_is_never_above_the_optimum() -> None:
    """Blocks that fit and blocks that do not, weak links and strong ones; in float64 and in rationals."""
    tight = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        p = 5 if seed % 30 == 0 else int(rng.integers(3, 5))
        labels = rng.integers(0, 3, p)
        linked = seed % 3 == 0
        instance = random_instance(rng, p) if linked else weakly_linked(rng, p, labels, 10.0 ** rng.uniform(-8, -1))
        if not instance.loss.is_convex or len(set(labels)) < 2:
            continue
        problem = instance.problem
        optimum = float(enumerate_values(instance).min())
        certificate = certified(problem, labels, rng)
        bound = certificate.bound(problem)
        slack = 1e-9 * (problem.loss.scale + abs(optimum))
        assert bound <= optimum + slack, seed
        tight += bound >= optimum - 1e-6 * problem.loss.scale
        if seed % 15 == 1 and math.isfinite(bound):
            exact = certificate.rational_bound(problem)
            assert exact <= optimum + slack, seed
            assert bound <= float(exact) + slack, seed
    assert tight > 8


def separate(p: int = 6, blocks: int = 3, noise: float = 0.004, seed: int = 0) -> mp.Problem:
    """Groups of variables, each with the covariance of few samples, and next to nothing between them."""
    rng, size = np.random.default_rng(seed), p * blocks
    covariance = rng.standard_normal((size, size)) * noise
    covariance = np.triu(covariance, 1) + np.triu(covariance, 1).T
    for number in range(blocks):
        samples = uniform_model(p, 10 * p, 10 * seed + number)[0]
        place = slice(number * p, (number + 1) * p)
        covariance[place, place] = np.cov(samples.T, bias=True)
    return graphical_model(covariance, l0=0.05, l2=0.05, box=1.0, standardize=False, covariance=True)


@pytest.fixture(scope="module")
def solved() -> tuple[mp.Problem, mp.Solution]:
    problem = separate()
    return problem, mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-4))


def test_blocks_are_found_solved_and_proven_alone(
    solved: tuple[mp.Problem, mp.Solution], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    problem, solution = solved
    assert isinstance(solution.certificate, GraphBlocks) and solution.status is mp.Status.OPTIMAL
    assert solution.certificate.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert len(solution.certificate.certificates) == 3 and float(solution.certificate.gains(problem).max()) < 0
    mp.check(problem, solution)
    stored = mp.load(mp.save(tmp_path / "graph.safetensors", {"graph": (problem, solution)}))["graph"]
    mp.check(stored.problem, stored.solution)
    monkeypatch.setattr("mipprune.solvers.branch_and_bound.graph_labels", lambda *_: None)
    whole = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-4, seconds=20))
    assert isinstance(whole.certificate, mp.SparseTree)
    assert abs(whole.value - solution.value) <= 2e-4 and whole.bound <= solution.value


def test_altered_blocks_are_refused(solved: tuple[mp.Problem, mp.Solution]) -> None:
    problem, solution = solved
    certificate = solution.certificate
    assert isinstance(certificate, GraphBlocks)
    first, *others = certificate.certificates
    assert isinstance(first, mp.SparseTree)
    moved = first.point_value.clone()
    moved[-1] += 0.05
    steps = torch.ones_like(first.step_start)
    steps[0] = 0
    assert first.split_value.numel()
    for wrong in (
        replace(certificate, certificates=(first,)),
        replace(certificate, certificates=(others[0], first, *others[1:])),
        replace(certificate, certificates=(replace(first, point_value=moved), *others)),
        replace(certificate, certificates=(replace(first, split_value=1.3 * first.split_value), *others)),
        replace(certificate, certificates=(certificate, *others)),
        replace(certificate, labels=certificate.labels.flip(0)),
        replace(certificate, labels=certificate.labels[1:]),
        replace(certificate, labels=certificate.labels.double()),
        replace(certificate, labels=torch.cat([torch.ones(1, dtype=torch.int64), certificate.labels[1:]])),
    ):
        with pytest.raises(mp.CertificateError):
            mp.check(problem, replace(solution, certificate=wrong))
    with pytest.raises(mp.CertificateError):
        mp.check(problem, replace(solution, bound=solution.bound + 1e-4))


def test_curvature_is_proven_with_the_other_blocks() -> None:
    """A shift that is valid for the block alone proves too much where the block is linked to others."""
    problem = separate(4, 2, 0.03, 3)
    labels = torch.tensor([0] * 4 + [1] * 4)
    part = block_parts(problem, labels)[0].problem
    alone = PseudoLikelihood(part.loss.covariance, part.loss.ridge)
    allowed = torch.ones(part.size, dtype=torch.bool)
    row = torch.zeros(alone.split_size, dtype=torch.float64)
    row[:4] = torch.linalg.eigvalsh(alone.covariance)[0] * (1 - 1e-9)
    assert alone.proves_split(row, allowed) and not part.loss.proves_split(row, allowed)
    assert part.loss.proves_split(0.8 * row, allowed)


def test_blocks_that_are_linked_after_all_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a guess that cuts through edges, the pairs that may gain join the blocks again."""
    problem = separate(5, 2, 0.004, 1)
    best = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-4))
    zero = torch.zeros(problem.shape, dtype=torch.float64)
    from mipprune.solvers.tree.blocks import graph_labels

    def guessed(problem: mp.Problem, start: Any, guess: Any) -> Any:
        return guess if problem.loss.nodes == 10 else graph_labels(problem, start)

    for labels in ([0] * 3 + [1] * 2 + [2] * 5, list(range(10)), [0, 1] * 5):
        guess = torch.tensor(labels), zero
        monkeypatch.setattr("mipprune.solvers.branch_and_bound.graph_labels", partial(guessed, guess=guess))
        solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-4))
        assert solution.status is mp.Status.OPTIMAL
        assert solution.value == pytest.approx(best.value, abs=2e-4)
        mp.check(problem, solution)


def test_trees_that_narrow_intervals_are_refused() -> None:
    """Below such a step the vectors of a tangent would be others than those that bound the pairs across."""
    problem = separate(5, 2, 0.004, 1)
    solution = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-4))
    assert isinstance(solution.certificate, GraphBlocks)
    trees = [tree for tree in solution.certificate.certificates if isinstance(tree, mp.SparseTree)]
    assert any(len(tree.step_kind) for tree in trees), "there is nothing to alter"
    altered = tuple(replace(tree, step_kind=torch.full_like(tree.step_kind, 2)) for tree in trees)
    wrong = GraphBlocks(solution.certificate.labels, altered)
    with pytest.raises(mp.CertificateError, match="intervals"):
        wrong.gains(problem)
    for proves in (wrong.bound, wrong.rational_bound):
        with pytest.raises(mp.CertificateError):
            proves(problem)


def test_an_empty_graph_needs_no_tree_and_other_problems_no_blocks() -> None:
    problem = graphical_model(torch.eye(5, dtype=torch.float64), l0=0.1, l2=0.1, covariance=True)
    solution = mp.solve(problem, mp.BranchAndBound())
    assert isinstance(solution.certificate, GraphBlocks) and len(solution.certificate) == 0
    assert solution.status is mp.Status.OPTIMAL and solution.value == 5.0
    assert mp.check(problem, solution, exact=True).bound == pytest.approx(5.0, abs=1e-12)
    fixed = problem.restrict(torch.zeros(10).bool(), torch.ones(10).bool())
    assert blockwise.graph_labels(fixed) is None
    with pytest.raises(mp.Unsupported, match="fixed"):
        block_parts(fixed, torch.zeros(5, dtype=torch.int64))
    counted = mp.Problem(problem.loss, mp.Sparse(mp.Cardinality(2)))
    with pytest.raises(mp.Unsupported, match="number"):
        block_parts(counted, torch.zeros(5, dtype=torch.int64))


def test_limits_and_interrupts_leave_a_valid_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = separate(8, 3, 0.004, 2)
    limited = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-6, nodes=4))
    assert isinstance(limited.certificate, GraphBlocks)
    assert mp.check(problem, limited).bound <= limited.value
    again = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=0.0, absolute_gap=1e-2), resume=limited)
    assert again.value <= limited.value + 1e-12 and mp.check(problem, again).bound >= limited.bound - 1e-9
    calls = []

    def stop(*_: Any) -> bool:
        calls.append(1)
        raise KeyboardInterrupt

    cut = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-6), progress=stop)
    assert cut.stop is mp.Stop.USER and calls
    if cut.certificate is not None:
        assert mp.check(problem, cut).bound <= limited.value

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(blockwise, "block_parts", interrupted)
    none = mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(gap=0.0, absolute_gap=1e-6))
    assert none.stop is mp.Stop.USER and none.point is not None


def test_the_vectors_of_a_tree_are_those_of_its_bounds() -> None:
    """With every pair off a row proves ``1 + log(S_ii - x_i' S x_i)``, whatever the point and the shift."""
    rng = np.random.default_rng(7)
    for p in (4, 9):
        data = rng.standard_normal((3 * p, p))
        matrix = np.ascontiguousarray(data.T @ data / (3 * p))
        size = p * (p - 1) // 2
        penalties = Penalties(np.full(1, 0.1), np.full(1, 0.2), np.full(1, -2.0), np.full(1, 2.0))
        for shift in (Shift.none(p), Shift(np.full(p, 1e-3), np.zeros((0, 0)))):
            entries = np.sort(rng.choice(size, size // 2, replace=False))
            values = 0.2 * rng.standard_normal(len(entries))
            fixed = np.full(size, -1, dtype=np.int8)
            bound = appraise(matrix, np.abs(matrix).max(axis=1), entries, values, fixed, shift, penalties).bound
            x = vectors_of(matrix, entries, values, shift, penalties).dense()
            i, j = split_pairs(entries, p)
            assert np.array_equal(np.flatnonzero(x), np.sort(np.concatenate([i * p + j, j * p + i])))
            square = np.einsum("ij,jk,ik->i", x, matrix, x) - (x * x) @ shift.common
            assert bound == pytest.approx(float((1.0 + np.log(matrix.diagonal() - square)).sum()), rel=1e-12)
