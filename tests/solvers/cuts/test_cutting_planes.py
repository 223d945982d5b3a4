"""Cutting planes in the mask: cuts against the exact value, both masters against enumeration, checked tangents."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mipprune as mp
from mipprune import Antichain, Cardinality, CuttingPlanes, LeastSquares, Problem, Sparse, Stable
from mipprune.losses.logistic import Logistic
from mipprune.solvers.cuts.cut import CutPool
from mipprune.solvers.cuts.exchange import exchange
from mipprune.solvers.cuts.search import CutSearch
from mipprune.testing import check_solver, enumerate_masks, enumerate_optimum

MASTERS = ("highs", "scip", "own")


def columns(n: int, p: int, seed: int, *, kind: str = "rules") -> tuple[Tensor, Tensor]:
    """0/1 columns like those of rules, some of them alike, and a standardised response."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 4))
    thresholds = rng.standard_normal((p, 2)) * 0.7
    features = rng.integers(0, 4, (p, 2))
    held = (x[:, features[:, 0]] <= thresholds[:, 0]) & (x[:, features[:, 1]] > thresholds[:, 1])
    design = held.astype(float)
    if kind == "duplicated":
        design[:, p // 2 :] = design[:, : p - p // 2]
    if kind == "dense":
        design = rng.standard_normal((n, p)) * 10.0 ** rng.integers(-2, 3, p)
    if kind == "empty":
        design[:, ::2] = 0.0
    y = x[:, 0] - 0.5 * x[:, 1] * (x[:, 2] > 0) + 0.3 * rng.standard_normal(n)
    if kind == "silent":
        y = np.zeros(n)
    scale = y.std() or 1.0
    return torch.from_numpy(design), torch.from_numpy((y - y.mean()) / scale)


def value(loss: LeastSquares, shares: Tensor) -> float:
    """c(z) = 1/2 y'(I + M Diag(z/r) M')^-1 y, by a dense solve."""
    design, response = loss.design, loss.response
    system = torch.eye(len(response), dtype=torch.float64) + (design * (shares / loss.ridge)) @ design.mT
    return 0.5 * float(response @ torch.linalg.solve(system, response))


# ------------------------------------------------------------------------------------------------ cuts


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([1e-4, 0.01, 1.0, 100.0]),
    kind=st.sampled_from(["rules", "duplicated", "dense", "empty", "silent"]),
)
def test_a_cut_touches_where_it_was_made_and_is_below_everywhere(seed: int, gamma: float, kind: str) -> None:
    design, response = columns(25, 9, seed, kind=kind)
    loss = LeastSquares(design, response, 1.0 / gamma)
    pool = CutPool(Problem(loss, Sparse(Cardinality(4))))
    rng = torch.Generator().manual_seed(seed)
    made = torch.rand(9, generator=rng, dtype=torch.float64)
    made[torch.rand(9, generator=rng) < 0.3] = 0.0
    cut = pool.cut_at(pool.weights(made))
    scale = loss.scale
    assert cut.at(made.numpy()) == pytest.approx(value(loss, made), rel=1e-9, abs=1e-10 * scale)
    for _ in range(40):
        z = torch.rand(9, generator=rng, dtype=torch.float64)
        z = (z < 0.4).double() if seed % 2 else z
        assert cut.at(z.numpy()) <= value(loss, z) + 1e-10 * (scale + float(np.abs(cut.gain).sum()))


