"""Certificates and solutions: what is stored is re-proved, and nothing that was changed gets through."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from mipprune import (
    BranchAndBound,
    Budget,
    Cardinality,
    CertificateError,
    Claim,
    LeastSquares,
    MippruneError,
    NofM,
    Problem,
    Proof,
    Quadratic,
    Solution,
    Sparse,
    Stats,
    Status,
    Stop,
    Tangent,
    Tree,
    certify,
    check,
)
from mipprune.core.separable import Separable
from mipprune.formulations import layerwise
from mipprune.testing import enumerate_optimum

GENERATOR = torch.Generator().manual_seed(21)
INPUTS = torch.randn(30, 5, generator=GENERATOR, dtype=torch.float64)
INPUTS += 1.5 * torch.randn(30, 1, generator=GENERATOR, dtype=torch.float64)  # correlated, so that trees have branches
WEIGHT = torch.randn(2, 5, generator=GENERATOR, dtype=torch.float64)
PROBLEM = layerwise(WEIGHT, INPUTS.T @ INPUTS, Cardinality(4))
OTHER = layerwise(WEIGHT, INPUTS.T @ INPUTS, Cardinality(6))
REGRESSION = Problem(LeastSquares(INPUTS, INPUTS @ WEIGHT[0], 0.5), Sparse(Cardinality(2), price=0.1))


@pytest.fixture(scope="module")
def tangent_solution() -> Solution:
    return certify(PROBLEM, budget=Budget(gap=1e-9), splits=1, iterations=10)


@pytest.fixture(scope="module")
def tree_solution() -> Solution:
    solution = BranchAndBound(splits=0, iterations=5).solve(PROBLEM, budget=Budget(gap=1e-6))
    assert isinstance(solution.certificate, Tree) and len(solution.certificate) > 5
    return solution


# ------------------------------------------------------------------------------------------------ what is right


@pytest.mark.parametrize("problem", [PROBLEM, REGRESSION], ids=["layer", "regression"])
def test_certificates_hold_in_both_arithmetics(problem: Problem) -> None:
    optimum, _ = enumerate_optimum(problem)
    for solution in (certify(problem, splits=1, iterations=10), BranchAndBound().solve(problem)):
        assert solution.certificate is not None and solution.bound is not None
        found, exact = check(problem, solution), check(problem, solution, exact=True)
        assert found.bound == solution.bound
        assert Fraction(solution.bound) <= solution.certificate.rational_bound(problem)
        assert found.bound <= exact.bound <= optimum * (1 + 1e-12)
        assert exact.bound == pytest.approx(found.bound, rel=1e-9)
        assert (found.value, found.violation) == (problem.value(solution.point), 0.0)


def test_a_certificate_in_lower_precision_is_still_one() -> None:
    """A tangent point need not be stored in float64: any point proves a bound."""
    solution = certify(PROBLEM, splits=1)
    assert isinstance(solution.certificate, Tangent)
    short = replace(solution.certificate, point=solution.certificate.point.float())
    optimum, _ = enumerate_optimum(PROBLEM)
    assert short.bound(PROBLEM) == pytest.approx(solution.bound, rel=1e-5)
    assert short.bound(PROBLEM) <= optimum


# ------------------------------------------------------------------------------------------------ tampering


def nudged(tensor: Tensor) -> Tensor:
    """A tensor with one number changed by 1 %."""
    changed = tensor.clone()
    flat = changed.view(-1)
    index = int(flat.abs().argmax())
    flat[index] = flat[index] * 1.01 if float(flat[index]) != 0 else 1.0
    return changed


SOLUTION_CHANGES: dict[str, Any] = {
    "point": lambda s: {"point": nudged(s.point)},
    "value": lambda s: {"value": s.value * (1 + 1e-9)},
    "violation": lambda s: {"violation": 1.0},
    "bound": lambda s: {"bound": s.bound * (1 + 1e-6)},
    "mask": lambda s: {"mask": ~s.mask},
    "certificate": lambda s: {"certificate": None},
    "status": lambda s: {"status": Status.FEASIBLE if s.status is Status.OPTIMAL else Status.OPTIMAL},
    "proof": lambda s: {"proof": Proof.NONE},
    "fingerprint": lambda s: {"fingerprint": OTHER.fingerprint},
    "rounding": lambda s: {"rounding": 1.0},
}
FREE = {
    "claim",
    "stop",
    "stats",
    "solver",
    "tolerance",
}  # say how, not what: nothing in the problem's data contradicts them


@pytest.mark.parametrize("name", SOLUTION_CHANGES)
@pytest.mark.parametrize("kind", ["tangent", "tree"])
def test_no_field_of_a_solution_can_be_changed(kind: str, name: str, request: pytest.FixtureRequest) -> None:
    solution = request.getfixturevalue(f"{kind}_solution")
    check(PROBLEM, solution)
    with pytest.raises(CertificateError):
        check(PROBLEM, replace(solution, **SOLUTION_CHANGES[name](solution)))


def test_an_open_gap_cannot_be_talked_away(tangent_solution: Solution) -> None:
    assert tangent_solution.status is Status.FEASIBLE
    with pytest.raises(CertificateError, match="status"):
        check(PROBLEM, replace(tangent_solution, tolerance=1.0))
    with pytest.raises(CertificateError, match="optimal"):
        replace(tangent_solution, status=Status.OPTIMAL)


def test_every_field_is_accounted_for() -> None:
    assert set(SOLUTION_CHANGES) | FREE == {field.name for field in fields(Solution)}


@pytest.mark.parametrize("name", ["point", "split"])
def test_no_number_of_a_tangent_can_be_changed(tangent_solution: Solution, name: str) -> None:
    tangent = tangent_solution.certificate
    assert isinstance(tangent, Tangent)
    forged = replace(tangent_solution, certificate=replace(tangent, **{name: nudged(getattr(tangent, name))}))
    with pytest.raises(CertificateError):
        check(PROBLEM, forged)
    if name == "split":
        with pytest.raises(CertificateError):
            check(PROBLEM, forged, exact=True)


@pytest.mark.parametrize(
    "split",
    [[1e3], [-1.0] * 5, [math.nan] * 5, [math.inf] * 5, [[1e3], [1e3]], [[[1.0] * 5]], [1.0, 1.0]],
    ids=["one number", "negative", "nan", "infinite", "column", "too many axes", "too short"],
)
def test_no_other_split_can_be_put_in_its_place(tangent_solution: Solution, split: Any) -> None:
    forged = replace(tangent_solution.certificate, split=torch.tensor(split, dtype=torch.float64))
    for exact in (False, True):
        with pytest.raises((MippruneError, RuntimeError)):
            check(PROBLEM, replace(tangent_solution, certificate=forged), exact=exact)


def test_not_a_number_agrees_with_nothing(tangent_solution: Solution) -> None:
    """``abs(nan - bound) > tolerance`` is false: a check written that way would accept any stored bound."""

    class Nothing(Tangent):
        def bound(self, problem: Problem) -> float:
            return math.nan

    forged = Nothing(tangent_solution.certificate.point)
    with pytest.raises(CertificateError, match="bound"):
        check(PROBLEM, replace(tangent_solution, certificate=forged))


def test_a_tree_leaf_may_not_use_entries_that_are_off(tree_solution: Solution) -> None:
    """A leaf's split is verified on its open entries; a tangent point outside them could otherwise prove anything."""
    tree = tree_solution.certificate
    forged = []
    for part, leaf in tree.walk(PROBLEM):
        point, split = leaf.point.clone(), torch.full(PROBLEM.shape, 1e-3, dtype=torch.float64)
        point[part.off], split[part.off] = 10.0, 1e6
        forged.append(Tangent(point, split))
    with pytest.raises(CertificateError, match="split"):
        check(PROBLEM, replace(tree_solution, certificate=replace(tree, leaves=tuple(forged))))


