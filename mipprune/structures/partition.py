"""At most so many entries in each block of a partition: the common part of Cardinality, PerRow and NofM."""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from ..core.arrays import accurate_sum, exact
from ..core.structure import Selection, Supports, Witness
from ..errors import InvalidProblem
from ..kernels.budget import spread_budget
from ..kernels.top_k import keep_largest

__all__ = ["PartitionBudget", "check_count"]


def check_count(value: Any, name: str) -> int:
    """Return ``value`` as a non-negative int or raise :class:`InvalidProblem`."""
    try:
        count = operator.index(value)
    except TypeError:
        whole = isinstance(value, float) and value.is_integer()
        count = int(value) if whole else -1
    if isinstance(value, bool) or count < 0:
        raise InvalidProblem(f"{name} is {value!r}; it must be a whole number >= 0")
    return count


class PartitionBudget(Supports):
    """Masks with at most :attr:`budget` kept entries in each block; a dataclass with the fields ``on`` and ``off``.

    Gains are compared exactly, so that :meth:`select` is exact and needs no witness.
    """

    on: Tensor | None
    off: Tensor | None

    @property
    @abstractmethod
    def budget(self) -> int:
        """Kept entries in each block, at most."""

    @abstractmethod
    def block_size(self, shape: tuple[int, ...]) -> int:
        """Entries in one block of consecutive entries of an array of this shape."""

    def _blocks(self, array: Tensor) -> Tensor:
        return array.reshape(-1, self.block_size(tuple(array.shape)))

    def _fixed(self, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        if self.on is None or self.off is None:
            return None, None
        return self._blocks(self.on.to(device)), self._blocks(self.off.to(device))

    def keep(self, gain: Tensor) -> Tensor:
        """See :meth:`Supports.keep`; entries that gain nothing are kept only when fixed on."""
        self.check_shape(tuple(gain.shape))
        keys = self._blocks(gain)
        on, off = self._fixed(tuple(gain.shape), gain.device)
        if on is None or off is None:
            return (keep_largest(keys, self.budget) & (keys > 0)).reshape(gain.shape)
        finite = keys.clamp_max(torch.finfo(keys.dtype).max)  # what is fixed on comes before a gain of inf
        ordered = torch.where(off, -torch.inf, torch.where(on, torch.inf, finite))
        return ((keep_largest(ordered, self.budget) & (ordered > 0)) | on).reshape(gain.shape)

    def _feasible(self) -> bool:
        if self.on is None or self.off is None:
            return True
        crowded = self._blocks(self.on).sum(dim=1) > self.budget
        return not bool(crowded.any() or (self.on & self.off).any())

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`."""
        mask = self.keep(gain)
        if not self._feasible():
            return Selection(mask, -torch.inf, -torch.inf)
        kept = exact(gain)[mask.cpu()]
        if bool(torch.isinf(kept).any()):
            return Selection(mask, torch.inf, torch.inf)
        value, error = accurate_sum(kept)
        return Selection(mask, value, value + error)

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """See :meth:`Supports.select_bound`."""
        return self.select(gain).bound

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`: kept entries beyond the budget, and entries that contradict a fixing."""
        self.check_shape(tuple(mask.shape))
        excess = int((self._blocks(mask).sum(dim=1) - self.budget).clamp_min(0).sum())
        if self.on is not None and self.off is not None:
            on, off = self.on.to(mask.device), self.off.to(mask.device)
            excess = int((self._blocks(mask | on).sum(dim=1) - self.budget).clamp_min(0).sum()) + int(
                (mask & off).sum()
            )
        return excess

    def cover(self, mask: Tensor) -> Tensor:
        """See :meth:`Supports.cover`: what is fixed on belongs to every admissible mask."""
        return mask if self.on is None else mask | self.on.to(mask.device)

    def contains(self, mask: Tensor) -> bool:
        """See :meth:`Supports.contains`."""
        return self.violation(mask) == 0 and (self.on is None or bool(mask[self.on.to(mask.device)].all()))

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`."""
        import cvxpy as cp
        import numpy as np

        shape = tuple(z.shape)
        self.check_shape(shape)
        size = self.block_size(shape)
        blocks = cp.reshape(z, (int(np.prod(shape)) // size, size), order="C")
        out: list[Any] = [cp.sum(blocks, axis=1) <= self.budget]
        if self.on is not None and self.off is not None:
            out += [z >= self.on.cpu().numpy().astype(float), z <= 1.0 - self.off.cpu().numpy().astype(float)]
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        on = on if self.on is None else on | self.on.to(on.device)
        off = off if self.off is None else off | self.off.to(off.device)
        return replace(self, on=on, off=off)  # type: ignore[type-var]

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: a full block keeps nothing else."""
        on_blocks, off_blocks = self._blocks(on), self._blocks(off)
        full = on_blocks.sum(dim=1, keepdim=True) >= self.budget
        return on, (off_blocks | (full & ~on_blocks)).reshape(off.shape)

    def _numbered(self, shape: tuple[int, ...]) -> Tensor:
        """The block of each entry; a family whose blocks are independent gives it as ``linked``."""
        return (torch.arange(math.prod(shape)) // self.block_size(shape)).reshape(shape)

    def part(self, entries: Tensor, shape: tuple[int, ...]) -> Self:
        """See :meth:`Supports.part`: the same budget in the blocks that are left."""
        on, off = (None if side is None else side.cpu()[entries].reshape(shape) for side in (self.on, self.off))
        return replace(self, on=on, off=off)  # type: ignore[type-var]

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> Tensor:
        """See :meth:`Supports.spread`."""
        on, off = self._fixed(tuple(weight.shape), weight.device)
        z = spread_budget(self._blocks(weight), self._blocks(offset), self.budget, price=price, on=on, off=off)
        return z.reshape(weight.shape)
