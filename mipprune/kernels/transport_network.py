"""Selection networks: which pairs to compare so that two neighbouring order statistics stand where they belong."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["selection_network"]


def _odd_even_merge_sort(size: int) -> list[tuple[int, int]]:
    """Comparators of Batcher's network for any ``size``: those of the next power of two without the missing ends."""
    pairs = []
    p = 1
    while p < size:
        k = p
        while k >= 1:
            for j in range(k % p, size - k, 2 * k):
                for i in range(min(k, size - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return pairs


@cache
def selection_network(size: int, count: int) -> NDArray[np.int64]:
    """Return the comparators that bring the ``count``-th and the next largest of ``size`` keys to their places.

    Parameters
    ----------
    size : int
        Number of keys.
    count : int
        1 <= count < size.

    Returns
    -------
    (comparators, 2) array
        A comparator (a, b), a < b, puts the larger of the keys a and b at a. Applied in order, they leave the
        ``count``-th largest at ``count - 1`` and the next at ``count``. Those of Batcher's sorting network that
        influence neither place are left out.

    References
    ----------
    Batcher, "Sorting networks and their applications", AFIPS 1968, doi:10.1145/1468075.1468121.

    Examples
    --------
    >>> keys = [3, 9, 7, 1]
    >>> for a, b in selection_network(4, 2):
    ...     keys[a], keys[b] = max(keys[a], keys[b]), min(keys[a], keys[b])
    >>> keys[1], keys[2]
    (7, 3)
    """
    needed = {count - 1, count}
    chosen = []
    for a, b in reversed(_odd_even_merge_sort(size)):
        if a in needed or b in needed:
            chosen.append((a, b))
            needed |= {a, b}
    return np.array(chosen[::-1], dtype=np.int64).reshape(-1, 2)
