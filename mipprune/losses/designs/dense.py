"""The usual matrix: one tensor."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from ...core.arrays import gamma
from ...core.rational import ExactArray, rational
from .base import UNDERFLOW, Array, Design

__all__ = ["DenseDesign"]


class DenseDesign(Design):
    """A matrix as one tensor, in float32 or float64 on any device; products here are in float64.

    Parameters
    ----------
    values : Tensor, shape (n, p)
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (n, p)."""
        return self.values.shape[0], self.values.shape[1]

    @cached_property
    def _wide(self) -> Tensor:
        return self.values.double()

    @cached_property
    def squares(self) -> Tensor:
        """Squared norms of the columns, (p,)."""
        return self._wide.square().sum(dim=0)

    @cached_property
    def magnitude(self) -> Tensor:
        """Norms of the columns, rounded up."""
        lost = UNDERFLOW * (self._wide != 0).any(dim=0).double()  # products with zeros are exact
        return self.squares.sqrt() * (1 + gamma(self.shape[0] + 8)) + lost

    def __matmul__(self, weights: Tensor) -> Tensor:
        """Return ``X w``."""
        return self._wide @ weights

    def __rmatmul__(self, vectors: Tensor) -> Tensor:
        """Return ``r X``."""
        return vectors @ self._wide

    def __getitem__(self, place: tuple[slice, Tensor]) -> Tensor:
        """Return ``X[:, columns]``."""
        return self._wide[place]

    def slope_error(self, sizes: Tensor) -> Tensor:
        """See :meth:`Design.slope_error`: the inequality of Cauchy and Schwarz."""
        return gamma(self.shape[0] + 4) * sizes.unsqueeze(-1) * self.magnitude

    def slope_error_at(self, vector: Tensor) -> Tensor:
        """See :meth:`Design.slope_error_at`, entry by entry."""
        lost = (self.shape[0] + 4) * 2.0**-1073 * (self.magnitude > 0).double()
        return gamma(self.shape[0] + 2) * self.spread(vector.abs()) + lost

    def spread(self, sizes: Tensor) -> Tensor:
        """See :meth:`Design.spread`."""
        return self._wide.abs().mT @ sizes

    def terms(self, weights: Tensor) -> Tensor:
        """See :meth:`Design.terms`."""
        return self._wide.abs() @ weights.abs()

    def narrowed(self, columns: Tensor) -> DenseDesign:
        """See :meth:`Design.narrowed`."""
        return DenseDesign(self.values[:, columns])

    def gram(self, columns: Tensor | None = None) -> Tensor:
        """See :meth:`Design.gram`."""
        part = self._wide if columns is None else self._wide[:, columns]
        return part.mT @ part

    def outer(self, weights: Tensor) -> Tensor:
        """See :meth:`Design.outer`."""
        return (self._wide * weights) @ self._wide.mT

    def pattern(self) -> tuple[Array, Array] | None:
        """See :meth:`Design.pattern`."""
        if bool((self.values[:8] != 0).all(dim=1).any()):
            return None  # a full row joins all columns: the usual case, told at once
        row, column = (side.cpu().numpy() for side in self.values.nonzero(as_tuple=True))
        return row, column

    def touched(self, columns: Tensor) -> Tensor:
        """See :meth:`Design.touched`."""
        return (self.values[:, columns] != 0).any(dim=1)

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """See :meth:`Design.block`."""
        return self.values[:, columns][rows]

    def dense(self) -> Tensor:
        """Return the tensor."""
        return self.values

    def exact(self) -> ExactArray:
        """See :meth:`Design.exact`."""
        return rational(self.values)

    def describe(self) -> str:
        """See :meth:`Design.describe`: nothing."""
        return ""
