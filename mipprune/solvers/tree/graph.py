"""Node bounds of the pseudo-likelihood of a graphical model under a price for each edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...core.adapters import Sparse
from ...core.arrays import exact
from ...core.problem import Problem
from ...kernels.graph_appraisal import Appraised, Penalties, Shift, appraise
from ...kernels.graph_ascent import ascend
from ...kernels.graph_local import Inverse, candidates
from ...kernels.graph_relax import relax_graph
from ...kernels.graph_search import improve
from ...kernels.graph_shift import best_shift, shares_of, shift_weights
from ...kernels.pairs import split_pairs
from ...kernels.threads import small_products
from ...losses.pseudo_likelihood import PseudoLikelihood
from .strategy import Array, Node, Point, Relaxed

__all__ = ["LOCAL", "GraphBound", "shift_of"]

_Effort = tuple[int, tuple[float, ...]]  # steps of the ascent, and sharpness of the smoothed minima
_ROOT: _Effort = (40, (0.2, 0.8, 3.0))
_BELOW: _Effort = (15, (0.3, 1.5))
_LARGE_ROOT: _Effort = (40, (0.03, 0.3, 1.0))  # beyond _OFTEN nodes
_LARGE_BELOW: _Effort = (10, (0.03, 0.3))
LOCAL = 2048
"""Nodes up to which rows get curvature of their own for few pairs each; beyond, all share one number."""
_SWEEPS = 50  # of the relaxations that a search for a shift solves
_OFTEN = 128  # nodes up to which that search takes all of its steps
_COARSE = 3e-4  # tolerance of relaxations in large graphs with a shift
_FEW = 0.5  # share of an edge above which it is rounded up


@dataclass(eq=False)
class GraphBound:
    """Relaxations by coordinate descent, bounds row by row with curvature of S moved into the penalties.

    Parameters
    ----------
    loss : PseudoLikelihood
        In float64 on the CPU.
    price, lower, upper : float64 array, shape (size,)
    shifts : int
        Steps of the search for the shift at the root.
    renewal : float
        The shift is chosen anew where fewer than this share of the pairs it was made for are still free.
    climb : bool
        Improve the point of tangency by ascent on the bound itself.
    """

    loss: PseudoLikelihood
    price: Array
    lower: Array
    upper: Array
    shifts: int = 30
    renewal: float = 0.3
    climb: bool = True

    @classmethod
    def takes(cls, problem: Problem) -> bool:
        """Tell whether bounds exist: zero is in the box, every pair has a ridge or a box, and S is convex by proof."""
        structure, loss = problem.structure, problem.reference.loss
        assert isinstance(structure, Sparse) and isinstance(loss, PseudoLikelihood)
        lower, upper = (
            exact(torch.as_tensor(side, dtype=torch.float64)) for side in structure.box or (-math.inf, math.inf)
        )
        count = structure.supports.largest_count(problem.size)
        tied = (exact(torch.as_tensor(loss.ridge, dtype=torch.float64)) > 0) | (
            torch.isfinite(lower) & torch.isfinite(upper)
        )
        inside = bool((lower <= 0).all()) and bool((upper >= 0).all())
        return count is not None and count >= problem.size and inside and bool(tied.all()) and loss.is_convex

    @classmethod
    def of(cls, problem: Problem) -> GraphBound:
        """Return the strategy for a problem of the right kind."""
        structure, loss = problem.structure, problem.reference.loss
        assert isinstance(structure, Sparse) and isinstance(loss, PseudoLikelihood)

        def spread(value: Any) -> Array:
            return np.array(exact(torch.as_tensor(value, dtype=torch.float64)).expand(problem.size).numpy())

        lower, upper = structure.box or (-math.inf, math.inf)
        return cls(loss, spread(structure.price_per_entry), spread(lower), spread(upper))

    def __post_init__(self) -> None:
        self._stop: Callable[[], bool] = lambda: False

    @property
    def columns(self) -> Array:
        """See :class:`NodeBound`."""
        return np.arange(len(self.price))

    @property
    def most(self) -> int:
        """See :class:`NodeBound`."""
        return len(self.price)

    @cached_property
    def penalties(self) -> Penalties:
        """Of all pairs."""
        ridge = exact(torch.as_tensor(self.loss.ridge, dtype=torch.float64)).numpy()
        return Penalties(self.price, np.array(ridge), self.lower, self.upper)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: the data, not what is derived from them."""
        return {key: value for key, value in vars(self).items() if key in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore what was sent."""
        vars(self).update(state)
        self.__post_init__()

    def root(self) -> Node:
        """See :class:`NodeBound`."""
        size = len(self.price)
        empty = (np.zeros(0, dtype=np.int64), np.zeros(0))
        return Node(0, np.zeros(size, dtype=np.int8), self.lower, self.upper, None, empty, -math.inf, 0)

    def narrowed(self, fixed: Array) -> GraphBound:
        """See :class:`NodeBound`; pairs that are off cost nothing here."""
        return self

    def renewed(self) -> GraphBound:
        """See :class:`NodeBound`; nothing is kept from node to node."""
        return self

    # --------------------------------------------------------------------------------------------------- bounds

    def evaluate(self, node: Node, cutoff: float, accuracy: float, stop: Callable[[], bool]) -> list[Relaxed]:
        """See :class:`NodeBound`: with the shift, and without it where that may prove more."""
        p, self._stop = self.loss.nodes, stop
        first = self._relaxed(node, shift_of(node.split, p), node.split, node.start, cutoff, accuracy, stop)
        if first.bound >= cutoff or node.split is None or not self._is_late(node):
            return [first]
        plain = self._relaxed(node, Shift.none(p), None, first.point, cutoff, accuracy, stop)
        return [plain] if plain.bound > first.bound else [first]

    def _is_late(self, node: Node) -> bool:
        """Whether so few pairs are free that the unshifted relaxation may be the better one."""
        return int((node.fixed == 0).sum()) <= 2 * self.loss.nodes

    def _relaxed(
        self,
        node: Node,
        shift: Shift,
        split: Point | None,
        start: Point,
        cutoff: float,
        accuracy: float,
        stop: Callable[[], bool],
    ) -> Relaxed:
        flat, value, theta = self._descend(node, shift, start, accuracy, stop)
        inside = value != 0.0
        entries, values = flat[inside], value[inside]
        point = (entries, values)
        if self._climbs(node, shift):
            _, point = self.climbed(node, shift, point, cutoff, stop, long=node.depth == 0)
        found = appraise(self.loss.matrix, self.loss.largest, *point, node.fixed, shift, self.penalties)
        size = len(self.price)
        primal, shares = np.zeros(size), np.where(node.fixed > 0, 1.0, 0.0)
        primal[entries] = values
        free = node.fixed[entries] == 0
        share = shares_of(
            values, self.price[entries], self._bends(entries, shift, theta), self.lower[entries], self.upper[entries]
        )
        shares[entries[free]] = share[free]
        grown_on, grown_off = found.if_on - found.bound, found.if_off - found.bound
        gains = np.where(grown_off > grown_on, grown_off, -grown_on)
        return Relaxed(
            point, found.bound, gains, 0.0, 0.0, np.zeros(size), np.zeros(size), primal, shares,
            found.known, split,
        )  # fmt: skip

    def _climbs(self, node: Node, shift: Shift) -> bool:
        """Whether ascent may help: without a shift, or with nothing free, the relaxation's point is the best."""
        shifted = shift.common.any() or len(shift.extra) > 0
        return self.climb and bool(shifted) and bool((node.fixed == 0).any())

    def climbed(
        self, node: Node, shift: Shift, point: Point, cutoff: float, stop: Callable[[], bool], *, long: bool
    ) -> tuple[float, Point]:
        """Return the bound of a better point of tangency, and that point."""
        small = self.loss.nodes <= _OFTEN
        steps, sharpness = (_ROOT if long else _BELOW) if small else (_LARGE_ROOT if long else _LARGE_BELOW)
        with small_products(self.loss.nodes):
            return ascend(
                self.loss.matrix,
                node.fixed,
                shift,
                self.penalties,
                point,
                lambda tried: self._appraise(node, *tried, shift).bound,
                enough=cutoff,
                steps=steps,
                sharpness=sharpness if self._climbs(node, shift) else (),
                go_on=lambda: not stop(),
            )

    def _appraise(self, node: Node, flat: Array, value: Array, shift: Shift) -> Appraised:
        matrix, largest = self.loss.matrix, self.loss.largest
        return appraise(matrix, largest, flat, value, node.fixed, shift, self.penalties, parts=False)

    def _descend(
        self,
        node: Node,
        shift: Shift,
        start: Point,
        accuracy: float,
        stop: Callable[[], bool],
        sweeps: int = 1000,
    ) -> tuple[Array, Array, Array]:
        """Return the pairs of the relaxation's solution, ascending, its values and its diagonal."""
        tolerance = max(1e-10, 1e-2 * math.sqrt(accuracy) / self.loss.nodes)
        if self.loss.nodes > _OFTEN and shift.common.any():
            tolerance, sweeps = _COARSE, _SWEEPS  # what ascent starts from need not be accurate
        if not (node.fixed == 0).any():  # one support is left: its bound is its value, if only the point is accurate
            tolerance, sweeps = 1e-14, 20_000
        return relax_graph(
            self.loss.matrix, node.fixed, shift, self.penalties, start, tolerance, lambda: not stop(), sweeps
        )

    def _bends(self, flat: Array, shift: Shift, theta: Array) -> Array:
        """Curvature of the penalties with the shift, at the diagonal at hand."""
        i, j = split_pairs(flat, self.loss.nodes)
        ridge = self.penalties.ridge[flat] if len(self.penalties.ridge) > 1 else self.penalties.ridge[0]
        bend: Array = ridge + shift.at(i, j) / theta[i] + shift.at(j, i) / theta[j]
        return bend

    def sharpened(self, node: Node) -> Point | None:
        """See :class:`NodeBound`: at the root, and again where many pairs have been fixed since.

        It ends when the last evaluation was told to.
        """
        found = None if self._stop() else self.searched(node, lambda: not self._stop())
        if found is None:
            return None
        p, shift = self.loss.nodes, found[0]
        row = np.concatenate([shift.common, shift.extra.reshape(-1) if len(shift.extra) else np.zeros(p * p)])
        entries = np.flatnonzero(row)
        return entries, row[entries]

    def searched(self, node: Node, go_on: Callable[[], bool] = lambda: True) -> tuple[Shift, Point] | None:
        """Return a better shift for a node, with the best point of tangency that was found on the way."""
        p, accuracy = self.loss.nodes, 1e-4 * self.loss.scale
        old = None if node.split is None else shift_of(node.split, p)
        if old is not None and (not len(old.extra) or not self._has_changed(node, old)):
            return None
        i, j = split_pairs(np.arange(len(self.price)), p)
        whole, members = self.loss.frame
        inside = np.ix_(members, members)
        state = np.full(whole.shape, -1, dtype=np.int8)  # of pairs with nodes outside, which count as kept
        state[members] = 1
        state[inside] = 0
        state[members[i], members[j]] = state[members[j], members[i]] = node.fixed

        best: list[tuple[float, Point]] = [(-math.inf, node.start)]

        def bound(shift: Shift, start: Point) -> tuple[float, Point, Array]:
            own, weights = shift.among(members), np.zeros(whole.shape)
            flat, value, theta = self._descend(node, own, start, accuracy, lambda: False, _SWEEPS)
            proven, point = self.climbed(node, own, (flat, value), math.inf, lambda: not go_on(), long=False)
            weights[inside] = shift_weights(flat, value, theta, own, self.penalties)
            best[0] = max(best[0], (proven, point), key=lambda pair: pair[0])
            return proven, (flat, value), weights

        first = None
        if old is not None:
            first = Shift(np.zeros(len(whole)), np.zeros(whole.shape))
            first.common[members] = old.common
            first.extra[inside] = old.extra
        steps = 2 if old is not None else self.shifts if p <= _OFTEN else self.shifts // 5

        def local() -> tuple[Inverse, Array] | None:
            if p > LOCAL or self.loss.inverse is None:
                return None
            near = np.zeros(whole.shape)
            near[inside] = candidates(self.loss.matrix, node.start, self.penalties)
            return self.loss.inverse, near

        with small_products(p):
            shift = best_shift(whole, state, bound, node.start, steps, first, go_on, local)
        if shift is None:
            return None
        return shift.among(members), best[0][1]

    def _has_changed(self, node: Node, shift: Shift) -> bool:
        """Whether much fewer pairs are free than where the shift was made (it is positive on those that were)."""
        then = 0.5 * np.count_nonzero(shift.extra)
        return bool((node.fixed == 0).sum() < self.renewal * then)

    def scores(self, node: Node, relaxed: Relaxed) -> tuple[Array, Array]:
        """See :class:`NodeBound`: the change along one coordinate, the others and the diagonal at rest."""
        size, p = len(self.price), self.loss.nodes
        down, up = np.maximum(relaxed.gains, 0.0), np.maximum(-relaxed.gains, 0.0)
        inside = np.flatnonzero((relaxed.primal != 0) & (node.fixed == 0))
        if not len(inside):
            return np.where(node.fixed == 0, down + 1e-12, 0.0), np.where(node.fixed == 0, up + 1e-12, 0.0)
        assert len(down) == size
        shift = shift_of(relaxed.split, p)
        i, j = split_pairs(inside, p)
        matrix, t = self.loss.matrix, np.abs(relaxed.primal[inside])
        inverse = matrix.diagonal()  # of the order of the inverse of the diagonal
        bend = self._bends(inside, shift, 1.0 / inverse)
        a = (matrix[j, j] - shift.at(i, j)) * inverse[i] + (matrix[i, i] - shift.at(j, i)) * inverse[j]
        slope = 2.0 * a * t + 2.0 * np.sqrt(self.price[inside] * bend)
        whole = relaxed.shares[inside] >= 1.0
        lost = np.where(whole, (a + bend) * t * t - self.price[inside], a * t * t)
        paid = self.price[inside] - slope * slope / (4.0 * (a + bend)) + a * t * t
        down[inside] = np.maximum(down[inside], np.maximum(lost, 0.0))
        up[inside] = np.maximum(up[inside], np.where(whole, 0.0, np.maximum(paid, 0.0)))
        return down, up

    # ----------------------------------------------------------------------------------------------- incumbents

    def incumbents(self, node: Node, relaxed: Relaxed, effort: int) -> list[tuple[float, Point]]:
        """See :class:`NodeBound`."""
        starts = [np.flatnonzero((relaxed.shares > _FEW) | (node.fixed > 0))]
        if effort:
            starts.append(np.flatnonzero(relaxed.primal))
        if effort == 2:
            starts.append(np.zeros(0, dtype=np.int64))
        return [self._improved((entries, relaxed.primal[entries]), 10 if effort else 0) for entries in starts]

    def improved_from(self, point: Point) -> list[tuple[float, Point]]:
        """See :class:`NodeBound`."""
        return [self._improved(point, 10)]

    def _improved(self, start: Point, swaps: int) -> tuple[float, Point]:
        """Return a local optimum from a start, with its value."""
        point = improve(self.loss.matrix, start, self.penalties, swaps=swaps)
        dense = torch.zeros(len(self.price), dtype=torch.float64)
        dense[torch.from_numpy(point[0])] = torch.from_numpy(point[1])
        return self.loss.value(dense) + float(self.price[point[0]].sum()), point


def shift_of(split: Point | None, p: int) -> Shift:
    """Return the shift that a sparse split row stands for; ``None``: no shift."""
    if split is None:
        return Shift.none(p)
    row = np.zeros(p * (p + 1))
    row[split[0]] = split[1]
    extra = row[p:].reshape(p, p)
    return Shift(row[:p].copy(), extra if extra.any() else np.zeros((0, 0)))
