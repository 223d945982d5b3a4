"""Node bounds of least squares under a price, a cardinality limit, or both."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...kernels.gram_rows import GramRows
from ...losses.least_squares import LeastSquares
from .batches import Batches
from .columns import FULL, Columns, room_of
from .exploration import explore_supports
from .live import Cell, Live, Solved
from .nearby import Nearby
from .probes import Prober
from .strategy import Array, Node, Point, Relaxed
from .together import Part, solve_together

__all__ = ["RegressionBound"]

_SPLIT = 0.75  # columns left, relative to the rows, from which on curvature of X'X is worth splitting off
_WIDEST = 900
_EXACT = 160  # support up to which second-order estimates use the whole inverse
_FEWER = 0.75  # share of columns left since the last split that makes another one worth while
_PROBED = 1 << 14  # columns up to which probes are solved on all of them
_COARSE = 4096  # columns up to which X'X is formed at once in float32


@dataclass(eq=False)
class RegressionBound(Columns):
    """Perspective relaxations by coordinate descent; the ridge, and curvature of X'X where few columns are left."""

    device: str = "cpu"
    """where nodes are relaxed that are evaluated together"""

    @classmethod
    def of(cls, problem: Problem) -> RegressionBound:
        """Return the strategy for a problem of the right kind."""
        structure, loss, declared = problem.structure, problem.reference.loss, problem.loss
        assert isinstance(structure, Sparse) and isinstance(loss, LeastSquares) and isinstance(declared, LeastSquares)
        size = problem.size
        most = structure.supports.largest_count(size)
        assert most is not None

        def spread(value: Any) -> Array:
            return np.array(torch.as_tensor(value, dtype=torch.float64).cpu().expand(size).numpy())

        lower, upper = structure.box or (-math.inf, math.inf)
        return cls(
            loss, np.arange(size), spread(structure.price_per_entry), spread(lower), spread(upper), min(most, size),
            device=str(declared.design.device),
        )  # fmt: skip

    @staticmethod
    def takes(problem: Problem) -> bool:
        """Whether every entry has a ridge or a finite interval; without either no tangent bounds anything."""
        structure, loss = problem.structure, problem.loss
        if not isinstance(structure, Sparse) or not isinstance(loss, LeastSquares):
            return False
        sides = [
            torch.as_tensor(side, dtype=torch.float64).cpu().expand(problem.size)
            for side in structure.box or (-math.inf, math.inf)
        ]
        finite = torch.isfinite(sides[0]) & torch.isfinite(sides[1])
        spans_zero = bool((sides[0] <= 0).all() and (sides[1] >= 0).all())
        return spans_zero and bool(
            (finite | (torch.as_tensor(loss.ridge, dtype=torch.float64).cpu().expand(problem.size) > 0)).all()
        )

    @property
    def wide(self) -> bool:
        """Whether relaxations are solved on some of the columns and checked on all."""
        return self.whole and len(self.columns) > FULL

    @cached_property
    def live(self) -> Live:
        """The columns near their thresholds."""
        return Live(self)

    @property
    def solver(self) -> Live | RegressionBound:
        """What solves relaxations."""
        return self.live if self.wide else self

    @cached_property
    def batches(self) -> Batches:
        """What relaxes many nodes at once."""
        return Batches(self)

    @cached_property
    def prober(self) -> Prober:
        """What tightens intervals."""
        return Prober()

    def root(self) -> Node:
        """See :class:`NodeBound`."""
        size = len(self.columns)
        empty = (np.zeros(0, dtype=np.int64), np.zeros(0))
        return Node(0, np.zeros(size, dtype=np.int8), self.lower.copy(), self.upper.copy(), None, empty, -math.inf, 0)

    def cell(self, node: Node) -> Cell:
        """Return a node's cell in the terms of the kernels."""
        fixed, left = node.fixed, self.most - int((node.fixed > 0).sum())
        if left <= 0:
            fixed = np.where(fixed > 0, fixed, -1).astype(np.int8)
        shift = np.zeros(len(self.columns))
        if node.split is not None:
            shift = np.where(node.fixed >= 0, self.dense(node.split) - self.ridge, 0.0)
        return Cell(fixed, shift, 0.5 * (self.ridge + shift), node.lower, node.upper, left)

    def evaluate(self, node: Node, cutoff: float, accuracy: float, stop: Callable[[], bool]) -> list[Relaxed]:
        """See :class:`NodeBound`."""
        cell, t = self.cell(node), self.dense(node.start)
        t[cell.fixed < 0] = 0.0
        solved = self.solver.solve(cell, t, self.last_price, cutoff, accuracy, stop)
        self.last_price = solved.price if cell.left < len(t) else 0.0
        return [self.relaxed_of(node, cell, solved)]

    def evaluate_together(
        self, nodes: list[Node], cutoff: float, accuracy: float, stop: Callable[[], bool]
    ) -> list[list[Relaxed]]:
        """See :class:`~mipprune.solvers.tree.strategy.Batching`."""
        return self.batches.evaluate(self, nodes, cutoff, accuracy, stop)

    def relaxed_of(self, node: Node, cell: Cell, solved: Solved) -> Relaxed:
        """Return a solved cell of a node in the terms of the search."""
        if not np.isfinite(solved.t).all():  # it overflowed and is no point of tangency
            solved = self.tangent(cell, np.zeros(len(solved.t)), 0.0)
        shares = self._shares(solved.t, cell.fixed, self.price + solved.price, cell.l2, node)
        return Relaxed(
            self.sparse(solved.t), solved.bound, solved.gains, solved.last, solved.following, -solved.c,
            2.0 * cell.l2, solved.t, shares, solved.value, node.split,
        )  # fmt: skip

    def solve(
        self, cell: Cell, t: Array, price: float, cutoff: float, accuracy: float, stop: Callable[[], bool]
    ) -> Solved:
        """Return the tangent of a cell, from rows of X'X."""
        from ...kernels.node_descent import relax

        gram, size, fixed = self.gram, len(self.columns), cell.fixed
        t = t.copy()
        support = np.flatnonzero((t != 0) & (fixed == 0))
        spare = max(gram.room - int((fixed > 0).sum()), 0)
        if len(support) > spare:  # no room for the rows of all of them: start from the largest
            t[support[np.argsort(-np.abs(t[support]))[spare:]]] = 0.0
        gram.ensure(np.flatnonzero((t != 0) | (fixed > 0)))
        c, gains, best = np.empty(size), np.empty(size), np.empty(size)
        while True:
            missing, bound, value, price, last, following = relax(
                gram.rows, gram.slot, self.pull, cell.shift, self.constant, fixed, self.price, cell.l2, cell.lower,
                cell.upper, cell.left, price, t, c, gains, best, cutoff, accuracy, 60,
            )  # fmt: skip
            if missing < 0:
                return Solved(t, c, gains, bound, value, price, last, following)
            wanted = np.union1d(np.flatnonzero(np.isinf(gains)), [missing]) if bound > -math.inf else [missing]
            needed = np.union1d(wanted, np.flatnonzero((t != 0) | (fixed > 0)))
            if stop() or len(needed) > gram.room:  # any point proves something: take the one at hand
                return self.tangent(cell, t, price)
            gram.ensure(needed)

    def tangent(self, cell: Cell, t: Array, price: float) -> Solved:
        """Return the tangent at a point, from one product with X'."""
        ((t, c),) = self.slopes_at(cell, [self.sparse(t)])
        return self.bounded(cell, t, c, price)

    def slopes_at(self, cell: Cell, points: list[Point]) -> list[tuple[Array, Array]]:
        """Return points of the problem as dense ones here, each with the slope of its tangent; one product with X'."""
        dense = np.stack([self.dense(point) for point in points])
        used = np.flatnonzero(dense.any(axis=0))
        fitted = torch.from_numpy(dense[:, used]) @ self.rows_of[torch.from_numpy(used)]
        slopes = ((self.loss.response - fitted) @ self.loss.design).numpy() + cell.shift * dense
        return list(zip(dense, slopes, strict=True))

    def bounded(self, cell: Cell, t: Array, c: Array, price: float) -> Solved:
        """Return the tangent at a point in a cell, its slope being known."""
        from ...kernels.node_descent import tangent_bound

        gains, work = np.empty(len(t)), np.empty(len(t))
        bound, last, following = tangent_bound(
            self.constant, self.pull, c, t, cell.fixed, self.price, cell.l2, cell.lower, cell.upper, cell.left, gains,
            work, np.empty(max(cell.left, 0) + 2),
        )  # fmt: skip
        return Solved(t, c, gains, bound, bound, price, last, following)

    def probes(self, node: Node, relaxed: Relaxed, cutoff: float, stop: Callable[[], bool]) -> Iterator[Relaxed]:
        """See :class:`~mipprune.solvers.tree.strategy.Probing`."""
        if self.prober.worthwhile(self, node, relaxed, cutoff):
            yield from self.prober.run(self, node, relaxed, cutoff, stop)

    def explored(
        self, point: Point, relaxed: Relaxed, effort: int, seed: int, stop: Callable[[], bool]
    ) -> Iterator[tuple[float, Point]]:
        """See :class:`~mipprune.solvers.tree.exploration.Exploring`."""
        return explore_supports(self, point, relaxed, effort, seed, stop)

    @cached_property
    def coarse(self) -> RegressionBound | Nearby:
        """What finds points for probes, never bounds: with rows of X'X in float32 where they are wide."""
        if not self.wide:
            return self
        if len(self.columns) > _PROBED:
            return Nearby(self)
        out = replace(self, whole=False)
        design = self.loss.design.to(torch.float32)
        vars(out).update(
            gram=GramRows(design, room=max(64, room_of(len(self.columns)) // 2), full=len(self.columns) <= _COARSE),
            pull=self.pull,
            ridge=self.ridge,
            constant=self.constant,
        )
        return out

    def together(
        self, cell: Cell, t: Array, price: float, parts: list[Part], cutoff: float, room: float
    ) -> list[Point]:
        """Return a point of tangency for each part of a node."""
        return solve_together(self, cell, t, price, parts, cutoff, room)

    last_price: float = 0.0

    def _shares(self, t: Array, fixed: Array, l0: Array, l2: Array, node: Node) -> Array:
        shares = np.where(fixed > 0, 1.0, 0.0)
        inside = np.flatnonzero((t != 0) & (fixed == 0))
        with np.errstate(divide="ignore"):
            natural = np.sqrt(l0[inside] / l2[inside])
        value = t[inside]
        low = np.where(value > 0, node.lower[inside], -node.upper[inside])
        high = np.where(value > 0, node.upper[inside], -node.lower[inside])
        point = np.minimum(np.maximum(natural, low), high)
        shares[inside] = np.minimum(np.abs(value) / np.maximum(point, 1e-300), 1.0)
        return shares

    def sharpened(self, node: Node) -> Point | None:
        """See :class:`NodeBound`: curvature of X'X on the columns that are left, as soon as they are few.

        With what is on eliminated, the smallest eigenvalue of the rest (columns scaled to one length) is split off.
        """
        alive = np.flatnonzero(node.fixed >= 0)
        free = node.fixed[alive] == 0
        widest = min(_SPLIT * len(self.loss.response), _WIDEST, _FEWER * node.tried)
        if not free.any() or len(alive) > widest:
            return None
        node.tried = len(alive)
        matrix = self.products(alive)
        rest = matrix[np.ix_(free, free)]
        if not free.all():
            kept = matrix[np.ix_(~free, ~free)] + np.diag(1e-10 * np.diagonal(matrix)[~free] + 1e-300)
            cross = matrix[np.ix_(~free, free)]
            try:
                rest = rest - cross.T @ np.linalg.solve(kept, cross)
            except np.linalg.LinAlgError:
                return None
        length = np.diagonal(matrix)[free]
        root = 1.0 / np.sqrt(np.maximum(length, 1e-300))
        smallest = float(torch.linalg.eigvalsh(torch.from_numpy(root[:, None] * rest * root))[0])
        extra = (smallest * (1 - 1e-6) - 1e-9) * length
        if not (extra > 0).all() or float(extra.min()) < 0.02 * float(self.ridge[alive][free].max()):
            return None
        split = self.ridge[alive].copy()
        split[free] += extra
        allowed = torch.from_numpy(node.fixed >= 0)
        row = torch.zeros(len(self.columns), dtype=torch.float64)
        row[torch.from_numpy(alive)] = torch.from_numpy(split)
        return (self.columns[alive], split) if self.loss.proves_split(row, allowed) else None

    def scores(self, node: Node, relaxed: Relaxed) -> tuple[Array, Array]:
        """See :class:`NodeBound`: second-order estimates along one coordinate, the others of the support following."""
        last = self._scored
        if not last or last[0][0] is not node.fixed or last[0][1] is not relaxed:
            last[:] = [(node.fixed, relaxed, self._estimates(node, relaxed))]
        return last[0][2]

    @cached_property
    def _scored(self) -> list[tuple[Array, Relaxed, tuple[Array, Array]]]:
        """The last estimates: probes and branching ask for the same ones."""
        return []

    def _estimates(self, node: Node, relaxed: Relaxed) -> tuple[Array, Array]:
        size = len(self.columns)
        down, up = np.zeros(size), np.zeros(size)
        inside = np.flatnonzero((relaxed.primal != 0) & (node.fixed >= 0))
        free = node.fixed[inside] == 0
        if not free.any():
            return down, up
        l2 = 0.5 * relaxed.curvature[inside]
        shift = relaxed.curvature[inside] - self.ridge[inside]
        matrix = self.products(inside) if len(inside) <= _WIDEST else np.diag(self.gram.diagonal[inside])
        share = relaxed.shares[inside]
        bent = np.where(share >= 1.0, 2.0 * l2, 0.0)
        matrix[np.diag_indices(len(inside))] += bent - shift
        matrix[np.diag_indices(len(inside))] += 1e-9 * np.abs(matrix.diagonal()) + 1e-300
        stiff = np.abs(matrix.diagonal())
        if len(inside) <= _EXACT:
            with contextlib.suppress(np.linalg.LinAlgError):
                stiff = 1.0 / np.diagonal(np.linalg.inv(matrix))
        stiff = np.maximum(stiff, 0.0)
        t, slope = np.abs(relaxed.primal[inside]), np.abs(relaxed.linear[inside])
        gain = relaxed.gains[inside]
        down[inside] = np.where(free, 0.5 * stiff * t * t + np.maximum(gain, 0.0), 0.0)
        # Kept, the entry pays its price and parabola instead of the line from 0 that touches them at ``point``, and
        # moves against the stiffness of the others.
        point = t / np.maximum(share, 1e-300)
        moved = (slope + stiff * t) / np.maximum(stiff + 2 * l2, 1e-300)
        positive = relaxed.primal[inside] > 0
        moved = np.minimum(moved, np.where(positive, node.upper[inside], -node.lower[inside]))
        paid = point * (slope - l2 * point) + l2 * moved**2 - slope * moved + 0.5 * stiff * (moved - t) ** 2
        up[inside] = np.where(free, np.maximum(paid, 0.0), 0.0)
        return down, up

    def renewed(self) -> RegressionBound:
        """See :class:`NodeBound`; X'X stays where it was formed as a whole, at once."""
        out = copy(self)  # the data alone, see __getstate__
        out.last_price = 0.0
        if not self.wide:  # formed now if it was not yet: smaller copies take their rows from it
            vars(out)["gram"] = self.gram
        if "rows_of" in vars(self):
            vars(out)["rows_of"] = self.rows_of
        return out

    def narrowed(self, fixed: Array) -> RegressionBound:
        """See :class:`NodeBound`."""
        left = np.flatnonzero(fixed >= 0)
        out = replace(self.subset(left), whole=self.whole)
        out.last_price, out._seen = self.last_price, self._seen
        vars(out)["prober"] = self.prober
        if out.wide or not self.wide:
            vars(out)["gram"] = self.gram.narrowed(left, out.loss.design)
        if out.wide and "live" in vars(self):
            vars(out)["live"] = self.live.narrowed(out, left)
        return out

    def subset(self, places: Array) -> RegressionBound:
        """Return the strategy on some of the columns, the others being zero."""
        loss = self.loss_of(places)
        sides = self.price[places], self.lower[places], self.upper[places]
        return RegressionBound(
            loss, self.columns[places], *sides, min(self.most, len(places)), whole=False, device=self.device
        )

    def products(self, inside: Array) -> Array:
        """Return X'X for some columns, a fresh array."""
        if self.wide:
            place = self.live.where[inside]
            if (place >= 0).all():
                return self.live.inner.products(place)
        if self.wide or len(inside) > self.gram.room:
            return self.between(inside, inside)
        self.gram.ensure(inside)
        return self.gram.rows[self.gram.slot[inside]][:, inside]
