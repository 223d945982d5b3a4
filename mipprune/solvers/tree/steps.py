"""What a tangent proves beyond its node's bound: fixings and intervals whose other side cannot reach the cutoff."""

from __future__ import annotations

import numpy as np

from ...core.replay import LIMIT, LOWER, OFF, ON, UPPER
from .ledger import Steps
from .strategy import Array, Node, Relaxed

__all__ = ["discard"]

_SHRINK = 0.8  # an interval is stored when its side moves by this factor of the width, or crosses zero


def discard(
    node: Node, relaxed: Relaxed, cutoff: float, columns: Array, price: Array, *, intervals: bool
) -> tuple[Steps, Node, float]:
    """Return the steps that a tangent proves against a cutoff, the state after them, and the smallest discarded bound.

    Parameters
    ----------
    node : Node
    relaxed : Relaxed
        Its bound is below the cutoff.
    cutoff : float
        A part with at least this bound is discarded.
    columns : int64 array, shape (size,)
        Numbers of the entries in the problem.
    price : array, shape (size,)
    intervals : bool
        Whether to narrow the intervals of kept entries.
    """
    bound, gains, free = relaxed.bound, relaxed.gains, node.fixed == 0
    positive = np.maximum(gains, 0.0)
    kept = np.where(free, bound + np.maximum(positive, relaxed.last) - gains, -np.inf)
    dropped = np.where(free, bound + np.maximum(positive - relaxed.following, 0.0), -np.inf)
    off, on = kept >= cutoff, dropped >= cutoff
    on &= ~off  # with both the node would have been closed; one side is enough
    fixed = node.fixed.copy()
    fixed[off], fixed[on] = -1, 1
    entries = [columns[off], columns[on]]
    kinds = [np.full(int(off.sum()), OFF, dtype=np.int8), np.full(int(on.sum()), ON, dtype=np.int8)]
    values = [np.zeros(int(off.sum())), np.zeros(int(on.sum()))]
    after = Node(
        node.number,
        fixed,
        node.lower,
        node.upper,
        node.limits,
        node.start,
        node.bound,
        node.depth,
        node.split,
        node.tried,
    )
    if intervals:
        lower, upper = _intervals(node, relaxed, cutoff, price)
        for kind, new, old in ((LOWER, lower, node.lower), (UPPER, upper, node.upper)):
            moved = np.flatnonzero((new != old) & (fixed >= 0))
            entries.append(columns[moved])
            kinds.append(np.full(len(moved), kind, dtype=np.int8))
            values.append(new[moved])
        if len(entries[2]) or len(entries[3]):
            gone = fixed < 0
            after.lower, after.upper = np.where(gone, node.lower, lower), np.where(gone, node.upper, upper)
    if relaxed.limits is not None and node.limits is not None:
        moved = np.flatnonzero(relaxed.limits < node.limits)
        entries.append(moved)
        kinds.append(np.full(len(moved), LIMIT, dtype=np.int8))
        values.append(relaxed.limits[moved])
        after.limits = np.minimum(node.limits, relaxed.limits)
    least = min(float(kept[off].min(initial=np.inf)), float(dropped[on].min(initial=np.inf)))
    steps = Steps(np.concatenate(entries).astype(np.int64), np.concatenate(kinds), np.concatenate(values))
    if intervals and len(steps.entry) > int(off.sum() + on.sum()):
        least = min(least, cutoff)
    return steps, after, least


def _intervals(node: Node, relaxed: Relaxed, cutoff: float, price: Array) -> tuple[Array, Array]:
    """Sides of the intervals outside of which a kept entry costs at least the cutoff.

    With the entry's own term taken out, a kept value t has at least the bound
    ``base + price + linear t + curvature t^2/2``.
    """
    on, alive = node.fixed > 0, (node.fixed >= 0) & (relaxed.curvature > 0)
    gains = relaxed.gains
    base = relaxed.bound + np.where(on, gains, np.maximum(np.maximum(gains, 0.0), relaxed.last))
    level = cutoff - base - price
    curvature = np.where(alive, relaxed.curvature, 1.0)
    slope = relaxed.linear
    square = slope * slope + 2.0 * curvature * level
    usable = alive & (square > 0) & np.isfinite(base)
    root = np.sqrt(np.where(usable, square, 0.0))
    low, high = (-slope - root) / curvature, (-slope + root) / curvature
    pad = 1e-9 * (np.abs(low) + np.abs(high))
    low, high = low - pad, high + pad
    width = node.upper - node.lower
    step = np.where(np.isfinite(width), (1 - _SHRINK) * width, 0.0)
    lower = np.where(usable & (low > node.lower + step), low, node.lower)
    upper = np.where(usable & (high < node.upper - step), high, node.upper)
    wrong = lower > upper
    return np.where(wrong, node.lower, lower), np.where(wrong, node.upper, upper)
