"""Multi-task regression: the loss is what its formula says, all exact roads end at the enumerated optimum."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mipprune as mp
from mipprune.formulations import MultitaskData, multitask_regression
from mipprune.testing.enumeration import members_of


def tasks_of(
    sizes: tuple[int, ...] = (9, 12), p: int = 4, seed: int = 0, common: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    """Tasks with two columns each, of which one is the same everywhere; noise."""
    generator = torch.Generator().manual_seed(seed)
    designs, responses = [], []
    for task, n in enumerate(sizes):
        X = torch.randn(n, p, generator=generator, dtype=torch.float64)
        own = 1 if common else 1 + task % (p - 1)
        y = X[:, 0] + (0.5 + 0.3 * task) * X[:, own] + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64)
        designs.append(X)
        responses.append(y + 1.0)
    return designs, responses


@pytest.mark.parametrize("sharing", [0.0, 1.0, math.inf])
def test_the_loss_is_the_formula(sharing: float) -> None:
    X, y = tasks_of((5, 7, 6))
    problem = multitask_regression(X, y, 2, support_sharing=sharing, value_sharing=0.7, ridge=0.2, fit_intercept=False)
    w = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = sum(0.5 / len(b) * float((b - A @ row).square().sum()) for A, b, row in zip(X, y, w, strict=True))
    expected += 0.1 * float(w.square().sum()) + 0.35 * float((w - w.mean(dim=0)).square().sum())
    assert problem.loss.value(w.reshape(-1)) == pytest.approx(expected, rel=1e-13)


def test_intercepts_are_those_of_centred_data() -> None:
    X, y = tasks_of((30, 40), p=3)
    X[1][:, 2] = 0.1  # a constant column
    data = MultitaskData.of(X, y)
    assert bool((data.designs[1][:, 2] == 0).all())
    coefficients, intercepts = data.restore(mp.solve(data.problem(3, ridge=1e-9)).point)
    for A, b, row, intercept in zip(X, y, coefficients, intercepts, strict=True):
        assert float((b - A @ row - intercept).mean()) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("sharing", [0.0, math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_exact_roads_end_at_the_enumerated_optimum(sharing: float, seed: int) -> None:
    """Branch and bound, outer approximation and SCIP; no bound above the optimum."""
    X, y = tasks_of(seed=seed, common=seed == 0)
    problem = multitask_regression(X, y, 2, support_sharing=sharing, value_sharing=0.1, ridge=0.05)
    optimum, _ = mp.testing.enumerate_optimum(problem)
    for solver in (mp.BranchAndBound(), mp.CuttingPlanes(), mp.Scip()):
        solution = solver.solve(problem, budget=mp.Budget(gap=1e-6))
        assert solution.value == pytest.approx(optimum, rel=2e-6)
        if solution.certificate is not None:
            assert solution.certificate.bound(problem) <= optimum
    generator = torch.Generator().manual_seed(seed)
    for size in (0.0, 0.1, 1.0, 100.0):
        assert problem.bound(size * torch.randn(8, generator=generator, dtype=torch.float64)) <= optimum


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sharing", [0.02, 0.2, 5.0])
def test_priced_differences_end_at_the_enumerated_optimum(sharing: float, seed: int) -> None:
    """Every pair of masks is refitted; branch and bound and SCIP (on the cvxpy model) end there."""
    import cvxpy as cp

    X, y = tasks_of(seed=seed, common=False)
    problem = multitask_regression(X, y, 2, support_sharing=sharing, value_sharing=0.1, ridge=0.05)
    optimum = math.inf
    for mask in members_of(mp.NofM(2, 4), (8,)):
        z = mask.double().reshape(2, 4)
        point = torch.where(mask, problem.loss.minimise_on(mask), 0.0)
        optimum = min(optimum, problem.loss.value(point) + 0.5 * sharing * float((z - z.mean(dim=0)).square().sum()))
    solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-6))
    assert solution.value == pytest.approx(optimum, rel=1e-6)
    assert solution.status.value == "optimal" and solution.bound <= optimum * (1 + 1e-12)
    model = problem.to_cvxpy()
    model.solve(solver=cp.SCIP)
    assert model.value == pytest.approx(optimum, rel=1e-4)
    generator = torch.Generator().manual_seed(seed)
    for size in (0.0, 0.1, 1.0, 100.0):
        assert problem.bound(size * torch.randn(8, generator=generator, dtype=torch.float64)) <= optimum


@pytest.mark.parametrize("sharing", [0.0, 0.3, math.inf])
def test_problem_keeps_the_contract(sharing: float) -> None:
    X, y = tasks_of((4, 6), p=4)
    mp.testing.check_problem(
        multitask_regression(X, y, 2, support_sharing=sharing, value_sharing=0.3, ridge=0.1), trials=5
    )


def test_separate_tasks_decouple() -> None:
    X, y = tasks_of((12, 15), common=False)
    whole = mp.solve(multitask_regression(X, y, 2, support_sharing=0.0, ridge=0.1))
    parts = [mp.solve(multitask_regression([A], [b], 2, ridge=0.1)) for A, b in zip(X, y, strict=True)]
    assert whole.value == pytest.approx(sum(part.value for part in parts), rel=1e-3)
    shared = mp.solve(multitask_regression(X, y, 2, ridge=0.1))
    assert shared.value >= whole.value * (1 - 1e-4)
    assert bool((shared.mask.reshape(2, -1)[0] == shared.mask.reshape(2, -1)[1]).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support_sharing": -1.0}, "support_sharing"),
        ({"support_sharing": math.nan}, "support_sharing"),
        ({"value_sharing": math.inf}, "value_sharing"),
        ({"ridge": -1.0}, "ridge"),
        ({"k": -1}, "k is"),
        ({"ridge": 0.0}, "more columns than samples"),
    ],
)
def test_bad_arguments(change: dict[str, float], message: str) -> None:
    X, y = tasks_of((3, 3), p=4)
    arguments: dict[str, float] = {"k": 2, "ridge": 0.1, **change}
    with pytest.raises(mp.errors.InvalidProblem, match=message):
        multitask_regression(X, y, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("sharing", [0.0, 1.0, math.inf])
def test_no_columns_and_all_columns(sharing: float) -> None:
    X, y = tasks_of()
    none = mp.solve(multitask_regression(X, y, 0, support_sharing=sharing, ridge=0.1))
    assert not bool(none.mask.any()) and none.gap <= 1e-4
    all_of_them = multitask_regression(X, y, 9, support_sharing=sharing, ridge=0.1)
    dense = all_of_them.loss.minimise_on(torch.ones(8, dtype=torch.bool))
    assert mp.solve(all_of_them).value == pytest.approx(all_of_them.loss.value(dense), rel=1e-4)


@pytest.mark.parametrize("solver", [mp.Scip(), mp.Highs()])
def test_exact_back_ends_take_the_price(solver: mp.Solver) -> None:
    X, y = tasks_of(seed=1, common=False)
    problem = multitask_regression(X, y, 2, support_sharing=0.2, ridge=0.05)
    optimum = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=1e-8)).value
    solution = solver.solve(problem)
    assert solution.value == pytest.approx(optimum, rel=2e-4)
    assert solution.bound is None or solution.bound <= optimum * (1 + 1e-9)


def test_answers_are_stored_with_their_proof(tmp_path: Path) -> None:
    X, y = tasks_of(common=False)
    problem = multitask_regression(X, y, 2, support_sharing=0.1, value_sharing=0.1, ridge=0.05)
    solution = mp.solve(problem)
    path = mp.save(tmp_path / "tasks.safetensors", {"tasks": (problem, solution)})
    assert mp.load(path)["tasks"].problem.fingerprint == problem.fingerprint
    checked = mp.io.check_file(path, exact=True)["tasks"]
    assert checked.bound == pytest.approx(solution.bound, rel=1e-9)


def test_bad_data() -> None:
    X, y = tasks_of()
    with pytest.raises(mp.errors.InvalidProblem, match="one of each"):
        multitask_regression(X, y[:1], 2)
    with pytest.raises(mp.errors.InvalidProblem, match="same columns"):
        multitask_regression([X[0], X[1][:, :3]], y, 2)
    with pytest.raises(mp.errors.InvalidProblem, match="task 1"):
        multitask_regression([X[0], X[1] * torch.nan], y, 2)
