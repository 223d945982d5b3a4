"""Rule selection: value and gradient in the selection, bounds at any dual vector, agreement of all roads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from torch import Tensor

import mipprune as mp
from mipprune.formulations import rule_selection
from mipprune.rules import RuleMatrix, extract_rules


def small_rules(
    n: int = 30, trees: int = 2, depth: int = 2, seed: int = 0, constant: str = "drop"
) -> tuple[RuleMatrix, Tensor]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = X[:, 0] * (X[:, 1] > 0) + 0.3 * rng.normal(size=n)
    forest = RandomForestRegressor(trees, max_depth=depth, random_state=seed).fit(X, y)
    return extract_rules(forest, X, constant=constant), torch.from_numpy((y - y.mean()) / y.std())


def value_of(M: Tensor, y: Tensor, gamma: float, z: Tensor) -> tuple[float, Tensor]:
    """c(z) = 1/2 y'(I + gamma M diag(z) M')^-1 y and its gradient, by the n x n system."""
    alpha = torch.linalg.solve(torch.eye(len(y), dtype=torch.float64) + gamma * (M * z) @ M.T, y)
    return 0.5 * float(y @ alpha), -0.5 * gamma * (M.T @ alpha).square()


def test_value_and_gradient_in_the_selection() -> None:
    """The refit's value is c(z); cvxpy's matrix_frac agrees; finite differences give the gradient."""
    import cvxpy as cp

    rules, y = small_rules()
    M, gamma = rules.dense(), 0.3
    problem = rule_selection(rules, y, gamma=gamma, antichain=False)
    rng = np.random.default_rng(1)
    for _ in range(20):
        z = torch.from_numpy((rng.random(len(rules)) < 0.4).astype(float))
        point = torch.where(z > 0, problem.loss.minimise_on(z > 0), 0.0)
        assert problem.value(point) == pytest.approx(value_of(M, y, gamma, z)[0], rel=1e-12)
        fractional = torch.from_numpy(rng.random(len(rules)))
        value, gradient = value_of(M, y, gamma, fractional)
        matrix = np.eye(len(y)) + gamma * (M * fractional).numpy() @ M.numpy().T
        assert value == pytest.approx(float(cp.matrix_frac(y.numpy(), matrix).value) / 2, rel=1e-9)
        for j in range(len(rules)):
            step = torch.zeros(len(rules), dtype=torch.float64)
            step[j] = 1e-5
            slope = (value_of(M, y, gamma, fractional + step)[0] - value_of(M, y, gamma, fractional - step)[0]) / 2e-5
            assert slope == pytest.approx(float(gradient[j]), rel=1e-5, abs=1e-8)


def test_tangents_are_cuts_and_bounds_of_every_selection() -> None:
    """At 1000 random points: c(z) >= c(z0) + c'(z0)(z - z0), and D at any dual vector is below every member's value."""
    rules, y = small_rules(trees=2)
    M, gamma, p = rules.dense(), 0.5, len(rules)
    rng = np.random.default_rng(2)
    problem = rule_selection(rules, y, gamma=gamma, count=3)
    members = torch.stack([m for m in mp.testing.enumerate_masks((p,)) if problem.structure.supports.contains(m)])
    values = np.array([value_of(M, y, gamma, m.double())[0] for m in members])
    lowest = values.min()
    for k in range(1000):
        at, z = torch.from_numpy(rng.random(p)), torch.from_numpy(rng.random(p))
        value, gradient = value_of(M, y, gamma, at)
        assert value_of(M, y, gamma, z)[0] >= value + float(gradient @ (z - at)) - 1e-10 * value
        if k % 5 == 0:
            v = torch.from_numpy(rng.normal(size=p) * 10.0 ** rng.integers(-3, 2))
            alpha = y - M @ v
            dual = (
                y @ alpha - 0.5 * alpha @ alpha - max((0.5 * gamma * (M.T @ alpha).square())[m].sum() for m in members)
            )
            bound = problem.bound(v)
            assert bound <= lowest
            assert bound == pytest.approx(float(dual), rel=1e-9, abs=1e-9 * problem.loss.scale)


@pytest.mark.parametrize("price", [0.0, 0.4])
def test_the_best_bound_is_the_relaxation(price: float) -> None:
    """max over dual vectors = min over fractional antichains of c(z) + price, which cvxpy solves."""
    import cvxpy as cp

    rules, y = small_rules(n=25, trees=3, seed=3)
    gamma = 0.5
    problem = rule_selection(rules, y, gamma=gamma, price=price, count=None if price else 3, antichain=price > 0)
    solution = mp.certify(problem, iterations=800, strength=1.0, splits=0)
    z = cp.Variable(len(rules), nonneg=True)
    constraints = [*problem.structure.supports.constraints(z), z <= 1]
    M = rules.dense().numpy()
    root = np.linalg.cholesky(np.eye(25) * 1.0)
    w, q = cp.Variable(len(rules)), cp.Variable(len(rules), nonneg=True)
    cones = [cp.SOC(q[j] + z[j], cp.hstack([2 * w[j], q[j] - z[j]])) for j in range(len(rules))]
    value = 0.5 * cp.sum_squares(root @ (y.numpy() - M @ w)) + cp.sum(q) / (2 * gamma) + price * cp.sum(z)
    model = cp.Problem(cp.Minimize(value), [*constraints, *cones])
    model.solve(solver=cp.CLARABEL)
    assert solution.bound == pytest.approx(model.value, rel=1e-4)
    assert solution.bound <= model.value + 1e-6 * abs(model.value)


@pytest.mark.parametrize("options", [{"count": 2}, {"price": 0.3}, {"price": 0.2, "charge": "depth", "count": 2}])
def test_all_readings_agree(options: dict[str, object]) -> None:
    rules, y = small_rules(n=15, trees=2)
    problem = rule_selection(rules.take(np.arange(8)), y, gamma=0.4, **options)
    mp.testing.check_problem(problem, trials=4)


def test_sample_weights_repeat_samples() -> None:
    rules, y = small_rules()
    weights = torch.tensor([1.0, 2.0, 0.0] * 10)
    index = torch.repeat_interleave(torch.arange(30), weights.long())
    weighted = rule_selection(rules, y, gamma=0.3, count=2, sample_weight=weights)
    repeated = rule_selection(rules.dense()[index], y[index], gamma=0.3, count=2, parents=rules.parent)
    rng = np.random.default_rng(0)
    for _ in range(5):
        w = torch.from_numpy(rng.normal(size=len(rules)))
        assert weighted.value(w) == pytest.approx(repeated.value(w), rel=1e-12)


def test_the_constant_is_one_column_of_its_own_tree() -> None:
    """Kept roots exclude the rest of their trees; merged, the constant goes with every rule."""
    kept, y = small_rules(constant="keep")
    merged, _ = small_rules(constant="merge")
    roots = torch.from_numpy(kept.parent == -1)
    family = rule_selection(kept, y).structure.supports
    tree = torch.from_numpy(kept.tree == 0)
    chosen = torch.zeros(len(kept), dtype=torch.bool)
    chosen[(roots & tree).nonzero()[0]] = True
    _, off = family.propagate(chosen, torch.zeros_like(chosen))
    assert torch.equal(off, tree & ~chosen)
    constant = torch.zeros(len(merged), dtype=torch.bool)
    constant[-1] = True
    _, off = rule_selection(merged, y).structure.supports.propagate(constant, torch.zeros_like(constant))
    assert not bool(off.any())


def test_wrong_data_say_why() -> None:
    rules, y = small_rules()
    for options, message in (
        ({"gamma": 0.0}, "gamma"),
        ({"price": -1.0}, "price"),
        ({"price": 1.0, "charge": "length"}, "charge"),
        ({"price": 1.0, "charge": -np.ones(len(rules))}, "negative"),
        ({"sample_weight": -np.ones(30)}, "sample_weight"),
        ({"count": -1}, "count"),
    ):
        with pytest.raises(mp.InvalidProblem, match=message):
            rule_selection(rules, y, **options)
    with pytest.raises(mp.InvalidProblem, match="antichain needs the trees"):
        rule_selection(rules.unique(), y, antichain=True)
    with pytest.raises(mp.InvalidProblem, match="one rule are"):
        rule_selection(rules.take([]), y)
    with pytest.raises(mp.InvalidProblem, match="RuleMatrix"):
        rule_selection(rules.dense(), y, price=1.0, charge="depth")
    assert rule_selection(rules.unique(), y, count=3).structure.supports.describe() == "||w||_0 <= 3"


@pytest.mark.exact
@pytest.mark.parametrize("antichain", [True, False])
def test_exact_solvers_agree_with_enumeration(scip: object, highs: object, antichain: bool) -> None:
    """SCIP on cones, HiGHS on tangents, the tree, cutting planes: one optimum, with and without antichain rows."""
    for seed, gamma in ((1, 0.3),):
        rules, y = small_rules(n=20, trees=2, seed=seed)
        problem = rule_selection(rules, y, gamma=gamma, count=2 + seed, antichain=antichain)
        optimum, _ = mp.testing.enumerate_optimum(problem)
        for solver in (mp.Scip(), mp.Highs(), mp.BranchAndBound(), mp.CuttingPlanes()):
            found = mp.solve(problem, solver, budget=mp.Budget(gap=1e-6, seconds=30))
            assert found.value == pytest.approx(optimum, rel=1e-5), solver.name
            assert found.bound is not None and found.bound <= optimum * (1 + 1e-9)
