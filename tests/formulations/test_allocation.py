"""One option for each layer: the formulation, its exact solvers, and stored optima of tables of real size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mipprune as mp
from benchmarks.flop_selection.allocation import ROWS, instance, resnet50_layers
from mipprune.formulations import allocation
from mipprune.solvers import SpdyDP
from tests.layers import reference

STORED = reference("allocation")["rows"]


def draw(seed: int, resources: int = 1) -> mp.Problem:
    """A small problem with tables of different lengths, and decimals as costs."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 5, 4)
    errors = [rng.random(size) for size in sizes]
    costs = [np.round(np.sort(rng.random((size, resources)), axis=0), 2) for size in sizes]
    least = sum(table.min(axis=0) for table in costs)
    most = sum(table.max(axis=0) for table in costs)
    return allocation(errors, costs, np.round(least + rng.random(resources) * (most - least) + 0.01, 2))


@pytest.mark.parametrize("resources", [1, 2])
def test_the_problem_is_the_same_in_every_reading(resources: int) -> None:
    errors = [[3.0, 1.0, 0.0], [2.0, 0.5], [4.0, 0.0]]
    costs = np.array([[[0, 1], [1, 0], [2, 2]], [[0, 3], [2, 1], [9, 9]], [[1, 1], [2, 3], [9, 9]]])
    tables = [table[: len(error), :resources] for table, error in zip(costs, errors)]
    mp.testing.check_problem(allocation(errors, tables, [4.0, 5.0][:resources]), trials=3)


@pytest.mark.exact
@pytest.mark.parametrize("seed", range(4))
def test_all_solvers_agree(seed: int) -> None:
    problem = draw(seed, 1 + seed % 2)
    solution = mp.solve(problem)
    assert solution.status is mp.Status.OPTIMAL and solution.proof is mp.Proof.CHECKED
    checked = mp.check(problem, solution)
    assert mp.check(problem, solution, exact=True).bound == pytest.approx(checked.bound, rel=1e-12)
    for solver in (mp.Highs(), mp.Scip()):
        other = mp.solve(problem, solver)
        assert other.value == pytest.approx(solution.value, rel=1e-9), solver.name
        assert other.value >= solution.bound


@pytest.mark.parametrize("row", STORED, ids=lambda row: row["row"])
def test_stored_optima_of_54_layers_are_proven_again(row: dict[str, Any]) -> None:
    tables = instance(row["row"])
    problem = allocation(tables.error, tables.costs, tables.budgets)
    solution = mp.solve(problem, budget=mp.Budget(gap=1e-10))
    assert solution.value == pytest.approx(row["optimum"], rel=1e-9)
    assert solution.status is mp.Status.OPTIMAL and solution.gap < 1e-12
    assert bool((problem.structure.supports.usage(solution.mask).numpy() <= tables.budgets).all())
    if len(tables.budgets) == 1:
        rounded = SpdyDP().solve(problem)
        assert rounded.value / solution.value - 1 == pytest.approx(row["spdy_dp_excess"], rel=1e-3)


def test_the_stored_rows_are_all_of_them() -> None:
    assert [row["row"] for row in STORED] == list(ROWS)
    sizes, positions = resnet50_layers()
    assert int(sizes.sum()) == 25_502_912 and int((sizes * positions).sum()) == 4_089_184_256


@pytest.mark.parametrize("seed", range(20))
def test_buckets_never_beat_the_optimum_and_are_exact_for_whole_budgets(seed: int) -> None:
    problem = draw(seed)
    optimum = mp.solve(problem)
    coarse = SpdyDP(buckets=7).solve(problem)
    assert coarse.value >= optimum.value - 1e-12  # inf where rounding up leaves no choice
    family = problem.structure.supports
    whole = SpdyDP(buckets=int(family.whole[2][0])).solve(problem)
    assert whole.value == pytest.approx(optimum.value, rel=1e-12)


def test_what_the_buckets_do_not_take_is_refused_with_a_reason() -> None:
    two = draw(0, 2)
    with pytest.raises(mp.Unsupported, match="one budget"):
        SpdyDP().solve(two)
    one = draw(0)
    fixed = one.restrict(torch.arange(one.size) == 0, torch.zeros(one.size, dtype=torch.bool))
    with pytest.raises(mp.Unsupported, match="nothing fixed"):
        SpdyDP().solve(fixed)
    with pytest.raises(mp.InvalidProblem, match="at least one"):
        SpdyDP(buckets=0)
    free = allocation([[1.0, 0.0]], [[0.0, 1.0]], 0.0)
    assert SpdyDP().solve(free).value == 1.0
    assert SpdyDP().solve(allocation([[1.0]], [[2.0]], 1.0)).status is mp.Status.NO_POINT


def test_budgets_that_nothing_meets_are_a_status() -> None:
    solution = mp.solve(allocation([[1.0, 0.0]], [[2.0, 3.0]], 1.0))
    assert solution.status is mp.Status.INFEASIBLE and solution.point is None


@pytest.mark.parametrize(
    ("errors", "costs", "message"),
    [
        ([], [], "no layer"),
        ([[1.0, float("nan")]], [[0.0, 1.0]], "NaN"),
        ([[1.0, 2.0]], [[0.0, 1.0, 2.0]], "same options"),
        ([[1.0, 2.0]], [[0.0, 1.0], [0.0, 1.0]], "same options"),
        ([[[1.0], [2.0]]], [[0.0, 1.0]], "dimension"),
        ([[1.0, 2.0]], [[0.0, -1.0]], "negative"),
    ],
)
def test_tables_that_do_not_fit_are_refused(errors: Any, costs: Any, message: str) -> None:
    with pytest.raises(mp.InvalidProblem, match=message):
        allocation(errors, costs, 1.0)


def test_a_certificate_survives_a_file_and_an_altered_one_does_not(tmp_path: Path) -> None:
    problem = draw(3, 2)
    solution = mp.solve(problem)
    mp.save(tmp_path / "a.safetensors", {"a": mp.io.Entry(problem, solution, {})})
    entry = mp.load(tmp_path / "a.safetensors")["a"]
    assert mp.check(entry.problem, entry.solution).bound == mp.check(problem, solution).bound
    other = allocation([table + 1.0 for table in np.split(problem.loss.cost.numpy(), 1)], [np.zeros(problem.size)], 1.0)
    with pytest.raises(mp.CertificateError, match="fingerprint"):
        mp.check(other, solution)


def test_a_tree_over_options_proves_the_same_optimum() -> None:
    """The generic tree works on the family too; fixings of options are fixings like any other."""
    problem = draw(5)
    optimum = mp.solve(problem)
    for entry in range(problem.size):
        flags = torch.arange(problem.size) == entry
        none = torch.zeros(problem.size, dtype=torch.bool)
        kept, dropped = mp.solve(problem.restrict(flags, none)), mp.solve(problem.restrict(none, flags))
        assert min(kept.value, dropped.value) == pytest.approx(optimum.value, rel=1e-12)
