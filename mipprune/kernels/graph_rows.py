"""Smoothed row minima of a graphical model's bound over the diagonal, and what attains them: for ascent on it."""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["soft_rows"]

_compile = compiled_if_possible()


@_compile
def _best(slope, bend, low, high):  # type: ignore[no-untyped-def]
    """Return what attains the largest ``slope v - bend v^2`` over the interval."""
    if bend > 0.0:
        return min(max(slope / (2.0 * bend), low), high)
    return high if slope > 0.0 else low


@_compile
def soft_rows(  # type: ignore[no-untyped-def]
    begin, end, slopes, linear, shares, own, fixed, price, half, lower, upper, points, sharpness, value, mean, copies
):
    """Fill in, for the rows ``begin <= i < end``, a smooth minimum over the diagonal entry t and its derivatives.

    Row i is ``-log t + a_i t - sum_j gain_j(t)``, with the gain ``max_v -w c v - (half + D/t) v^2 - w price``, of free
    entries the positive part; all rigour is left to :mod:`graph_bound`.

    Parameters
    ----------
    slopes : (p, p) array
        ``c_ij``.
    linear : (p,) array
        ``a_i``.
    shares, own, price, half, lower, upper : (p, p) arrays
        The share w of row i, the curvature ``D_ij``, and the penalties (half the ridge).
    fixed : (p, p) int8 array
    points : (p, K) array
        Values of t, ascending.
    sharpness : float
        The minimum is ``-log(sum_k exp(-sharpness h_k))/sharpness``.

    Returns
    -------
    In place: ``value`` (p,), ``mean`` (p,) the mean of t under the weights of the minimum, and ``copies`` (p, p) the
    mean of ``w v``.
    """
    nodes, count = points.shape
    heights, weights = np.empty(count), np.empty(count)
    for i in range(begin, end):
        for k in range(count):
            heights[k] = linear[i] * points[i, k] - np.log(points[i, k])
        for j in range(nodes):
            copies[i, j] = 0.0
            if j == i or fixed[i, j] < 0:
                continue
            slope, cost, sure = -shares[i, j] * slopes[i, j], shares[i, j] * price[i, j], fixed[i, j] > 0
            for k in range(count - 1, -1, -1):
                bend = half[i, j] + own[i, j] / points[i, k]
                v = _best(slope, bend, lower[i, j], upper[i, j])
                gain = slope * v - bend * v * v - cost
                if gain <= 0.0 and not sure:  # the gain grows with t
                    break
                heights[k] -= gain
        least = heights.min()
        total = 0.0
        for k in range(count):
            weights[k] = np.exp(-sharpness * (heights[k] - least))
            total += weights[k]
        value[i], mean[i] = least - np.log(total) / sharpness, 0.0
        for k in range(count):
            weight = weights[k] / total
            mean[i] += weight * points[i, k]
            if weight < 1e-9:
                continue
            for j in range(nodes):
                if j == i or fixed[i, j] < 0:
                    continue
                slope, bend = -shares[i, j] * slopes[i, j], half[i, j] + own[i, j] / points[i, k]
                v = _best(slope, bend, lower[i, j], upper[i, j])
                if fixed[i, j] > 0 or slope * v - bend * v * v > shares[i, j] * price[i, j]:
                    copies[i, j] += weight * shares[i, j] * v
