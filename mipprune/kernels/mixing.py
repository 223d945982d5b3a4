"""The compiled sweep of the mixing method (Max-Cut type semidefinite programs by low-rank coordinate descent)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .compiling import compiled_if_possible

__all__ = ["sweep"]

_BLOCK = 64  # rows whose products with all factors are formed together, as one matrix product


@cache
def _compiled() -> Any:
    # Reassociation is fine: what comes out is repaired and verified before any bound rests on it.
    @compiled_if_possible(fastmath={"reassoc", "contract"})
    def run(pulls, within, factors, roots, norms):  # type: ignore[no-untyped-def]  # pragma: no cover
        size, rank = factors.shape
        for i in range(size):
            norm = 0.0
            for r in range(rank):
                norm += pulls[i, r] * pulls[i, r]
            norm = np.sqrt(norm)
            norms[i] = norm
            if norm > 0.0:
                step = -roots[i] / norm
                for r in range(rank):
                    change = step * pulls[i, r] - factors[i, r]
                    factors[i, r] += change
                    pulls[i, r] = change
                for k in range(i + 1, size):
                    weight = within[k, i]
                    for r in range(rank):
                        pulls[k, r] += weight * pulls[i, r]

    return run


def sweep(
    off_diagonal: NDArray[np.float32],
    factors: NDArray[np.float32],
    roots: NDArray[np.float32],
    sweeps: int,
    tolerance: float = 1e-5,
) -> NDArray[np.float32]:
    """Run ``v_i <- -roots_i g_i/|g_i|``, ``g_i = sum_k H_ik v_k``, in cyclic order; return the last ``|g_i|``.

    Parameters
    ----------
    off_diagonal : (n, n) array
        The matrix with a zero diagonal, C-contiguous.
    factors : (n, rank) array
        Rows ``v_i``; overwritten.
    roots : (n,) array
        Required norms of the rows.
    sweeps : int
        Number of passes, at most.
    tolerance : float
        Stop when a pass changes ``sum_i roots_i |g_i|`` by less, relatively.

    Notes
    -----
    The products of a block of rows with all factors are one matrix product; inside the block each change is passed on
    to the rows that follow, so that the updates are those of the plain cyclic order.
    """
    size = len(roots)
    norms = np.zeros(size, dtype=factors.dtype)
    matrix, vectors = torch.from_numpy(off_diagonal), torch.from_numpy(factors)  # torch keeps to its own thread count
    run, before = _compiled(), np.inf
    for _ in range(sweeps):
        for first in range(0, size, _BLOCK):
            block = slice(first, min(first + _BLOCK, size))
            pulls = (matrix[block] @ vectors).numpy()
            run(pulls, off_diagonal[block, block], factors[block], roots[block], norms[block])
        now = float(roots @ norms)
        if abs(now - before) <= tolerance * abs(now):
            break
        before = now
    return norms
