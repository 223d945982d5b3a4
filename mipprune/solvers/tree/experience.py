"""What a search learns while it branches: how far its estimates of rising bounds can be trusted."""

from __future__ import annotations

import numpy as np

from .strategy import Array

__all__ = ["Experience"]

_SMALLEST = 1e-2  # a bound that did not rise at all counts as this share of its estimate
_WEIGHT = 2.0  # observations that the mean of all entries stands for


class Experience:
    """Ratios of found to estimated rises of the bound, for each entry and side; geometric means.

    Parameters
    ----------
    size : int
        Number of entries of the problem.
    """

    def __init__(self, size: int) -> None:
        self._sums, self._counts = np.zeros((2, size)), np.zeros((2, size))
        self._total, self._count = np.zeros(2), np.zeros(2)

    def learn(self, entry: int, side: int, estimate: float, found: float) -> None:
        """Take note of what was estimated and found when an entry was fixed off (0) or on (1)."""
        if estimate > 0:
            ratio = np.log(min(max(found, 0.0) / estimate + _SMALLEST, 1.0 / _SMALLEST))
            self._sums[side, entry] += ratio
            self._counts[side, entry] += 1
            self._total[side] += ratio
            self._count[side] += 1

    def factor(self, side: int, entries: Array) -> Array:
        """Return by what to multiply estimates for some entries."""
        mean = self._total[side] / max(self._count[side], 1.0)
        counts = self._counts[side, entries]
        factor: Array = np.exp((self._sums[side, entries] + _WEIGHT * mean) / (counts + _WEIGHT))
        return factor