def test_no_leaf_of_a_tree_can_be_changed(tree_solution: Solution) -> None:
    tree = tree_solution.certificate
    bounds = [leaf.bound(part) for part, leaf in tree.walk(PROBLEM)]
    worst = min(range(len(bounds)), key=bounds.__getitem__)
    order = [leaf for _, leaf in tree.walk(PROBLEM)]
    target = next(i for i, leaf in enumerate(tree.leaves) if leaf is order[worst])
    leaves = list(tree.leaves)
    leaves[target] = replace(leaves[target], point=nudged(leaves[target].point))
    with pytest.raises(CertificateError):
        check(PROBLEM, replace(tree_solution, certificate=replace(tree, leaves=tuple(leaves))))


def tree_changes(tree: Tree) -> dict[str, Tree]:
    index, children = tree.index, tree.children
    branching = [node for node in range(len(tree)) if int(index[node]) >= 0]
    first, second = branching[0], branching[1]

    def with_index(node: int, value: int) -> Tree:
        changed = index.clone()
        changed[node] = value
        return replace(tree, index=changed)

    def with_children(node: int, pair: list[int]) -> Tree:
        changed = children.clone()
        changed[node] = torch.tensor(pair)
        return replace(tree, children=changed)

    return {
        "another branching entry": with_index(first, (int(index[first]) + 1) % PROBLEM.size),
        "the parent's entry again": with_index(second, int(index[first])),
        "an entry out of range": with_index(first, PROBLEM.size),
        "a leaf with a strange index": with_index(next(n for n in range(len(tree)) if int(index[n]) < 0), -2),
        "a branch made a leaf": with_index(second, -1),
        "branches swapped": with_children(first, children[first].flip(0).tolist()),
        "a branch left out": with_children(first, [int(children[first, 0])] * 2),
        "a child out of range": with_children(first, [len(tree), int(children[first, 1])]),
        "a cycle": with_children(first, [0, int(children[first, 1])]),
        "a leaf lost": replace(tree, leaves=tree.leaves[:-1]),
        "leaves in another order": replace(tree, leaves=tree.leaves[1:] + tree.leaves[:1]),
        "nodes lost": replace(tree, index=index[:-1]),
        "nothing": replace(tree, index=index[:0], children=children[:0], leaves=()),
        "one leaf for all": Tree(torch.tensor([-1]), torch.tensor([[-1, -1]]), tree.leaves[-1:]),
    }


