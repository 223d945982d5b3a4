"""Certificates of trees over single entries: sparse tangents, several fixings at a node, replayed in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import CertificateError, Unsupported
from .adapters import Sparse
from .appraised import appraised_claims, rational_claims_of
from .arrays import exact
from .certificate import Certificate
from .loss import Cells, Loss, Models
from .problem import Problem
from .rational import exact_decrease, rational
from .replay import LIMIT, LOWER, OFF, ON, UPPER, Step, Totals, gain_bounds, rational_claims
from .sparse_walk import Array, Batch, check_arrays, dense_rows, spans, walk

__all__ = ["SparseTree"]

_CHUNK = 1 << 22  # numbers in one array of a batch of nodes
_NARROW = 0.7  # share of columns in use below which a narrower copy of the loss pays
_AGREEMENT = 1e-9  # of the scale of the loss: another machine adds up in another order


class _Setting(NamedTuple):
    """What stays the same for all nodes of a tree."""

    loss: Loss
    structure: Sparse
    most: int
    price: Tensor


@dataclass(frozen=True, eq=False)
class SparseTree(Certificate):
    r"""A tree whose every step splits what is left in two: a part with a bound that a tangent proves, and the rest.

    For losses under :class:`~mipprune.Sparse` with :class:`~mipprune.AnySupport` or :class:`~mipprune.Cardinality`.
    A node uses one tangent. Its *steps* fix entries, narrow the intervals of kept entries or tighten limits of the
    loss; each discards a part of the node's cell for which the same tangent proves a bound. Then the node branches on
    an entry, or it is a leaf, where its tangent bounds all that is left. The parts cover the whole set by construction,
    and no incumbent is needed: the bound of the tree is the smallest number that any node proves.

    Parameters
    ----------
    index, children : int64 Tensor, shape (nodes,) and (nodes, 2)
        Entry on which a node branches (-1 for none), and the nodes where it is fixed off and on. A node that does not
        branch either is a leaf (children -1, -1) or goes on at its first child, with another tangent. Node 0 is the
        root.
    tangent : int64 Tensor, shape (nodes,)
        The tangent of each node; -1 where a node only branches.
    point_start, point_entry, point_value : Tensor, shape (tangents + 1,) and twice (non-zeros,)
        The points of tangency, sparse: tangent t has the entries ``point_start[t]`` to ``point_start[t + 1]``.
    split_of : int64 Tensor, shape (tangents,)
        The split that a tangent uses; -1 for the loss's own curvature.
    split_node : int64 Tensor, shape (splits,)
        The node at which a split is proven; it may be used there and below, where fewer entries are left.
    split_start, split_entry, split_value : Tensor
        The splits, sparse like the points.
    step_start, step_entry, step_kind, step_value : Tensor
        The steps of each node: entry, kind (0 off, 1 on, 2 and 3 new lower and upper side of the interval of a kept
        entry, 4 new limit) and, for the last three, the number.
    claim : float64 Tensor, shape (nodes,)
        What each node proves by itself: recomputed, and compared.

    Notes
    -----
    All discarded parts of a node are bounded in the state in which the node is entered, so the order of its steps does
    not matter. The replay works on batches of nodes with one product of matrices each, on the columns that are not off
    in all of them.

    References
    ----------
    arXiv 2004.06152 (node relaxation and dual bound); discarding several children at once: Guyard et al., ICML 2024;
    intervals: arXiv 2302.14471. That each step carries its own bound, so that no incumbent is needed, is derived here.
    """

    index: Tensor
    children: Tensor
    tangent: Tensor
    point_start: Tensor
    point_entry: Tensor
    point_value: Tensor
    split_of: Tensor
    split_node: Tensor
    split_start: Tensor
    split_entry: Tensor
    split_value: Tensor
    step_start: Tensor
    step_entry: Tensor
    step_kind: Tensor
    step_value: Tensor
    claim: Tensor

    def __len__(self) -> int:
        """Return the number of nodes."""
        return int(self.index.numel())

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return int(self._is_leaf.sum())

    @property
    def _is_leaf(self) -> Tensor:
        return (self.index < 0) & (self.children[:, 0] < 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(part.numel() * part.element_size() for part in vars(self).values() if isinstance(part, Tensor))

    def sealed(self, problem: Problem) -> tuple[SparseTree, float]:
        """Return the tree with the claims that its nodes prove for a problem, and its bound."""
        claim = torch.full((len(self),), math.inf, dtype=torch.float64)
        for nodes, values in self._claims(problem):
            claim[torch.from_numpy(nodes)] = values
        return replace(self, claim=claim), float(claim.min())

    def bound(self, problem: Problem) -> float:
        """See :meth:`Certificate.bound`.

        Raises
        ------
        CertificateError
            If the tree is malformed, or a node proves another bound than it claims.
        """
        smallest = math.inf
        tolerance = _AGREEMENT * problem.reference.loss.scale
        for nodes, values in self._claims(problem):
            claims = self.claim[torch.from_numpy(nodes)]
            agrees = (values == claims) | ((values - claims).abs() <= tolerance + _AGREEMENT * claims.abs())
            if not bool(agrees.all()):
                row = int((~agrees).nonzero()[0])
                raise CertificateError(
                    f"tree: node {int(nodes[row])} claims {float(claims[row])!r}, its tangent proves "
                    f"{float(values[row])!r}"
                )
            smallest = min(smallest, float(values.min()))
        return smallest

    def rational_bound(self, problem: Problem) -> Fraction:
        """See :meth:`Certificate.rational_bound`; each node by itself, so for small trees."""
        setting = self._setting(problem)
        bounds: list[Fraction] = []
        self._check_splits()
        for batch in walk(self, problem, 1):
            self._prove_splits(setting.loss, batch)
            if self._is_idle(batch)[0]:
                continue
            bounds += self._rational_parts(problem, setting, batch)
        if not bounds:
            raise CertificateError("tree: every part is empty, so the problem has no admissible point")
        return min(bounds)

    # ------------------------------------------------------------------------------------------ common to both

    def _setting(self, problem: Problem) -> _Setting:
        structure = problem.structure
        count = structure.supports.largest_count(problem.size) if isinstance(structure, Sparse) else None
        if not isinstance(structure, Sparse) or count is None:
            raise Unsupported("this tree is for Sparse(AnySupport(), ...) and Sparse(Cardinality(k), ...)")
        check_arrays(self, problem.size)
        price = exact(torch.as_tensor(structure.price_per_entry, dtype=torch.float64)).expand(problem.shape).reshape(-1)
        return _Setting(problem.reference.loss, structure, count, price)

    def _is_idle(self, batch: Batch) -> Array:
        """Whether nodes only branch; a leaf, or a node with steps, needs a tangent."""
        steps = np.diff(self.step_start.numpy())[batch.nodes]
        without = self.tangent.numpy()[batch.nodes] < 0
        wrong = without & ((steps > 0) | self._is_leaf.numpy()[batch.nodes])
        if wrong.any():
            raise CertificateError(f"tree: node {batch.nodes[wrong.argmax()]} has no tangent for what it discards")
        return without

    def _points(self, tangents: Tensor, size: int) -> Tensor:
        return dense_rows(self.point_start, self.point_entry, self.point_value, tangents, size)

    def _splits(self, numbers: Tensor, size: int) -> Tensor:
        return dense_rows(self.split_start, self.split_entry, self.split_value, numbers, size)

    def _prove_splits(self, loss: Loss, batch: Batch) -> None:
        """Prove the splits that the nodes of a batch introduce."""
        for number in np.flatnonzero(np.isin(self.split_node.numpy(), batch.nodes)):
            row = int((batch.nodes == int(self.split_node[number])).argmax())
            split = self._splits(torch.tensor([number]), loss.split_size)[0]
            valid = bool((split >= 0).all()) and bool(torch.isfinite(split).all())
            allowed = torch.from_numpy(batch.fixed[row] >= 0)
            if not valid or not loss.proves_split(split, allowed):
                raise CertificateError(f"split: that of node {int(batch.nodes[row])} is not valid there")
            users = (self.split_of == int(number)).nonzero().ravel()
            if not bool(allowed[self.point_entry[_places(self.point_start, users)]].all()):
                raise CertificateError("split: a point of tangency has entries that are off where its split is proven")

    def _check_splits(self) -> None:
        """Raise unless every split is used at or below the node that proves it."""
        if not len(self.split_node):
            return
        first, last = (torch.from_numpy(part) for part in spans(self))
        nodes = (self.tangent >= 0).nonzero().ravel()
        used = self.split_of[self.tangent[nodes]]
        nodes, owner = nodes[used >= 0], self.split_node[used[used >= 0]]
        if not bool(((first[owner] <= first[nodes]) & (first[nodes] < last[owner])).all()):
            raise CertificateError("split: one is used at a node that is not below the node that proves it")

    # ---------------------------------------------------------------------------------------- claims in float64

    def _claims(self, problem: Problem) -> Iterator[tuple[Array, Tensor]]:
        """Yield nodes with what they prove, recomputed."""
        setting = self._setting(problem)
        self._check_splits()
        for batch in walk(self, problem, max(1, min(512, _CHUNK // max(problem.size, 1)))):
            self._prove_splits(setting.loss, batch)
            values = torch.full((len(batch.nodes),), math.inf, dtype=torch.float64)
            busy = np.flatnonzero(~self._is_idle(batch))
            split = self.split_of.numpy()[self.tangent.numpy()[batch.nodes[busy]]]
            for rows in (busy[split < 0], busy[split >= 0]):
                if len(rows):
                    values[torch.from_numpy(rows)] = self._group_claims(setting, batch.take(rows))
            yield batch.nodes, values

    def _group_claims(self, setting: _Setting, batch: Batch) -> Tensor:
        """Return what some nodes prove, either all with a split or all without."""
        loss, size = setting.loss, batch.fixed.shape[1]
        tangents = self.tangent[torch.from_numpy(batch.nodes)]
        points, numbers = self._points(tangents, size), self.split_of[tangents]
        splits = self._splits(numbers, loss.split_size) if int(numbers[0]) >= 0 else None
        columns = np.flatnonzero((batch.fixed >= 0).any(axis=0) | (points != 0).any(dim=0).numpy())
        if len(columns) <= _NARROW * size and loss.split_size == size:
            narrow = loss.narrow(torch.from_numpy(columns))
        else:
            narrow = None
        fixed, price, low, high = torch.from_numpy(batch.fixed), setting.price, batch.lower, batch.upper
        if narrow is None:
            columns = np.arange(size)
        else:
            loss, points, fixed, price = narrow, points[:, columns], fixed[:, columns], price[torch.from_numpy(columns)]
            splits, low, high = None if splits is None else splits[:, columns], low[:, columns], high[:, columns]
        on, off = fixed > 0, fixed < 0
        lower, upper = (torch.from_numpy(side).expand(fixed.shape) for side in (low, high))
        limits = None if batch.limits is None else torch.from_numpy(batch.limits)
        cells = Cells(on, off, splits, limits)
        steps = self._steps(batch.nodes, columns)
        table = loss.appraise(points, cells, price, lower, upper, parts=len(steps.row) > 0)
        if table is not None:
            leaf = self._is_leaf[torch.from_numpy(batch.nodes)]
            return appraised_claims(loss, points, cells, price, (lower, upper), table, steps, leaf)
        models = loss.tangents(points, cells)
        gains = gain_bounds(setting.structure, models, lower, upper, price)
        totals = Totals.of(gains, on, off, setting.most, models.constant)
        least = torch.full((len(fixed),), math.inf, dtype=torch.float64)
        if len(steps.row):
            inside = steps.kind != LIMIT
            some = Step(*(part[inside] for part in steps))
            row, entry = some.row, some.entry
            sides = _discarded(some, lower[row, entry], upper[row, entry])
            restricted = gain_bounds(setting.structure, _entries(models, row, entry), *sides, price[entry])
            proven = totals.without(some, restricted.squeeze(0), on[row, entry])
            least.scatter_reduce_(0, row, proven, "amin")
            limited = Step(*(part[~inside] for part in steps))
            if len(limited.row):
                assert limits is not None
                new = limits.clone()
                new[limited.row, limited.entry] = limited.value
                risen = totals.bound()[limited.row] + loss.limit_gain(models, new)[limited.row, limited.entry]
                least.scatter_reduce_(0, limited.row, risen - 4e-16 * risen.abs(), "amin")
        leaf = self._is_leaf[torch.from_numpy(batch.nodes)]
        rows = leaf.nonzero().ravel()
        if len(rows):
            state = _after(steps, on, off, lower, upper)
            some_models = Models(
                models.constant[rows],
                models.linear[rows],
                models.curvature.expand(gains.shape)[rows],
                models.error.expand(gains.shape)[rows],
            )
            gains = gain_bounds(setting.structure, some_models, state[2][rows], state[3][rows], price)
            own = Totals.of(gains, state[0][rows], state[1][rows], setting.most, some_models.constant).bound()
            least[rows] = torch.minimum(least[rows], own)
        return least

    def _steps(self, nodes: Array, columns: Array) -> Step:
        """Return the steps of some nodes, with their entries in the numbering of the columns."""
        starts = self.step_start.numpy()
        counts = starts[nodes + 1] - starts[nodes]
        row = np.repeat(np.arange(len(nodes)), counts)
        place = np.repeat(starts[nodes] - np.cumsum(counts) + counts, counts) + np.arange(len(row))
        kind, entry = self.step_kind.numpy()[place], self.step_entry.numpy()[place]
        entry = np.where(kind == LIMIT, entry, np.searchsorted(columns, entry))
        return Step(*(torch.from_numpy(part) for part in (row, entry, kind, self.step_value.numpy()[place])))

    # ----------------------------------------------------------------------------------- claims in exact numbers

    def _rational_parts(self, problem: Problem, setting: _Setting, batch: Batch) -> list[Fraction]:
        node, loss = int(batch.nodes[0]), setting.loss
        point = self._points(self.tangent[node : node + 1], problem.size)[0].reshape(problem.shape)
        number = int(self.split_of[self.tangent[node]])
        split = None if number < 0 else self._splits(torch.tensor([number]), loss.split_size)[0]
        fixed, lower, upper = batch.fixed[0], batch.lower[0].copy(), batch.upper[0].copy()
        place = slice(int(self.step_start[node]), int(self.step_start[node + 1]))
        state = torch.from_numpy(fixed).unsqueeze(0)
        exactly = rational_claims_of(
            loss,
            point.reshape(-1),
            Cells(state > 0, state < 0, None if split is None else split.unsqueeze(0)),
            setting.price,
            (torch.from_numpy(lower).unsqueeze(0), torch.from_numpy(upper).unsqueeze(0)),
            list(zip(self.step_entry[place].tolist(), self.step_kind[place].tolist(), strict=True)),
            bool(self._is_leaf[node]),
        )
        if exactly is not None:
            return exactly
        allowed = torch.from_numpy(fixed >= 0).reshape(problem.shape)
        used = loss.own_split() if split is None else split.reshape(problem.shape)
        model = loss.rational_minorant(point, used, allowed)
        linear, curvature = model.linear.reshape(-1), np.broadcast_to(model.curvature, problem.shape).reshape(-1)
        prices = rational(setting.price)

        def gain(j: int, low: float, high: float) -> Fraction | None:
            decrease = exact_decrease(linear[j], curvature[j], float(low), float(high))
            return None if decrease is None else decrease - prices[j]

        on, off = set(np.flatnonzero(fixed > 0).tolist()), set(np.flatnonzero(fixed < 0).tolist())
        gains = [gain(j, lower[j], upper[j]) if j not in off else Fraction(0) for j in range(problem.size)]
        listed = (part[place].tolist() for part in (self.step_entry, self.step_kind, self.step_value))
        steps: list[tuple[int, int, Fraction | None]] = []
        after = (set(on), set(off))
        for j, kind, value in zip(*listed, strict=True):
            if kind == LIMIT:
                raise Unsupported("limits of a loss have no rational evaluation; use check(..., exact=False)")
            discarded = None
            if kind == LOWER:
                discarded, lower[j] = gain(j, lower[j], min(value, upper[j])), value
            elif kind == UPPER:
                discarded, upper[j] = gain(j, max(value, lower[j]), upper[j]), value
            else:
                after[kind == OFF].add(j)
            steps.append((j, kind, discarded))
        try:
            _, parts = rational_claims(model, gains, on, off, setting.most, steps)
            if bool(self._is_leaf[node]):
                last = [gain(j, lower[j], upper[j]) if j not in off else Fraction(0) for j in range(problem.size)]
                parts.append(rational_claims(model, last, *after, setting.most, [])[0])
        except OverflowError as error:
            raise CertificateError(f"tree: node {node} proves nothing finite") from error
        return [part for part in parts if part is not None]


def _places(start: Tensor, rows: Tensor) -> Tensor:
    """Where the entries of some sparse rows stand."""
    counts = start[rows + 1] - start[rows]
    within = torch.arange(int(counts.sum())) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return torch.repeat_interleave(start[rows], counts) + within


def _discarded(steps: Step, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Intervals that the steps discard; the whole interval for fixings, which do not use it. Shape (1, steps)."""
    low = torch.where(steps.kind == UPPER, torch.maximum(steps.value, lower), lower)
    high = torch.where(steps.kind == LOWER, torch.minimum(steps.value, upper), upper)
    return low.unsqueeze(0), high.unsqueeze(0)


def _entries(models: Models, row: Tensor, entry: Tensor) -> Models:
    """One long row with the coefficients of chosen entries."""
    shape = models.linear.shape
    parts = (models.linear, models.curvature.expand(shape), models.error.expand(shape))
    return Models(models.constant[:0], *(part[row, entry].unsqueeze(0) for part in parts))


def _after(steps: Step, on: Tensor, off: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The state after the steps."""
    if not len(steps.row):
        return on, off, lower, upper
    state = (off.clone(), on.clone(), lower.clone(), upper.clone())
    for kind, part in zip((OFF, ON, LOWER, UPPER), state, strict=True):
        some = steps.kind == kind
        part[steps.row[some], steps.entry[some]] = True if kind in (OFF, ON) else steps.value[some]
    return state[1], state[0], state[2], state[3]
