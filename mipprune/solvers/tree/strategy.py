"""What the search needs of a loss: the bound at a node, as a strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

__all__ = ["Array", "Batching", "Node", "NodeBound", "Point", "Probing", "Relaxed"]

Array = np.ndarray[Any, Any]
Point = tuple[Array, Array]
"""Entries (ascending) and values of a sparse point, in the numbering of the problem."""


@dataclass
class Node:
    """The state of a node, in the numbering of the strategy (see :attr:`NodeBound.columns`)."""

    number: int
    fixed: Array
    """int8 (size,): -1 off, 0 free, 1 on"""
    lower: Array
    """(size,) current interval of a kept entry"""
    upper: Array
    limits: Array | None
    """(m,) proven upper limits of quantities of the loss"""
    start: Point
    """point of tangency of the parent"""
    bound: float
    """proven by the parent's tangent"""
    depth: int
    split: Point | None = None
    """split in use above, sparse"""
    tried: int = 1 << 62
    """how many entries were left when a better split was last looked for; :meth:`NodeBound.sharpened` sets it"""


class Relaxed(NamedTuple):
    """A tangent with what follows from it at the node; arrays in the numbering of the strategy."""

    point: Point
    """point of tangency, in the numbering of the problem; vanishes where the node is off"""
    bound: float
    """of the tangent in the node, without rounding allowance"""
    gains: Array
    """(size,) best decrease minus price of each entry if kept, in its interval"""
    last: float
    """the m-th largest positive gain of a free entry, for m entries that may still be kept; 0 without a limit"""
    following: float
    """the (m+1)-th largest"""
    linear: Array
    """(size,) of the separable model"""
    curvature: Array
    """(size,)"""
    primal: Array
    """(size,) solution of the relaxation"""
    shares: Array
    """(size,) its fractions z in [0, 1]"""
    value: float
    """of the relaxation"""
    split: Point | None = None
    """split of the tangent: the very object of the node, or a new one to be proven there; ``None`` if it needs none"""
    limits: Array | None = None
    """(m,) limits beyond which the tangent bounds by the cutoff; ``None`` without limits"""


class NodeBound(Protocol):
    """Bounds at nodes, incumbents and branching scores for one problem; must be picklable."""

    @property
    def columns(self) -> Array:
        """Entries of the problem that the strategy still knows, ascending int64 (size,); the others are off."""

    @property
    def most(self) -> int:
        """Largest number of kept entries."""

    @property
    def price(self) -> Array:
        """(size,) of each kept entry."""

    def root(self) -> Node:
        """Return the state at the root."""

    def evaluate(self, node: Node, cutoff: float, accuracy: float, stop: Callable[[], bool]) -> list[Relaxed]:
        """Return tangents for a node, the one to go on with last; stop early once a bound reaches the cutoff."""

    def sharpened(self, node: Node) -> Point | None:
        """Return a better split for a node, in the numbering of the problem, or ``None`` if that does not pay."""

    def scores(self, node: Node, relaxed: Relaxed) -> tuple[Array, Array]:
        """Return estimates (size,) of how much the bound rises if an entry is fixed off, and on."""

    def incumbents(self, node: Node, relaxed: Relaxed, effort: int) -> list[tuple[float, Point]]:
        """Return members of S with their values; effort 0 at any node, 1 now and then, 2 at the root."""

    def improved_from(self, point: Point) -> list[tuple[float, Point]]:
        """Return members of S with their values that local search finds from a member."""

    def narrowed(self, fixed: Array) -> NodeBound:
        """Return the strategy without the entries that are off (-1) in ``fixed`` (size,)."""

    def renewed(self) -> NodeBound:
        """Return the strategy as it was before its first node; what follows from the data alone may stay."""


@runtime_checkable
class Probing(Protocol):
    """A strategy that has tangents made for parts of a node, to discard them."""

    def probes(self, node: Node, relaxed: Relaxed, cutoff: float, stop: Callable[[], bool]) -> Iterator[Relaxed]:
        """Yield tangents for a node that is not closed, as long as they pay; their own bounds may be poor.

        Each is evaluated in the node with the steps of those before it (:func:`~mipprune.solvers.tree.steps.discard`,
        intervals included). After the last one the node is evaluated again, unless there was none.
        """


@runtime_checkable
class Batching(Protocol):
    """A strategy that can evaluate many nodes at once."""

    def evaluate_together(
        self, nodes: list[Node], cutoff: float, accuracy: float, stop: Callable[[], bool]
    ) -> list[list[Relaxed]]:
        """Return for each node what :meth:`NodeBound.evaluate` would, up to the accuracy."""
