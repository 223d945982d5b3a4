"""Sparse columns, centred and scaled without becoming dense."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InvalidProblem
from .base import Array
from .shifted import Shifted

__all__ = ["SparseDesign"]


@dataclass(frozen=True, eq=False)
class SparseDesign(Shifted):
    """A sparse matrix, compressed by columns, centred and scaled without becoming dense.

    Parameters
    ----------
    center, factor : float64 Tensor, shape (p,)
        See :class:`Shifted`.
    start : int64 Tensor, shape (p + 1,)
        Column j has the stored numbers ``start[j]`` to ``start[j + 1]``.
    row : int32 or int64 Tensor, shape (nnz,)
        Their rows, ascending within a column.
    entry : float64 Tensor, shape (nnz,)
    samples : int
        Number of rows.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> X = SparseDesign.of(sp.csr_array([[1.0, 0.0], [0.0, 2.0]]), center=torch.tensor([0.5, 1.0]).double())
    >>> X[:, torch.tensor([0, 1])].tolist(), (X @ torch.ones(2)).tolist()
    ([[0.5, -1.0], [-0.5, 1.0]], [-0.5, 0.5])
    """

    start: Tensor
    row: Tensor
    entry: Tensor
    samples: int

    def __post_init__(self) -> None:
        parts = (self.start, self.row, self.entry)
        if any(not isinstance(part, Tensor) or part.ndim != 1 for part in parts) or self.start.numel() < 1:
            raise InvalidProblem("a sparse design is made of three one-dimensional tensors: start, row and entry")
        if self.start.dtype != torch.int64 or self.row.dtype not in (torch.int32, torch.int64):
            raise InvalidProblem(f"starts and rows must be integers, not {self.start.dtype} and {self.row.dtype}")
        if self.entry.dtype != torch.float64 or self.row.shape != self.entry.shape:
            raise InvalidProblem("entries must be float64, one for each row number")
        self._check_sides(self.start.numel() - 1)
        count, size = self.start.diff(), self.entry.numel()
        if int(self.start[0]) != 0 or int(self.start[-1]) != size or bool((count < 0).any()):
            raise InvalidProblem("the starts of the columns do not ascend from 0 to the number of entries")
        if size and (int(self.row.min()) < 0 or int(self.row.max()) >= self.samples):
            raise InvalidProblem(f"a row number is outside the {self.samples} rows")
        rising = self.row[1:] > self.row[:-1]
        first = self.start[1:-1]
        rising[first[(first > 0) & (first < size)] - 1] = True
        if not bool(rising.all()):
            raise InvalidProblem("the rows of a column do not ascend, or one occurs twice")
        bad = size - int(torch.isfinite(self.entry).sum())
        if bad:
            raise InvalidProblem(f"X contains {bad} NaN or infinite value(s); clean the data before building a problem")

    @classmethod
    def of(cls, matrix: Any, *, center: Tensor | None = None, factor: Tensor | None = None) -> SparseDesign:
        """Return the design of a sparse matrix of scipy or torch, in any format.

        Parameters
        ----------
        matrix : scipy sparse array or matrix, or sparse Tensor, shape (n, p)
            Entries that occur twice are added up, stored zeros dropped; numbers are taken in float64.
        center, factor : float64 Tensor, shape (p,), optional
            Default 0 and 1.

        Raises
        ------
        InvalidProblem
            On complex, NaN or infinite entries.
        """
        from scipy.sparse import csc_array

        given = _of_torch(matrix) if isinstance(matrix, Tensor) else matrix
        if given.ndim != 2:
            raise InvalidProblem(f"X is sparse with shape {tuple(given.shape)}, but 2 dimensions are needed")
        held = csc_array(given)
        if held.dtype.kind not in "fiub":
            raise InvalidProblem(f"X is sparse with shape {held.shape} and type {held.dtype}; real numbers are needed")
        held = csc_array(held, dtype=np.float64, copy=True)
        held.sum_duplicates()
        held.eliminate_zeros()
        held.sort_indices()
        n, p = held.shape
        return cls(
            torch.zeros(p, dtype=torch.float64) if center is None else center,
            torch.ones(p, dtype=torch.float64) if factor is None else factor,
            torch.from_numpy(held.indptr.astype(np.int64)),
            torch.from_numpy(held.indices.astype(np.int32 if n < 2**31 else np.int64)),
            torch.from_numpy(held.data),
            n,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (n, p)."""
        return self.samples, self.start.numel() - 1

    @property
    def stored(self) -> Tensor:
        """Entries of each column."""
        return self.start.diff()

    @cached_property
    def by_column(self) -> Any:
        """B as a scipy array, compressed by columns."""
        from scipy.sparse import csc_array

        kind = np.int32 if self.entry.numel() < 2**31 and self.row.dtype == torch.int32 else np.int64
        indices = self.row.numpy().astype(kind, copy=False)
        return csc_array((self.entry.numpy(), indices, self.start.numpy().astype(kind)), shape=self.shape)

    @cached_property
    def by_row(self) -> Any:
        """B as a scipy array, compressed by rows."""
        return self.by_column.tocsr()

    def _times(self, weights: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(self.by_column @ weights.numpy()))

    def _against(self, vectors: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray((self.by_column.T @ vectors.numpy().T).T))

    def _raw(self, columns: Tensor) -> Tensor:
        return torch.from_numpy(self.by_column[:, columns.numpy()].toarray())

    def _measured(self) -> tuple[Tensor, Tensor, Tensor]:
        size = self.shape[1]
        column = torch.repeat_interleave(torch.arange(size), self.stored)
        zero = torch.zeros(size, dtype=torch.float64)

        def norms(values: Tensor, others: Tensor) -> Tensor:
            """Norms of the stored values of each column together with so many times the same other one."""
            largest = others.abs().scatter_reduce(0, column, values.abs(), "amax")
            safe = torch.where(largest > 0, largest, 1.0)
            inside = zero.index_add(0, column, (values / safe[column]).square_())
            return largest * (inside + absent * (others / safe).square()).sqrt()

        absent = (self.samples - self.stored).double()
        others = torch.where(absent > 0, self.center, 0.0)
        sums = zero.index_add(0, column, self.entry)
        return sums, norms(self.entry, zero), norms(self.entry - self.center[column], others)

    def _narrowed(self, columns: Tensor) -> dict[str, Any]:
        return self._fields(self.by_column[:, columns.numpy()])

    def _fields(self, held: Any) -> dict[str, Any]:
        """The fields for a scipy array."""
        return {
            "start": torch.from_numpy(held.indptr.astype(np.int64)),
            "row": torch.from_numpy(held.indices).to(self.row.dtype),
            "entry": torch.from_numpy(held.data),
            "samples": held.shape[0],
        }

    def pattern(self) -> tuple[Array, Array] | None:
        """See :meth:`Design.pattern`."""
        if bool(self.center.any()):
            return None
        column = torch.repeat_interleave(torch.arange(self.shape[1]), self.stored)
        return self.row.numpy().astype(np.int64), column.numpy()

    def touched(self, columns: Tensor) -> Tensor:
        """See :meth:`Design.touched`."""
        if bool(self.center[columns].any()):
            return torch.ones(self.samples, dtype=torch.bool)
        out = torch.zeros(self.samples, dtype=torch.bool)
        out[self.row[torch.repeat_interleave(columns, self.stored)].long()] = True
        return out

    def block(self, rows: Tensor, columns: Tensor) -> SparseDesign:
        """See :meth:`Design.block`."""
        inside = columns.nonzero().ravel()
        held = self.by_column[:, inside.numpy()][rows.nonzero().ravel().numpy()]
        held.sort_indices()
        return SparseDesign(self.center[inside], self.factor[inside], **self._fields(held))

    def gram(self, columns: Tensor | None = None) -> Tensor:
        """See :meth:`Design.gram`; from products of sparse matrices."""
        part = self if columns is None else self.narrowed(columns)
        raw = torch.from_numpy((part.by_column.T @ part.by_column).toarray())
        return part._centred(raw, part).to(self.dtype)

    def gram_rows(self, columns: Tensor) -> Tensor:
        """See :meth:`Design.gram_rows`; from products of sparse matrices."""
        part = self.narrowed(columns)
        return self._centred(torch.from_numpy((part.by_column.T @ self.by_row).toarray()), part).to(self.dtype)

    def cross(self, first: Tensor, second: Tensor) -> Tensor:
        """Return ``X[:, first]' X[:, second]``."""
        left, right = self.narrowed(first), self.narrowed(second)
        return right._centred(torch.from_numpy((left.by_column.T @ right.by_column).toarray()), left)

    def _centred(self, raw: Tensor, left: SparseDesign) -> Tensor:
        """``X_left' X`` from ``B_left' B``, in place."""
        if bool(left.center.any()) or bool(self.center.any()):
            raw.addr_(left.center, self.sums, alpha=-1.0)
            raw.addr_(left.sums - self.samples * left.center, self.center, alpha=-1.0)
        raw *= left.factor.unsqueeze(1)
        raw *= self.factor
        return raw

    def outer(self, weights: Tensor) -> Tensor:
        """See :meth:`Design.outer`."""
        from scipy.sparse import diags_array

        scaled = weights * self.factor.square()
        raw = torch.from_numpy((self.by_row @ diags_array(scaled.numpy()) @ self.by_column.T).toarray())
        side = self._times((scaled * self.center)[:, None])[:, 0]
        total = float((scaled * self.center.square()).sum())
        return raw - side.unsqueeze(1) - side + total

    def _absolute(self) -> SparseDesign:
        return SparseDesign(self.center.abs(), self.factor, self.start, self.row, self.entry.abs(), self.samples)

    def describe(self) -> str:
        """See :meth:`Design.describe`."""
        return f"sparse with {self.entry.numel()} entries"


def _of_torch(matrix: Tensor) -> Any:
    """A sparse tensor as a scipy array."""
    from scipy.sparse import coo_array

    held = matrix.detach().cpu().to_sparse_coo().coalesce()
    values = held.values()
    values = values.double() if values.is_floating_point() else values
    return coo_array((values.numpy(), tuple(held.indices().numpy())), shape=tuple(held.shape))
