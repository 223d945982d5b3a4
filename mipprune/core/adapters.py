"""The adapters that turn a family of supports into a structure: the only place where weights and masks meet."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import CertificateError, InvalidProblem
from .arrays import UNIT_ROUNDOFF, accurate_sum
from .rational import ExactArray, exact_decrease, rational, round_up
from .separable import Separable
from .structure import Argmin, Structure, Supports, Witness

if TYPE_CHECKING:
    from .rational import RationalModel

__all__ = ["Masks", "Sparse"]

_LOST = 2.0**-1020  # what products may lose to underflow, relative to the rounding that gains are given


def _checked_strength(strength: str) -> str:
    if strength not in ("perspective", "big-m"):
        raise InvalidProblem(f"strength is {strength!r}; choose 'perspective' or 'big-m'")
    return strength


def _links(w: Any, z: Any, side: np.ndarray[Any, Any], sign: float) -> list[Any]:
    """``sign w >= sign side z`` where the side is finite, as a list of at most one constraint."""
    import cvxpy as cp

    finite = np.isfinite(side)
    if finite.all():
        return [sign * w >= cp.multiply(sign * side, z)]
    return [sign * w[finite] >= cp.multiply(sign * side[finite], z[finite])] if finite.any() else []


def _difference_below(constant: float, bound: float) -> float:
    """Return ``constant - bound`` rounded down; ``inf`` for an empty family (``-inf``), ``-inf`` after an overflow."""
    nothing = math.inf if bound == -math.inf else -math.inf
    return below - UNIT_ROUNDOFF * abs(below) if math.isfinite(below := constant - bound) else nothing


@dataclass(frozen=True, eq=False)
class Sparse(Structure):
    r"""Weights whose support lies in a family of masks.

    Parameters
    ----------
    supports : Supports
        The family of masks.
    box : float, or pair of Tensor or float, optional
        A kept entry lies in ``[lower, upper]`` (a number means ``[-box, box]``); a pruned one is 0.
    price : float or Tensor, optional
        For every kept entry, >= 0.

    Notes
    -----
    The gain of an entry is its best decrease in the separable model, minus its price:

    .. math:: \max_{l \le t \le u} -(a t + \tfrac12 c t^2) - \text{price}, \qquad\text{without box } a^2/(2c).

    The price is charged for the cheapest admissible mask around the support: for the non-zeros of an at-most-k
    family, for every entry of a kept group.
    """

    supports: Supports
    box: Any = None
    price_per_entry: float | Tensor = 0.0

    def __init__(self, supports: Supports, box: Any = None, price: float | Tensor = 0.0) -> None:
        if not isinstance(supports, Supports):
            raise InvalidProblem(f"Sparse needs a Supports, such as NofM(2, 4); got {type(supports).__name__}")
        if box is not None and not isinstance(box, tuple):
            if not float(box) > 0:
                raise InvalidProblem(f"box is {box}; a symmetric box needs a positive half-width")
            box = (-float(box), float(box))
        if bool((torch.as_tensor(price) < 0).any()):
            raise InvalidProblem("price has negative entries; a price on the support is >= 0")
        object.__setattr__(self, "supports", supports)
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "price_per_entry", price)

    def _limits(self, like: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.box is None:
            return None
        lower, upper = (
            torch.as_tensor(side, dtype=like.dtype, device=like.device).expand(like.shape) for side in self.box
        )
        return lower, upper

    def _price(self, like: Tensor) -> Tensor | float:
        price = self.price_per_entry
        return price.to(dtype=like.dtype, device=like.device) if isinstance(price, Tensor) else price

    def _best(self, linear: Tensor, curvature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Best value of each entry if kept, its decrease, and the size of the terms of the decrease."""
        positive = curvature > 0
        curved = bool(positive.all())
        safe = curvature if curved else torch.where(positive, curvature, 1.0)
        free = -linear / safe
        if not curved:
            free = torch.where(positive, free, torch.where(linear == 0, 0.0, -linear.sign() * torch.inf))
        if (limits := self._limits(linear)) is None:
            decrease = 0.5 * (linear * (linear / safe))  # the square of a slope might underflow
            decrease = decrease if curved else torch.where(positive, decrease, free.abs())
            return free, decrease, decrease + _LOST
        best = torch.maximum(torch.minimum(free, limits[1]), limits[0])
        slope = torch.where(linear == 0, 0.0, linear * best)
        square = torch.where(curvature == 0, 0.0, 0.5 * (curvature * best * best))
        decrease = torch.nan_to_num(-(slope + square), torch.inf, torch.inf, -torch.inf)  # both may overflow
        return best, decrease, slope.abs() + square + _LOST * (1.0 + best.abs())

    def gain(self, model: Separable) -> Tensor:
        """Return the gain of keeping each entry, as computed (no rounding allowance)."""
        return self._best(model.linear, model.curvature)[1] - self._price(model.linear)

    def gain_bound(self, model: Separable) -> Tensor:
        """Return gains rounded up: they bound the true gain for every linear term within ``linear_error``."""
        linear, error = model.linear, model.linear_error
        if error is not None and self.box is None:  # then the decrease grows with the size of the slope
            linear, error = linear.abs() + error, None
        bounds = []
        for shifted in (linear,) if error is None else (linear + error, linear - error):
            _, decrease, size = self._best(shifted, model.curvature)
            bounds.append(decrease + 8.0 * UNIT_ROUNDOFF * size)
        price = self._price(model.linear)
        upper = bounds[0] if len(bounds) == 1 else torch.maximum(bounds[0], bounds[1])
        return upper - price + 2.0 * UNIT_ROUNDOFF * (upper.abs() + price)

    def argmin(self, model: Separable) -> Argmin:
        """See :meth:`Structure.argmin`."""
        best, decrease, _ = self._best(model.linear, model.curvature)
        selection = self.supports.select(decrease - self._price(model.linear))
        point, bound = torch.where(selection.mask, best, 0.0), self.argmin_bound(model, selection.witness)
        return Argmin(point, model.constant - selection.value, bound, selection.witness)

    def argmin_bound(self, model: Separable, witness: Witness) -> float:
        """See :meth:`Structure.argmin_bound`."""
        return _difference_below(model.constant, self.supports.select_bound(self.gain_bound(model), witness))

    def relaxed_step(self, center: Tensor, split: Tensor, metric: Tensor) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Structure.relaxed_step`; with a box or a price that varies there is no closed form."""
        if self.box is not None or isinstance(self.price_per_entry, Tensor):
            return None
        weight = (0.5 * split).sqrt() * center.abs()
        z = self.supports.spread(weight, (split / metric).expand(center.shape), float(self.price_per_entry))
        if z is None:
            return None
        return metric * center * z / (metric * z + split).clamp_min(torch.finfo(center.dtype).tiny), z

    def rational_bound(self, model: RationalModel, witness: Witness) -> Fraction:
        """See :meth:`Structure.rational_bound`; gains are exact, rounded up once, and then summed by the supports."""
        shape = model.linear.shape
        curvature: ExactArray = np.broadcast_to(model.curvature, shape)
        prices: ExactArray = np.broadcast_to(
            rational(torch.as_tensor(self.price_per_entry, dtype=torch.float64)), shape
        )
        zero = torch.zeros(shape, dtype=torch.float64)
        lower, upper = self._limits(zero) or (zero - math.inf, zero + math.inf)
        gains = torch.zeros(shape, dtype=torch.float64)
        for index in np.ndindex(shape):
            decrease = exact_decrease(model.linear[index], curvature[index], float(lower[index]), float(upper[index]))
            gains[index] = math.inf if decrease is None else round_up(decrease - prices[index])
        bound = self.supports.select_bound(gains, witness)
        if not math.isfinite(bound):
            raise CertificateError(f"the oracle's bound on the gains is {bound}: the tangent proves nothing finite")
        return model.constant - Fraction(bound)

    def violation(self, point: Tensor) -> float:
        """See :meth:`Structure.violation`."""
        kept = self.mask_of(point)
        count = float(self.supports.violation(kept))
        limits = self._limits(point)
        if limits is not None:
            if bool((limits[0] > 0).any()) or bool((limits[1] < 0).any()):
                kept = self.supports.cover(kept)  # a kept entry may not be 0 then
            outside = torch.maximum(point - limits[1], limits[0] - point)[kept]
            count += float(outside.clamp_min(0).max()) if outside.numel() else 0.0
        return count

    def price(self, point: Tensor) -> float:
        """See :meth:`Structure.price`."""
        if not isinstance(self.price_per_entry, Tensor) and self.price_per_entry == 0:
            return 0.0
        mask = self.mask_of(point)
        if not isinstance(self.price_per_entry, Tensor):
            return float(self.price_per_entry) * int(self.supports.cover(mask).sum())
        prices = self.price_per_entry.to(dtype=torch.float64, device=point.device).expand(point.shape)
        # Several smallest masks may fit, the cheapest counts; outweighing all prices keeps it around the support.
        kept = self.supports.keep(torch.where(mask, 2.0 * prices.sum(), -prices)) | mask
        return accurate_sum(torch.where(kept, prices, 0.0))[0]

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Structure.restrict`."""
        return type(self)(self.supports.restrict(on, off), self.box, self.price_per_entry)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Structure.propagate`."""
        return self.supports.propagate(on, off)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Structure.check_shape`."""
        self.supports.check_shape(shape)

    def variable(self, shape: tuple[int, ...], *, relax: bool = False) -> Any:
        """See :meth:`Structure.variable`."""
        import cvxpy as cp

        return cp.Variable(shape, name="w")

    def model(
        self,
        w: Any,
        split: Tensor | None,
        *,
        strength: str = "perspective",
        bounds: tuple[Tensor, Tensor] | None = None,
        relax: bool = False,
        scale: float = 1.0,
    ) -> tuple[Any, list[Any]]:
        """See :meth:`Structure.model`.

        The linear links ``lower z <= w <= upper z`` are always stated beside the cones: they keep a solver's
        feasibility tolerance on squares from admitting weights off the support.
        """
        import cvxpy as cp

        perspective = _checked_strength(strength) == "perspective"
        z = cp.Variable(w.shape, name="z", boolean=not relax)
        constraints: list[Any] = self.supports.constraints(z)
        if relax:
            constraints += [z >= 0, z <= 1]
        lower, upper = self._model_bounds(w.shape, bounds)
        if lower is not None and upper is not None:
            constraints += _links(w, z, lower, 1.0) + _links(w, z, upper, -1.0)
        elif not perspective or split is None:
            raise InvalidProblem(
                "the model has neither a box nor curvature to link weights and mask; "
                "give Sparse(..., box=...) or a ridge"
            )
        cost: Any = 0.0
        if split is not None:
            root = np.sqrt(np.broadcast_to((0.5 / scale * split).double().cpu().numpy(), w.shape))
            if perspective:
                q = cp.Variable(w.shape, name="q", nonneg=True)
                scaled = cp.vec(cp.multiply(2.0 * root, w), order="C")
                q_flat, z_flat = cp.vec(q, order="C"), cp.vec(z, order="C")
                constraints.append(cp.SOC(q_flat + z_flat, cp.vstack([scaled, q_flat - z_flat]), axis=0))
                cost = cost + cp.sum(q)
            else:
                cost = cost + cp.sum(cp.square(cp.multiply(root, w)))
        price = np.broadcast_to(torch.as_tensor(self.price_per_entry, dtype=torch.float64).cpu().numpy(), w.shape)
        if np.any(price):
            cost = cost + cp.sum(cp.multiply(price / scale, z))
        return cost, constraints

    def _model_bounds(
        self, shape: tuple[int, ...], bounds: tuple[Tensor, Tensor] | None
    ) -> tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any] | None]:
        """Box and proven bounds together; without a box the links need lower <= 0 <= upper."""
        if bounds is None and self.box is None:
            return None, None
        lower, upper = np.full(shape, -np.inf), np.full(shape, np.inf)
        if bounds is not None:
            lower = np.minimum(bounds[0].double().cpu().numpy(), 0.0)
            upper = np.maximum(bounds[1].double().cpu().numpy(), 0.0)
        limits = self._limits(torch.zeros(shape, dtype=torch.float64))
        if limits is not None:
            lower, upper = np.maximum(lower, limits[0].numpy()), np.minimum(upper, limits[1].numpy())
        return lower, upper

    def linked(self, shape: tuple[int, ...]) -> Tensor | None:
        """See :meth:`Structure.linked`: box and price are entrywise, so the family decides."""
        return self.supports.linked(shape)

    def part(self, entries: Tensor, shape: tuple[int, ...]) -> Sparse:
        """See :meth:`Structure.part`."""

        def chosen(values: Any) -> Any:
            if torch.as_tensor(values).ndim == 0:
                return values
            return torch.as_tensor(values).cpu().expand(entries.shape)[entries].reshape(shape)

        box = None if self.box is None else (chosen(self.box[0]), chosen(self.box[1]))
        return Sparse(self.supports.part(entries, shape), box, chosen(self.price_per_entry))

    def describe(self) -> str:
        """See :meth:`Structure.describe`."""
        lines = [self.supports.describe()]
        if self.box is not None:
            lines.append("lower <= w <= upper on the support")
        if isinstance(self.price_per_entry, Tensor) or self.price_per_entry != 0:
            lines.append("price per kept entry in the objective")
        return ", ".join(lines)


@dataclass(frozen=True, eq=False)
class Masks(Structure):
    """The masks of a family themselves: ``w`` is 0/1, as in mask selection with a linear loss.

    Parameters
    ----------
    supports : Supports
        The family of masks.
    """

    supports: Supports

    @staticmethod
    def _gain(model: Separable) -> Tensor:
        if not bool(model.curvature.any()):
            return -model.linear  # exact
        return -(model.linear + 0.5 * model.curvature)  # z * z = z on 0/1 entries

    def argmin(self, model: Separable) -> Argmin:
        """See :meth:`Structure.argmin`."""
        gain = self._gain(model)
        selection = self.supports.select(gain)
        bound = _difference_below(model.constant, selection.bound)
        if model.linear_error is not None or bool(model.curvature.any()):  # else the gains are exact
            bound = self.argmin_bound(model, selection.witness)
        return Argmin(selection.mask.to(gain.dtype), model.constant - selection.value, bound, selection.witness)

    def argmin_bound(self, model: Separable, witness: Witness) -> float:
        """See :meth:`Structure.argmin_bound`."""
        gain = self._gain(model)
        if model.linear_error is not None or bool(model.curvature.any()):  # else -linear is exact
            error = torch.zeros_like(gain) if model.linear_error is None else model.linear_error
            gain = gain + (error + 4.0 * UNIT_ROUNDOFF * (model.linear.abs() + model.curvature + error))
        return _difference_below(model.constant, self.supports.select_bound(gain, witness))

    def rational_bound(self, model: RationalModel, witness: Witness) -> Fraction:
        """See :meth:`Structure.rational_bound`."""
        gains = torch.zeros(model.linear.shape, dtype=torch.float64)
        for index in np.ndindex(model.linear.shape):
            gains[index] = round_up(-(model.linear[index] + model.curvature[index] / 2))
        return model.constant - Fraction(self.supports.select_bound(gains, witness))

    def violation(self, point: Tensor) -> float:
        """See :meth:`Structure.violation`; a point that is not 0/1 is off by its distance from 0/1."""
        between = point[(point != 0) & (point != 1)]
        fraction = float(torch.minimum(between.abs(), (between - 1).abs()).max()) if between.numel() else 0.0
        mask = self.mask_of(point)
        count = self.supports.violation(mask)
        if count == 0 and not self.supports.contains(mask):
            count = 1
        return fraction + count

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Structure.restrict`."""
        return type(self)(self.supports.restrict(on, off))

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Structure.propagate`."""
        return self.supports.propagate(on, off)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Structure.check_shape`."""
        self.supports.check_shape(shape)

    def variable(self, shape: tuple[int, ...], *, relax: bool = False) -> Any:
        """See :meth:`Structure.variable`."""
        import cvxpy as cp

        return cp.Variable(shape, name="w", boolean=not relax)

    def model(
        self,
        w: Any,
        split: Tensor | None,
        *,
        strength: str = "perspective",
        bounds: tuple[Tensor, Tensor] | None = None,
        relax: bool = False,
        scale: float = 1.0,
    ) -> tuple[Any, list[Any]]:
        """See :meth:`Structure.model`; on 0/1 entries the separable part is linear."""
        import cvxpy as cp

        _checked_strength(strength)
        constraints: list[Any] = self.supports.constraints(w)
        if relax:
            constraints += [w >= 0, w <= 1]
        if split is None:
            return 0.0, constraints
        half = np.broadcast_to((0.5 / scale * split).double().cpu().numpy(), w.shape)
        return cp.sum(cp.multiply(half, w)), constraints

    def describe(self) -> str:
        """See :meth:`Structure.describe`."""
        return f"w in {{0, 1}}, {self.supports.describe()}"
