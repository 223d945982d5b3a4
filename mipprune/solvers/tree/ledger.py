"""The growing arrays of a tree: what the search knows of its nodes, and what becomes the certificate."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from ...core.problem import Problem
from ...core.sparse_tree import SparseTree

__all__ = ["Ledger", "Steps"]

Array = np.ndarray[Any, Any]


class Steps(NamedTuple):
    """Steps of one node, in the numbering of the problem."""

    entry: Array
    kind: Array
    value: Array

    @classmethod
    def none(cls) -> Steps:
        """Return no steps."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int8), np.zeros(0))


class _Column:
    """An array that grows at its end."""

    def __init__(self, dtype: Any, width: int = 0) -> None:
        self._data = np.empty((64, width) if width else 64, dtype=dtype)
        self.size = 0

    def extend(self, values: Any) -> None:
        values = np.asarray(values, dtype=self._data.dtype)
        end = self.size + len(values)
        if end > len(self._data):
            grown = np.empty((max(end, 2 * len(self._data)), *self._data.shape[1:]), dtype=self._data.dtype)
            grown[: self.size] = self._data[: self.size]
            self._data = grown
        self._data[self.size : end] = values
        self.size = end

    @property
    def data(self) -> Array:
        return self._data[: self.size]

    def __getstate__(self) -> dict[str, Any]:
        return {"_data": self.data.copy(), "size": self.size}  # without the room to grow

    def tensor(self) -> torch.Tensor:
        return torch.tensor(self.data)  # a fresh array, whatever the strides of the slice


