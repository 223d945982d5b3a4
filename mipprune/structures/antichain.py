"""Antichains of forests: at most one node on every path from a root to a leaf."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import accurate_sum, exact, gamma
from ..core.structure import Selection, Supports, Witness
from ..errors import InvalidProblem
from .partition import check_count, restricted

__all__ = ["Antichain"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Antichain(Supports):
    r"""Sets of nodes of a forest none of which lies above another; the supports of a rule set taken from trees.

    Parameters
    ----------
    parents : int Tensor, shape (p,)
        Parent of each entry, -1 at a root. The roots of all trees stand side by side.
    count : int, optional
        Largest number of kept entries.

    Notes
    -----
    The rules of an antichain of a decision tree hold for disjoint sets of samples. The largest sum of gains follows
    from the leaves up, :math:`b_v = \max(g_v, \sum_{c} b_c, 0)`, and with a budget from the knapsack
    :math:`f_v(k) = \max(g_v, \max_{\sum k_c = k}\sum_c f_c(k_c))`, over the trees as over the children of a node: both
    are exact, so that no witness is needed. For exact solvers the family is
    :math:`\sum_{v \in \text{path}} z_v \le 1` for every path to a leaf. That matrix is an interval matrix, so that
    without a budget the relaxation is integral; with one it is not.

    References
    ----------
    arXiv 2506.20114 for the antichain condition; recursion and knapsack derived here.

    Examples
    --------
    A root with two children: the root alone, or one or both of the children.

    >>> import torch
    >>> family = Antichain(torch.tensor([-1, 0, 0]))
    >>> family.select(torch.tensor([3.0, 2.0, 2.0])).mask.tolist()
    [False, True, True]
    >>> Antichain(torch.tensor([-1, 0, 0]), count=1).select(torch.tensor([3.0, 2.0, 2.0])).value
    3.0
    """

    parents: Tensor
    count: int | None = None
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        from ..kernels.antichains import top_down

        given = np.asarray(self.parents.cpu() if isinstance(self.parents, Tensor) else self.parents)
        if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
            raise InvalidProblem(
                f"parents has shape {given.shape} and type {given.dtype}; whole numbers (p,) are needed"
            )
        parents = given.astype(np.int64)
        if parents.size and (parents.min() < -1 or parents.max() >= len(parents)):
            raise InvalidProblem(f"parents refer to entries outside 0..{len(parents) - 1} (-1 stands for none)")
        if top_down(parents) is None:
            raise InvalidProblem("the parents run in a circle, so they describe no forest")
        object.__setattr__(self, "parents", torch.from_numpy(parents))
        if self.count is not None:
            object.__setattr__(self, "count", check_count(self.count, "count"))

    # ------------------------------------------------------------------------------------------ the forest

    @cached_property
    def _forest(self) -> tuple[Array, Array]:
        from ..kernels.antichains import top_down

        parent: Array = self.parents.numpy()
        order = top_down(parent)
        assert order is not None
        return parent, order

    @cached_property
    def _children(self) -> tuple[Array, Array]:
        from ..kernels.antichains import children

        return children(self._forest[0])

    @cached_property
    def _leaves(self) -> Array:
        parent, _ = self._forest
        inner = np.zeros(len(parent), dtype=bool)
        inner[parent[parent >= 0]] = True
        return np.flatnonzero(~inner)

    @cached_property
    def _fixed(self) -> tuple[Array, Array, int]:
        """Entries kept, entries that may still be chosen, and how many of them at most (-1: nothing is admissible)."""
        from ..kernels.antichains import between

        parent, order = self._forest
        none = np.zeros(len(parent), dtype=bool)
        on = none if self.on is None else self.on.cpu().numpy()
        off = none if self.off is None else self.off.cpu().numpy()
        comparable = between(parent, order, on)
        left = (len(parent) if self.count is None else min(self.count, len(parent))) - int(on.sum())
        if bool((on & (off | comparable)).any()):
            left = -1
        return on, ~(on | off | comparable), left

    def comparable(self, entry: int) -> Tensor:
        """Return which entries lie above or below one entry, bool (p,)."""
        from ..kernels.antichains import between

        chosen = np.zeros(len(self.parents), dtype=bool)
        chosen[entry] = True
        return torch.from_numpy(between(*self._forest, chosen))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`."""
        if shape != tuple(self.parents.shape):
            raise InvalidProblem(f"the forest has {len(self.parents)} nodes; the array has shape {shape}")

    # ------------------------------------------------------------------------------------------ selection

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`; exact, by the recursion from the leaves up."""
        from ..kernels.antichains import best, best_within

        self.check_shape(tuple(gain.shape))
        gains: Array = exact(gain).numpy()
        if bool(np.isnan(gains).any()):
            raise InvalidProblem("the gains contain NaN; clean the scores before choosing rules")
        parent, order = self._forest
        on, free, left = self._fixed
        mask = torch.from_numpy(on.copy())
        if left < 0:
            return Selection(mask.to(gain.device), -math.inf, -math.inf)
        worth = np.where(free, gains, -math.inf)
        if self.count is None or left >= len(parent):
            chosen, total = best(parent, order, worth)
        elif left == 0:
            chosen, total = np.zeros(len(parent), dtype=bool), 0.0
        else:
            chosen, total = best_within(parent, order, *self._children, worth, left)
        mask |= torch.from_numpy(chosen)
        kept = torch.from_numpy(gains)[mask]
        if bool(torch.isposinf(kept).any()):
            infinite = not bool(torch.isneginf(kept).any())
            return Selection(mask.to(gain.device), math.inf if infinite else math.nan, math.inf)
        value, error = accurate_sum(kept)
        fixed, fixed_error = accurate_sum(torch.from_numpy(gains[on]))
        # The recursion adds numbers >= 0 only, at most p of them: its relative error is at most gamma_p.
        bound = fixed + float(total) * (1.0 + 2.0 * gamma(len(parent) + 2)) + fixed_error + gamma(2) * abs(fixed)
        return Selection(mask.to(gain.device), value, max(bound, value + error))

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """See :meth:`Supports.select_bound`."""
        return self.select(gain).bound

    # ------------------------------------------------------------------------------------------ membership

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`.

        Kept entries below another one, kept entries beyond the budget, and entries that contradict a fixing.
        """
        from ..kernels.antichains import below

        self.check_shape(tuple(mask.shape))
        whole = self.cover(mask).cpu().numpy()
        crossed = int((whole & below(*self._forest, whole)).sum())
        excess = 0 if self.count is None else max(0, int(whole.sum()) - self.count)
        clash = 0 if self.off is None else int((whole & self.off.cpu().numpy()).sum())
        return crossed + excess + clash

    def contains(self, mask: Tensor) -> bool:
        """See :meth:`Supports.contains`."""
        return self.violation(mask) == 0 and (self.on is None or bool(mask[self.on.to(mask.device)].all()))

    def cover(self, mask: Tensor) -> Tensor:
        """See :meth:`Supports.cover`: what is fixed on belongs to every admissible mask."""
        return mask if self.on is None else mask | self.on.to(mask.device)

    def paths(self) -> Any:
        """Return the 0/1 matrix (leaves, p) of the paths to the leaves, as a scipy.sparse.csr_array."""
        from scipy import sparse

        parent, _ = self._forest
        here = self._leaves
        row, rows, columns = np.arange(len(here)), [], []
        while len(here):
            rows.append(row)
            columns.append(here)
            above = parent[here]
            row, here = row[above >= 0], above[above >= 0]
        leaves = len(self._leaves)
        if not rows:
            return sparse.csr_array((leaves, len(parent)), dtype=np.float64)
        places = (np.concatenate(rows), np.concatenate(columns))
        return sparse.csr_array((np.ones(len(places[0])), places), shape=(leaves, len(parent)))

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`: one row for each path with more than one node."""
        import cvxpy as cp

        self.check_shape(tuple(z.shape))
        paths = self.paths()
        paths = paths[np.asarray(paths.sum(axis=1)).ravel() > 1]
        out: list[Any] = [paths @ z <= 1] if paths.shape[0] else []
        if self.count is not None:
            out.append(cp.sum(z) <= self.count)
        if self.on is not None:
            out.append(z >= self.on.cpu().numpy().astype(float))
        if self.off is not None:
            out.append(z <= 1.0 - self.off.cpu().numpy().astype(float))
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: nothing above or below a kept entry, nothing else beside a full budget."""
        from ..kernels.antichains import between

        implied = torch.from_numpy(between(*self._forest, on.cpu().numpy())).to(off.device)
        if self.count is not None and int(on.sum()) >= self.count:
            implied = implied | ~on.to(off.device)
        return on, off | implied

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> Tensor:
        """See :meth:`Supports.spread`; with a budget over the paths and the budget, which hold a little more."""
        from ..kernels.antichain_spread import spread

        parent, order = self._forest
        on, free, left = self._fixed
        z = on.astype(np.float64)
        if left > 0:
            loads = np.where(free, exact(weight.abs()).numpy(), 0.0)
            offsets = exact(offset.expand(weight.shape)).numpy()
            z += spread(parent, order, self._leaves, loads, offsets, float(price), float(min(left, len(z))), 1e-3)
        return torch.from_numpy(z).to(weight)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        roots = int((self.parents < 0).sum())
        budget = "" if self.count is None else f", ||w||_0 <= {self.count}"
        return f"supp(w) an antichain of {roots} trees with {len(self.parents)} nodes{budget}"
