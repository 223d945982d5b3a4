"""A rule model: an intercept and rules with weights, evaluated, simplified and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import numpy as np

from ..errors import InvalidProblem
from .conditions import Condition, Rule
from .matrix import evaluate

__all__ = ["RuleModel", "readable"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class RuleModel:
    """The function ``intercept + sum of coef[j] where rule j holds``.

    Parameters
    ----------
    rules : tuple of Rule
    coef : float64 array (rules,)
    intercept : float
    coverage : float64 array (rules,), optional
        Share of the training samples (weighted) where a rule holds.
    frequency : float64 array (rules,), optional
        Share of the trees that contain the rule.
    feature_names : tuple of str, optional
    response : str
        How to call what is computed; ``"score"`` for log-odds.

    Examples
    --------
    >>> rule = Rule((Condition(0, ">", 1.5),))
    >>> model = RuleModel(rules=(rule,), coef=np.array([2.0]), intercept=1.0, feature_names=("age",))
    >>> model([[1.0], [2.0]]).tolist()
    [1.0, 3.0]
    >>> print(model)
    1.0000 always
    +2.0000 IF age > 1.5
    """

    rules: tuple[Rule, ...]
    coef: Array
    intercept: float
    coverage: Array | None = None
    frequency: Array | None = None
    feature_names: tuple[str, ...] | None = None
    response: str = "prediction"

    def __post_init__(self) -> None:
        coef = np.asarray(self.coef, dtype=np.float64)
        if coef.shape != (len(self.rules),) or not np.isfinite(coef).all() or not np.isfinite(self.intercept):
            raise InvalidProblem(
                f"{len(self.rules)} rules need as many finite coefficients; coef has shape {coef.shape}"
            )
        object.__setattr__(self, "coef", coef)
        object.__setattr__(self, "intercept", float(self.intercept))

    def __len__(self) -> int:
        return len(self.rules)

    def __call__(self, X: Any) -> Array:
        """Return the values (n,) at samples X (n, features)."""
        X = np.asarray(X, dtype=np.float64)
        out = np.full(len(X), self.intercept)
        for j, c in enumerate(self.coef):  # in the order of the rules, as every export adds them up
            out += c * evaluate(self.rules[j : j + 1], X).toarray()[:, 0]
        return out

    def sorted(self) -> RuleModel:
        """Return the model with the rules of the largest absolute weights first."""
        order = np.argsort(-np.abs(self.coef), kind="stable")
        taken: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[order]
            for name in ("coef", "coverage", "frequency")
        }
        return replace(self, rules=tuple(self.rules[j] for j in order), **taken)

    def table(self, digits: int | None = 4) -> list[dict[str, Any]]:
        """Return one row for each rule: its text, weight, coverage, frequency and depth."""
        return [
            {
                "rule": rule.text(self.feature_names, digits),
                "coef": float(self.coef[j]),
                "coverage": None if self.coverage is None else float(self.coverage[j]),
                "frequency": None if self.frequency is None else float(self.frequency[j]),
                "depth": rule.depth,
                "conditions": len(rule.conditions),
            }
            for j, rule in enumerate(self.rules)
        ]

    def __str__(self) -> str:
        from .export import export_rules

        return export_rules(self, digits=4)

    @classmethod
    def from_json(cls, text: str) -> RuleModel:
        """Read a model back from its JSON export; the features are numbered in the order of its ``features``."""
        data = json.loads(text)
        names = data["features"]
        place = {name: j for j, name in enumerate(names)}
        rules = tuple(
            Rule(
                tuple(
                    Condition(place[c["feature"]], c["op"], float(c["threshold"]), bool(c.get("missing", False)))
                    for c in rule["conditions"]
                )
            )
            for rule in data["rules"]
        )

        def column(key: str) -> Array | None:
            found = [rule.get(key) for rule in data["rules"]]
            return None if any(value is None for value in found) else np.array(found, dtype=np.float64)

        return cls(
            rules=rules,
            coef=np.array([rule["coef"] for rule in data["rules"]], dtype=np.float64),
            intercept=data["intercept"],
            coverage=column("coverage"),
            frequency=column("frequency"),
            feature_names=tuple(names),
            response=data.get("response", "prediction"),
        )


def readable(rules: Sequence[Rule], X: Any) -> tuple[Rule, ...]:
    """Return rules that hold for the same samples, with thresholds of as few digits as possible.

    A threshold may lie anywhere from the largest value that it admits to the next one; where exactly is an accident
    of how the trees were grown.

    Parameters
    ----------
    rules : sequence of Rule
    X : array (n, features)
        The samples.

    Examples
    --------
    >>> readable([Rule((Condition(0, "<=", 0.4837261),))], [[0.1], [0.55]])[0].text()
    'x0 <= 0.5'
    """
    X = np.asarray(X, dtype=np.float64)
    values: dict[int, Array] = {}
    moved: dict[tuple[int, float], float] = {}

    def simple(c: Condition) -> Condition:
        if c.feature not in values:
            x = X[:, c.feature]
            values[c.feature] = np.unique(x[~np.isnan(x)])
        if (c.feature, c.threshold) not in moved:
            moved[c.feature, c.threshold] = _shortest(c.threshold, values[c.feature])
        return c._replace(threshold=moved[c.feature, c.threshold])

    return tuple(Rule(tuple(simple(c) for c in rule.path)) for rule in rules)


def _shortest(threshold: float, values: Array) -> float:
    """Return the number of fewest digits that separates the values as the threshold does."""
    place = int(np.searchsorted(values, threshold, side="right"))
    low = float(values[place - 1]) if place else -np.inf
    high = float(values[place]) if place < len(values) else np.inf
    if not math.isfinite(threshold):
        return threshold
    exact = Decimal(threshold)
    coarsest = max(exact.adjusted(), Decimal(high - low).adjusted() if math.isfinite(high - low) else -400)
    for exponent in range(coarsest, coarsest - 40, -1):
        step = Decimal(1).scaleb(exponent)
        multiple = (exact / step).to_integral_value(ROUND_FLOOR)
        found = [float(m * step) for m in (multiple, multiple + 1)]
        inside = [candidate for candidate in found if low <= candidate < high]
        if inside:
            return min(inside, key=lambda candidate: abs(candidate - threshold))
    return threshold