class Ledger:
    """Nodes, tangents, splits and steps of a tree; everything in the numbering of the problem's entries."""

    def __init__(self) -> None:
        self.parent, self.entry, self.side = _Column(np.int64), _Column(np.int64), _Column(np.int8)
        self.index, self.children, self.tangent = _Column(np.int64), _Column(np.int64, 2), _Column(np.int64)
        self.split = _Column(np.int64)  # the split that a node's descendants may use
        self.universe = _Column(np.int64)  # the copy of the strategy that a node is evaluated with
        self.tried = _Column(np.int64)  # entries left when a better one was last looked for
        self.step_start, self.step_end = _Column(np.int64), _Column(np.int64)
        self.step_entry, self.step_kind, self.step_value = _Column(np.int64), _Column(np.int8), _Column(np.float64)
        self.point_start, self.point_entry, self.point_value = _Column(np.int64), _Column(np.int64), _Column(np.float64)
        self.split_of = _Column(np.int64)
        self.split_node, self.split_start = _Column(np.int64), _Column(np.int64)
        self.split_entry, self.split_value = _Column(np.int64), _Column(np.float64)
        self.point_start.extend([0])
        self.split_start.extend([0])

    def __len__(self) -> int:
        return self.parent.size

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return sum(column.data.nbytes for column in vars(self).values())

    @property
    def has_tangents(self) -> bool:
        """Whether the root was evaluated, so that every node has a tangent."""
        return self.tangent.size > 0 and int(self.tangent.data[0]) >= 0

    def mark(self) -> tuple[int, ...]:
        """Return the lengths of all arrays, for :meth:`undo`."""
        return tuple(column.size for column in vars(self).values())

    def undo(self, mark: tuple[int, ...], node: int, tangent: int, split: int) -> None:
        """Drop everything stored since a mark; ``node`` is open again, with the tangent and split it had."""
        for column, size in zip(vars(self).values(), mark, strict=True):
            column.size = size
        self.index.data[node], self.children.data[node] = -1, -1
        self.tangent.data[node], self.split.data[node] = tangent, split
        self.step_start.data[node] = self.step_end.data[node] = self.step_entry.size

    def add(self, parent: int, entry: int, side: int, tangent: int, split: int, tried: int = 1 << 62) -> int:
        """Add an open node below another, which it shares the tangent with until it has its own."""
        self.parent.extend([parent])
        self.entry.extend([entry])
        self.side.extend([side])
        self.index.extend([-1])
        self.children.extend([(-1, -1)])
        self.tangent.extend([tangent])
        self.split.extend([split])
        self.tried.extend([tried])
        self.universe.extend([0 if parent < 0 else self.universe.data[parent]])
        self.step_start.extend([self.step_entry.size])
        self.step_end.extend([self.step_entry.size])
        return len(self) - 1

    def add_tangent(self, entries: Array, values: Array, split: int) -> int:
        """Store a point of tangency; returns its number."""
        self.point_entry.extend(entries)
        self.point_value.extend(values)
        self.point_start.extend([self.point_entry.size])
        self.split_of.extend([split])
        return self.split_of.size - 1

    def add_split(self, node: int, entries: Array, values: Array) -> int:
        """Store a split that a node introduces; returns its number."""
        self.split_entry.extend(entries)
        self.split_value.extend(values)
        self.split_start.extend([self.split_entry.size])
        self.split_node.extend([node])
        return self.split_node.size - 1

    def point(self, tangent: int) -> tuple[Array, Array]:
        """Return entries and values of a point of tangency."""
        place = slice(int(self.point_start.data[tangent]), int(self.point_start.data[tangent + 1]))
        return self.point_entry.data[place], self.point_value.data[place]

    def split_row(self, split: int) -> tuple[Array, Array]:
        """Return entries and values of a split."""
        place = slice(int(self.split_start.data[split]), int(self.split_start.data[split + 1]))
        return self.split_entry.data[place], self.split_value.data[place]

    def set_steps(self, node: int, steps: Steps) -> None:
        """Store the steps of a node."""
        self.step_start.data[node] = self.step_entry.size
        self.step_entry.extend(steps.entry)
        self.step_kind.extend(steps.kind)
        self.step_value.extend(steps.value)
        self.step_end.data[node] = self.step_entry.size

    def tree(self, problem: Problem) -> tuple[SparseTree, float]:
        """Return the certificate of what is stored, and its bound."""
        starts, ends = self.step_start.data, self.step_end.data
        counts = ends - starts
        pointer = np.concatenate([[0], np.cumsum(counts)])
        place = np.repeat(starts - pointer[:-1], counts) + np.arange(pointer[-1])
        return SparseTree(
            index=self.index.tensor(),
            children=self.children.tensor(),
            tangent=self.tangent.tensor(),
            point_start=self.point_start.tensor(),
            point_entry=self.point_entry.tensor(),
            point_value=self.point_value.tensor(),
            split_of=self.split_of.tensor(),
            split_node=self.split_node.tensor(),
            split_start=self.split_start.tensor(),
            split_entry=self.split_entry.tensor(),
            split_value=self.split_value.tensor(),
            step_start=torch.tensor(pointer),
            step_entry=torch.tensor(self.step_entry.data[place]),
            step_kind=torch.tensor(self.step_kind.data[place]),
            step_value=torch.tensor(self.step_value.data[place]),
            claim=torch.full((len(self),), torch.inf, dtype=torch.float64),
        ).sealed(problem)

    @classmethod
    def of(cls, tree: SparseTree) -> Ledger:
        """Return the ledger of a stored tree, to go on from it."""
        out = cls()
        count = len(tree)
        out.index.extend(tree.index.numpy())
        out.children.extend(tree.children.numpy())
        out.tangent.extend(tree.tangent.numpy())
        parent, entry, side = np.full(count, -1), np.full(count, -1), np.zeros(count, dtype=np.int8)
        children, index = tree.children.numpy(), tree.index.numpy()
        for kind in (0, 1):
            below = np.flatnonzero(children[:, kind] >= 0)
            parent[children[below, kind]] = below
            entry[children[below, kind]] = index[below]
            side[children[below, kind]] = kind
        out.parent.extend(parent)
        out.entry.extend(entry)
        out.side.extend(side)
        out.step_start.extend(tree.step_start.numpy()[:-1])
        out.step_end.extend(tree.step_start.numpy()[1:])
        for name in ("step_entry", "step_kind", "step_value", "point_entry", "point_value", "split_of"):
            getattr(out, name).extend(getattr(tree, name).numpy())
        for name in ("split_node", "split_entry", "split_value"):
            getattr(out, name).extend(getattr(tree, name).numpy())
        out.point_start.extend(tree.point_start.numpy()[1:])
        out.split_start.extend(tree.split_start.numpy()[1:])
        split = np.full(count, -1)
        used = tree.tangent.numpy()
        known = used >= 0
        split[known] = tree.split_of.numpy()[used[known]]
        out.split.extend(split)
        out.tried.extend(np.full(count, 1 << 62))
        out.universe.extend(np.zeros(count))
        return out
