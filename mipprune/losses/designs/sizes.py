"""Numbers whose squares are no numbers any more."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.arrays import check_magnitude
from .shifted import Shifted

__all__ = ["check_sizes"]


def check_sizes(design: Tensor | Shifted, response: Tensor, ridge: Tensor) -> None:
    """Refuse least squares whose values or X'X overflow.

    Parameters
    ----------
    design : Tensor or Shifted, shape (n, p)
    response, ridge : Tensor

    Raises
    ------
    InvalidProblem
        If the sum of squares of X or y, or the ridge, is beyond 2^1018 (2.8e306).
    """
    check_magnitude("the sum of squares of y", _square(response.double()))
    check_magnitude("the sum of squares of X", _square(design))
    check_magnitude("the ridge", max(ridge.reshape(-1).tolist(), default=0.0))


def _square(values: Tensor | Shifted) -> float:
    if isinstance(values, Shifted):
        return float(values.magnitude.square().sum())  # of B and c apart, since products add them up apart
    if values.dtype != torch.float64:
        return 0.0  # float32 and less is always small enough
    norm = float(torch.linalg.vector_norm(values)) if values.numel() else 0.0
    return norm * norm
