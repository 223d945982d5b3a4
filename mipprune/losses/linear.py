"""A linear loss: mask selection, FLOP-constrained selection, allocation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import accurate_total, as_tensor, exact, gamma, sum_error
from ..core.loss import Loss
from ..core.rational import RationalModel, rational
from ..core.separable import Separable
from ..errors import CertificateError

if TYPE_CHECKING:
    from fractions import Fraction

__all__ = ["Linear"]

_PIECE = 1 << 22  # entries taken at once


@dataclass(frozen=True, eq=False)
class Linear(Loss):
    r"""The linear loss :math:`F(w) = \langle \text{cost}, w\rangle + \text{constant}`, its own minorant.

    Parameters
    ----------
    cost : Tensor
        Cost of each entry; a score that is to be maximised enters with a minus sign.
    constant : float
        Added to every value.

    Examples
    --------
    >>> Linear([[1.0, -2.0]]).value(torch.tensor([[0.0, 1.0]]))
    -2.0
    """

    cost: Tensor
    constant: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "cost", as_tensor(self.cost, "cost"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``w``."""
        return tuple(self.cost.shape)

    @property
    def scale(self) -> float:
        """Sum of absolute costs."""
        size = float(torch.linalg.vector_norm(self.cost, 1, dtype=torch.float64))
        return max(size + abs(self.constant), 1e-300)

    def _terms(self, w: Tensor) -> Iterator[Tensor]:
        """Terms of the inner product with the costs, piece by piece: all at once would take more than the data."""
        for cost, point in zip(self.cost.reshape(-1).split(_PIECE), w.reshape(-1).split(_PIECE), strict=True):
            yield exact(cost) * exact(point)

    def value(self, w: Tensor) -> float:
        """See :meth:`Loss.value`."""
        return self.constant + math.fsum(accurate_total(terms) for terms in self._terms(w))

    def rounding(self, w: Tensor) -> float:
        """See :meth:`Loss.rounding`."""
        size = math.fsum(float(torch.linalg.vector_norm(terms, 1)) for terms in self._terms(w))
        return sum_error(self.cost.numel(), 1.001 * size) + gamma(3) * (abs(self.constant) + size)

    def gradient(self, w: Tensor) -> Tensor:
        """See :meth:`Loss.gradient`."""
        return self.cost.to(w)

    def _model(self) -> Separable:
        return Separable(constant=self.constant, linear=self.cost, curvature=self.cost.new_zeros(()))

    def majorant(self, v: Tensor) -> Separable:
        """See :meth:`Loss.majorant`."""
        return self._model()

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        """See :meth:`Loss.minorant`; a linear function has no curvature to split off."""
        if split is not None and bool((split != 0).any()):
            raise CertificateError("split: a linear loss has no curvature, so only the zero split is valid")
        return self._model()

    def rational_minorant(self, v: Tensor, split: Tensor | None, allowed: Tensor | None) -> RationalModel:
        """See :meth:`Loss.rational_minorant`."""
        self.minorant(v, split, allowed)
        zero: Fraction = rational(torch.zeros(()))[()]
        constant = rational(torch.tensor(self.constant, dtype=torch.float64))[()]
        return RationalModel(constant, rational(self.cost), np.full(self.shape, zero, dtype=object))

    def minimise_on(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """Return ``start`` on the mask (default 1): a linear function has no minimiser of its own."""
        point = torch.ones_like(self.cost) if start is None else start
        return torch.where(mask.to(point.device), point, torch.zeros_like(point))

    def start(self) -> Tensor:
        """Return the entrywise minimiser over [0, 1]."""
        return (self.cost < 0).to(self.cost.dtype)

    def expression(self, w: Any, split: Tensor | None, scale: float = 1.0) -> Any:
        """See :meth:`Loss.expression`."""
        import cvxpy as cp

        return cp.sum(cp.multiply(exact(self.cost).numpy() / scale, w)) + self.constant / scale

    def describe(self) -> str:
        """See :meth:`Loss.describe`."""
        return f"<cost, w> + {self.constant:.6g}"
