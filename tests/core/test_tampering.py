"""What an attacker could store: numbers that overflow, entries named twice, arrays of other types. None is believed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mipprune import (
    Budgets,
    Cardinality,
    CertificateError,
    LeastSquares,
    Problem,
    Solution,
    Sparse,
    Stop,
    Tangent,
    Tree,
    check,
)
from mipprune.structures import MultipleChoice
from tests.core.test_sparse_tree import make
from tests.core.trees import random_tree


def small_problem() -> Problem:
    design = torch.tensor([[1.0, 0.2, 0.1], [0.0, 1.0, 0.3], [0.2, 0.0, 1.0]], dtype=torch.float64)
    return Problem(LeastSquares(design, torch.tensor([3.0, 1.0, 2.0]), ridge=0.5), Sparse(Cardinality(1)))


def solved(problem: Problem, certificate: Any) -> Solution:
    return Solution.of(problem, problem.repair(problem.loss.start()), stop=Stop.NODES, certificate=certificate)


def test_a_leaf_that_overflows_makes_no_bound() -> None:
    problem = small_problem()
    good = Tangent.at(problem, problem.loss.start())
    huge = Tangent(torch.full((3,), 1e200, dtype=torch.float64))
    assert huge.bound(problem) == -math.inf
    index, children = torch.tensor([0, -1, -1]), torch.tensor([[1, 2], [-1, -1], [-1, -1]])
    for leaves in ((good, huge), (huge, good)):
        assert Tree(index, children, leaves).bound(problem) == -math.inf


@pytest.mark.parametrize(
    "altered",
    [
        {"index": torch.tensor([0.5, -1, -1])},
        {"children": torch.tensor([[1.0, 2.0], [-1.0, -1.0], [-1.0, -1.0]])},
        {"children": torch.tensor([[1, 2, 2], [-1, -1, -1], [-1, -1, -1]])},
        {"leaves": (None, None)},
        {"leaves": (Tangent(torch.zeros(4)), Tangent(torch.zeros(4)))},
        {"leaves": (Tangent(torch.zeros(3), torch.ones(7)), Tangent(torch.zeros(3), torch.ones(7)))},
    ],
)
def test_malformed_trees_are_refused(altered: dict[str, Any]) -> None:
    problem = small_problem()
    leaf = Tangent(problem.loss.start())
    tree = Tree(torch.tensor([0, -1, -1]), torch.tensor([[1, 2], [-1, -1], [-1, -1]]), (leaf, leaf))
    solution = solved(problem, tree)
    with pytest.raises(ValueError) as caught:
        check(problem, replace(solution, certificate=replace(tree, **altered)))
    assert type(caught.value).__module__.startswith("mipprune")


def test_sparse_trees_of_other_types_and_repeated_entries_are_refused() -> None:
    rng = np.random.default_rng(3)
    problem = make(rng, rows=12, size=6, form="price")
    tree = random_tree(problem, rng, depth=3)
    while tree.point_start[-1] - tree.point_start[-2] < 2:
        tree = random_tree(problem, rng, depth=3)
    solution = solved(problem, tree)
    twice = tree.point_entry.clone()
    twice[-1] = twice[-2]
    for altered in (
        {"point_entry": twice},
        {"index": tree.index.double()},
        {"children": tree.children.double() + 0.5},
        {"tangent": tree.tangent.double()},
        {"split_of": tree.split_of.to(torch.int8)},
        {"tangent": tree.tangent > 0},
        {"step_kind": tree.step_kind.double()},
        {"claim": tree.claim.long()},
        {"index": tree.index[:, None]},
        {"point_start": tree.point_start[:, None]},
        {"point_value": tree.point_value.clone().fill_(1e200)},
    ):
        with pytest.raises(CertificateError):
            check(problem, replace(solution, certificate=replace(tree, **altered)))
            pytest.fail(f"{altered} was accepted")


@pytest.mark.parametrize("number", [1e300, 1.7e308])
def test_huge_multipliers_prove_nothing(number: float) -> None:
    budgets = Budgets([3, 3], [[1.0, 1.0], [2.0, 1.0]], [3.0, 4.0])
    gain = torch.tensor([5.0, 4.0, 1.0, 3.0, 2.0, 1.0], dtype=torch.float64)
    found = budgets.select(gain)
    for place in range(len(found.witness)):
        for sign in (1.0, -1.0):
            witness = found.witness.clone()
            witness[place] = sign * number
            if sign > 0 or 2 <= place < 4:
                assert found.value <= budgets.select_bound(gain, witness)
    choice = MultipleChoice([[0.0, 1.0, 2.0], [0.0, 2.0, 3.0]], 3.0)
    gain = torch.tensor([0.0, 4.0, 5.0, 0.0, 3.0, 6.0], dtype=torch.float64)
    for level in (-math.inf, 0.0, math.inf):
        assert choice.select_bound(gain, torch.tensor([[number, level]], dtype=torch.float64)) >= 7.0


@pytest.mark.parametrize("altered", [{"tolerance": None}, {"status": 1}, {"fingerprint": 2.0}, {"mask": True}])
def test_solutions_of_other_types_are_refused(altered: dict[str, Any]) -> None:
    problem = small_problem()
    solution = solved(problem, Tangent.at(problem, problem.loss.start()))
    with pytest.raises(CertificateError, match="inconsistent"):
        replace(solution, **altered)


def test_a_box_is_not_rounded_to_the_type_of_the_point() -> None:
    problem = replace(small_problem(), structure=Sparse(Cardinality(1), box=0.1))
    inside = torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64)
    solution = Solution.of(problem, inside, stop=Stop.NODES)
    check(problem, solution)
    with pytest.raises(CertificateError, match="violat"):
        check(problem, replace(solution, point=inside.float()))  # 0.1 in float32 is larger
