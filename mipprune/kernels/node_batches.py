"""Relaxations of many nodes of one tree at once, on any device: accelerated proximal steps on a stack of points.

The problem of each node is that of :mod:`~mipprune.kernels.node_descent` without a limit on the number of kept entries.
One product with the shared matrix serves all nodes of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Quadratics", "Stack", "relax_together", "steepest"]

_STEPS = 32  # between two looks at all columns
_NEAR = 0.9  # of its threshold: the slope from which a column is worked on
_POWER = 40  # power iterations
_SLACK = 1.03  # on the largest eigenvalue that they find


class Quadratics:
    """The quadratic form that all nodes share, on the device of the work.

    Parameters
    ----------
    design : Tensor, shape (n, p)
        X; the form is ``1/2 ||X t||^2 - <pull, t> + constant``.
    pull : Tensor, shape (p,)
        X'y.
    constant : float
    """

    def __init__(self, design: Tensor, pull: Tensor, constant: float) -> None:
        n, p = design.shape
        self.pull, self.constant = pull, constant
        self._gram = design.mT @ design if p <= 2 * n else None
        self._design = design

    def times(self, points: Tensor) -> Tensor:
        """Return the rows of ``points`` (b, p) times X'X."""
        return points @ self._gram if self._gram is not None else (points @ self._design.mT) @ self._design

    def part(self, columns: Tensor) -> Tensor:
        """Return X'X for some columns."""
        if self._gram is not None:
            return self._gram[columns][:, columns]
        return self._design[:, columns].mT @ self._design[:, columns]


def steepest(matrix: Tensor) -> Tensor:
    """Return weights, a multiple of the diagonal, for which Diag(weights) - matrix is nearly positive semidefinite."""
    scale = torch.where(matrix.diagonal() > 0, matrix.diagonal(), torch.ones_like(matrix.diagonal()))
    root = scale.rsqrt()
    vector = torch.ones_like(root) + 1e-3 * torch.arange(len(root), device=root.device, dtype=root.dtype)
    size = torch.linalg.vector_norm(vector)
    for _ in range(_POWER):
        vector = root * (matrix @ (root * vector / size))
        size = torch.linalg.vector_norm(vector).clamp_min(1e-300)
    weights: Tensor = _SLACK * size.clamp_min(1e-12) * scale
    return weights


class Stack(NamedTuple):
    """Nodes below each other; (b, p) each but for the price, which is (p,)."""

    fixed: Tensor
    """int8: -1 off, 0 free, 1 on"""
    shift: Tensor
    """curvature taken from X'X"""
    price: Tensor
    l2: Tensor
    """half the curvature of the separable part, with the shift"""
    lower: Tensor
    upper: Tensor

    def rows(self, chosen: Tensor) -> Stack:
        """Return some of the nodes."""
        return Stack(*(part if part is self.price else part[chosen] for part in self))

    def columns(self, chosen: Tensor) -> Stack:
        """Return some of the entries."""
        return Stack(*(part[..., chosen] for part in self))


