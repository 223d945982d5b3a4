"""The low-rank quadratic seen from its dual variables, one for each gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.dual import Dual, Piece
from ..core.separable import Separable

if TYPE_CHECKING:
    from .low_rank import LowRank

__all__ = ["LowRankDual"]


class LowRankDual(Dual):
    """The view of :class:`LowRank` from its n dual variables; remembers the last mask, since the next is near it."""

    def __init__(self, loss: LowRank) -> None:
        self._loss = loss
        self._mask: Tensor | None = None
        self._gram = self._linear = torch.zeros(0)
        self._constant = 0.0

    def of(self, w: Tensor) -> Tensor:
        """See :meth:`Dual.of`."""
        return self._loss.times(w.to(self._loss.center.device).double() - self._loss.center.double())

    def point(self, u: Tensor) -> Tensor:
        """See :meth:`Dual.point`: the shortest way from the center."""
        values, vectors = torch.linalg.eigh(self._loss.gram)
        useful = values > 1e-14 * values[-1]
        inverse = torch.where(useful, 1.0 / torch.where(useful, values, 1.0), 0.0)
        step = self._loss.pull(vectors @ (inverse * (vectors.mT @ u)))
        return self._loss.center.double() + step.nan_to_num(0.0, 0.0, 0.0)  # u may have overflowed; any point will do

    def _pull(self, u: Tensor) -> Tensor:
        """``X' u`` in the precision of X: a quarter of the time of a float64 product over float32 gradients."""
        gradients = self._loss.gradients
        return (gradients.mT @ u.to(gradients.dtype)).double()

    def model(self, u: Tensor) -> Separable:
        """See :meth:`Dual.model`."""
        loss = self._loss
        center = loss.center.double()
        g = self._pull(u) if loss.slope is None else self._pull(u) + loss.slope.double()
        constant = 0.5 * loss.ridge * float(center @ center) - float(g @ center) - 0.5 * float(u @ u)
        return Separable(constant=constant, linear=g - loss.ridge * center, curvature=loss.best_split())

    def piece(self, mask: Tensor) -> Piece:
        """See :meth:`Dual.piece`; costs a product of n x n for each entry that differs from the last mask."""
        loss, mask = self._loss, mask.to(self._loss.gradients.device)
        if self._mask is None or int((mask ^ self._mask).sum()) > int(mask.sum()):
            self._mask = torch.zeros_like(mask)
            self._linear = -loss.times(loss.center)
            self._gram = torch.zeros(self._linear.numel(), self._linear.numel()).to(self._linear)
            center, slope = loss.center.double(), loss.slope
            self._constant = 0.5 * loss.ridge * float(center @ center)
            self._constant -= 0.0 if slope is None else float(slope.double() @ center)
        for changed, sign in ((mask & ~self._mask, 1.0), (self._mask & ~mask, -1.0)):
            self._change(changed.nonzero().ravel(), sign)
        self._mask = mask
        hessian = self._gram / loss.ridge
        hessian.diagonal().add_(1.0)
        return Piece(hessian, self._linear.clone(), self._constant)

    def _change(self, entries: Tensor, sign: float) -> None:
        """Keep (sign 1) or prune (sign -1) some entries."""
        loss = self._loss
        if entries.numel() == 0:
            return
        center = loss.center.double()[entries]
        step, shift = center, 0.5 * loss.ridge * float(center @ center)
        if loss.slope is not None:
            slope = loss.slope.double()[entries]
            step = center - slope / loss.ridge
            shift = shift - float(slope @ center) + 0.5 * float(slope @ slope) / loss.ridge
        gram, image = loss.partly(entries, step)
        self._gram = self._gram + sign * gram
        self._linear = self._linear + sign * image
        self._constant -= sign * shift
