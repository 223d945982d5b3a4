"""The bundle method on low-rank problems: against enumeration, against the damped iteration, and its edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mipprune as mp
from mipprune.core.solution import Proof, Status, Stop
from mipprune.kernels.pieces import maximise_least
from mipprune.solvers.bounds.bundle import Bundle, maximise_dual, view
from tests.losses.test_low_rank import draw, least_values, masks_of


def large(p: int = 2000, n: int = 12, seed: int = 0, linear: bool = False, ridge: float = 6.0) -> mp.LowRank:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=generator) * torch.rand(p, generator=generator)
    slope = 0.05 * torch.randn(p, generator=generator) if linear else None
    return mp.LowRank(x, torch.randn(p, generator=generator), ridge, slope)


def test_small_problems_against_enumeration() -> None:
    generator = torch.Generator().manual_seed(11)
    optimal = 0
    for trial in range(60):
        loss = draw(generator, linear=trial % 2 == 0, largest=9)
        count = int(torch.randint(0, loss.shape[0] + 1, (), generator=generator))
        problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(count)))
        masks = masks_of(loss.shape[0])
        optimum = float(least_values(loss, masks[masks.sum(1) <= count]).min())
        solution = mp.DualBundle(iterations=30).solve(problem)
        slack = 1e-9 * abs(optimum) + 1e-12 * loss.scale
        assert solution.bound is not None and solution.bound <= optimum + slack
        assert solution.value >= optimum - slack
        mp.check(problem, solution)
        optimal += solution.value <= optimum + slack
    assert optimal >= 30


@pytest.mark.parametrize("linear", [False, True])
def test_bound_and_value_meet_when_there_are_many_more_weights_than_gradients(linear: bool) -> None:
    problem = mp.Problem(large(linear=linear), mp.Sparse(mp.Cardinality(600)))
    solution = mp.solve(problem, mp.DualBundle(), budget=mp.Budget(gap=1e-6))
    assert solution.gap is not None and solution.gap < 2e-4
    assert solution.proof is Proof.CHECKED
    assert problem.violation(solution.point) == 0
    mp.check(problem, solution)


def test_no_feasible_value_is_below_the_bound() -> None:
    loss = large(p=5000, n=20)
    problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(500)))
    solution = mp.solve(problem, mp.DualBundle())
    assert solution.bound is not None
    generator = torch.Generator().manual_seed(2)
    for reach in (0.0, 0.01, 0.1, 1.0):
        keys = loss.center.abs() + reach * torch.rand(loss.shape, generator=generator)
        mask = mp.Cardinality(500).keep(keys)
        assert problem.value(torch.where(mask, loss.center, 0.0)) >= solution.bound
        assert problem.value(loss.minimise_on(mask)) >= solution.bound


def damped(problem: mp.Problem, rounds: int) -> tuple[float, float]:
    """The damped fixed-point iteration on the dual vector; returns its best value and bound."""
    loss, supports = problem.loss, problem.structure.supports  # type: ignore[attr-defined]
    assert isinstance(loss, mp.LowRank)
    mask = supports.keep(loss.center.double().square())
    u = loss.times(loss.minimise_on(mask) - loss.center)
    value, bound, best = problem.value(loss.minimise_on(mask)), -float("inf"), u
    dual = loss.dual(loss.best_split())
    assert dual is not None
    for step in range(1, rounds + 1):
        found = problem.bound(dual.point(u))
        if found > bound:
            bound, best = found, u
        gain = problem.structure.gain(dual.model(u))  # type: ignore[attr-defined]
        refitted = loss.minimise_on(supports.keep(gain))
        value = min(value, problem.value(refitted))
        u = best + (loss.times(refitted - loss.center) - best) / (1.0 + step / 2.0)
    return value, bound


def test_it_is_not_behind_the_damped_iteration() -> None:
    problem = mp.Problem(large(p=3000, n=24, seed=4), mp.Sparse(mp.Cardinality(450)))
    value, bound = damped(problem, 20)
    solution = mp.solve(problem, mp.DualBundle(iterations=20), budget=mp.Budget(gap=0.0))
    assert solution.bound is not None
    assert solution.value - solution.bound <= value - bound
    assert solution.bound <= value and bound <= solution.value


def test_certify_reaches_the_same_bound() -> None:
    problem = mp.Problem(large(), mp.Sparse(mp.Cardinality(600)))
    found = mp.solve(problem, mp.DualBundle(), budget=mp.Budget(gap=1e-6))
    certified = mp.certify(problem, found.point, budget=mp.Budget(gap=1e-6), iterations=60)
    assert certified.bound is not None and found.bound is not None
    assert certified.bound == pytest.approx(found.bound, rel=5e-5)
    mp.check(problem, certified)


def test_solve_chooses_it_and_proves() -> None:
    problem = mp.Problem(large(), mp.Sparse(mp.Cardinality(600)))
    assert mp.choose(problem).name == "DualBundle"
    assert mp.solve(problem).proof is Proof.CHECKED


@pytest.mark.parametrize("count", [0, 2000, 10**9])
def test_extreme_budgets(count: int) -> None:
    loss = large()
    problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(count)))
    solution = mp.DualBundle().solve(problem)
    expected = problem.value(torch.zeros(2000)) if count == 0 else 0.0
    assert solution.value == pytest.approx(expected, abs=1e-9)
    if count == 0:
        assert solution.status is Status.OPTIMAL


def test_fixed_entries_and_a_price_are_respected() -> None:
    problem = mp.Problem(large(), mp.Sparse(mp.Cardinality(600), price=0.01))
    on, off = torch.zeros(2000, dtype=torch.bool), torch.zeros(2000, dtype=torch.bool)
    on[:50], off[50:900] = True, True
    part = problem.restrict(on, off)
    solution = mp.DualBundle().solve(part)
    assert solution.mask is not None and not bool(solution.mask[off].any())
    assert solution.gap is not None and solution.gap < 1e-2
    mp.check(part, solution)


def test_an_empty_family_is_infeasible() -> None:
    on = torch.ones(2000, dtype=torch.bool)
    problem = mp.Problem(large(), mp.Sparse(mp.Cardinality(5).restrict(on, ~on)))
    assert mp.DualBundle().solve(problem).status is Status.INFEASIBLE


@pytest.mark.parametrize(("size", "ridge"), [(1e6, 1e-8), (1e-6, 1e3), (1e2, 1e-12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_scales(size: float, ridge: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (size * torch.randn(8, 400, generator=generator, dtype=torch.float64)).to(dtype)
    center = torch.randn(400, generator=generator, dtype=torch.float64).to(dtype)
    problem = mp.Problem(mp.LowRank(x, center, ridge), mp.Sparse(mp.Cardinality(60)))
    solution = mp.DualBundle(iterations=25).solve(problem)
    assert solution.gap is not None and solution.gap < 0.1
    mp.check(problem, solution)


def test_a_master_that_is_singular_but_for_rounding_is_solved() -> None:
    flat = torch.tensor([[[1.0, 1.0], [1.0, 1.0 - 1e-15]]], dtype=torch.float64).repeat(2, 1, 1)
    slopes = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    peak = maximise_least(flat, slopes, torch.zeros(2, dtype=torch.float64))
    assert peak.value == pytest.approx(0.0, abs=1e-6)


def test_a_good_start_is_never_lost() -> None:
    problem = mp.Problem(large(p=3000, n=24, seed=4), mp.Sparse(mp.Cardinality(300)))
    best = mp.DualBundle(iterations=40).solve(problem, budget=mp.Budget(gap=0.0))
    again = mp.DualBundle(iterations=1).solve(problem, start=best.point, budget=mp.Budget(gap=0.0))
    assert again.value <= best.value * (1 + 1e-9)
    outside = mp.DualBundle(iterations=5).solve(problem, start=torch.ones(3000))
    assert problem.violation(outside.point) == 0


def test_a_gap_closed_in_float32_alone_is_not_called_closed() -> None:
    problem = mp.Problem(large(ridge=30.0), mp.Sparse(mp.Cardinality(1000)))
    for gap in (1e-6, 1e-9, 1e-12):
        solution = mp.DualBundle(dtype=torch.float32).solve(problem, budget=mp.Budget(gap=gap))
        assert (solution.stop is Stop.GAP) <= (solution.status is Status.OPTIMAL)


def test_choosing_asks_other_losses_for_nothing_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    def dear(*_: object) -> None:
        raise AssertionError("the split of a layer was computed to choose a solver")

    monkeypatch.setattr(mp.Quadratic, "best_split", dear)
    layer = mp.formulations.layerwise(torch.ones(20, 20), torch.eye(20), mp.NofM(2, 4))
    assert mp.choose(layer).name != "DualBundle"


def test_it_rejects_what_it_cannot_do() -> None:
    solver = mp.DualBundle()
    boxed = mp.Problem(large(), mp.Sparse(mp.Cardinality(5), box=1.0))
    assert "few dual variables" in (solver.rejects(boxed) or "")
    assert solver.rejects(mp.Problem(mp.Linear([1.0]), mp.Masks(mp.Cardinality(1)))) is not None
    with pytest.raises(mp.InvalidProblem):
        mp.DualBundle(iterations=0)


def test_an_interrupt_returns_the_best_so_far() -> None:
    calls = 0

    def stop(seconds: float, value: float | None, bound: float | None) -> bool:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return False

    problem = mp.Problem(large(), mp.Sparse(mp.Cardinality(300)))
    solution = mp.DualBundle().solve(problem, budget=mp.Budget(gap=0.0), progress=stop)
    assert solution.stop is Stop.USER and solution.point is not None and solution.bound is not None
    again = mp.DualBundle().solve(problem, budget=mp.Budget(gap=0.0, iterations=3), progress=lambda *_: None)
    assert again.stop is Stop.ITERATIONS and again.stats.iterations == 3


def test_the_bundle_forgets_without_losing_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = mp.Problem(large(p=4000, n=30, seed=9, ridge=2.0), mp.Sparse(mp.Cardinality(300)))
    full, short = (run(problem) for _ in range(2))
    assert torch.equal(full.point, short.point)  # type: ignore[arg-type]
    monkeypatch.setattr("mipprune.solvers.bounds.bundle._PIECES", 4)
    short = run(problem)
    assert len(short.pieces) <= 4
    assert short.bound <= full.ceiling + 1e-9 * abs(full.ceiling)
    assert full.bound <= short.ceiling + 1e-9 * abs(short.ceiling)
    assert short.shares is not None and float(short.shares.sum()) <= 300 * (1 + 1e-9)


def run(problem: mp.Problem) -> Bundle:
    work: Any = problem.to(dtype=torch.float64)
    dual = view(work, work.loss.best_split())
    assert dual is not None
    return maximise_dual(work, dual, work.loss.start().double(), iterations=25)


def test_the_master_against_a_grid() -> None:
    generator = torch.Generator().manual_seed(0)

    def values(u: Tensor) -> Tensor:
        bends = 0.5 * torch.einsum("gi,kij,gj->gk", u, hessians, u)
        return (constants + u @ linears.T - bends).min(dim=1).values

    for _ in range(10):
        roots = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
        hessians = roots @ roots.mT + torch.eye(2, dtype=torch.float64)
        linears = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        constants = torch.randn(3, generator=generator, dtype=torch.float64)
        peak = maximise_least(hessians, linears, constants)
        axis = torch.linspace(-3, 3, 301, dtype=torch.float64)
        best = float(values(torch.cartesian_prod(axis, axis)).max())
        assert peak.value >= best - 1e-9
        assert float(values(peak.point.unsqueeze(0))) == pytest.approx(peak.value, abs=1e-4)
        assert float(peak.shares.sum()) == pytest.approx(1.0)
