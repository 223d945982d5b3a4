"""Turning user data into tensors, once, with readable messages.

Every array of the package is a :class:`torch.Tensor`. Certificates are evaluated in float64 on the CPU;
heuristics run in float32 or float64 wherever the data are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidProblem

__all__ = [
    "LOST",
    "UNIT_ROUNDOFF",
    "accurate_sum",
    "accurate_total",
    "as_mask",
    "as_tensor",
    "check_magnitude",
    "digest",
    "exact",
    "gamma",
    "require_symmetric",
    "sum_error",
    "working_dtype",
]

UNIT_ROUNDOFF = 2.0**-53
"""Relative rounding error of one float64 operation (round to nearest)."""

LOST = 2.0**-1070
"""More than a few products of one entry lose to underflow."""

_ROW = 4096  # entries of a row of a sum, at most
_PIECE = 1 << 22  # entries that a sum takes at once
_ROWS = 512  # rows of a matrix that are compared at once

_MOST = 2.0**1018  # sums of a few such numbers are finite

_LARGE = 1 << 16  # entries from which float32 pays off in the heuristics (measured: below it, overheads dominate)


def gamma(n: int) -> float:
    """Higham's ``gamma_n = n u / (1 - n u)``: relative error bound of a float64 inner product of length ``n``."""
    return n * UNIT_ROUNDOFF / (1.0 - n * UNIT_ROUNDOFF)


