"""Rows of X'X, formed when they are first needed and kept within a limit of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["GramRows"]

Array = np.ndarray[Any, Any]


class GramRows:
    """Rows of the Gram matrix of the columns of a matrix.

    Parameters
    ----------
    design : Tensor, or another matrix of shape (n, p)
        In float64, or in float32 where rows that are twice as fast to read are accurate enough. A matrix that is not a
        tensor has ``gram()``, ``gram_rows(columns)``, ``squares`` and ``narrowed(columns)``.
    room : int
        Rows held at most, >= 1.
    full : bool
        Form the whole matrix at once.
    """

    def __init__(self, design: Any, *, room: int = 1024, full: bool = False) -> None:
        self.design, self.full = design, full
        size = design.shape[1]
        self._coarse = design.dtype == torch.float32
        self.room = size if full else min(room, size)
        self.slot = np.full(size, -1, dtype=np.int64)
        self.used = 0
        if full:
            self.rows = (design.mT @ design if isinstance(design, Tensor) else design.gram()).numpy()
            self.slot[:] = np.arange(size)
            self.used = size
            self.diagonal = np.ascontiguousarray(np.diagonal(self.rows))
        else:
            self.rows = np.empty((min(64, self.room), size), dtype=np.float32 if self._coarse else np.float64)
            tensor = isinstance(design, Tensor)
            squares = torch.linalg.vector_norm(design, dim=0).square() if tensor else design.squares
            self.diagonal = squares.numpy()

    @classmethod
    def whole(cls, rows: Array, diagonal: Array) -> GramRows:
        """Return the object for a matrix that is known already; its rows may be longer than there are columns."""
        out = cls.__new__(cls)
        out.room = out.used = len(diagonal)
        out.full = True
        out.rows, out.diagonal, out.slot = rows, diagonal, np.arange(len(diagonal))
        return out

    def narrowed(self, columns: Array, design: Any = None) -> GramRows:
        """Return the rows for some of the columns (ascending); what is there already is not formed again.

        ``design`` is the matrix of these columns where it is at hand.
        """
        if design is None or isinstance(design, Tensor):
            design = self.design[:, torch.from_numpy(columns)].contiguous()
        out = GramRows(design, room=max(self.room, 64))
        known = np.flatnonzero(self.slot[columns] >= 0)[: out.room]
        if len(known):
            out.rows = self.rows[self.slot[columns[known]]][:, columns]
            out.slot[known] = np.arange(len(known))
            out.used = len(known)
        return out

    def ensure(self, entries: Array) -> None:
        """Form the rows of some entries; when the room is exhausted, all others are forgotten first.

        Raises
        ------
        MemoryError
            If more rows are asked for at once than may be held.
        """
        wanted = entries[self.slot[entries] < 0]
        if not len(wanted):
            return
        if self.used + len(wanted) > self.room:
            entries = np.unique(entries)
            if len(entries) > self.room:
                raise MemoryError(f"{len(entries)} rows of X'X are needed at once, {self.room} may be held")
            self.slot[:] = -1
            self.used = 0
            wanted = entries
        while self.used + len(wanted) > len(self.rows):
            grown = np.empty((min(2 * len(self.rows), self.room), self.rows.shape[1]), dtype=self.rows.dtype)
            grown[: self.used] = self.rows[: self.used]
            self.rows = grown
        left = torch.from_numpy(wanted)
        tensor = isinstance(self.design, Tensor)
        new = self.design[:, left].mT @ self.design if tensor else self.design.gram_rows(left)
        self.rows[self.used : self.used + len(wanted)] = new.numpy()
        self.slot[wanted] = np.arange(self.used, self.used + len(wanted))
        self.used += len(wanted)
