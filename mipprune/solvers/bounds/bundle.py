"""A bundle method for the bound of losses that few dual variables decide: exact quadratic pieces, one for each mask."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.dual import Dual, Piece
from ...core.problem import Problem
from ...core.solver import Watch
from ...kernels.pieces import maximise_least

__all__ = ["Bundle", "maximise_dual", "view"]

_PIECES = 32  # kept in the bundle; beyond it, those that matter least are merged
_FLAT = 1e-9  # the search ends when the pieces leave less than this to gain, relative to the bound
_IDLE = 1e-3  # or less than this, relative to the distance from the bound to the best value


@dataclass(eq=False)
class Bundle:
    """What a run of :func:`maximise_dual` knows; hand it in again to go on.

    Attributes
    ----------
    point : Tensor or None, shape (n,)
        The dual vector with the largest bound.
    bound : float
        Its bound, in working precision: a guide, not a proof.
    ceiling : float
        No dual vector has a larger bound than this (up to rounding).
    mask : Tensor or None
        The mask with the smallest value among those met.
    value : float
        Least value of the objective on that mask, in working precision.
    shares : Tensor or None
        The fractional mask of the relaxation: the masks of the bundle, mixed.
    iterations : int
    """

    point: Tensor | None = None
    bound: float = -math.inf
    ceiling: float = math.inf
    mask: Tensor | None = None
    value: float = math.inf
    shares: Tensor | None = None
    iterations: int = 0
    pieces: list[Piece] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    mixture: Tensor | None = None


def view(problem: Problem, split: Tensor) -> Dual | None:
    """Return the dual view of a problem whose masks have quadratic pieces: weights without a box."""
    structure = problem.structure
    if not isinstance(structure, Sparse) or structure.box is not None:
        return None
    return problem.loss.dual(split)


def maximise_dual(
    problem: Problem,
    dual: Dual,
    begin: Tensor,
    *,
    bundle: Bundle | None = None,
    iterations: int = 30,
    cutoff: float = math.inf,
    tolerance: float = 0.0,
    watch: Watch | None = None,
) -> Bundle:
    r"""Maximise the bound over the dual vector.

    Parameters
    ----------
    problem : Problem
        In working precision.
    dual : Dual
        As returned by :func:`view`.
    begin : Tensor, shape of the problem
        Where to start. If it is in S, its mask is the first one; else the first is the oracle's at its dual vector.
    bundle : Bundle, optional
        An earlier run to go on from.
    iterations : int
        Each costs one oracle call, one product with the data, and a small concave problem.
    cutoff : float
        Stop as soon as the bound exceeds it.
    tolerance : float
        Stop as soon as the smallest value met and the bound agree to this, relatively.
    watch : Watch, optional
        Stops the run when its time is up.

    Notes
    -----
    Every oracle call yields a mask, and the mask a concave quadratic q that lies above the bound everywhere and is
    equal to it where the oracle was called; the maximum of q is the least value of the loss on that mask, so that each
    iteration improves the bound, its ceiling and the best point alike. The next dual vector is half way between the
    best one and the maximum of the least of all quadratics: the full step overshoots, since the oracle changes its
    mind about many entries at once. Derived here; it replaces the damped fixed-point iteration
    ``u <- u_best + (X d_S - u_best)/(1 + t/2)``, whose maxima are those of single quadratics.
    """
    structure = problem.structure
    assert isinstance(structure, Sparse)
    bundle = Bundle() if bundle is None else bundle
    if bundle.point is None and not bundle.pieces and structure.violation(begin) == 0:
        mask = structure.mask_of(begin)
        _add(bundle, dual, mask, structure.price(mask.to(begin)))
    target = dual.of(begin) if bundle.point is None else bundle.point
    for _ in range(iterations):
        if bundle.pieces:
            try:
                peak = maximise_least(
                    torch.stack([piece.hessian for piece in bundle.pieces]),
                    torch.stack([piece.linear for piece in bundle.pieces]),
                    torch.tensor([piece.constant for piece in bundle.pieces], dtype=torch.float64).to(target),
                    bundle.mixture,
                )
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # the pieces have no digits left
                bundle.point = target if bundle.point is None else bundle.point
                break
            bundle.mixture, bundle.ceiling = peak.shares, min(bundle.ceiling, peak.value)
            left = bundle.ceiling - bundle.bound
            if bundle.point is not None and left <= max(
                _FLAT * abs(bundle.ceiling), _IDLE * (bundle.value - bundle.bound)
            ):
                break
            target = peak.point if bundle.point is None else 0.5 * (bundle.point + peak.point)
        model = dual.model(target)
        selection = structure.supports.select(structure.gain(model))
        bundle.iterations += 1
        bound = model.constant - selection.bound
        if bound > bundle.bound or bundle.point is None:
            bundle.point, bundle.bound = target, bound
        if not math.isfinite(selection.bound):
            break  # an empty family, or an entry without curvature: nothing more to learn
        _add(bundle, dual, selection.mask, structure.price(selection.mask.to(begin)))
        if watch is not None and watch.due() is not None:
            break
        if bundle.bound > cutoff or bundle.value - bundle.bound <= tolerance * abs(bundle.value):
            break
    if bundle.mixture is not None and bundle.masks:
        bundle.shares = _mixed(bundle)
    return bundle


def _add(bundle: Bundle, dual: Dual, mask: Tensor, price: float) -> None:
    """Add the piece of a mask, and see whether the mask is the best one so far."""
    piece = dual.piece(mask)
    piece = piece._replace(constant=piece.constant + price)
    found, failed = torch.linalg.solve_ex(piece.hessian, piece.linear)
    value = piece.constant + 0.5 * float(piece.linear @ found)
    if int(failed) or not math.isfinite(value):  # next to no ridge: the mask is a candidate, the piece is of no use
        bundle.mask = mask if bundle.mask is None else bundle.mask
        return
    if value < bundle.value:
        bundle.mask, bundle.value = mask, value
    bundle.pieces.append(piece)
    bundle.masks.append(mask)
    count = len(bundle.pieces)
    old = torch.ones(0).to(piece.linear) if bundle.mixture is None else bundle.mixture
    fresh = 1.0 if count == 1 else 0.1
    bundle.mixture = torch.cat([(1.0 - fresh) * old, old.new_tensor([fresh])])
    if count > _PIECES:
        _merge(bundle)


def _merge(bundle: Bundle) -> None:
    """Drop the piece that matters least, or mix the two that do: a mixture lies above the bound as well."""
    assert bundle.mixture is not None
    order = bundle.mixture[:-1].argsort()
    first, second = sorted((int(order[0]), int(order[1])))
    a, b = float(bundle.mixture[first]), float(bundle.mixture[second])
    share = 0.5 if a + b == 0.0 else a / (a + b)
    one, two = bundle.pieces[first], bundle.pieces[second]
    bundle.pieces[first] = Piece(
        share * one.hessian + (1.0 - share) * two.hessian,
        share * one.linear + (1.0 - share) * two.linear,
        share * one.constant + (1.0 - share) * two.constant,
    )
    mixed = share * bundle.masks[first].double() + (1.0 - share) * bundle.masks[second].double()
    bundle.masks[first] = mixed
    kept = [index for index in range(len(bundle.pieces)) if index != second]
    bundle.mixture[first] = a + b
    bundle.mixture = bundle.mixture[kept]
    bundle.pieces = [bundle.pieces[index] for index in kept]
    bundle.masks = [bundle.masks[index] for index in kept]


def _mixed(bundle: Bundle) -> Tensor:
    assert bundle.mixture is not None
    out = torch.zeros(bundle.masks[0].shape, dtype=torch.float64, device=bundle.masks[0].device)
    for share, mask in zip(bundle.mixture.tolist(), bundle.masks, strict=True):
        if share > 0:
            out += share * mask.double()
    return out
