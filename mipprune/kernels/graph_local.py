r"""Curvature that each row of a large graph hands to few of its pairs: from one inverse, and proven by it.

Row i may hand over a diagonal ``D >= 0`` on the nodes J if :math:`x^\top S x \ge \sum_J D_j x_j^2` whenever
:math:`x_i = 0`. With :math:`Q = S^{-1}` that says

.. math:: I - D^{1/2} \Bigl(Q_{JJ} - Q_{Ji} Q_{iJ} / Q_{ii}\Bigr) D^{1/2} \succeq 0,

a matrix of the size of J, so that all rows together cost about as much as the inverse. The Schur complement is the
least that :math:`Q_{JJ} + b Q_{iJ} + Q_{Ji} b^\top + Q_{ii} b b^\top` can be, so any b proves; and an approximate
inverse P will do, since :math:`Q - P = Q (I - S P)` is within :math:`\|I - S P\| / \lambda` of zero where
:math:`S \succeq \lambda I` is proven. Derived here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from . import diagonal_split
from .graph_appraisal import Penalties, Shift, diagonal_guess
from .pairs import split_pairs

__all__ = ["ALL", "Inverse", "candidates", "proves_rows", "smallest_eigenvalue"]

Array = np.ndarray[Any, Any]
Point = tuple[Array, Array]

ALL = 500
"""Nodes up to which all eigenvalues of S are computed."""

_LANCZOS = 10
_COARSE = 1e-4  # share of the diagonal of S that a smallest eigenvalue must exceed to be found in float32
_U = 2.0**-53
_LEAST = 1e-4  # share of the diagonal of S below which its smallest eigenvalue counts as none
_SHARE = 0.9  # of the smallest eigenvalue that is proven
_NUMBERS = 1 << 22  # in the matrices of one batch of rows


def smallest_eigenvalue(matrix: torch.Tensor) -> float | None:
    """Return about the smallest eigenvalue of S; ``None`` when it is next to nothing.

    For large matrices a little below it, from Lanczos steps with the inverse through one triangular factor, in float32:
    all eigenvalues would take many times as long.
    """
    p = len(matrix)
    if p <= ALL:
        return float(torch.linalg.eigvalsh(matrix)[0])
    shifted = matrix.float()
    shifted.diagonal().sub_(_COARSE * float(matrix.diagonal().min()))
    factor, info = torch.linalg.cholesky_ex(shifted)
    del shifted
    if int(info) != 0:
        return None
    vector = torch.randn(p, generator=torch.Generator().manual_seed(0))
    vector /= vector.norm()
    basis, diagonal, beside = [vector], [], []
    for _ in range(_LANCZOS):
        image = torch.cholesky_solve(basis[-1].unsqueeze(1), factor).squeeze(1)
        diagonal.append(float(image @ basis[-1]))
        for known in basis:
            image -= (image @ known) * known
        beside.append(float(image.norm()))
        basis.append(image / beside[-1])
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
    error = abs(beside[-1] * vectors[-1, -1])  # an eigenvalue of the inverse is within it
    return 0.999 / float(values[-1] + error)


class Inverse(NamedTuple):
    """An approximate inverse of S, symmetric, and how far it may be from the true one in the spectral norm."""

    matrix: torch.Tensor
    """(p, p)"""
    radius: float

    @classmethod
    def of(cls, matrix: Array) -> Inverse | None:
        """Return the inverse of S; ``None`` where S is not proven to be well away from a singular matrix.

        The residual ``S P - I`` is within ``gamma_p ||S|| ||P||`` of the computed one, in the Frobenius norm.
        """
        tensor = torch.from_numpy(matrix)
        smallest = smallest_eigenvalue(tensor)
        if smallest is None or not smallest > _LEAST * float(tensor.diagonal().min()):
            return None
        p, least = len(matrix), _SHARE * smallest
        factor, info = torch.linalg.cholesky_ex(tensor)
        if int(info) != 0:
            return None
        if not diagonal_split.is_valid(tensor, torch.full((p,), least, dtype=torch.float64)):
            return None
        inverse = torch.cholesky_inverse(factor)
        inverse = 0.5 * (inverse + inverse.mT)
        residual = tensor @ inverse
        residual.diagonal().sub_(1.0)
        rounding = 1.1 * (p + 4) * _U * float(tensor.norm()) * float(inverse.norm())
        found = (1.0 + 1e-6) * (float(residual.norm()) + rounding) / least
        return cls(inverse, found) if np.isfinite(found) else None


def proves_rows(inverse: Inverse, rows: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
    """Tell for which rows the diagonals are proven to be admissible.

    Parameters
    ----------
    inverse : Inverse
    rows : float64 Tensor, shape (B, p)
        ``D >= 0``; zero at the row's own node.
    nodes : int64 Tensor, shape (B,)
        The row that each diagonal is for.

    Returns
    -------
    bool Tensor, shape (B,)
    """
    count = len(rows)
    fits = (rows[torch.arange(count), nodes] == 0) & (rows >= 0).all(dim=1) & torch.isfinite(rows).all(dim=1)
    widest = max(int((rows > 0).sum(dim=1).max()), 1) if count else 1
    step = max(1, _NUMBERS // (widest * widest))
    for first in range(0, count, step):
        part = slice(first, first + step)
        fits[part] &= _proves(inverse, rows[part], nodes[part], widest)
    return fits


def _proves(inverse: Inverse, rows: torch.Tensor, nodes: torch.Tensor, widest: int) -> torch.Tensor:
    matrix, radius = inverse
    given, place = torch.topk(rows, widest, dim=1)
    root = given.clamp_min(0.0).sqrt() * (1.0 + 4.0 * _U)  # its square is at least D; places without D do not matter
    inner, across = matrix[place.unsqueeze(2), place.unsqueeze(1)], matrix[nodes.unsqueeze(1), place]
    own = matrix[nodes, nodes].reshape(-1, 1, 1)
    b = -across / own[:, 0]
    mixed, square = b.unsqueeze(2) * across.unsqueeze(1), b.unsqueeze(2) * b.unsqueeze(1)
    scale, unit = root.unsqueeze(2) * root.unsqueeze(1), torch.eye(widest, dtype=torch.float64)
    reduced = scale * (inner + (mixed + mixed.mT) + own * square + radius * (unit + square))
    size = scale * (inner.abs() + mixed.abs() + mixed.mT.abs() + own.abs() * square.abs())
    size += scale * (radius * (unit + square.abs()))
    error = 24.0 * _U * (size.square().sum(dim=(1, 2)).sqrt() + widest)
    rest = unit - reduced
    usable = torch.isfinite(rest).all(dim=2).all(dim=1) & torch.isfinite(error)
    allowance = error.unsqueeze(1).expand(-1, widest)
    if bool(usable.all()) and diagonal_split.is_valid(rest, allowance):
        return usable
    proven = torch.zeros(len(rows), dtype=torch.bool)
    for row in usable.nonzero().ravel().tolist():
        proven[row] = diagonal_split.is_valid(rest[row], allowance[row])
    return proven


def candidates(matrix: Array, point: Point, penalties: Penalties) -> Array:
    """Return (p, p) how near each pair's slope at a point is to where the pair would enter; ``inf`` where it is not 0.

    1 stands for a slope at which the relaxation without any shift lets the pair in.
    """
    p = len(matrix)
    entries, values = point
    theta = diagonal_guess(matrix, entries, values, Shift.none(p), penalties)
    i, j = split_pairs(entries, p)
    x = np.zeros((p, p))
    x[i, j] = x[j, i] = values
    image = (x / theta[:, None]) @ matrix
    slope = np.abs(4.0 * matrix + 2.0 * (image + image.T))
    every = split_pairs(np.arange(p * (p - 1) // 2), p)

    def square(part: Array) -> Array:
        if len(part) == 1:
            return np.broadcast_to(part[0], (p, p))
        out = np.zeros((p, p))
        out[every] = part
        return out + out.T

    price, ridge, lower, upper = (square(part) for part in penalties)
    side = np.maximum(-lower, upper)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.sqrt(price / ridge) <= side
        enters = np.where(inside, 2.0 * np.sqrt(price * ridge), price / side + ridge * side)
        near: Array = np.where(enters > 0, slope / enters, np.inf)
    near[i, j] = near[j, i] = np.inf
    np.fill_diagonal(near, 0.0)
    return near
