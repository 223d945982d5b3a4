"""Costs and a budget as whole numbers in float64, small enough that no sum of them rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["whole_numbers"]

Array = np.ndarray[Any, Any]

_LARGEST = 2.0**52
_DIGITS = 15


def whole_numbers(tables: Sequence[Array], budget: float) -> tuple[list[Array], float]:
    """Return costs and budget in a common unit in which they are whole.

    Parameters
    ----------
    tables : sequence of array
        Costs, >= 0; a total has at most one entry of each table.
    budget : float
        What a total may be, >= 0.

    Returns
    -------
    tables : list of array
        Whole numbers, whose totals stay below 2^53.
    budget : float
        A whole number; totals may be up to it.

    Notes
    -----
    Decimals are read as the decimals that denote them: 0.1 + 0.2 is within 0.3. Where the numbers have too many digits,
    they are rounded to the nearest multiples of a power of two, and the budget gets half a unit more for each table, so
    that no total that is within the budget is lost.

    Examples
    --------
    >>> import numpy as np
    >>> whole_numbers([np.array([0.1, 0.25]), np.array([0.2])], 0.3)
    ([array([10., 25.]), array([20.])], 30.0)
    """
    largest = math.fsum(float(table.max(initial=0.0)) for table in tables)
    budget = min(budget, 2.0 * largest + 1.0)  # more is no constraint either
    for digits in range(_DIGITS + 1):
        unit = 10.0**digits
        if (largest + 1.0) * unit >= _LARGEST:
            break
        whole = [np.round(table * unit) for table in tables]
        if all(bool((found / unit == table).all()) for found, table in zip(whole, tables)):
            return whole, _floor(budget, unit)
    exponent = 51 - math.frexp(max(largest, 5e-324))[1]
    half = math.ldexp(1.0, min(exponent, 1000))
    return [np.round(table * half) for table in tables], math.floor(budget * half) + float(-(-len(tables) // 2))


def _floor(budget: float, unit: float) -> float:
    """The largest whole number of units within the budget, read as a decimal too."""
    near = round(budget * unit)
    return float(near) if near / unit == budget else float(math.floor(Fraction(budget) * int(unit)))
