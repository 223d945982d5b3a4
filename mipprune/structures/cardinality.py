"""At most k kept entries, in the whole array or in each row."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .partition import PartitionBudget, check_count

__all__ = ["Cardinality", "PerRow"]


@dataclass(frozen=True, eq=False)
class Cardinality(PartitionBudget):
    """At most ``count`` kept entries in the whole array ("unstructured"); couples the rows.

    Parameters
    ----------
    count : int
        Largest number of kept entries, >= 0. A count beyond the number of entries is no constraint.

    Examples
    --------
    >>> import torch
    >>> Cardinality(2).keep(torch.tensor([[3.0, 1.0], [2.0, 0.0]]))
    tensor([[ True, False],
            [ True, False]])
    """

    count: int
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", check_count(self.count, "count"))

    @property
    def budget(self) -> int:
        """See :class:`PartitionBudget`."""
        return self.count

    def largest_count(self, size: int) -> int | None:
        """See :meth:`Supports.largest_count`."""
        return min(self.count, size) if self.on is None and self.off is None else None

    def block_size(self, shape: tuple[int, ...]) -> int:
        """See :class:`PartitionBudget`: everything is one block."""
        return max(math.prod(shape), 1)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        return f"||w||_0 <= {self.count}"


@dataclass(frozen=True, eq=False)
class PerRow(PartitionBudget):
    """At most ``count`` kept entries in each row (along the last axis); Wanda's comparison group.

    Parameters
    ----------
    count : int
        Largest number of kept entries of a row, >= 0.

    Examples
    --------
    >>> import torch
    >>> PerRow(1).keep(torch.tensor([[3.0, 1.0], [2.0, 5.0]]))
    tensor([[ True, False],
            [False,  True]])
    """

    count: int
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", check_count(self.count, "count"))

    @property
    def budget(self) -> int:
        """See :class:`PartitionBudget`."""
        return self.count

    def block_size(self, shape: tuple[int, ...]) -> int:
        """See :class:`PartitionBudget`: a row."""
        return shape[-1] if shape else 1

    def linked(self, shape: tuple[int, ...]) -> Tensor | None:
        """See :meth:`Supports.linked`: rows are independent, unless a subclass joins them."""
        return self._numbered(shape) if type(self) is PerRow else None

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        return f"||w_r||_0 <= {self.count} for every row r"
