"""Problems that fall apart: the parts add up to the whole, their certificates prove it, and nothing else does."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mipprune as mp
from mipprune import AnySupport, BranchAndBound, Cardinality, LeastSquares, NofM, Parts, PerRow, Problem, Sparse
from mipprune.core.parts import added_up, parts_of
from mipprune.formulations import layerwise, multitask_regression
from mipprune.testing import enumerate_optimum


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(supports: mp.Supports, rows: int = 3, width: int = 4, seed: int = 0) -> Problem:
    inputs = gaussian(20, width, seed=seed)
    return layerwise(gaussian(rows, width, seed=seed + 1), inputs.T @ inputs, supports)


def regressions(seed: int = 0, *, empty_row: bool = True) -> Problem:
    """Two regressions with three columns each, a column of zeros and a row that no column touches."""
    design = torch.zeros(9 + empty_row, 7, dtype=torch.float64)
    design[:4, ::2][:, :3], design[4:9, 1::2] = gaussian(4, 3, seed=seed), gaussian(5, 3, seed=seed + 1)
    return Problem(
        LeastSquares(design, gaussian(len(design), seed=seed + 2), torch.linspace(0.1, 0.7, 7)),
        Sparse(
            AnySupport(), box=(torch.full((7,), -2.0), torch.linspace(0.5, 2.0, 7)), price=torch.linspace(0, 0.3, 7)
        ),
    )


def pieces_of(problem: Problem, point: Tensor) -> list[Tensor]:
    return [point.ravel()[part.entries].reshape(part.problem.shape) for part in parts_of(problem)]


PROBLEMS = {
    "2:4": layer(NofM(2, 4)),
    "rows": layer(PerRow(2)),
    "own Gram matrices": Problem(
        mp.Quadratic(torch.stack([torch.diag(gaussian(4, seed=s).abs() + 0.1) for s in range(3)]), gaussian(3, 4), 1.5),
        Sparse(NofM(1, 2), price=0.05),
    ),
    "regressions": regressions(),
    "tasks": multitask_regression(
        [gaussian(12, 5, seed=s) for s in range(2)],
        [gaussian(12, seed=s + 9) for s in range(2)],
        2,
        support_sharing=0.0,
        ridge=0.1,
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_values_and_violations_add_up(name: str) -> None:
    problem = PROBLEMS[name]
    parts = parts_of(problem)
    assert len(parts) > 1 and torch.equal(
        torch.cat([p.entries for p in parts]).sort().values, torch.arange(problem.size)
    )
    for seed in range(20):
        point = gaussian(*problem.shape, seed=seed) * (gaussian(*problem.shape, seed=seed + 50) > 0)
        pieces = pieces_of(problem, point)
        total = sum(part.problem.value(piece) for part, piece in zip(parts, pieces, strict=True))
        assert total == pytest.approx(problem.value(point), rel=1e-12)
        inside = [part.problem.violation(piece) == 0 for part, piece in zip(parts, pieces, strict=True)]
        assert all(inside) == (problem.violation(point) == 0)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_optimum_of_the_whole_is_found_and_proven(name: str, tmp_path: Path) -> None:
    problem = PROBLEMS[name]
    solution = BranchAndBound().solve(problem)
    assert isinstance(solution.certificate, Parts) and solution.status is mp.Status.OPTIMAL
    assert len(solution.certificate) == len(parts_of(problem))
    best = enumerate_optimum(problem)[0]
    assert (
        solution.bound is not None
        and solution.bound <= best + 1e-12
        and solution.value == pytest.approx(best, rel=1e-4)
    )
    mp.check(problem, solution)
    mp.check(problem, solution, exact=True)
    entry = mp.load(mp.save(tmp_path / "it.safetensors", {"it": (problem, solution)}))["it"]
    assert mp.check(entry.problem, entry.solution).bound == solution.bound


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_no_bound_exceeds_the_optimum_at_random_points(seed: int, fixed: bool) -> None:
    problem = regressions(seed % 1000, empty_row=bool(seed % 2))
    if fixed:
        on, off = torch.zeros(7, dtype=torch.bool), torch.zeros(7, dtype=torch.bool)
        on[seed % 7], off[(seed // 7 + 1 + seed) % 7] = True, (seed // 7 + 1) % 7 != 0
        problem = problem.restrict(on, off & ~on)
    best = enumerate_optimum(problem)[0]
    points = pieces_of(problem, gaussian(7, seed=seed % 10_000))
    certificate = Parts(tuple(mp.Tangent(point) for point in points))
    assert certificate.bound(problem) <= best
    assert float(certificate.rational_bound(problem)) <= best


def test_wrong_certificates_are_refused() -> None:
    problem = layer(NofM(2, 4))
    solution = BranchAndBound().solve(problem)
    parts = solution.certificate
    assert isinstance(parts, Parts) and solution.bound is not None
    for wrong in (parts.certificates[:-1], (*parts.certificates, parts.certificates[0]), parts.certificates[::-1]):
        with pytest.raises(mp.CertificateError):
            mp.check(problem, replace(solution, certificate=Parts(wrong)))
    with pytest.raises(mp.CertificateError, match="0 independent parts"):
        parts.bound(layer(Cardinality(6)))


def test_no_parts_prove_nothing() -> None:
    """An empty sum is 0, which a problem that does not fall apart may well go below."""
    whole = Problem(mp.Quadratic(torch.eye(2), torch.ones(1, 2), -5.0), Sparse(NofM(1, 2)))
    for proves in (Parts(()).bound, Parts(()).rational_bound):
        with pytest.raises(mp.CertificateError, match="0 independent parts"):
            proves(whole)


def test_a_subclass_that_asks_for_more_stays_whole() -> None:
    class OneInAll(NofM):
        def violation(self, mask: Tensor) -> int:
            return super().violation(mask) + max(int(mask.sum()) - 1, 0)

    assert parts_of(Problem(layer(NofM(2, 4)).loss, Sparse(OneInAll(2, 4)))) == ()


def test_a_column_of_zeros_is_a_part_of_its_own() -> None:
    design = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    problem = Problem(LeastSquares(design, torch.tensor([1.0, 1.5])), Sparse(AnySupport(), price=0.1))
    solution = BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-6))
    assert solution.value == pytest.approx(enumerate_optimum(problem)[0], rel=1e-6)
    mp.check(problem, solution)


def test_what_is_joined_does_not_fall_apart() -> None:
    assert parts_of(layer(Cardinality(6))) == ()
    assert parts_of(layer(NofM(2, 4), rows=1)) == ()
    full = Problem(LeastSquares(gaussian(5, 3), gaussian(5), 0.1), Sparse(AnySupport(), price=0.1))
    assert parts_of(full) == ()
    chain = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    linked = Problem(LeastSquares(chain, torch.ones(3), 0.1), Sparse(AnySupport(), price=0.1))
    assert [part.entries.tolist() for part in parts_of(linked)] == [[0, 1, 2], [3]]
    paired = Problem(linked.loss, Sparse(NofM(1, 2)))
    assert parts_of(paired) == (), "the blocks of two join what the rows leave apart"


def test_tasks_that_share_nothing_get_the_tree_of_sparse_regression() -> None:
    solution = mp.solve(PROBLEMS["tasks"])
    assert isinstance(solution.certificate, Parts)
    assert all(isinstance(piece, mp.SparseTree) for piece in solution.certificate.certificates)


def test_limits_leave_a_bound_and_a_point() -> None:
    problem = layer(NofM(2, 4), rows=6, width=12, seed=3)
    full = BranchAndBound().solve(problem)
    for budget in (mp.Budget(seconds=1e-4), mp.Budget(nodes=1)):
        short = BranchAndBound().solve(problem, budget=budget)
        assert short.bound is not None and full.bound is not None
        assert short.bound <= full.value and short.value >= full.bound
        assert isinstance(short.certificate, Parts) and len(short.certificate) == 6
        mp.check(problem, short)
    stopped = BranchAndBound().solve(problem, progress=lambda seconds, value, bound: True)
    assert stopped.stop is mp.Stop.USER and mp.check(problem, stopped).bound is not None


def test_a_part_without_a_point_leaves_none() -> None:
    problem = layer(NofM(2, 4))
    crowded = torch.zeros(3, 4, dtype=torch.bool)
    crowded[1, :3] = True
    solution = BranchAndBound().solve(problem.restrict(crowded, ~torch.ones_like(crowded)))
    assert (solution.status, solution.bound, solution.point) == (mp.Status.INFEASIBLE, math.inf, None)


def test_an_interrupt_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = layer(NofM(2, 4))
    original, calls = BranchAndBound.solve, []

    def interrupted(self: BranchAndBound, problem: Problem, **options: object) -> mp.Solution:
        calls.append(problem.shape)
        if len(calls) == 3:  # the whole, the first row, the second
            raise KeyboardInterrupt
        return original(self, problem, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(BranchAndBound, "solve", interrupted)
    solution = mp.solve(problem, BranchAndBound())
    assert solution.stop is mp.Stop.USER and mp.check(problem, solution).bound is not None


def test_an_executor_gives_the_same() -> None:
    problem = layer(NofM(2, 4), rows=4, width=8)
    alone = BranchAndBound().solve(problem)
    with ThreadPoolExecutor(2) as executor:
        together = BranchAndBound(executor=executor).solve(problem)
    assert (together.value, together.bound) == (alone.value, alone.bound)


def test_sums_of_bounds_are_rounded_down() -> None:
    assert added_up([0.1, 0.2, 0.3]) < math.fsum([0.1, 0.2, 0.3])
    assert added_up([1.0, -math.inf]) == -math.inf and added_up([1.0, math.nan]) == -math.inf
    assert added_up([1.0, math.inf]) == math.inf and added_up([1e308, 1e308]) == -math.inf
