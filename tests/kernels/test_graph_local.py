"""Curvature for few pairs of each row: what is proven holds, what does not hold is never proven."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune.kernels import graph_local
from mipprune.kernels.graph_appraisal import Shift
from mipprune.kernels.graph_local import Inverse, candidates, proves_rows
from mipprune.kernels.graph_shift import _Local
from mipprune.losses.graph_cells import proves_shift
from mipprune.losses.pseudo_likelihood import PseudoLikelihood
from mipprune.solvers import EdgeDescent
from mipprune.solvers.descent import edge_descent
from mipprune.solvers.tree.graph import GraphBound


def covariance(p: int, seed: int, condition: float = 30.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((p, p)))[0]
    matrix = basis * np.geomspace(1.0 / condition, 1.0, p) @ basis.T
    return np.ascontiguousarray(0.5 * (matrix + matrix.T))


def least(matrix: np.ndarray, node: int, diagonal: np.ndarray) -> float:
    """The smallest eigenvalue of S without a node, less the diagonal."""
    others = np.arange(len(matrix)) != node
    return float(np.linalg.eigvalsh((matrix - np.diag(diagonal))[np.ix_(others, others)])[0])


@pytest.mark.parametrize("condition", [3.0, 100.0, 3000.0])
def test_only_admissible_diagonals_are_proven(condition: float) -> None:
    """Diagonals on both sides of the boundary, by as little as 1e-8 of their size."""
    p, rng = 24, np.random.default_rng(5)
    matrix = covariance(p, 1, condition)
    inverse = Inverse.of(matrix)
    assert inverse is not None
    rows, nodes, truth = [], [], []
    for node in range(p):
        for size in (1, 3, 8):
            inside = rng.choice(np.delete(np.arange(p), node), size, replace=False)
            diagonal = np.zeros(p)
            diagonal[inside] = rng.uniform(0.1, 1.0, size)
            low, high = 0.0, 10.0
            for _ in range(60):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if least(matrix, node, middle * diagonal) >= 0 else (low, middle)
            for factor in (0.5, 1.0 - 1e-8, 1.0 + 1e-8, 1.01, 2.0):
                rows.append(factor * low * diagonal)
                nodes.append(node)
                truth.append(factor < 1.0)
    found = proves_rows(inverse, torch.from_numpy(np.array(rows)), torch.tensor(nodes)).numpy()
    truth = np.array(truth)
    assert not (found & ~truth).any()
    assert found[truth].mean() > 0.99


def test_a_poor_inverse_proves_less_and_nothing_wrong() -> None:
    """The distance of the inverse from the true one is part of the proof."""
    p, rng = 12, np.random.default_rng(0)
    matrix = covariance(p, 2)
    good = Inverse.of(matrix)
    assert good is not None and good.radius < 1e-10
    assert np.linalg.norm(good.matrix.numpy() - np.linalg.inv(matrix), 2) <= good.radius
    rows = torch.zeros((p, p), dtype=torch.float64)
    for node in range(p):
        rows[node, (node + 1) % p] = 0.5 / float(good.matrix[(node + 1) % p, (node + 1) % p])
    assert bool(proves_rows(good, rows, torch.arange(p)).all())
    assert not bool(proves_rows(good._replace(radius=1e6), rows, torch.arange(p)).any())
    for broken in (float("nan"), float("inf"), -0.1):
        wrong = rows.clone()
        wrong[3, 7] = broken
        assert proves_rows(good, wrong, torch.arange(p)).tolist() == [row != 3 for row in range(p)]
    wrong = rows.clone()
    wrong[3, 3] = 1e-9
    assert not bool(proves_rows(good, wrong, torch.arange(p))[3])
    order = torch.from_numpy(rng.permutation(p))
    assert bool(proves_rows(good, rows[order], order).all())
    assert proves_rows(good, rows[:0], order[:0]).shape == (0,)


def test_singular_matrices_have_no_inverse(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).standard_normal((6, 10))
    singular = np.ascontiguousarray(data.T @ data / 6)
    assert Inverse.of(singular) is None
    assert Inverse.of(singular + 1e-9 * np.eye(10)) is None
    monkeypatch.setattr(graph_local, "ALL", 4)  # the road of large matrices
    assert Inverse.of(singular) is None
    matrix = covariance(20, 3)
    found = Inverse.of(matrix)
    assert found is not None and np.linalg.norm(found.matrix.numpy() - np.linalg.inv(matrix), 2) <= found.radius


def sparse_graph(p: int, seed: int = 0) -> mp.Problem:
    from benchmarks.graphical_models.generator import sparse_draw

    return mp.formulations.graphical_model(torch.from_numpy(sparse_draw(p, 10 * p, seed)[0]), l0=0.05, l2=0.05)


def test_rows_of_their_own_prove_more_than_what_all_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = sparse_graph(140)
    own = EdgeDescent().solve(problem)
    assert mp.check(problem, own).bound == own.bound
    monkeypatch.setattr(edge_descent, "_CLIMB", 100)
    shared = EdgeDescent().solve(problem)
    assert own.value == shared.value
    assert own.value - own.bound < 0.35 * (shared.value - shared.bound)


def test_what_a_search_finds_is_proven_as_the_check_wants_it() -> None:
    problem = sparse_graph(130)
    loss = problem.reference.loss
    assert isinstance(loss, PseudoLikelihood) and loss.inverse is not None
    empty = (np.zeros(0, dtype=np.int64), np.zeros(0))
    near = candidates(loss.matrix, empty, loss.penalties(0.05))
    assert near.shape == (130, 130) and np.allclose(near, near.T) and not near.diagonal().any()
    i, j = np.triu_indices(130, 1)
    expected = 4.0 * np.abs(loss.matrix[i, j]) / (2.0 * 0.05)
    assert np.allclose(near[i, j], expected)
    rows = _Local(loss.inverse, np.zeros((130, 130), dtype=np.int8), near)
    diagonals = rows.proven(rows.uniform())
    assert bool((diagonals <= rows.uniform()).all()) and float(diagonals.sum()) > 0.99 * float(rows.uniform().sum())
    split = torch.cat([torch.zeros(130, dtype=torch.float64), diagonals.flatten()])
    allowed = torch.ones(problem.size, dtype=torch.bool)
    assert proves_shift(loss, split, allowed)
    split[130 + 5 * 130 + int(diagonals[5].argmax())] *= 10.0
    assert not proves_shift(loss, split, allowed)
    shift = Shift(np.zeros(130), diagonals.numpy())
    assert np.array_equal(rows.of(shift), diagonals.numpy())


def test_a_search_ends_when_it_is_told_to() -> None:
    problem = sparse_graph(130)
    bound = GraphBound.of(problem)
    calls: list[int] = []

    def go_on() -> bool:
        calls.append(0)
        return len(calls) < 3

    found = bound.searched(bound.root(), go_on)
    assert found is not None and len(calls) < 20
    shift = found[0]
    rows = shift.extra if len(shift.extra) else np.zeros((130, 130))
    split = torch.from_numpy(np.concatenate([shift.common, rows.ravel()]))
    assert proves_shift(bound.loss, split, torch.ones(problem.size, dtype=torch.bool))


@pytest.mark.parametrize("price", [0.01, 0.03])
def test_the_search_never_proves_less_than_what_it_starts_from(price: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small price every pair of noise is near its threshold, and what all rows share is better."""
    loss = sparse_graph(140).reference.loss
    assert isinstance(loss, PseudoLikelihood)
    matrix = loss.matrix
    problem = mp.formulations.graphical_model(torch.from_numpy(matrix), l0=price, l2=0.05, covariance=True)
    both = EdgeDescent().solve(problem)
    monkeypatch.setattr(edge_descent, "_CLIMB", 100)
    shared = EdgeDescent().solve(problem)
    assert both.bound >= shared.bound - 1e-12
    assert mp.check(problem, both).bound == both.bound
