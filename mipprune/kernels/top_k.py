"""Keeping the largest entries of blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from .compiling import has_numba

__all__ = ["keep_largest"]

_SHORT = 32  # longest group whose ranks are found by comparing all pairs
_COMPILED = 1 << 15  # entries from which calling (and once compiling) the CPU kernels pays


def _ordered_bits(keys: Tensor) -> Tensor:
    """Integers in the order of the floating-point keys."""
    integer, low_bits = (torch.int32, 2**31 - 1) if keys.dtype == torch.float32 else (torch.int64, 2**63 - 1)
    least = float(keys.min())
    if least > 0:
        return keys.view(integer)
    bits = (keys + 0.0).view(integer)  # adding 0 turns -0.0 into 0.0, which must tie with it
    return torch.where(bits < 0, bits ^ low_bits, bits) if least < 0 else bits


def _keep_compiled(keys: Tensor, count: int) -> Tensor:
    from .selection import largest_in_blocks, largest_in_groups

    keys = keys.detach().contiguous()
    mask = torch.empty(keys.shape, dtype=torch.bool)
    if keys.shape[1] <= _SHORT:
        largest_in_groups(keys.numpy(), count, mask.numpy())
    else:
        largest_in_blocks(_ordered_bits(keys).numpy(), count, mask.numpy())
    return mask


def _keep_by_rank(keys: Tensor, count: int) -> Tensor:
    """Compare all pairs of positions: on a GPU far cheaper than selecting in millions of short rows."""
    columns = keys.unbind(dim=1)
    ranks = [torch.zeros(len(keys), dtype=torch.int8, device=keys.device) for _ in columns]
    for i in range(len(columns)):
        for j in range(i):
            first = columns[j] >= columns[i]
            ranks[i] += first
            ranks[j] += ~first
    return torch.stack(ranks, dim=1) < count


def _keep_above_threshold(keys: Tensor, count: int) -> Tensor:
    if keys.is_cuda and keys.shape[0] == 1:  # kthvalue gives a whole row to one block of threads
        threshold = torch.topk(keys, count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    else:
        threshold = torch.kthvalue(keys, keys.shape[1] - count + 1, dim=1, keepdim=True).values
    mask = keys > threshold
    tied = keys == threshold
    missing = count - mask.sum(dim=1, keepdim=True)
    return mask | (tied & (tied.cumsum(dim=1) <= missing))


def keep_largest(keys: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` largest keys of each row; ties go to the lower index.

    Parameters
    ----------
    keys : Tensor, shape (blocks, size)
        No NaN; infinities are ordinary values.
    count : int
        Entries to keep in each block, clipped to [0, size].

    Returns
    -------
    bool Tensor, shape (blocks, size)
        The same on every device and in every code path.

    Examples
    --------
    >>> keep_largest(torch.tensor([[1.0, 3.0, 3.0, 3.0]]), 2)
    tensor([[False,  True,  True, False]])
    """
    blocks, size = keys.shape
    if count >= size:
        return torch.ones_like(keys, dtype=torch.bool)
    if count <= 0 or blocks == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    compilable = keys.device.type == "cpu" and keys.dtype in (torch.float32, torch.float64)
    if compilable and keys.numel() >= _COMPILED and has_numba():
        return _keep_compiled(keys, count)
    if size <= (_SHORT if keys.is_cuda else 8):
        return _keep_by_rank(keys, count)
    return _keep_above_threshold(keys, count)
