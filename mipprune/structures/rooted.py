"""Sets closed towards the root: an entry is kept only together with all entries above it."""

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
from .antichain import Antichain
from .partition import restricted

__all__ = ["Rooted"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Rooted(Supports):
    r"""Sets of nodes of a forest that contain the parent of each of their nodes: trees pruned from below.

    Parameters
    ----------
    parents : int Tensor, shape (p,)
        Parent of each entry, -1 at a root.

    Notes
    -----
    The best set follows from the leaves up, :math:`b_v = g_v + \sum_c \max(b_c, 0)`; a root is kept when its b is
    positive. A mask *fits* when it can be completed towards the roots. The rows :math:`z_v \le z_{\text{parent}(v)}`
    describe the convex hull.

    References
    ----------
    ForestPrune (AISTATS 2023) with chains: layer d of a tree needs the layers above it.

    Examples
    --------
    >>> import torch
    >>> Rooted(torch.tensor([-1, 0, 1])).select(torch.tensor([-1.0, -1.0, 3.0])).mask.tolist()
    [True, True, True]
    """

    parents: Tensor
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", Antichain(self.parents).parents)

    @cached_property
    def _levels(self) -> list[Array]:
        """Nodes by depth, roots first."""
        parent: Array = self.parents.numpy()
        depth, above = np.zeros(len(parent), dtype=np.int64), parent.copy()
        while (above >= 0).any():
            inside = above >= 0
            depth += inside
            above[inside] = parent[above[inside]]
        return [np.flatnonzero(depth == level) for level in range(int(depth.max(initial=-1)) + 1)]

    def _up(self, flags: Array) -> Array:
        """The entries and everything above them."""
        out, parent = flags.copy(), self.parents.numpy()
        for nodes in reversed(self._levels[1:]):
            np.logical_or.at(out, parent[nodes], out[nodes])
        return out

    def _down(self, flags: Array) -> Array:
        """The entries and everything below them."""
        out, parent = flags.copy(), self.parents.numpy()
        for nodes in self._levels[1:]:
            out[nodes] |= out[parent[nodes]]
        return out

    @cached_property
    def _fixed(self) -> tuple[Array, Array]:
        none = np.zeros(len(self.parents), dtype=bool)
        on = none if self.on is None else self._up(self.on.cpu().numpy())
        off = none if self.off is None else self._down(self.off.cpu().numpy())
        return on, off

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`."""
        if shape != tuple(self.parents.shape):
            raise InvalidProblem(f"the forest has {len(self.parents)} nodes; the array has shape {shape}")

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`; exact, by the recursion from the leaves up."""
        self.check_shape(tuple(gain.shape))
        gains: Array = exact(gain).numpy()
        if bool(np.isnan(gains).any()):
            raise InvalidProblem("the gains contain NaN; clean the scores before choosing a mask")
        on, off = self._fixed
        parent: Array = self.parents.numpy()
        if bool((on & off).any()):
            return Selection(torch.from_numpy(on.copy()).to(gain.device), -math.inf, -math.inf)
        best = np.where(off, -math.inf, gains)
        for nodes in reversed(self._levels[1:]):
            worth = np.where(on[nodes], best[nodes], np.maximum(best[nodes], 0.0))
            open_ = ~off[parent[nodes]]
            np.add.at(best, parent[nodes][open_], worth[open_])
        keep = on | (best > 0)
        for nodes in self._levels[1:]:
            keep[nodes] &= keep[parent[nodes]]
        mask = torch.from_numpy(keep)
        roots = self._levels[0] if self._levels else np.zeros(0, dtype=np.int64)
        total = float(np.where(on[roots], best[roots], np.maximum(best[roots], 0.0)).sum())
        if math.isinf(total):
            return Selection(mask.to(gain.device), total, total)
        value, error = accurate_sum(torch.from_numpy(gains[keep]))
        used = np.abs(gains[~off])
        slack = 2.0 * gamma(len(parent) + 2) * float(used[np.isfinite(used)].sum())
        return Selection(mask.to(gain.device), value, max(total + slack, value + error))

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """See :meth:`Supports.select_bound`."""
        return self.select(gain).bound

    def cover(self, mask: Tensor) -> Tensor:
        """See :meth:`Supports.cover`: completed towards the roots."""
        return torch.from_numpy(self._up(mask.cpu().numpy()) | self._fixed[0]).to(mask.device)

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`: entries that would have to be kept and must not be."""
        self.check_shape(tuple(mask.shape))
        return int((self.cover(mask).cpu().numpy() & self._fixed[1]).sum())

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`."""
        self.check_shape(tuple(z.shape))
        parent: Array = self.parents.numpy()
        inner = np.flatnonzero(parent >= 0)
        out: list[Any] = [z[inner] <= z[parent[inner]]] if len(inner) else []
        on, off = self._fixed
        if on.any():
            out.append(z >= on.astype(float))
        if off.any():
            out.append(z <= 1.0 - off.astype(float))
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: what is above a kept entry is kept, what is below a pruned one is pruned."""
        kept, gone = self._up(on.cpu().numpy()), self._down(off.cpu().numpy())
        return torch.from_numpy(kept).to(on.device), torch.from_numpy(gone).to(off.device)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        roots = int((self.parents < 0).sum())
        return f"supp(w) closed towards the roots of {roots} trees with {len(self.parents)} nodes"
