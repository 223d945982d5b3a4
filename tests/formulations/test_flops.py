"""FLOP-constrained selection from scores to certificate: the exact search, its baselines, LAMP, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from mipprune import (
    Budgets,
    Highs,
    InvalidProblem,
    Linear,
    Masks,
    NofM,
    Oracle,
    Problem,
    Scip,
    Status,
    Unsupported,
    check,
    load,
    save,
    solve,
)
from mipprune.formulations import flop_selection, lamp_scores
from mipprune.solvers import GoldenSection, GreedyBudget
from mipprune.testing import check_problem
from tests.budget_instances import REFERENCE, costs_of, r50

SMALL = [torch.tensor([9.0, 8.0, 7.0]), torch.tensor([3.0, 2.0, 1.0])]


def instance(p: int, nnz: float = 0.2, flops: float = 0.2) -> Problem:
    return flop_selection(r50(p), costs_of("resnet50"), nnz=nnz, flops=flops)


def test_the_problem_keeps_its_promises() -> None:
    check_problem(flop_selection(SMALL, [10, 1], nnz=3, flops=12), trials=3)
    check_problem(flop_selection(SMALL, [0.5, 1.5], flops=0.5, lower=[1, 0], upper=2), trials=3)


@pytest.mark.parametrize("entry", REFERENCE["optima"][:2], ids=lambda entry: str(entry["p"]))
def test_stored_optima_with_certificates(entry: dict[str, Any]) -> None:
    problem = instance(entry["p"], entry["nnz"], entry["flops"])
    assert problem.structure.supports.limits.tolist() == [entry["kept"], entry["cost"]]
    solution = solve(problem)
    assert -solution.value == pytest.approx(entry["optimum"], rel=1e-9)
    assert solution.status is Status.OPTIMAL
    assert solution.gap < 1e-12
    assert check(problem, solution).gap < 1e-12


@pytest.mark.exact
def test_exact_solvers_agree() -> None:
    problem = instance(1500)
    ours = solve(problem)
    for solver in (Scip(), Highs()):
        claimed = solver.solve(problem)
        assert claimed.value == pytest.approx(ours.value, rel=2e-4)
        assert claimed.value >= ours.bound


def test_baselines_are_admissible_and_not_better() -> None:
    for p, shares in ((10_000, (0.2, 0.2)), (3_000, (0.4, 0.1)), (3_000, (0.05, 0.5))):
        problem = instance(p, *shares)
        best = solve(problem)
        for solver in (GoldenSection(), GreedyBudget(), GreedyBudget(power=0.3)):
            found = solver.solve(problem)
            assert found.violation == 0
            assert found.bound is None
            assert best.value <= found.value < 0
    golden = GoldenSection().solve(instance(10_000))
    assert 1e-6 < 1 + golden.value / REFERENCE["optima"][0]["optimum"] < 5e-4  # close, and short of it


def test_golden_section_stops_early_on_small_scores() -> None:
    """Its absolute tolerance is not scale free; the exact search is."""
    scores = r50(3_000)
    small = [1e-12 * part for part in scores]
    costs = costs_of("resnet50")
    exact = [solve(flop_selection(part, costs, nnz=0.2, flops=0.2)).value for part in (scores, small)]
    golden = [GoldenSection().solve(flop_selection(part, costs, nnz=0.2, flops=0.2)).value for part in (scores, small)]
    assert exact[1] == pytest.approx(1e-12 * exact[0], rel=1e-12)
    assert 1 - golden[1] / exact[1] > 10 * (1 - golden[0] / exact[0])


def test_baselines_say_what_they_do_not_take() -> None:
    bounded = flop_selection(SMALL, [10, 1], nnz=3, flops=12, upper=2)
    single = flop_selection(SMALL, [10, 1], flops=12)
    other = Problem(Linear(torch.ones(1, 4)), Masks(NofM(2, 4)))
    for solver, problem, message in (
        (GoldenSection(), bounded, "bounds on the counts"),
        (GreedyBudget(), bounded, "bounds on the counts"),
        (GoldenSection(), single, "one other"),
        (GoldenSection(), other, "budgets"),
    ):
        with pytest.raises(Unsupported, match=message):
            solver.solve(problem)
    assert GreedyBudget().solve(single).value == -6.0  # three cheap ones first; nothing dear fits beside them
    assert solve(single).value == -14.0


def test_budgets_are_counts_or_shares() -> None:
    limits = flop_selection(SMALL, [10, 1], nnz=3, flops=12).structure.supports.limits
    shares = flop_selection(SMALL, [10, 1], nnz=0.5, flops=12 / 33).structure.supports.limits
    assert limits.tolist() == [3.0, 12.0]
    assert shares.tolist() == [3.0, 12.0] or shares.tolist() == [3.0, 11.0]  # 12/33 is no float
    assert flop_selection([torch.ones(10)], 1, nnz=0.3, flops=np.int64(5)).structure.supports.limits.tolist() == [3, 5]


def test_layers_by_name() -> None:
    scores = {"conv": SMALL[0].reshape(3, 1), "head": SMALL[1].numpy()}
    problem = flop_selection(
        scores, {"head": 1, "conv": 10, "unused": 5}, nnz=3, flops=12, lower={"conv": 1, "head": 0}
    )
    assert solve(problem).value == -14.0


def test_precision_of_the_scores_is_kept() -> None:
    single = [part.float() for part in r50(2000)]
    problem = flop_selection(single, costs_of("resnet50"), nnz=0.2, flops=0.2)
    assert problem.loss.cost.dtype == torch.float32
    solution = solve(problem)
    assert solution.gap < 1e-12
    double = solve(flop_selection([part.double() for part in single], costs_of("resnet50"), nnz=0.2, flops=0.2))
    assert solution.value == pytest.approx(double.value, rel=1e-14)


def test_strict_mode_leaves_no_allowance() -> None:
    for p in (1_000, 10_000):
        problem = flop_selection(r50(p), costs_of("resnet50"), nnz=0.2, flops=0.2, strict=True)
        solution = solve(problem)
        family, gain = problem.structure.supports, -problem.loss.cost
        found = family.select(gain)
        assert found.bound == found.value == math.fsum(gain[found.mask].tolist())
        assert family.select_bound(gain, found.witness) == found.value
        assert family.select_bound(gain + 1e-9, found.witness) > found.value  # not on the grid: no rounding down
        assert solution.gap <= 2.0**-52  # the sign is changed and the difference rounded once
        assert -solution.value == pytest.approx(-solve(instance(p)).value, rel=1e-11)


def test_a_solution_survives_its_file(tmp_path: Any) -> None:
    problem = instance(1000)
    solution = solve(problem)
    entry = load(save(tmp_path / "x.safetensors", {"selection": (problem, solution)}))["selection"]
    assert entry.problem.fingerprint == problem.fingerprint
    assert check(entry.problem, entry.solution).gap < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((torch.ones(3),), 1, {}), "give a budget"),
        ((([torch.tensor([1.0, math.nan])], 1, {"nnz": 1})), "NaN"),
        ((([], [], {"nnz": 1})), "empty"),
        (((torch.ones(3), 1, {"nnz": 1})), "single array"),
        ((([torch.ones(3)], [1, 2], {"nnz": 1})), "2 numbers for 1 layers"),
        ((([torch.ones(3)], -1, {"flops": 1})), "negative"),
        ((([torch.ones(3)], {"a": 1}, {"flops": 1})), "by name"),
        ((({"a": torch.ones(3)}, {"b": 1}, {"flops": 1})), "no entry for layer 'a'"),
        ((([torch.ones(3)], 1, {"nnz": 1.5})), "whole"),
        ((([torch.ones(3)], 1, {"nnz": -1})), ">= 0"),
        ((([torch.ones(3)], 1, {"nnz": True})), "whole number"),
        ((([torch.ones(3)], 1, {"nnz": "0.5"})), "whole number"),
        ((([torch.ones(3)], 2, {"flops": 3, "lower": 2})), "budget is 3"),
        ((([torch.ones(3)], "x", {"flops": 3})), "cannot be read"),
    ],
)
def test_bad_input_is_named(arguments: Any, message: str) -> None:
    scores, costs, options = arguments
    with pytest.raises(InvalidProblem, match=message):
        flop_selection(scores, costs, **options)


def test_unusual_input_has_the_right_answer() -> None:
    assert solve(flop_selection([torch.tensor([-1.0, 2.0, -3.0])], 1, nnz=3)).value == -2.0  # negative scores
    assert solve(flop_selection([torch.tensor([-1.0, 2.0, -3.0])], 1, nnz=3, lower=2)).value == -1.0
    assert solve(flop_selection(SMALL, [0, 0], flops=0)).value == -30.0  # what is free is kept
    assert solve(flop_selection(SMALL, [0, 1], nnz=2, flops=0)).value == -17.0  # a layer that is never called
    assert solve(flop_selection(SMALL, 1, nnz=0)).value == 0.0
    half = [part.half() for part in SMALL]
    assert solve(flop_selection(half, [10, 1], nnz=3, flops=12)).value == -14.0


def test_lamp_scores_are_their_definition() -> None:
    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((4, 5)), "b": rng.integers(-2, 3, 30).astype(float)}
    scores = lamp_scores(weights)
    for name, array in weights.items():
        squares = np.square(array).ravel()
        expected = [0.0 if u == 0 else u / squares[squares >= u].sum() for u in squares]
        assert scores[name].shape == array.shape
        assert np.allclose(scores[name].ravel(), expected, rtol=1e-14)
    assert solve(flop_selection(scores, {"a": 3, "b": 1}, nnz=10, flops=20)).gap < 1e-12
    assert lamp_scores([torch.zeros(0)])[0].numel() == 0


def test_the_oracle_takes_any_number_of_resources() -> None:
    rng = np.random.default_rng(1)
    gain = torch.from_numpy(rng.exponential(size=600))
    costs = [[1, 1, 1], [100, 30, 1], [4, 2, 2]]
    problem = Problem(Linear(-gain), Masks(Budgets([100, 200, 300], costs, [150, 3000, 450])))
    solution = Oracle().solve(problem)
    assert solution.gap < 1e-9
    assert check(problem, solution).bound <= solution.value
