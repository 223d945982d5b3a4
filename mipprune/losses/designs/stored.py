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
from .base import Array
from .shifted import Shifted

__all__ = ["StoredDesign"]

_BLOCK = 1 << 20  # entries that are converted at a time
_SMALL = 1e-140  # norms below it may have lost squares to underflow
_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class StoredDesign(Shifted):
    """A dense matrix that is used as it is stored: converted to float64 block by block, never as a whole.

    The numbers are shared with whoever gave them: norms and bounds are those of the numbers when they were first used.

    Parameters
    ----------
    center, factor : float64 Tensor, shape (p,)
        See :class:`Shifted`.
    columns : Tensor, shape (p, n)
        B': float64, float32, float16, bfloat16, int16, int8 or uint8. Fastest where each column of X is contiguous, as
        in a file in Fortran order.

    Examples
    --------
    >>> genotypes = np.array([[0, 2], [1, 0], [2, 1]], dtype=np.int8)
    >>> X = StoredDesign.of(genotypes, center=torch.ones(2, dtype=torch.float64))
    >>> (X @ torch.tensor([1.0, 10.0])).tolist(), X.columns.dtype
    ([9.0, -10.0, 1.0], torch.int8)
    """

    columns: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.columns, Tensor) or self.columns.ndim != 2 or self.columns.dtype not in _TYPES:
            raise InvalidProblem("columns must be a matrix of one of the types " + ", ".join(map(str, _TYPES)))
        self._check_sides(self.columns.shape[0])
        if self.columns.is_floating_point() and not bool(torch.isfinite(self.sums).all()):
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
            if not array.dtype.isnative or array.dtype.itemsize > 8 or array.dtype == np.uint16:
                array = array.astype(np.float64)
            if any(step < 0 or step % array.itemsize for step in array.strides):  # tensors have no such strides
                array = array.copy()
            with warnings.catch_warnings():  # a file opened for reading: nothing is written to it here
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                values = torch.from_numpy(array)
        if values.ndim != 2:
            raise InvalidProblem(f"X has shape {tuple(values.shape)}, but 2 dimensions are needed")
        values = values.detach()
        if values.dtype == torch.bool:
            values = values.to(torch.uint8)
        values = values if values.dtype in _TYPES else values.to(torch.float64)
        size = values.shape[1]
        return cls(
            torch.zeros(size, dtype=torch.float64) if center is None else center,
            torch.ones(size, dtype=torch.float64) if factor is None else factor,
            values.mT,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (n, p)."""
        return self.columns.shape[1], self.columns.shape[0]

    @property
    def stored(self) -> Tensor:
        """N for every column."""
        return torch.full((self.shape[1],), self.shape[0])

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of columns as rows, converted."""
        n, p = self.shape
        step = max(1, (16 if self.columns.dtype == self.dtype else 1) * _BLOCK // max(n, 1))
        for first in range(0, p, step):
            place = slice(first, min(first + step, p))
            yield place, self.columns[place].to(self.dtype)

    def _times(self, weights: Tensor) -> Tensor:
        out = torch.zeros((self.shape[0], weights.shape[1]), dtype=torch.float64)
        for place, block in self._blocks():
            out += (block.mT @ weights[place].to(block)).double()
        return out

    def _against(self, vectors: Tensor) -> Tensor:
        out = torch.empty((len(vectors), self.shape[1]), dtype=self.dtype)
        vectors = vectors.to(self.dtype)
        for place, block in self._blocks():
            out[:, place] = vectors @ block.mT
        return out.double()

    def _raw(self, columns: Tensor) -> Tensor:
        return self.columns[columns].double().mT

    def _measured(self) -> tuple[Tensor, Tensor, Tensor]:
        sums, norms, centred = torch.zeros((3, self.shape[1]), dtype=torch.float64)
        shifted = bool(self.center.any())
        for place, block in self._blocks():
            wide = block.double()
            sums[place], norms[place] = wide.sum(dim=1), _norms(wide)
            centred[place] = _norms(wide - self.center[place, None]) if shifted else norms[place]
        return sums, norms, centred

    def _narrowed(self, columns: Tensor) -> dict[str, Any]:
        return {"columns": self.columns[columns]}

    def pattern(self) -> tuple[Array, Array] | None:
        """See :meth:`Design.pattern`: dense columns are taken to be full."""
        return None

    def touched(self, columns: Tensor) -> Tensor:
        """See :meth:`Design.touched`."""
        return torch.ones(self.shape[0], dtype=torch.bool)

    def block(self, rows: Tensor, columns: Tensor) -> StoredDesign:
        """See :meth:`Design.block`."""
        return StoredDesign(self.center[columns], self.factor[columns], self.columns[columns][:, rows])

    def outer(self, weights: Tensor) -> Tensor:
        """See :meth:`Design.outer`."""
        out = torch.zeros((self.shape[0], self.shape[0]), dtype=torch.float64)
        for place, block in self._blocks():
            part = (block.double() - self.center[place, None]) * self.factor[place, None]
            out.addmm_((part * weights[place, None]).mT, part)
        return out

    def _absolute(self) -> StoredDesign:
        wider = {torch.int8: torch.int16, torch.int16: torch.float32}.get(self.columns.dtype, self.columns.dtype)
        return StoredDesign(self.center.abs(), self.factor, self.columns.to(wider).abs())

    def describe(self) -> str:
        """See :meth:`Design.describe`."""
        return f"dense in {str(self.columns.dtype).removeprefix('torch.')}"


def _norms(rows: Tensor) -> Tensor:
    """Norms of rows, without underflow."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    doubtful = ((norms < _SMALL) | ~torch.isfinite(norms)).nonzero().ravel()
    if len(doubtful) and rows.shape[1]:
        some = rows[doubtful]
        largest = some.abs().amax(dim=1)
        safe = torch.where(largest > 0, largest, 1.0)
        norms[doubtful] = largest * torch.linalg.vector_norm(some / safe[:, None], dim=1)
    return norms
