"""Minimising a smooth convex function inside a box, to the accuracy of a proof."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["minimise"]

Array = np.ndarray[Any, Any]


def minimise(
    value_and_gradient: Callable[[Array], tuple[float, Array]],
    start: Array,
    lower: Array,
    upper: Array,
    scale: Array,
    *,
    rounds: int = 5,
) -> Array:
    """Return a minimiser over ``lower <= x <= upper``, never worse than the clipped start.

    Parameters
    ----------
    value_and_gradient : callable
        Of an array of shape (n,).
    start, lower, upper : array, shape (n,)
        Bounds may be infinite.
    scale : array, shape (n,)
        > 0; the variables are divided by it, so that the second derivatives are about equal.
    rounds : int
        Restarts of the quasi-Newton method, which forgets its memory each time and so gets past a line search that
        ended at the rounding of the value.

    Notes
    -----
    L-BFGS-B with memory for the whole space where that is small: on a quadratic it then ends after about n steps,
    whatever the condition number.
    """
    from scipy.optimize import minimize

    best = np.clip(start, lower, upper)
    if best.size == 0:
        return best
    best_value = value_and_gradient(best)[0]

    def scaled(y: Array) -> tuple[float, Array]:
        value, gradient = value_and_gradient(y * scale)
        return value, gradient * scale

    options = {"maxcor": int(min(max(len(best), 10), 100)), "maxiter": 2000, "ftol": 1e-16, "gtol": 0.0}
    for _ in range(rounds):
        bounds = np.stack([lower / scale, upper / scale], axis=1)
        found = minimize(scaled, best / scale, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        point = np.clip(found.x * scale, lower, upper)
        value = value_and_gradient(point)[0]
        if not value < best_value:
            break
        done = best_value - value <= 1e-12 * abs(best_value)
        best, best_value = point, value
        if done:
            break
    return best
