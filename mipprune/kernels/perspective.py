r"""Functions of one coefficient under an L0 penalty with a ridge and an interval, compiled where numba is installed.

The true penalty of ``t`` is :math:`l_0 1[t\ne0] + l_2 t^2` for t = 0 or t in [lower, upper]. Its convex envelope is
linear from 0 to a point on each side and follows the parabola from there on. All functions take plain numbers.
"""

from __future__ import annotations

import math

from .compiling import compiled_if_possible

__all__ = [
    "conjugate",
    "envelope",
    "kept_minimiser",
    "relaxed_minimiser",
    "relaxed_penalty",
    "share",
    "sparse_minimiser",
]

_inline = compiled_if_possible()


@_inline
def conjugate(c, l2, lower, upper):  # type: ignore[no-untyped-def]
    """Return the largest ``c t - l2 t^2`` over ``lower <= t <= upper``; ``inf`` where it is unbounded."""
    if l2 > 0.0:
        t = min(max(c / (2.0 * l2), lower), upper)
        gain = c * t - l2 * t * t
        return gain if gain <= math.inf else math.inf  # both terms may overflow
    if c == 0.0:
        return 0.0
    return c * (upper if c > 0.0 else lower)


@_inline
def envelope(l0, l2, lower, upper):  # type: ignore[no-untyped-def]
    """Return (point, slope) of the linear part on the positive and the negative side; slope ``inf`` for an empty side.

    On the positive side the envelope is ``slope * t`` up to ``point`` and ``l0 + l2 t^2`` beyond.
    """
    natural = math.sqrt(l0 / l2) if l2 > 0.0 else math.inf
    up, up_slope = 0.0, math.inf
    if upper > 0.0:
        up = min(max(natural, lower), upper)
        up_slope = (l0 / up + l2 * up if up < math.inf else 0.0) if up > 0.0 else 0.0
    down, down_slope = 0.0, math.inf
    if lower < 0.0:
        down = min(max(natural, -upper), -lower)
        down_slope = (l0 / down + l2 * down if down < math.inf else 0.0) if down > 0.0 else 0.0
    return up, up_slope, down, down_slope


@_inline
def relaxed_minimiser(a, b, l2, lower, upper, up, up_slope, down, down_slope):  # type: ignore[no-untyped-def]
    """Return the minimiser of ``a t^2 + b t`` plus the envelope, which :func:`envelope` describes; a >= 0."""
    if b < -up_slope:
        t = (-b - up_slope) / (2.0 * a) if a > 0.0 else math.inf
        if t > up:
            t = min(max(-b / (2.0 * (a + l2)) if a + l2 > 0.0 else math.inf, up), upper)
        return t
    if b > down_slope:
        t = (b - down_slope) / (2.0 * a) if a > 0.0 else math.inf
        if t > down:
            t = min(max(b / (2.0 * (a + l2)) if a + l2 > 0.0 else math.inf, down), -lower)
        return -t
    return 0.0


@_inline
def kept_minimiser(a, b, l2, lower, upper):  # type: ignore[no-untyped-def]
    """Return the minimiser of ``(a + l2) t^2 + b t`` over the interval."""
    if a + l2 > 0.0:
        return min(max(-b / (2.0 * (a + l2)), lower), upper)
    if b == 0.0:
        return min(max(0.0, lower), upper)
    return lower if b > 0.0 else upper


@_inline
def sparse_minimiser(a, b, l0, l2, lower, upper):  # type: ignore[no-untyped-def]
    """Return the minimiser of ``a t^2 + b t`` plus the true penalty, and its decrease against t = 0 (0 for t = 0)."""
    t = kept_minimiser(a, b, l2, lower, upper)
    decrease = -(b * t + (a + l2) * t * t) - l0
    if decrease > 0.0:
        return t, decrease
    return 0.0, 0.0


@_inline
def relaxed_penalty(t, l0, l2, up, up_slope, down, down_slope):  # type: ignore[no-untyped-def]
    """Return the envelope at ``t``."""
    if t > 0.0:
        return up_slope * t if t <= up else l0 + l2 * t * t
    if t < 0.0:
        return -down_slope * t if -t <= down else l0 + l2 * t * t
    return 0.0


@_inline
def share(t, up, down):  # type: ignore[no-untyped-def]
    """Return the indicator z in [0, 1] that the envelope pays for at ``t``."""
    if t > 0.0:
        return t / up if t < up else 1.0
    if t < 0.0:
        return -t / down if -t < down else 1.0
    return 0.0
