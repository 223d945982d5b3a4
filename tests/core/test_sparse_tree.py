"""Trees over single entries: whatever the steps, the bound holds; whatever is altered, the check says so."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mipprune import (
    AnySupport,
    Cardinality,
    CertificateError,
    LeastSquares,
    NofM,
    PerRow,
    Problem,
    Solution,
    Sparse,
    SparseTree,
    Stop,
    Unsupported,
    check,
    load,
    save,
)
from mipprune.core.arrays import exact
from mipprune.core.replay import LIMIT, LOWER, OFF, UPPER
from mipprune.core.sparse_walk import State
from tests.core.trees import random_tree


def optimum(problem: Problem) -> float:
    """The optimum by enumeration of supports, each a least-squares problem inside the box (scipy's active sets)."""
    from scipy.optimize import lsq_linear

    loss, structure = problem.loss, problem.structure
    design, response = exact(loss.design).numpy(), exact(loss.response).numpy()
    size = design.shape[1]
    ridge = exact(loss.ridge).numpy()
    lower, upper = (
        torch.as_tensor(s, dtype=torch.float64).cpu().expand(size).numpy() for s in structure.box or (-np.inf, np.inf)
    )
    best = problem.value(torch.zeros(size))
    for count in range(1, (structure.supports.largest_count(size) or size) + 1):
        for kept in itertools.combinations(range(size), count):
            inside = list(kept)
            matrix = np.vstack([design[:, inside], np.diag(np.sqrt(ridge[inside]))])
            right = np.concatenate([response, np.zeros(count)])
            found = lsq_linear(matrix, right, (lower[inside], upper[inside]), method="bvls", tol=1e-14)
            point = torch.zeros(size, dtype=torch.float64)
            point[inside] = torch.from_numpy(np.clip(found.x, lower[inside], upper[inside]))
            best = min(best, problem.value(point))
    return best


def make(rng: np.random.Generator, *, rows: int, size: int, form: str) -> Problem:
    design = rng.standard_normal((rows, size)) + rng.choice([0.0, 2.0]) * rng.standard_normal((rows, 1))
    if rng.random() < 0.2:
        design[:, -1] = design[:, 0]  # a tie
    response = design[:, :2].sum(axis=1) + 0.5 * rng.standard_normal(rows)
    ridge = torch.from_numpy(rng.uniform(0.2, 2.0, size))
    box = torch.from_numpy(rng.uniform(0.3, 1.5, size))
    price = torch.from_numpy(rng.uniform(0.1, 2.0, size))
    structure = {
        "price": Sparse(AnySupport(), (-box, box), price),
        "no box": Sparse(AnySupport(), None, float(price[0])),
        "cardinality": Sparse(Cardinality(2), (-box, 2 * box)),
        "both": Sparse(Cardinality(3), None, price),
    }[form]
    return Problem(LeastSquares(torch.from_numpy(design), torch.from_numpy(response), ridge), structure)


FORMS = ("price", "no box", "cardinality", "both")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [3, 12])
def test_any_tree_bounds_the_optimum(form: str, rows: int) -> None:
    """Random points, fixings and intervals: each discarded part has its own bound, so the whole is always valid."""
    rng = np.random.default_rng(FORMS.index(form) + rows)
    for _ in range(6):
        problem = make(rng, rows=rows, size=5, form=form)
        best = optimum(problem)
        split = exact(problem.loss.best_split())
        splits = None if rows < 5 else [split.numpy(), 0.5 * split.numpy()]
        for _ in range(5):
            tree = random_tree(problem, rng, splits=splits)
            bound = tree.bound(problem)
            assert bound <= best * (1 + 1e-12)
            rational = tree.rational_bound(problem)
            assert bound <= rational <= best * (1 + 1e-12)
            assert float(rational) - bound <= 1e-9 * problem.loss.scale


@pytest.mark.parametrize("form", FORMS)
def test_every_node_bounds_what_it_claims(form: str) -> None:
    """One leaf after the fixings of a full path: its claim is below the best value of exactly that support."""
    rng = np.random.default_rng(7)
    problem = make(rng, rows=12, size=4, form=form)
    tree = random_tree(problem, rng, depth=4)
    assert tree.leaves == int((tree.index < 0).sum()) and len(tree) == 2 * tree.leaves - 1
    assert tree.nbytes > 8 * len(tree)
    assert float(tree.claim.min()) == tree.bound(problem)


def tampered(tree: SparseTree) -> dict[str, Any]:
    leaf = int(((tree.index < 0) & torch.isfinite(tree.claim)).nonzero()[-1])
    branch = int((tree.index >= 0).nonzero()[-1])
    children = tree.children.clone()
    children[branch] = children[branch].flip(0)
    dropped = tree.children.clone()
    dropped[branch, 1] = dropped[branch, 0]
    closed = tree.index.clone()
    closed[0] = -1
    value = tree.point_value.clone()
    value[int(tree.point_start[int(tree.tangent[leaf])])] *= 1.25
    claim = tree.claim.clone()
    claim[leaf] += 1e-6
    entry = tree.index.clone()
    entry[branch] = int(tree.index[0])
    return {
        "a flipped child": replace(tree, children=children),
        "a dropped leaf": replace(tree, children=dropped),
        "a closed root": replace(tree, index=closed),
        "an altered leaf": replace(tree, point_value=value),
        "a raised claim": replace(tree, claim=claim),
        "an entry branched on twice": replace(tree, index=entry),
        "a missing tangent": replace(tree, tangent=torch.where(torch.arange(len(tree)) == leaf, -1, tree.tangent)),
        "a point that is not finite": replace(tree, point_value=value * torch.inf),
        "a part missing": replace(tree, step_value=tree.step_value[:-1]),
    }


