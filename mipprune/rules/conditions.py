"""Conditions on one feature, and rules: conjunctions of the conditions on a path of a tree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..errors import InvalidProblem

__all__ = ["Condition", "Rule"]


class Condition(NamedTuple):
    """A comparison of one feature with a threshold, in float64.

    Examples
    --------
    >>> Condition(feature=2, side="<=", threshold=0.5).text()
    'x2 <= 0.5'
    """

    feature: int
    """column of X"""
    side: str
    """``"<="`` or ``">"``"""
    threshold: float
    """in the units of the feature"""
    missing: bool = False
    """whether a missing value (NaN) satisfies the condition"""

    def holds(self, x: Any) -> np.ndarray[Any, Any]:
        """Return where the condition holds: bool array of the shape of ``x``, the values of the feature."""
        x = np.asarray(x, dtype=np.float64)
        found: np.ndarray[Any, Any] = x <= self.threshold if self.side == "<=" else x > self.threshold
        return found | np.isnan(x) if self.missing else found

    def text(self, names: Sequence[str] | None = None, digits: int | None = None) -> str:
        """Return the condition as text; ``digits`` significant digits, by default as many as identify the threshold."""
        name = f"x{self.feature}" if names is None else str(names[self.feature])
        number = repr(float(self.threshold)) if digits is None else f"{self.threshold:.{digits}g}"
        return f"{name} {self.side} {number}" + (" or missing" if self.missing else "")


@dataclass(frozen=True)
class Rule:
    """A conjunction of conditions.

    Parameters
    ----------
    path : tuple of Condition
        As they stand in the tree, from the root on. The empty rule holds everywhere.

    Examples
    --------
    >>> rule = Rule((Condition(0, "<=", 3.0), Condition(1, ">", 1.0), Condition(0, "<=", 2.0)))
    >>> rule.text()
    'x0 <= 2.0 and x1 > 1.0'
    >>> rule.depth, rule.features
    (3, (0, 1))
    """

    path: tuple[Condition, ...]

    @property
    def depth(self) -> int:
        """Number of splits on the path."""
        return len(self.path)

    @property
    def key(self) -> frozenset[tuple[int, str, float]]:
        """The set of (feature, threshold, side) by which rules of different trees are the same rule."""
        return frozenset((c.feature, c.side, c.threshold) for c in self.path)

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The path without redundant conditions: at most one of each side for a feature, features in order.

        A missing value satisfies them exactly when it satisfies all conditions of the path on its feature.
        """
        tightest: dict[tuple[int, str], float] = {}
        missing: dict[int, bool] = {}
        for c in self.path:
            earlier = tightest.get((c.feature, c.side))
            better = min if c.side == "<=" else max
            tightest[c.feature, c.side] = c.threshold if earlier is None else better(earlier, c.threshold)
            missing[c.feature] = missing.get(c.feature, True) and c.missing
        # ">" before "<=": an interval reads as 1 < x <= 2.
        order = sorted(tightest, key=lambda at: (at[0], at[1] == "<="))
        return tuple(Condition(at[0], at[1], tightest[at], missing[at[0]]) for at in order)

    @property
    def features(self) -> tuple[int, ...]:
        """The distinct features of the path, in order."""
        return tuple(sorted({c.feature for c in self.path}))

    def holds(self, X: Any) -> np.ndarray[Any, Any]:
        """Return where the rule holds: bool array (n,) for samples X (n, features), compared in float64."""
        X = np.asarray(X, dtype=np.float64)
        if X.ndim != 2 or (self.path and X.shape[1] <= max(self.features)):
            raise InvalidProblem(f"X has shape {X.shape}; the rule compares features {self.features} of a matrix")
        found = np.ones(len(X), dtype=bool)
        for condition in self.conditions:
            found &= condition.holds(X[:, condition.feature])
        return found

    def text(self, names: Sequence[str] | None = None, digits: int | None = None) -> str:
        """Return the rule as text, ``TRUE`` for the empty one.

        Parameters
        ----------
        names : sequence of str, optional
            Of the features; default x0, x1, ...
        digits : int, optional
            Significant digits of the thresholds; by default all that are needed to read back the same rule.
        """
        parts = [
            f"({text})" if condition.missing else text
            for condition in self.conditions
            for text in [condition.text(names, digits)]
        ]
        return " and ".join(parts) or "TRUE"

    def __str__(self) -> str:
        return self.text(digits=4)

    @property
    def empty(self) -> bool:
        """Whether no number satisfies the rule (bounds that exclude each other)."""
        lower = {c.feature: c.threshold for c in self.conditions if c.side == ">"}
        return any(
            c.side == "<=" and c.threshold <= lower.get(c.feature, -math.inf) and not c.missing for c in self.conditions
        )
