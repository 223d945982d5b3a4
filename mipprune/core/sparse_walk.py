"""Walking a tree over single entries: its shape is validated, and every node gets the state in which it is entered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import CertificateError
from .adapters import Sparse
from .arrays import exact
from .problem import Problem
from .replay import LIMIT, LOWER, OFF, ON, UPPER

if TYPE_CHECKING:
    from .sparse_tree import SparseTree

__all__ = ["Batch", "State", "check_arrays", "dense_rows", "spans", "walk"]

Array = np.ndarray[Any, Any]


class Batch(NamedTuple):
    """Nodes in the order of a walk, each with the state in which its tangent is used."""

    nodes: Array
    """int64 (B,)"""
    fixed: Array
    """int8 (B, size): -1 off, 0 free, 1 on"""
    lower: Array
    """(B, size), or (1, size) when no step of the tree changes an interval"""
    upper: Array
    limits: Array | None
    """(B, m)"""

    def take(self, rows: Array) -> Batch:
        """Return some of the nodes."""
        lower, upper = (side if len(side) == 1 else side[rows] for side in (self.lower, self.upper))
        return Batch(
            self.nodes[rows], self.fixed[rows], lower, upper, None if self.limits is None else self.limits[rows]
        )


def _is_pointer(starts: Tensor, total: int) -> bool:
    return (
        starts.numel() > 0
        and int(starts[0]) == 0
        and int(starts[-1]) == total
        and bool((starts[1:] >= starts[:-1]).all())
    )


def _within(numbers: Tensor, first: int, end: int) -> bool:
    return numbers.numel() == 0 or (int(numbers.min()) >= first and int(numbers.max()) < end)


def check_arrays(tree: SparseTree, size: int) -> None:
    """Raise :class:`CertificateError` unless the arrays of a tree fit each other."""
    nodes, steps, points = len(tree), tree.step_entry.numel(), tree.point_entry.numel()
    tangents, splits = tree.point_start.numel() - 1, tree.split_start.numel() - 1
    numbers = dict.fromkeys(("point_value", "split_value", "step_value", "claim"), torch.float64)
    kinds = {**numbers, "step_kind": torch.int8}  # narrower integers would overflow where one is added to them
    for name, part in vars(tree).items():
        if part.ndim != (2 if name == "children" else 1) or part.dtype != kinds.get(name, torch.int64):
            raise CertificateError(f"tree: {name} has shape {tuple(part.shape)} and type {part.dtype}")
    for wrong, message in (
        (tree.index.shape != (nodes,), "indices do not fit the nodes"),
        (nodes == 0 or tree.children.shape != (nodes, 2), "children do not fit the nodes"),
        (tree.tangent.shape != (nodes,) or not _within(tree.tangent, -1, tangents), "a node's tangent does not exist"),
        (tree.claim.shape != (nodes,), "claims do not fit the nodes"),
        (tree.step_start.numel() != nodes + 1 or not _is_pointer(tree.step_start, steps), "steps do not fit the nodes"),
        (tree.step_kind.numel() != steps or tree.step_value.numel() != steps, "steps have parts missing"),
        (not _within(tree.step_kind, OFF, LIMIT + 1), "a step is of an unknown kind"),
        (not _is_pointer(tree.point_start, points), "the starts of the points are not ascending"),
        (tree.point_value.numel() != points, "points have parts missing"),
        (not _within(tree.point_entry, 0, size), "a point has entries out of range"),
        (not bool(torch.isfinite(tree.point_value).all()), "a point is not finite"),
        (tree.split_of.shape != (tangents,) or not _within(tree.split_of, -1, splits), "a split does not exist"),
        (not _is_pointer(tree.split_start, tree.split_entry.numel()), "the starts of the splits are not ascending"),
        (tree.split_node.numel() != splits or not _within(tree.split_node, 0, nodes), "a split has no node"),
        (tree.split_value.numel() != tree.split_entry.numel(), "splits have parts missing"),
    ):
        if wrong:
            raise CertificateError(f"tree: {message}")
    for start, entry in ((tree.point_start, tree.point_entry), (tree.split_start, tree.split_entry)):
        if _repeats(start, entry):  # what is proven and what is used could then be different numbers
            raise CertificateError("tree: a row of points or splits names an entry twice")


def _repeats(start: Tensor, entry: Tensor) -> bool:
    """Whether a sparse row names an entry twice."""
    rising = entry[1:] > entry[:-1]
    rising[start[1:-1][(start[1:-1] > 0) & (start[1:-1] < entry.numel())] - 1] = True  # where a new row begins
    if bool(rising.all()):
        return False
    row = torch.repeat_interleave(torch.arange(start.numel() - 1), start[1:] - start[:-1])
    pairs = torch.stack([row, entry.to(row)])
    return int(torch.unique(pairs, dim=1).shape[1]) < entry.numel()


def dense_rows(start: Tensor, entry: Tensor, value: Tensor, numbers: Tensor, size: int) -> Tensor:
    """Return some sparse rows of a table as dense float64 rows of a given length."""
    out = torch.zeros((len(numbers), size), dtype=torch.float64)
    counts = start[numbers + 1] - start[numbers]
    row = torch.repeat_interleave(torch.arange(len(numbers)), counts)
    within = torch.arange(len(row)) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    place = torch.repeat_interleave(start[numbers], counts) + within
    if not _within(entry[place], 0, size):
        raise CertificateError("tree: a row has entries out of range")
    out[row, entry[place]] = value[place]
    return out


class State:
    """What is fixed, and the intervals and limits, along a path; every change can be undone."""

    def __init__(self, problem: Problem, *, intervals: bool = True) -> None:
        structure = problem.structure
        assert isinstance(structure, Sparse)
        self.fixed = np.zeros(problem.size, dtype=np.int8)
        if problem.on is not None and problem.off is not None:
            self.fixed[problem.on.reshape(-1).numpy()] = 1
            self.fixed[problem.off.reshape(-1).numpy()] = -1
        sides = structure.box or (-np.inf, np.inf)
        lower, upper = (
            exact(torch.as_tensor(side, dtype=torch.float64)).expand(problem.shape).reshape(-1).numpy()
            for side in sides
        )
        self.lower, self.upper, self.intervals = lower, upper, intervals
        if intervals:  # they will be changed; else one number may stand for all
            self.lower, self.upper = lower.copy(), upper.copy()
        limits = problem.reference.loss.limits()
        self.limits = None if limits is None else exact(limits).numpy().copy()
        self._trail: list[tuple[Array, Array, Array | float]] = []

    @property
    def mark(self) -> int:
        """Where the record of changes stands; :meth:`undo` goes back to it."""
        return len(self._trail)

    def undo(self, mark: int) -> None:
        """Undo the changes made since a mark."""
        while len(self._trail) > mark:
            part, where, old = self._trail.pop()
            part[where] = old

    def _change(self, part: Array, where: Array, new: Any) -> None:
        self._trail.append((part, where, part[where].copy()))
        part[where] = new

    def fix(self, entries: Array, kind: int, node: int) -> None:
        """Fix entries on or off."""
        if not entries.size:
            return
        if entries.min() < 0 or entries.max() >= len(self.fixed) or len(np.unique(entries)) < len(entries):
            raise CertificateError(f"tree: node {node} fixes an entry that is out of range, or twice")
        if self.fixed[entries].any():
            raise CertificateError(f"tree: node {node} fixes an entry that is already fixed")
        self._change(self.fixed, entries, 1 if kind == ON else -1)

    def apply(self, entries: Array, kinds: Array, values: Array, node: int) -> None:
        """Apply the steps of a node."""
        for kind in (OFF, ON):
            self.fix(entries[kinds == kind], kind, node)
        for kind in (LOWER, UPPER, LIMIT):
            inside = kinds == kind
            if inside.any():
                self._narrow(entries[inside], kind, values[inside], node)

    def _narrow(self, entries: Array, kind: int, values: Array, node: int) -> None:
        """Move sides of intervals, or limits; of several moves of the same one each must go on from the last."""
        part = {LOWER: self.lower, UPPER: self.upper, LIMIT: self.limits}[kind]
        if part is None or entries.min() < 0 or entries.max() >= len(part) or np.isnan(values).any():
            raise CertificateError(f"tree: node {node} narrows something that does not exist")
        if kind != LIMIT and (not self.intervals or (self.fixed[entries] < 0).any()):
            raise CertificateError(f"tree: node {node} narrows the interval of an entry that is off")
        while len(entries):
            again = np.ones(len(entries), dtype=bool)
            again[np.unique(entries, return_index=True)[1]] = False
            once, new = entries[~again], values[~again]
            if ((new < part[once]) if kind == LOWER else (new > part[once])).any():
                raise CertificateError(f"tree: node {node} widens an interval")
            self._change(part, once, new)
            entries, values = entries[again], values[again]

    def room(self, rows: int) -> tuple[Array, Array, Array, Array | None]:
        """Return arrays for the states of so many nodes."""
        lower, upper = (np.tile(side, (rows, 1)) if self.intervals else side[None] for side in (self.lower, self.upper))
        return (
            np.empty((rows, len(self.fixed)), dtype=np.int8),
            lower,
            upper,
            None if self.limits is None else np.empty((rows, len(self.limits))),
        )

    def copy_into(self, room: tuple[Array, Array, Array, Array | None], row: int) -> None:
        """Copy the state into a row of :meth:`room`."""
        room[0][row] = self.fixed
        if self.intervals:
            room[1][row], room[2][row] = self.lower, self.upper
        if room[3] is not None:
            room[3][row] = self.limits


def walk(tree: SparseTree, problem: Problem, rows: int) -> Iterator[Batch]:
    """Yield the nodes from the root on, depth first, at most ``rows`` at a time.

    Raises
    ------
    CertificateError
        If a node is missing, used twice or unreachable, or a step does not fit the state.
    """
    kinds, starts = tree.step_kind.numpy(), tree.step_start.numpy()
    entries, values = tree.step_entry.numpy(), tree.step_value.numpy()
    index, children = tree.index.numpy(), tree.children.numpy()
    state = State(problem, intervals=bool(((kinds == LOWER) | (kinds == UPPER)).any()))
    seen = np.zeros(len(tree), dtype=bool)
    stack: list[tuple[int, int, int, int]] = [(0, -1, OFF, 0)]
    order: list[int] = []
    room = state.room(rows)
    while stack:
        node, entry, side, mark = stack.pop()
        if not 0 <= node < len(seen) or seen[node]:
            raise CertificateError(f"tree: node {node} is missing or reached twice")
        seen[node] = True
        state.undo(mark)
        if entry >= 0:
            state.fix(np.array([entry]), side, node)
        state.copy_into(room, len(order))
        order.append(node)
        steps = slice(int(starts[node]), int(starts[node + 1]))
        if steps.stop > steps.start:
            state.apply(entries[steps], kinds[steps], values[steps], node)
        branch, (out, into) = int(index[node]), children[node].tolist()
        if branch < 0:
            if branch != -1 or into != -1 or out < -1:
                raise CertificateError(f"tree: leaf {node} has index {branch} and children {[out, into]}")
            if out >= 0:
                stack.append((out, -1, OFF, state.mark))
        else:
            if branch >= problem.size or state.fixed[branch] != 0:
                raise CertificateError(
                    f"tree: node {node} branches on entry {branch}, which is out of range or already fixed"
                )
            stack.append((into, branch, ON, state.mark))
            stack.append((out, branch, OFF, state.mark))
        if len(order) == rows:
            yield Batch(np.array(order), *room)
            order, room = [], state.room(rows)
    if order:
        yield Batch(np.arange(rows), *room).take(np.arange(len(order)))._replace(nodes=np.array(order))
    if not seen.all():
        raise CertificateError(f"tree: {int((~seen).sum())} node(s) cannot be reached from the root")


def spans(tree: SparseTree) -> tuple[Array, Array]:
    """Return for each node the half-open range of depth-first numbers that it and its descendants have."""
    first, last = np.full(len(tree), -1), np.full(len(tree), -1)
    children = tree.children.numpy()
    stack, number = [0], 0
    while stack:
        node = stack.pop()
        if node < 0:
            last[~node] = number
            continue
        if node >= len(first) or first[node] >= 0:
            raise CertificateError(f"tree: node {node} is missing or reached twice")
        first[node] = number
        number += 1
        stack.append(~node)
        stack.extend(int(child) for child in children[node][::-1] if child >= 0)
    return first, last
