"""Certificates: data from which anyone can recompute a lower bound, and the claims that are not certificates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ..errors import CertificateError
from .arrays import exact
from .problem import Problem

__all__ = ["Certificate", "Claim", "Tangent", "Tree"]


class Certificate(ABC):
    """Something that proves a lower bound of a problem."""

    @abstractmethod
    def bound(self, problem: Problem) -> float:
        """Return the proven lower bound, recomputed in float64 on the CPU with its rounding allowance subtracted."""

    @abstractmethod
    def rational_bound(self, problem: Problem) -> Fraction:
        """Return the proven lower bound in exact arithmetic (small data)."""


@dataclass(frozen=True, eq=False)
class Tangent(Certificate):
    """A point of tangency: one gradient and one oracle call prove the bound.

    Parameters
    ----------
    point : Tensor, shape of the problem
        Any point.
    split : Tensor broadcastable to it, optional
        Diagonal curvature; verified by the loss each time.
    witness : Tensor, optional
        The oracle's own witness where it is a relaxation.
    """

    point: Tensor
    split: Tensor | None = None
    witness: Tensor | None = None

    @classmethod
    def at(cls, problem: Problem, point: Tensor, split: Tensor | None = None) -> Tangent:
        """Return the tangent at ``point`` with the witness that the oracle gives there."""
        return cls.bounded(problem, point, split)[0]

    @classmethod
    def bounded(cls, problem: Problem, point: Tensor, split: Tensor | None = None) -> tuple[Tangent, float]:
        """Return :meth:`at` and its :meth:`bound`, which share the gradient and the verification of the split."""
        point = exact(point)
        split = None if split is None else exact(split)
        model = problem.minorant(point, split)
        witness = problem.structure.argmin(model).witness
        return cls(point, split, witness), problem.structure.argmin_bound(model, witness)

    def bound(self, problem: Problem) -> float:
        """See :meth:`Certificate.bound`."""
        return problem.bound(self.point, self.split, self.witness)

    def rational_bound(self, problem: Problem) -> Fraction:
        """See :meth:`Certificate.rational_bound`."""
        split = None if self.split is None else exact(self.split)
        model = problem.reference.loss.rational_minorant(exact(self.point), split, problem.allowed)
        return problem.structure.rational_bound(model, self.witness)


@dataclass(frozen=True, eq=False)
class Tree(Certificate):
    """A branching tree with a tangent at each leaf; the leaves cover S by construction.

    Parameters
    ----------
    index : int64 Tensor, shape (nodes,)
        Flat index of the entry on which a node branches; -1 at a leaf. Node 0 is the root.
    children : int64 Tensor, shape (nodes, 2)
        Nodes where that entry is fixed off and on; -1 at a leaf.
    leaves : tuple of Tangent
        One for each leaf, in the order of the leaf nodes.
    """

    index: Tensor
    children: Tensor
    leaves: tuple[Tangent, ...]

    def __len__(self) -> int:
        """Return the number of nodes."""
        return int(self.index.numel())

    def walk(self, problem: Problem) -> Iterator[tuple[Problem, Tangent]]:
        """Yield each leaf's restricted problem and tangent; raise unless the tree is well formed.

        Raises
        ------
        CertificateError
            If a node is missing, used twice or unreachable, or branches on an entry that is already fixed.
        """
        index, children = self.index.tolist(), self.children.tolist()
        if any(part.is_floating_point() or part.dtype == torch.bool for part in (self.index, self.children)):
            raise CertificateError("tree: nodes and children must be whole numbers")
        if self.index.ndim != 1 or self.children.shape[1:] != (2,):
            raise CertificateError("tree: an index and two children are needed for every node")
        if not index or len(children) != len(index):
            raise CertificateError(f"tree: {len(index)} node indices but {len(children)} child pairs")
        leaf_of = {node: number for number, node in enumerate(n for n, i in enumerate(index) if i < 0)}
        if len(leaf_of) != len(self.leaves):
            raise CertificateError(f"tree: {len(leaf_of)} leaf nodes but {len(self.leaves)} leaf tangents")
        seen = [False] * len(index)
        stack: list[tuple[int, dict[int, bool]]] = [(0, {})]
        while stack:
            node, fixed = stack.pop()
            if not 0 <= node < len(index) or seen[node]:
                raise CertificateError(f"tree: node {node} is missing or reached twice")
            seen[node] = True
            entry = index[node]
            if entry < 0:
                if entry != -1 or children[node] != [-1, -1]:
                    raise CertificateError(f"tree: leaf {node} has index {entry} and children {children[node]}")
                yield self._restricted(problem, fixed), self.leaves[leaf_of[node]]
                continue
            if entry >= problem.size or entry in fixed:
                raise CertificateError(
                    f"tree: node {node} branches on entry {entry}, which is out of range or already fixed"
                )
            off, on = children[node]
            stack.append((off, {**fixed, entry: False}))
            stack.append((on, {**fixed, entry: True}))
        if not all(seen):
            raise CertificateError(f"tree: {seen.count(False)} node(s) cannot be reached from the root")

    @staticmethod
    def _restricted(problem: Problem, fixed: dict[int, bool]) -> Problem:
        on = torch.zeros(problem.size, dtype=torch.bool)
        off = torch.zeros(problem.size, dtype=torch.bool)
        for entry, kept in fixed.items():
            (on if kept else off)[entry] = True
        return problem.restrict(on.reshape(problem.shape), off.reshape(problem.shape))

    def bound(self, problem: Problem) -> float:
        """See :meth:`Certificate.bound`; the smallest leaf bound."""
        bounds = [leaf.bound(part) for part, leaf in self.walk(problem)]
        # A leaf whose arithmetic overflowed proves nothing; ``min`` alone might pass over its NaN.
        return -math.inf if any(math.isnan(bound) for bound in bounds) else min(bounds, default=math.inf)

    def rational_bound(self, problem: Problem) -> Fraction:
        """See :meth:`Certificate.rational_bound`; leaves whose restricted set is empty bound nothing."""
        bounds = [leaf.rational_bound(part) for part, leaf in self.walk(problem) if leaf.bound(part) < math.inf]
        if not bounds:
            raise CertificateError("tree: every leaf is empty, so the problem has no admissible point")
        return min(bounds)


@dataclass(frozen=True)
class Claim:
    """What an exact solver says about its bound. It is stored beside a solution and never called a certificate.

    Parameters
    ----------
    solver, version : str
        Who says it.
    bound : float
        The dual bound, constant and sense restored.
    tolerance : float
        Relative tolerance within which the back end works.
    """

    solver: str
    version: str
    bound: float
    tolerance: float
