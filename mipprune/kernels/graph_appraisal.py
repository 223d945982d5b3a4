"""Bounds of a graphical model and of its parts where a pair is kept or zero, from a few off-diagonal entries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .pairs import nodes_of, pair_index, pattern_of, split_pairs
from .threads import over_rows

__all__ = [
    "Appraised", "Penalties", "Places", "Shift", "Vectors", "appraise", "diagonal_guess", "places_of", "products_at",
    "vectors_of",
]  # fmt: skip

Array = np.ndarray[Any, Any]

_ROUNDS = 8  # fixed-point steps for the diagonal: it is only a guide, any positive numbers give a valid bound
_BLOCK = 64  # rows in one piece of work
_MANY = 1 << 14  # places from which products are worth threads
_U = 2.0**-53


class Penalties(NamedTuple):
    """Price, ridge (without 1/2) and box of the pairs, float64 of length size, or 1 when the same for all."""

    price: Array
    ridge: Array
    lower: Array
    upper: Array

    def at(self, flat: Array) -> Penalties:
        """Return the penalties of some pairs."""
        return Penalties(*(part[flat] if len(part) > 1 else np.full(len(flat), part[0]) for part in self))


class Shift(NamedTuple):
    """Curvature ``D_ij = common_j + extra_ij`` that row i hands to the penalty of (i, j)."""

    common: Array
    """(p,)"""
    extra: Array
    """(p, p), or (0, 0) when there is none"""

    @classmethod
    def none(cls, p: int) -> Shift:
        """Return no shift at all."""
        return cls(np.zeros(p), np.zeros((0, 0)))

    def among(self, nodes: Array) -> Shift:
        """Return the shift among some of the nodes."""
        return Shift(self.common[nodes], self.extra[np.ix_(nodes, nodes)] if len(self.extra) else self.extra)

    def at(self, i: Array, j: Array) -> Array:
        """Return ``D_ij`` for some (i, j)."""
        return self.common[j] + self.extra[i, j] if len(self.extra) else self.common[j]


class Places(NamedTuple):
    """Pairs as a symmetric sparse pattern with everything that coordinate descent needs by place."""

    indptr: Array
    indices: Array
    twin: Array
    pair: Array
    shift: Array
    kept: Array
    penalties: Penalties


def places_of(flat: Array, p: int, fixed: Array | None, shift: Shift, penalties: Penalties) -> Places:
    """Return the pattern of some pairs (flat, without repetition); ``fixed`` (size,) tells which of them are kept."""
    pattern = pattern_of(*split_pairs(flat, p), p)
    state = np.zeros(len(flat), dtype=np.int8) if fixed is None else fixed[flat]
    rows = np.repeat(np.arange(p), np.diff(pattern.indptr))
    by_place = state[pattern.pair]
    curvature = np.where(by_place == 0, shift.at(rows, pattern.indices), 0.0)
    return Places(*pattern, curvature, by_place > 0, penalties.at(flat[pattern.pair]))


class Appraised(NamedTuple):
    """What a few off-diagonal entries prove; rounding is subtracted."""

    bound: float
    """of the whole cell"""
    if_on: Array
    """(size,) of the part where a free pair is kept; empty unless asked for"""
    if_off: Array
    """(size,) of the part where it is zero"""
    known: float
    """what the bound would be if the diagonal were known: a guide, no proof"""
    theta: Array
    """(p,) the diagonal around which the intervals lie"""


class Vectors(NamedTuple):
    """The vectors ``x_i = v_i / theta_i`` of a bound: off-diagonal entries by place, and the diagonal they go with."""

    places: Places
    value: Array
    theta: Array
    """(p,)"""

    def dense(self) -> Array:
        """Return (p, p): row i is ``x_i``, in the arithmetic of the bound."""
        p = len(self.theta)
        out = np.zeros((p, p))
        rows = np.repeat(np.arange(p), np.diff(self.places.indptr))
        out[rows, self.places.indices] = self.value * (1.0 / self.theta)[rows]
        return out


def vectors_of(matrix: Array, entries: Array, values: Array, shift: Shift, penalties: Penalties) -> Vectors:
    """Return the vectors that some off-diagonal entries stand for; whoever says what they prove takes them from here.

    They do not depend on what is fixed: a tangent then proves no less below the node for which it was made.
    """
    from .graph_descent import diagonal_of

    inside = values != 0.0
    entries, values = entries[inside], values[inside]
    places = places_of(entries, len(matrix), None, shift, penalties)
    value = values[places.pair]
    product = products_at(matrix, places, value)
    theta = diagonal_of(matrix, *places[:3], value, product, places.shift, *places.penalties, _ROUNDS)
    return Vectors(places, value, theta)


def products_at(matrix: Array, places: Places, value: Array) -> Array:
    """Return ``(S v_i)_j`` at the place of each (i, j) of the pattern."""
    from .graph_descent import row_products

    product, p = np.empty(len(value)), len(matrix)

    def work(first: int, last: int) -> None:
        row_products(first, last, matrix, places.indptr, places.indices, value, product)

    if len(value) < _MANY:
        work(0, p)
    else:
        over_rows(work, p, chunk=_BLOCK)
    return product


def diagonal_guess(matrix: Array, entries: Array, values: Array, shift: Shift, penalties: Penalties) -> Array:
    """Return the diagonal around which :func:`appraise` lays its intervals."""
    return vectors_of(matrix, entries, values, shift, penalties).theta


def appraise(
    matrix: Array,
    largest: Array,
    entries: Array,
    values: Array,
    fixed: Array,
    shift: Shift,
    penalties: Penalties,
    *,
    parts: bool = True,
    grid: Array | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> Appraised:
    """Bound a cell of the search space.

    Parameters
    ----------
    matrix : float64 array, shape (p, p)
        S, positive semidefinite, C-contiguous.
    largest : float64 array, shape (p,)
        Largest absolute entry of each row of S.
    entries, values : arrays
        Off-diagonal entries by flat index of the pair, ascending. Any will do, as long as they are zero on pairs for
        which the shift is not proven.
    fixed : int8 array, shape (size,)
        -1 off, 1 on, 0 free.
    shift : Shift
        S without row and column i, less ``Diag(D_i)``, must be positive semidefinite on the pairs of row i that are not
        off, and on those of the entries; whoever calls has that proven.
    penalties : Penalties
    parts : bool
        Whether the bounds of parts are wanted.
    grid : array, optional
        Ends of the intervals of the diagonal.
    go_on : callable
        Asked now and then; ``False`` ends the work with the bound ``-inf``.
    """
    from .graph_bound import GRID, appraise_rows

    p = len(matrix)
    size = p * (p - 1) // 2
    assert nodes_of(size) == p
    places, value, theta = vectors_of(matrix, entries, values, shift, penalties)
    base, known = np.zeros(p), np.zeros(p)
    if_on, if_off = (np.zeros(size if parts else 0) for _ in range(2))
    ends = GRID if grid is None else grid

    def task(first: int, last: int) -> tuple[Array, Array]:
        grown = np.zeros((2, last - first, p if parts else 0))
        appraise_rows(
            first, last, matrix, largest, places.indptr, places.indices, value, theta, shift.common, shift.extra,
            fixed, *penalties, ends, base, grown[0], grown[1], known, parts,
        )  # fmt: skip
        return grown[0], grown[1]

    if p <= _BLOCK:
        on, off = task(0, p)
        if parts:
            upper = np.triu_indices(p, 1)
            if_on, if_off = on[upper] + on.T[upper], off[upper] + off.T[upper]
    else:
        done = _by_blocks(task, p, (if_on, if_off) if parts else None, go_on)
        if done < p:
            return Appraised(-math.inf, if_on, if_off, math.nan, theta)
    bound = math.fsum(base.tolist()) if np.isfinite(base).all() else -math.inf
    if math.isfinite(bound):
        bound -= 2.0 * _U * abs(bound)
    if parts:
        for grown in (if_on, if_off):
            grown += bound
            grown -= 8.0 * _U * (abs(bound) + np.abs(grown))
    return Appraised(bound, if_on, if_off, float(known.sum()), theta)


def _by_blocks(
    task: Callable[[int, int], tuple[Array, Array]],
    p: int,
    totals: tuple[Array, Array] | None,
    go_on: Callable[[], bool],
) -> int:
    """Run blocks of rows on all threads; the growth of a pair is added up over its two rows."""
    from threading import Lock

    lock = Lock()

    def work(first: int, last: int) -> None:
        found = task(first, last)
        if totals is None:
            return
        with lock:  # a pair gets exactly two numbers, so that the order of the blocks does not change the sum
            for total, grown in zip(totals, found, strict=True):
                for i in range(first, last):
                    start = i * (2 * p - i - 1) // 2
                    total[start : start + p - i - 1] += grown[i - first, i + 1 :]
                    before = np.arange(i, dtype=np.int64)
                    total[pair_index(before, np.full(i, i), p)] += grown[i - first, :i]

    return over_rows(work, p, chunk=_BLOCK, go_on=go_on)