def test_the_gains_of_a_cut_are_the_slopes_of_the_value() -> None:
    design, response = columns(30, 7, 3)
    loss = LeastSquares(design, response, torch.linspace(0.5, 3.0, 7))
    pool = CutPool(Problem(loss, Sparse(Cardinality(3))))
    z = torch.linspace(0.2, 0.9, 7, dtype=torch.float64)
    cut = pool.cut_at(pool.weights(z))
    for j in range(7):
        step = torch.zeros(7, dtype=torch.float64)
        step[j] = 1e-5
        slope = (value(loss, z + step) - value(loss, z - step)) / 2e-5
        assert -cut.gain[j] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_a_cut_at_any_point_bounds_every_mask_with_prices() -> None:
    design, response = columns(20, 8, 5)
    prices = torch.linspace(0.0, 0.7, 8)
    problem = Problem(LeastSquares(design, response, 2.0), Sparse(Cardinality(8), price=prices))
    pool = CutPool(problem)
    generator = torch.Generator().manual_seed(0)
    masks = enumerate_masks((8,))
    exact = [problem.loss.value(pool.weights(mask.double())) + float(prices[mask].sum()) for mask in masks]
    for scale in (0.0, 0.01, 1.0, 100.0):
        cut = pool.cut_at(scale * torch.randn(8, generator=generator, dtype=torch.float64))
        bounds = [cut.at(mask.double().numpy()) for mask in masks]
        assert all(bound <= truth + 1e-9 for bound, truth in zip(bounds, exact, strict=True))


@pytest.mark.parametrize("gamma", [0.05, 1.0])
def test_the_relaxation_and_its_tangent_reach_the_perspective_bound(gamma: float) -> None:
    import cvxpy as cp

    design, response = columns(40, 24, 11)
    often = torch.arange(24, 0, -1)
    for supports in (Cardinality(4), Stable(4, often, 60)):
        problem = Problem(LeastSquares(design, response, 1.0 / gamma), Sparse(supports))
        z = cp.Variable(24)
        matrix = design.numpy()
        system = np.eye(40) + gamma * sum(z[j] * np.outer(matrix[:, j], matrix[:, j]) for j in range(24))
        model = cp.Problem(
            cp.Minimize(0.5 * cp.matrix_frac(response.numpy(), system)), [*supports.constraints(z), z >= 0, z <= 1]
        )
        reference = float(model.solve(solver=cp.CLARABEL))
        run = CuttingPlanes(relaxation_cuts=200).run(problem, budget=mp.Budget(gap=1e-6, iterations=1, nodes=1))
        assert run.proven >= reference * (1 - 1e-4)
        if isinstance(supports, Cardinality):  # its relaxation is tight; the selection with a row proves more
            assert run.proven <= reference * (1 + 1e-6)


# ------------------------------------------------------------------------------------------------ optima


def tree_parents(p: int) -> Tensor:
    """Two trees in preorder: a chain of three and a fork, over and over."""
    pattern = [-1, 0, 1, 1, 0]
    return torch.tensor([pattern[j % 5] + (j - j % 5) if pattern[j % 5] >= 0 else -1 for j in range(p)])


