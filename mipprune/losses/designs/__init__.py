"""Matrices of least squares: one tensor, sparse columns, dense columns in the type and place that they came in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import LARGEST, UNDERFLOW, Design, Transposed
from .dense import DenseDesign
from .shifted import Shifted
from .sparse import SparseDesign
from .stored import StoredDesign

__all__ = [
    "LARGEST",
    "UNDERFLOW",
    "DenseDesign",
    "Design",
    "Shifted",
    "SparseDesign",
    "StoredDesign",
    "Transposed",
    "as_design",
]

_LARGE = 1 << 26  # entries of a dense matrix from which on it is not copied


def as_design(data: Any) -> Shifted | None:
    """Return the form in which data are used without making them one float64 tensor; ``None`` for usual dense data.

    Parameters
    ----------
    data : Shifted, scipy sparse array, sparse Tensor, numpy.memmap, array or Tensor
        Dense data become a :class:`StoredDesign` if they are a file mapped into memory, or have more than 2^26 entries
        (half a gigabyte in float64).

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> as_design(sp.eye_array(3)).describe(), as_design(np.eye(3))
    ('sparse with 3 entries', None)
    """
    if isinstance(data, Shifted):
        return data
    if isinstance(data, Tensor):
        if data.layout != torch.strided:
            return SparseDesign.of(data)
        large = data.device.type == "cpu" and data.ndim == 2 and data.numel() > _LARGE
        return StoredDesign.of(data) if large and not data.is_complex() else None
    if hasattr(data, "tocsc"):
        return SparseDesign.of(data)
    if isinstance(data, np.ndarray) and data.ndim == 2 and (isinstance(data, np.memmap) or data.size > _LARGE):
        return StoredDesign.of(data)
    return None
