"""The contract of a family of supports, checked against every mask of a small array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import digest
from ..core.structure import Supports
from ..errors import InvalidProblem
from .enumeration import enumerate_masks
from .hull import check_spread
from .require import random_mask, require

__all__ = ["check_supports"]

_LARGEST = 12  # entries of the enumerated array
_SAMPLE = 25  # masks handed to the cvxpy constraints


@dataclass(frozen=True, eq=False)
class _Family:
    """A family with its enumerated members."""

    supports: Supports
    masks: Tensor
    """every mask, (2 ** n, *shape)"""
    inside: Tensor
    """which of them are members"""
    name: str = "the family"

    @cached_property
    def members(self) -> Tensor:
        """The members, (count, *shape)."""
        return self.masks[self.inside]

    @cached_property
    def flat(self) -> Tensor:
        """The members as float64 rows."""
        return self.members.flatten(1).double()

    def best(self, gain: Tensor) -> float:
        """Largest sum of gains over the members, rounded once: those that come near are summed exactly."""
        if len(self.members) == 0:
            return -math.inf
        kept = torch.where(self.members, gain.double(), 0.0).flatten(1)
        sums = kept.sum(dim=1)
        if bool(torch.isinf(sums).any()):
            return math.inf
        near = sums >= sums.max() - 1e-13 * kept.abs().sum(dim=1)
        return max(math.fsum(row) for row in kept[near].tolist())

    def containing(self, mask: Tensor) -> Tensor:
        """The members that contain a mask."""
        chosen: Tensor = self.members[(self.members | ~mask).flatten(1).all(dim=1)]
        return chosen

    def fixed(self, on: Tensor, off: Tensor) -> _Family:
        """The family with fixings: ``restrict`` on one side, a filter of the members on the other."""
        right = (self.masks | ~on).flatten(1).all(dim=1) & ~(self.masks & off).flatten(1).any(dim=1)
        return _Family(self.supports.restrict(on, off), self.masks, self.inside & right, "the restricted family")


def check_supports(
    supports: Supports, shape: tuple[int, ...] = (2, 6), *, seed: int = 0, trials: int = 20, exact: bool = True
) -> None:
    """Check a family of supports by enumeration, in every place where the package relies on it.

    Parameters
    ----------
    supports : Supports
        A family; it may be restricted already.
    shape : tuple of int
        Of at most 12 entries; the family must be defined on it. Multiples of the shape are sampled too.
    seed : int
        Of the random gains and fixings.
    trials : int
        How many of them.
    exact : bool
        The family promises the best mask. ``False`` for one whose ``select`` only promises an upper bound.

    Raises
    ------
    AssertionError
        Naming the first broken promise: a mask that is not the best, a bound below the best mask, a ``violation``
        that is zero for a mask that does not fit, constraints that admit or cut off the wrong masks, fixings that
        lose members.

    Examples
    --------
    >>> import mipprune as mp
    >>> mp.testing.check_supports(mp.NofM(2, 3), shape=(1, 6), trials=3)
    """
    if math.prod(shape) > _LARGEST:
        raise InvalidProblem(
            f"shape {shape} has {math.prod(shape)} entries; check_supports enumerates at most {_LARGEST}"
        )
    supports.check_shape(shape)
    generator = torch.Generator().manual_seed(seed)
    masks = enumerate_masks(shape)
    inside = torch.tensor([supports.contains(mask) for mask in masks], dtype=torch.bool)
    family = _Family(supports, masks, inside)
    require(bool(inside.any()), "contains: no mask at all is admissible")
    require(bool(supports.describe().strip()), "describe() is empty")
    require(digest(supports) == digest(supports), "its data cannot be digested; make the family a frozen dataclass")
    _check_membership(family)
    _check_constraints(family, generator)
    check_spread(supports, family.flat, shape, generator)
    for trial in range(trials):
        for gain in _gains(shape, generator):
            _check_select(family, gain, exact)
        _check_fixings(family, trial, generator, exact)
    _check_large(supports, shape, generator, trials)


def _gains(shape: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    """Gains of every kind that the package hands to a family."""
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    spread = normal * 10.0 ** torch.empty(shape).uniform_(-8, 8, generator=generator).double()
    tied = torch.randint(-2, 3, shape, generator=generator).double()
    infinite = torch.where(torch.rand(shape, generator=generator) < 0.1, torch.inf, normal)
    return [normal, normal.abs(), -normal.abs(), spread, tied, infinite, torch.zeros(shape).double(), normal.float()]


def _check_select(family: _Family, gain: Tensor, exact: bool) -> None:
    supports, name = family.supports, family.name
    best, found = family.best(gain), supports.select(gain)
    require(found.bound >= best, f"select of {name}: its bound {found.bound!r} is below the best mask's {best!r}")
    again = supports.select_bound(gain, found.witness)
    require(again >= best, f"select_bound of {name}: {again!r} is below the best mask's {best!r}")
    require(again == found.bound, f"select_bound of {name}: {again!r} where select says {found.bound!r}")
    blind = supports.select_bound(gain, None)
    require(blind >= best, f"select_bound of {name} without a witness: {blind!r} is below the best mask's {best!r}")
    if best == -math.inf:
        require(found.bound == -math.inf, f"select of {name}: no mask is admissible, but the bound is {found.bound!r}")
        return
    require(found.mask.dtype == torch.bool and found.mask.shape == gain.shape, f"select of {name}: the mask is no mask")
    require(supports.contains(found.mask), f"select of {name}: its mask is not admissible")
    value = math.fsum(gain.double()[found.mask].tolist())
    slack = 1e-12 * float(gain[found.mask].double().abs().sum()) if math.isfinite(value) else 0.0
    same = value == found.value or abs(value - found.value) <= slack
    require(same, f"select of {name}: it says {found.value!r}, its mask is worth {value!r}")
    require(torch.equal(supports.keep(gain), found.mask), f"keep of {name}: another mask than select's")
    if exact:
        require(value >= best - slack, f"select of {name}: its mask is worth {value!r}, the best one {best!r}")


def _check_membership(family: _Family) -> None:
    supports, members = family.supports, family.members.flatten(1)
    for mask, inside in zip(family.masks, family.inside.tolist(), strict=True):
        violation = supports.violation(mask)
        require(isinstance(violation, int) and violation >= 0, f"violation: {violation!r} is not a whole number >= 0")
        fits = inside or bool((members | ~mask.flatten()).all(dim=1).any())
        if (violation == 0) != fits:
            word = "fits into an admissible one" if fits else "fits into none"
            raise AssertionError(f"violation of {family.name}: {violation} for a mask that {word}: {_show(mask)}")
    sample = family.masks[:: max(1, len(family.masks) // 64)]
    for mask in sample:
        if supports.violation(mask) != 0:
            continue
        cover, around = supports.cover(mask), family.containing(mask)
        require(bool((cover | ~mask).all()), f"cover of {family.name}: it lost entries of {_show(mask)}")
        require(supports.contains(cover), f"cover of {family.name}: it is not admissible for {_show(mask)}")
        least = int(around.flatten(1).sum(dim=1).min())
        require(
            int(cover.sum()) == least, f"cover of {family.name}: not the smallest admissible mask around {_show(mask)}"
        )


def _show(mask: Tensor) -> str:
    return str(mask.int().tolist())


def _check_constraints(family: _Family, generator: torch.Generator) -> None:
    """Members satisfy the cvxpy constraints and other masks do not, whatever the auxiliary variables."""
    chosen = torch.randperm(len(family.masks), generator=generator)[:_SAMPLE]
    members = family.inside.nonzero().ravel()
    chosen = torch.cat([chosen, members[torch.randperm(len(members), generator=generator)[:_SAMPLE]]])
    feasible = constraint_test(family.supports, tuple(family.masks.shape[1:]))
    for index in chosen.tolist():
        mask, inside = family.masks[index], bool(family.inside[index])
        word = "cut off an admissible mask" if inside else "admit a mask that is not admissible"
        require(feasible(mask) == inside, f"constraints of {family.name}: they {word}, {_show(mask)}")


def constraint_test(supports: Supports, shape: tuple[int, ...]) -> Any:
    """Return a function that tells whether the cvxpy constraints hold for a mask and some auxiliary variables."""
    import cvxpy as cp

    z, fixed = cp.Variable(shape, boolean=True, name="z"), cp.Parameter(shape, name="fixed")
    constraints = supports.constraints(z)
    auxiliary = {v.id for c in constraints for v in c.variables()} - {z.id}
    problem = cp.Problem(cp.Minimize(0), [*constraints, z == fixed]) if auxiliary else None

    def feasible(mask: Tensor) -> bool:
        if problem is None:
            z.value = mask.double().numpy()
            return all(float(np.max(c.violation(), initial=0.0)) <= 1e-9 for c in constraints)
        fixed.value = mask.double().numpy()
        problem.solve(solver=cp.HIGHS)
        return bool(problem.status == cp.OPTIMAL)

    return feasible


def _check_fixings(family: _Family, trial: int, generator: torch.Generator, exact: bool) -> None:
    shape = tuple(family.masks.shape[1:])
    on = random_mask(shape, generator, 0.15)
    off = random_mask(shape, generator, 0.3) & (~on if trial % 5 else torch.ones(shape, dtype=torch.bool))
    restricted = family.fixed(on, off)
    for mask, inside in zip(family.masks[trial % 7 :: 7], restricted.inside[trial % 7 :: 7].tolist(), strict=True):
        word = "loses" if inside else "admits"
        require(restricted.supports.contains(mask) == inside, f"restrict: the restricted family {word} {_show(mask)}")
    for gain in _gains(shape, generator):
        _check_select(restricted, gain, exact)
    if len(restricted.members):
        if trial % 5 == 0:
            _check_membership(restricted)
            _check_constraints(restricted, generator)
        check_spread(restricted.supports, restricted.flat, shape, generator)
        implied_on, implied_off = family.supports.propagate(on, off)
        require(
            bool((restricted.members | ~implied_on).all()), "propagate: an entry implied on is pruned in some member"
        )
        require(
            not bool((restricted.members & implied_off).any()), "propagate: an entry implied off is kept in some member"
        )
    half = random_mask(shape, generator, 0.5)
    twice = family.supports.restrict(on & half, off & half).restrict(on & ~half, off & ~half)
    gain = torch.randn(shape, generator=generator, dtype=torch.float64)
    require(
        twice.select(gain).bound == restricted.supports.select(gain).bound, "restrict: twice is not the same as at once"
    )


def _check_large(supports: Supports, shape: tuple[int, ...], generator: torch.Generator, trials: int) -> None:
    """On arrays beyond enumeration: admissible masks, no sampled mask better than the bound, float32 like float64."""
    for large in (
        (*(5 * side for side in shape[:-1]), 4 * shape[-1]),
        (*(30 * side for side in shape[:-1]), 8 * shape[-1]),
    ):
        try:
            supports.check_shape(large)
            supports.violation(torch.zeros(large, dtype=torch.bool))
        except (InvalidProblem, RuntimeError):
            continue  # the family belongs to one shape: labels, or fixings
        kept = [supports.keep(torch.randn(large, generator=generator, dtype=torch.float64)) for _ in range(3)]
        for _ in range(max(1, trials // 5)):
            gain = torch.randn(large, generator=generator, dtype=torch.float64)
            found = supports.select(gain)
            require(supports.violation(found.mask) == 0, f"select: its mask does not fit, shape {large}")
            require(torch.equal(supports.keep(gain), found.mask), f"keep: another mask than select's, shape {large}")
            best = max(math.fsum(gain[mask].tolist()) for mask in [*kept, found.mask])
            require(found.bound >= best, f"select: its bound is below a sampled mask, shape {large}")
            require(
                supports.violation(supports.keep(gain.float())) == 0,
                f"keep: a float32 mask does not fit, shape {large}",
            )
