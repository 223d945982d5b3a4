"""Spreading a budget over fractional antichains: the proximal step of the perspective relaxation over paths.

This module is imported where it is used, since it compiles at import where numba is installed.
"""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["spread"]


@compiled_if_possible()
def path_excess(parent, leaf, root, offset, load, price, shift):  # type: ignore[no-untyped-def]
    """Return (sum of the shares on the path of a leaf, minus 1; its derivative) with a multiplier more by ``shift``."""
    total, slope = -1.0, 0.0
    v = leaf
    while v >= 0:
        if root[v] > 0.0:
            level = price + load[v] + shift
            if level <= 0.0:
                return np.inf, -np.inf
            share = root[v] / np.sqrt(level) - offset[v]
            if share > 0.0:
                total += share
                slope -= 0.5 * (share + offset[v]) / level
        v = parent[v]
    return total, slope


@compiled_if_possible()
def least_shift(parent, leaf, root, offset, load, price):  # type: ignore[no-untyped-def]
    """Return a multiplier for which the path of a leaf is still full: one of its entries alone holds 1."""
    shift = -np.inf
    v = leaf
    while v >= 0:
        if root[v] > 0.0:
            alone = root[v] / (1.0 + offset[v])
            shift = max(shift, alone * alone - price - load[v])
        v = parent[v]
    return shift


@compiled_if_possible()
def balance(parent, leaves, root, offset, price, multiplier, load, sweeps, tolerance):  # type: ignore[no-untyped-def]
    """Raise and lower the multipliers of the paths in turn until no path holds more than 1 (to the tolerance)."""
    for _ in range(sweeps):
        worst = 0.0
        for i in range(len(leaves)):
            leaf = leaves[i]
            excess, slope = path_excess(parent, leaf, root, offset, load, price, 0.0)
            if excess <= 0.0 and multiplier[i] == 0.0:
                continue
            worst = max(worst, abs(excess))
            # Newton's method on a convex decreasing function: from where the path is too full it never overshoots.
            shift = max(-multiplier[i], least_shift(parent, leaf, root, offset, load, price))
            if excess > 0.0:
                shift = max(shift, 0.0)
            excess, slope = path_excess(parent, leaf, root, offset, load, price, shift)
            for _ in range(40):
                if excess <= 0.1 * tolerance or slope >= 0.0:
                    break
                shift -= excess / slope
                excess, slope = path_excess(parent, leaf, root, offset, load, price, shift)
            multiplier[i] += shift
            v = leaf
            while v >= 0:
                load[v] += shift
                v = parent[v]
        if worst <= tolerance:
            break


@compiled_if_possible()
def shares(parent, order, root, offset, price, load, out):  # type: ignore[no-untyped-def]
    """Write the shares of the multipliers, scaled where a path still holds more than 1; return their sum."""
    p = len(parent)
    held = np.zeros(p)  # on the path down to a node
    fullest = np.zeros(p)  # of the paths through a node
    for v in order:
        share = 0.0
        if root[v] > 0.0:
            share = min(max(root[v] / np.sqrt(max(price + load[v], 1e-300)) - offset[v], 0.0), 1.0)
        out[v] = share
        held[v] = share + (held[parent[v]] if parent[v] >= 0 else 0.0)
    total = 0.0
    for i in range(p - 1, -1, -1):
        v = order[i]
        fullest[v] = max(fullest[v], held[v])
        if parent[v] >= 0:
            fullest[parent[v]] = max(fullest[parent[v]], fullest[v])
        if fullest[v] > 1.0:
            out[v] /= fullest[v]
        total += out[v]
    return total


@compiled_if_possible()
def price_of_budget(root, offset, price, budget):  # type: ignore[no-untyped-def]
    """Return the least price >= ``price`` at which the shares, paths left aside, sum to the budget at most."""
    level = price
    for v in range(len(root)):
        alone = root[v] / (budget + offset[v])
        level = max(level, alone * alone)
    for _ in range(100):
        total, slope = -budget, 0.0
        for v in range(len(root)):
            if root[v] > 0.0 and level > 0.0:
                share = root[v] / np.sqrt(level) - offset[v]
                if share > 0.0:
                    total += share
                    slope -= 0.5 * (share + offset[v]) / level
        if total <= 1e-9 * budget or slope >= 0.0:
            break
        level -= total / slope
    return level


@compiled_if_possible()
def spread(parent, order, leaves, weight, offset, price, budget, tolerance):  # type: ignore[no-untyped-def]
    r"""Minimise :math:`\sum a_v^2/(z_v + o_v) + \lambda \sum z_v` with paths of at most 1 and the budget in all.

    Parameters
    ----------
    parent, order, leaves : int64 arrays
        The forest, its nodes with parents first, its leaves.
    weight, offset : float64 (p,)
        a >= 0 (0 where an entry must stay 0) and o > 0.
    price, budget, tolerance : float
        The budget is at most p; the tolerance is on the sums.

    Notes
    -----
    Given multipliers of the paths, ``load`` on a node, :math:`z_v = (a_v/\sqrt{\lambda + \text{load}_v} - o_v)_+`. The
    sum on a path is convex and decreasing in its own multiplier. The price of the budget without paths is an upper
    bound of the one with them; from there it is lowered while the budget is not used up.
    """
    p = len(parent)
    out = np.zeros(p)
    multiplier = np.zeros(len(leaves))
    load = np.zeros(p)
    level = price_of_budget(weight, offset, price, budget)
    high = level
    for _ in range(12):
        balance(parent, leaves, weight, offset, level, multiplier, load, 20, tolerance)
        total = shares(parent, order, weight, offset, level, load, out)
        if (total >= budget * (1.0 - tolerance) and total <= budget * (1.0 + tolerance)) or (
            total <= budget and level <= price
        ):
            break
        # Active shares behave like a/sqrt(level) - o.
        taken = 0.0
        for v in range(p):
            if out[v] > 0.0:
                taken += offset[v]
        ratio = (total + taken) / (budget + taken)
        level = min(max(level * ratio * ratio, price), high)
        if level <= 0.0:
            level = 1e-9 * high
    if total > budget:
        for v in range(p):
            out[v] *= budget / total
    return out
