"""The pseudo-likelihood in cvxpy: one cone and one logarithm for each node."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.pairs import split_pairs

__all__ = ["pseudo_likelihood_expression"]

Array = np.ndarray[Any, Any]


def pseudo_likelihood_expression(w: Any, matrix: Array, ridge: Array, scale: float) -> Any:
    r"""Return :math:`\sum_i [-\log t_i + \|L^\top\theta_i\|^2/t_i]/\text{scale} + \langle r, w^2\rangle/\text{scale}`.

    Parameters
    ----------
    w : cvxpy variable, shape (p (p - 1)/2,)
    matrix : array, shape (p, p)
        S = L L'.
    ridge : array, shape (p (p - 1)/2,)
        r >= 0.
    scale : float

    Notes
    -----
    The diagonal is the further variable ``theta``. Until a solver gives it a value, it has the one that minimises the
    expression for the value of ``w``, so that the expression can be evaluated at any w.
    """
    import cvxpy as cp

    p = len(matrix)
    i, j = split_pairs(np.arange(p * (p - 1) // 2), p)

    class Diagonal(cp.Variable):
        @property
        def value(self) -> Any:
            given = cp.Variable.value.fget(self)
            if given is not None or w.value is None:
                return given
            full = np.zeros((p, p))
            full[i, j] = full[j, i] = w.value
            square = np.maximum((full * (matrix @ full)).sum(axis=0), 0.0)
            own = matrix.diagonal()
            return (1.0 + np.sqrt(1.0 + 4.0 * own * square)) / (2.0 * own)

        @value.setter
        def value(self, given: Any) -> None:
            cp.Variable.value.fset(self, given)

    theta = Diagonal(p, name="theta")
    values, vectors = np.linalg.eigh(matrix)
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    terms = []
    for node in range(p):
        inside = np.flatnonzero((i == node) | (j == node))
        others = np.where(i[inside] == node, j[inside], i[inside])
        column = root[:, others] @ w[inside] + root[:, node] * theta[node]
        terms.append(cp.quad_over_lin(column, theta[node]))
    out = (cp.sum(cp.hstack(terms)) - cp.sum(cp.log(theta))) / scale
    if np.any(ridge):
        out = out + cp.sum(cp.multiply(ridge / scale, cp.square(w)))
    return out
