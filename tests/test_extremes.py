"""Every formulation with hostile but valid data: an answer that checks, or an error that says what is wrong."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune import formulations
from mipprune.core.arrays import accurate_total
from mipprune.core.rational import round_up
from mipprune.errors import InvalidProblem, MippruneError, SolverFailure
from mipprune.losses import LowRank, Quadratic

Generator = np.random.Generator


def matrix(rng: Generator, rows: int, columns: int) -> Any:
    """Constant, empty, with equal rows or columns, and of any magnitude."""
    kind, made = int(rng.integers(0, 6)), rng.standard_normal((rows, columns))
    if kind == 0:
        made[:] = rng.integers(0, 2)
    elif kind == 1:
        made[:, -1], made[-1] = made[:, 0], made[0]
    elif kind == 2:
        made *= 10.0 ** rng.choice([rng.uniform(-320, -300), rng.uniform(-165, -150), rng.uniform(60, 150)])
    return made


def vector(rng: Generator, size: int) -> Any:
    return matrix(rng, size, 1)[:, 0]


def some(rng: Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def small(rng: Generator) -> int:
    return int(rng.integers(1, 6))


def regression(rng: Generator) -> mp.Problem:
    n, p = small(rng), small(rng)
    limit = {"l0": some(rng, 0.0, 0.1, 1e300)} if rng.random() < 0.5 else {"k": some(rng, 0, p)}
    box = some(rng, None, 1.0, 1e-300)
    return formulations.sparse_regression(
        matrix(rng, n, p), vector(rng, n), l2=some(rng, 0.0, 0.1, 1e-300), box=box, **limit
    )


def layer(rng: Generator) -> mp.Problem:
    rows, columns = small(rng), 2 * small(rng)
    inputs = matrix(rng, 9, columns)
    family = some(rng, mp.NofM(1, 2), mp.Cardinality(0), mp.PerRow(1), mp.Groups(2, 1))
    damping = some(rng, 0.0, 0.01, 1e300)
    return formulations.layerwise(matrix(rng, rows, columns), inputs.T @ inputs, family, damping=damping)


def network(rng: Generator) -> mp.Problem:
    samples, size = small(rng), small(rng)
    ridge = some(rng, 1e-300, 1e-3, 1e300)
    gradients = torch.from_numpy(matrix(rng, samples, size))
    return formulations.network_pruning(
        torch.from_numpy(vector(rng, size)), gradients, nnz=some(rng, 0, 1, 0.5), ridge=ridge
    )


def rules(rng: Generator) -> mp.Problem:
    n, p, loss = small(rng), small(rng), some(rng, "squared", "logistic")
    labels = (rng.random(n) < 0.5).astype(float)
    response = vector(rng, n) if loss == "squared" else labels
    gamma = some(rng, 0.01, 1e-300, 1e6)
    return formulations.rule_selection(matrix(rng, n, p), response, gamma=gamma, count=some(rng, 0, 1, p), loss=loss)


def tasks(rng: Generator) -> mp.Problem:
    p = small(rng)
    designs = [matrix(rng, small(rng), p) for _ in range(2)]
    options = {"support_sharing": some(rng, 0.0, 0.1, math.inf), "value_sharing": some(rng, 0.0, 1e6, 1e300)}
    responses = [vector(rng, len(design)) for design in designs]
    return formulations.multitask_regression(
        designs, responses, some(rng, 0, 1, p), ridge=some(rng, 0.01, 1e-300), **options
    )


def budgets(rng: Generator) -> mp.Problem:
    scores = [np.abs(matrix(rng, 2, small(rng))) for _ in range(small(rng))]
    costs = [float(some(rng, 0.0, 1.0, 1e300, 1e-300)) for _ in scores]
    return formulations.flop_selection(scores, costs, nnz=0.5, flops=some(rng, 0.0, 0.5))


def graph(rng: Generator) -> mp.Problem:
    return formulations.graphical_model(matrix(rng, some(rng, 2, 3, 8), 3), l0=some(rng, 0.0, 0.1, 1e300), l2=0.1)


@pytest.mark.parametrize("build", [regression, layer, network, rules, tasks, budgets, graph])
def test_hostile_data_have_an_answer_or_a_clear_error(build: Callable[[Generator], mp.Problem]) -> None:
    """Whatever is wrong is said when the problem is built; a problem has an answer that checks."""
    rng, solved = np.random.default_rng(1), 0
    for _ in range(40):
        try:
            problem = build(rng)
        except InvalidProblem:
            continue
        solution = mp.solve(problem, budget=mp.Budget(seconds=0.2, nodes=10, iterations=5))
        checked, solved = mp.check(problem, solution), solved + 1
        assert checked.bound is None or checked.value >= checked.bound - solution.rounding - 1e-12 * abs(checked.value)
    assert solved > 10


@pytest.mark.parametrize(
    "start", [torch.zeros(3), torch.full((2, 4), math.nan), "far", [[1.0]], np.full((2, 4), np.inf)]
)
def test_a_start_that_is_no_point_is_refused(start: Any) -> None:
    problem = formulations.layerwise(torch.ones(2, 4), torch.eye(4), mp.NofM(1, 2))
    with pytest.raises(InvalidProblem, match="start"):
        mp.solve(problem, start=start)
    assert mp.solve(problem, start=np.ones((2, 4), dtype=np.int64)).status is mp.Status.OPTIMAL  # type: ignore[arg-type]


def test_a_start_far_out_is_no_hindrance() -> None:
    """Its value overflows, and nothing would be better than that."""
    rng = np.random.default_rng(0)
    problem = formulations.rule_selection(rng.standard_normal((6, 3)), rng.integers(0, 2, 6), loss="logistic", count=2)
    far = torch.full((3,), 1e300, dtype=torch.float64)
    assert mp.solve(problem, mp.BranchAndBound(), start=far).status is mp.Status.OPTIMAL
    squared = formulations.rule_selection(
        rng.standard_normal((6, 3)), rng.standard_normal(6), count=3, parents=np.full(3, -1)
    )
    assert mp.solve(squared, mp.solvers.TreeDescent(), start=far).value < math.inf


def test_a_point_without_a_finite_value_is_no_answer() -> None:
    problem = formulations.layerwise(torch.ones(1, 2).double(), torch.eye(2).double(), mp.NofM(1, 2))
    solution = mp.Solution.of(problem, torch.tensor([[1e200, 0.0]], dtype=torch.float64), stop=mp.Stop.TIME)
    assert solution.status is mp.Status.NO_POINT and solution.point is None and solution.value == math.inf


def test_a_step_whose_square_underflows_has_its_value() -> None:
    """A ridge of 1e300 times (1e-160)^2: the bound was above the value, which lacked it."""
    loss = LowRank(torch.ones(6, 1, dtype=torch.float64), torch.tensor([4.892e-161], dtype=torch.float64), 6e300)
    assert loss.value(torch.zeros(1)) == pytest.approx(3e300 * 4.892e-161 * 4.892e-161, rel=1e-12)
    solution = mp.solve(mp.Problem(loss, mp.Sparse(mp.Cardinality(0))))
    assert solution.bound is not None and solution.bound <= solution.value


def test_damping_is_not_rounded_to_float32() -> None:
    loss = formulations.layerwise(torch.ones(1, 2), 3.0 * torch.eye(2).double(), mp.NofM(1, 2), damping=0.1).loss
    assert isinstance(loss, Quadratic) and loss.gram[0, 0].item() == 3.0 + loss.ridge == 3.0 + 0.1 * 3.0


def full(number: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, number, dtype=torch.float64)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Quadratic(1e200 * torch.eye(2, dtype=torch.float64), full(1e100, 1, 2)),
        lambda: LowRank(full(1e160, 1, 2), full(1.0, 2), 1.0),
        lambda: LowRank(full(1.0, 1, 2), full(1e100, 2), 1e200),
        lambda: mp.losses.Logistic(full(1e160, 2, 2), torch.ones(2)),
    ],
)
def test_data_whose_values_overflow_are_refused(build: Callable[[], Any]) -> None:
    with pytest.raises(InvalidProblem, match="larger units"):
        build()


def test_an_empty_set_needs_no_exact_arithmetic() -> None:
    problem = formulations.allocation([[1.0, 0.0]], [[3.0, 5.0]], 1.0)
    solution = mp.solve(problem, mp.BranchAndBound())
    assert solution.status is mp.Status.INFEASIBLE and mp.check(problem, solution, exact=True).bound == math.inf


def test_what_scip_refuses_is_a_failure_of_scip() -> None:
    problem = formulations.sparse_regression(np.eye(3), [1.0, 2.0, 3.0], l0=1e300, l2=0.1, box=1.0)
    try:
        mp.check(problem, mp.solve(problem, mp.Scip(), budget=mp.Budget(seconds=2)))
    except MippruneError as error:
        assert isinstance(error, SolverFailure) and "SCIP" in str(error)


@pytest.mark.parametrize("number", [1e251, 1e-251])
def test_variances_whose_squares_overflow_are_refused(number: float) -> None:
    with pytest.raises(InvalidProblem, match="variance"):
        formulations.graphical_model(number * torch.eye(3).double(), l0=0.1, l2=0.1, covariance=True, standardize=False)


def test_sums_beyond_float64_are_infinite() -> None:
    assert accurate_total(torch.full((3, 1), 1e308, dtype=torch.float64)) == math.inf
    assert round_up(Fraction(10) ** 400) == math.inf and round_up(-(Fraction(10) ** 400)) == -sys.float_info.max
