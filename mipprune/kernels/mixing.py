"""The compiled sweep of the mixing method (Max-Cut type semidefinite programs by low-rank coordinate descent)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["sweep"]


@cache
def _compiled() -> Any:
    from numba import njit

    @njit(cache=True, nogil=True, error_model="numpy")
    def run(off_diagonal, factors, roots, sweeps):  # type: ignore[no-untyped-def]  # pragma: no cover
        size, rank = factors.shape
        norms = np.zeros(size)
        pull = np.empty(rank)
        for _ in range(sweeps):
            for i in range(size):
                pull[:] = 0.0
                row = off_diagonal[i]
                for k in range(size):
                    weight = row[k]
                    for r in range(rank):
                        pull[r] += weight * factors[k, r]
                norm = 0.0
                for r in range(rank):
                    norm += pull[r] * pull[r]
                norm = np.sqrt(norm)
                norms[i] = norm
                if norm > 0.0:
                    step = -roots[i] / norm
                    for r in range(rank):
                        factors[i, r] = step * pull[r]
        return norms

    return run


def sweep(
    off_diagonal: NDArray[np.float64], factors: NDArray[np.float64], roots: NDArray[np.float64], sweeps: int
) -> NDArray[np.float64]:
    """Run ``v_i <- -roots_i g_i/|g_i|``, ``g_i = sum_k H_ik v_k``, and return the last norms ``|g_i|``.

    Parameters
    ----------
    off_diagonal : (n, n) array
        The matrix with a zero diagonal, C-contiguous.
    factors : (n, rank) array
        Rows ``v_i``; overwritten.
    roots : (n,) array
        Required norms of the rows.
    sweeps : int
        Number of passes.
    """
    norms: NDArray[np.float64] = _compiled()(off_diagonal, factors, roots, sweeps)
    return norms