def as_tensor(data: Any, name: str, *, ndim: int | None = None, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return ``data`` as a finite floating-point tensor.

    Parameters
    ----------
    data : Tensor, numpy array, or nested sequence
        float32 and float64 are kept; float16 and bfloat16 are widened to float32, integers and booleans to float64
        (both exactly), so that no later step silently works in a coarse format.
    name : str
        How to call the array in an error message.
    ndim : int, optional
        Required number of dimensions.
    shape : tuple of int, optional
        Required shape.

    Raises
    ------
    InvalidProblem
        If the data are no numbers, have the wrong shape, or contain NaN or infinity.
    """
    tensor = _read(data, name)
    if tensor.is_complex():
        raise InvalidProblem(f"{name} is complex; only real data have an order to optimise over")
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.to(torch.float32)
    elif tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float64)
    if ndim is not None and tensor.ndim != ndim:
        raise InvalidProblem(f"{name} has shape {tuple(tensor.shape)}, but {ndim} dimension(s) are needed")
    if shape is not None and tuple(tensor.shape) != shape:
        raise InvalidProblem(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if not math.isfinite(float(tensor.sum())) and not bool(torch.isfinite(tensor).all()):  # the sum needs no array
        count = int((~torch.isfinite(tensor)).sum())
        raise InvalidProblem(
            f"{name} contains {count} NaN or infinite value(s); clean the data before building a problem"
        )
    return tensor


def _read(data: Any, name: str) -> Tensor:
    """Return what the user gave as a tensor of whatever numbers it holds."""
    try:
        return data.detach() if isinstance(data, Tensor) else torch.as_tensor(np.asarray(data))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidProblem(
            f"{name} cannot be read as an array of numbers ({error}); pass a tensor or array"
        ) from error


def check_magnitude(name: str, size: float | Tensor) -> None:
    """Refuse data whose values would overflow: where such a sum of squares is beyond 2^1018 (2.8e306) or no number."""
    if not float(size) <= _MOST:
        raise InvalidProblem(f"{name} is {float(size):.3g}, at which values overflow; measure it in larger units")


def as_mask(data: Any, name: str, *, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return ``data`` as a boolean tensor; accepts booleans and exact 0/1 numbers."""
    tensor = _read(data, name)
    if tensor.dtype != torch.bool:
        if not bool(((tensor == 0) | (tensor == 1)).all()):
            raise InvalidProblem(f"{name} is not a mask: it holds values other than 0 and 1")
        tensor = tensor != 0
    if shape is not None and tuple(tensor.shape) != shape:
        raise InvalidProblem(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    return tensor


def exact(tensor: Tensor) -> Tensor:
    """Return the tensor in float64 on the CPU (an exact conversion), where bounds are evaluated."""
    return tensor.detach().to(device="cpu", dtype=torch.float64)


def require_symmetric(matrix: Tensor, name: str) -> Tensor:
    """Return the exactly symmetric part of ``matrix``; refuse one that is not symmetric up to rounding."""
    if matrix.shape[-1] != matrix.shape[-2]:
        raise InvalidProblem(f"{name} has shape {tuple(matrix.shape)}; its last two dimensions must be equal")
    transposed, skew, scale = matrix.mT, 0.0, 0.0
    for first in range(0, matrix.shape[-1] if matrix.numel() else 0, _ROWS):  # no second array of the same size
        rows, columns = (part[..., first : first + _ROWS, :] for part in (matrix, transposed))
        skew = max(skew, float((rows - columns).abs().max()))
        scale = max(scale, *(abs(float(side)) for side in rows.aminmax()))
    tolerance = 1e-5 if matrix.dtype == torch.float32 else 1e-10
    if skew > tolerance * scale:
        raise InvalidProblem(
            f"{name} is not symmetric (largest difference from its transpose {skew:.3g}, largest entry {scale:.3g}); "
            "a Gram matrix X'X is symmetric, so check how it was built"
        )
    return matrix if skew == 0.0 else 0.5 * (matrix + transposed)


def working_dtype(size: int, requested: torch.dtype | None) -> torch.dtype:
    """Precision in which a heuristic iterates: as requested, else float32 for large problems, float64 for small."""
    if requested is not None:
        return requested
    return torch.float32 if size >= _LARGE else torch.float64


def accurate_sum(terms: Tensor) -> tuple[float, float]:
    """Sum a float64 tensor and bound the rounding error of the sum.

    Rows (of at most 4,096 entries) are summed by torch (any order, so ``gamma(row length)`` bounds the error) and the
    row sums exactly by :func:`math.fsum`, which keeps the allowance of a bound independent of the number of entries.

    Returns
    -------
    total : float
    error : float
        ``|total - exact sum| <= error``.
    """
    terms = exact(terms)
    width = min(terms.shape[-1], _ROW) if terms.ndim else 1
    sizes: list[float] = []
    for rows in _rows(terms):
        sizes += rows.abs().sum(dim=1).tolist()  # piece by piece: no second array of the size of the terms
    magnitude = _added(sizes) * (1.0 + gamma(width))
    return accurate_total(terms), gamma(width + 1) * magnitude


def accurate_total(terms: Tensor) -> float:
    """Return the total of :func:`accurate_sum` alone."""
    sums: list[float] = []
    for rows in _rows(exact(terms)):
        sums += rows.sum(dim=1).tolist()
    return _added(sums)


def _added(numbers: list[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # partial sums that overflow, or infinities of both signs
        return sum(numbers)


def sum_error(length: int, size: float) -> float:
    """Bound the rounding error of :func:`accurate_total` of a vector with this sum of absolute terms."""
    width = min(length, _ROW)
    return gamma(width + 1) * size * (1.0 + gamma(width))


def _rows(terms: Tensor) -> Iterator[Tensor]:
    """Cut an array into matrices of short rows, not too many at once."""
    if terms.numel() == 0:
        return
    width = terms.shape[-1] if terms.ndim else 1
    parts = [terms.reshape(-1, width)]
    if width > _ROW:
        flat, width = terms.reshape(-1), _ROW
        whole = flat.numel() // _ROW * _ROW
        parts = [flat[:whole].reshape(-1, _ROW), flat[whole:].reshape(1, -1)]
    for part in parts:
        yield from part.split(max(1, _PIECE // width))


def digest(*parts: Any) -> str:
    """SHA-256 of nested plain data, tensors and dataclasses, in hexadecimal.

    Tensors enter as shape and float64 values, so that the digest does not depend on device or on an exact change of
    precision.
    """
    sha = hashlib.sha256()

    def feed(part: Any) -> None:
        if isinstance(part, Tensor):
            sha.update(f"T{tuple(part.shape)}".encode())
            if part.numel():
                rows = part.detach().reshape(1) if part.ndim == 0 else part.detach()
                for piece in rows.split(max(1, _PIECE * len(rows) // part.numel())):  # no float64 copy of all of it
                    sha.update(exact(piece).contiguous().numpy().data.cast("B"))
        elif is_dataclass(part) and not isinstance(part, type):
            sha.update(type(part).__qualname__.encode())
            for field in fields(part):
                sha.update(field.name.encode())
                feed(getattr(part, field.name))
        elif isinstance(part, (tuple, list)):
            sha.update(f"L{len(part)}".encode())
            for item in part:
                feed(item)
        elif isinstance(part, dict):
            feed(sorted(part.items()))
        elif part is None or isinstance(part, (bool, int, float, str)):
            sha.update(f"{type(part).__name__}:{part!r};".encode())
        elif isinstance(part, np.generic):
            feed(part.item())
        elif isinstance(part, np.ndarray):
            feed(torch.as_tensor(part))
        else:
            sha.update(type(part).__qualname__.encode())
            feed({key: value for key, value in vars(part).items() if not key.startswith("_")})

    for part in parts:
        feed(part)
    return sha.hexdigest()