@pytest.mark.parametrize("number", range(14))
def test_no_branch_of_a_tree_can_be_changed(tree_solution: Solution, number: int) -> None:
    name, forged = list(tree_changes(tree_solution.certificate).items())[number]
    with pytest.raises(CertificateError):
        check(PROBLEM, replace(tree_solution, certificate=forged))
        pytest.fail(f"accepted: {name}")


def test_a_tree_of_an_empty_problem_says_so() -> None:
    on, none = torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    empty = PROBLEM.restrict(on, none)
    tree = Tree(torch.tensor([-1]), torch.tensor([[-1, -1]]), (Tangent(WEIGHT),))
    assert tree.bound(empty) == math.inf
    with pytest.raises(CertificateError, match="no admissible point"):
        tree.rational_bound(empty)


def test_a_bound_of_minus_infinity_is_no_exact_bound() -> None:
    away = Tangent(0 * WEIGHT, torch.zeros(5, dtype=torch.float64))
    assert away.bound(PROBLEM) == -math.inf
    with pytest.raises(CertificateError, match="proves nothing finite"):
        away.rational_bound(PROBLEM)


# ------------------------------------------------------------------------------------------------ claims


def test_claims_are_kept_apart_from_certificates() -> None:
    optimum, mask = enumerate_optimum(PROBLEM)
    point = PROBLEM.refit(torch.where(mask, WEIGHT, 0.0))
    claim = Claim("somebody", "1.0", optimum * 0.99, 1e-6)
    solution = Solution.of(PROBLEM, point, stop=Stop.GAP, claim=claim, tolerance=0.05)
    assert (solution.proof, solution.status, solution.bound) == (Proof.CLAIMED, Status.OPTIMAL, claim.bound)
    assert check(PROBLEM, solution).bound == claim.bound
    with pytest.raises(CertificateError, match="claim"):
        check(PROBLEM, replace(solution, bound=optimum * 0.995))
    with pytest.raises(CertificateError, match="checked without a certificate"):
        replace(solution, proof=Proof.CHECKED)


