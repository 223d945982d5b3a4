"""Cyclic coordinate descent on the pairs of a graphical model's pseudo-likelihood, on a sparse symmetric pattern.

The data term is ``sum_i -log t_i + S_ii t_i + 2 s_i'v_i + v_i'S v_i / t_i`` with the diagonal ``t`` and the
off-diagonal columns ``v_i``. A product ``(S v_i)_j`` is formed where it is needed from the few entries of the pattern,
so that no p x p work array exists. The module is compiled when numba is installed.
"""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible
from .perspective import envelope, kept_minimiser, relaxed_minimiser, share, sparse_minimiser

__all__ = ["descend", "diagonal_of", "products", "refresh_diagonal", "row_products"]

_compile = compiled_if_possible()


@_compile
def products(matrix, row, indptr, indices, value, i):  # type: ignore[no-untyped-def]
    """Return ``sum_k S[row, k] V[k, i]``."""
    total = 0.0
    for pos in range(indptr[i], indptr[i + 1]):
        total += matrix[row, indices[pos]] * value[pos]
    return total


@_compile
def _bend(pos, i, j, twin, theta, shift, ridge):  # type: ignore[no-untyped-def]
    return ridge[pos] + shift[pos] / theta[i] + shift[twin[pos]] / theta[j]


@_compile
def refresh_diagonal(  # type: ignore[no-untyped-def]
    matrix, indptr, indices, twin, value, theta, shift, price, ridge, lower, upper, relaxed
):
    """Set each ``theta_i`` to its minimiser for the given off-diagonal entries; return the largest change."""
    most = 0.0
    for i in range(len(theta)):
        q = 0.0
        for pos in range(indptr[i], indptr[i + 1]):
            v = value[pos]
            if v == 0.0:
                continue
            q += v * products(matrix, indices[pos], indptr, indices, value, i)
            if relaxed and shift[pos] > 0.0:
                bend = _bend(pos, i, indices[pos], twin, theta, shift, ridge)
                up, _, down, _ = envelope(price[pos], bend, lower[pos], upper[pos])
                z = share(v, up, down)
                q += shift[pos] * v * v * (1.0 / z - 1.0)
        new = (1.0 + np.sqrt(1.0 + 4.0 * matrix[i, i] * max(q, 0.0))) / (2.0 * matrix[i, i])
        most = max(most, abs(new - theta[i]) / new)
        theta[i] = new
    return most


@_compile
def diagonal_of(  # type: ignore[no-untyped-def]
    matrix, indptr, indices, twin, value, product, shift, price, ridge, lower, upper, rounds
):
    """Return the diagonal that goes with off-diagonal entries; a fixed point, approached by so many rounds.

    ``product`` is what :func:`row_products` fills in.
    """
    theta = np.empty(len(indptr) - 1)
    for i in range(len(theta)):
        theta[i] = 1.0 / matrix[i, i]
    for _ in range(rounds):
        for i in range(len(theta)):
            q = 0.0
            for pos in range(indptr[i], indptr[i + 1]):
                v = value[pos]
                if v == 0.0:
                    continue
                q += v * product[pos]
                if shift[pos] > 0.0:
                    bend = _bend(pos, i, indices[pos], twin, theta, shift, ridge)
                    up, _, down, _ = envelope(price[pos], bend, lower[pos], upper[pos])
                    q += shift[pos] * v * v * (1.0 / share(v, up, down) - 1.0)
            theta[i] = (1.0 + np.sqrt(1.0 + 4.0 * matrix[i, i] * max(q, 0.0))) / (2.0 * matrix[i, i])
    return theta


@_compile
def descend(  # type: ignore[no-untyped-def]
    matrix, indptr, indices, twin, value, theta, shift, kept, price, ridge, lower, upper, relaxed, tolerance, sweeps
):
    """Sweep over all pairs of the pattern and then the diagonal, until changes are below the tolerance.

    Parameters
    ----------
    matrix : (p, p) array
        S.
    indptr, indices, twin : int arrays
        A symmetric pattern without diagonal, by rows; ``twin`` is the place of (j, i) for each (i, j).
    value, theta : arrays
        Off-diagonal entries by place, and the diagonal; overwritten.
    shift : array, by place
        Curvature of row i that goes to the penalty of (i, j); 0 for pairs that are kept.
    kept : bool array
        Pairs that pay their price in any case.
    price, ridge, lower, upper : arrays, by place
    relaxed : bool
        Convex envelopes of the penalties, or the penalties themselves.
    tolerance : float
        Largest change of an entry, in units of the geometric mean of its two diagonal entries, and of the diagonal,
        relative, at which to stop.
    sweeps : int

    Returns
    -------
    sweeps : int
        Sweeps done.
    change : float
        Largest change in the last one.
    """
    change = np.inf
    done = 0
    while done < sweeps and change > tolerance:
        change = 0.0
        done += 1
        for i in range(len(theta)):
            for pos in range(indptr[i], indptr[i + 1]):
                j = indices[pos]
                if j <= i:
                    continue
                back = twin[pos]
                old = value[pos]
                a = (matrix[j, j] - shift[pos]) / theta[i] + (matrix[i, i] - shift[back]) / theta[j]
                left = products(matrix, j, indptr, indices, value, i) - matrix[j, j] * old
                right = products(matrix, i, indptr, indices, value, j) - matrix[i, i] * old
                b = 4.0 * matrix[i, j] + 2.0 * left / theta[i] + 2.0 * right / theta[j]
                bend = _bend(pos, i, j, twin, theta, shift, ridge)
                if kept[pos]:
                    new = kept_minimiser(a, b, bend, lower[pos], upper[pos])
                elif relaxed:
                    up, up_slope, down, down_slope = envelope(price[pos], bend, lower[pos], upper[pos])
                    new = relaxed_minimiser(a, b, bend, lower[pos], upper[pos], up, up_slope, down, down_slope)
                else:
                    new, _ = sparse_minimiser(a, b, price[pos], bend, lower[pos], upper[pos])
                if new != old:
                    change = max(change, abs(new - old) / np.sqrt(theta[i] * theta[j]))
                    value[pos] = new
                    value[back] = new
        change = max(
            change,
            refresh_diagonal(matrix, indptr, indices, twin, value, theta, shift, price, ridge, lower, upper, relaxed),
        )
    return done, change


@_compile
def row_products(begin, end, matrix, indptr, indices, value, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` with ``(S v_i)_j`` at the place of each (i, j) of the pattern, for the rows ``begin <= i < end``."""
    for i in range(begin, end):
        for pos in range(indptr[i], indptr[i + 1]):
            out[pos] = products(matrix, indices[pos], indptr, indices, value, i)
