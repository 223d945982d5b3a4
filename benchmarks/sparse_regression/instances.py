"""The instances of the L0BnB experiments as problems."""

from __future__ import annotations

import mipprune as mp
from mipprune.bench.families.sparse_regression import correlated_regression

__all__ = ["regression"]


def regression(n: int, p: int, k: int, rho: float, snr: float, seed: int, *, l2: float = 0.01) -> mp.Problem:
    """Return REG(n, p, k, rho, snr, seed) with its own price and box, on the data as they are."""
    made = correlated_regression(n, p, k, rho, snr, seed, l2=l2)
    return mp.formulations.sparse_regression(
        made.x, made.y, l0=made.l0, l2=made.l2, box=made.box, fit_intercept=False, standardize=False
    )
