"""Numbers whose squares are no numbers any more."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import InvalidProblem
from .shifted import Shifted

__all__ = ["check_sizes"]

_MOST = 2.0**1018  # sums of three such numbers are finite


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
    sizes = {
        "y": _square(response.double()),
        "X": _square(design),
        "ridge": float(ridge.max()) if ridge.numel() else 0.0,
    }
    for name, size in sizes.items():
        if not size <= _MOST:
            what = "the ridge" if name == "ridge" else f"the sum of squares of {name}"
            raise InvalidProblem(f"{what} is {size:.3g}, at which values overflow; measure {name} in larger units")


def _square(values: Tensor | Shifted) -> float:
    if isinstance(values, Shifted):
        return float(values.squares.sum())
    if values.dtype != torch.float64:
        return 0.0  # float32 and less is always small enough
    norm = float(torch.linalg.vector_norm(values)) if values.numel() else 0.0
    return norm * norm
