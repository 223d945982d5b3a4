"""At most k kept entries whose selection frequencies reach a least sum: the stability row of MOSS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import as_tensor, exact
from ..core.structure import Selection, Supports, Witness
from ..errors import InvalidProblem
from ..kernels.stable_selection import largest_sum, rounding
from .partition import check_count, restricted

__all__ = ["Stable"]


@dataclass(frozen=True, eq=False)
class Stable(Supports):
    r"""At most ``count`` kept entries with :math:`\sum_j f_j z_j \ge` ``least``.

    Parameters
    ----------
    count : int
        Largest number of kept entries, >= 0.
    frequencies : Tensor of whole numbers, the shape of the weights
        f >= 0, how often each entry was selected (trees of a forest, bootstrap samples); their sum is below 2^53.
    least : int
        Least sum of the frequencies of the kept entries, >= 0; 0 is no constraint.

    Notes
    -----
    A mask *fits* when it can be completed to an admissible one: an entry may be kept with the weight 0. Since the
    frequencies are whole numbers, :meth:`select` is an exact dynamic program and needs no witness; a Lagrange
    multiplier of the row decides most entries beforehand.

    References
    ----------
    arXiv 2506.08030 (MOSS): the row is its stability objective as an epsilon constraint.

    Examples
    --------
    >>> import torch
    >>> Stable(2, torch.tensor([5, 1, 3]), 6).keep(torch.tensor([1.0, 4.0, 3.0]))
    tensor([ True,  True, False])
    """

    count: int
    frequencies: Tensor
    least: int
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        frequencies = as_tensor(self.frequencies, "frequencies").double()
        if bool((frequencies < 0).any()) or bool((frequencies != frequencies.round()).any()):
            raise InvalidProblem("frequencies must be whole numbers >= 0: how often each entry was selected")
        if float(frequencies.sum()) >= 2.0**53:
            raise InvalidProblem("the frequencies add up to 2^53 or more; divide them by a common factor")
        object.__setattr__(self, "count", check_count(self.count, "count"))
        object.__setattr__(self, "least", check_count(self.least, "least"))
        object.__setattr__(self, "frequencies", frequencies.to(device="cpu", dtype=torch.int64))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`."""
        if shape != tuple(self.frequencies.shape):
            raise InvalidProblem(f"frequencies have shape {tuple(self.frequencies.shape)}, the weights {shape}")

    def _fixed(self) -> tuple[Tensor, Tensor]:
        none = torch.zeros(self.frequencies.shape, dtype=torch.bool)
        return (none if self.on is None else self.on.cpu(), none if self.off is None else self.off.cpu())

    def _reachable(self, base: Tensor, free: Tensor) -> int:
        """The largest sum of frequencies of a mask around ``base`` with further entries from ``free``."""
        room = min(max(self.count - int(base.sum()), 0), int(free.sum()))
        return int(self.frequencies[base].sum()) + int(self.frequencies[free].topk(room).values.sum())

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`; entries that gain nothing are kept only when the row needs them."""
        self.check_shape(tuple(gain.shape))
        on, off = self._fixed()
        free = ~(on | off)
        gain64 = exact(gain)
        if self.violation(on) or bool((on & off).any()):
            return Selection(on.to(gain.device), -torch.inf, -torch.inf)
        endless = torch.isinf(gain64) & (gain64 > 0)
        for entry in (endless & ~off).nonzero():
            mask = on.clone()
            mask[tuple(entry)] = True
            if self.violation(mask) == 0:
                return Selection(self.cover(mask).to(gain.device), torch.inf, torch.inf)
        free = free & torch.isfinite(gain64)
        room, missing = self.count - int(on.sum()), self.least - int(self.frequencies[on].sum())
        try:
            found = largest_sum(gain64[free].numpy(), self.frequencies[free].numpy(), room, missing)
        except MemoryError as error:
            raise InvalidProblem(str(error)) from error
        if found is None:
            return Selection(on.to(gain.device), -torch.inf, -torch.inf)
        mask = on.clone()
        mask[free] = torch.from_numpy(found)
        value = math.fsum(gain64[mask].tolist())
        # The allowance is a function of all gains: fixing entries then never raises the bound.
        return Selection(mask.to(gain.device), value, value + rounding(gain64[gain64.isfinite()].numpy(), self.count))

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """See :meth:`Supports.select_bound`."""
        return self.select(gain).bound

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`: entries beyond the count or fixed off, and frequency missing."""
        self.check_shape(tuple(mask.shape))
        on, off = self._fixed()
        base = mask.cpu() | on
        excess = max(int(base.sum()) - self.count, 0) + int((base & off).sum())
        return excess + max(self.least - self._reachable(base, ~(base | off)), 0)

    def contains(self, mask: Tensor) -> bool:
        """See :meth:`Supports.contains`."""
        on, _ = self._fixed()
        kept = mask.cpu()
        return self.violation(mask) == 0 and bool(kept[on].all()) and int(self.frequencies[kept].sum()) >= self.least

    def cover(self, mask: Tensor) -> Tensor:
        """See :meth:`Supports.cover`: the most frequent of the other entries, as few as reach the row."""
        on, off = self._fixed()
        base = mask.cpu() | on
        missing = self.least - int(self.frequencies[base].sum())
        if missing > 0:
            others = torch.where(base | off, -1, self.frequencies).ravel()
            order = others.argsort(descending=True, stable=True)
            sums = others[order].clamp_min(0).cumsum(0)
            needed = min(int((sums < missing).sum()) + 1, self.count - int(base.sum()))
            base = base.ravel().clone()
            base[order[: max(needed, 0)]] = True
            base = base.reshape(mask.shape)
        return base.to(mask.device)

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`."""
        import cvxpy as cp

        self.check_shape(tuple(z.shape))
        out: list[Any] = [cp.sum(z) <= self.count]
        if self.least:
            out.append(cp.sum(cp.multiply(self.frequencies.numpy().astype(np.float64), z)) >= self.least)
        if self.on is not None and self.off is not None:
            on, off = self._fixed()
            out += [z >= on.numpy().astype(np.float64), z <= 1.0 - off.numpy().astype(np.float64)]
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: a full mask keeps nothing else, and the row may leave an entry no choice."""
        kept, gone = on.cpu(), off.cpu()
        free = ~(kept | gone)
        room = self.count - int(kept.sum())
        if room <= 0:
            return on, off | free.to(off.device)
        spare = self._reachable(kept, free) - self.least
        if spare < 0:
            return on, off
        ordered = self.frequencies[free].sort(descending=True).values
        last, following = (
            (int(ordered[room - 1]) if len(ordered) >= room else 0),
            (int(ordered[room]) if len(ordered) > room else 0),
        )
        forced_on = free & (self.frequencies - following > spare)
        forced_off = free & (last - self.frequencies > spare)
        return on | forced_on.to(on.device), off | forced_off.to(off.device)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        return f"||w||_0 <= {self.count}, frequencies of the support >= {self.least}"