@pytest.mark.parametrize("form", ["price", "cardinality"])
def test_alterations_are_rejected(form: str) -> None:
    rng = np.random.default_rng(3)
    problem = make(rng, rows=12, size=6, form=form)
    tree = random_tree(problem, rng, depth=3)
    while not len(tree.step_value) or tree.point_start[-1] - tree.point_start[-2] < 2:
        tree = random_tree(problem, rng, depth=3)
    point = problem.repair(problem.loss.start())
    solution = Solution.of(problem, point, stop=Stop.NODES, certificate=tree)
    check(problem, solution)
    for name, altered in tampered(tree).items():
        with pytest.raises(CertificateError):
            check(problem, replace(solution, certificate=altered))
            pytest.fail(f"{name} was accepted")
    with pytest.raises(CertificateError, match="bound"):
        check(problem, replace(solution, bound=solution.bound + 1e-5))


def test_a_split_counts_only_where_it_is_proven() -> None:
    rng = np.random.default_rng(5)
    problem = make(rng, rows=12, size=5, form="price")
    split = exact(problem.loss.best_split()).numpy()
    with pytest.raises(CertificateError, match="not valid"):
        random_tree(problem, rng, splits=[split * 40.0])
    tree = next(
        found
        for found in iter(lambda: random_tree(problem, rng, splits=[split]), None)
        if len(found.split_node) > 1 and bool((found.split_of >= 0).any())
    )
    away = replace(tree, split_node=torch.full_like(tree.split_node, int((tree.index < 0).nonzero()[-1])))
    with pytest.raises(CertificateError, match="split"):
        away.bound(problem)


def test_a_point_must_vanish_where_its_split_is_not_proven() -> None:
    rng = np.random.default_rng(11)
    problem = make(rng, rows=12, size=4, form="price")
    split = exact(problem.loss.best_split()).numpy()
    tree = next(
        found
        for found in iter(lambda: random_tree(problem, rng, splits=[split]), None)
        if len(found.split_node) > 1 and int(found.split_node[-1]) > 0 and int(found.split_of[-1]) >= 0
    )
    everywhere = torch.arange(4).repeat(len(tree.split_of))
    starts = 4 * torch.arange(len(tree.split_of) + 1)
    full = replace(tree, point_start=starts, point_entry=everywhere, point_value=torch.ones(len(everywhere)).double())
    with pytest.raises(CertificateError, match="off where its split is proven"):
        full.bound(problem)


def test_one_tangent_serves_a_whole_tree() -> None:
    """Without a split any point is good anywhere, also one with entries that are off."""
    rng = np.random.default_rng(12)
    for _ in range(5):
        problem = make(rng, rows=12, size=5, form="both")
        tree = random_tree(problem, rng)
        one, bound = replace(tree, tangent=torch.zeros_like(tree.tangent)).sealed(problem)
        assert bound <= optimum(problem)
        assert bound <= one.rational_bound(problem) <= optimum(problem) * (1 + 1e-12)


def test_intervals_move_inwards_one_step_after_the_other() -> None:
    """Steps of one node may move the same side several times; none may move it back, and all can be undone."""
    problem = make(np.random.default_rng(3), rows=6, size=4, form="price")
    problem = Problem(problem.loss, Sparse(AnySupport(), (-1.0, 1.0), 0.1))

    def applied(state: State, *steps: tuple[int, int, float]) -> None:
        entries, kinds, values = (np.array(part) for part in zip(*steps, strict=True))
        state.apply(entries, kinds, values, 7)

    state = State(problem)
    applied(state, (0, LOWER, -0.5), (2, UPPER, 0.5), (0, LOWER, -0.2), (0, UPPER, 0.9), (1, OFF, 0.0))
    assert state.lower.tolist() == [-0.2, -1.0, -1.0, -1.0] and state.upper.tolist() == [0.9, 1.0, 0.5, 1.0]
    assert state.fixed.tolist() == [0, -1, 0, 0]
    for steps, message in (
        ([(0, LOWER, 0.1), (0, LOWER, 0.0)], "widens"),
        ([(3, UPPER, 0.1), (2, UPPER, 0.6)], "widens"),
        ([(3, UPPER, 0.1), (1, UPPER, 0.6)], "that is off"),
        ([(3, LOWER, float("nan"))], "does not exist"),
        ([(3, LOWER, 0.0), (4, LOWER, 0.0)], "does not exist"),
        ([(-1, LOWER, 0.0)], "does not exist"),
        ([(0, LIMIT, 0.0)], "does not exist"),
    ):
        with pytest.raises(CertificateError, match=message):
            applied(state, *steps)
    state.undo(0)
    assert state.lower.tolist() == [-1.0] * 4 and state.upper.tolist() == [1.0] * 4 and not state.fixed.any()


def test_other_structures_are_refused() -> None:
    rng = np.random.default_rng(1)
    problem = make(rng, rows=6, size=4, form="price")
    tree = random_tree(problem, rng)
    for supports in (NofM(1, 2), PerRow(2)):
        with pytest.raises(Unsupported):
            tree.bound(Problem(problem.loss, Sparse(supports)))


def test_a_tree_survives_a_file(tmp_path: Any) -> None:
    rng = np.random.default_rng(2)
    problem = make(rng, rows=12, size=6, form="both")
    split = exact(problem.loss.best_split()).numpy()
    tree = random_tree(problem, rng, splits=[split])
    point = problem.repair(problem.loss.start())
    solution = Solution.of(problem, point, stop=Stop.NODES, certificate=tree)
    restored = load(save(tmp_path / "tree.safetensors", {"tree": (problem, solution)}))["tree"]
    assert check(restored.problem, restored.solution, exact=True).bound >= solution.bound
    assert check(restored.problem, restored.solution).bound == solution.bound
