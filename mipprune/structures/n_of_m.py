"""N:M sparsity along the input axis."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import InvalidProblem
from .partition import PartitionBudget, check_count

__all__ = ["NofM"]


@dataclass(frozen=True, eq=False)
class NofM(PartitionBudget):
    """At most ``n`` kept entries in every group of ``m`` consecutive entries along the last (input) axis.

    Parameters
    ----------
    n : int
        Kept entries of a group, 1 <= n <= m. (Some codes count the removed ones.)
    m : int
        Size of a group; must divide the length of the last axis.

    Raises
    ------
    InvalidProblem
        If n > m, or, once an array is at hand, if m does not divide its last axis.

    Examples
    --------
    >>> import torch
    >>> NofM(2, 4).keep(torch.tensor([[1.0, 4.0, 2.0, 3.0]]))
    tensor([[False,  True, False,  True]])
    """

    n: int
    m: int
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", check_count(self.n, "n"))
        object.__setattr__(self, "m", check_count(self.m, "m"))
        if not 1 <= self.n <= self.m:
            raise InvalidProblem(f"NofM({self.n}, {self.m}): n kept entries of m need 1 <= n <= m")

    @property
    def budget(self) -> int:
        """See :class:`PartitionBudget`."""
        return self.n

    def block_size(self, shape: tuple[int, ...]) -> int:
        """See :class:`PartitionBudget`: a group."""
        return self.m

    def largest_count(self, size: int) -> int | None:
        """See :meth:`Supports.largest_count`: of an array with one group."""
        return self.n if size == self.m and self.on is None and self.off is None else None

    def linked(self, shape: tuple[int, ...]) -> Tensor | None:
        """See :meth:`Supports.linked`: groups are independent, unless a subclass joins them."""
        return self._numbered(shape) if type(self) is NofM else None

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`."""
        if not shape or shape[-1] % self.m:
            raise InvalidProblem(
                f"{self.n}:{self.m} needs an input dimension divisible by {self.m}; the array has shape {shape}"
            )
        super().check_shape(shape)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        return f"at most {self.n} non-zeros in every {self.m} consecutive inputs"
