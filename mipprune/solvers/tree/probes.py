"""Probes: tangents made for one part of a node, where one entry is kept and large, so that the part can be discarded.

The bound of a node depends on the intervals of its entries, and the tangent of the node itself narrows an interval only
by the entry's own ridge. The tangent at the relaxation of the part "entry j is kept with t_j >= u" knows what such a
value costs in all of X. It lies below the loss everywhere, so it is a tangent of the node as well, with a step that
discards the part: the certificate needs nothing new. Derived here; bounds on variables by optimisation over a
relaxation are known from mixed-integer programming as optimality-based bound tightening.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from .steps import discard
from .strategy import Array, Node, Relaxed
from .together import Part

if TYPE_CHECKING:
    from .regression import RegressionBound

__all__ = ["Prober"]

_WEAK = 0.12  # share of the room that branching must promise on both sides, or else probing is tried
_TRIAL = 8  # probes in the first batch, after which the success is looked at
_BATCH = 16  # probes solved together
_ROUND = 64  # probes before the node is evaluated again
_SUCCESS = 0.4  # share of the probes that must discard something
_SLOW = 0.97  # of the room: what a round must leave less of
_AGAIN = 0.7  # probing that failed is tried again where the room is smaller by this factor
_CLOSES = 0.8  # share of the room from which on one side of a branching is expected to be closed at once
_FAR = 0.5  # of the interval that is left, on the median
_FARTHEST = 0.9  # of the interval


class Prober:
    """Chooses and solves probes; remembers where they failed, and how steep the loss was along the entries."""

    def __init__(self) -> None:
        self.failed = math.inf
        self.curvature = 0.4

    def worthwhile(self, strategy: RegressionBound, node: Node, relaxed: Relaxed, cutoff: float) -> bool:
        """Whether branching promises little, probes are expected to reach far, and none failed with as much room."""
        room = cutoff - relaxed.bound
        if not 0 < room < _AGAIN * self.failed or not math.isfinite(room):
            return False
        active = np.flatnonzero((node.fixed == 0) & (relaxed.primal != 0))
        if not len(active):
            return False
        down, up = (part[active] for part in strategy.scores(node, relaxed))
        less, more = np.minimum(down, up), np.maximum(down, up)
        if (less > np.where(more > _CLOSES * room, 0.4, 1.0) * _WEAK * room).any():
            return False
        t, slope = np.abs(relaxed.primal[active]), np.abs(relaxed.linear[active])
        whole = t / np.maximum(relaxed.shares[active], 1e-300)  # where the entry counts as wholly kept
        prices = whole * (slope - 0.5 * relaxed.curvature[active] * whole)
        return float(np.median(self._reach(t, slope, prices, room) / whole)) < _FAR

    def run(
        self, strategy: RegressionBound, node: Node, relaxed: Relaxed, cutoff: float, stop: Callable[[], bool]
    ) -> Iterator[Relaxed]:
        """Yield tangents; each belongs to the node with the steps of those before it."""
        room, made, wins, t = cutoff - relaxed.bound, 0, 0, relaxed.primal
        left = room
        coarse, tried, price = strategy.coarse, set[int](), strategy.last_price
        while made < _ROUND and not stop():
            cell = strategy.cell(node)
            base = coarse.solve(cell, t, price, cutoff, 1e-3 * abs(cutoff), stop)
            t, left = base.t, cutoff - base.bound
            free = np.flatnonzero((node.fixed == 0) & (t != 0))
            order = [j for j in free[np.argsort(-np.abs(t[free]))].tolist() if j not in tried]
            order = order[: _BATCH if made else _TRIAL]
            if left <= 0 or not order:
                break
            tried.update(order)
            parts = self._parts(t, base.c, node, strategy.price + base.price, left, order)
            points = coarse.together(cell, t, base.price, parts, cutoff, left)
            for chosen, (point, c) in zip(parts, strategy.slopes_at(cell, points), strict=True):
                cell = strategy.cell(node)
                part = strategy.relaxed_of(node, cell, strategy.bounded(cell, point, c, price))
                yield part
                if part.bound >= cutoff:
                    return
                steps, after, _ = discard(node, part, cutoff, strategy.columns, strategy.price, intervals=True)
                self._learn(chosen, base.t, base.c, strategy.price + base.price, left, node, after)
                node = after
                wins += len(steps.entry) > 0
            made += len(points)
            if wins < _SUCCESS * made:
                break
        if wins < _SUCCESS * made or left > _SLOW * room:
            self.failed = min(self.failed, left)

    def _parts(self, t: Array, c: Array, node: Node, price: Array, room: float, order: list[int]) -> list[Part]:
        """Choose how far each part begins."""
        parts = []
        reaches = self._reach(np.abs(t[order]), np.abs(c[order]), price[order], room)
        for place, j in enumerate(order):
            side = 1.0 if t[j] > 0 else -1.0
            reach = float(reaches[place])
            top = float(node.upper[j] if side > 0 else -node.lower[j])
            parts.append(Part(j, side, min(reach, _FARTHEST * top) if math.isfinite(top) else reach))
        return parts

    def _reach(self, t: Array, slope: Array, price: Array, room: float) -> Array:
        """Values beyond which kept entries are expected to cost the room; 0 if every value is."""
        lacking = room - (price - slope * t - 0.5 * slope * slope / self.curvature)
        root = np.sqrt(np.maximum(2.0 * self.curvature * lacking, 0.0))
        return np.where(lacking > 0, t + (slope + root) / self.curvature, 0.0)

    def _learn(self, part: Part, t: Array, c: Array, price: Array, room: float, before: Node, after: Node) -> None:
        """Correct the curvature from how far a probe reached."""
        j = part.entry
        sides = (before.upper[j], after.upper[j]) if part.side > 0 else (-before.lower[j], -after.lower[j])
        old, new, here = float(sides[0]), float(sides[1]), abs(float(t[j]))
        if after.fixed[j] == 0 and here < new < old:
            seen = 2.0 * (room - float(price[j]) + abs(float(c[j])) * new) / (new - here) / (new - here)
            self.curvature = 0.9 * self.curvature + 0.1 * min(max(seen, 0.02), 2.0)
