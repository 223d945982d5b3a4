"""A user's own loss, as the documentation shows it: solvers, certificates and structures take it as it is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import mipprune as mp
from mipprune.testing import check_loss, check_problem, check_solver, enumerate_optimum
from tests.test_readme import run_blocks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "own_loss.md"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    sys.modules["own_loss"] = module = ModuleType("own_loss")  # dataclasses look up the module of a class
    assert run_blocks(PAGE.read_text(encoding="utf-8"), str(PAGE), module.__dict__) == 3
    return module.__dict__


@pytest.fixture(scope="module")
def loss(page: dict[str, Any]) -> Any:
    """Six columns, so that everything can be enumerated quickly."""
    return replace(page["loss"], design=page["design"][:, :6])


@pytest.mark.parametrize("threshold", [0.1, 1.0, 100.0])
def test_it_passes_the_suite(loss: Any, threshold: float) -> None:
    check_loss(replace(loss, threshold=threshold), trials=4)


def test_with_a_large_threshold_it_is_least_squares(loss: Any) -> None:
    huber, squares = replace(loss, threshold=1e6), mp.LeastSquares(loss.design, loss.response, loss.ridge)
    point = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert huber.value(point) == pytest.approx(squares.value(point), rel=1e-12)
    problem, other = (mp.Problem(kind, mp.Sparse(mp.Cardinality(2))) for kind in (huber, squares))
    assert enumerate_optimum(problem)[0] == pytest.approx(enumerate_optimum(other)[0], rel=1e-9)


@pytest.mark.parametrize(
    "structure",
    [mp.Sparse(mp.Cardinality(2)), mp.Sparse(mp.NofM(1, 3), price=0.5), mp.Sparse(mp.Groups(2, 2), box=0.7)],
    ids=["cardinality", "price", "box"],
)
def test_its_problems_pass_the_suite(loss: Any, structure: mp.Structure) -> None:
    check_problem(mp.Problem(loss, structure), trials=2)


@pytest.mark.exact
def test_tree_and_scip_find_the_enumerated_optimum(loss: Any) -> None:
    problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(2)))
    optimum, _ = enumerate_optimum(problem)
    for solver in (mp.BranchAndBound(), mp.Scip()):
        solution = mp.solve(problem, solver)
        assert solution.status is mp.Status.OPTIMAL
        assert solution.value == pytest.approx(optimum, rel=1e-4)
        mp.check(problem, solution)


@pytest.mark.parametrize("solver", [mp.BranchAndBound(), mp.ProjectedGradient()], ids=lambda s: s.name)
def test_solvers_keep_their_promises_on_it(loss: Any, solver: Any) -> None:
    problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(2)))
    assert check_solver(solver, problem, optimum=enumerate_optimum(problem)[0]) is not None


def test_exact_evaluation_says_that_it_is_missing(loss: Any) -> None:
    problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(2)))
    with pytest.raises(mp.Unsupported, match="exact=False"):
        mp.check(problem, mp.certify(problem), exact=True)
