"""Structured sparsity: whole groups of inputs, the same for all rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ..core.arrays import accurate_sum, exact
from ..core.structure import Selection, Supports
from ..errors import InvalidProblem
from ..kernels.budget import spread_groups
from ..kernels.top_k import keep_largest
from .partition import check_count, restricted

__all__ = ["Groups"]


@dataclass(frozen=True, eq=False)
class Groups(Supports):
    """At most ``count`` groups of inputs are kept, the same for every row (channels, attention heads).

    Parameters
    ----------
    labels : int, or int Tensor of shape (in,)
        Group of each input, 0, 1, ...; a single number means groups of that many consecutive inputs.
    count : int
        Kept groups, at most.

    References
    ----------
    arXiv 2403.12983 (OSSCAR) for the layer-wise problem over groups.

    Examples
    --------
    >>> import torch
    >>> Groups(2, 1).keep(torch.tensor([[1.0, 0.0, 3.0, 0.0]]))
    tensor([[False, False,  True,  True]])
    """

    labels: int | Tensor
    count: int
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", check_count(self.count, "count"))
        if isinstance(self.labels, int):
            if self.labels < 1:
                raise InvalidProblem(f"group size is {self.labels}; it must be at least 1")
            return
        labels = torch.as_tensor(self.labels)
        if labels.ndim != 1 or labels.is_floating_point() or (labels.numel() and int(labels.min()) < 0):
            raise InvalidProblem("labels must be a vector of group numbers 0, 1, ..., one for each input")
        object.__setattr__(self, "labels", labels.to(torch.int64).cpu())

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`."""
        if not shape:
            raise InvalidProblem("groups of inputs need an array with at least one axis")
        if isinstance(self.labels, int):
            if shape[-1] % self.labels:
                raise InvalidProblem(f"groups of {self.labels} inputs do not divide the input dimension {shape[-1]}")
        elif shape[-1] != self.labels.numel():
            raise InvalidProblem(f"{self.labels.numel()} group labels for an input dimension of {shape[-1]}")

    def _labels(self, like: Tensor) -> Tensor:
        self.check_shape(tuple(like.shape))
        if isinstance(self.labels, int):
            return torch.arange(like.shape[-1], device=like.device) // self.labels
        return self.labels.to(like.device)

    def totals(self, array: Tensor) -> Tensor:
        """Return the sum of ``array`` (..., in) over each group, shape (groups,)."""
        labels = self._labels(array)
        columns = array.reshape(-1, array.shape[-1]).sum(dim=0)
        out = torch.zeros(int(labels.max()) + 1 if labels.numel() else 0, dtype=columns.dtype, device=columns.device)
        return out.index_add(0, labels, columns)

    def _any(self, mask: Tensor) -> Tensor:
        return self.totals(mask.to(torch.int64)) > 0

    def _over(self, groups: Tensor, like: Tensor) -> Tensor:
        return groups[self._labels(like)].expand(like.shape)

    def _fixed(self) -> tuple[Tensor, Tensor] | None:
        return None if self.on is None or self.off is None else (self._any(self.on), self._any(self.off))

    def _choose(self, totals: Tensor) -> Tensor:
        keys = totals
        fixed = self._fixed()
        if fixed is not None:
            on, off = (side.to(totals.device) for side in fixed)
            finite = keys.clamp_max(torch.finfo(keys.dtype).max)  # what is fixed on comes before a gain of inf
            keys = torch.where(off, -torch.inf, torch.where(on, torch.inf, finite))
        return (keep_largest(keys.unsqueeze(0), self.count) & (keys > 0).unsqueeze(0)).squeeze(0)

    def keep(self, gain: Tensor) -> Tensor:
        """See :meth:`Supports.keep`."""
        return self._over(self._choose(self.totals(gain)), gain)

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`."""
        gain64 = exact(gain)
        labels = self._labels(gain64)
        rows = gain64.reshape(-1, gain64.shape[-1])
        totals = self.totals(rows)
        groups = self._choose(totals)
        mask = self._over(groups, gain)
        fixed = self._fixed()
        if fixed is not None and (int(fixed[0].sum()) > self.count or bool((fixed[0] & fixed[1]).any())):
            return Selection(mask, -torch.inf, -torch.inf)
        if bool(torch.isinf(totals[groups]).any()):
            return Selection(mask, torch.inf, torch.inf)
        # Totals are rounded, so the chosen groups maximise the sum only up to the rounding of the totals: bound with
        # totals rounded up.
        terms = rows.shape[0] * int(torch.bincount(labels).max()) if labels.numel() else 0
        error = (terms + 2) * 2.0**-53 * self.totals(rows.abs()) * 1.01
        raised = torch.where(torch.isfinite(totals), totals + error, totals)
        upper, upper_error = accurate_sum(raised[self._choose(raised)])
        value, _ = accurate_sum(totals[groups])
        return Selection(mask, value, upper + upper_error)

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`: groups beyond the budget, and groups that contradict a fixing."""
        touched = self._any(mask)
        fixed = self._fixed()
        if fixed is None:
            return max(0, int(touched.sum()) - self.count)
        on, off = (side.to(mask.device) for side in fixed)
        return max(0, int((touched | on).sum()) - self.count) + int((touched & off).sum())

    def contains(self, mask: Tensor) -> bool:
        """See :meth:`Supports.contains`: whole groups only."""
        whole = bool((mask == self.cover(mask)).all())
        return whole and self.violation(mask) == 0 and (self.on is None or bool(mask[self.on.to(mask.device)].all()))

    def cover(self, mask: Tensor) -> Tensor:
        """See :meth:`Supports.cover`: every touched group, whole, and what is fixed on."""
        return self._over(self._any(mask if self.on is None else mask | self.on.to(mask.device)), mask)

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`: one 0/1 variable for each group."""
        import cvxpy as cp
        import numpy as np

        shape = tuple(z.shape)
        labels = self._labels(torch.zeros(shape)).numpy()
        chosen = cp.Variable(int(labels.max()) + 1, name="groups", nonneg=True)
        spread = np.zeros((len(labels), int(labels.max()) + 1))
        spread[np.arange(len(labels)), labels] = 1.0
        flat = cp.reshape(z, (int(np.prod(shape)) // len(labels), len(labels)), order="C")
        out: list[Any] = [flat[row] == spread @ chosen for row in range(flat.shape[0])]
        out += [cp.sum(chosen) <= self.count, chosen <= 1]
        if self.on is not None and self.off is not None:
            out += [z >= self.on.cpu().numpy().astype(float), z <= 1.0 - self.off.cpu().numpy().astype(float)]
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: a fixing holds for the whole group, and a full budget closes the rest."""
        on_groups, off_groups = self._any(on), self._any(off)
        if int(on_groups.sum()) >= self.count:
            off_groups = off_groups | ~on_groups
        return self._over(on_groups, on), self._over(off_groups, off)

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> Tensor:
        """See :meth:`Supports.spread`."""
        labels = self._labels(weight)
        squares = weight.reshape(-1, weight.shape[-1]).square()
        offsets = offset.expand(weight.shape).reshape(squares.shape)
        if bool((offsets == offsets[:1]).all()):  # the usual case: reduce over rows first
            squares, offsets = squares.sum(dim=0, keepdim=True), offsets[:1]
        fixed = self._fixed()
        none = torch.zeros(int(labels.max()) + 1, dtype=torch.bool)
        on, off = (side.to(weight.device) for side in (fixed or (none, none)))
        prices = price * self.totals(torch.ones_like(weight))
        shares = spread_groups(squares, offsets, labels, self.count, prices, on, off)
        return shares[labels].to(weight.dtype).expand(weight.shape)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        size = f"groups of {self.labels} inputs" if isinstance(self.labels, int) else "groups of inputs"
        return f"at most {self.count} {size} kept, the same for all rows"
