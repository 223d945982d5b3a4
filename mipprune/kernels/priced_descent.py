"""Coordinate descent for least squares with a price, or a reward, on each non-zero weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["descend"]

Array = np.ndarray[Any, Any]


@compiled_if_possible()
def descend(
    gram: Array, pull: Array, prices: Array, weights: Array, sweeps: int, tolerance: float
) -> int:  # pragma: no cover - compiled
    r"""Lower :math:`\tfrac12 w^\top G w - b^\top w + \sum_j \text{price}_j 1[w_j \ne 0]` one coordinate at a time.

    Parameters
    ----------
    gram : float64 array (p, p)
        G, symmetric.
    pull : float64 array (p,)
        ``b - G w`` for the weights given; kept so.
    prices : float64 array (p,)
        Negative ones are rewards.
    weights : float64 array (p,)
        Changed in place.
    sweeps : int
        Largest number of sweeps.
    tolerance : float
        Change of a weight below which it counts as settled.

    Returns
    -------
    int
        Number of non-zero weights.
    """
    p = len(weights)
    for _ in range(sweeps):
        largest = 0.0
        for j in range(p):
            curvature = gram[j, j]
            if curvature <= 0.0:
                continue
            free = pull[j] + curvature * weights[j]
            best = free / curvature
            new = best if 0.5 * free * best > prices[j] else 0.0
            change = new - weights[j]
            if change != 0.0:
                weights[j] = new
                for i in range(p):
                    pull[i] -= change * gram[i, j]
                largest = max(largest, abs(change))
        if largest <= tolerance:
            break
    count = 0
    for j in range(p):
        count += weights[j] != 0.0
    return count
