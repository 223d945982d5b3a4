"""Problems: readings, fixings, refits; the defaults of a family; budgets and watches of solvers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mipprune import (
    ADMM,
    BranchAndBound,
    Budget,
    Cardinality,
    Groups,
    InvalidProblem,
    LeastSquares,
    Linear,
    Masks,
    NofM,
    PerRow,
    Problem,
    Quadratic,
    Selection,
    Separable,
    Solver,
    Sparse,
    Stop,
    Supports,
    Unsupported,
)
from mipprune.core.solver import Watch, accept
from mipprune.formulations import layerwise, sparse_regression
from mipprune.testing import check_problem, enumerate_optimum

GENERATOR = torch.Generator().manual_seed(11)
INPUTS = torch.randn(40, 6, generator=GENERATOR, dtype=torch.float64)
WEIGHT = torch.randn(2, 6, generator=GENERATOR, dtype=torch.float64)
RESPONSE = torch.randn(40, generator=GENERATOR, dtype=torch.float64)
PRICES = torch.rand(2, 6, generator=GENERATOR, dtype=torch.float64)
GRAM = INPUTS.T @ INPUTS
NONE = torch.zeros(2, 6, dtype=torch.bool)


def at(*entries: tuple[int, int]) -> Tensor:
    mask = NONE.clone()
    for row, column in entries:
        mask[row, column] = True
    return mask


PROBLEMS = {
    "layer": lambda: layerwise(WEIGHT, GRAM, Cardinality(5)),
    "price": lambda: layerwise(WEIGHT, GRAM, Sparse(PerRow(3), price=2.0)),
    "prices and box": lambda: layerwise(WEIGHT, GRAM, Sparse(NofM(1, 3), box=0.8, price=PRICES)),
    "groups with a price": lambda: layerwise(WEIGHT, GRAM, Sparse(Groups(2, 2), price=1.0)),
    "sign": lambda: layerwise(WEIGHT, GRAM, Sparse(PerRow(3), box=(0.0, math.inf))),
    "regression": lambda: Problem(LeastSquares(INPUTS, RESPONSE, 0.5), Sparse(Cardinality(2), price=0.3)),
    "wide regression": lambda: Problem(
        LeastSquares(INPUTS.T[:4, :9], RESPONSE[:4], 0.5), Sparse(Cardinality(3), box=1.0)
    ),
    "masks": lambda: Problem(Linear(-WEIGHT), Masks(NofM(2, 3))),
    "curved masks": lambda: Problem(Quadratic(GRAM, WEIGHT), Masks(PerRow(2))),
    "own Gram matrices": lambda: Problem(Quadratic(torch.stack([GRAM, 2 * GRAM]), WEIGHT, 3.0), Sparse(PerRow(2))),
    "restricted": lambda: layerwise(WEIGHT, GRAM, Sparse(PerRow(3), price=1.0)).restrict(
        at((0, 1)), at((1, 0), (1, 2))
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_all_readings_agree(name: str) -> None:
    check_problem(PROBLEMS[name](), trials=4)


# ------------------------------------------------------------------------------------------------ refused data


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Problem(GRAM, Sparse(PerRow(2))), "not a mipprune Loss"),
        (lambda: Problem(Linear(WEIGHT), PerRow(2)), "wrap a family"),
        (lambda: Problem(Linear(WEIGHT), Masks(NofM(2, 4))), "divisible by 4"),
        (lambda: Sparse("2:4"), "needs a Supports"),
        (lambda: Sparse(PerRow(2), box=-1.0), "positive half-width"),
        (lambda: Sparse(PerRow(2), price=-1.0), "price"),
        (lambda: layerwise(WEIGHT, GRAM, PerRow(2)).value(WEIGHT[:1]), "expected"),
        (lambda: layerwise(WEIGHT, GRAM, PerRow(2)).restrict(~NONE, ~NONE), "both on and off"),
        (lambda: layerwise(WEIGHT, GRAM, PerRow(2)).to_cvxpy("tight"), "perspective"),
    ],
)
def test_what_is_no_problem_is_refused(build: Any, message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        build()


# ------------------------------------------------------------------------------------------------ fixings


def test_fixings_reach_what_they_imply_in_any_order() -> None:
    """A chain: each entry that is off closes the next. One pass of ``propagate`` sees only one link."""

    @dataclass(frozen=True, eq=False)
    class Chain(PerRow):
        def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
            further = off.clone()
            further[:, 1:] |= off[:, :-1]
            return on, further

    problem = layerwise(WEIGHT, GRAM, Chain(3)).restrict(NONE, at((0, 2)))
    assert problem.off is not None and problem.off.tolist() == [[False, False, True, True, True, True], [False] * 6]


def test_a_restricted_problem_charges_what_is_fixed_on() -> None:
    """Otherwise a point without the entry would be worth less than the bound of the branch that keeps it."""
    for supports in (Cardinality(2), PerRow(1), NofM(1, 3), Groups(3, 2)):
        problem = Problem(Quadratic(GRAM, 0 * WEIGHT), Sparse(supports, price=1.0)).restrict(at((0, 1)), NONE)
        zero = torch.zeros(2, 6)
        assert problem.violation(zero) == 0
        kept = 1.0 if not isinstance(supports, Groups) else 6.0
        assert problem.value(zero) == kept
        assert kept * (1 - 1e-12) <= problem.bound(zero) <= kept


def test_an_empty_restriction_has_an_infinite_bound() -> None:
    for supports in (Cardinality(1), PerRow(1), NofM(1, 3)):
        problem = layerwise(WEIGHT, GRAM, supports).restrict(at((0, 0), (0, 1)), NONE)
        assert problem.bound(WEIGHT) == math.inf
    groups = layerwise(WEIGHT, GRAM, Groups(2, 1)).restrict(at((0, 0), (0, 3)), NONE)
    assert groups.bound(WEIGHT) == math.inf
    masks = Problem(Linear(WEIGHT), Masks(PerRow(1))).restrict(at((0, 0), (0, 1)), NONE)
    assert masks.bound(WEIGHT) == math.inf


def test_what_is_fixed_on_comes_before_an_infinite_gain() -> None:
    gain = torch.tensor([[math.inf, 1.0, math.inf, 0.0]])
    on, off = torch.tensor([[False, False, False, True]]), torch.zeros(1, 4, dtype=torch.bool)
    for supports in (Cardinality(2), PerRow(2), Groups(1, 2)):
        found = supports.restrict(on, off).select(gain)
        assert found.mask.tolist() == [[True, False, False, True]]
        assert found.bound == math.inf


# ------------------------------------------------------------------------------------------------ boxes


def test_a_kept_entry_may_not_be_zero_when_the_box_excludes_zero() -> None:
    structure = Sparse(Groups(3, 1), box=(0.5, 2.0))
    partly = torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0, 0.0]])
    assert structure.violation(partly) == 0.5
    assert structure.violation(torch.tensor([[1.0, 0.5, 2.0, 0.0, 0.0, 0.0]])) == 0
    assert structure.violation(torch.zeros(1, 6)) == 0


def test_a_refit_that_leaves_the_box_descends_inside_it() -> None:
    problem = layerwise(WEIGHT, GRAM, Sparse(PerRow(3), box=0.3))
    start = problem.repair(0.1 * WEIGHT)
    assert float(start.abs().max()) <= 0.3
    assert problem.value(problem.refit(start)) <= problem.value(start)
    crude = torch.where(start != 0, 0.01 * start.sign(), 0.0)
    assert problem.value(problem.refit(crude)) < problem.value(crude)


def test_the_rounding_of_the_price_is_part_of_the_rounding() -> None:
    cheap = Problem(Quadratic(GRAM, WEIGHT, offset=0.0), Sparse(PerRow(6)))
    dear = Problem(Quadratic(GRAM, WEIGHT, offset=0.0), Sparse(PerRow(6), price=1e20))
    assert cheap.rounding(WEIGHT) < 1.0 < dear.rounding(WEIGHT)


# ------------------------------------------------------------------------------------------------ defaults of a family


@dataclass(frozen=True, eq=False)
class Pairs(Supports):
    """Entries come in pairs, at most ``count`` pairs in all: not closed under removal. Only what must be written."""

    count: int
    on: Tensor | None = None
    off: Tensor | None = None

    @property
    def _inner(self) -> Groups:
        return Groups(2, self.count, self.on, self.off)

    def select(self, gain: Tensor) -> Selection:
        return self._inner.select(gain)

    def violation(self, mask: Tensor) -> int:
        return self._inner.violation(mask)

    def constraints(self, z: Any) -> list[Any]:
        return self._inner.constraints(z)

    def restrict(self, on: Tensor, off: Tensor) -> Supports:
        inner = self._inner.restrict(on, off)
        return replace(self, on=inner.on, off=inner.off)


def test_defaults_are_right_for_families_that_are_not_closed_under_removal() -> None:
    own, ours = Pairs(2), Groups(2, 2)
    for mask in (at((0, 0)), at((0, 0), (1, 3)), NONE, at((0, 0), (0, 2), (0, 4)), ~NONE):
        if ours.violation(mask) == 0:
            assert torch.equal(own.cover(mask), ours.cover(mask))
        assert own.contains(mask) == ours.contains(mask)
    whole = ours.cover(at((0, 1)))
    assert own.contains(whole)
    assert not own.restrict(at((0, 4)), NONE).contains(whole)


def test_a_default_price_is_charged_for_whole_pairs() -> None:
    point = torch.zeros(2, 6, dtype=torch.float64)
    point[0, 0] = 1.0
    assert Sparse(Pairs(2), price=1.0).price(point) == Sparse(Groups(2, 2), price=1.0).price(point) == 4.0


# ------------------------------------------------------------------------------------------------ solvers' tools


@pytest.mark.parametrize(
    "limits", [{"seconds": 0}, {"nodes": -1}, {"iterations": 0}, {"gap": -1e-9}, {"gap": math.nan}]
)
def test_budgets_are_positive(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidProblem):
        Budget(**limits)


def test_a_watch_gives_the_first_reason_to_stop() -> None:
    seen = []
    watch = Watch(Budget(iterations=3, nodes=5), lambda *report: seen.append(report) or len(seen) == 2)
    assert watch.due(iterations=2, nodes=4) is None
    assert watch.due(iterations=3) is Stop.ITERATIONS
    assert watch.due(nodes=5) is Stop.NODES
    watch.report(1.0, None)
    assert watch.due() is None
    watch.report(1.0, 0.5)
    assert watch.due() is Stop.USER
    assert [report[1:] for report in watch.trace] == [(1.0, None), (1.0, 0.5)]
    assert Watch(Budget(seconds=1e-9)).due() is Stop.TIME
    assert Watch(Budget()).remaining == math.inf


def test_a_rejected_problem_names_solver_and_reason() -> None:
    problem = Problem(Linear(WEIGHT), Masks(PerRow(2)))
    solver = ADMM()
    assert isinstance(solver, Solver)
    reason = solver.rejects(problem)
    assert reason
    with pytest.raises(Unsupported, match=solver.name):
        accept(solver, problem)
    accept(BranchAndBound(), layerwise(WEIGHT, GRAM, PerRow(2)))


def test_a_separable_model_evaluates_itself_in_float64() -> None:
    model = Separable(constant=1.0, linear=torch.tensor([1e8]), curvature=torch.tensor(2.0))
    assert model.value(torch.tensor([1.0])) == 1e8 + 2.0


@pytest.mark.parametrize("seed", range(12))
def test_a_proven_box_cuts_nothing_off(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((8, 5), (8,)))
    options = {"l0": 0.2, "l2": 0.05 + 0.2 * (seed % 3), "fit_intercept": False, "standardize": False}
    free = sparse_regression(x, y, box=None, **options)
    best = enumerate_optimum(free)[0]
    seen = set()
    for box in (0.05, 0.3, 1.0, 3.0, 100.0):
        boxed = sparse_regression(x, y, box=box, **options)
        value = enumerate_optimum(boxed)[0]
        seen.add(boxed.box_validity(value))
        if boxed.box_validity(value) == "proven":
            assert value == pytest.approx(best, rel=1e-9)
        if value > best * (1 + 1e-6):
            assert boxed.box_validity(value) == "given"
    assert seen == {"given", "proven"} and free.box_validity(best) == "none"