class Envelope:
    """The convex envelope of each entry's penalty: linear up to a point on each side, the parabola beyond."""

    def __init__(self, stack: Stack) -> None:
        natural = torch.sqrt(stack.price / stack.l2.clamp_min(0.0)).nan_to_num(nan=0.0, posinf=math.inf)
        self.up, self.up_slope = self._side(stack, natural, stack.lower, stack.upper)
        self.down, self.down_slope = self._side(stack, natural, -stack.upper, -stack.lower)

    @staticmethod
    def _side(stack: Stack, natural: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        point = torch.minimum(torch.maximum(natural, low), high)
        inside = torch.where((point > 0) & point.isfinite(), point, torch.ones_like(point))
        slope = torch.where(point.isfinite(), stack.price / inside + stack.l2 * inside, torch.zeros_like(point))
        slope = torch.where(point > 0, slope, torch.zeros_like(point))
        empty = high <= 0
        return point.masked_fill(empty, 0.0), slope.masked_fill(empty, math.inf)

    def penalty(self, stack: Stack, t: Tensor) -> Tensor:
        """Return the penalty (b,) of the points: the envelope where free, the parabola where on."""
        size = t.abs()
        point = torch.where(t > 0, self.up, self.down)
        slope = torch.where(t > 0, self.up_slope, self.down_slope)
        parabola = stack.price + stack.l2 * size.square()
        linear = torch.where(size > 0, slope * size, torch.zeros_like(size))
        paid = torch.where((stack.fixed > 0) | (size > point), parabola, linear)
        return torch.where(stack.fixed < 0, torch.zeros_like(paid), paid).sum(dim=1)

    def nearest(self, stack: Stack, target: Tensor, weight: Tensor) -> Tensor:
        """Return the minimisers of ``weight/2 (t - target)^2`` plus the penalty; weight (p,)."""
        positive = target > 0
        size = target.abs()
        point = torch.where(positive, self.up, self.down)
        slope = torch.where(positive, self.up_slope, self.down_slope)
        limit = torch.where(positive, stack.upper, -stack.lower)
        ridged = weight / (weight + 2 * stack.l2)
        linear = (size - slope / weight).clamp_min(0.0)
        beyond = torch.minimum(torch.maximum(size * ridged, point), limit)
        free = torch.where(linear > point, beyond, linear) * target.sign()
        kept = torch.minimum(torch.maximum(target * ridged, stack.lower), stack.upper)
        return torch.where(stack.fixed == 0, free, torch.where(stack.fixed > 0, kept, torch.zeros_like(kept)))


def relax_together(
    form: Quadratics,
    stack: Stack,
    start: Tensor,
    *,
    cutoff: float,
    accuracy: float,
    rounds: int = 12,
    go_on: Callable[[], bool] = lambda: True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Solve the relaxations until each bound reaches the cutoff or the gap of its relaxation the accuracy.

    Parameters
    ----------
    form : Quadratics
    stack : Stack
    start : Tensor, shape (b, p)
        Moved into the intervals first.
    cutoff, accuracy : float
    rounds : int
        Looks at all columns, at most; between two, steps are made on those near their thresholds in some node.
    go_on : callable
        Asked now and then.

    Returns
    -------
    points : Tensor, shape (b, p)
        The points with the best bounds.
    slopes : Tensor, shape (b, p)
        ``pull - (X'X - Diag(shift)) t`` there.
    bounds : Tensor, shape (b,)
        Of their tangents, without rounding allowance.
    values : Tensor, shape (b,)
        The smallest values of the relaxations that were met.

    Notes
    -----
    FISTA with restarts for each row, in the metric of the columns' lengths. The bound at a point follows from its slope
    alone, so that unsolved relaxations bound too.
    """
    zero, on = torch.zeros_like(start), stack.fixed > 0
    low = torch.where(on, stack.lower, stack.lower.clamp_max(0.0))
    high = torch.where(on, stack.upper, stack.upper.clamp_min(0.0))
    t = torch.where(stack.fixed < 0, zero, torch.minimum(torch.maximum(start, low), high))
    points, slopes = t.clone(), zero.clone()
    bounds = torch.full_like(start[:, 0], -math.inf)
    values = torch.full_like(bounds, math.inf)
    rows = torch.arange(len(start), device=start.device)  # those not done
    envelope, ahead, momentum = Envelope(stack), t, torch.ones_like(bounds)
    for turn in range(rounds + 1):
        slope = form.pull - form.times(t) + stack.shift * t
        bound, value = _bounded(form, stack, envelope, t, slope)
        better = bound > bounds[rows]
        points[rows[better]], slopes[rows[better]] = t[better], slope[better]
        bounds[rows] = torch.maximum(bounds[rows], bound)
        values[rows] = torch.minimum(values[rows], value)
        left = (bounds[rows] < cutoff) & (values[rows] - bounds[rows] > accuracy)
        chosen = left.nonzero().ravel()
        if turn == rounds or not len(chosen) or not go_on():
            break
        if len(chosen) < len(rows):
            stack, t, slope, rows = stack.rows(chosen), t[chosen], slope[chosen], rows[chosen]
            envelope, ahead, momentum = Envelope(stack), ahead[chosen], momentum[chosen]
        wanted = slope.abs() >= _NEAR * torch.where(slope > 0, envelope.up_slope, envelope.down_slope)
        near = (((wanted & (stack.fixed == 0)) | (stack.fixed > 0) | (t != 0)).any(dim=0)).nonzero().ravel()
        state = t[:, near], ahead[:, near], momentum
        found = _steps(form.part(near), form.pull[near], stack.columns(near), *state)
        t, ahead, momentum = torch.zeros_like(t), torch.zeros_like(t), found[2]
        t[:, near], ahead[:, near] = found[:2]
    return points, slopes, bounds, values


def _steps(
    matrix: Tensor, pull: Tensor, stack: Stack, t: Tensor, ahead: Tensor, momentum: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points, the points ahead of them and the momenta after some accelerated proximal steps."""
    envelope, weight = Envelope(stack), steepest(matrix)
    for _ in range(_STEPS):
        gradient = ahead @ matrix - stack.shift * ahead - pull
        new = envelope.nearest(stack, ahead - gradient / weight, weight)
        moved = new - t
        away = ((ahead - new) * moved * weight).sum(dim=1) > 0
        following = torch.where(away, torch.ones_like(momentum), 0.5 * (1 + torch.sqrt(1 + 4 * momentum.square())))
        factor = torch.where(away, torch.zeros_like(momentum), (momentum - 1) / following)
        t, ahead, momentum = new, new + factor[:, None] * moved, following
    return t, ahead, momentum


def _bounded(form: Quadratics, stack: Stack, envelope: Envelope, t: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Return the bounds of the tangents and the values of the relaxations at points of known slopes."""
    zero = torch.zeros_like(slope)
    best = torch.minimum(torch.maximum(slope / (2 * stack.l2), stack.lower), stack.upper)
    curved = slope * best - stack.l2 * best.square()
    straight = slope * torch.where(slope > 0, stack.upper, stack.lower)
    gains = torch.where(stack.l2 > 0, curved, torch.where(slope == 0, zero, straight)) - stack.price
    gains = torch.where(stack.fixed == 0, gains.clamp_min(0.0), torch.where(stack.fixed > 0, gains, zero))
    bend = (t * (form.pull - slope)).sum(dim=1)
    bound = form.constant - 0.5 * bend - gains.sum(dim=1)
    value = form.constant - 0.5 * (t * (form.pull + slope)).sum(dim=1) + envelope.penalty(stack, t)
    return bound, value
