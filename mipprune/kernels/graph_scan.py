"""Pairs outside a pattern that a descent would change, row by row, without p x p arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible
from .graph_appraisal import Penalties, Shift
from .pairs import pattern_of, split_pairs
from .perspective import envelope, sparse_minimiser
from .threads import over_rows

__all__ = ["violated_pairs", "worthwhile_pairs"]

Array = np.ndarray[Any, Any]

_compile = compiled_if_possible()
_BLOCK = 32  # rows in one piece of work


@_compile
def _scan(  # type: ignore[no-untyped-def]
    begin,
    end,
    matrix,
    indptr,
    indices,
    value,
    theta,
    common,
    extra,
    fixed,
    price,
    ridge,
    lower,
    upper,
    relaxed,
    out,
):
    """Fill ``out`` (end - begin, p) for free pairs j > i outside the pattern, 0 elsewhere.

    With the relaxed penalty it is ``|c_ij|`` over the slope at zero, with the penalty itself what the pair would gain.
    """
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
            out[i - begin, j] = 0.0
            if fixed[q * step] != 0:
                continue
            across = 0.0
            for pos in range(indptr[j], indptr[j + 1]):
                across += matrix[i, indices[pos]] * value[pos]
            c = 4.0 * matrix[i, j] + 2.0 * column[j] / theta[i] + 2.0 * across / theta[j]
            if not relaxed:
                a = matrix[j, j] / theta[i] + matrix[i, i] / theta[j]
                _, out[i - begin, j] = sparse_minimiser(
                    a, c, price[q * steps[0]], ridge[q * steps[1]], lower[q * steps[2]], upper[q * steps[3]]
                )
                continue
            mine = common[j] + extra[i, j] if by_row else common[j]
            theirs = common[i] + extra[j, i] if by_row else common[i]
            bend = ridge[q * steps[1]] + mine / theta[i] + theirs / theta[j]
            _, up, _, down = envelope(price[q * steps[0]], bend, lower[q * steps[2]], upper[q * steps[3]])
            steep = up if c < 0 else down
            out[i - begin, j] = abs(c) / steep if steep > 0.0 else np.inf
        for pos in range(indptr[i], indptr[i + 1]):
            if indices[pos] > i:
                out[i - begin, indices[pos]] = 0.0


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
    return _strongest(matrix, flat, values, theta, fixed, shift, penalties, True, 1.0 + 1e-9, most)


def worthwhile_pairs(
    matrix: Array, flat: Array, values: Array, theta: Array, penalties: Penalties, least: float, most: int
) -> Array:
    """Return the flat indices of pairs outside the pattern whose addition lowers the objective, ascending.

    ``least`` is the decrease that is worth it; for the rest see :func:`violated_pairs`.
    """
    fixed = np.zeros(1, dtype=np.int8)
    return _strongest(matrix, flat, values, theta, fixed, Shift.none(len(theta)), penalties, False, least, most)


def _strongest(
    matrix: Array,
    flat: Array,
    values: Array,
    theta: Array,
    fixed: Array,
    shift: Shift,
    penalties: Penalties,
    relaxed: bool,
    least: float,
    most: int,
) -> Array:
    p = len(theta)
    pattern = pattern_of(*split_pairs(flat, p), p)
    value = values[pattern.pair]
    found: dict[int, tuple[Array, Array]] = {}

    def work(first: int, last: int) -> None:
        strength = np.zeros((last - first, p))
        _scan(
            first, last, matrix, pattern.indptr, pattern.indices, value, theta, shift.common, shift.extra, fixed,
            *penalties, relaxed, strength,
        )  # fmt: skip
        row, j = np.nonzero(strength > least)
        i = row + first
        found[first] = (i * (2 * p - i - 1) // 2 + j - i - 1, strength[row, j])

    over_rows(work, p, chunk=_BLOCK)
    order = sorted(found)
    pairs = np.concatenate([found[first][0] for first in order]).astype(np.int64)
    if len(pairs) > most:
        strong = np.concatenate([found[first][1] for first in order])
        pairs = np.sort(pairs[np.argsort(-strong, kind="stable")[:most]])
    return pairs
