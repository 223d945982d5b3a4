"""SCIP and HiGHS against enumeration, and what they return when they are cut short."""

from __future__ import annotations

import itertools
import math
import os
import signal

import pytest
import torch
from scipy.optimize import lsq_linear

from mipprune import (
    BranchAndBound,
    Budget,
    Cardinality,
    Groups,
    Highs,
    InvalidProblem,
    LeastSquares,
    Linear,
    Logistic,
    Masks,
    NofM,
    PerRow,
    Problem,
    Proof,
    Quadratic,
    Scip,
    Sparse,
    Status,
    Stop,
    Unsupported,
    check,
)
from mipprune.formulations import graphical_model, layerwise
from mipprune.solvers.exact.model import CONE_TOLERANCE
from tests.layers import make_layer

pytestmark = pytest.mark.exact

SOLVERS = [Scip(), Highs()]
BOTH = pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
LOOSE, TIGHT = Budget(), Budget(gap=1e-7)


def data(rows, width, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(5 * width, width, generator=generator, dtype=torch.float64)
    inputs = inputs @ (torch.eye(width) + 0.4 * torch.randn(width, width, generator=generator)).double()
    return torch.randn(rows, width, generator=generator, dtype=torch.float64), inputs.T @ inputs


def regression(samples, width, seed):
    generator = torch.Generator().manual_seed(seed)
    design = torch.randn(samples, width, generator=generator, dtype=torch.float64)
    truth = torch.where(torch.arange(width) % 3 == 0, 2.0, 0.0).double()
    return design, design @ truth + torch.randn(samples, generator=generator, dtype=torch.float64)


def best_in_box(problem, mask, steps=20_000):
    """Projected gradient on one mask, run to convergence: no code in common with the solvers."""
    lower, upper = problem.structure.box
    point = torch.zeros(problem.shape, dtype=torch.float64)
    step = 1.0 / float(2.0 * torch.linalg.eigvalsh(problem.loss.gram).max())
    for _ in range(steps):
        moved = torch.where(mask, (point - step * problem.loss.gradient(point)).clamp(lower, upper), 0.0)
        if torch.equal(moved, point):
            break
        point = moved
    return problem.value(point)


def enumerated(problem):
    """The optimum by trying every mask."""
    structure, best = problem.structure, math.inf
    for bits in itertools.product([False, True], repeat=problem.size):
        mask = torch.tensor(bits).reshape(problem.shape)
        if not structure.supports.contains(mask):
            continue
        if isinstance(structure, Masks):
            value = problem.value(mask.double())
        elif structure.box is not None:
            value = best_in_box(problem, mask)
        else:
            value = problem.value(torch.where(mask, problem.loss.minimise_on(mask), 0.0))
        best = min(best, value)
    return best


def instances():
    weight, gram = data(2, 6, 1)
    narrow, small = data(1, 7, 2)
    couple, five = data(2, 5, 6)
    out = {
        "cardinality": layerwise(couple, five, Cardinality(4)),
        "per row": layerwise(weight, gram, PerRow(2)),
        "n of m": layerwise(weight, gram, NofM(1, 3)),
        "groups": layerwise(weight, gram, Groups(2, 2)),
        "labelled groups": layerwise(weight, gram, Groups(torch.tensor([0, 0, 1, 1, 1, 2]), 1)),
        "one row": layerwise(narrow, small, Cardinality(3)),
        "price": Problem(Quadratic(five, couple), Sparse(Cardinality(10), price=6.0)),
        "price of each": Problem(Quadratic(small, narrow), Sparse(Cardinality(5), price=torch.linspace(1, 9, 7)[None])),
        "box": Problem(Quadratic(small, narrow, offset=3.0), Sparse(Cardinality(4), box=0.6)),
        "gram of each row": Problem(Quadratic(torch.stack([five, five.flip(0, 1)]), couple), Sparse(Cardinality(5))),
        "ridge": Problem(LeastSquares(*regression(30, 9, 3), ridge=0.5), Sparse(Cardinality(3))),
        "ridge, more columns than rows": Problem(
            LeastSquares(*regression(5, 9, 4), ridge=1.0), Sparse(Cardinality(9), price=0.7)
        ),
        "masks n of m": Problem(Linear(-weight[:, :4].abs(), constant=2.5), Masks(NofM(2, 4))),
        "masks cardinality": Problem(Linear(weight, constant=-1.0), Masks(Cardinality(3))),
        "masks of a quadratic": Problem(Quadratic(gram, weight), Masks(PerRow(2))),
    }
    on, off = torch.zeros(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    on[0, 1], off[1, 2], off[0, 4] = True, True, True
    out["restricted"] = out["cardinality"].restrict(on, off)
    return out


INSTANCES = instances()


@pytest.fixture(scope="module")
def optima():
    return {name: enumerated(problem) for name, problem in INSTANCES.items()}


@BOTH
@pytest.mark.parametrize("name", INSTANCES)
def test_optimum_is_the_enumerated_one(solver, name, optima):
    problem, optimum = INSTANCES[name], optima[name]
    # HiGHS works on accurate cuts; SCIP's own tolerance on cones is what limits its claims.
    budget = TIGHT if isinstance(solver, Highs) else LOOSE
    solution = solver.solve(problem, budget=budget)
    assert solution.status is Status.OPTIMAL and solution.stop is Stop.GAP
    assert solution.value == pytest.approx(optimum, rel=1e-6, abs=1e-9)
    assert solution.bound <= solution.value
    assert solution.bound >= optimum - 2 * max(budget.gap, 0.0) * abs(optimum) - 1e-9
    assert check(problem, solution).violation == 0
    if solution.claim is not None:
        assert solution.claim.bound <= optimum + solution.claim.tolerance * abs(optimum)
        assert solution.claim.solver == {"Scip": "SCIP", "Highs": "HiGHS"}[solver.name]


@BOTH
@pytest.mark.parametrize("name", ["cardinality", "ridge"])
def test_links_alone_are_a_model_too(solver, name, optima):
    solution = type(solver)(strength="big-m").solve(INSTANCES[name])
    assert solution.status is Status.OPTIMAL
    assert solution.value == pytest.approx(optima[name], rel=1e-6)


def test_claims_are_within_the_stated_tolerance():
    """Gap 0: what SCIP then calls its bound differs from the optimum by its tolerance alone."""
    for seed in range(3):
        weight, gram = make_layer(16, 1, 256, seed)
        problem = layerwise(weight, gram, Cardinality(6))
        solution = Scip().solve(problem, budget=Budget(gap=0.0))
        reference = Highs().solve(problem, budget=TIGHT)
        assert solution.value == pytest.approx(reference.value, rel=1e-9)
        if solution.claim is not None:
            assert abs(solution.claim.bound - reference.value) <= CONE_TOLERANCE * reference.value


@BOTH
def test_constant_and_scale_are_restored(solver):
    weight, gram = data(1, 6, 5)
    plain = Problem(Quadratic(gram, weight), Sparse(Cardinality(3)))
    shifted = Problem(Quadratic(1e4 * gram, weight, offset=-1e3), Sparse(Cardinality(3)))
    first, second = solver.solve(plain), solver.solve(shifted)
    assert second.value == pytest.approx(1e4 * first.value - 1e3)
    assert second.bound == pytest.approx(second.value, rel=2e-4)
    linear = Problem(Linear(torch.tensor([[1.0, -2.0, -3.0]]), constant=1e3), Masks(Cardinality(1)))
    assert solver.solve(linear).bound == pytest.approx(997.0)


@pytest.fixture(scope="module")
def harder():
    weight, gram = make_layer(24, 1, 384, 1)
    return layerwise(weight, gram, Cardinality(9))


@BOTH
def test_a_time_limit_that_passes_at_once_returns_point_and_bound(solver, harder):
    solution = solver.solve(harder, budget=Budget(seconds=1e-3))
    assert solution.stop is Stop.TIME and solution.status is Status.FEASIBLE
    assert solution.proof is Proof.CHECKED and 0 < solution.bound < solution.value
    assert check(harder, solution).violation == 0


@BOTH
def test_node_limit(solver, harder):
    solution = solver.solve(harder, budget=Budget(nodes=1, gap=0.0))
    assert solution.stop is Stop.NODES or solution.status is Status.OPTIMAL
    assert solution.stats.nodes <= 2
    assert solution.point is not None and solution.bound <= solution.value


def test_rounds_of_outer_approximation_are_limited(harder):
    solution = Highs().solve(harder, budget=Budget(iterations=1, gap=0.0))
    assert solution.stats.iterations == 1
    assert solution.stop in (Stop.ITERATIONS, Stop.GAP)


@BOTH
def test_trace_improves_and_ends_at_the_answer(solver, harder):
    seen = []
    solution = solver.solve(harder, progress=lambda *state: seen.append(state) and False)
    assert solution.status is Status.OPTIMAL and len(seen) >= len(solution.stats.trace) > 2
    seconds, values, bounds = zip(*solution.stats.trace, strict=True)
    assert list(seconds) == sorted(seconds)
    values = [value for value in values if value is not None]
    bounds = [bound for bound in bounds if bound is not None]
    assert values == sorted(values, reverse=True) and bounds == sorted(bounds)
    assert values[-1] == solution.value


@BOTH
@pytest.mark.parametrize("calls", [1, 12])
def test_the_user_can_stop_a_run(solver, harder, calls):
    count = itertools.count(1)
    solution = solver.solve(harder, budget=Budget(gap=0.0), progress=lambda *_: next(count) >= calls)
    assert solution.stop is Stop.USER and solution.point is not None
    assert solution.bound is None or solution.bound <= solution.value


@BOTH
@pytest.mark.parametrize("calls", [1, 12])
def test_an_interrupt_returns_the_best_so_far(solver, harder, calls):
    count = itertools.count(1)

    def press(*_):
        if next(count) == calls:
            os.kill(os.getpid(), signal.SIGINT)

    solution = solver.solve(harder, budget=Budget(gap=0.0), progress=press)
    assert solution.stop is Stop.USER and solution.point is not None


@BOTH
@pytest.mark.parametrize("calls", [1, 12])
def test_an_error_in_the_progress_callable_is_not_swallowed(solver, harder, calls):
    count = itertools.count(1)

    def fail(*_):
        if next(count) == calls:
            raise ZeroDivisionError("from the user's code")

    with pytest.raises(ZeroDivisionError, match="user's code"):
        solver.solve(harder, budget=Budget(gap=0.0), progress=fail)


@BOTH
def test_a_start_is_used(solver, harder, caplog):
    best = Highs().solve(harder).point
    with caplog.at_level("INFO", logger="mipprune"):
        solution = solver.solve(harder, budget=Budget(nodes=1), start=best)
    assert solution.stats.trace[0][1] == pytest.approx(harder.value(best))
    assert not [record for record in caplog.records if "start" in record.message], "the back end took it"


@BOTH
def test_a_start_outside_the_set_is_repaired(solver):
    problem = INSTANCES["per row"]
    solution = solver.solve(problem, start=torch.ones(problem.shape))
    assert solution.status is Status.OPTIMAL


@BOTH
@pytest.mark.parametrize("adapter", [Sparse, Masks])
def test_an_empty_set_is_infeasible(solver, adapter):
    weight, gram = data(2, 6, 1)
    on = torch.zeros(2, 6, dtype=torch.bool)
    on[0, 0] = True
    problem = Problem(Quadratic(gram, weight), adapter(Cardinality(0))).restrict(on, torch.zeros_like(on))
    solution = solver.solve(problem)
    assert solution.status is Status.INFEASIBLE and solution.point is None and solution.bound is None


@BOTH
def test_nothing_to_prune(solver):
    weight, gram = data(2, 6, 1)
    solution = solver.solve(layerwise(weight, gram, Cardinality(12)))
    assert solution.value == pytest.approx(0.0, abs=1e-12) and solution.bound <= solution.value
    dead = gram.clone()
    dead[2], dead[:, 2] = 0.0, 0.0
    problem = layerwise(weight, dead, Groups(2, 2))
    assert solver.solve(problem).value == pytest.approx(enumerated(problem), rel=1e-6)


@BOTH
def test_solving_twice_gives_the_same_answer(solver, harder):
    first, second = (solver.solve(harder) for _ in range(2))
    assert torch.equal(first.point, second.point)
    assert first.bound == second.bound and first.stats.nodes == second.stats.nodes


@BOTH
def test_reasons_for_rejection(solver):
    weight, gram = data(1, 6, 1)
    wide = Problem(Linear(torch.zeros(1, 20_001)), Masks(Cardinality(1)))
    assert "20001" in solver.rejects(wide) and "ADMM" in solver.rejects(wide)
    loose = Problem(LeastSquares(*regression(5, 9, 4)), Sparse(Cardinality(3)))
    assert "box" in solver.rejects(loose)
    with pytest.raises(Unsupported, match="box"):
        solver.solve(loose)
    assert "big-m" in type(solver)(strength="cones").rejects(layerwise(weight, gram, PerRow(2)))
    assert solver.rejects(layerwise(weight, gram, PerRow(2))) is None


def test_what_a_back_end_cannot_express_is_rejected_at_any_size() -> None:
    """Above some size the expression is not built for the question; the loss then says which atoms it has."""
    small, large = (graphical_model(torch.eye(p).double(), l0=0.1, l2=0.1, covariance=True) for p in (6, 95))
    assert large.size > 4096
    for problem in (small, large):
        assert "log, and HiGHS takes quadratics only" in (Highs().rejects(problem) or "")
    x, y = regression(8, 4100, 4)
    wide = Problem(Logistic(x, (y > 0).double(), ridge=1.0), Sparse(Cardinality(3)))
    for solver in (Highs(), Scip()):
        assert "logistic" in (solver.rejects(wide) or "")
    assert Highs().rejects(Problem(LeastSquares(x, y, ridge=1.0), Sparse(Cardinality(3)))) is None


@BOTH
def test_parameters_reach_the_back_end(solver):
    problem = INSTANCES["cardinality"]
    good, bad = {"Scip": ({"presolving/maxrounds": 0}, {"limits/fun": 1}), "Highs": ({"presolve": "off"}, {"fun": 1})}[
        solver.name
    ]
    assert type(solver)(parameters=good, seed=3).solve(problem).status is Status.OPTIMAL
    with pytest.raises(InvalidProblem, match="fun"):
        type(solver)(parameters=bad).solve(problem)
    with pytest.raises(InvalidProblem, match="threads"):
        type(solver)(threads=0)


@BOTH
def test_two_threads(solver):
    problem = INSTANCES["one row"]
    solution = type(solver)(threads=2).solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solver.solve(problem).value == pytest.approx(solution.value)  # and back to one thread in the same process


@pytest.mark.parametrize("solver", [*SOLVERS, BranchAndBound()], ids=lambda solver: solver.name)
def test_a_refit_inside_a_box_is_exact_on_badly_scaled_inputs(solver):
    """Nothing need be pruned, so the optimum is that of bounded least squares."""
    generator = torch.Generator().manual_seed(12)
    inputs = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    inputs = inputs * torch.logspace(0, 3, 6, dtype=torch.float64)
    mixing = torch.eye(6, dtype=torch.float64) + torch.randn(6, 6, generator=generator, dtype=torch.float64)
    inputs = inputs @ mixing
    gram = inputs.T @ inputs
    gram = gram + 1e-4 * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    weight = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    box = 0.8 * float(weight.abs().median())
    root = torch.linalg.cholesky(gram).mT.numpy()
    exact = lsq_linear(root, root @ weight[0].numpy(), bounds=(-box, box), method="bvls", tol=1e-15)
    solution = solver.solve(Problem(Quadratic(gram, weight), Sparse(Cardinality(6), box=box)))
    assert solution.status is Status.OPTIMAL
    assert solution.value == pytest.approx(2.0 * exact.cost, rel=1e-7)
