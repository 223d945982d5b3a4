"""What a search learns while it branches: how far its estimates of rising bounds can be trusted."""

from __future__ import annotations

from typing import Any

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
        self.news: list[tuple[int, int, float]] = []
        """(entry, side, logarithm of the ratio) of all that was learned since the list was emptied last"""

    def learn(self, entry: int, side: int, estimate: float, found: float) -> None:
        """Take note of what was estimated and found when an entry was fixed off (0) or on (1)."""
        if estimate > 0:
            ratio = float(np.log(min(max(found, 0.0) / estimate + _SMALLEST, 1.0 / _SMALLEST)))
            self.absorb([(entry, side, ratio)])
            self.news.append((entry, side, ratio))

    def absorb(self, news: list[tuple[int, int, float]]) -> None:
        """Add what was learned, here or elsewhere."""
        for entry, side, ratio in news:
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

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """Sums and counts by side and entry, (2, size), and over all entries, (2,)."""
        return self._sums, self._counts, self._total, self._count

    @arrays.setter
    def arrays(self, value: tuple[Array, Array, Array, Array]) -> None:
        self._sums, self._counts, self._total, self._count = (part.copy() for part in value)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: the entries about which something is known."""
        known = np.flatnonzero(self._counts.any(axis=0))
        return {
            "size": self._sums.shape[1],
            "known": known,
            "rows": (self._sums[:, known], self._counts[:, known], self._total, self._count),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was sent."""
        self._sums, self._counts = np.zeros((2, state["size"])), np.zeros((2, state["size"]))
        sums, counts, self._total, self._count = state["rows"]
        self._sums[:, state["known"]], self._counts[:, state["known"]] = sums, counts
        self.news = []
