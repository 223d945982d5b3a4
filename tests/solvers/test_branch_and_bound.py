"""The generic tree: optima, certificates, limits, and what each leaf proves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mipprune import (
    BranchAndBound,
    Budget,
    Cardinality,
    Groups,
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
    TransposableNofM,
    Tree,
    check,
)
from mipprune.formulations import layerwise
from mipprune.testing import check_solver, enumerate_optimum
from tests.enumeration import Enumeration
from tests.layers import make_layer

WEIGHT, GRAM = make_layer(6, 2, 64, 1)
DESIGN = torch.randn(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
RESPONSE = DESIGN[:, 0] - 0.5 * DESIGN[:, 3] + 0.2 * DESIGN[:, 5]

PROBLEMS: dict[str, Any] = {
    "layer": lambda: layerwise(WEIGHT, GRAM, Cardinality(6)),
    "rows": lambda: layerwise(WEIGHT, GRAM, PerRow(3)),
    "n of m": lambda: layerwise(WEIGHT, GRAM, NofM(1, 3)),
    "groups": lambda: layerwise(WEIGHT, GRAM, Groups(2, 2)),
    "transposable": lambda: layerwise(WEIGHT, GRAM, TransposableNofM(1, 2)),
    "price": lambda: layerwise(WEIGHT, GRAM, Sparse(PerRow(6), price=0.05 * float(GRAM.diagonal().mean()))),
    "box": lambda: layerwise(WEIGHT, GRAM, Sparse(PerRow(3), box=0.3)),
    "own Gram matrices": lambda: Problem(Quadratic(torch.stack([GRAM, GRAM + 50.0]), WEIGHT, 1.0), Sparse(PerRow(2))),
    "regression": lambda: Problem(LeastSquares(DESIGN, RESPONSE, 0.1), Sparse(Cardinality(3))),
    "wide regression": lambda: Problem(LeastSquares(DESIGN[:5], RESPONSE[:5], 0.5), Sparse(Cardinality(2), price=0.01)),
    "masks": lambda: Problem(Linear(-WEIGHT), Masks(NofM(1, 2))),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_tree_proves_the_optimum(name: str) -> None:
    problem = PROBLEMS[name]()
    optimum, _ = enumerate_optimum(problem)
    solution = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
    assert solution.status is Status.OPTIMAL and solution.proof is Proof.CHECKED and solution.stop is Stop.GAP
    assert solution.value == pytest.approx(optimum, rel=1e-6, abs=1e-9)
    assert solution.bound <= optimum + solution.rounding
    check(problem, solution)
    check(problem, solution, exact=True)


@pytest.mark.parametrize("name", ["layer", "regression"])
def test_it_keeps_a_solver_s_promises(name: str) -> None:
    problem = PROBLEMS[name]()
    assert check_solver(BranchAndBound(), problem, optimum=enumerate_optimum(problem)[0]) is not None


@pytest.mark.parametrize("kept", [4, 8])
def test_rows_of_sixteen_inputs_agree_with_enumeration(kept: int) -> None:
    weight, gram = make_layer(16, 32, 1024, 0)
    problem = layerwise(weight[:1], gram, PerRow(kept))
    solution = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
    assert isinstance(problem.loss, Quadratic)
    assert solution.value == pytest.approx(Enumeration(problem.loss).optimum(problem), rel=1e-6)
    assert isinstance(solution.certificate, Tree)
    assert check(problem, solution).gap <= 1e-6


def test_every_leaf_bounds_what_it_covers() -> None:
    """The leaves are restrictions; each leaf's bound is below the optimum of its own part, and the parts cover all."""
    problem = PROBLEMS["layer"]()
    solution = BranchAndBound(iterations=5, splits=1).solve(problem, budget=Budget(nodes=15, gap=1e-9))
    tree = solution.certificate
    assert isinstance(tree, Tree)
    bounds, optima = [], []
    for part, leaf in tree.walk(problem):
        bounds.append(leaf.bound(part))
        optima.append(enumerate_optimum(part)[0])
        assert bounds[-1] <= optima[-1] * (1 + 1e-12)
    assert min(bounds) == solution.bound == tree.bound(problem)
    assert min(optima) == pytest.approx(enumerate_optimum(problem)[0], rel=1e-12)


def test_limits_leave_a_valid_bound() -> None:
    weight, gram = make_layer(24, 8, 512, 0)
    problem = layerwise(weight[:1], gram, PerRow(12))
    few = BranchAndBound(splits=1).solve(problem, budget=Budget(nodes=9, gap=0.0))
    assert few.stop is Stop.NODES and few.status is Status.FEASIBLE
    assert few.stats.nodes is not None and 9 <= few.stats.nodes <= 11
    brief = BranchAndBound(splits=1).solve(problem, budget=Budget(seconds=0.3, gap=0.0))
    assert brief.stop is Stop.TIME
    for solution in (few, brief):
        assert check(problem, solution).bound <= solution.value
    more = BranchAndBound(splits=1).solve(problem, budget=Budget(nodes=41, gap=0.0))
    assert more.bound >= few.bound and more.value <= few.value


def test_progress_can_stop_the_run_and_an_interrupt_returns_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, gram = make_layer(16, 8, 512, 0)
    problem = layerwise(weight[:2], gram, PerRow(8))
    stopped = BranchAndBound().solve(problem, budget=Budget(gap=0.0), progress=lambda *_: True)
    assert stopped.stop is Stop.USER and stopped.bound <= stopped.value
    calls = []

    def interrupted(self: Any, number: int) -> None:
        calls.append(number)
        raise KeyboardInterrupt

    monkeypatch.setattr("mipprune.solvers.branch_and_bound._Search.branch", interrupted)
    cut = BranchAndBound().solve(problem, budget=Budget(gap=0.0))
    assert calls and cut.stop is Stop.USER and cut.proof is Proof.CHECKED
    check(problem, cut)


def test_a_start_becomes_the_incumbent() -> None:
    problem = PROBLEMS["layer"]()
    best = BranchAndBound().solve(problem, budget=Budget(gap=1e-9))
    again = BranchAndBound().solve(problem, budget=Budget(gap=1e-9, nodes=1), start=best.point)
    assert again.value == pytest.approx(best.value, rel=1e-12)


def test_large_problems_are_rejected_with_advice() -> None:
    problem = layerwise(torch.ones(100, 64), torch.eye(64), Cardinality(3200))
    assert "certify" in (BranchAndBound().rejects(problem) or "")


def test_families_that_only_select_are_searched_too() -> None:
    """Without a proximal step and without propagation the tree finds empty branches by itself."""

    class Plain(PerRow):
        def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> None:  # type: ignore[override]
            return None

        def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
            return on, off

        def linked(self, shape: tuple[int, ...]) -> None:  # type: ignore[override]
            return None

    problem = layerwise(WEIGHT, GRAM, Plain(1))
    solution = BranchAndBound().solve(problem, budget=Budget(gap=1e-6))
    assert solution.value == pytest.approx(enumerate_optimum(problem)[0], rel=1e-6)
    bounds = [leaf.bound(part) for part, leaf in solution.certificate.walk(problem)]
    assert not any(math.isnan(bound) for bound in bounds)
    check(problem, solution, exact=True)
