"""Pairs outside a pattern whose slope exceeds that of their penalty at zero, row by row, without p x p arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible
from .graph_appraisal import Penalties, Shift
from .pairs import pattern_of, split_pairs
from .perspective import envelope
from .threads import over_rows

__all__ = ["violated_pairs"]

Array = np.ndarray[Any, Any]

_compile = compiled_if_possible()
_BLOCK = 32  # rows in one piece of work


@_compile
def _scan(  # type: ignore[no-untyped-def]
    begin, end, matrix, indptr, indices, value, theta, common, extra, fixed, price, ridge, lower, upper, strength
):
    """Fill ``strength`` (end - begin, p) with ``|c_ij|/slope`` for free pairs j > i outside the pattern, else 0."""
    p = len(theta)
    by_row = extra.shape[0] > 0
    steps = (min(len(price) - 1, 1), min(len(ridge) - 1, 1), min(len(lower) - 1, 1), min(len(upper) - 1, 1))
    step = min(len(fixed) - 1, 1)
    column = np.empty(p)
    for i in range(begin, end):
        column[i + 1 :] = 0.0
        for pos in range(indptr[i], indptr[i + 1]):
            v, k = value[pos], indices[pos]
            if v != 0.0:
                for j in range(i + 1, p):
                    column[j] += matrix[k, j] * v
        start = i * (2 * p - i - 1) // 2 - i - 1
        for j in range(i + 1, p):
            q = start + j
            strength[i - begin, j] = 0.0
            if fixed[q * step] != 0:
                continue
            across = 0.0
            for pos in range(indptr[j], indptr[j + 1]):
                across += matrix[i, indices[pos]] * value[pos]
            c = 4.0 * matrix[i, j] + 2.0 * column[j] / theta[i] + 2.0 * across / theta[j]
            mine = common[j] + extra[i, j] if by_row else common[j]
            theirs = common[i] + extra[j, i] if by_row else common[i]
            bend = ridge[q * steps[1]] + mine / theta[i] + theirs / theta[j]
            _, up, _, down = envelope(price[q * steps[0]], bend, lower[q * steps[2]], upper[q * steps[3]])
            steep = up if c < 0 else down
            strength[i - begin, j] = abs(c) / steep if steep > 0.0 else np.inf
        for pos in range(indptr[i], indptr[i + 1]):
            if indices[pos] > i:
                strength[i - begin, indices[pos]] = 0.0


def violated_pairs(
    matrix: Array,
    flat: Array,
    values: Array,
    theta: Array,
    fixed: Array,
    shift: Shift,
    penalties: Penalties,
    most: int,
) -> Array:
    """Return the flat indices of free pairs outside the pattern that the relaxation still wants, ascending.

    Parameters
    ----------
    matrix : (p, p) array
    flat, values : arrays
        The pairs of the pattern, ascending, with their values.
    theta : (p,) array
    fixed : int8 array, shape (size,) or (1,)
        Only pairs with a 0 are looked at.
    shift, penalties
    most : int
        Of more than so many only the strongest are returned.
    """
    p = len(theta)
    pattern = pattern_of(*split_pairs(flat, p), p)
    value = values[pattern.pair]
    found: dict[int, tuple[Array, Array]] = {}

    def work(first: int, last: int) -> None:
        strength = np.zeros((last - first, p))
        _scan(
            first, last, matrix, pattern.indptr, pattern.indices, value, theta, shift.common, shift.extra, fixed,
            *penalties, strength,
        )  # fmt: skip
        row, j = np.nonzero(strength > 1.0 + 1e-9)
        i = row + first
        found[first] = (i * (2 * p - i - 1) // 2 + j - i - 1, strength[row, j])

    over_rows(work, p, chunk=_BLOCK)
    order = sorted(found)
    pairs = np.concatenate([found[first][0] for first in order]).astype(np.int64)
    if len(pairs) > most:
        strong = np.concatenate([found[first][1] for first in order])
        pairs = np.sort(pairs[np.argsort(-strong, kind="stable")[:most]])
    return pairs
