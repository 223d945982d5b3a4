"""The conformance suites pass what is right and catch what is wrong, one deliberate mistake at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

import mipprune as mp
from mipprune.core.arrays import exact
from mipprune.core.separable import Separable
from mipprune.testing import (
    check_loss,
    check_problem,
    check_solver,
    check_structure,
    check_supports,
    enumerate_masks,
    enumerate_optimum,
)


def layer(supports: Any, rows: int = 2, width: int = 4, seed: int = 0) -> mp.Problem:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(6 * width, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return mp.formulations.layerwise(weight, inputs.T @ inputs, supports)


# ------------------------------------------------------------------------------------------------ supports


class Worst(mp.PerRow):
    """Keeps the smallest gains."""

    def keep(self, gain: Tensor) -> Tensor:
        return super().keep(-gain) if bool((gain < 0).any()) else super().keep(gain)


class Optimistic(mp.PerRow):
    """States a bound below the truth."""

    def select(self, gain: Tensor) -> mp.Selection:
        found = super().select(gain)
        return found._replace(bound=found.value - 1e-9 * abs(found.value))


class Rounded(mp.PerRow):
    """Sums in float32, and calls that a bound."""

    def select(self, gain: Tensor) -> mp.Selection:
        found = super().select(gain)
        value = float(gain.float()[found.mask].sum())
        return found._replace(value=value, bound=value)


class Lenient(mp.PerRow):
    """Lets one entry too many pass."""

    def violation(self, mask: Tensor) -> int:
        return max(0, super().violation(mask) - 1)


class Strict(mp.PerRow):
    """Finds fault with full rows."""

    def violation(self, mask: Tensor) -> int:
        return super().violation(mask) + int((mask.sum(dim=-1) == self.count).sum())


class Loose(mp.PerRow):
    """Its model allows more than its masks."""

    def constraints(self, z: Any) -> list[Any]:
        import cvxpy as cp

        return [cp.sum(z) <= self.count * z.shape[0]]


class Tight(mp.PerRow):
    """Its model allows less than its masks."""

    def constraints(self, z: Any) -> list[Any]:
        return [*super().constraints(z), z[0, 0] + z[0, 1] <= 1]


class Forgetful(mp.PerRow):
    """Forgets what was fixed before."""

    def restrict(self, on: Tensor, off: Tensor) -> mp.PerRow:
        return replace(self, on=on, off=off)


class Hasty(mp.PerRow):
    """Concludes too much from a fixing."""

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        return on, ~on if bool(on.any()) else off


class Hopeful(mp.PerRow):
    """Finds masks where none is admissible."""

    def select(self, gain: Tensor) -> mp.Selection:
        found = super().select(gain)
        return found._replace(value=0.0, bound=0.0) if found.bound == -math.inf else found


class Greedy(mp.PerRow):
    """Spreads its budget evenly instead of well."""

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> Tensor:
        free = torch.full_like(weight, min(1.0, self.count / weight.shape[-1]))
        return free if self.on is None else torch.where(self.on, 1.0, torch.where(self.off, 0.0, 0.0 * free))


class Elsewhere(mp.PerRow):
    """Spreads outside the hull of its masks."""

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> Tensor:
        return torch.ones_like(weight)


class Bare(mp.Groups):
    """Charges a price for touched entries only, although whole groups are kept."""

    def cover(self, mask: Tensor) -> Tensor:
        return mask


WRONG_SUPPORTS = [
    (Worst(2), "mask is worth|best mask's|another mask"),
    (Optimistic(2), "below the best mask"),
    (Rounded(2), "below the best mask|its mask is worth"),
    (Lenient(2), "cut off an admissible mask"),
    (Strict(2), "admit a mask that is not"),
    (Loose(2), "admit a mask"),
    (Tight(2), "cut off an admissible mask"),
    (Forgetful(2), "restrict"),
    (Hasty(2), "propagate"),
    (Hopeful(1), "no mask is admissible"),
    (Greedy(1), "spread"),
    (Elsewhere(1), "spread"),
    (Bare(2, 1), "cut off an admissible mask"),
]


@pytest.mark.parametrize(("supports", "message"), WRONG_SUPPORTS, ids=lambda case: type(case).__name__)
def test_a_wrong_family_is_caught(supports: mp.Supports, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_supports(supports, (2, 4), trials=12)


def test_the_families_behind_the_mistakes_are_right() -> None:
    check_supports(mp.PerRow(2), (2, 4), trials=12)
    check_supports(mp.PerRow(1), (2, 4), trials=4)
    check_supports(mp.Groups(2, 1), (2, 4), trials=4)


@dataclass(frozen=True, eq=False)
class Plain(mp.Supports):
    """At most ``count`` entries: the five methods, and the defaults of all others. Its bound needs a price."""

    count: int
    on: Tensor | None = None
    off: Tensor | None = None
    slack: float = 0.0

    def _free(self, gain: Tensor) -> Tensor:
        return gain if self.on is None else torch.where(self.off, -torch.inf, torch.where(self.on, torch.inf, gain))

    def select(self, gain: Tensor) -> mp.Selection:
        gain = exact(gain)
        found = mp.Cardinality(self.count, self.on, self.off).select(gain)
        if not math.isfinite(found.bound):
            return found
        free = self._free(gain).reshape(-1).sort(descending=True).values
        price = free[min(self.count, len(free) - 1)].clamp(0.0, 1e300)
        return found._replace(bound=self.select_bound(gain, price), witness=price)

    def select_bound(self, gain: Tensor, witness: Tensor | None) -> float:
        """Lagrangian: ``count * price`` plus what exceeds the price; valid for every price >= 0."""
        if mp.Cardinality(self.count, self.on, self.off).select(exact(gain)).bound == -math.inf:
            return -math.inf
        price = 0.0 if witness is None else max(float(witness), 0.0)
        free = self._free(exact(gain)).reshape(-1)
        forced = torch.isinf(free) & (free > 0) & torch.isfinite(exact(gain).reshape(-1))
        gains = torch.where(forced, exact(gain).reshape(-1) - price, (free - price).clamp_min(0.0))
        if bool(torch.isinf(gains).any()):
            return math.inf
        return (self.count * price + float(gains.sum()) + 1e-12 * (price + float(gains.abs().sum()))) - self.slack

    def violation(self, mask: Tensor) -> int:
        return mp.Cardinality(self.count, self.on, self.off).violation(mask)

    def constraints(self, z: Any) -> list[Any]:
        return mp.Cardinality(self.count, self.on, self.off).constraints(z)

    def restrict(self, on: Tensor, off: Tensor) -> Plain:
        inner = mp.Cardinality(self.count, self.on, self.off).restrict(on, off)
        return replace(self, on=inner.on, off=inner.off)


def test_a_family_with_a_witness_passes_and_a_wrong_witness_bound_is_caught() -> None:
    check_supports(Plain(3), (2, 3), trials=6)
    check_structure(mp.Sparse(Plain(3), price=0.2), (2, 3), trials=3)
    with pytest.raises(AssertionError, match="below the best mask"):
        check_supports(Plain(3, slack=1e-3), (2, 3), trials=6)


# ------------------------------------------------------------------------------------------------ structures


class NoRounding(mp.Sparse):
    """Ignores the stated error of the linear term."""

    def argmin_bound(self, model: Separable, witness: Any) -> float:
        return super().argmin_bound(replace(model, linear_error=None), witness)


class FreeOfCharge(mp.Sparse):
    """Forgets the price in the oracle."""

    def gain(self, model: Separable) -> Tensor:
        return super().gain(model)

    def gain_bound(self, model: Separable) -> Tensor:
        return super().gain_bound(model) - 0.5


class Unboxed(mp.Sparse):
    """Accepts points outside its box."""

    def violation(self, point: Tensor) -> float:
        return float(self.supports.violation(point != 0))


class Outside(mp.Sparse):
    """Answers with a point outside S."""

    def argmin(self, model: Separable) -> mp.Argmin:
        return super().argmin(model)._replace(point=torch.ones_like(model.linear))


class RoundedDown(mp.Sparse):
    """Its exact bound is lower than its float64 bound."""

    def rational_bound(self, model: Any, witness: Any) -> Fraction:
        return super().rational_bound(model, witness) - 1


class LooseFixings(mp.Sparse):
    """Loses what is fixed off."""

    def restrict(self, on: Tensor, off: Tensor) -> mp.Sparse:
        return super().restrict(on, torch.zeros_like(off))


WRONG_STRUCTURES = [
    (NoRounding(mp.PerRow(2)), "above the minimum"),
    (FreeOfCharge(mp.PerRow(2)), "above"),
    (Unboxed(mp.PerRow(2), box=1.0), "box"),
    (Outside(mp.PerRow(2)), "violates S"),
    (RoundedDown(mp.PerRow(2)), "rational_bound"),
    (LooseFixings(mp.PerRow(2)), "restrict"),
]


@pytest.mark.parametrize(("structure", "message"), WRONG_STRUCTURES, ids=lambda case: type(case).__name__)
def test_a_wrong_structure_is_caught(structure: mp.Structure, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_structure(structure, (2, 3), trials=6)


# ------------------------------------------------------------------------------------------------ losses


class HighMinorant(mp.Quadratic):
    """A minorant that is above the loss by very little."""

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        model = super().minorant(v, split, allowed)
        return replace(model, constant=model.constant + 1e-9 * self.scale)


class NoAllowance(mp.Quadratic):
    """A minorant without its rounding allowance: only exact arithmetic can tell."""

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        model = super().minorant(v, split, allowed)
        slack = float(self.rational_minorant(v, split, allowed).constant) if split is not None else model.constant
        return replace(model, constant=math.nextafter(slack, math.inf), linear_error=None)


class LowMinorant(mp.Quadratic):
    """A minorant that touches nowhere."""

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        model = super().minorant(v, split, allowed)
        return replace(model, constant=model.constant - 1e-3 * self.scale)


class Trusting(mp.Quadratic):
    """Believes every split."""

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        try:
            return super().minorant(v, split, allowed)
        except mp.CertificateError:
            return super().minorant(v, None, allowed)


class WrongGradient(mp.Quadratic):
    """Half the gradient."""

    def gradient(self, w: Tensor) -> Tensor:
        return 0.999 * super().gradient(w)


class LowMajorant(mp.Quadratic):
    """A majorant with too little curvature."""

    def majorant(self, v: Tensor) -> Separable:
        model = super().majorant(v)
        curvature = 0.3 * model.curvature
        gradient = self.gradient(v)
        constant = self.value(v) - float((gradient * v).sum()) + 0.5 * float((curvature * v * v).sum())
        return Separable(constant=constant, linear=gradient - curvature * v, curvature=curvature)


class SloppyRefit(mp.Quadratic):
    """Keeps the dense weights on the mask."""

    def minimise_on(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        return torch.where(mask, self.center, 0.0)


class SmallBox(mp.Quadratic):
    """A level box that is too small."""

    def level_box(self, value: float) -> tuple[Tensor, Tensor] | None:
        box = super().level_box(value)
        return None if box is None else (0.5 * (box[0] + self.center), 0.5 * (box[1] + self.center))


class OtherExpression(mp.Quadratic):
    """A cvxpy expression without the constant."""

    def expression(self, w: Any, split: Tensor | None, scale: float = 1.0) -> Any:
        return super().expression(w, split, scale) - self.offset / scale


class NoRoundingError(mp.Quadratic):
    """Claims to evaluate without rounding."""

    def rounding(self, w: Tensor) -> float:
        return 0.0


class HighCondition(mp.Quadratic):
    """A conditioned loss above the loss."""

    def condition(self, on: Tensor, off: Tensor, split: Tensor) -> tuple[mp.Loss, Tensor]:
        loss, tighter = super().condition(on, off, split)
        return replace(loss, offset=loss.offset + self.scale), tighter


class WildLift(mp.Quadratic):
    """Leaves the point where it was."""

    def lift(self, v: Tensor, split: Tensor, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        return v, super().lift(v, split, on, off)[1]


class WrongResolvent(mp.Quadratic):
    """A resolvent for another strength."""

    def resolvent(self, split: Tensor, strength: float) -> Any:
        metric, _ = super().resolvent(split, strength)
        return metric, super().resolvent(split, 1.1 * strength)[1]


WRONG_LOSSES = [
    (HighMinorant, "above the loss"),
    (NoAllowance, "more than the rounding it states"),
    (LowMinorant, "below the loss at v"),
    (Trusting, "accepts an invalid split"),
    (WrongGradient, "gradient"),
    (LowMajorant, "majorant"),
    (SloppyRefit, "minimise_on"),
    (SmallBox, "level_box"),
    (OtherExpression, "expression"),
    (NoRoundingError, "rounding"),
    (HighCondition, "condition"),
    (WildLift, "lift"),
    (WrongResolvent, "resolvent"),
]


@pytest.mark.parametrize(("kind", "message"), WRONG_LOSSES, ids=lambda case: getattr(case, "__name__", ""))
def test_a_wrong_loss_is_caught(kind: type[mp.Quadratic], message: str) -> None:
    good = layer(mp.PerRow(2), width=5).loss
    assert isinstance(good, mp.Quadratic)
    with pytest.raises(AssertionError, match=message):
        check_loss(kind(good.gram, good.center, offset=1.7), trials=8)


# ------------------------------------------------------------------------------------------------ problems


class Cheap(mp.Sparse):
    """Its cvxpy model forgets the price."""

    def model(self, w: Any, split: Tensor | None, **options: Any) -> tuple[Any, list[Any]]:
        return mp.Sparse(self.supports, self.box).model(w, split, **options)


class Unrestricted(mp.Problem):
    """Repairs to the dense point."""

    def repair(self, w: Any) -> Tensor:
        return self.loss.start()


class Forged(mp.Problem):
    """A bound that is a little too good."""

    def bound(self, v: Any, split: Tensor | None = None, witness: Tensor | None = None) -> float:
        bound = super().bound(v, split, witness)
        return bound + 0.9 * (super().value(super().repair(v)) - bound) + 1.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: replace(p, structure=Cheap(mp.PerRow(2), price=1.0)), "to_cvxpy"),
        (lambda p: replace(p, structure=mp.Sparse(Loose(2))), "to_cvxpy"),
        (lambda p: Unrestricted(p.loss, p.structure), "repair"),
        (lambda p: Forged(p.loss, p.structure), "bound"),
        (lambda p: replace(p, loss=OtherExpression(p.loss.gram, p.loss.center, 3.0)), "to_cvxpy"),
        (lambda p: replace(p, loss=HighMinorant(p.loss.gram, p.loss.center)), "bound|minorant"),
        (lambda p: replace(p, structure=LooseFixings(mp.PerRow(2))), "restrict"),
    ],
    ids=["price", "constraints", "repair", "bound", "objective", "minorant", "restrict"],
)
def test_a_wrong_problem_is_caught(build: Any, message: str) -> None:
    good = layer(mp.PerRow(2))
    with pytest.raises(AssertionError, match=message):
        check_problem(build(good), trials=4)


# ------------------------------------------------------------------------------------------------ solvers


@dataclass(frozen=True)
class Base:
    """A correct solver to make mistakes with."""

    name: str = "base"

    def rejects(self, problem: mp.Problem) -> str | None:
        return None

    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        return mp.ADMM().solve(problem, **options)


@dataclass(frozen=True)
class Silent(Base):
    """Rejects without a reason."""

    def rejects(self, problem: mp.Problem) -> str | None:
        return " "


@dataclass(frozen=True)
class Contrary(Base):
    """Rejects a problem and solves it all the same."""

    def rejects(self, problem: mp.Problem) -> str | None:
        return "too small"


@dataclass(frozen=True)
class Vandal(Base):
    """Changes the data it was given."""

    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        solution = super().solve(problem, **options)
        problem.loss.center.mul_(1.0 + 1e-12)
        return solution


@dataclass(frozen=True)
class Fickle(Base):
    """Gives another answer every time."""

    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        COUNTER.append(1)
        point = problem.repair(problem.loss.start()) / len(COUNTER)
        return mp.Solution.of(problem, point, stop=mp.Stop.CONVERGED, stats=mp.Stats(seconds=0.0), solver="fickle")


@dataclass(frozen=True)
class Boastful(Base):
    """Claims a bound above the optimum."""

    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        solution = super().solve(problem, **options)
        claim = mp.Claim("boastful", "1", solution.value, 1e-9)
        return mp.Solution.of(
            problem, 1.5 * solution.point, stop=mp.Stop.GAP, claim=claim, stats=solution.stats, solver="boastful"
        )


@dataclass(frozen=True)
class Slow(Base):
    """Does not look at the clock."""

    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        import time

        if options["budget"].seconds is not None:
            time.sleep(options["budget"].seconds + 1.0)
        return super().solve(problem, **options)


@dataclass
class Melted(Base.__base__):  # type: ignore[name-defined, misc]
    """Not frozen."""

    name: str = "melted"

    def rejects(self, problem: mp.Problem) -> str | None:
        return None

    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        return mp.ADMM().solve(problem, **options)


@dataclass(frozen=True)
class Quitter(Base):
    """Says that there is no solution."""

    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        return mp.Solution.of(
            problem, None, stop=mp.Stop.CONVERGED, infeasible=True, stats=mp.Stats(seconds=0.0), solver="quitter"
        )


@dataclass(frozen=True)
class Deaf(Base):
    """Reports progress and does not listen."""

    def solve(self, problem: mp.Problem, *, progress: Any = None, **options: Any) -> mp.Solution:
        if progress is not None:
            progress(0.0, 1.0, None)
        solution = super().solve(problem, **options)
        return replace(solution, stop=mp.Stop.ITERATIONS, solver="deaf")


COUNTER: list[int] = []
WRONG_SOLVERS = [
    (Silent(), "without a reason"),
    (Contrary(), "does not raise Unsupported"),
    (Vandal(), "the point is worth|changed the problem"),
    (Fickle(), "two answers"),
    (Boastful(), "above the optimum"),
    (Slow(), "beyond a limit"),
    (Melted(), "frozen"),
    (Quitter(), "infeasible, but it is not"),
    (Deaf(), "asked to stop"),
]


@pytest.mark.parametrize(("solver", "message"), WRONG_SOLVERS, ids=lambda case: type(case).__name__)
def test_a_wrong_solver_is_caught(solver: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mipprune.testing.solvers._OVERHEAD", 0.9)
    problem = layer(mp.PerRow(2))
    with pytest.raises(AssertionError, match=message):
        check_solver(solver, problem, optimum=enumerate_optimum(problem)[0])


def test_the_base_of_the_mistakes_is_right() -> None:
    problem = layer(mp.PerRow(2))
    assert check_solver(Base(), problem, optimum=enumerate_optimum(problem)[0]) is not None


# ------------------------------------------------------------------------------------------------ enumeration


def test_all_masks_are_there_once() -> None:
    masks = enumerate_masks((2, 3))
    assert masks.shape == (64, 2, 3)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 64
    with pytest.raises(mp.InvalidProblem, match="20"):
        enumerate_masks((3, 7))


def test_enumeration_agrees_with_refits_one_by_one() -> None:
    problem = layer(mp.Cardinality(4))
    value, mask = enumerate_optimum(problem)
    values = []
    for other in enumerate_masks(problem.shape):
        if problem.structure.supports.contains(other):  # type: ignore[attr-defined]
            values.append(problem.value(torch.where(other, problem.loss.minimise_on(other), 0.0)))
    assert value == pytest.approx(min(values), rel=1e-12)
    assert int(mask.sum()) <= 4


def test_enumeration_inside_a_box_agrees_with_a_fine_grid() -> None:
    good = layer(mp.PerRow(2), rows=1, width=2)
    problem = replace(good, structure=mp.Sparse(mp.PerRow(2), box=0.2, price=0.01))
    value, _ = enumerate_optimum(problem)
    grid = torch.linspace(-0.2, 0.2, 81, dtype=torch.float64)
    values = [problem.value(torch.tensor([[a, b]])) for a in grid.tolist() for b in grid.tolist()]
    assert min(values) >= value - 1e-12
    assert value == pytest.approx(min(values), rel=1e-2)


def test_enumeration_says_when_nothing_is_admissible() -> None:
    on, off = torch.ones(2, 4, dtype=torch.bool), torch.zeros(2, 4, dtype=torch.bool)
    assert enumerate_optimum(layer(mp.PerRow(2)).restrict(on, off)) == (math.inf, None)
