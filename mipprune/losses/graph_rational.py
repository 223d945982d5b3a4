"""The bounds of a graphical model in exact arithmetic, for small graphs and spot checks."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from ..core.rational import ExactArray, RationalModel, log_below, total
from ..errors import CertificateError
from ..kernels.pairs import split_pairs

__all__ = ["Data", "exact_appraisal", "exact_minorant"]

Array = np.ndarray[Any, Any]
Gain = Fraction | None
"""``None`` stands for an unbounded one."""


def exact_minorant(
    matrix: ExactArray, ridge: ExactArray, split: ExactArray, values: ExactArray, theta: list[float]
) -> RationalModel:
    """Return the separable model below the loss at the off-diagonal ``values``; ``x_i = v_i * float(1/theta_i)``."""
    p = len(matrix)
    i, j = split_pairs(np.arange(len(values)), p)
    inverse = np.array([Fraction(1.0 / t) for t in theta], dtype=object)
    full = np.full((p, p), Fraction(0), dtype=object)
    full[i, j] = full[j, i] = values
    product = matrix @ full
    constant = Fraction(p)
    for node in range(p):
        a = matrix[node, node] - (full[:, node] @ product[:, node]) * inverse[node] ** 2
        if a <= 0:
            raise CertificateError("point: it leaves no positive a_i")
        constant += log_below(a)
    slope = product * inverse
    extra = 2 * ridge - split
    linear = 4 * matrix[i, j] + 2 * slope[j, i] + 2 * slope[i, j] + extra * values
    return RationalModel(constant - total(extra * values * values) / 2, linear, split)


class Data(NamedTuple):
    """What the row-wise bound (``kernels.graph_bound``) depends on; (p, p) object arrays of Fractions unless stated."""

    matrix: ExactArray
    values: ExactArray
    """off-diagonal entries, zero on the diagonal and on pairs that are off"""
    theta: list[float]
    """around which the intervals lie; the vectors are ``x_i = v_i * float(1/theta_i)``"""
    shift: ExactArray
    fixed: Array
    """int (p, p)"""
    price: ExactArray
    ridge: ExactArray
    lower: Array
    """float (p, p)"""
    upper: Array
    grid: list[float]


class _Entry(NamedTuple):
    """The part of a pair that one row pays for."""

    slope: Fraction
    price: Fraction
    ridge: Fraction
    shift: Fraction
    lower: float
    upper: float
    sure: bool
    """kept: all of the gain counts, not only its positive part"""


def _decrease(k: Fraction, bend: Fraction, lower: float, upper: float) -> tuple[Gain, Fraction]:
    """Return ``max k v - bend v^2`` over the box, and where."""
    if k == 0 and lower <= 0 <= upper:
        return Fraction(0), Fraction(0)
    if bend > 0:
        v = k / (2 * bend)
        if v < lower or v > upper:
            v = Fraction(lower if v < lower else upper)
    else:
        side = upper if k > 0 else lower
        if not math.isfinite(side):
            return None, Fraction(0)
        v = Fraction(side)
    return k * v - bend * v * v, v


def _gain(entry: _Entry, t: float | Fraction) -> tuple[Gain, Fraction]:
    if t == 0 and entry.shift > 0:
        return (-entry.price, Fraction(0)) if entry.lower <= 0 <= entry.upper else (Fraction(-(10**30)), Fraction(0))
    bend = entry.ridge if t == math.inf or entry.shift == 0 else entry.ridge + entry.shift / Fraction(t)
    value, v = _decrease(entry.slope, bend, entry.lower, entry.upper)
    return (None if value is None else value - entry.price), v


def _above(
    entry: _Entry, first: float, last: float, center: float, before: tuple[Gain, Fraction], after: tuple[Gain, Fraction]
) -> tuple[Fraction, Fraction] | None:
    """Return intercept and slope of a linear function above the positive part of the gain on an interval.

    ``before`` and ``after`` hold the gain at its ends and where it is attained.
    """
    top, bottom = after[0], before[0]
    if top is None:
        return None
    if top <= 0 and not entry.sure:
        return Fraction(0), Fraction(0)
    if entry.shift == 0 or last == math.inf:
        return top, Fraction(0)
    start, end = Fraction(first), Fraction(last)
    whole = entry.sure or (first > 0 and bottom is not None and bottom >= 0)
    if whole and first >= center and bottom is not None:
        slope = entry.shift * (before[1] / start) ** 2
        return bottom - slope * start, slope
    slope = entry.shift * (after[1] / end) ** 2
    if whole or top - slope * (end - start) >= 0:
        return top - slope * end, slope
    slope = top / (end - start)  # a concave function that is negative first lies below this chord where positive
    return -slope * start, slope


def _least(g: Fraction, first: float, last: float) -> Fraction | None:
    """Return a number below ``-log t + g t`` on [first, last], ``None`` when there is none."""
    if g > 0 and first < 1 / g and (last == math.inf or 1 / g < last):
        return 1 + log_below(g)
    if g <= 0 and last == math.inf:
        return None
    t = Fraction(last) if g <= 0 or first < 1 / g else Fraction(first)
    return log_below(1 / t) + g * t


def exact_appraisal(data: Data) -> tuple[Fraction, ExactArray, ExactArray]:
    """Return the bound, and (p, p) arrays of what it grows by where a free pair is kept, or zero, in its row.

    Raises
    ------
    CertificateError
        If nothing finite is proven.
    """
    p = len(data.theta)
    inverse = np.array([Fraction(1.0 / t) for t in data.theta], dtype=object)
    shift = data.shift
    moved = data.matrix @ data.values - shift.T * data.values  # column i: (S - D_i) v_i
    slopes = 4 * data.matrix + 2 * moved * inverse + 2 * (moved * inverse).T
    total = Fraction(0)
    grown = [np.full((p, p), Fraction(0), dtype=object) for _ in range(2)]
    for i in range(p):
        a = data.matrix[i, i] - (data.values[:, i] @ moved[:, i]) * inverse[i] ** 2
        entries: dict[int, _Entry] = {}
        for j in range(p):
            if j == i or data.fixed[i, j] < 0:
                continue
            box = (float(data.lower[i, j]), float(data.upper[i, j]))
            half = data.ridge[i, j] / 2
            part, rest = half + shift[i, j] * inverse[i], half + shift[j, i] * inverse[j]
            share = part / (part + rest) if part + rest > 0 else Fraction(1, 2)
            entries[j] = _Entry(
                -slopes[i, j] * share, data.price[i, j] * share, half, shift[i, j], *box, data.fixed[i, j] > 0
            )
        points = [end * data.theta[i] for end in data.grid]
        gains = {j: [_gain(entry, t) for t in points] for j, entry in entries.items()}
        center = data.theta[i]
        bounds: list[Fraction | None] = []
        for k in range(len(points) - 1):
            ends = (points[k], points[k + 1], center)
            lines = [_above(entry, *ends, gains[j][k], gains[j][k + 1]) for j, entry in entries.items()]
            if any(line is None for line in lines):
                bounds.append(None)
                continue
            intercept = sum((line[0] for line in lines if line), Fraction(0))
            low = _least(a - sum((line[1] for line in lines if line), Fraction(0)), points[k], points[k + 1])
            bounds.append(None if low is None else low - intercept)
        if any(bound is None for bound in bounds):
            raise CertificateError(f"bound: row {i} has none, since its diagonal may grow without limit")
        finite = [bound for bound in bounds if bound is not None]
        least = min(finite)
        total += least
        for j, pairs in gains.items():
            if entries[j].sure:
                continue
            row = [gain for gain, _ in pairs]
            kept = min(b + max(Fraction(0), -g) if g is not None else b for b, g in zip(finite, row[1:], strict=True))
            gone = min(b + max(Fraction(0), g) if g is not None else b for b, g in zip(finite, row[:-1], strict=True))
            grown[0][i, j], grown[1][i, j] = kept - least, gone - least
    return total, grown[0], grown[1]
