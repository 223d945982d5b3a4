"""The pairs (i, j), i < j, of p nodes as a flat vector, row after row, and as sparse symmetric patterns."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Pattern", "nodes_of", "pair_index", "pattern_of", "split_pairs"]

Array = np.ndarray[Any, Any]


def nodes_of(size: int) -> int | None:
    """Return p with ``p (p - 1)/2 == size``, or ``None`` when there is none."""
    p = (1 + math.isqrt(1 + 8 * size)) // 2
    return p if p * (p - 1) // 2 == size else None


def split_pairs(flat: Array, p: int) -> tuple[Array, Array]:
    """Return (i, j) of flat indices, the inverse of :func:`pair_index`."""
    rows = np.arange(p, dtype=np.int64)
    starts = rows * (2 * p - rows - 1) // 2
    i = np.searchsorted(starts, flat, side="right") - 1
    # The last row has no pairs: its start equals the size, which no flat index reaches.
    return i, flat - starts[i] + i + 1


def pair_index(i: Array, j: Array, p: int) -> Array:
    """Return the flat index of pairs ``i < j``, in the order of ``torch.triu_indices(p, p, 1)``."""
    flat: Array = i * (2 * p - i - 1) // 2 + j - i - 1
    return flat


class Pattern(NamedTuple):
    """A symmetric sparse pattern without diagonal, by rows."""

    indptr: Array
    """int64 (p + 1,)"""
    indices: Array
    """int64, ascending in each row"""
    twin: Array
    """int64: the place of (j, i) for the place of (i, j)"""
    pair: Array
    """int64: which of the given pairs a place holds"""


def pattern_of(i: Array, j: Array, p: int) -> Pattern:
    """Return the pattern of some pairs ``i < j`` without repetition."""
    count = len(i)
    row, column = np.concatenate([i, j]), np.concatenate([j, i])
    order = np.lexsort((column, row))
    place = np.empty(2 * count, dtype=np.int64)
    place[order] = np.arange(2 * count)
    other = np.concatenate([place[count:], place[:count]])
    indptr = np.zeros(p + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=p), out=indptr[1:])
    number = np.tile(np.arange(count, dtype=np.int64), 2)
    return Pattern(indptr, column[order].astype(np.int64), other[order], number[order])
