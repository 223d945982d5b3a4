"""What the processes of one search share while they work: the best value so far, and whether to stop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

__all__ = ["Board"]


class Board:
    """Two numbers in a file that every process on the machine maps into its memory.

    Writes are single aligned stores; of two at the same time one is lost, which weakens a cutoff for a while and spoils
    nothing.

    Parameters
    ----------
    path : Path
    fresh : bool
        Create it.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        if fresh:
            np.array([math.inf, 0.0]).tofile(path)
        self._cells = np.memmap(path, dtype=np.float64, mode="r+", shape=(2,))

    @property
    def value(self) -> float:
        """Value of the best member of S that any process found."""
        return float(self._cells[0])

    def post(self, value: float) -> None:
        """Tell the others of a value."""
        if value < self._cells[0]:
            self._cells[0] = value

    @property
    def stopped(self) -> bool:
        """Whether all should stop."""
        return bool(self._cells[1] != 0.0)

    def stop(self) -> None:
        """Tell all to stop."""
        self._cells[1] = 1.0
