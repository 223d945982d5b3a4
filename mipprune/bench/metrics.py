"""Figures of merit of solvers over instances: integrals, shifted means, profiles, paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Comparison",
    "compare_pairs",
    "gap_between",
    "gap_integral",
    "performance_profile",
    "primal_integral",
    "shifted_geometric_mean",
]

Trace = Sequence[tuple[float, float | None, float | None]]


def gap_between(value: float | None, reference: float | None) -> float:
    """Return the gap of a value to another one, in [0, 1].

    Parameters
    ----------
    value, reference : float or None
        The gap is 1 when one is missing or the signs differ, ``|v - r|/max(|v|, |r|)`` else, and 0 for two zeros.

    References
    ----------
    Berthold, Measuring the impact of primal heuristics (2013), doi 10.1016/j.orl.2013.08.007.

    Examples
    --------
    >>> gap_between(5.0, 4.0), gap_between(-1.0, 1.0), gap_between(None, 1.0), gap_between(0.0, 0.0)
    (0.2, 1.0, 1.0, 0.0)
    """
    if value is None or reference is None or not math.isfinite(value) or not math.isfinite(reference):
        return 1.0
    if value == reference:
        return 0.0
    if value * reference < 0:
        return 1.0
    return abs(value - reference) / max(abs(value), abs(reference))


def primal_integral(trace: Trace, best: float | None, horizon: float) -> float:
    """Return the integral of the gap of the incumbent to the best known value over ``[0, horizon]``, in seconds.

    Parameters
    ----------
    trace : sequence of (seconds, value, bound)
    best : float or None
        Best known value.
    horizon : float
        End of the integral, >= 0 seconds; the last value counts until then.

    Examples
    --------
    >>> primal_integral([(1.0, 5.0, None), (2.0, 4.0, None)], best=4.0, horizon=10.0)
    1.2
    """
    return _integral([(seconds, gap_between(value, best)) for seconds, value, _ in trace], horizon)


def gap_integral(trace: Trace, horizon: float) -> float:
    """Return the integral of the gap between value and bound over ``[0, horizon]``, in seconds.

    Examples
    --------
    >>> gap_integral([(0.0, 4.0, None), (2.0, 4.0, 4.0)], horizon=10.0)
    2.0
    """
    return _integral([(seconds, gap_between(value, bound)) for seconds, value, bound in trace], horizon)


def _integral(steps: Sequence[tuple[float, float]], horizon: float) -> float:
    """Integrate a step function that starts at 1; a heuristic's best so far never gets worse."""
    total, last, gap = 0.0, 0.0, 1.0
    for seconds, new in sorted(steps):
        seconds = min(max(seconds, 0.0), horizon)
        total, last, gap = total + gap * (seconds - last), seconds, min(gap, new)
    return total + gap * (horizon - last)


def shifted_geometric_mean(values: Sequence[float], shift: float = 1.0) -> float:
    """Return ``exp(mean(log(v + s))) - s``; NaN for no values.

    Parameters
    ----------
    values : sequence of float
        >= 0.
    shift : float
        > 0: 1 or 10 for seconds, 10 or 100 for nodes; small values then do not decide the mean.

    Examples
    --------
    >>> round(shifted_geometric_mean([0.0, 3.0], shift=1.0), 6)
    1.0
    """
    if not len(values):
        return math.nan
    return float(np.exp(np.mean(np.log(np.asarray(values, dtype=np.float64) + shift))) - shift)


def performance_profile(costs: Mapping[str, Sequence[float]]) -> dict[str, list[tuple[float, float]]]:
    """Return for each solver the steps of its performance profile.

    Parameters
    ----------
    costs : mapping of str to sequence of float
        For each solver its cost on every instance, in the same order; ``inf`` where it did not solve it.

    Returns
    -------
    dict of str to list of (ratio, share)
        The share of the instances on which the solver needs at most ``ratio`` times what the best solver needs.

    References
    ----------
    Dolan and More, Benchmarking optimization software with performance profiles (2002), doi 10.1007/s101070100263.

    Examples
    --------
    >>> performance_profile({"a": [1.0, 2.0], "b": [2.0, float("inf")]})
    {'a': [(1.0, 1.0)], 'b': [(1.0, 0.0), (2.0, 0.5)]}
    """
    if not costs:
        return {}
    table = np.asarray([list(row) for row in costs.values()], dtype=np.float64)
    if table.size == 0:
        return {name: [] for name in costs}
    floor = 1e-9  # two solvers that need no time are equally good
    table = np.maximum(table, floor)
    best = table.min(axis=0)
    ratios = np.where(np.isfinite(table), table / np.where(np.isfinite(best), best, 1.0), np.inf)
    profiles = {}
    for name, row in zip(costs, ratios):
        finite = np.sort(row[np.isfinite(row)])
        steps = [(1.0, float((finite <= 1.0).sum() / row.size))]
        for ratio in np.unique(finite[finite > 1.0]):
            steps.append((float(ratio), float((finite <= ratio).sum() / row.size)))
        profiles[name] = steps
    return profiles


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of costs: new against old.

    Attributes
    ----------
    pairs : int
    ratio : float
        Geometric mean of new/old; below 1 the new one is better.
    low, high : float
        Bootstrap interval of it at 95 %.
    p_value : float
        Of Wilcoxon's signed-rank test on the logarithms of the ratios; 1 where all are equal.
    """

    pairs: int
    ratio: float
    low: float
    high: float
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 1 and the test agrees at 5 %."""
        return self.p_value < 0.05 and not self.low <= 1.0 <= self.high


def compare_pairs(old: Sequence[float], new: Sequence[float], *, seed: int = 0, draws: int = 2000) -> Comparison:
    """Compare paired positive costs.

    Parameters
    ----------
    old, new : sequence of float
        Costs > 0 of the same runs, in the same order.
    seed, draws : int
        Of the bootstrap.

    Examples
    --------
    >>> compare_pairs([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).ratio
    1.0
    """
    from scipy.stats import wilcoxon

    logs = np.log(np.asarray(new, dtype=np.float64)) - np.log(np.asarray(old, dtype=np.float64))
    if not logs.size:
        return Comparison(0, math.nan, math.nan, math.nan, 1.0)
    if not np.any(logs):
        return Comparison(int(logs.size), 1.0, 1.0, 1.0, 1.0)
    rng = np.random.default_rng(seed)
    means = logs[rng.integers(0, logs.size, (draws, logs.size))].mean(axis=1)
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    p_value = float(wilcoxon(logs, zero_method="zsplit").pvalue) if logs.size > 1 else 1.0
    return Comparison(int(logs.size), float(np.exp(logs.mean())), float(low), float(high), p_value)
