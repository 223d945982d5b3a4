"""Supports of several tasks with a price for their differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import accurate_sum, exact, gamma
from ..core.separable import Separable
from ..core.structure import Argmin, Selection, Structure, Supports, Witness
from ..errors import InvalidProblem
from .partition import check_count, restricted

if TYPE_CHECKING:
    from ..core.rational import RationalModel

__all__ = ["SharedSupports"]

Array = np.ndarray[Any, Any]
_STEPS = 30  # of the multipliers
_ENUMERATED = 12  # columns whose subsets are tried one by one
_PASSES = 10  # of coordinate ascent over the tasks


@dataclass(frozen=True, eq=False)
class SharedSupports(Structure):
    r"""At most ``count`` kept entries in each of K tasks, and a price for supports that differ between the tasks.

    Parameters
    ----------
    tasks : int
        K; the array is one-dimensional, task after task.
    count : int
        Kept entries of each task, at most.
    weight : float
        :math:`\lambda \ge 0`.
    box : float, optional
        Bound on the size of a kept entry.

    Notes
    -----
    .. math:: \text{price} = \frac{\lambda}{2}\sum_k\|z_k-\bar z\|^2 = \frac{\lambda}{2}\sum_j f(m_j),
              \qquad f(m) = m - \frac{m^2}{K} = \frac1K\sum_{k<l}|z_{kj}-z_{lj}|,\quad m_j = \sum_k z_{kj}.

    z is the cheapest admissible mask around the non-zeros (found exactly when the budgets are slack or at most 12
    columns are kept by some tasks only, greedily otherwise).

    Without budgets the best mask of a column follows by sorting its K gains, since only the count matters to the
    price. The budgets are relaxed with a multiplier for each task, which is the witness: the bound holds for all
    multipliers >= 0 by weak duality. The mask comes from exact choices task by task. For exact solvers the absolute
    differences are stated, which is the convex envelope of the price.

    References
    ----------
    arXiv 2212.08697 for the price; oracle and bound derived here.

    Examples
    --------
    >>> import torch
    >>> structure = SharedSupports(tasks=2, count=1, weight=4.0)
    >>> structure.price(torch.tensor([1.0, 0.0, 0.0, 1.0])), structure.price(torch.tensor([1.0, 0.0, 1.0, 0.0]))
    (2.0, 0.0)
    """

    tasks: int
    count: int
    weight: float
    box: float | None = None
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", check_count(self.count, "count"))
        if check_count(self.tasks, "tasks") < 1:
            raise InvalidProblem("tasks is 0; at least one is needed")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InvalidProblem(f"weight is {self.weight}; it must be a finite number >= 0")

    @cached_property
    def _inner(self) -> Sparse:
        """The weights on the masks; its family charges the price, so that values and bounds contain it."""
        return Sparse(_Priced(self.tasks, self.count, self.weight, self.on, self.off), box=self.box)

    @property
    def _family(self) -> _Priced:
        family = self._inner.supports
        assert isinstance(family, _Priced)
        return family

    def argmin(self, model: Separable) -> Argmin:
        """See :meth:`Structure.argmin`."""
        return self._inner.argmin(model)

    def argmin_bound(self, model: Separable, witness: Witness) -> float:
        """See :meth:`Structure.argmin_bound`."""
        return self._inner.argmin_bound(model, witness)

    def rational_bound(self, model: RationalModel, witness: Witness) -> Fraction:
        """See :meth:`Structure.rational_bound`."""
        return self._inner.rational_bound(model, witness)

    def violation(self, point: Tensor) -> float:
        """See :meth:`Structure.violation`."""
        return self._inner.violation(point)

    def price(self, point: Tensor) -> float:
        """See :meth:`Structure.price`; an entry that is 0 counts as kept where that is cheaper and fits."""
        return self._family.charge(self._family.cheapest(point != 0))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Structure.check_shape`."""
        self._inner.check_shape(shape)

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Structure.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Structure.propagate`."""
        return self._family.propagate(on, off)

    def variable(self, shape: tuple[int, ...], *, relax: bool = False) -> Any:
        """See :meth:`Structure.variable`."""
        return self._inner.variable(shape, relax=relax)

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
        """See :meth:`Structure.model`."""
        import cvxpy as cp

        cost, constraints = self._inner.model(w, split, strength=strength, bounds=bounds, relax=relax, scale=scale)
        if self.weight == 0 or self.tasks == 1:
            return cost, constraints
        mask = next(v for c in constraints for v in c.variables() if v.name() == "z")
        z = cp.reshape(mask, (self.tasks, w.size // self.tasks), order="C")
        pairs = [cp.sum(cp.abs(z[k, :] - z[other, :])) for k in range(self.tasks) for other in range(k)]
        return cost + 0.5 * self.weight / (self.tasks * scale) * cp.sum(cp.hstack(pairs)), constraints

    def describe(self) -> str:
        """See :meth:`Structure.describe`."""
        inside = "" if self.box is None else ", -box <= w <= box"
        return (
            f"||w_k||_0 <= {self.count} for {self.tasks} tasks{inside}, price {self.weight / 2:.4g} ||z_k - mean z||^2"
        )


@dataclass(frozen=True, eq=False)
class _Priced(Supports):
    """The masks of :class:`SharedSupports`; what it calls the value of a mask is the sum of gains minus the price."""

    tasks: int
    count: int
    weight: float
    on: Tensor | None = None
    off: Tensor | None = None

    def check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 1 or shape[0] % self.tasks:
            raise InvalidProblem(
                f"{self.tasks} tasks stand one after the other in a vector; the array has shape {shape}"
            )

    @cached_property
    def _prices(self) -> Array:
        """Price of m kept entries of a column, m = 0..K."""
        m = np.arange(self.tasks + 1, dtype=np.float64)
        return 0.5 * self.weight * (m * (self.tasks - m)) / self.tasks

    def _table(self, array: Tensor) -> Array:
        self.check_shape(tuple(array.shape))
        table: Array = array.detach().cpu().numpy().reshape(self.tasks, -1)
        return table

    def _fixed(self, like: Array) -> tuple[Array, Array]:
        none = np.zeros(like.shape, dtype=bool)
        return tuple(none if side is None else self._table(side) for side in (self.on, self.off))  # type: ignore[return-value]

    def charge(self, mask: Tensor) -> float:
        """Return the price of a mask."""
        return accurate_sum(torch.from_numpy(self._prices[self._table(mask).sum(axis=0)]))[0]

    def cheapest(self, mask: Tensor) -> Tensor:
        """Return the cheapest admissible mask around a mask: some columns are kept by all tasks that may keep them."""
        table = self._table(self.cover(mask))
        _, off = self._fixed(table)
        used, most = table.sum(axis=0), (table | ~off).sum(axis=0)
        saved = self._prices[used] - self._prices[most]  # the price is concave in the count: an end is best
        columns = np.flatnonzero(saved > 0)
        if len(columns) == 0:
            return self.cover(mask)
        need, saved = (~table & ~off)[:, columns], saved[columns]
        slack = self.count - table.sum(axis=1)
        taken = np.ones(len(columns), dtype=bool)
        if (need.sum(axis=1) > slack).any():
            taken = _best_within(need.astype(np.int64), slack, saved)
        table = table.copy()
        table[:, columns[taken]] |= need[:, taken]
        return torch.from_numpy(table.reshape(-1)).to(mask.device)

    # ------------------------------------------------------------------------------------------ selection

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`."""
        gains = self._table(exact(gain))
        if np.isnan(gains).any():
            raise InvalidProblem("the gains contain NaN")
        on, off = self._fixed(gains)
        if (on & off).any() or (on.sum(axis=1) > self.count).any():
            return Selection(torch.from_numpy(on.reshape(-1)).to(gain.device), -math.inf, -math.inf)
        off = off | np.isneginf(gains)
        finite = np.where(np.isfinite(gains), gains, 0.0)
        unbounded = np.isposinf(gains) & ~off
        shown = np.where(unbounded, 2.0 * (np.abs(finite).sum() + self._prices.sum() * gains.shape[1] + 1.0), finite)
        multipliers, mask = self._search(shown, on, off)
        kept = torch.from_numpy(mask.reshape(-1))
        chosen = torch.from_numpy(gains.reshape(-1))[kept]
        value = math.inf if bool(torch.isposinf(chosen).any()) else accurate_sum(chosen)[0] - self.charge(kept)
        witness = torch.from_numpy(multipliers)
        bound = math.inf if unbounded.any() else self._dual(finite, on, off, multipliers)[0]
        return Selection(kept.to(gain.device), value, max(bound, value), witness)

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """See :meth:`Supports.select_bound`: weak duality at the multipliers of the witness."""
        gains = self._table(exact(gain))
        on, off = self._fixed(gains)
        if (on & off).any() or (on.sum(axis=1) > self.count).any():
            return -math.inf
        if np.isnan(gains).any() or (np.isposinf(gains) & ~off).any():
            return math.inf
        if witness is None or tuple(witness.shape) != (self.tasks,) or not bool(torch.isfinite(witness).all()):
            witness = self.select(gain).witness
            assert witness is not None
        off = off | np.isneginf(gains)
        multipliers = np.maximum(exact(witness).numpy(), 0.0)
        return self._dual(np.where(np.isfinite(gains), gains, 0.0), on, off, multipliers)[0]

    def _dual(self, gains: Array, on: Array, off: Array, multipliers: Array) -> tuple[float, Array]:
        """Upper bound at the multipliers, rounding included, and how many entries of each task it keeps."""
        tasks, columns = gains.shape
        worth = gains - multipliers[:, None]
        keys = np.where(on, np.inf, np.where(off, -np.inf, worth))
        order = np.argsort(-keys, axis=0, kind="stable")
        sums = np.zeros((tasks + 1, columns))
        np.cumsum(np.take_along_axis(np.where(off, 0.0, worth), order, axis=0), axis=0, out=sums[1:])
        totals = sums - self._prices[:, None]
        counts = np.arange(tasks + 1)[:, None]
        totals[(counts < on.sum(axis=0)) | (counts > (~off).sum(axis=0))] = -np.inf
        best = totals.argmax(axis=0)
        size = np.where(off, 0.0, np.abs(gains) + multipliers[:, None]).sum() + columns * self._prices.max()
        total, error = accurate_sum(torch.from_numpy(totals[best, np.arange(columns)]))
        used = self.count * float(multipliers.sum())
        ranks = np.argsort(order, axis=0)
        bound = total + used + 1.01 * (error + gamma(2 * tasks + 8) * (float(size) + used))
        return bound, (ranks < best).sum(axis=1)

    def _search(self, gains: Array, on: Array, off: Array) -> tuple[Array, Array]:
        """Multipliers by subgradient steps, and the best mask found on the way."""
        tasks, columns = gains.shape
        free = np.where(off, -np.inf, gains)
        totals = np.where(on, np.inf, np.where(off, 0.0, gains.sum(axis=0)))
        value, mask = -math.inf, on
        for first in (on, self._keep(free, on), self._keep(np.where(off, -np.inf, totals), on)):
            worth, found = self._ascend(free, on, first)
            if worth > value:
                value, mask = worth, found
        best, bound, count = np.zeros(tasks), *self._dual(gains, on, off, np.zeros(tasks))
        if (count <= self.count).all() or self.count >= columns:
            return best, mask
        here, used = best, count
        ranked = -np.sort(-np.where(np.isfinite(free), free, 0.0), axis=1)
        middle = np.maximum(0.5 * (ranked[:, self.count] + ranked[:, max(self.count - 1, 0)]), 0.0)
        total, spent = self._dual(gains, on, off, middle)
        if total < bound:
            best, bound, here, used = middle, total, middle, spent
        level = bound
        for _ in range(_STEPS):
            slope = (self.count - used).astype(np.float64)
            slope[(here <= 0) & (slope > 0)] = 0.0
            length = float(slope @ slope)
            if length == 0 or bound - value <= 1e-12 * abs(value):
                break
            here = np.maximum(here - max(level - value, 0.0) / length * slope, 0.0)
            level, used = self._dual(gains, on, off, here)
            if level < bound:
                best, bound = here, level
        return best, mask

    def _keep(self, worth: Array, on: Array) -> Array:
        """The best ``count`` entries with worth > 0 of each task, those fixed on first."""
        keys = np.where(on, np.inf, worth)
        rank = np.argsort(np.argsort(-keys, axis=1, kind="stable"), axis=1)
        kept: Array = (rank < self.count) & (keys > 0)
        return kept

    def _ascend(self, free: Array, on: Array, mask: Array) -> tuple[float, Array]:
        """Choose the masks of one task after the other, each exactly given the others, until none changes."""
        mask = mask.copy()
        steps = np.append(np.diff(self._prices), 0.0)
        for _ in range(_PASSES):
            before = mask.copy()
            for task in range(len(mask)):
                others = mask.sum(axis=0) - mask[task]
                mask[task] = self._keep((free[task] - steps[others])[None, :], on[task][None, :])[0]
            if (mask == before).all():
                break
        kept = np.where(mask, free, 0.0).sum() - self._prices[mask.sum(axis=0)].sum()
        return float(kept), mask

    # ------------------------------------------------------------------------------------------ membership

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`."""
        table = self._table(mask)
        on, off = self._fixed(table)
        return int(np.maximum((table | on).sum(axis=1) - self.count, 0).sum() + ((table | on) & off).sum())

    def cover(self, mask: Tensor) -> Tensor:
        """See :meth:`Supports.cover`."""
        return mask if self.on is None else mask | self.on.to(mask.device)

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`."""
        import cvxpy as cp

        self.check_shape(tuple(z.shape))
        table = cp.reshape(z, (self.tasks, z.size // self.tasks), order="C")
        out: list[Any] = [cp.sum(table, axis=1) <= self.count]
        if self.on is not None and self.off is not None:
            out += [z >= self.on.cpu().numpy().astype(float), z <= 1.0 - self.off.cpu().numpy().astype(float)]
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: a task whose budget is used keeps nothing else."""
        kept = on.reshape(self.tasks, -1)
        full = kept.sum(dim=1, keepdim=True) >= self.count
        return on, off | (full & ~kept).reshape(off.shape).to(off.device)


def _best_within(need: Array, slack: Array, saved: Array) -> Array:
    """The columns with the largest savings whose needs (K, columns) fit into the slack of each task."""
    columns = len(saved)
    if columns <= _ENUMERATED:
        subsets = (np.arange(1 << columns)[:, None] >> np.arange(columns)) & 1
        fits = (subsets @ need.T <= slack).all(axis=1)
        best: Array = subsets[np.where(fits, subsets @ saved, -1.0).argmax()].astype(bool)
        return best
    taken, left = np.zeros(columns, dtype=bool), slack.copy()
    for column in np.argsort(-saved / need.sum(axis=0), kind="stable"):
        if (need[:, column] <= left).all():
            taken[column] = True
            left -= need[:, column]
    return taken
