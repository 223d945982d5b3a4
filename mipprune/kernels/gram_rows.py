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
    design : float64 Tensor, shape (n, p)
    room : int
        Rows held at most, >= 1.
    full : bool
        Form the whole matrix at once.
    """

    def __init__(self, design: Tensor, *, room: int = 1024, full: bool = False) -> None:
        self.design, self.full = design, full
        size = design.shape[1]
        self.room = size if full else min(room, size)
        self.slot = np.full(size, -1, dtype=np.int64)
        self.used = 0
        if full:
            self.rows = (design.mT @ design).numpy()
            self.slot[:] = np.arange(size)
            self.used = size
            self.diagonal = np.ascontiguousarray(np.diagonal(self.rows))
        else:
            self.rows = np.empty((min(64, self.room), size))
            self.diagonal = design.square().sum(dim=0).numpy()

    def narrowed(self, columns: Array) -> GramRows:
        """Return the rows for some of the columns (ascending); what is there already is not formed again."""
        out = GramRows(self.design[:, torch.from_numpy(columns)].contiguous(), room=max(self.room, 64))
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
            grown = np.empty((min(2 * len(self.rows), self.room), self.rows.shape[1]))
            grown[: self.used] = self.rows[: self.used]
            self.rows = grown
        new = self.design[:, torch.from_numpy(wanted)].mT @ self.design
        self.rows[self.used : self.used + len(wanted)] = new.numpy()
        self.slot[wanted] = np.arange(self.used, self.used + len(wanted))
        self.used += len(wanted)
