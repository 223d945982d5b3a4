"""Antichain: the recursion and the knapsack against enumeration, bounds, constraints, fixings, odd forests."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mipprune as mp
from mipprune import Antichain
from mipprune.kernels import antichains


def complete_tree(depth: int) -> list[int]:
    """Parents of a complete binary tree, numbered level by level."""
    return [-1] + [(v - 1) // 2 for v in range(1, 2 ** (depth + 1) - 1)]


def all_antichains(parents: list[int]) -> list[frozenset[int]]:
    """Every antichain, from the leaves up: for a node itself alone, or any union of antichains of its children."""

    def of(v: int) -> list[frozenset[int]]:
        parts = [of(c) for c in range(len(parents)) if parents[c] == v]
        unions = [frozenset().union(*combination) for combination in itertools.product(*parts)]
        return unions if v < 0 else [*unions, frozenset([v])]

    return of(-1)


@pytest.mark.parametrize(("depth", "number"), [(0, 2), (1, 5), (2, 26), (3, 677)])
def test_there_are_as_many_antichains_as_the_recurrence_says(depth: int, number: int) -> None:
    found = all_antichains(complete_tree(depth))
    assert len(found) == len(set(found)) == number
    family = Antichain(torch.tensor(complete_tree(depth)))
    if depth <= 2:
        members = mp.testing.enumerate_masks((len(family.parents),))
        inside = {frozenset(m.nonzero().ravel().tolist()) for m in members if family.contains(m)}
        assert inside == set(found)
    else:
        masks = [
            torch.zeros(15, dtype=torch.bool).index_fill(0, torch.tensor(sorted(a), dtype=torch.int64), True)
            for a in found
        ]
        assert all(family.contains(mask) for mask in masks)


@st.composite
def forests(draw: st.DrawFn, largest: int = 15) -> list[int]:
    """Random forests, complete trees among them, numbered in any order."""
    size = draw(st.integers(1, largest))
    if draw(st.booleans()):
        parents = complete_tree(draw(st.integers(0, 3)))
    else:
        parents = [draw(st.integers(-1, v - 1)) for v in range(size)]
    order = draw(st.permutations(range(len(parents))))
    out = [-1] * len(parents)
    for v, u in enumerate(parents):
        out[order[v]] = -1 if u < 0 else order[u]
    return out


GAINS = st.one_of(st.integers(-2, 3).map(float), st.floats(-1e6, 1e6), st.floats(-1e-300, 1e-300))


@given(forests(), st.data())
@settings(max_examples=60, deadline=None)
def test_select_finds_the_best_of_all_antichains(parents: list[int], data: st.DataObject) -> None:
    gain = data.draw(st.lists(GAINS, min_size=len(parents), max_size=len(parents)))
    members = all_antichains(parents)
    for count in (None, 0, 1, 2, 3, len(parents)):
        inside = [a for a in members if count is None or len(a) <= count]
        best = max(math.fsum(gain[v] for v in a) for a in inside)
        family = Antichain(torch.tensor(parents), count)
        found = family.select(torch.tensor(gain, dtype=torch.float64))
        chosen = frozenset(found.mask.nonzero().ravel().tolist())
        assert chosen in inside
        slack = 1e-13 * sum(abs(g) for g in gain)
        assert math.fsum(gain[v] for v in chosen) >= best - slack
        assert best <= found.bound <= best + 2 * slack + 1e-300
        assert family.select_bound(torch.tensor(gain, dtype=torch.float64), found.witness) == found.bound


@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize("parents", [complete_tree(2), [-1] * 4 + [0, 0, 4], [-1, 0, 1, 2, 3], [3, 3, 3, -1, 3, -1]])
def test_conformance(parents: list[int], count: int | None) -> None:
    mp.testing.check_supports(Antichain(torch.tensor(parents), count), shape=(len(parents),), trials=3)


def test_budgets_are_not_concave() -> None:
    """Root 10, four leaves of 4, inner nodes 0: the best values for 1, 2, 3, 4 nodes are 10, 10, 12, 16."""
    gain = torch.tensor([10.0, 0, 0, 4, 4, 4, 4])
    values = [Antichain(torch.tensor(complete_tree(2)), k).select(gain).value for k in range(5)]
    assert values == [0.0, 10.0, 10.0, 12.0, 16.0]


def test_the_paths_describe_the_hull() -> None:
    """Without a budget the relaxation is integral: HiGHS finds the value of the recursion by linear programming."""
    import cvxpy as cp

    rng = np.random.default_rng(0)
    parents = torch.tensor(complete_tree(3))
    for _ in range(5):
        gain = rng.normal(size=15)
        z = cp.Variable(15, nonneg=True)
        problem = cp.Problem(cp.Maximize(gain @ z), [*Antichain(parents).constraints(z), z <= 1])
        problem.solve(solver=cp.HIGHS)
        assert problem.value == pytest.approx(Antichain(parents).select(torch.from_numpy(gain)).value, abs=1e-8)


def test_many_trees_share_a_budget() -> None:
    """500 trees of 15 nodes: at most k nodes, against the sorted gains where no two are comparable."""
    tree = np.array(complete_tree(3))
    parents = np.concatenate([np.where(tree < 0, -1, tree + 15 * t) for t in range(500)])
    rng = np.random.default_rng(0)
    gain = torch.from_numpy(rng.normal(size=7500))
    for count in (1, 10, 200, 7500):
        found = Antichain(torch.from_numpy(parents), count).select(gain)
        assert int(found.mask.sum()) <= count and found.bound >= found.value >= found.bound * (1 - 1e-11)
    free = Antichain(torch.from_numpy(parents)).select(gain)
    assert found.value == pytest.approx(free.value, rel=1e-12)
    leaves = torch.from_numpy(np.isin(np.arange(7500) % 15, np.arange(7, 15)))
    only = torch.where(leaves, gain, -1.0)
    expected = float(only.clamp_min(0).sort(descending=True).values[:50].sum())
    assert Antichain(torch.from_numpy(parents), 50).select(only).value == pytest.approx(expected, rel=1e-12)


def test_fixings_follow_paths_and_budget() -> None:
    family = Antichain(torch.tensor(complete_tree(2)), 2)

    def flags(*entries: int) -> Tensor:
        return torch.zeros(7, dtype=torch.bool).index_fill(0, torch.tensor(entries, dtype=torch.int64), True)

    _, off = family.propagate(flags(1), flags())
    assert off.tolist() == flags(0, 3, 4).tolist()
    assert family.comparable(1).tolist() == flags(0, 3, 4).tolist()
    _, off = family.propagate(flags(1, 2), flags())
    assert off.tolist() == flags(0, 3, 4, 5, 6).tolist()
    gain = torch.tensor([9.0, -1.0, 0.5, 1.0, 1.0, 1.0, 2.0])
    assert family.restrict(flags(1), flags()).select(gain).mask.tolist() == flags(1, 6).tolist()
    empty = family.restrict(flags(0, 1), flags())
    assert empty.select(gain).bound == -math.inf and empty.violation(flags()) > 0


def test_what_is_no_forest_is_refused() -> None:
    for parents, message in (([1, 0], "circle"), ([0], "circle"), ([2, -1], "outside"), ([-2], "outside")):
        with pytest.raises(mp.InvalidProblem, match=message):
            Antichain(torch.tensor(parents))
    with pytest.raises(mp.InvalidProblem, match="whole numbers"):
        Antichain(torch.tensor([-1.0]))
    with pytest.raises(mp.InvalidProblem, match="count"):
        Antichain(torch.tensor([-1]), -1)
    with pytest.raises(mp.InvalidProblem, match="NaN"):
        Antichain(torch.tensor([-1])).select(torch.tensor([math.nan]))
    with pytest.raises(mp.InvalidProblem, match="shape"):
        Antichain(torch.tensor([-1])).select(torch.zeros(2))
    nothing = Antichain(torch.zeros(0, dtype=torch.int64))
    assert nothing.select(torch.zeros(0)).value == 0.0


def test_kernels_are_the_same_uncompiled() -> None:
    rng = np.random.default_rng(3)
    parents = np.array([-1, 0, 0, 1, 1, 2, -1, 6, 6, 8])
    order, (start, child) = antichains.top_down(parents), antichains.children(parents)
    plain = getattr(antichains.best_within, "py_func", antichains.best_within)
    for count in (1, 2, 4):
        gain = rng.normal(size=10)
        mask, total = antichains.best_within(parents, order, start, child, gain, count)
        other, again = plain(parents, order, start, child, gain, count)
        assert np.array_equal(mask, other) and total == again
