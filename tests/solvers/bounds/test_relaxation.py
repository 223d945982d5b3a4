"""The search for good bounds: certify, splits, warm starts, and the road for families without a proximal step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mipprune import (
    ADMM,
    Budget,
    Cardinality,
    Groups,
    InvalidProblem,
    LeastSquares,
    Linear,
    Masks,
    NofM,
    PerRow,
    Problem,
    Proof,
    Quadratic,
    Sparse,
    Status,
    Stop,
    Supports,
    Tangent,
    certify,
    check,
    solve,
)
from mipprune.core.solver import Watch
from mipprune.formulations import layerwise
from mipprune.solvers.bounds.relaxation import Bounded, best_tangent, relax
from mipprune.testing import enumerate_optimum
from tests.layers import make_layer

WEIGHT, GRAM = make_layer(16, 4, 512, 0)
WEIGHT = WEIGHT.double()


def tangent_of(problem: Problem, splits: int, iterations: int = 30) -> Bounded:
    """The best tangent found from the dense weights."""
    return best_tangent(problem, WEIGHT, splits=splits, iterations=iterations, watch=Watch(Budget()))


@dataclass(frozen=True, eq=False)
class Unspread(PerRow):
    """A family that offers no proximal step."""

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> None:  # type: ignore[override]
        return None


def diagonal_problem(supports: Supports, **options: Any) -> Problem:
    gram = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    center = torch.tensor([[1.0, -2.0, 0.5, 3.0, -0.1, 0.7], [0.3, 0.2, 2.0, -1.0, 1.5, 0.9]], dtype=torch.float64)
    return Problem(Quadratic(gram, center), Sparse(supports, **options))


@pytest.mark.parametrize(
    "options", [{}, {"price": 0.5}, {"box": 1.0}, {"box": 0.4, "price": 0.2}], ids=["plain", "price", "box", "both"]
)
@pytest.mark.parametrize("supports", [Cardinality(5), PerRow(2), NofM(1, 3), Groups(2, 2)], ids=lambda s: s.describe())
def test_a_separable_problem_is_certified_exactly(supports: Supports, options: dict[str, Any]) -> None:
    """With a diagonal Gram matrix the split is the whole loss: the bound is the optimum."""
    problem = diagonal_problem(supports, **options)
    optimum, mask = enumerate_optimum(problem)
    solution = certify(problem, problem.repair(problem.loss.start()))
    assert solution.bound == pytest.approx(optimum, rel=1e-5)
    assert solution.bound <= optimum + solution.rounding
    check(problem, solution, exact=True)
    assert mask is not None


@pytest.mark.parametrize("supports", [Cardinality(32), PerRow(8), NofM(2, 4), Groups(4, 2)], ids=lambda s: s.describe())
def test_the_bound_is_close_on_correlated_layers(supports: Supports) -> None:
    """Shares of the optimum that the relaxation reaches on such layers: 0.95 and more with five steps on the split."""
    problem = layerwise(WEIGHT, GRAM, supports)
    value = solve(problem, ADMM()).value if not isinstance(supports, Groups) else problem.value(problem.repair(WEIGHT))
    coarse = tangent_of(problem, 0)
    fine = tangent_of(problem, 6, 40)
    assert 0 < coarse.bound < fine.bound <= value
    if not isinstance(supports, Groups):
        assert fine.bound >= 0.85 * value
        assert coarse.bound <= 0.9 * value


def test_the_dense_point_is_certified_by_itself() -> None:
    problem = layerwise(WEIGHT, GRAM, PerRow(16))
    solution = certify(problem)
    assert solution.value < 1e-20
    assert solution.bound == pytest.approx(0.0, abs=1e-9 * problem.loss.scale)


def test_an_oracle_alone_is_enough() -> None:
    """Without a proximal step the Frank-Wolfe method runs; it is slower, not wrong."""
    problem, plain = (layerwise(WEIGHT, GRAM, family) for family in (PerRow(8), Unspread(8)))
    bound = tangent_of(problem, 2).bound
    slow = tangent_of(plain, 2, 300)
    assert slow.bound <= problem.value(problem.repair(WEIGHT))
    assert slow.bound >= 0.9 * bound


def test_frank_wolfe_survives_a_loss_without_curvature() -> None:
    """A singular Gram matrix has no split: the vertices run away, and the answer is no bound rather than a crash."""
    gram = torch.ones(4, 4, dtype=torch.float64)
    problem = Problem(LeastSquares(torch.ones(2, 4), torch.ones(2), 0.0), Sparse(Cardinality(1)))
    solution = certify(problem, torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert solution.bound is None or solution.bound <= solution.value
    assert gram.shape == (4, 4)


def test_certify_keeps_the_point_and_the_better_certificate() -> None:
    problem = layerwise(WEIGHT, GRAM, NofM(2, 4))
    first = certify(problem, solve(problem, ADMM()), splits=5, iterations=40)
    second = certify(problem, first, splits=0, iterations=1)
    assert second.bound == first.bound and second.certificate is first.certificate
    assert torch.equal(first.point, second.point)
    assert second.stats.seconds >= first.stats.seconds
    assert "certify" in second.solver and first.solver.startswith("ADMM")


def test_certify_does_not_believe_solutions_of_other_data() -> None:
    """Half the Gram matrix, half the optimum: the old bound is above the new optimum."""
    full = layerwise(WEIGHT, GRAM, NofM(2, 4))
    half = layerwise(WEIGHT, 0.5 * GRAM, NofM(2, 4))
    old = certify(full, solve(full, ADMM()))
    new = certify(half, old, splits=1)
    assert old.bound > new.value >= new.bound
    check(half, new)
    assert torch.equal(new.point, old.point)


def test_certify_stops_when_the_gap_is_closed_when_time_is_up_and_when_asked() -> None:
    problem = layerwise(WEIGHT, GRAM, NofM(2, 4))
    assert certify(problem, budget=Budget(gap=0.9)).stop is Stop.GAP
    assert certify(problem, budget=Budget(gap=0.9)).status is Status.OPTIMAL
    assert certify(problem, budget=Budget(seconds=1e-6)).stop is Stop.TIME
    seen = []
    stopped = certify(problem, budget=Budget(gap=0.0), progress=lambda *report: seen.append(report) or True)
    assert stopped.stop is Stop.USER and len(seen) == 1
    assert stopped.proof is Proof.CHECKED
    assert all(bound <= value for _, value, bound in seen)


@pytest.mark.parametrize("settings", [{"splits": -1}, {"iterations": 0}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidProblem, match="splits >= 0"):
        certify(layerwise(WEIGHT, GRAM, NofM(2, 4)), **settings)


def test_an_interrupt_keeps_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = layerwise(WEIGHT, GRAM, NofM(2, 4))
    first = certify(problem, splits=0)

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("mipprune.solvers.bounds.relaxation.best_tangent", interrupted)
    again = certify(problem, first)
    assert again.stop is Stop.USER and again.bound == first.bound
    bare = certify(problem)
    assert bare.stop is Stop.USER and bare.bound is None and bare.proof is Proof.NONE


def test_float32_searches_and_float64_proofs() -> None:
    problem = layerwise(WEIGHT, GRAM, NofM(2, 4))
    single, double = (
        certify(problem, WEIGHT * (problem.repair(WEIGHT) != 0), dtype=kind) for kind in (torch.float32, None)
    )
    assert single.bound == pytest.approx(double.bound, rel=1e-2)
    assert isinstance(single.certificate, Tangent) and single.certificate.point.dtype == torch.float64


def test_masks_with_a_linear_loss_are_certified_by_one_call() -> None:
    problem = Problem(Linear(-WEIGHT), Masks(NofM(2, 4)))
    solution = certify(problem, solve(problem))
    assert solution.status is Status.OPTIMAL and solution.gap < 1e-14


def test_wide_regressions_are_certified_with_the_ridge() -> None:
    """More columns than rows: the split is the ridge and cannot be mixed with anything."""
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(6, 20, generator=generator, dtype=torch.float64)
    ridge = 0.1 + torch.rand(20, generator=generator, dtype=torch.float64)
    problem = Problem(LeastSquares(design, design[:, 0] - design[:, 1], ridge), Sparse(Cardinality(3)))
    solution = certify(problem, iterations=60)
    assert 0 < solution.bound <= solution.value
    check(problem, solution)


def test_a_good_start_is_used() -> None:
    problem = layerwise(WEIGHT, GRAM, PerRow(8))
    split = problem.loss.best_split()
    first = relax(problem, split, WEIGHT, iterations=40)
    warm, cold = (
        relax(problem, split, first, iterations=5, every=5),
        relax(problem, split, WEIGHT, iterations=5, every=5),
    )
    assert warm.bound >= cold.bound - 1e-9 * abs(cold.bound)
    assert math.isfinite(warm.bound)
    cut = relax(problem, split, WEIGHT, iterations=40, every=1, cutoff=0.1 * first.bound)
    assert cut.iterations < 40
    assert replace(cut, bound=0.0).bound == 0.0
