"""Compiled selection on the CPU: long blocks by bisection on the bits of the keys, short groups by ranks."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiling import compiled_if_possible

__all__ = ["largest_in_blocks", "largest_in_groups"]

_SAMPLED = 1 << 15  # from this length on a sample brackets the threshold first


@cache
def _block_kernel() -> Any:
    @compiled_if_possible()
    def threshold(keys, need):  # type: ignore[no-untyped-def]  # pragma: no cover
        """Largest t with at least ``need`` keys >= t; counting passes vectorise, unlike partitioning."""
        low = keys[0]
        high = keys[0]
        for i in range(keys.size):
            low = min(low, keys[i])
            high = max(high, keys[i])
        while low < high:
            middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
            found = 0
            for i in range(keys.size):
                found += keys[i] >= middle
            if found == need:
                return middle
            if found > need:
                low = middle
            else:
                high = middle - 1
        return low

    @compiled_if_possible()
    def bracketed(row, count, buffer):  # type: ignore[no-untyped-def]  # pragma: no cover
        """Bracket the threshold by order statistics of a sample, so that few keys remain for the bisection."""
        largest = np.iinfo(row.dtype).max
        drawn = 0
        for i in range(0, row.size, row.size // 8192):
            buffer[drawn] = row[i]
            drawn += 1
        share = count / row.size
        slack = 4.0 * np.sqrt(drawn * share * (1.0 - share)) + 2.0
        fewest = int(drawn * share - slack)
        most = int(drawn * share + slack) + 1
        high = threshold(buffer[:drawn], fewest) if fewest >= 1 else row[0] * 0 + largest
        low = threshold(buffer[:drawn], most) if most <= drawn else row[0] * 0 - largest - 1
        above = 0
        used = 0
        for i in range(row.size):
            key = row[i]
            buffer[used] = key
            used += (key >= low) & (key <= high)
            above += key > high
        need = count - above
        if need < 1 or need > used:  # the sample misled: fall back on all keys
            return threshold(row, count)
        return threshold(buffer[:used], need)

    @compiled_if_possible()
    def run(keys, count, mask, sampled):  # type: ignore[no-untyped-def]  # pragma: no cover
        blocks, size = keys.shape
        buffer = np.empty(size + 1, keys.dtype)
        for block in range(blocks):
            row = keys[block]
            limit = bracketed(row, count, buffer) if size >= sampled else threshold(row, count)
            above = 0
            tied = 0
            for i in range(size):
                above += row[i] > limit
                tied += row[i] == limit
            left = count - above
            if tied <= left:
                for i in range(size):
                    mask[block, i] = row[i] >= limit
            else:
                for i in range(size):
                    take = (row[i] == limit) & (left > 0)
                    left -= take
                    mask[block, i] = (row[i] > limit) | take

    return run


@cache
def _group_kernel(size: int) -> Any:
    """Return the kernel for one group size, known when compiling so that the comparisons unroll."""

    @compiled_if_possible()
    def run(keys, count, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
        for group in range(keys.shape[0]):
            for i in range(size):
                key = keys[group, i]
                rank = 0
                for j in range(i):
                    rank += keys[group, j] >= key
                for j in range(i + 1, size):
                    rank += keys[group, j] > key
                mask[group, i] = rank < count

    return run


def largest_in_blocks(keys: NDArray[Any], count: int, mask: NDArray[np.bool_]) -> None:
    """Mark the ``count`` largest integer keys of each row; ties go to the lower index.

    Parameters
    ----------
    keys : int32 or int64 array, shape (blocks, size)
        Keys in their order as integers.
    count : int
        Between 1 and size - 1.
    mask : bool array, shape (blocks, size)
        Overwritten.
    """
    _block_kernel()(keys, count, mask, _SAMPLED)


def largest_in_groups(keys: NDArray[Any], count: int, mask: NDArray[np.bool_]) -> None:
    """Mark the ``count`` largest keys of each short row by comparing all pairs; ties go to the lower index.

    Parameters
    ----------
    keys : float array, shape (groups, size)
    count : int
    mask : bool array, shape (groups, size)
        Overwritten.
    """
    _group_kernel(keys.shape[1])(keys, count, mask)
