"""Saliencies, the discrete first-order method and block search: descent, feasibility, projections, edges."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import mipprune as mp
from mipprune.core.separable import Separable
from mipprune.core.solution import Stop
from mipprune.solvers.budgets.block_search import _left_over
from mipprune.solvers.budgets.block_search import _Run as BlockRun
from mipprune.solvers.budgets.discrete_first_order import _Run as FirstOrderRun
from tests.losses.test_low_rank import least_values, masks_of

SIZES, COSTS = [60, 40, 20], [16.0, 4.0, 1.0]
METHODS = [
    mp.Saliency(),
    mp.Saliency("magnitude", refit=False),
    mp.Saliency("fisher"),
    mp.Saliency("surgeon"),
    mp.DiscreteFirstOrder(iterations=20),
    mp.DiscreteFirstOrder(iterations=20, active=0, growth=2.0),
    mp.BlockSearch(block=6, rounds=2),
    mp.BlockSearch(block=6, rounds=2, weights=False),
    mp.DualBundle(iterations=10),
]


def network(seed: int = 0, linear: bool = False, sizes: list[int] = SIZES, **budgets: Any) -> mp.Problem:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    gradients = torch.randn(5, sum(sizes), generator=generator, dtype=torch.float64)
    chosen = budgets or {"nnz": 0.4, "flops": 0.3}
    return mp.formulations.network_pruning(
        weights, gradients, costs=COSTS[: len(sizes)], ridge=0.3, first_order=0.2 if linear else 0.0, **chosen
    )


@pytest.mark.parametrize("solver", METHODS, ids=lambda s: f"{s.name}")
@pytest.mark.parametrize("linear", [False, True])
def test_points_are_feasible_and_above_the_certified_bound(solver: Any, linear: bool) -> None:
    problem = network(linear=linear)
    bound = mp.DualBundle().solve(problem).bound
    solution = solver.solve(problem)
    assert problem.violation(solution.point) == 0
    assert solution.value == problem.value(solution.point)
    assert bound is not None and solution.value >= bound
    again = solver.solve(problem)
    assert torch.equal(again.point, solution.point)
    mp.check(problem, solution)


@pytest.mark.parametrize("solver", METHODS, ids=lambda s: f"{s.name}")
def test_small_networks_against_enumeration(solver: Any) -> None:
    masks = masks_of(9)
    for seed in range(2):
        problem = network(seed, seed % 2 == 0, [4, 5], nnz=5, flops=40)
        loss, supports = problem.loss, problem.structure.supports  # type: ignore[attr-defined]
        fits = torch.tensor([supports.violation(mask != 0) == 0 for mask in masks])
        optimum = float(least_values(loss, masks[fits]).min())
        assert solver.solve(problem).value >= optimum - 1e-9 * loss.scale


@pytest.mark.parametrize("solver", [m for m in METHODS if "Block" not in m.name], ids=lambda s: f"{s.name}")
def test_the_protocol_is_kept(solver: Any) -> None:
    mp.testing.check_solver(solver, network(0, True, [5, 4], nnz=5, flops=40))


def test_the_surgeon_scores_are_those_of_the_dense_inverse() -> None:
    loss = network().loss
    assert isinstance(loss, mp.LowRank)
    hessian = loss.gradients.T @ loss.gradients + loss.ridge * torch.eye(120, dtype=torch.float64)
    torch.testing.assert_close(loss.diagonal, hessian.diagonal())
    mask = torch.rand(120, generator=torch.Generator().manual_seed(1)) < 0.5
    inside = mask.nonzero().ravel()
    dense = torch.linalg.inv(hessian[inside][:, inside]).diagonal()
    torch.testing.assert_close(loss.inverse_diagonal(mask)[inside], dense)
    assert not bool(loss.inverse_diagonal(mask)[~mask].any())


@pytest.mark.parametrize("active", [0.0, 2.0])
def test_every_first_order_step_descends_and_fits(active: float) -> None:
    problem = network(3)
    loss, supports = problem.loss, problem.structure.supports  # type: ignore[attr-defined]
    run = FirstOrderRun(loss, supports, loss.center.double())
    inside = run.first_active(active)
    values = [run.value]
    for _ in range(15):
        run.step(inside, 1.5, 5, False)
        assert supports.violation(run.mask) == 0
        assert run.value == pytest.approx(problem.value(run.w), rel=1e-10)
        values.append(run.value)
    assert all(later <= earlier for earlier, later in itertools.pairwise(values))
    assert values[-1] < values[0]
    run.refit()
    assert float(run.gradient()[run.mask].abs().max()) < 1e-8 * float(loss.scale)


def test_projections_are_exact_and_their_certificates_verify() -> None:
    """The step's selection against SCIP's projection on the same budgets, and its bound from the witness alone."""
    for seed in range(3):
        problem = network(seed, False, [7, 6], nnz=6, flops=60)
        loss, structure = problem.loss, problem.structure
        v = loss.center.double() - 0.01 * loss.gradient(torch.zeros(13, dtype=torch.float64))  # type: ignore[attr-defined]
        model = Separable(constant=0.5 * float(v @ v), linear=-v, curvature=torch.ones_like(v))
        answer = structure.argmin(model)
        distance = 0.5 * float((answer.point - v).square().sum())
        assert distance == pytest.approx(answer.value, rel=1e-12)
        assert answer.bound <= answer.value + 1e-12
        assert structure.argmin_bound(model, answer.witness) == pytest.approx(answer.value, rel=1e-9)
        supports = structure.supports  # type: ignore[attr-defined]
        selection = mp.Problem(mp.Linear(-v.square()), mp.Masks(supports))
        scip = mp.solve(selection, mp.Scip())
        assert 0.5 * (float(v @ v) + scip.value) == pytest.approx(distance, rel=1e-6)


def test_blocks_get_what_the_others_leave() -> None:
    problem = network(1)
    supports = problem.structure.supports  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    mask = supports.keep(torch.rand(120, generator=generator))
    for _ in range(20):
        block = torch.randperm(120, generator=generator)[:14].sort().values
        family = _left_over(supports, mask, block)
        inside = torch.rand(14, generator=generator) < 0.5
        changed = mask.clone()
        changed[block] = inside
        assert (supports.violation(changed) == 0) == (family.violation(inside) == 0)
    counted = mp.Cardinality(50).restrict(mask & (torch.arange(120) < 3), torch.arange(120) > 110)
    part = _left_over(counted, counted.keep(torch.rand(120, generator=generator)), torch.arange(0, 120, 10))
    assert isinstance(part, mp.Cardinality) and part.on is not None and part.on.shape == (1, 12)


@pytest.mark.parametrize("weights", [True, False])
def test_a_block_is_chosen_exactly(weights: bool) -> None:
    """With one block of all weights the answer is the enumerated optimum."""
    problem = network(5, True, [5, 4], nnz=5, flops=50)
    loss, supports = problem.loss, problem.structure.supports  # type: ignore[attr-defined]
    masks = masks_of(9)
    masks = masks[torch.tensor([supports.violation(mask != 0) == 0 for mask in masks])]
    run = BlockRun(loss, supports, supports.keep(loss.center.square()), weights)
    before = run.value
    run.choose(torch.arange(9), mp.BranchAndBound(), 30.0)
    if weights:
        optimum = float(least_values(loss, masks).min())
    else:
        optimum = min(loss.value(mask * loss.center) for mask in masks)
    assert run.value == pytest.approx(optimum, rel=1e-6)
    assert run.value <= before and supports.violation(run.mask) == 0
    assert run.value == pytest.approx(problem.value(run.w), rel=1e-12)


def test_block_search_stops_and_answers_when_interrupted() -> None:
    for solver in (mp.BlockSearch(block=8), mp.DiscreteFirstOrder()):
        calls = itertools.count()

        def stop(*_: object, calls: Any = calls) -> bool:
            if next(calls) == 1:
                raise KeyboardInterrupt
            return False

        solution = solver.solve(network(), progress=stop)
        assert solution.stop is Stop.USER and solution.point is not None
    limited = mp.DiscreteFirstOrder().solve(network(), budget=mp.Budget(iterations=2))
    assert limited.stop is Stop.ITERATIONS and limited.stats.iterations == 2


def test_what_they_reject() -> None:
    boxed = mp.Problem(network().loss, mp.Sparse(mp.Cardinality(5), box=1.0))
    priced = mp.Problem(network().loss, mp.Sparse(mp.Cardinality(5), price=1.0))
    other = mp.Problem(mp.LeastSquares(torch.eye(3), torch.ones(3)), mp.Sparse(mp.Cardinality(1)))
    for solver in (mp.Saliency(), mp.DiscreteFirstOrder(), mp.BlockSearch()):
        for problem, word in ((boxed, "boxed"), (priced, "price"), (other, "LowRank")):
            assert word in (solver.rejects(problem) or "")
    pattern = mp.Problem(network().loss, mp.Sparse(mp.NofM(2, 4)))
    assert "NofM" in (mp.BlockSearch().rejects(pattern) or "")
    assert mp.Saliency().solve(pattern).point is not None
    for build in (
        lambda: mp.Saliency("size"),
        lambda: mp.DiscreteFirstOrder(growth=1.0),
        lambda: mp.DiscreteFirstOrder(active=0.5),
        lambda: mp.BlockSearch(block=1),
    ):
        with pytest.raises(mp.InvalidProblem):
            build()


@pytest.mark.parametrize("solver", METHODS, ids=lambda s: f"{s.name}")
def test_devices_agree(solver: Any, device: torch.device) -> None:
    here, there = network(2, True), network(2, True).to(device=device)
    expected, found = solver.solve(here), solver.solve(there)
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    if expected.bound is not None:
        assert found.bound == pytest.approx(expected.bound, rel=1e-6)
    mp.check(here, found)
