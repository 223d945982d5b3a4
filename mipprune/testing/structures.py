"""The contract of a structure: its oracle against enumeration, its bounds, its fixings."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Masks, Sparse
from ..core.arrays import digest
from ..core.rational import RationalModel, rational
from ..core.separable import Separable
from ..core.structure import Argmin, Structure
from ..errors import CertificateError, Unsupported
from .enumeration import members_of
from .require import random_mask, require, separable_size

__all__ = ["check_structure"]

_LARGEST = 12  # entries up to which members are enumerated


class _Draw(NamedTuple):
    """A random separable model, with rounding stated or not."""

    name: str
    model: Separable


def check_structure(structure: Structure, shape: tuple[int, ...] = (2, 6), *, seed: int = 0, trials: int = 20) -> None:
    """Check the oracle of a structure and everything built on it.

    Parameters
    ----------
    structure : Structure
        :class:`Sparse` and :class:`Masks` are compared with enumeration when the shape has at most 12 entries; the
        points of any other structure are compared with one another.
    shape : tuple of int
        Shape on which the structure is defined.
    seed : int
        Of the random models.
    trials : int
        How many of them.

    Raises
    ------
    AssertionError
        Naming the first broken promise: a point outside S, a value that is not the model's, a bound above the
        minimum, a rational bound below the float64 one, fixings that lose points.

    Examples
    --------
    >>> import mipprune as mp
    >>> mp.testing.check_structure(mp.Sparse(mp.PerRow(2), box=1.5, price=0.1), shape=(2, 3), trials=3)
    """
    structure.check_shape(shape)
    generator = torch.Generator().manual_seed(seed)
    require(bool(structure.describe().strip()), "describe() is empty")
    require(
        digest(structure) == digest(structure), "its data cannot be digested; make the structure a frozen dataclass"
    )
    brute = _Brute.of(structure, shape)
    seen: list[Tensor] = []
    for _ in range(trials):
        for draw in _draws(shape, generator):
            found = _check_argmin(structure, draw, brute)
            _check_rational(structure, draw, found)
            if bool(torch.isfinite(found.point).all()):
                seen.append(found.point)
            _check_sampled(structure, draw, found, seen[-10:])
        _check_fixings(structure, shape, generator, brute)
        _check_violation(structure, seen[-1] if seen else torch.zeros(shape), generator)
        _check_relaxed_step(structure, shape, generator)


class _Brute(NamedTuple):
    """What enumeration needs: the admissible masks, the box and the prices of a Sparse, or the masks of a Masks."""

    members: Tensor
    lower: Tensor | None
    upper: Tensor | None
    price: Tensor | None

    @classmethod
    def of(cls, structure: Structure, shape: tuple[int, ...]) -> _Brute | None:
        if math.prod(shape) > _LARGEST or not isinstance(structure, Sparse | Masks):
            return None
        members = members_of(structure.supports, shape)
        if isinstance(structure, Masks):
            return cls(members, None, None, None)
        box = structure.box or (-math.inf, math.inf)
        lower, upper, price = (
            torch.as_tensor(side, dtype=torch.float64).expand(shape) for side in (*box, structure.price_per_entry)
        )
        return cls(members, lower, upper, price)

    def minimum(self, model: Separable, shift: Tensor) -> Fraction | float:
        """Exact minimum of the model, lowered by ``shift |w|``, over S; an infinite one as a float."""
        curvature = model.curvature.expand(model.linear.shape)
        linear, bend, error = (rational(side).ravel() for side in (model.linear, curvature, shift))
        best = [self._least(i, linear[i], bend[i], error[i]) for i in range(len(linear))]
        values = [
            sum((best[i] for i in mask.flatten().nonzero().ravel().tolist()), Fraction(model.constant))
            for mask in self.members
        ]
        return min(values, default=math.inf)

    def _least(self, index: int, linear: Fraction, bend: Fraction, error: Fraction) -> Fraction | float:
        """Least value of one kept entry, price included."""
        if self.price is None or self.lower is None or self.upper is None:
            return linear + bend / 2 - error
        lower, upper = float(self.lower.reshape(-1)[index]), float(self.upper.reshape(-1)[index])
        ends = [Fraction(side) for side in (lower, upper) if math.isfinite(side)]
        out = []
        for slope in (linear + error, linear - error):
            points = list(ends)
            if bend > 0 and lower <= -slope / bend <= upper:
                points.append(-slope / bend)
            elif bend == 0 and ((slope > 0 and lower == -math.inf) or (slope < 0 and upper == math.inf)):
                return -math.inf
            elif bend == 0 and slope == 0:
                points.append(Fraction(min(max(0.0, lower), upper)))
            out += [slope * t + bend * t * t / 2 for t in points]
        return min(out) + Fraction(float(self.price.reshape(-1)[index]))


def _draws(shape: tuple[int, ...], generator: torch.Generator) -> list[_Draw]:
    linear = torch.randn(shape, generator=generator, dtype=torch.float64)
    curvature = 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)
    constant = float(torch.randn((), generator=generator))
    wide = linear * 10.0 ** torch.empty(shape).uniform_(-6, 6, generator=generator).double()
    error = 1e-3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    tied = torch.randint(-1, 2, shape, generator=generator).double()
    flat = torch.where(torch.rand(shape, generator=generator) < 0.2, 0.0, curvature)

    def model(linear: Tensor, curvature: Tensor, error: Tensor | None = None) -> Separable:
        return Separable(constant=constant, linear=linear, curvature=curvature, linear_error=error)

    return [
        _Draw("random", model(linear, curvature)),
        _Draw("badly scaled", model(wide, curvature)),
        _Draw("tied", model(tied, torch.ones_like(tied))),
        _Draw("partly flat", model(torch.where(flat == 0, 0.0, linear), flat)),
        _Draw("linear", model(linear, torch.zeros_like(linear))),
        _Draw("inexact", model(linear, curvature, error)),
        _Draw("one curvature", model(linear, torch.tensor(2.0, dtype=torch.float64))),
    ]


def _check_argmin(structure: Structure, draw: _Draw, brute: _Brute | None) -> Argmin:
    model, name = draw.model, f"argmin of a {draw.name} model"
    found = structure.argmin(model)
    again = structure.argmin_bound(model, found.witness)
    require(again == found.bound, f"{name}: argmin_bound gives {again!r} from the witness, argmin says {found.bound!r}")
    require(found.bound <= found.value, f"{name}: the bound {found.bound!r} is above the value {found.value!r}")
    if brute is not None:
        error = torch.zeros_like(model.linear) if model.linear_error is None else model.linear_error
        least = brute.minimum(model, error)
        require(again <= least, f"{name}: the bound {again!r} is above the minimum {float(least)!r}")
        blind = structure.argmin_bound(model, None)
        require(blind <= least, f"{name}: without a witness the bound {blind!r} is above the minimum {float(least)!r}")
    if not math.isfinite(found.value):
        return found
    require(
        structure.violation(found.point) == 0, f"{name}: the point violates S by {structure.violation(found.point)}"
    )
    worth = model.value(found.point) + structure.price(found.point)
    size = separable_size(model.linear, model.curvature, found.point, model.constant) + structure.price(found.point)
    # An entry that is kept at 0 is charged by the oracle and not by the point: the point may only be cheaper.
    require(worth <= found.value + 1e-12 * size, f"{name}: it says {found.value!r}, the point is worth {worth!r}")
    if brute is not None:
        least = float(brute.minimum(model, torch.zeros_like(model.linear)))
        require(found.value <= least + 1e-12 * size, f"{name}: value {found.value!r}, the minimum is {least!r}")
    return found


def _check_rational(structure: Structure, draw: _Draw, found: Argmin) -> None:
    """The exact bound lies between the float64 one and the value."""
    model = draw.model
    if not math.isfinite(found.value):
        return
    curvature = model.curvature.expand(model.linear.shape)
    exact = RationalModel(Fraction(model.constant), rational(model.linear), rational(curvature))
    try:
        bound = structure.rational_bound(exact, found.witness)
    except Unsupported:
        return
    except CertificateError:
        require(found.bound == -math.inf, f"rational_bound of a {draw.name} model: it proves nothing, argmin does")
        return
    require(found.bound <= bound, f"rational_bound of a {draw.name} model: below the float64 bound {found.bound!r}")
    slack = 1e-12 * separable_size(model.linear, model.curvature, found.point, model.constant)
    require(bound <= found.value + slack, f"rational_bound of a {draw.name} model: above the value {found.value!r}")


def _check_sampled(structure: Structure, draw: _Draw, found: Argmin, points: list[Tensor]) -> None:
    for point in points:
        worth = draw.model.value(point) + structure.price(point)
        slack = 1e-12 * separable_size(draw.model.linear, draw.model.curvature, point, draw.model.constant)
        name = f"argmin of a {draw.name} model"
        require(found.bound <= worth + slack, f"{name}: the bound {found.bound!r} is above a member's {worth!r}")


def _check_fixings(
    structure: Structure, shape: tuple[int, ...], generator: torch.Generator, brute: _Brute | None
) -> None:
    on = random_mask(shape, generator, 0.15)
    off = random_mask(shape, generator, 0.3) & ~on
    model = _draws(shape, generator)[0].model
    restricted = structure.restrict(on, off)
    found, free = restricted.argmin(model), structure.argmin(model)
    require(found.bound >= free.bound, "restrict: the bound fell, although the set is smaller")
    if math.isfinite(found.value):
        require(not bool(restricted.mask_of(found.point)[off].any()), "restrict: an entry that is off is not zero")
        require(structure.violation(found.point) == 0, "restrict: a point of the restricted set is not in S")
        require(restricted.violation(found.point) == 0, "restrict: its own point violates it")
        kept = torch.where(off, 1.0, 0.0).double()
        if bool(off.any()):
            require(restricted.violation(kept) > 0, "restrict: a point on entries that are off has violation 0")
    if brute is None:
        return
    right = (brute.members | ~on).flatten(1).all(dim=1) & ~(brute.members & off).flatten(1).any(dim=1)
    inside = brute._replace(members=brute.members[right])
    least = inside.minimum(model, torch.zeros(shape, dtype=torch.float64))
    require(found.bound <= least, f"restrict: the bound {found.bound!r} is above the minimum {float(least)!r}")
    close = found.value == least or abs(found.value - float(least)) <= 1e-9 * (1 + abs(float(least)))
    require(close, f"restrict: the value {found.value!r} is not the minimum {float(least)!r}")


def _check_violation(structure: Structure, member: Tensor, generator: torch.Generator) -> None:
    """Members stay members when they are multiplied by a little less than one; points outside the box do not."""
    if isinstance(structure, Masks):
        half = 0.5 * torch.ones_like(member)
        require(structure.violation(half) > 0, "violation: one half is accepted as a mask entry")
        return
    if not isinstance(structure, Sparse):
        return
    support, flags = member != 0, random_mask(tuple(member.shape), generator)
    agrees = (structure.supports.violation(flags) == 0) == (Sparse(structure.supports).violation(flags.double()) == 0)
    require(agrees, "violation: the point and its support disagree")
    require(structure.price(member) >= 0, "price: it is negative")
    if structure.box is not None and bool(support.any()):
        top = torch.as_tensor(structure.box[1], dtype=torch.float64).expand(member.shape)
        outside = torch.where(support, torch.nextafter(top, torch.full_like(top, math.inf)), member)
        if bool(torch.isfinite(outside).all()):
            require(structure.violation(outside) > 0, "violation: a point above the box is accepted")


def _check_relaxed_step(structure: Structure, shape: tuple[int, ...], generator: torch.Generator) -> None:
    """The proximal step beats the same step on masks of the family and on mixtures of them."""
    center = torch.randn(shape, generator=generator, dtype=torch.float64)
    split = 0.2 + torch.rand(shape, generator=generator, dtype=torch.float64)
    metric = torch.full(shape, 0.5, dtype=torch.float64)
    found = structure.relaxed_step(center, split, metric)
    if found is None or not isinstance(structure, Sparse):
        return
    w, z = found
    price = float(torch.as_tensor(structure.price_per_entry).max())

    def objective(w: Tensor, z: Tensor) -> float:
        bent = torch.where(w == 0, 0.0, w * w / z.clamp_min(1e-300))
        return float((0.5 * metric * (w - center).square() + 0.5 * split * bent + price * z).sum())

    mine = objective(w, z)
    masks = [structure.supports.keep(torch.randn(shape, generator=generator, dtype=torch.float64)) for _ in range(6)]
    shares = [mask.double() for mask in masks] + [np.mean([mask.double().numpy() for mask in masks], axis=0)]
    for share in (torch.as_tensor(share) for share in shares):
        other = metric * center * share / (metric * share + split)
        value = objective(other, share)
        require(
            mine <= value * (1 + 1e-3) + 1e-9, f"relaxed_step: its objective {mine:.6g} is above another's {value:.6g}"
        )
