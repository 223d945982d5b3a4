"""The rule matrix: which rule holds for which sample, and where the rules come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidProblem
from .conditions import Condition, Rule

__all__ = ["RuleMatrix"]

Array = np.ndarray[Any, Any]
_ROWS = 4096  # samples whose conditions are held at a time


@dataclass(frozen=True, eq=False, kw_only=True)
class RuleMatrix:
    r"""Rules as columns over samples: the decision paths of an ensemble, M in :math:`\{0,1\}^{n\times p}`.

    Attributes
    ----------
    matrix : scipy.sparse.csc_array, shape (n, p), float64
        ``scale[j]`` where rule j holds.
    rules : tuple of Rule
    tree, node : int64 array (p,)
        Where a rule comes from (its first occurrence); tree -1 for a merged constant.
    parent : int64 array (p,) or None
        Column of the nearest ancestor in the same tree, -1 for none; ``None`` once rules of several trees were merged.
    depth, feature_count, support, count : int64 array (p,)
        Splits on the path, distinct features on it, samples where the rule holds, nodes that the column stands for.
    value : float64 array (p,)
        What the tree says at the node.
    scale : float64 array (p,)
        Entry of the column where the rule holds.
    trees : int
        Number of trees of the ensemble.
    feature_names : tuple of str, or None

    See Also
    --------
    extract_rules : builds it.
    """

    matrix: Any
    rules: tuple[Rule, ...]
    tree: Array
    node: Array
    parent: Array | None
    depth: Array
    feature_count: Array
    support: Array
    count: Array
    value: Array
    scale: Array
    trees: int
    feature_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.rules)

    def __repr__(self) -> str:
        return f"<RuleMatrix: {self.shape[1]} rules of {self.trees} trees over {self.shape[0]} samples>"

    @property
    def shape(self) -> tuple[int, int]:
        """(samples, rules)."""
        return int(self.matrix.shape[0]), int(self.matrix.shape[1])

    @property
    def frequency(self) -> Array:
        """Selection frequency of each rule: how often it occurs, divided by the number of trees."""
        return self.count / self.trees

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the columns as a tensor (n, p)."""
        return torch.from_numpy(self.matrix.toarray()).to(dtype)

    def charge(self, kind: str = "count") -> Array:
        """Return what a rule costs, float64 (p,).

        Parameters
        ----------
        kind : {"count", "depth", "features"}
            1 for every rule, the depth plus 1, or the number of distinct features (at least 1).
        """
        charges = {
            "count": np.ones(len(self)),
            "depth": self.depth + 1.0,
            "features": np.maximum(self.feature_count, 1).astype(np.float64),
        }
        if kind not in charges:
            raise InvalidProblem(f"charge is {kind!r}; choose {', '.join(repr(name) for name in charges)}")
        return charges[kind]

    def take(self, index: Any) -> RuleMatrix:
        """Return some of the columns; a rule whose parent is left out gets the nearest ancestor that is kept.

        Parameters
        ----------
        index : int array, or bool array (p,)
        """
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        index = index.astype(np.int64)
        if len(np.unique(index)) != len(index):
            raise InvalidProblem("a column is taken twice; each can be kept once")
        fields = ("tree", "node", "depth", "feature_count", "support", "count", "value", "scale")
        taken: dict[str, Any] = {name: getattr(self, name)[index] for name in fields}
        if self.parent is not None:
            taken["parent"] = _contract(self.parent, index)
        return replace(self, matrix=self.matrix[:, index], rules=tuple(self.rules[j] for j in index), **taken)

    def unique(self, by: str = "column", complements: bool = False) -> RuleMatrix:
        """Return the matrix with equal rules merged into their first occurrence.

        Parameters
        ----------
        by : {"column", "rule"}
            Rules are equal when they hold for the same samples, or when they state the same conditions
            (:attr:`Rule.key`).
        complements : bool
            Also merge a column with its complement: beside an intercept both span the same functions.

        Returns
        -------
        RuleMatrix
            Counts are added up. It has no parents: a merged rule may belong to several trees.
        """
        if by not in ("column", "rule") or (complements and by == "rule"):
            raise InvalidProblem(
                f"by is {by!r} with complements {complements}; choose 'column', or 'rule' without them"
            )
        first: dict[Any, int] = {}
        group = np.empty(len(self), dtype=np.int64)
        for j, key in enumerate(self._keys(by, complements)):
            group[j] = first.setdefault(key, len(first))
        kept = np.zeros(len(first), dtype=np.int64)
        kept[group[::-1]] = np.arange(len(self))[::-1]
        taken = replace(self, parent=None).take(kept)
        return replace(taken, count=np.bincount(group, weights=self.count, minlength=len(first)).astype(np.int64))

    def _keys(self, by: str, complements: bool) -> list[Any]:
        if by == "rule":
            return [rule.key for rule in self.rules]
        matrix, keys = self.matrix, []
        everywhere = np.arange(self.shape[0], dtype=matrix.indices.dtype)
        for j in range(len(self)):
            rows = matrix.indices[matrix.indptr[j] : matrix.indptr[j + 1]]
            if complements and len(rows) and rows[0] == 0:  # of a pair, the one that leaves out the first sample
                rows = np.setdiff1d(everywhere, rows, assume_unique=True)
            keys.append(rows.tobytes())
        return keys

    def transform(self, X: Any) -> Any:
        """Return the columns at other samples.

        Parameters
        ----------
        X : array (m, features)
            In the units of the features (not binned), float64; missing values are NaN.

        Returns
        -------
        scipy.sparse.csc_array, shape (m, p)
        """
        return evaluate(self.rules, X, self.scale)


