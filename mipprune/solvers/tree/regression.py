"""Node bounds of least squares under a price, a cardinality limit, or both."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...kernels.gram_rows import GramRows
from ...losses.least_squares import LeastSquares
from .strategy import Array, Node, Point, Relaxed

__all__ = ["RegressionBound"]

_FULL = 1536  # columns up to which X'X is formed at once
_SPLIT = 0.75  # columns left, relative to the rows, from which on curvature of X'X is worth splitting off
_WIDEST = 900
_EXACT = 160  # support up to which second-order estimates use the whole inverse
_FEWER = 0.75  # share of columns left since the last split that makes another one worth while
_MEMORY = 1 << 28  # numbers of X'X held otherwise (2 GiB)


@dataclass(eq=False)
class RegressionBound:
    """Perspective relaxations by coordinate descent; the ridge, and curvature of X'X where few columns are left.

    Parameters
    ----------
    loss : LeastSquares
        In float64 on the CPU, on the columns that are left.
    columns : int64 array, shape (size,)
        Their numbers in the problem.
    price, lower, upper : float64 array, shape (size,)
    most : int
        Largest number of kept entries.
    """

    loss: LeastSquares
    columns: Array
    price: Array
    lower: Array
    upper: Array
    most: int
    forced: Array | None = None

    @classmethod
    def of(cls, problem: Problem) -> RegressionBound:
        """Return the strategy for a problem of the right kind."""
        structure, loss = problem.structure, problem.reference.loss
        assert isinstance(structure, Sparse) and isinstance(loss, LeastSquares)
        size = problem.size
        most = structure.supports.largest_count(size)
        assert most is not None

        def spread(value: Any) -> Array:
            return np.array(torch.as_tensor(value, dtype=torch.float64).cpu().expand(size).numpy())

        lower, upper = structure.box or (-math.inf, math.inf)
        return cls(
            loss, np.arange(size), spread(structure.price_per_entry), spread(lower), spread(upper), min(most, size)
        )

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

    @cached_property
    def _seen(self) -> set[tuple[bytes, bool]]:
        """Supports from which local search has started already."""
        return set()

    @cached_property
    def gram(self) -> GramRows:
        """Rows of X'X."""
        size = len(self.columns)
        return GramRows(self.loss.design, room=max(64, _MEMORY // max(size, 1)), full=size <= _FULL)

    @cached_property
    def ridge(self) -> Array:
        """Curvature of the ridge."""
        return np.array(torch.as_tensor(self.loss.ridge, dtype=torch.float64).cpu().numpy())

    @cached_property
    def pull(self) -> Array:
        """X'y."""
        return np.array((self.loss.design.mT @ self.loss.response).numpy())

    @cached_property
    def constant(self) -> float:
        """``1/2 ||y||^2``."""
        return 0.5 * float(self.loss.response.square().sum())

    @cached_property
    def local(self) -> Array:
        """Where a column of the problem stands here, -1 for one that is gone."""
        return np.searchsorted(self.columns, np.arange(int(self.columns.max(initial=-1)) + 1))

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to another process: the data, not what is derived from them."""
        return {key: value for key, value in vars(self).items() if key in self.__dataclass_fields__}

    def root(self) -> Node:
        """See :class:`NodeBound`."""
        size = len(self.columns)
        empty = (np.zeros(0, dtype=np.int64), np.zeros(0))
        return Node(0, np.zeros(size, dtype=np.int8), self.lower.copy(), self.upper.copy(), None, empty, -math.inf, 0)

    def dense(self, point: Point) -> Array:
        """Return a sparse point of the problem as a dense one here; what lies outside is dropped."""
        out = np.zeros(len(self.columns))
        entries, values = point
        place = np.searchsorted(self.columns, entries)
        inside = place < len(self.columns)
        inside[inside] = self.columns[place[inside]] == entries[inside]
        out[place[inside]] = values[inside]
        return out

    def sparse(self, dense: Array) -> Point:
        """Return a dense point as a sparse one of the problem."""
        entries = np.flatnonzero(dense)
        return self.columns[entries], dense[entries].copy()

    def evaluate(self, node: Node, cutoff: float, accuracy: float, stop: Callable[[], bool]) -> list[Relaxed]:
        """See :class:`NodeBound`."""
        from ...kernels.node_descent import relax, tangent_bound

        gram, size = self.gram, len(self.columns)
        fixed = node.fixed
        left = self.most - int((fixed > 0).sum())
        if left <= 0:
            fixed = np.where(fixed > 0, fixed, -1).astype(np.int8)
        shift = np.zeros(size)
        if node.split is not None:
            shift = np.where(node.fixed >= 0, self.dense(node.split) - self.ridge, 0.0)
        l2 = 0.5 * (self.ridge + shift)
        t = self.dense(node.start)
        t[fixed < 0] = 0.0
        support = np.flatnonzero((t != 0) & (fixed == 0))
        spare = max(gram.room - int((fixed > 0).sum()), 0)
        if len(support) > spare:  # no room for the rows of all of them: start from the largest
            t[support[np.argsort(-np.abs(t[support]))[spare:]]] = 0.0
        gram.ensure(np.flatnonzero((t != 0) | (fixed > 0)))
        c, gains, best = np.empty(size), np.empty(size), np.empty(size)
        price = self._last_price
        while True:
            missing, bound, value, price, last, following = relax(
                gram.rows, gram.slot, self.pull, shift, self.constant, fixed, self.price, l2, node.lower, node.upper,
                left, price, t, c, gains, best, cutoff, accuracy, 60,
            )  # fmt: skip
            if missing < 0:
                break
            wanted = np.union1d(np.flatnonzero(np.isinf(gains)), [missing]) if bound > -math.inf else [missing]
            needed = np.union1d(wanted, np.flatnonzero((t != 0) | (fixed > 0)))
            if stop() or len(needed) > gram.room:  # any point proves something: take the one at hand
                residual = self.loss.response - self.loss.design @ torch.from_numpy(t)
                c = (self.loss.design.mT @ residual).numpy() + shift * t
                bound, last, following = tangent_bound(
                    self.constant, self.pull, c, t, fixed, self.price, l2, node.lower, node.upper, left, gains, best,
                    np.empty(max(left, 0) + 2),
                )  # fmt: skip
                value = bound
                break
            gram.ensure(needed)
        self._last_price = price if left < size else 0.0
        shares = self._shares(t, fixed, self.price + price, l2, node)
        split = node.split
        return [Relaxed(self.sparse(t), bound, gains, last, following, -c, 2.0 * l2, t, shares, value, split)]

    _last_price: float = 0.0

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
        if len(alive) > self.gram.room:
            return None
        self.gram.ensure(alive)
        matrix = self.gram.rows[self.gram.slot[alive]][:, alive]
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
        size = len(self.columns)
        down, up = np.zeros(size), np.zeros(size)
        inside = np.flatnonzero((relaxed.primal != 0) & (node.fixed >= 0))
        free = node.fixed[inside] == 0
        if not free.any():
            return down, up
        l2 = 0.5 * relaxed.curvature[inside]
        shift = relaxed.curvature[inside] - self.ridge[inside]
        known = len(inside) <= self.gram.room
        if known:
            self.gram.ensure(inside)
        matrix = self.gram.rows[self.gram.slot[inside]][:, inside] if known else np.diag(self.gram.diagonal[inside])
        share = relaxed.shares[inside]
        bent = np.where(share >= 1.0, 2.0 * l2, 0.0)
        matrix[np.diag_indices(len(inside))] += bent - shift
        matrix[np.diag_indices(len(inside))] += 1e-9 * np.abs(matrix.diagonal()) + 1e-300
        stiff = np.abs(matrix.diagonal())
        if len(inside) <= _EXACT:
            with contextlib.suppress(np.linalg.LinAlgError):
                stiff = 1.0 / np.diagonal(np.linalg.inv(matrix))
        stiff = np.maximum(stiff, 0.0)
        t = relaxed.primal[inside]
        l0 = l2 * (t / np.maximum(share, 1e-300)) ** 2
        gain = relaxed.gains[inside]
        down[inside] = np.where(free, 0.5 * stiff * t * t + np.maximum(gain, 0.0), 0.0)
        up[inside] = np.where(free, l0 * (1 - share) ** 2 * stiff / np.maximum(stiff + 2 * l2, 1e-300), 0.0)
        return down, up

    def incumbents(self, node: Node, relaxed: Relaxed, effort: int) -> list[tuple[float, Point]]:
        """See :class:`NodeBound`."""
        size = len(self.columns)
        starts: list[tuple[Array, int]] = []
        order = np.argsort(-relaxed.shares, kind="stable")
        kept = order[: min(self.most, int((relaxed.shares[order] > 0).sum()))]
        half = kept[relaxed.shares[kept] > 0.5]
        if effort == 2:
            starts.append((kept[: self.most], size))
            starts.append((np.zeros(0, dtype=np.int64), size))
        starts.append((half, size if effort else 0))
        starts.append((np.flatnonzero(node.fixed > 0)[: self.most], 0))
        found = []
        for support, swaps in starts:
            key = (self.columns[support].tobytes(), swaps > 0)
            if key in self._seen:
                continue
            self._seen.add(key)
            t = np.zeros(size)
            t[support] = relaxed.primal[support]
            t[support[t[support] == 0]] = 1e-12
            found.append(self.improved(t, swaps))
        return found

    def improved_from(self, point: Point) -> list[tuple[float, Point]]:
        """See :class:`NodeBound`."""
        return [self.improved(self.dense(point), len(self.columns))]

    def improved(self, t: Array, swaps: int) -> tuple[float, Point]:
        """Return a local optimum from a start, with its value."""
        from ...kernels.support_search import improve

        gram, size = self.gram, len(self.columns)
        support = np.flatnonzero(t)
        t[support[np.argsort(-np.abs(t[support]))[gram.room :]]] = 0.0
        gram.ensure(np.flatnonzero(t))
        c, allowed = np.empty(size), np.ones(size, dtype=np.bool_)
        while True:
            missing, _ = improve(
                gram.rows, gram.slot, self.pull, gram.diagonal, self.constant, self.price, 0.5 * self.ridge,
                self.lower, self.upper, allowed, self.most, t, c, swaps,
            )  # fmt: skip
            if missing < 0:
                break
            needed = np.union1d([missing], np.flatnonzero(t))
            if len(needed) > gram.room:
                break
            gram.ensure(needed)
        point = self.sparse(t)
        return self.value(point), point

    def value(self, point: Point) -> float:
        """Return the objective at a sparse point."""
        dense = self.dense(point)
        inside = np.flatnonzero(dense)
        residual = self.loss.response - self.loss.design[:, torch.from_numpy(inside)] @ torch.from_numpy(dense[inside])
        smooth = 0.5 * float(residual.square().sum()) + 0.5 * float(self.ridge[inside] @ dense[inside] ** 2)
        return smooth + float(self.price[inside].sum())

    def renewed(self) -> RegressionBound:
        """See :class:`NodeBound`; X'X stays where it was formed as a whole, at once."""
        out = copy(self)  # the data alone, see __getstate__
        out._last_price = 0.0
        if "gram" in vars(self) and self.gram.full:
            vars(out)["gram"] = self.gram
        return out

    def narrowed(self, fixed: Array) -> RegressionBound:
        """See :class:`NodeBound`."""
        left = np.flatnonzero(fixed >= 0)
        loss = self.loss.narrow(torch.from_numpy(left))
        out = RegressionBound(
            loss, self.columns[left], self.price[left], self.lower[left], self.upper[left], min(self.most, len(left))
        )
        out._last_price, out._seen = self._last_price, self._seen
        if len(self.columns) > _FULL or "gram" in vars(self):
            vars(out)["gram"] = self.gram.narrowed(left)
        return out
