r"""Replaying the nodes of a tree over single entries: which bounds a tangent proves for a cell and for its parts.

For a separable model below the loss, the gain of an entry is its best decrease minus its price. With the entries that
are on, those that are free, and at most ``count`` kept ones, the model's minimum over the cell is ``constant - total``,

.. math:: \text{total} = \sum_{\text{on}} g_j + \text{the sum of the } m = \\text{count} - |\\text{on}|
          \text{ largest } [g_j]_+ \\text{ among the free},

and fixing one more entry changes the total by a number that follows from ``g_j`` and the m-th and (m+1)-th largest.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from .adapters import Sparse
from .arrays import UNIT_ROUNDOFF, gamma
from .loss import Models
from .rational import RationalModel
from .separable import Separable

__all__ = ["LIMIT", "LOWER", "OFF", "ON", "UPPER", "Step", "Totals", "gain_bounds", "rational_claims"]

OFF, ON, LOWER, UPPER, LIMIT = range(5)
"""Kinds of steps: they discard that an entry is kept, that it is zero, that a kept one is below or above a number, and
that a quantity of the loss is above a number."""


class Step(NamedTuple):
    """Steps of some nodes, flat."""

    row: Tensor
    """int64: which node of the batch"""
    entry: Tensor
    """int64: entry, in the batch's own numbering"""
    kind: Tensor
    """int8"""
    value: Tensor
    """float64: the new side of the interval, or the new limit"""


def gain_bounds(structure: Sparse, models: Models, lower: Tensor, upper: Tensor, price: Tensor) -> Tensor:
    """Return upper bounds of the gains, with kept entries in [lower, upper]; all of one shape."""
    boxed = Sparse(structure.supports, (lower, upper), price)
    error = models.error.expand(models.linear.shape)
    curvature = models.curvature.expand(models.linear.shape)
    gains = boxed.gain_bound(Separable(constant=0.0, linear=models.linear, curvature=curvature, linear_error=error))
    return torch.where(torch.isnan(gains), torch.inf, gains)


class Totals(NamedTuple):
    """The totals of some cells, rounded up, and what is needed to change them."""

    gains: Tensor
    """(B, size) upper bounds of the gains; entries that are off have none"""
    total: Tensor
    """(B,)"""
    last: Tensor
    """(B,) the m-th largest positive free gain, 0 where fewer are positive, ``inf`` where nothing more may be kept"""
    following: Tensor
    """(B,) the (m+1)-th largest"""
    constant: Tensor

    @classmethod
    def of(cls, gains: Tensor, on: Tensor, off: Tensor, count: int, constant: Tensor) -> Totals:
        """Add up the gains of each row; ``count`` is the largest number of kept entries of the whole problem."""
        size = gains.shape[1]
        kept = torch.where(on, gains, 0.0)
        free = torch.where(on | off, 0.0, gains.clamp_min(0.0))
        left = count - on.sum(dim=1)
        zero = torch.zeros_like(constant)
        open_entries = int((~(on | off)).sum(dim=1).max()) if gains.numel() else 0
        widest = int(left.max()) if left.numel() else 0
        if left.numel() and int(left.min()) >= open_entries:
            top, last, following = free.sum(dim=1), zero, zero
        else:
            ordered = torch.topk(free, min(max(widest, 0) + 1, size), dim=1).values
            padded = torch.nn.functional.pad(ordered, (1, 2))
            places = left.clamp(0, ordered.shape[1]).unsqueeze(1)
            top = padded.cumsum(dim=1).gather(1, places).squeeze(1)
            last = torch.where(left > 0, padded.gather(1, places).squeeze(1), torch.inf)
            following = padded.gather(1, places + 1).squeeze(1)
        total = kept.sum(dim=1) + top
        total = total + gamma(2 * size + 8) * (kept.abs().sum(dim=1) + top)
        total = torch.where(left < 0, -torch.inf, torch.where(torch.isnan(total), torch.inf, total))
        constant = torch.where(torch.isfinite(constant), constant, -torch.inf)  # an overflow proves nothing
        return cls(gains, total, last, following, constant)

    def bound(self) -> Tensor:
        """Return what each cell's tangent proves for it; ``inf`` for an empty cell."""
        return _below(self.constant - self.total, self.constant.abs() + self.total.abs())

    def without(self, steps: Step, restricted: Tensor, on: Tensor) -> Tensor:
        """Return what the tangents prove for the part that each step discards (limits excepted).

        Parameters
        ----------
        steps : Step
        restricted : Tensor, shape (steps,)
            For intervals, the entry's gain on the part that is discarded.
        on : bool Tensor, shape (steps,)
            Whether the entry is on already.
        """
        gain = self.gains[steps.row, steps.entry]
        positive = gain.clamp_min(0.0)
        total, last, following = (part[steps.row] for part in (self.total, self.last, self.following))
        new = torch.where(steps.kind == OFF, gain, restricted)
        kept = torch.where(on, total - gain + new, total - torch.maximum(positive, last) + new)
        dropped = total - (positive - following).clamp_min(0.0)
        changed = torch.where(steps.kind == ON, dropped, kept)
        changed = torch.where(torch.isnan(changed), torch.inf, changed)
        size = total.abs() + positive.abs() + gain.abs() + new.abs() + following
        size = torch.where(torch.isfinite(size), size, total.abs())
        constant = self.constant[steps.row]
        return _below(constant - changed, constant.abs() + size)


def _below(value: Tensor, size: Tensor) -> Tensor:
    """Lower a float64 result by the rounding of the few operations that made it; NaN becomes ``-inf``."""
    value = torch.where(torch.isnan(value), -torch.inf, value)
    return torch.where(torch.isfinite(value), value - 8.0 * UNIT_ROUNDOFF * size, value)


def rational_claims(
    model: RationalModel,
    gains: list[Fraction | None],
    on: set[int],
    off: set[int],
    count: int,
    steps: list[tuple[int, int, Fraction | None]],
) -> tuple[Fraction | None, list[Fraction | None]]:
    """Return the bound of a cell and of each part that a step discards, exactly; ``None`` stands for an empty one.

    Parameters
    ----------
    model : RationalModel
    gains : list
        Exact gains; ``None`` where unbounded.
    on, off : set of int
    count : int
        Largest number of kept entries.
    steps : list of (entry, kind, gain on the discarded part)
    """
    free = sorted(j for j in range(len(gains)) if j not in on and j not in off)

    def least(kept: set[int], candidates: list[int], extra: Fraction) -> Fraction | None:
        places = count - len(kept)
        if places < 0:
            return None
        if any(gains[j] is None for j in [*kept, *candidates]):
            raise OverflowError("a gain is unbounded")
        positive = sorted((g for j in candidates if (g := gains[j]) is not None and g > 0), reverse=True)
        fixed = sum((g for j in kept if (g := gains[j]) is not None), Fraction(0))
        return model.constant - fixed - sum(positive[:places], Fraction(0)) - extra

    parts: list[Fraction | None] = []
    for entry, kind, gain in steps:
        rest = [j for j in free if j != entry]
        if kind == ON:
            parts.append(least(on, rest, Fraction(0)))
        else:
            new = gains[entry] if kind == OFF else gain
            own = gains[entry]
            if new is None or own is None:
                raise OverflowError("a gain is unbounded")
            parts.append(least(on | {entry}, rest, new - own))
    return least(on, free, Fraction(0)), parts
