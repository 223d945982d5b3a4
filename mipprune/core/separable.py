"""Separable quadratic models: the language between losses and structures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Separable"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Separable:
    r"""A separable quadratic model of a loss.

    Parameters
    ----------
    constant : float
        Value at zero.
    linear : Tensor, shape ``shape``
        Linear coefficients.
    curvature : Tensor, broadcastable to ``shape``
        Entrywise curvature, >= 0.
    linear_error : Tensor broadcastable to ``shape``, or None
        Entrywise bound on the rounding error of ``linear``. A minorant that is meant as a proof states it, and the
        oracle's *bound* then holds for every linear term within that distance. ``None`` means exact.

    Notes
    -----
    .. math:: m(w) = \text{constant} + \langle \text{linear}, w\rangle + \tfrac12\langle \text{curvature}, w^2\rangle

    Examples
    --------
    >>> import torch
    >>> model = Separable(constant=1.0, linear=torch.tensor([2.0, 0.0]), curvature=torch.tensor([2.0, 2.0]))
    >>> model.value(torch.tensor([-1.0, 1.0]))
    1.0
    """

    constant: float
    linear: Tensor
    curvature: Tensor
    linear_error: Tensor | None = None

    def value(self, w: Tensor) -> float:
        """Return ``m(w)``, accumulated in float64; ``w`` has shape ``shape``."""
        w64 = w.to(torch.float64)
        terms = self.linear.to(torch.float64) * w64 + 0.5 * self.curvature.to(torch.float64) * w64 * w64
        return self.constant + float(terms.sum())
