"""Good graphs by L0 coordinate descent with exchanges, on a growing set of candidate pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .graph_appraisal import Penalties, Shift, diagonal_guess, places_of

__all__ = ["improve"]

Array = np.ndarray[Any, Any]
Point = tuple[Array, Array]

_FINE = 1e-9
_LEAST = 1e-9  # decrease that is worth a pair
_SWEEPS = 200


def improve(
    matrix: Array,
    start: Point,
    penalties: Penalties,
    *,
    swaps: int = 10,
    go_on: Callable[[], bool] = lambda: True,
) -> Point:
    """Return a local optimum of the priced pseudo-likelihood from a starting point.

    Parameters
    ----------
    matrix : float64 array, shape (p, p)
        S.
    start : (entries, values)
        Pairs in use, ascending flat indices.
    penalties : Penalties
    swaps : int
        Rounds in which pairs are exchanged within a row and missing pairs added; 0: descent on the given pairs only.
    go_on : callable
        ``False`` ends the search with the best point so far.

    Notes
    -----
    The method CDPSI of arXiv 2307.09366: coordinate descent with the true penalty; then, row by row, each pair in use
    gives way to the best other pair of the row when that is better; again descent.
    """
    from .graph_descent import descend
    from .graph_exchange import ALL, exchange, nearest
    from .graph_scan import worthwhile_pairs

    p = len(matrix)
    near = nearest(matrix)
    flat, values = np.asarray(start[0], dtype=np.int64), np.asarray(start[1], dtype=np.float64)
    values = np.clip(values, *(penalties.at(flat)[2:]))
    theta = diagonal_guess(matrix, flat, values, Shift.none(p), penalties)  # without a shift it is the exact one

    def settle(kept: bool) -> None:
        places = places_of(flat, p, None, Shift.none(p), penalties)
        value = values[places.pair]
        held = np.ones(len(value), dtype=bool) if kept else places.kept
        descend(matrix, *places[:3], value, theta, places.shift, held, *places.penalties, False, _FINE, _SWEEPS)
        values[places.pair] = value

    settle(True)  # first the best point on the whole start, so that no pair is dropped for a poor value
    for round_ in range(swaps + 1):
        settle(False)
        inside = values != 0.0
        flat, values = flat[inside], values[inside]
        if round_ == swaps or not go_on():
            break
        flat, values, changed = exchange(matrix, flat, values, theta, penalties, near, _LEAST)
        if changed:
            continue
        fresh = worthwhile_pairs(matrix, flat, values, theta, penalties, _LEAST, 8 * p) if p > ALL else flat[:0]
        if not len(fresh):
            break
        grown = np.union1d(flat, fresh)  # pairs that are on no list
        longer = np.zeros(len(grown))
        longer[np.searchsorted(grown, flat)] = values
        flat, values = grown, longer
    return flat, values
