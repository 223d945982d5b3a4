"""Exact minimisation over the rules of one tree at a time, and sweeps over all trees.

The columns of one tree that form an antichain hold for disjoint samples, so that their Gram matrix is diagonal and the
block problem is an antichain of largest gain. This module is imported where it is used: it compiles at import where
numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["sweep"]


@compiled_if_possible()
def choose(columns, parent, gain, forced, place, inner, take):  # type: ignore[no-untyped-def]
    """Mark in ``take`` the best antichain among ``columns``, which stand with parents before children."""
    for v in columns:
        inner[v] = 0.0
    for i in range(len(columns) - 1, -1, -1):
        v = columns[i]
        value = inner[v]
        take[v] = forced[v] or (gain[v] > 0.0 and gain[v] >= value)
        if take[v]:
            value = gain[v]
        if parent[v] >= 0:
            inner[parent[v]] += value
    for v in columns:
        u = parent[v]
        place[v] = u >= 0 and (place[u] or take[u])
        if place[v]:
            take[v] = False


@compiled_if_possible()
def sweep(  # type: ignore[no-untyped-def]
    start, row, entry, squares, ridge, price, block, member, parent, free, forced, weight, residual, most, least
):
    """Sweep over blocks until a sweep decreases the objective by at most ``least``; returns the number of sweeps.

    Parameters
    ----------
    start, row, entry : arrays
        The columns, compressed (CSC).
    squares, ridge, price : float64 (p,)
        Squared norms, ridge and price of the columns.
    block : int64 (blocks + 1,)
        Block b has the columns ``member[block[b]:block[b + 1]]``, parents before children.
    parent, free, forced : (p,)
        The forest; columns that may be chosen; columns that must be.
    weight : float64 (p,)
        Changed in place.
    residual : float64 (n,)
        ``y - M weight``, changed in place.
    most : int
        Most sweeps.
    least : float
        See above.
    """
    p = len(squares)
    gain = np.zeros(p)
    value = np.zeros(p)
    inner = np.zeros(p)
    take = np.zeros(p, dtype=np.bool_)
    place = np.zeros(p, dtype=np.bool_)
    done = 0
    while done < most:
        done += 1
        decrease = 0.0
        for b in range(len(block) - 1):
            columns = member[block[b] : block[b + 1]]
            before = 0.0  # what the block's choice is worth: its gains at the old and at the new weights
            for v in columns:
                if weight[v] != 0.0 or forced[v]:
                    for i in range(start[v], start[v + 1]):
                        residual[row[i]] += entry[i] * weight[v]
            for v in columns:
                slope = 0.0
                for i in range(start[v], start[v + 1]):
                    slope += entry[i] * residual[row[i]]
                curvature = squares[v] + ridge[v]
                if curvature > 0.0 and (free[v] or forced[v]):
                    value[v] = slope / curvature
                    gain[v] = 0.5 * slope * value[v] - price[v]
                else:
                    value[v] = 0.0
                    gain[v] = -np.inf
                if weight[v] != 0.0:
                    before += slope * weight[v] - 0.5 * curvature * weight[v] * weight[v] - price[v]
                elif forced[v]:
                    before -= price[v]
            choose(columns, parent, gain, forced, place, inner, take)
            after = 0.0
            for v in columns:
                if take[v]:
                    after += gain[v]
            if after > before:
                decrease += after - before
                for v in columns:
                    weight[v] = value[v] if take[v] else 0.0
            for v in columns:
                if weight[v] != 0.0:
                    for i in range(start[v], start[v + 1]):
                        residual[row[i]] -= entry[i] * weight[v]
        if decrease <= least:
            break
    return done


def compressed(design: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the columns of a dense array as (start, row, entry)."""
    column, row = np.nonzero(design.T)
    start = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=design.shape[1]))]).astype(np.int64)
    return start, row.astype(np.int64), np.ascontiguousarray(design.T)[column, row].astype(np.float64)
