"""The contract of a loss, checked at random points."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.loss import Loss
from ..core.rational import RationalModel, rational, total
from ..core.separable import Separable
from ..errors import CertificateError, Unsupported
from .require import random_mask, random_point, require, separable_size

__all__ = ["check_loss"]

_EXACT_ENTRIES = 64  # largest loss whose certificates are also evaluated in rational arithmetic


class _Draw(NamedTuple):
    """One trial: points, a random split with what it is called, fixings."""

    v: Tensor
    w: Tensor
    splits: tuple[tuple[str, Tensor | None], ...]
    on: Tensor
    off: Tensor


def check_loss(loss: Loss, *, seed: int = 0, trials: int = 20) -> None:
    """Check everything the package relies on in a loss.

    Parameters
    ----------
    loss : Loss
        Any loss, checked in float64 on the CPU; small ones (at most 64 entries) also in exact arithmetic.
    seed : int
        Of the random points.
    trials : int
        How many points.

    Raises
    ------
    AssertionError
        Naming the first broken promise: a gradient that is none, a majorant below or a minorant above the loss, an
        invalid split that is accepted, a refit that is not stationary, a level box that is too small, a conditioned
        loss above the loss, a resolvent that is not optimal, a cvxpy expression with another value, a rounding error
        that is larger than stated.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> mp.testing.check_loss(mp.LeastSquares(torch.eye(3), torch.ones(3), ridge=0.1), trials=3)
    """
    generator = torch.Generator().manual_seed(seed)
    _check_basics(loss)
    loss = loss.to(device="cpu", dtype=torch.float64)  # where promises are kept
    for _ in range(trials):
        draw = _draw(loss, generator)
        _check_gradient(loss, draw.w, generator)
        _check_majorant(loss, draw)
        _check_minorant(loss, draw)
        _check_refit(loss, draw, generator)
        _check_conditioned(loss, draw, generator)
        _check_resolvent(loss, draw)
        _check_level_box(loss, draw, generator)
    _check_invalid_splits(loss, draw.v)
    for trial in range(min(trials, 4)):
        draw = _draw(loss, generator)
        _check_expression(loss, draw, scale=10.0 ** (trial - 1))
        if int(np.prod(loss.shape)) <= _EXACT_ENTRIES:
            _check_exactly(loss, draw)


def _draw(loss: Loss, generator: torch.Generator) -> _Draw:
    start = loss.start()
    v, w = random_point(start, generator), random_point(start, generator)
    weights = torch.rand(loss.shape, generator=generator, dtype=torch.float64)
    best, weighted = loss.best_split(), loss.best_split(weights)
    on = random_mask(loss.shape, generator, 0.2)
    off = random_mask(loss.shape, generator, 0.3) & ~on
    splits = [("default split", None), ("zero split", torch.zeros(loss.shape, dtype=torch.float64))]
    splits += [("best split", best)] if best is not None else []
    splits += [("weighted split", weighted)] if weighted is not None else []
    if best is not None and weighted is not None and not torch.equal(best, weighted):
        share = float(torch.rand((), generator=generator))
        splits.append(("mean of two splits", share * best.double() + (1 - share) * weighted.double()))
    return _Draw(v, w, tuple(splits), on, off)


def _tolerance(loss: Loss, *points: Tensor) -> float:
    return max(loss.rounding(point) for point in points) + 1e-13 * loss.scale


def _check_basics(loss: Loss) -> None:
    require(loss.scale > 0, f"scale is {loss.scale}; it must be positive")
    start = loss.start()
    require(tuple(start.shape) == loss.shape, f"start() has shape {tuple(start.shape)}, the loss {loss.shape}")
    require(bool(loss.describe().strip()), "describe() is empty")
    narrow = loss.to(dtype=torch.float32)
    require(narrow.shape == loss.shape, "to(dtype=float32) changes the shape")
    single, double = narrow.value(start), loss.value(start)
    require(abs(single - double) <= 1e-3 * (loss.scale + abs(double)), "to(dtype=float32) changes the value")


def _check_gradient(loss: Loss, w: Tensor, generator: torch.Generator) -> None:
    gradient = loss.gradient(w)
    require(gradient.shape == w.shape, f"gradient has shape {tuple(gradient.shape)} for a point {tuple(w.shape)}")
    value, together = loss.value_and_gradient(w)
    slack = 1e-9 * (loss.scale + abs(loss.value(w)))
    require(abs(value - loss.value(w)) <= slack, "value_and_gradient disagrees with value")
    near = bool(((together - gradient).abs() <= 1e-9 * (1e-300 + gradient.abs().max())).all())
    require(near, "value_and_gradient disagrees with gradient")
    reach = 1e-4 * (float(w.abs().mean()) or 1.0)
    for _ in range(3):
        direction = torch.randn(w.shape, generator=generator, dtype=torch.float64)
        ahead, behind = w + reach * direction, w - reach * direction
        slope = float((gradient * direction).sum())
        measured = (loss.value(ahead) - loss.value(behind)) / (2 * reach)
        size = float((gradient * direction).abs().sum())
        noise = (loss.rounding(ahead) + loss.rounding(behind) + 1e-15 * abs(loss.value(w))) / reach
        require(
            abs(measured - slope) <= 1e-5 * size + 4 * noise,
            f"gradient: along a random direction it gives {slope:.9g}, finite differences {measured:.9g}",
        )


def _check_majorant(loss: Loss, draw: _Draw) -> None:
    majorant = loss.majorant(draw.v)
    if majorant is None:
        return
    require(bool((majorant.curvature >= 0).all()), "majorant: its curvature has negative entries")
    for point, name in ((draw.w, "at a random point"), (draw.v, "at v")):
        size = separable_size(majorant.linear, majorant.curvature, point, majorant.constant)
        slack = _tolerance(loss, point, draw.v) + 1e-12 * size
        difference = majorant.value(point) - loss.value(point)
        require(difference >= -slack, f"majorant: {-difference:.3g} below the loss {name}")
        if point is draw.v:
            require(difference <= slack, f"majorant: {difference:.3g} above the loss at v, where it must touch")


def _lowest(model: Separable, w: Tensor) -> float:
    """The model at ``w`` with every linear coefficient moved down by its stated error."""
    error = 0.0 if model.linear_error is None else float((model.linear_error * w.abs()).sum())
    return model.value(w) - error


def _require_below(loss: Loss, model: Separable, w: Tensor, name: str) -> None:
    require(bool((model.curvature >= 0).all()), f"minorant with {name}: its curvature has negative entries")
    value = loss.value(w)
    slack = _tolerance(loss, w) + 1e-13 * separable_size(
        model.linear, model.curvature.expand(w.shape), w, model.constant
    )
    lowest = _lowest(model, w)
    require(lowest <= value + slack, f"minorant with {name}: {lowest - value:.3g} above the loss")


def _check_minorant(loss: Loss, draw: _Draw) -> None:
    allowed = ~draw.off
    inside_v, inside_w = torch.where(allowed, draw.v, 0.0), torch.where(allowed, draw.w, 0.0)
    for name, split in draw.splits:
        model = loss.minorant(draw.v, split)
        for point in (draw.w, draw.v, torch.zeros_like(draw.w), 100.0 * draw.w):
            _require_below(loss, model, point, name)
        size = separable_size(model.linear, model.curvature.expand(loss.shape), draw.v, model.constant)
        short = loss.value(draw.v) - model.value(draw.v)
        require(short <= 1e-7 * (loss.scale + size), f"minorant with {name}: it stays {short:.3g} below the loss at v")
        for v in (inside_v, draw.v):
            _require_below(loss, loss.minorant(v, split, allowed), inside_w, f"{name} and some entries off")


def _check_invalid_splits(loss: Loss, v: Tensor) -> None:
    majorant = loss.majorant(v)
    largest = 1e6 * loss.scale if majorant is None else float(majorant.curvature.max())
    ones = torch.ones(loss.shape, dtype=torch.float64)
    bad = {
        "ten times the largest curvature": ones * (10 * largest or 1.0),
        "ten times the largest curvature, as one number": torch.tensor([10 * largest or 1.0], dtype=torch.float64),
        "negative": -ones,
        "not a number": ones * torch.nan,
        "infinite": ones * torch.inf,
    }
    for name, split in bad.items():
        _require_refused(loss, v, split, None, name)
    off = torch.zeros(loss.shape, dtype=torch.bool)
    off.view(-1)[0] = True
    hidden = torch.where(off, 10 * largest or 1.0, 0.0).double()
    _require_refused(loss, torch.ones_like(v), hidden, ~off, "too large where only the point of tangency is not zero")


def _require_refused(loss: Loss, v: Tensor, split: Tensor, allowed: Tensor | None, name: str) -> None:
    exactly = int(np.prod(loss.shape)) <= _EXACT_ENTRIES and _supports_rational(loss)
    for method in (loss.minorant, loss.rational_minorant) if exactly else (loss.minorant,):
        try:
            method(v, split, allowed)
        except CertificateError:
            continue
        raise AssertionError(f"{method.__name__}: it accepts an invalid split ({name}); raise CertificateError")


def _check_refit(loss: Loss, draw: _Draw, generator: torch.Generator) -> None:
    mask = random_mask(loss.shape, generator)
    point = loss.minimise_on(mask)
    require(tuple(point.shape) == loss.shape, f"minimise_on: shape {tuple(point.shape)}, the loss has {loss.shape}")
    require(bool((point[~mask] == 0).all()), "minimise_on: the point is not zero outside the mask")
    slope, at_zero = loss.gradient(point), loss.gradient(torch.zeros_like(point))
    if torch.equal(slope, at_zero) and bool(point.any()):
        return  # a linear function has no minimiser
    terms = (slope - at_zero).abs().max() + at_zero.abs().max()
    left = float(slope[mask].abs().max()) if bool(mask.any()) else 0.0
    require(
        left <= 1e-6 * float(terms), f"minimise_on: the gradient on the mask is up to {left:.3g}, so it is no minimiser"
    )
    other = torch.where(mask, draw.w.to(point), 0.0)
    require(
        loss.value(point) <= loss.value(other) + _tolerance(loss, point, other), "minimise_on: another point is better"
    )


def _check_conditioned(loss: Loss, draw: _Draw, generator: torch.Generator) -> None:
    split = loss.best_split()
    split = torch.zeros(loss.shape, dtype=torch.float64) if split is None else split.double().expand(loss.shape)
    reduced, tighter = loss.condition(draw.on, draw.off, split)
    for _ in range(3):
        w = torch.where(draw.off, 0.0, random_point(draw.w, generator))
        slack = 1e-9 * (loss.scale + abs(loss.value(w)))
        require(reduced.value(w) <= loss.value(w) + slack, "condition: the conditioned loss is above the loss")
    try:
        reduced.minorant(torch.where(draw.on | draw.off, 0.0, draw.v), tighter)
    except CertificateError as error:
        raise AssertionError(f"condition: its split is not valid for the conditioned loss ({error})") from error
    point, lifted = loss.lift(draw.v, split, draw.on, draw.off)
    require(bool((point[draw.off] == 0).all()), "lift: the point is not zero on the entries that are off")
    try:
        model = loss.minorant(point, lifted, ~draw.off)
    except CertificateError as error:
        raise AssertionError(f"lift: the lifted split is not valid ({error})") from error
    _require_below(loss, model, torch.where(draw.off, 0.0, draw.w), "a lifted split")


def _check_resolvent(loss: Loss, draw: _Draw) -> None:
    for name, split in draw.splits:
        if split is None:
            continue
        for strength in (0.1, 1.0):
            found = loss.resolvent(split, strength)
            if found is None:
                return
            metric, apply = found
            require(bool((metric > 0).all()), "resolvent: the metric must be positive")
            w = apply(draw.v).double()
            slope, anchor = loss.gradient(w).double(), metric.double() * (w - draw.v)
            left = (slope - split.double() * w + anchor).abs().max()
            size = slope.abs().max() + (metric * draw.v).abs().max() + loss.gradient(torch.zeros_like(w)).abs().max()
            require(
                float(left) <= 1e-7 * float(size), f"resolvent with {name}: not optimal, residual {float(left):.3g}"
            )


def _check_level_box(loss: Loss, draw: _Draw, generator: torch.Generator) -> None:
    base = loss.start().double()
    level = loss.value(draw.w)
    box = loss.level_box(level)
    if box is None or loss.value(base) > level:
        return
    for _ in range(4):
        direction = torch.randn(loss.shape, generator=generator, dtype=torch.float64)
        if float(torch.rand((), generator=generator)) < 0.5:  # along an axis the box is tightest
            direction = direction * (direction == direction.abs().max() * direction.sign())
        low, high = 0.0, float((draw.w - base).abs().max()) / float(direction.abs().max())
        while loss.value(base + high * direction) <= level and high < 1e12:
            high *= 2.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if loss.value(base + middle * direction) <= level else (low, middle)
        point = base + low * direction
        slack = 1e-9 * (point.abs() + box[0].abs() + box[1].abs())
        inside = bool(((point >= box[0] - slack) & (point <= box[1] + slack)).all())
        require(inside, f"level_box: a point with value {loss.value(point):.9g} <= {level:.9g} is outside")


def _check_expression(loss: Loss, draw: _Draw, scale: float) -> None:
    import cvxpy as cp

    for name, split in draw.splits:
        variable = cp.Variable(loss.shape, name="w")
        expression = loss.expression(variable, split, scale)
        require(bool(expression.is_convex()), f"expression with {name}: it is not convex by cvxpy's rules")
        variable.value = draw.w.numpy()
        found = scale * float(expression.value)
        rest = 0.0 if split is None else 0.5 * float((split * draw.w * draw.w).sum())
        expected = loss.value(draw.w) - rest
        size = loss.scale + abs(loss.value(draw.w)) + rest
        require(
            abs(found - expected) <= 1e-8 * size,
            f"expression with {name}: {found:.12g} where value minus the split's part is {expected:.12g}",
        )


def _supports_rational(loss: Loss) -> bool:
    zero = torch.zeros(loss.shape, dtype=torch.float64)
    try:
        loss.rational_minorant(zero, zero, None)
    except Unsupported:
        return False
    except CertificateError:
        return True
    return True


def _exact_value(model: RationalModel, w: Tensor) -> Fraction:
    point = rational(w)
    return model.constant + total(model.linear * point) + total(model.curvature * point * point) / 2


def _splits_to_try(draw: _Draw) -> Iterator[tuple[str, Tensor]]:
    return ((name, split) for name, split in draw.splits if split is not None)


def _check_exactly(loss: Loss, draw: _Draw) -> None:
    """Compare the float64 model with the exact one, and the exact one with the loss, whose tangent at w gives F(w)."""
    if not _supports_rational(loss):
        return
    for name, split in _splits_to_try(draw):
        exact, model = loss.rational_minorant(draw.v, split, None), loss.minorant(draw.v, split)
        error = torch.zeros(loss.shape) if model.linear_error is None else model.linear_error.expand(loss.shape)
        stated = RationalModel(
            Fraction(model.constant), rational(model.linear), rational(model.curvature.expand(loss.shape))
        )
        same = bool((stated.curvature == exact.curvature).all())
        require(same, f"minorant with {name}: its curvature is not the exact one")
        for w in (draw.w, torch.where(draw.off, 0.0, draw.w), draw.v):
            value = _exact_value(loss.rational_minorant(w, split, None), w)
            require(_exact_value(exact, w) <= value, f"rational_minorant with {name}: it is above the loss")
            lowest = _exact_value(stated, w) - total(rational(error) * abs(rational(w)))
            require(lowest <= value, f"minorant with {name}: above the loss by more than the rounding it states")
            allowance, actual = loss.rounding(w), abs(Fraction(loss.value(w)) - value)
            require(
                actual <= allowance, f"rounding: it states {allowance:.3g}, the error of value is {float(actual):.3g}"
            )
