"""Descent over trees and exchanges of rules: exact blocks and moves, monotone descent, paths, interrupts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from torch import Tensor

import mipprune as mp
from mipprune.formulations import rule_selection
from mipprune.kernels.rule_search import SupportState
from mipprune.rules import RuleMatrix, extract_rules
from mipprune.solvers import RuleSwaps, TreeDescent
from mipprune.solvers.rules.tree_state import Descent


def forest_rules(trees: int, depth: int, n: int = 200, seed: int = 0) -> tuple[RuleMatrix, Tensor]:
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:n], y[:n]
    forest = RandomForestRegressor(trees, max_depth=depth, max_features=1 / 3, random_state=seed).fit(X, y)
    return extract_rules(forest, X), torch.from_numpy((y - y.mean()) / y.std())


def nested_columns(depth: int, n: int, rng: np.random.Generator, whole: bool = False) -> tuple[Tensor, Tensor]:
    """A complete tree over n samples with random, possibly empty, splits; whole numbers give ties."""
    parents = [-1] + [(v - 1) // 2 for v in range(1, 2 ** (depth + 1) - 1)]
    holds = np.zeros((n, len(parents)), dtype=bool)
    holds[:, 0] = True
    for v in range(1, len(parents), 2):
        side = rng.random(n) < rng.choice([0.2, 0.5, 1.0])
        holds[:, v], holds[:, v + 1] = holds[:, parents[v]] & side, holds[:, parents[v]] & ~side
    values = (
        rng.integers(1, 3, size=len(parents)) if whole else rng.choice([-1, 1], len(parents)) * rng.random(len(parents))
    )
    return torch.from_numpy(holds * values.astype(float)), torch.tensor(parents)


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 3]), st.sampled_from([0.0, 0.1, 2.0, 1e3]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_block_is_solved_exactly(seed: int, depth: int, price: float, whole: bool) -> None:
    """One tree, random ridge, price and charges: the descent ends at the best of all antichains (677 at depth 3)."""
    rng = np.random.default_rng(seed)
    M, parents = nested_columns(depth, 12, rng, whole)
    y = torch.from_numpy(rng.integers(-2, 3, size=12).astype(float) if whole else rng.normal(size=12))
    gamma, charge = float(10.0 ** rng.uniform(-2, 2)), rng.integers(1, 4, size=len(parents)).astype(float)
    problem = rule_selection(M, y, gamma=gamma, price=price, charge=charge, parents=parents)
    found = TreeDescent().solve(problem)
    gram = M.T @ M
    best = 0.5 * float(y @ y)
    family = problem.structure.supports
    for size in range(1, 2**depth + 1 if depth < 3 else 3):
        for chosen in itertools.combinations(range(len(parents)), size):
            index = torch.tensor(chosen)
            if family.violation(torch.zeros(len(parents), dtype=torch.bool).index_fill(0, index, True)):
                continue
            pull = M.T[index] @ y
            solved = torch.linalg.solve(gram[index][:, index] + torch.eye(size).double() / gamma, pull)
            best = min(best, 0.5 * float(y @ y - pull @ solved) + price * float(charge[list(chosen)].sum()))
    if depth < 3:
        assert found.value == pytest.approx(best, rel=1e-12, abs=1e-12)
    else:
        assert found.value <= best + 1e-12 * abs(best)
        exact = (
            0.5 * float(y @ y)
            - family.select(
                0.5 * (M.T @ y).square() / (gram.diagonal() + 1 / gamma) - price * torch.from_numpy(charge)
            ).value
        )
        assert found.value == pytest.approx(exact, rel=1e-12, abs=1e-12)


def test_descent_never_rises_and_paths_are_warm() -> None:
    rules, y = forest_rules(30, 3)
    problem = rule_selection(rules, y, gamma=0.02, price=0.4)
    point = torch.zeros(len(rules), dtype=torch.float64)
    before = problem.value(point)
    for _ in range(8):
        point = TreeDescent(sweeps=1).solve(problem, start=point).point
        assert problem.value(point) <= before * (1 + 1e-12)
        before = problem.value(point)
    unpriced = rule_selection(rules, y, gamma=0.02, charge="depth")
    prices = np.geomspace(20, 0.05, 12)
    path = TreeDescent().path(rule_selection(rules, y, gamma=0.02), prices)
    assert [p.price for p in path] == pytest.approx(prices.tolist())
    assert all(p.problem.violation(p.point) == 0 and p.value == p.problem.value(p.point) for p in path)
    for p in path[::3]:
        cold = TreeDescent().solve(p.problem)
        assert p.value <= cold.value * 1.05  # a local method either way: the warm start is no handicap
        bound = mp.certify(p.problem, p.point, iterations=100, strength=1.0)
        assert bound.bound <= min(p.value, cold.value)
        mp.check(p.problem, bound)
    with pytest.raises(mp.InvalidProblem, match="budget of rules"):
        TreeDescent().path(rule_selection(rules, y, count=3), prices)
    assert TreeDescent.priced(unpriced, 0.5).structure.price_per_entry == 0.5


def test_both_orders_end_where_no_block_improves() -> None:
    rules, y = forest_rules(25, 3)
    for price in (3.0, 0.5, 0.1):
        problem = rule_selection(rules, y, gamma=0.02, price=price)
        cyclic, greedy = (
            TreeDescent(tolerance=1e-9).solve(problem),
            TreeDescent(order="greedy", tolerance=1e-9).solve(problem),
        )
        for found in (cyclic, greedy):
            for order in ("cyclic", "greedy"):
                again = TreeDescent(order=order, tolerance=1e-9).solve(problem, start=found.point)
                assert again.value == pytest.approx(found.value, rel=1e-6)
        assert greedy.value == pytest.approx(cyclic.value, rel=0.05)
    M, parents = nested_columns(3, 20, np.random.default_rng(0))
    y = torch.from_numpy(np.random.default_rng(1).normal(size=20))
    problem = rule_selection(M, y, gamma=1.0, price=0.1, parents=parents)
    assert TreeDescent(order="greedy").solve(problem).value == pytest.approx(
        TreeDescent().solve(problem).value, rel=1e-12
    )
    with pytest.raises(mp.InvalidProblem, match="order"):
        TreeDescent(order="random")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_greedy_order_on_a_device() -> None:
    rules, y = forest_rules(25, 3)
    problem = rule_selection(rules, y, gamma=0.02, price=0.5)
    here, there = (TreeDescent(order="greedy").solve(task) for task in (problem, problem.to(device="cuda")))
    assert there.value == pytest.approx(here.value, rel=1e-6)


def test_trees_that_share_no_samples_decouple() -> None:
    rng = np.random.default_rng(0)
    (first, parents), (second, _) = nested_columns(2, 15, rng), nested_columns(2, 15, rng)
    M = torch.zeros(30, 14, dtype=torch.float64)
    M[:15, :7], M[15:, 7:] = first, second
    both = torch.cat([parents, torch.where(parents < 0, -1, parents + 7)])
    y = torch.from_numpy(rng.normal(size=30))
    whole = rule_selection(M, y, gamma=1.0, price=0.1, parents=both)
    parts = [rule_selection(first, y[:15], gamma=1.0, price=0.1, parents=parents)]
    parts.append(rule_selection(second, y[15:], gamma=1.0, price=0.1, parents=parents))
    found = TreeDescent(sweeps=1).solve(whole)
    assert found.value == pytest.approx(sum(TreeDescent().solve(part).value for part in parts), rel=1e-12)


@pytest.mark.parametrize("price", [0.0, 0.05])
def test_moves_are_worth_what_they_say(price: float) -> None:
    rng = np.random.default_rng(0)
    M = torch.from_numpy((rng.random((40, 9)) < 0.5).astype(float))
    M[:, 8] = M[:, 2]  # a duplicate
    y = torch.from_numpy(rng.normal(size=40))
    problem = rule_selection(M, y, gamma=0.7, price=price)
    ridge, cost = torch.full((9,), 1 / 0.7, dtype=torch.float64), torch.full((9,), price, dtype=torch.float64)

    def value(chosen: list[int]) -> float:
        mask = torch.zeros(9, dtype=torch.bool).index_fill(0, torch.tensor(chosen, dtype=torch.int64), True)
        return problem.loss.value(torch.where(mask, problem.loss.minimise_on(mask), 0.0)) + price * len(chosen)

    yes = torch.ones(9, 4, dtype=torch.bool)
    for chosen in ([], [2], [0, 5, 2], [1, 2, 3, 4]):
        state = SupportState(M, y, ridge, cost, chosen=chosen)
        assert state.value == pytest.approx(value(chosen), rel=1e-12)
        s = len(chosen)
        moves = state.moves(yes[:, 0], yes[:, :s], yes[0, :s])
        for j in range(9):
            if j in chosen:
                assert moves.add[j] == torch.inf
                continue
            assert float(moves.add[j]) == pytest.approx(value([*chosen, j]) - state.value, abs=1e-10)
            for i in range(s):
                other = [*chosen[:i], j, *chosen[i + 1 :]]
                assert float(moves.swap[j, i]) == pytest.approx(value(other) - state.value, abs=1e-10)
        for i in range(s):
            assert float(moves.drop[i]) == pytest.approx(value(chosen[:i] + chosen[i + 1 :]) - state.value, abs=1e-10)


@given(st.integers(0, 1000), st.sampled_from([0.01, 0.3, 5.0]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_ends_are_members_above_every_bound(seed: int, gamma: float, antichain: bool) -> None:
    rng = np.random.default_rng(seed)
    M, parents = nested_columns(2, 10, rng)
    other, _ = nested_columns(1, 10, rng)
    M = torch.cat([M, other], dim=1)
    parents = torch.cat([parents, torch.tensor([-1, 7, 7])])
    y = torch.from_numpy(rng.normal(size=10))
    price = float(rng.choice([0.0, 0.2]))
    problem = rule_selection(
        M, y, gamma=gamma, count=int(rng.integers(1, 4)), price=price, parents=parents, antichain=antichain
    )
    optimum, _ = mp.testing.enumerate_optimum(problem)
    solvers = [RuleSwaps(restarts=3), TreeDescent()] if antichain else [RuleSwaps(restarts=3)]
    for solver in solvers:
        found = solver.solve(problem)
        assert found.violation == 0 and found.value >= optimum * (1 - 1e-12)
        bound = mp.certify(problem, found, iterations=30, strength=1.0)
        assert bound.bound <= optimum + 1e-12 * abs(optimum)
        assert mp.check(problem, bound).bound == bound.bound


def test_fixings_hold() -> None:
    rules, y = forest_rules(10, 2)
    for problem in (rule_selection(rules, y, gamma=0.1, count=4), rule_selection(rules, y, gamma=0.1, price=0.5)):
        free = RuleSwaps().solve(problem).mask
        off = torch.zeros(len(rules), dtype=torch.bool)
        off[free.nonzero()[0]] = True
        on = torch.zeros(len(rules), dtype=torch.bool)
        on[int((~free).nonzero()[3])] = True
        part = problem.restrict(on, off)
        for solver in (RuleSwaps(restarts=2), TreeDescent()):
            found = solver.solve(part)
            assert bool(found.mask[on].all()) and not bool(found.mask[off].any())


def test_an_empty_family_is_infeasible() -> None:
    M, y = torch.eye(4, dtype=torch.float64), torch.tensor([0.0, 1.0, 1.0, 0.0])
    on = torch.tensor([True, True, False, False])
    for loss, solvers in (("squared", [RuleSwaps(), TreeDescent()]), ("logistic", [mp.solvers.ReweightedRules()])):
        problem = rule_selection(M, y, count=1, parents=torch.full((4,), -1), loss=loss).restrict(on, ~on)
        for solver in solvers:
            assert solver.solve(problem).status is mp.Status.INFEASIBLE


def test_conformance() -> None:
    rules, y = forest_rules(4, 2, n=60)
    mp.testing.check_solver(RuleSwaps(restarts=2), rule_selection(rules, y, gamma=0.1, count=3))
    mp.testing.check_solver(TreeDescent(), rule_selection(rules, y, gamma=0.1, price=0.3))
    mp.testing.check_solver(TreeDescent(), rule_selection(rules, y, gamma=0.1, count=3))


def test_an_interrupt_keeps_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, y = forest_rules(20, 3)
    problem = rule_selection(rules, y, gamma=0.1, count=6)
    original, calls = SupportState.move_to, []

    def interrupted(self: SupportState, chosen: list[int]) -> None:
        calls.append(len(chosen))
        if len(calls) == 5:
            raise KeyboardInterrupt
        original(self, chosen)

    monkeypatch.setattr(SupportState, "move_to", interrupted)
    found = RuleSwaps(restarts=5).solve(problem)
    assert found.stop is mp.Stop.USER and 0 < int(found.mask.sum()) <= 6


def test_an_interrupted_bisection_keeps_the_best_member(monkeypatch: pytest.MonkeyPatch) -> None:
    rules, y = forest_rules(20, 3)
    problem = rule_selection(rules, y, gamma=0.1, count=6)
    original, calls = Descent.run, []

    def interrupted(self: Descent, extra: float, watch: object) -> object:
        calls.append(extra)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, extra, watch)

    monkeypatch.setattr(Descent, "run", interrupted)
    found = TreeDescent().solve(problem)
    assert found.stop is mp.Stop.USER and 0 < int(found.mask.sum()) <= 6
    calls.clear()
    path = TreeDescent().path(rule_selection(rules, y, gamma=0.1), np.geomspace(10, 0.1, 9))
    assert len(path) == 3


def test_solve_chooses_descent_for_antichains() -> None:
    rules, y = forest_rules(20, 3)
    assert mp.choose(rule_selection(rules, y, price=0.5)).name == "TreeDescent"
    solution = mp.solve(rule_selection(rules, y, count=3), budget=mp.Budget(seconds=5))
    assert solution.proof is mp.Proof.CHECKED and solution.solver.startswith("TreeDescent")
    labels = (y > 0).double()
    assert mp.choose(rule_selection(rules, labels, count=3, loss="logistic")).name == "ReweightedRules"


def test_never_worse_than_the_start() -> None:
    rules, y = forest_rules(20, 3)
    problem = rule_selection(rules, y, gamma=0.1, count=6)
    best = RuleSwaps(restarts=10).solve(problem)
    for solver in (TreeDescent(polish=False), TreeDescent(), RuleSwaps()):
        assert solver.solve(problem, start=best.point).value <= best.value * (1 + 1e-12)


def test_columns_that_overlap_are_refused() -> None:
    M = torch.ones(5, 3)
    problem = rule_selection(M, torch.arange(5.0), price=0.1, parents=torch.tensor([-1, 0, 0]))
    with pytest.raises(mp.Unsupported, match="disjoint"):
        TreeDescent().solve(problem)
    with pytest.raises(mp.Unsupported, match="Antichain"):
        TreeDescent().solve(rule_selection(M, torch.arange(5.0), count=2))
    for wrong in ({"sweeps": 0}, {"tolerance": 0.0}):
        with pytest.raises(mp.InvalidProblem):
            TreeDescent(**wrong)
    with pytest.raises(mp.InvalidProblem):
        RuleSwaps(restarts=-1)
