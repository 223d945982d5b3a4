"""One optimum, four ways: enumeration, SCIP, HiGHS and the tree; and single rows of up to 64 inputs by the tree."""

from __future__ import annotations

import pytest
import torch

from mipprune import BranchAndBound, Budget, Cardinality, Highs, NofM, PerRow, Scip, Status, check
from mipprune.formulations import layerwise
from tests.enumeration import Enumeration
from tests.layers import make_layer, reference

TIGHT = Budget(gap=1e-7)

# (inputs, rows, seed, family): at most 12 inputs each
CASES = [
    (d, rows, seed, family)
    for seed, (d, rows) in enumerate([(8, 1), (8, 2), (9, 2), (10, 1), (12, 1), (12, 2), (12, 3)])
    for family in ("layer", "row", "n of m")
]


def small(d, rows, seed, family):
    weight, gram = make_layer(d, rows, 64 * d, seed)
    enumeration_of = {
        "layer": (Cardinality(rows * d // 2), lambda e: e.layer(rows * d // 2)),
        "row": (PerRow(d // 3), lambda e: e.per_row(d // 3)),
        "n of m": (NofM(1, 3), lambda e: e.n_of_m(1, 3)) if d % 3 == 0 else (NofM(1, 2), lambda e: e.n_of_m(1, 2)),
    }
    supports, optimum = enumeration_of[family]
    problem = layerwise(weight, gram, supports)
    return problem, optimum(Enumeration(problem.loss))


@pytest.mark.exact
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_enumeration_scip_highs_and_the_tree_agree(case):
    problem, optimum = small(*case)
    for solver in (BranchAndBound(), Scip(), Highs()):
        solution = solver.solve(problem, budget=TIGHT)
        assert solution.value == pytest.approx(optimum, rel=1e-6), solver.name
        checked = check(problem, solution)
        if isinstance(solver, BranchAndBound):
            assert solution.status is Status.OPTIMAL
            assert checked.bound <= optimum + problem.rounding(solution.point)
            assert check(problem, solution, exact=True).bound <= optimum + problem.rounding(solution.point)


ROWS = reference("layerwise_7_2")["rows"]


def single_row(row):
    d = row["d"]
    weight, gram = make_layer(d, 8, 64 * d, 0)
    number = row["row"]
    return layerwise(weight[number : number + 1], gram, Cardinality(round((1 - row["sparsity"]) * d)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['d']}-{row['sparsity']}-{row['row']}")
def test_single_rows_are_proven_optimal(row):
    problem = single_row(row)
    solution = BranchAndBound().solve(problem)
    dense = problem.value(torch.zeros(problem.shape))
    assert solution.status is Status.OPTIMAL
    assert solution.value / dense == pytest.approx(row["optimum"], abs=6e-7, rel=1e-4)
    assert check(problem, solution).gap <= 1e-4


@pytest.mark.exact
@pytest.mark.parametrize("row", [ROWS[0], ROWS[2]], ids=lambda row: f"{row['d']}-{row['sparsity']}")
def test_scip_finds_the_same_row(row):
    problem = single_row(row)
    solution = Scip().solve(problem)
    tree = BranchAndBound().solve(problem)
    assert solution.value == pytest.approx(tree.value, rel=1e-4)
    assert solution.bound <= tree.value * (1 + 1e-4)