def test_a_claim_within_its_tolerance_of_the_value_is_clipped_and_beyond_it_refused() -> None:
    _, mask = enumerate_optimum(PROBLEM)
    point = PROBLEM.refit(torch.where(mask, WEIGHT, 0.0))
    value = PROBLEM.value(point)
    close = Solution.of(PROBLEM, point, stop=Stop.GAP, claim=Claim("somebody", "1", value * (1 + 1e-7), 1e-6))
    assert close.bound == value
    check(PROBLEM, close)
    with pytest.raises(CertificateError, match="above the value"):
        Solution.of(PROBLEM, point, stop=Stop.GAP, claim=Claim("somebody", "1", value * 1.001, 1e-6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": math.inf}, "present or absent together"),
        ({"mask": None}, "present or absent together"),
        ({"value": math.nan}, "not a number"),
        ({"bound": math.nan}, "not a number"),
        ({"violation": 2.0}, "violates the structure by 2.0"),
        ({"bound": None}, "proof is checked with bound None"),
        ({"status": Status.NO_POINT}, "no point with a point"),
        ({"status": Status.INFEASIBLE}, "infeasible with a point"),
        ({"bound": 1e9}, "above the value"),
        ({"certificate": None}, "without a certificate"),
    ],
)
def test_an_inconsistent_solution_cannot_be_built(tangent_solution: Solution, changes: Any, message: str) -> None:
    with pytest.raises(CertificateError, match=message):
        replace(tangent_solution, **changes)


def test_a_point_outside_the_set_makes_no_solution() -> None:
    with pytest.raises(CertificateError, match="violates"):
        Solution.of(PROBLEM, WEIGHT, stop=Stop.CONVERGED)


def test_nothing_found_and_nothing_there() -> None:
    nothing = Solution.of(PROBLEM, None, stop=Stop.TIME)
    assert (nothing.status, nothing.proof, nothing.gap, nothing.value) == (Status.NO_POINT, Proof.NONE, None, math.inf)
    assert check(PROBLEM, nothing).bound is None
    assert Solution.of(PROBLEM, None, stop=Stop.CONVERGED, infeasible=True).status is Status.INFEASIBLE
    with pytest.raises(CertificateError, match="without a point"):
        replace(nothing, status=Status.FEASIBLE)


def test_a_solution_prints_what_is_known() -> None:
    text = str(Solution.of(PROBLEM, None, stop=Stop.TIME, stats=Stats(seconds=1.5)))
    assert "no point" in text and "time limit" in text and "1.5" in text
    assert text.splitlines()[1].split() == ["bound", "-"]


def test_an_optimum_of_zero_closes_the_gap_within_rounding() -> None:
    """Everything may be kept: the optimum is 0, and a relative gap alone would never close."""
    problem = layerwise(WEIGHT, INPUTS.T @ INPUTS, NofM(5, 5))
    solution = certify(problem)
    assert solution.value < 1e-20 and solution.bound is not None and solution.bound <= solution.value
    offset = Problem(Quadratic(INPUTS.T @ INPUTS, WEIGHT, offset=-3.0), Sparse(NofM(5, 5)))
    assert certify(offset).status is Status.OPTIMAL


def test_gains_hold_where_the_square_of_a_slope_underflows() -> None:
    """A slope of 3e-161 with curvature of that size gains 1e-161, though its square is no normal number."""
    linear = torch.linspace(1e-162, 9e-161, 50, dtype=torch.float64)
    model = Separable(constant=0.0, linear=linear, curvature=torch.full_like(linear, 3e-161))
    for bound, slope in zip(Sparse(Cardinality(1)).gain_bound(model).tolist(), linear.tolist(), strict=True):
        true = Fraction(slope) ** 2 / (2 * Fraction(3e-161))
        assert true <= Fraction(bound) <= true * (1 + Fraction(1, 10**12))
