"""Dense columns in the type and place that they came in: a file mapped into memory, float32, genotypes in 8 bits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidProblem
from .base import Array, Shifted

__all__ = ["StoredDesign"]

_BLOCK = 1 << 20  # entries that are converted at a time
_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class StoredDesign(Shifted):
    """A dense matrix that is used as it is stored: converted to float64 block by block, never as a whole.

    Parameters
    ----------
    center, factor : float64 Tensor, shape (p,)
        See :class:`Shifted`.
    values : Tensor, shape (n, p)
        B: float64, float32, float16, bfloat16, int16, int8 or uint8. For a file mapped into memory, columns that are
        contiguous (Fortran order) are read fastest.

    Examples
    --------
    >>> genotypes = np.array([[0, 2], [1, 0], [2, 1]], dtype=np.int8)
    >>> X = StoredDesign.of(genotypes, center=torch.ones(2, dtype=torch.float64))
    >>> (X @ torch.tensor([1.0, 10.0])).tolist(), X.values.dtype
    ([9.0, -10.0, 1.0], torch.int8)
    """

    values: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.values, Tensor) or self.values.ndim != 2 or self.values.dtype not in _TYPES:
            raise InvalidProblem("values must be a matrix of one of the types " + ", ".join(map(str, _TYPES)))
        self._check_sides(self.values.shape[1])
        if self.values.is_floating_point():
            bad = sum(int((~torch.isfinite(block)).sum()) for _, block in self._blocks())
            if bad:
                raise InvalidProblem(
                    f"X contains {bad} NaN or infinite value(s); clean the data before building a problem"
                )

    @classmethod
    def of(cls, values: Any, *, center: Tensor | None = None, factor: Tensor | None = None) -> StoredDesign:
        """Return the design of an array, without a copy where its type is one that can be used as it is.

        Parameters
        ----------
        values : numpy array, numpy.memmap or Tensor, shape (n, p)
            Booleans are read as 0 and 1; wider integers are converted to float64.
        center, factor : float64 Tensor, shape (p,), optional
            Default 0 and 1.
        """
        if not isinstance(values, Tensor):
            array = np.asarray(values)
            if array.dtype.kind not in "fiub":
                raise InvalidProblem(f"X has the type {array.dtype}; real numbers are needed")
            array = array.view(np.uint8) if array.dtype.kind == "b" else array
            if array.dtype.byteorder not in "=|" or array.dtype.itemsize > 8 or array.dtype == np.uint16:
                array = array.astype(np.float64)
            with warnings.catch_warnings():  # a file opened for reading: nothing is written to it here
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                values = torch.from_numpy(array)
        values = values.detach()
        if values.dtype == torch.bool:
            values = values.to(torch.uint8)
        values = values if values.dtype in _TYPES else values.to(torch.float64)
        size = values.shape[-1]
        return cls(
            torch.zeros(size, dtype=torch.float64) if center is None else center,
            torch.ones(size, dtype=torch.float64) if factor is None else factor,
            values,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (n, p)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def stored(self) -> Tensor:
        """N for every column."""
        return torch.full((self.shape[1],), self.shape[0])

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of columns, converted."""
        n, p = self.shape
        if self.values.dtype == self.dtype:
            step = max(1, 16 * _BLOCK // max(n, 1))
        else:
            step = max(1, _BLOCK // max(n, 1))
        for first in range(0, p, step):
            place = slice(first, min(first + step, p))
            yield place, self.values[:, place].to(self.dtype)

    def _times(self, weights: Tensor) -> Tensor:
        out = torch.zeros((self.shape[0], weights.shape[1]), dtype=torch.float64)
        for place, block in self._blocks():
            out += (block @ weights[place].to(block)).double()
        return out

    def _against(self, vectors: Tensor) -> Tensor:
        out = torch.empty((len(vectors), self.shape[1]), dtype=self.dtype)
        vectors = vectors.to(self.dtype)
        for place, block in self._blocks():
            out[:, place] = vectors @ block
        return out.double()

    def _raw(self, columns: Tensor) -> Tensor:
        return self.values[:, columns].double()

    def _measured(self) -> tuple[Tensor, Tensor, Tensor]:
        sums, norms, centred = torch.zeros((3, self.shape[1]), dtype=torch.float64)
        for place, block in self._blocks():
            wide = block.double()
            sums[place] = wide.sum(dim=0)
            norms[place] = _norms(wide)
            centred[place] = _norms(wide - self.center[place])
        return sums, norms, centred

    def narrowed(self, columns: Tensor) -> StoredDesign:
        """See :meth:`Design.narrowed`."""
        out = object.__new__(StoredDesign)
        sides = {"center": self.center[columns], "factor": self.factor[columns]}
        vars(out).update(sides, values=self.values[:, columns], coarse=self.coarse)
        return out

    def pattern(self) -> tuple[Array, Array] | None:
        """See :meth:`Design.pattern`: dense columns are taken to be full."""
        return None

    def touched(self, columns: Tensor) -> Tensor:
        """See :meth:`Design.touched`."""
        return torch.ones(self.shape[0], dtype=torch.bool)

    def block(self, rows: Tensor, columns: Tensor) -> StoredDesign:
        """See :meth:`Design.block`."""
        return StoredDesign(self.center[columns], self.factor[columns], self.values[:, columns][rows])

    def outer(self, weights: Tensor) -> Tensor:
        """See :meth:`Design.outer`."""
        out = torch.zeros((self.shape[0], self.shape[0]), dtype=torch.float64)
        for place, block in self._blocks():
            part = (block.double() - self.center[place]) * self.factor[place]
            out.addmm_(part * weights[place], part.mT)
        return out

    def _absolute(self) -> StoredDesign:
        wider = {torch.int8: torch.int16, torch.int16: torch.float32}.get(self.values.dtype, self.values.dtype)
        return StoredDesign(self.center.abs(), self.factor, self.values.to(wider).abs())

    def describe(self) -> str:
        """See :meth:`Design.describe`."""
        return f"dense in {str(self.values.dtype).removeprefix('torch.')}"


def _norms(block: Tensor) -> Tensor:
    """Norms of columns, without underflow."""
    if not len(block):
        return torch.zeros(block.shape[1], dtype=torch.float64)
    largest = block.abs().amax(dim=0)
    safe = torch.where(largest > 0, largest, 1.0)
    return largest * (block / safe).square_().sum(dim=0).sqrt()
