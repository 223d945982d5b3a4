"""What least squares needs of its matrix, in whatever form that is held."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.arrays import gamma
from ...core.rational import ExactArray
from ...kernels.diagonal_split import inverse_root

if TYPE_CHECKING:
    from .shifted import Shifted

__all__ = ["LARGEST", "UNDERFLOW", "Array", "Design", "Transposed"]

LARGEST = 1 << 25
"""Entries up to which a matrix may be written out as one float64 tensor."""

UNDERFLOW = 2.0**-508
"""Added to norms of columns: ``gamma(n)`` times its square exceeds what underflow costs n products."""

Array = np.ndarray[Any, Any]


class Design(ABC):
    """What least squares needs of its matrix X, in whatever form it is held.

    ``X @ v``, ``r @ X``, ``X.mT @ r`` and ``X[:, columns]`` work as for tensors.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (n, p)."""

    @property
    @abstractmethod
    def squares(self) -> Tensor:
        """Squared norms of the columns, (p,)."""

    @property
    @abstractmethod
    def magnitude(self) -> Tensor:
        """Upper bounds (p,) of the norms of the columns, and :data:`UNDERFLOW`; parts that cancel count apart."""

    @property
    def safe_squares(self) -> Tensor:
        """Squared norms of the columns for scaling: those that underflow count as small, and not as nothing."""
        return torch.where(self.magnitude > 0, self.squares.clamp_min(UNDERFLOW * UNDERFLOW), 0.0)

    @abstractmethod
    def __matmul__(self, weights: Tensor) -> Tensor:
        """Return ``X w`` for w of shape (p,) or (p, k)."""

    @abstractmethod
    def __rmatmul__(self, vectors: Tensor) -> Tensor:
        """Return ``r X`` for r of shape (n,) or (k, n)."""

    @abstractmethod
    def __getitem__(self, place: tuple[slice, Tensor]) -> Tensor:
        """Return ``X[:, columns]`` as a dense matrix."""

    @abstractmethod
    def slope_error(self, sizes: Tensor) -> Tensor:
        """Return bounds (k, p) of the rounding of ``r X`` for k vectors r of at most these norms (k,)."""

    @abstractmethod
    def terms(self, weights: Tensor) -> Tensor:
        """Return (n,) sums of the absolute terms of ``X w``; ``gamma(k + 8)`` of them bounds its rounding, k in use."""

    @abstractmethod
    def narrowed(self, columns: Tensor) -> Design:
        """Return the matrix of some of the columns (int64, ascending), in the same form."""

    @abstractmethod
    def outer(self, weights: Tensor) -> Tensor:
        """Return ``X Diag(weights) X'``, shape (n, n), for weights >= 0."""

    @abstractmethod
    def pattern(self) -> tuple[Array, Array] | None:
        """Return rows and columns of the entries that may be non-zero; ``None`` where some row is full."""

    @abstractmethod
    def touched(self, columns: Tensor) -> Tensor:
        """Return the rows (bool) in which some of the columns (bool) may be non-zero."""

    @abstractmethod
    def block(self, rows: Tensor, columns: Tensor) -> Tensor | Shifted:
        """Return some rows of some columns (bool), as data of a smaller problem."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return X as one tensor."""

    @abstractmethod
    def exact(self) -> ExactArray:
        """Return X in exact numbers, for small matrices."""

    @abstractmethod
    def describe(self) -> str:
        """Return in words how the matrix is held, or nothing where it is the usual way."""

    @property
    def mT(self) -> Transposed:
        """The transposed matrix."""
        return Transposed(self)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def slope_error_at(self, vector: Tensor) -> Tensor:
        """Return bounds (p,) of the rounding of ``r X`` for one vector r."""
        size: Tensor = vector.double().norm() * (1 + gamma(self.shape[0] + 8)) + UNDERFLOW
        return self.slope_error(size.reshape(1))[0]

    def spread(self, sizes: Tensor) -> Tensor:
        """Return an upper bound (p,) of ``|X|' e`` for e >= 0 of shape (n,)."""
        size: Tensor = sizes.norm() * (1 + gamma(self.shape[0] + 8)) + UNDERFLOW
        return self.magnitude * size

    def gram(self, columns: Tensor | None = None) -> Tensor:
        """Return ``X'X`` of some columns; off by at most ``gamma(n + 16)`` times the product of their magnitudes."""
        part: Tensor = self[:, torch.arange(self.shape[1]) if columns is None else columns]
        return part.mT @ part

    def gram_rows(self, columns: Tensor) -> Tensor:
        """Return ``X[:, columns]' X``, shape (k, p)."""
        step = max(1, LARGEST // max(self.shape[0], 1))
        return torch.cat([self[:, some].mT @ self for some in columns.split(step)])

    def norm(self) -> float:
        """Return the largest eigenvalue of X'X divided by :attr:`safe_squares`, from the smaller Gram matrix."""
        n, p = self.shape
        inverse = inverse_root(self.safe_squares)
        small = inverse.unsqueeze(1) * self.gram() * inverse if p <= n else self.outer(inverse.square())
        if not bool(small.isfinite().all()):
            return float(p)  # no eigenvalue is above the trace
        return float(torch.linalg.eigvalsh(small)[-1]) if min(n, p) else 0.0


class Transposed:
    """X' of a design: ``X.mT @ r``, and rows of X' by number."""

    def __init__(self, of: Design) -> None:
        self.of = of

    def __matmul__(self, other: Tensor | Design) -> Tensor:
        """Return ``X' r`` for r of shape (n,) or (n, k), or ``X'X``."""
        if isinstance(other, Design):
            return self.of.gram()
        return (other.mT @ self.of).mT if other.ndim > 1 else other @ self.of

    def __getitem__(self, columns: Tensor) -> Tensor:
        """Return columns of X as the rows of a dense matrix."""
        return self.of[:, columns].mT.contiguous()

    def contiguous(self) -> Transposed:
        """Return itself."""
        return self
