"""Exact rational arithmetic on small arrays.

Every finite float64 is a dyadic rational, and the certificates of the package use only ``+ - * /`` and
comparisons, so for small data they can be evaluated with no rounding at all.
"""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .arrays import exact

__all__ = [
    "ExactArray",
    "RationalModel",
    "exact_decrease",
    "is_positive_semidefinite",
    "log_below",
    "rational",
    "round_up",
    "total",
]

ExactArray = Any
"""A numpy object array of :class:`fractions.Fraction`; numpy's own types cannot say so."""


class RationalModel(NamedTuple):
    """A separable model with exact coefficients (object arrays of :class:`fractions.Fraction`)."""

    constant: Fraction
    linear: ExactArray
    curvature: ExactArray


def rational(tensor: Tensor) -> ExactArray:
    """Return the entries as Fractions, in an object array of the same shape."""
    array = exact(tensor).numpy()
    out = np.empty(array.shape, dtype=object)
    out[...] = np.vectorize(Fraction, otypes=[object])(array) if array.size else array
    return out


def total(terms: ExactArray) -> Fraction:
    """Return the exact sum of an object array of Fractions."""
    return sum(terms.ravel().tolist(), Fraction(0))


def log_below(value: Fraction, bits: int = 120) -> Fraction:
    """Return a rational number below ``log(value)`` by about ``2**-bits``, from interval arithmetic (value > 0).

    Examples
    --------
    >>> float(log_below(Fraction(1, 2)))
    -0.6931471805599453
    """
    from mpmath import MPIntervalContext  # type: ignore[import-untyped]

    context = MPIntervalContext()
    context.prec = bits
    enclosure = context.log(context.mpf(value.numerator) / context.mpf(value.denominator))
    sign, mantissa, exponent, _ = enclosure._mpi_[0]
    below = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return -below if sign else below


def is_positive_semidefinite(matrix: ExactArray) -> bool:
    """Decide exactly whether a symmetric matrix of Fractions is positive semidefinite.

    Integer-preserving (Bareiss) symmetric elimination; a zero pivot requires a zero row. Cost ``O(n^3)`` big-integer
    operations, practical to about 64 rows.

    Examples
    --------
    >>> from fractions import Fraction
    >>> import numpy as np
    >>> is_positive_semidefinite(np.array([[Fraction(1), Fraction(1)], [Fraction(1), Fraction(1)]], dtype=object))
    True
    >>> is_positive_semidefinite(np.array([[Fraction(1), Fraction(2)], [Fraction(2), Fraction(1)]], dtype=object))
    False
    """
    size = matrix.shape[0]
    if size == 0:
        return True
    denominator = 1
    for value in matrix.ravel():
        denominator = max(denominator, value.denominator)  # dyadic numbers: the largest denominator is common
    work = np.array([[int(value * denominator) for value in row] for row in matrix], dtype=object)
    if any(Fraction(int(work[i, j]), denominator) != matrix[i, j] for i in range(size) for j in range(size)):
        raise ValueError("matrix entries must be dyadic rationals, as float64 numbers are")
    previous = 1
    active = list(range(size))
    while active:
        k = active[0]
        pivot = work[k, k]
        rest = active[1:]
        if pivot < 0:
            return False
        if pivot == 0:
            if any(work[k, j] != 0 for j in rest):
                return False
            active = rest
            continue
        block = np.ix_(rest, rest)
        if rest:
            column = work[rest, k]
            work[block] = (work[block] * pivot - np.multiply.outer(column, column)) // previous
        previous = pivot
        active = rest
    return True


def round_up(value: Fraction) -> float:
    """Return the smallest float64 that is not below ``value``."""
    try:
        nearest = float(value)
    except OverflowError:
        return math.inf if value > 0 else -sys.float_info.max
    return nearest if nearest >= value else math.nextafter(nearest, math.inf)


def exact_decrease(slope: Fraction, curvature: Fraction, lower: float, upper: float) -> Fraction | None:
    """Return the best decrease of ``slope t + curvature t^2/2`` over ``lower <= t <= upper``; ``None`` if unbounded."""
    if curvature == 0 and slope == 0:
        return Fraction(0)
    if curvature == 0:
        side = lower if slope > 0 else upper
        return -slope * Fraction(side) if math.isfinite(side) else None
    best = -slope / curvature
    if best < lower or best > upper:
        best = Fraction(lower if best < lower else upper)
    return -(slope * best + curvature * best * best / 2)
