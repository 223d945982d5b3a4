"""At most so many entries in each block of a partition: the common part of Cardinality, PerRow and NofM."""

from __future__ import annotations

import math
import operator
from abc import abstractmethod
from dataclasses import replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from ..core.arrays import accurate_sum, as_mask, exact
from ..core.structure import Selection, Structure, Supports, Witness
from ..errors import InvalidProblem
from ..kernels.budget import spread_budget
from ..kernels.top_k import keep_largest

__all__ = ["PartitionBudget", "check_count", "check_fixings", "restricted"]

F = TypeVar("F", bound=Supports | Structure)


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


def check_fixings(on: Tensor | None, off: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise :class:`InvalidProblem` when entries were fixed in an array of another shape."""
    for name, side in (("on", on), ("off", off)):
        if side is not None and tuple(side.shape) != shape:
            raise InvalidProblem(f"{name} has shape {tuple(side.shape)}, but the array has shape {shape}")


def restricted(family: F, on: Any, off: Any) -> F:
    """Return a family with more entries fixed.

    Parameters
    ----------
    family : Supports or Structure
        A dataclass with the fields ``on`` and ``off``.
    on, off : bool Tensor, shape of the weights
        Entries that are kept and entries that are zero; 0/1 numbers are read as booleans.

    Raises
    ------
    InvalidProblem
        If they are no masks, or differ in shape from one another, from earlier ones or from what the family takes.
    """
    on = as_mask(on, "on")
    off = as_mask(off, "off", shape=tuple(on.shape))
    family.check_shape(tuple(on.shape))
    earlier: tuple[Tensor | None, Tensor | None] = tuple(getattr(family, name) for name in ("on", "off"))
    check_fixings(*earlier, tuple(on.shape))
    on, off = (new if old is None else new | old.to(new.device) for new, old in zip((on, off), earlier, strict=True))
    return replace(family, on=on, off=off)  # type: ignore[type-var]


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

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`: with fixings, theirs."""
        check_fixings(self.on, self.off, shape)

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
        return restricted(self, on, off)

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
