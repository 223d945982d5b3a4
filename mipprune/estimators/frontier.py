"""Pareto frontiers of models: a table, the knee, a plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidProblem
from .plotting import axes

__all__ = ["ParetoFrontier"]


@dataclass(frozen=True, eq=False)
class ParetoFrontier(Sequence[Any]):
    """Models between two aims, both to be small unless said otherwise.

    Parameters
    ----------
    models : tuple
        One for each point.
    rows : tuple of dict
        What is known of each point; the columns of :meth:`to_frame`.
    x, y : str
        Names of the two aims among the columns.
    larger : tuple of str
        Those of the two that are to be large, such as a stability.

    Examples
    --------
    >>> points = ((1.0, 0), (0.4, 2), (0.39, 9), (0.5, 3))
    >>> rows = tuple({"error": error, "rules": rules} for error, rules in points)
    >>> frontier = ParetoFrontier(("a", "b", "c", "d"), rows, x="error", y="rules")
    >>> frontier.knee(), frontier.dominated.tolist()
    (1, [False, False, False, True])
    """

    models: tuple[Any, ...]
    rows: tuple[dict[str, Any], ...]
    x: str
    y: str
    larger: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.models) != len(self.rows):
            raise InvalidProblem(f"{len(self.models)} models with {len(self.rows)} rows; each point needs both")
        for row in self.rows:
            for name in (self.x, self.y):
                if not isinstance(row.get(name), (int, float)) or math.isnan(float(row[name])):
                    raise InvalidProblem(f"a point has no number for {name!r}")

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, index: Any) -> Any:
        return self.models[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.models)

    def _aims(self) -> np.ndarray[Any, Any]:
        """Both aims as numbers to be small, (points, 2)."""
        signs = [-1.0 if name in self.larger else 1.0 for name in (self.x, self.y)]
        rows = [[float(row[self.x]), float(row[self.y])] for row in self.rows]
        return np.array(rows, dtype=np.float64).reshape(-1, 2) * signs

    @property
    def dominated(self) -> np.ndarray[Any, Any]:
        """Which points another one is as good as in both aims and better in one, bool (points,)."""
        aims = self._aims()
        no_worse = (aims[:, None, :] <= aims[None, :, :]).all(axis=2)
        better = (aims[:, None, :] < aims[None, :, :]).any(axis=2)
        return np.asarray((no_worse & better).any(axis=0))

    def to_frame(self) -> Any:
        """Return the points as a pandas DataFrame, with a column ``dominated``."""
        import pandas as pd

        frame = pd.DataFrame(list(self.rows))
        frame["dominated"] = self.dominated
        return frame

    def knee(self) -> int:
        """Return the number of the point farthest from the line between the ends, both aims scaled to [0, 1]."""
        if not self.models:
            raise InvalidProblem("the frontier has no points")
        aims, open_ = self._aims(), np.flatnonzero(~self.dominated)
        span = aims[open_].max(axis=0) - aims[open_].min(axis=0)
        scaled = (aims[open_] - aims[open_].min(axis=0)) / np.where(span > 0, span, 1.0)
        return int(open_[np.argmin(scaled.sum(axis=1))])

    def plot(self, ax: Any = None, *, label: str | None = None) -> Any:
        """Draw the points, dominated ones grey, the others joined; return matplotlib's axes.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Where to draw; new ones by default.
        label : str, optional
            What a legend calls the line.

        Raises
        ------
        InvalidProblem
            Without matplotlib.
        """
        ax = axes(ax)
        x = np.array([float(row[self.x]) for row in self.rows])
        y = np.array([float(row[self.y]) for row in self.rows])
        gone = self.dominated
        order = np.flatnonzero(~gone)[np.argsort(x[~gone], kind="stable")]
        ax.plot(x[order], y[order], marker="o", label=label)
        if gone.any():
            ax.plot(x[gone], y[gone], marker="o", linestyle="none", color="0.7")
        ax.set_xlabel(self.x)
        ax.set_ylabel(self.y)
        return ax
