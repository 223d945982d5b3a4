"""Smaller copies of a strategy for the parts of a tree where few entries are left."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from .strategy import Array, Node, NodeBound

__all__ = ["Universe", "Universes"]

_ACTIVE = 6  # copies held with their derived data
_WIDE = 1 << 15  # entries from which on a copy takes so much memory that few are held
_FEW = 3
_SMALLER = 0.7  # share of the entries below which a smaller copy pays


class Universe(NamedTuple):
    """A strategy with the state of its root and its numbering."""

    strategy: NodeBound
    base: Node
    local: Array
    """int64 (size of the problem,): numbers of the entries in the strategy, -1 for those that are gone"""


class Universes:
    """The copies, by number; those not used lately are forgotten and made again from their columns."""

    def __init__(self, strategy: NodeBound, size: int, base: Node | None = None) -> None:
        self.root, self._base = strategy, base
        self._size = size
        self._most = _ACTIVE if size <= _WIDE else _FEW
        self.columns: list[Array] = [strategy.columns]
        """Entries of the problem that each copy still knows; copy 0 is the whole"""
        self._active: OrderedDict[int, Universe] = OrderedDict({0: self._made(strategy)})

    def renew(self) -> None:
        """Forget the copies and what the first one derived on the way; they are made again from their columns."""
        self.root = self.root.renewed()
        self._active = OrderedDict({0: self._made(self.root)})

    def _made(self, strategy: NodeBound) -> Universe:
        local = np.full(self._size, -1, dtype=np.int64)
        local[strategy.columns] = np.arange(len(strategy.columns))
        return Universe(strategy, self._restricted(strategy), local)

    def _restricted(self, strategy: NodeBound) -> Node:
        """The state of the root in the numbering of a copy."""
        if self._base is None:
            return strategy.root()
        place, base = np.searchsorted(self.root.columns, strategy.columns), self._base
        sides = (base.fixed[place], base.lower[place], base.upper[place])
        return Node(0, *sides, base.limits, base.start, base.bound, base.depth, base.split, base.tried)

    def __getitem__(self, number: int) -> Universe:
        if number not in self._active:
            fixed = np.where(np.isin(self.root.columns, self.columns[number]), 0, -1)
            self._active[number] = self._made(self.root.narrowed(fixed))
            if len(self._active) > self._most:
                self._active.pop(next(key for key in self._active if key not in (0, number)))
        self._active.move_to_end(number)
        return self._active[number]

    def below(self, number: int, fixed: Array) -> int:
        """Return the copy for the descendants of a node with this state; a new one if many entries are off in it."""
        left = np.flatnonzero(fixed >= 0)
        here = self[number].strategy
        if len(left) > _SMALLER * len(fixed) or not len(left):
            return number
        smaller = here.narrowed(np.where(fixed < 0, -1, 0))
        if smaller is here:
            return number
        self.columns.append(here.columns[left])
        self._active[len(self.columns) - 1] = self._made(smaller)
        if len(self._active) > self._most:
            self._active.pop(next(key for key in self._active if key not in (0, len(self.columns) - 1)))
        return len(self.columns) - 1