FAMILIES: dict[str, Any] = {
    "cardinality": lambda p: Sparse(Cardinality(3)),
    "price": lambda p: Sparse(Cardinality(p), price=0.4),
    "antichain": lambda p: Sparse(Antichain(tree_parents(p), 3), price=0.05),
    "stable": lambda p: Sparse(Stable(3, torch.arange(p, 0, -1), 2 * p)),
    "tight": lambda p: Sparse(Stable(3, torch.arange(p, 0, -1), 3 * p - 4)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_exact_road_finds_the_enumerated_optimum(family: str, scip: Any, highs: Any) -> None:
    for seed, gamma, kind in [(0, 0.1, "empty"), (1, 2.0, "duplicated")]:
        design, response = columns(30, 11, seed, kind=kind)
        problem = Problem(LeastSquares(design, response, 1.0 / gamma), FAMILIES[family](11))
        optimum, _ = enumerate_optimum(problem)
        budget = mp.Budget(gap=1e-6)
        solvers: list[mp.Solver] = [CuttingPlanes(master) for master in MASTERS]
        if seed == 0:
            solvers.append(mp.Scip())
        for solver in solvers:
            solution = solver.solve(problem, budget=budget)
            assert solution.value == pytest.approx(optimum, rel=1e-5), solver.name
            assert solution.bound is not None and solution.bound <= optimum + 1e-6 * abs(optimum)
            assert solution.status is mp.Status.OPTIMAL or solution.gap < 1e-5
            mp.check(problem, solution)


@pytest.mark.parametrize("master", MASTERS)
@pytest.mark.parametrize("family", ["cardinality", "tight", "price"])
def test_the_contract_of_a_solver(master: str, family: str) -> None:
    design, response = columns(20, 8, 7)
    problem = Problem(LeastSquares(design, response, 5.0), FAMILIES[family](8))
    optimum, _ = enumerate_optimum(problem)
    check_solver(CuttingPlanes(master), problem, optimum=optimum)


@settings(max_examples=16)
@given(
    seed=st.integers(0, 1000),
    gamma=st.sampled_from([0.003, 0.1, 10.0]),
    kind=st.sampled_from(["rules", "duplicated", "dense", "empty", "silent"]),
    least=st.integers(0, 22),
    master=st.sampled_from(["highs", "own"]),
)
def test_bounds_are_never_above_the_optimum(seed: int, gamma: float, kind: str, least: int, master: str) -> None:
    design, response = columns(18, 8, seed, kind=kind)
    problem = Problem(
        LeastSquares(design, response, 1 / gamma), Sparse(Stable(3, torch.arange(8, 0, -1), min(least, 21)))
    )
    optimum, _ = enumerate_optimum(problem)
    slack = 1e-12 * problem.loss.scale
    for budget in (mp.Budget(gap=0.05), mp.Budget(gap=1e-7, iterations=1, nodes=1)):
        run = CuttingPlanes(master).run(problem, budget=budget)
        assert run.proven <= optimum + slack
        assert run.claimed is None or run.claimed <= optimum + 1e-6 * abs(optimum) + slack
        assert run.solution.value >= optimum - slack


@pytest.mark.parametrize("master", MASTERS)
@pytest.mark.parametrize("family", ["cardinality", "stable", "price"])
def test_the_logistic_loss_is_solved_by_the_same_cuts(master: str, family: str) -> None:
    for seed, gamma in [(0, 0.1), (4, 3.0)]:
        design, response = columns(40, 9, seed)
        problem = Problem(Logistic(design, (response > 0).double(), 1.0 / gamma), FAMILIES[family](9))
        optimum, _ = enumerate_optimum(problem)
        run = CuttingPlanes(master).run(problem, budget=mp.Budget(gap=1e-5))
        assert run.solution.value == pytest.approx(optimum, rel=2e-5)
        assert run.proven <= optimum * (1 + 1e-12)
        assert run.claimed is None or run.claimed <= optimum * (1 + 1e-6)
        mp.check(problem, run.solution)


def test_logistic_cuts_are_below_the_best_value_of_every_mask() -> None:
    design, response = columns(30, 7, 2)
    loss = Logistic(design, (response > 0.2).double(), torch.linspace(0.3, 2.0, 7))
    problem = Problem(loss, Sparse(Cardinality(7)))
    pool = CutPool(problem)
    generator = torch.Generator().manual_seed(0)
    masks = enumerate_masks((7,))
    best = [loss.value(torch.where(mask, loss.minimise_on(mask), 0.0)) for mask in masks]
    for mask, value_there in zip(masks[::9], best[::9], strict=True):
        cut = pool.cut_at(pool.weights(mask.double()))
        assert cut.at(mask.double().numpy()) == pytest.approx(value_there, rel=1e-9)
    for _ in range(20):
        pool.cut_at(pool.weights(torch.rand(7, generator=generator, dtype=torch.float64)))
    for cut in pool.cuts:
        assert all(cut.at(mask.double().numpy()) <= b + 1e-9 for mask, b in zip(masks, best, strict=True))


def test_exchange_finds_what_single_exchanges_can_find() -> None:
    for seed in range(6):
        design, response = columns(40, 12, seed)
        structure = Sparse(Cardinality(4), price=0.1) if seed % 2 else Sparse(Stable(4, torch.arange(12, 0, -1), 30))
        problem = Problem(LeastSquares(design, response, 2.0), structure)
        pool = CutPool(problem)
        found = exchange(problem, pool, torch.zeros(12, dtype=torch.bool))

        def worth(mask: Tensor, pool: CutPool = pool, problem: Problem = problem) -> float:
            return problem.value(pool.weights(mask.double()))

        assert problem.structure.supports.violation(found) == 0  # type: ignore[attr-defined]
        best = worth(found)
        for dropped in [None, *found.nonzero().ravel().tolist()]:
            for added in [None, *(~found).nonzero().ravel().tolist()]:
                other = found.clone()
                if dropped is not None:
                    other[dropped] = False
                if added is not None:
                    other[added] = True
                if problem.structure.supports.violation(other) == 0:  # type: ignore[attr-defined]
                    assert worth(other) >= best - 1e-6 * problem.loss.scale


# ------------------------------------------------------------------------------------------------ edges


def test_an_empty_family_is_said_to_be_empty() -> None:
    design, response = columns(20, 6, 0)
    problem = Problem(LeastSquares(design, response, 1.0), Sparse(Stable(2, torch.ones(6), 3)))
    for master in MASTERS:
        solution = CuttingPlanes(master).solve(problem)
        assert solution.status is mp.Status.INFEASIBLE and solution.point is None


def test_nothing_to_choose_is_an_answer() -> None:
    design, response = columns(20, 6, 0)
    for supports in (Cardinality(0), Stable(2, torch.tensor([9, 8, 0, 0, 0, 0]), 17)):
        problem = Problem(LeastSquares(design, response, 1.0), Sparse(supports))
        solution = CuttingPlanes().solve(problem)
        assert solution.status is mp.Status.OPTIMAL and solution.proof is mp.Proof.CHECKED
        assert solution.value == pytest.approx(enumerate_optimum(problem)[0], rel=1e-9)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (lambda d, y: Problem(LeastSquares(d, y, 1.0), Sparse(Cardinality(2), box=1.0)), "box"),
        (lambda d, y: Problem(LeastSquares(d, y, 0.0), Sparse(Cardinality(2))), "positive"),
        (lambda d, y: Problem(mp.Linear(y[:6]), mp.Masks(Cardinality(2))), "Sparse"),
        (lambda d, y: mp.formulations.layerwise(torch.ones(1, 6), d.mT @ d, Cardinality(2)), "no ridge"),
    ],
)
def test_what_has_no_cuts_is_rejected_with_a_reason(problem: Any, message: str) -> None:
    design, response = columns(20, 6, 0)
    with pytest.raises(mp.Unsupported, match=message):
        CuttingPlanes().solve(problem(design, response))


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(mp.InvalidProblem, match="highs"):
        CuttingPlanes("gurobi")
    with pytest.raises(mp.InvalidProblem, match="negative"):
        CuttingPlanes(relaxation_cuts=-1)
    design, response = columns(20, 6, 0)
    problem = Problem(LeastSquares(design, response, 1.0), Sparse(Cardinality(2)))
    with pytest.raises(mp.InvalidProblem, match="no_such_option"):
        CuttingPlanes(parameters={"no_such_option": 1}).solve(problem)


def test_cuts_of_another_loss_are_refused() -> None:
    design, response = columns(20, 6, 0)
    problem = Problem(LeastSquares(design, response, 1.0), Sparse(Cardinality(2)))
    run = CuttingPlanes().run(problem)
    with pytest.raises(mp.InvalidProblem, match="another loss"):
        CuttingPlanes().run(replace(problem, loss=LeastSquares(design, response, 2.0)), earlier=run)


@pytest.mark.parametrize("master", MASTERS)
def test_an_interrupt_returns_the_best_so_far(master: str, monkeypatch: pytest.MonkeyPatch) -> None:
    design, response = columns(40, 20, 0)
    problem = Problem(LeastSquares(design, response, 1.0), Sparse(Cardinality(5)))
    calls = []

    def interrupted(self: CutSearch, run: Any) -> bool:
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(CutSearch, "_prove", interrupted)
    solution = CuttingPlanes(master).solve(problem)
    assert calls and solution.stop is mp.Stop.USER and math.isfinite(solution.value)
