"""The relaxation of a priced graphical model by coordinate descent on a growing pattern of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .graph_appraisal import Penalties, Shift, diagonal_guess, places_of

__all__ = ["relax_graph"]

Array = np.ndarray[Any, Any]

_CHUNK = 25  # sweeps between looks at the clock
_ROUNDS = 50
_ALL = 48  # nodes up to which every pair takes part from the start


def relax_graph(
    matrix: Array,
    fixed: Array,
    shift: Shift,
    penalties: Penalties,
    start: tuple[Array, Array],
    tolerance: float,
    go_on: Callable[[], bool] = lambda: True,
    sweeps: int = 1000,
) -> tuple[Array, Array, Array]:
    """Return the pairs of the solution (ascending flat indices, zeros possible), their values, and the diagonal.

    Parameters
    ----------
    matrix : (p, p) array
    fixed : int8 array, shape (size,), or (1,) zero when nothing is fixed
    shift, penalties
    start : (entries, values)
        Ascending; entries that are off are dropped.
    tolerance : float
        Largest change in a sweep at which descent on a pattern stops.
    go_on : callable
        ``False`` ends the work with what is there.
    sweeps : int
        On one pattern, at most.
    """
    from .graph_descent import descend
    from .graph_scan import violated_pairs

    p = len(matrix)
    free = len(fixed) == 1
    state = None if free else fixed
    whole = p <= _ALL and not free
    entries, values = np.asarray(start[0], dtype=np.int64), np.asarray(start[1], dtype=np.float64)
    if not free:
        inside = fixed[entries] >= 0
        entries, values = entries[inside], values[inside]
    flat = (
        np.flatnonzero(fixed >= 0) if whole else (entries if free else np.union1d(entries, np.flatnonzero(fixed > 0)))
    )
    first = np.zeros(len(flat))
    first[np.searchsorted(flat, entries)] = values
    theta = diagonal_guess(matrix, flat, first, shift, penalties)
    for _ in range(_ROUNDS):
        places = places_of(flat, p, state, shift, penalties)
        value = first[places.pair]
        done, change = 0, math.inf
        while done < sweeps and change > tolerance and go_on():
            swept, change = descend(
                matrix, *places[:3], value, theta, places.shift, places.kept, *places.penalties, True, tolerance, _CHUNK
            )
            done += swept
        first[places.pair] = value
        if whole or not go_on():
            break
        fresh = violated_pairs(matrix, flat, first, theta, fixed, shift, penalties, 4 * len(flat) + 8 * p)
        if not len(fresh):
            break
        kept = first != 0.0 if free else (first != 0.0) | (fixed[flat] > 0)
        grown = np.union1d(flat[kept], fresh)
        longer = np.zeros(len(grown))
        longer[np.searchsorted(grown, flat[kept])] = first[kept]
        flat, first = grown, longer
    return flat, first, theta
