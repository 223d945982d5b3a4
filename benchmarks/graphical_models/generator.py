"""The published generators of graphical models, draw by draw."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def draw(model: str, p: int, n: int, seed: int, s: float = 3, condition: float = 2) -> tuple[Array, Array]:
    """Return samples (n, p) and the true precision of arXiv 2307.09366's generators, in numpy's legacy draws.

    ``model`` is ``"uniform"`` or ``"banded"`` (Toeplitz precision).
    """
    random = np.random.RandomState(seed)
    if model == "uniform":
        lower = np.tril(0.5 * random.binomial(1, s / p, (p, p)), -1)
        pattern = lower + lower.T
    else:
        apart = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
        pattern = np.where((apart > 0) & (apart <= s), 0.5**apart, 0.0)
    values = np.linalg.eigvalsh(pattern)
    theta = pattern + (condition * values[0] - values[-1]) / (1 - condition) * np.eye(p)
    theta *= np.linalg.inv(theta).diagonal().max()
    covariance = np.linalg.inv(theta)
    if model == "uniform":
        return random.multivariate_normal(np.zeros(p), covariance, n), theta
    return random.randn(n, p) @ np.linalg.cholesky(covariance).T, theta


def sparse_draw(p: int, n: int, seed: int, degree: float = 3.0, weight: float = 0.25) -> tuple[Array, Array]:
    """Return samples and edges (pairs i < j) of a large random graph, without any dense p x p factorisation.

    The precision is ``I + B`` with entries of size ``weight`` on random edges, each row scaled so that its absolute sum
    stays below 0.9 (diagonally dominant, so positive definite); samples are ``x = Theta^{-1/2} z`` by a truncated power
    series of ``(I + B)^{-1/2}``, float32, some at a time. What is returned is a contiguous (p, n) array, transposed.
    """
    from scipy import sparse

    rng = np.random.default_rng(seed)
    count = int(degree * p / 2)
    i, j = rng.integers(0, p, count), rng.integers(0, p, count)
    kept = i != j
    pairs = np.unique(np.stack([np.minimum(i, j)[kept], np.maximum(i, j)[kept]], axis=1), axis=0)
    half = sparse.csr_array((np.full(len(pairs), weight), (pairs[:, 0], pairs[:, 1])), shape=(p, p))
    matrix = half + half.T
    rows = np.asarray(abs(matrix).sum(axis=1)).ravel()
    scale = np.sqrt(np.minimum(1.0, 0.9 / np.maximum(rows, 1e-9)))
    matrix = sparse.diags_array(scale) @ matrix @ sparse.diags_array(scale)
    matrix = matrix.tocsr().astype(np.float32)
    out = np.empty((p, n), dtype=np.float32)
    for first in range(0, n, 500):
        power = rng.standard_normal((p, min(500, n - first)), dtype=np.float32)
        total, factor = power.copy(), 1.0
        for k in range(1, 40):  # (1 + b)^(-1/2) = sum of binomial(-1/2, k) b^k
            factor *= (-0.5 - (k - 1)) / k
            power = matrix @ power
            total += np.float32(factor) * power
        out[:, first : first + total.shape[1]] = total
    return out.T, pairs


def peak_gib() -> float:
    """Return the largest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
