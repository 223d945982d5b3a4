"""Lossless, compact layouts of tensors in a file: packed bits, triangles of symmetric matrices, non-zeros only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CertificateError, Unsupported

__all__ = ["pack", "unpack"]

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
# Storing non-zeros and a bit per entry pays off below this density, whatever the dtype.
_SPARSE_BELOW = 0.85

Parts = dict[str, Tensor]


def pack(tensor: Tensor) -> tuple[dict[str, Any], Parts]:
    """Choose the smallest lossless layout of a tensor.

    Parameters
    ----------
    tensor : Tensor
        Any real tensor, on any device.

    Returns
    -------
    layout : dict
        Name of the layout, dtype and shape, as JSON.
    parts : dict of str to Tensor
        What to store, one-dimensional or dense, on the CPU.

    Raises
    ------
    Unsupported
        If the dtype has no place in a file (complex, quantised).

    Notes
    -----
    float64 values that are representable in float32 or bfloat16, such as the weights of a network widened for a
    certificate, are stored in that dtype and widened again by `unpack`; nothing is ever rounded.

    Examples
    --------
    >>> layout, parts = pack(torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    >>> layout["layout"], parts["values"].tolist()
    ('triangle', [2.0, 1.0, 2.0])
    >>> unpack(layout, parts).tolist()
    [[2.0, 1.0], [1.0, 2.0]]
    """
    data = tensor.detach().cpu()
    name = str(data.dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise Unsupported(f"a tensor of dtype {data.dtype} cannot be stored; convert it to a real floating dtype")
    layout: dict[str, Any] = {"layout": "dense", "dtype": name, "shape": list(data.shape)}
    if data.dtype == torch.bool:
        return {**layout, "layout": "bits"}, {"bits": _bits(data)}
    if not data.is_floating_point():
        return layout, {"values": data.contiguous().clone()}
    if _is_symmetric(data):
        rows, columns = torch.triu_indices(data.shape[0], data.shape[0])
        return {**layout, "layout": "triangle"}, {"values": _narrowed(data[rows, columns])}
    kept = data != 0
    if _is_sparse(data, kept):
        return {**layout, "layout": "sparse"}, {"bits": _bits(kept), "values": _narrowed(data[kept])}
    return layout, {"values": _narrowed(data)}


def unpack(layout: dict[str, Any], parts: Parts) -> Tensor:
    """Restore the tensor that `pack` stored.

    Parameters
    ----------
    layout : dict
        As returned by `pack`.
    parts : dict of str to Tensor
        The stored parts.

    Returns
    -------
    Tensor
        Equal to the original in every entry, its dtype and its shape, on the CPU.

    Raises
    ------
    CertificateError
        If the parts do not fit the layout.
    """
    restore = _RESTORE.get(layout.get("layout", ""))
    dtype = _DTYPES.get(layout.get("dtype", ""))
    if restore is None or dtype is None:
        raise CertificateError(f"layout: {layout!r} is not one that this version of mipprune writes")
    shape = tuple(int(size) for size in layout["shape"])
    try:
        return restore(parts, shape, dtype)
    except (KeyError, RuntimeError, IndexError, ValueError) as error:
        raise CertificateError(f"layout: the stored parts do not make a tensor of shape {shape} ({error})") from error


def _bits(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.reshape(-1).numpy()))


def _is_symmetric(data: Tensor) -> bool:
    return data.ndim == 2 and data.shape[0] == data.shape[1] > 1 and bool(torch.equal(data, data.T))


def _is_sparse(data: Tensor, kept: Tensor) -> bool:
    if data.numel() < 64 or int(kept.sum()) > _SPARSE_BELOW * data.numel():
        return False
    return not bool((torch.signbit(data) & ~kept).any())  # a negative zero would come back positive


def _narrowed(values: Tensor) -> Tensor:
    if values.dtype in (torch.float64, torch.float32):
        for dtype in (torch.bfloat16, torch.float32):
            if dtype.itemsize < values.dtype.itemsize and torch.equal(values.to(dtype).to(values.dtype), values):
                return values.to(dtype).contiguous()
    return values.contiguous().clone()


def _mask(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    size = int(np.prod(shape, dtype=np.int64))
    if bits.numel() != -(-size // 8):
        raise ValueError(f"{bits.numel()} bytes of bits for {size} entries")
    return torch.from_numpy(np.unpackbits(bits.numpy())[:size].astype(bool)).reshape(shape)


def _dense(parts: Parts, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return parts["values"].to(dtype).reshape(shape)


def _from_bits(parts: Parts, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _mask(parts["bits"], shape).to(dtype)


def _from_triangle(parts: Parts, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    rows, columns = torch.triu_indices(shape[0], shape[1])
    matrix = torch.empty(shape, dtype=dtype)
    values = parts["values"].to(dtype)
    if values.numel() != rows.numel():
        raise ValueError(f"{values.numel()} numbers for a triangle of {rows.numel()}")
    matrix[rows, columns] = values
    matrix[columns, rows] = values
    return matrix


def _from_nonzeros(parts: Parts, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    tensor = torch.zeros(shape, dtype=dtype)
    kept = _mask(parts["bits"], shape)
    if int(kept.sum()) != parts["values"].numel():
        raise ValueError(f"{parts['values'].numel()} values for {int(kept.sum())} non-zeros")
    tensor[kept] = parts["values"].to(dtype)
    return tensor


_RESTORE: dict[str, Callable[[Parts, tuple[int, ...], torch.dtype], Tensor]] = {
    "dense": _dense,
    "bits": _from_bits,
    "triangle": _from_triangle,
    "sparse": _from_nonzeros,
}
