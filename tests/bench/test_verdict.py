"""Deliberately wrong solvers: the judge and the comparison of answers catch each of them by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import mipprune as mp
from mipprune.bench.faults import best_values, find_faults
from mipprune.bench.records import Record
from mipprune.bench.verdict import judge


@pytest.fixture(scope="module")
def problem() -> mp.Problem:
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    return mp.formulations.layerwise(torch.linspace(1, 2, 10)[None], x.T @ x, mp.Cardinality(4))


@pytest.fixture(scope="module")
def honest(problem: mp.Problem) -> mp.Solution:
    return mp.solve(problem, mp.BranchAndBound())


def test_an_honest_answer_has_no_fault(problem: mp.Problem, honest: mp.Solution) -> None:
    verdict = judge(problem, honest)
    assert verdict.faults == ()
    assert verdict.value == honest.value and verdict.checked_bound == honest.bound
    assert verdict.violation == 0 and verdict.claimed_bound is None


def test_an_infeasible_point_has_no_value(problem: mp.Problem) -> None:
    verdict = judge(problem, SimpleNamespace(point=torch.ones(1, 10), value=0.0))
    assert verdict.value is None and verdict.violation == 6
    assert "violates the structure by 6" in verdict.faults[0]


def test_a_lie_about_the_value_is_named_with_both_numbers(problem: mp.Problem, honest: mp.Solution) -> None:
    verdict = judge(problem, SimpleNamespace(point=honest.point, value=0.5 * honest.value))
    assert verdict.value == honest.value
    assert "the problem says" in verdict.faults[0]


def test_a_bound_above_the_own_value_is_a_fault(problem: mp.Problem, honest: mp.Solution) -> None:
    claim = SimpleNamespace(bound=1.01 * honest.value, tolerance=1e-6)
    verdict = judge(problem, SimpleNamespace(point=honest.point, value=honest.value, claim=claim))
    assert "claimed bound" in verdict.faults[0]


def test_an_overstated_certificate_is_recomputed(problem: mp.Problem, honest: mp.Solution) -> None:
    overstated = SimpleNamespace(
        point=honest.point, value=honest.value, bound=honest.value, certificate=mp.Tangent(torch.zeros(1, 10))
    )
    verdict = judge(problem, overstated)
    assert verdict.checked_bound is not None and verdict.checked_bound < 0 < honest.value
    assert "its certificate proves" in verdict.faults[0]


def test_a_certificate_that_does_not_hold_proves_nothing(problem: mp.Problem, honest: mp.Solution) -> None:
    assert isinstance(honest.certificate, mp.Tree)
    broken = replace(honest.certificate, leaves=honest.certificate.leaves[:-1])
    verdict = judge(problem, SimpleNamespace(point=honest.point, certificate=broken))
    assert verdict.checked_bound is None
    assert "its certificate does not hold" in verdict.faults[0]


def test_points_of_the_wrong_shape_or_not_finite_are_faults_and_no_errors(problem: mp.Problem) -> None:
    for point in (torch.ones(3), torch.full((1, 10), float("nan"))):
        verdict = judge(problem, SimpleNamespace(point=point))
        assert verdict.value is None and "cannot be read" in verdict.faults[0]


def _record(solver: str, **results: Any) -> Record:
    return Record(
        key=solver, family="f", instance="i", solver=solver, fingerprint="p", **{"gap_limit": 1e-4, **results}
    )


def test_answers_that_contradict_each_other_are_laid_at_the_right_door() -> None:
    records = [
        _record("good", value=1.0, checked_bound=0.9999, status="optimal"),
        _record("early", value=1.2, status="optimal", claimed_bound=1.2),
        _record("forger", value=1.1, checked_bound=1.05),
    ]
    found = {fault.solver: fault.what for fault in find_faults(records)}
    assert set(found) == {"early", "forger"}
    assert "proven bound" in found["forger"] and "good" in found["forger"]
    assert len([fault for fault in find_faults(records) if fault.solver == "early"]) == 2  # the bound and the status


def test_stored_optima_take_part() -> None:
    record = _record("early", value=1.2, status="optimal", claimed_bound=1.2)
    assert find_faults([record]) == []
    assert len(find_faults([record], {"p": 1.0})) == 2
    below = find_faults([_record("lucky", value=0.9)], {"p": 1.0})
    assert "stored optimum" in below[0].what
    assert best_values([record], {"p": 1.0}) == {("f", "i", "p"): 1.0}


def test_tolerances_of_solvers_are_no_faults() -> None:
    records = [_record("a", value=1.0, claimed_bound=1.0 + 1e-7), _record("b", value=1.0 + 5e-5, status="optimal")]
    assert find_faults(records) == []


@dataclass(frozen=True)
class Cheat:
    """Claims the bound it likes."""

    name: str = "cheat"

    def rejects(self, problem: mp.Problem) -> str | None:
        return None

    def solve(self, problem: mp.Problem, *, budget: Any = None, start: Any = None, progress: Any = None) -> Any:
        point = problem.repair(problem.loss.start())
        return SimpleNamespace(point=point, value=problem.value(point), bound=problem.value(point), status="optimal")


def test_a_cheat_that_claims_its_own_value_is_caught_by_a_better_point(
    problem: mp.Problem, honest: mp.Solution
) -> None:
    cheated = judge(problem, Cheat().solve(problem))
    assert cheated.faults == (), "alone, nothing speaks against it"
    assert cheated.value is not None and cheated.value > honest.value * 1.001
    records = [
        _record("cheat", value=cheated.value, claimed_bound=cheated.claimed_bound, status="optimal"),
        _record("tree", value=honest.value, checked_bound=honest.bound, status="optimal"),
    ]
    assert {fault.solver for fault in find_faults(records)} == {"cheat"}