def evaluate(rules: Sequence[Rule], X: Any, scale: Array | None = None) -> Any:
    """Return the columns of rules at samples X (m, features) as a scipy.sparse.csc_array (m, rules)."""
    from scipy import sparse

    X = np.asarray(X, dtype=np.float64)
    needed = max((rule.features[-1] for rule in rules if rule.path), default=-1)
    if X.ndim != 2 or X.shape[1] <= needed:
        raise InvalidProblem(f"X has shape {X.shape}; the rules compare features up to number {needed}")
    parts = []
    for start in range(0, max(len(X), 1), _ROWS):
        part = X[start : start + _ROWS]
        held: dict[Condition, Array] = {}
        rows: list[Array] = []
        for rule in rules:
            found = np.ones(len(part), dtype=bool)
            for condition in rule.path:
                if condition not in held:
                    held[condition] = condition.holds(part[:, condition.feature])
                found &= held[condition]
            rows.append(np.flatnonzero(found))
        parts.append(columns_of(rows, len(part), scale))
    return parts[0] if len(parts) == 1 else sparse.csc_array(sparse.vstack(parts, format="csc"))


def columns_of(rows: Sequence[Array], samples: int, scale: Array | None) -> Any:
    """Return the sparse matrix whose column j is ``scale[j]`` at the samples ``rows[j]``."""
    from scipy import sparse

    lengths = np.fromiter((len(r) for r in rows), dtype=np.int64, count=len(rows))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    indices = np.concatenate(rows).astype(np.int32) if len(rows) else np.zeros(0, dtype=np.int32)
    data = np.repeat(np.ones(len(rows)) if scale is None else scale, lengths).astype(np.float64)
    return sparse.csc_array((data, indices, starts), shape=(samples, len(rows)))


def _contract(parent: Array, index: Array) -> Array:
    place = np.full(len(parent) + 1, -1, dtype=np.int64)  # the last entry stands for "no parent", -1
    place[index] = np.arange(len(index))
    above = parent[index].copy()
    while True:
        open_ = (above >= 0) & (place[above] < 0)
        if not open_.any():
            return np.where(above >= 0, place[above], -1)
        above[open_] = parent[above[open_]]
