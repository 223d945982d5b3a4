"""ProjectedGradient: published figures, monotone steps, any loss and structure, prices, boxes, backtracking."""

from __future__ import annotations

import itertools

import pytest
import torch

from mipprune import (
    ADMM,
    Budget,
    Cardinality,
    Groups,
    InvalidProblem,
    LeastSquares,
    Loss,
    NofM,
    PerRow,
    Problem,
    ProjectedGradient,
    Separable,
    Sparse,
    Stop,
    Wanda,
)
from mipprune.formulations import layerwise
from tests.layers import cached_layer, make_layer, relative_error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "published", "name"),
    [(ProjectedGradient.awp(), 0.012724, "AWP"), (ProjectedGradient.iht(), 0.010190, "ProjectedGradient")],
    ids=["AWP", "IHT"],
)
def test_errors_are_those_measured_with_other_code(solver, published, name):
    # 768 x 768, 70 %, 230 weights in each row, 200 iterations; the error is on the undamped Gram matrix.
    weight, gram = cached_layer(768, 768, 4096, 0)
    problem = layerwise(weight, gram, PerRow(230))
    solution = solver.solve(problem, start=Wanda().solve(problem).point)
    assert relative_error(weight, solution.point, gram) == pytest.approx(published, rel=2e-3)
    assert solution.solver == name and solution.stop is Stop.ITERATIONS and solution.stats.iterations == 200


def least_squares(seed: int, *, n: int = 30, p: int = 8) -> LeastSquares:
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(n, p, generator=generator, dtype=torch.float64)
    truth = torch.randn(p, generator=generator, dtype=torch.float64) * (torch.rand(p, generator=generator) < 0.5)
    response = design @ truth + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)
    return LeastSquares(design, response, ridge=0.1)


def enumerated(problem: Problem) -> float:
    """The optimum over all supports, without box."""
    best = float("inf")
    for bits in itertools.product([False, True], repeat=problem.size):
        mask = torch.tensor(bits).reshape(problem.shape)
        if problem.structure.supports.contains(mask):
            best = min(best, problem.value(problem.loss.minimise_on(mask)))
    return best


@pytest.mark.parametrize("seed", range(5))
def test_sparse_regression_comes_close_to_the_optimum(seed):
    problem = Problem(least_squares(seed), Sparse(Cardinality(4)))
    solution = ProjectedGradient().solve(problem)
    assert solution.violation == 0
    assert enumerated(problem) - 1e-9 <= solution.value <= 1.3 * enumerated(problem) + 1e-9


def test_prices_are_paid_only_where_they_pay():
    loss = LeastSquares(torch.eye(3, dtype=torch.float64), torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64))
    solution = ProjectedGradient().solve(Problem(loss, Sparse(Cardinality(3), price=1.0)))
    assert solution.point.tolist() == [3.0, 0.0, -2.0]  # 1/2 * 1^2 is less than the price 1
    assert solution.value == pytest.approx(2.5)


def test_boxes_hold_also_after_the_refit():
    problem = Problem(least_squares(1), Sparse(Cardinality(5), box=0.3))
    solution = ProjectedGradient().solve(problem)
    assert solution.violation == 0 and float(solution.point.abs().max()) <= 0.3
    assert solution.value < problem.value(torch.zeros(8))


class Cubic(Loss):
    """A smooth convex loss without a majorant: sum of |w - c|^3."""

    def __init__(self, center: torch.Tensor) -> None:
        self.center = center

    @property
    def shape(self):
        return tuple(self.center.shape)

    @property
    def scale(self):
        return float(self.center.abs().pow(3).sum())

    def value(self, w):
        return float((w.double() - self.center).abs().pow(3).sum())

    def gradient(self, w):
        delta = w - self.center.to(w)
        return 3 * delta.abs() * delta

    def minorant(self, v, split=None, allowed=None):
        gradient = self.gradient(v)
        return Separable(constant=self.value(v) - float((gradient * v).sum()), linear=gradient, curvature=0 * v)

    def minimise_on(self, mask, start=None):
        return torch.where(mask, self.center, 0.0)

    def expression(self, w, split, scale=1.0):
        raise AssertionError("not needed by a first-order method")


def test_losses_without_a_majorant_are_backtracked():
    problem = Problem(Cubic(torch.tensor([4.0, -1.0, 2.0, 0.5], dtype=torch.float64)), Sparse(Cardinality(2)))
    solution = ProjectedGradient(refit=False, iterations=200).solve(problem)
    assert solution.mask.tolist() == [True, False, True, False]
    assert solution.value == pytest.approx(1.0 + 0.125, rel=1e-2)
    assert ProjectedGradient().solve(problem).value == pytest.approx(1.125)


@pytest.mark.parametrize("supports", [Cardinality(60), PerRow(6), NofM(2, 4), Groups(4, 2)], ids=lambda s: s.describe())
def test_steps_never_raise_the_value_and_acceleration_pays(supports, device):
    weight, gram = make_layer(24, 10, 400, 3)
    problem = layerwise(weight, gram, supports).to(device=device)
    values = []
    plain = ProjectedGradient.iht(60).solve(problem, progress=lambda _, value, __: values.append(value))
    ahead = itertools.pairwise(values)  # at the end the value moves by its rounding
    assert all(after <= before * (1 + 1e-14) for before, after in ahead) and plain.violation == 0
    full = ProjectedGradient().solve(problem)
    assert full.value <= plain.value
    assert torch.equal(ProjectedGradient().solve(problem).point, full.point)


def test_debiasing_on_the_way_keeps_members():
    weight, gram = make_layer(24, 10, 400, 3)
    problem = layerwise(weight, gram, Cardinality(60))
    solution = ProjectedGradient(debias=5).solve(problem)
    assert solution.violation == 0
    assert solution.value <= Wanda(refit=True).solve(problem).value


def test_any_start_and_precision():
    weight, gram = make_layer(64, 32, 400, 3)
    problem = layerwise(weight, gram, PerRow(20))
    for dtype in (torch.float32, torch.float64):
        solution = ProjectedGradient(dtype=dtype).solve(problem, start=ADMM().solve(problem).point)
        assert solution.value <= ADMM().solve(problem).value * (1 + 1e-5)
        assert solution.point.dtype == torch.float64


def test_stops_and_refusals():
    weight, gram = make_layer(16, 6, 300, 0)
    problem = layerwise(weight, gram, PerRow(8))
    assert ProjectedGradient().solve(problem, budget=Budget(iterations=2)).stop is Stop.ITERATIONS
    assert ProjectedGradient().solve(problem, budget=Budget(seconds=1e-9)).stop is Stop.TIME
    assert ProjectedGradient().solve(problem, progress=lambda *_: True).stop is Stop.USER
    assert ProjectedGradient().solve(problem).stop is Stop.CONVERGED
    assert "LeastSquares" in ProjectedGradient.awp().rejects(Problem(least_squares(0), Sparse(Cardinality(2))))
    with pytest.raises(InvalidProblem):
        ProjectedGradient(iterations=0)
