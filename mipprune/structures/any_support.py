"""Every mask: for problems in which only a price keeps the support small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .partition import PartitionBudget

__all__ = ["AnySupport"]


@dataclass(frozen=True, eq=False)
class AnySupport(PartitionBudget):
    """Every 0/1 mask; the price of :class:`~mipprune.Sparse` does the selecting.

    Examples
    --------
    >>> import torch
    >>> AnySupport().keep(torch.tensor([3.0, -1.0, 2.0]))
    tensor([ True, False,  True])
    """

    on: Tensor | None = None
    off: Tensor | None = None

    @property
    def budget(self) -> int:
        """See :class:`PartitionBudget`: more than any array has entries."""
        return 1 << 60

    def largest_count(self, size: int) -> int | None:
        """See :meth:`Supports.largest_count`."""
        return size if self.on is None and self.off is None else None

    def block_size(self, shape: tuple[int, ...]) -> int:
        """See :class:`PartitionBudget`: everything is one block."""
        return max(math.prod(shape), 1)

    def linked(self, shape: tuple[int, ...]) -> Tensor | None:
        """See :meth:`Supports.linked`: no entry depends on another, unless a subclass joins them."""
        return torch.arange(math.prod(shape)).reshape(shape) if type(self) is AnySupport else None

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`: none but the fixings."""
        if self.on is None or self.off is None:
            return []
        on, off = self.on.cpu().numpy().astype(float), self.off.cpu().numpy().astype(float)
        return [z >= on, z <= 1.0 - off]

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        return "any support"
