"""Curvature of S that its rows can hand to the penalties of a graphical model: the search for good shifts.

Row i may hand over a diagonal ``D_i >= 0`` as long as S without row and column i, less ``Diag(D_i)``, is positive
semidefinite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from . import diagonal_split
from .graph_appraisal import Penalties, Shift
from .pairs import split_pairs

__all__ = ["best_shift", "common_shift", "shares_of", "shift_weights"]

Array = np.ndarray[Any, Any]
Point = tuple[Array, Array]

_FIRST, _LAST = 0.8, 0.05  # sizes of a step towards the steepest shift
_ROWWISE = 128  # nodes up to which each row gets a diagonal of its own
_COMMON = 500  # nodes up to which a diagonal for all rows is searched for
_EIGEN = 500  # nodes up to which all eigenvalues of S are computed
_LANCZOS = 10
_COARSE = 1e-4  # share of the diagonal of S that a smallest eigenvalue must exceed to be found in float32
_LEAST = 1e-6  # share of the diagonal of S below which a shift is not worth its proof


def shares_of(value: Array, price: Array, bend: Array, lower: Array, upper: Array) -> Array:
    """Return the share z in [0, 1] of an edge that the envelope pays for at each value (zero is not inside the box)."""
    side = np.where(value > 0, upper, -lower)
    with np.errstate(divide="ignore", invalid="ignore"):
        full = np.minimum(np.where(bend > 0, np.sqrt(price / np.where(bend > 0, bend, 1.0)), np.inf), side)
        share = np.where(full > 0, np.abs(value) / full, 1.0)
    return np.where(value == 0, 0.0, np.minimum(share, 1.0))


def shift_weights(flat: Array, value: Array, theta: Array, shift: Shift, penalties: Penalties) -> Array:
    """Return (p, p) what the relaxation gains by a little more of each ``D_ij``, at its solution."""
    p = len(theta)
    out = np.zeros((p, p))
    inside = value != 0.0
    flat, value = flat[inside], value[inside]
    i, j = split_pairs(flat, p)
    own = penalties.at(flat)
    bend = own.ridge + shift.at(i, j) / theta[i] + shift.at(j, i) / theta[j]
    share = shares_of(value, own.price, bend, own.lower, own.upper)
    weight = value * value * (1.0 / np.maximum(share, 1e-12) - 1.0)
    out[i, j], out[j, i] = weight / theta[i], weight / theta[j]
    return out


def _schur(matrix: torch.Tensor, free: Array, kept: Array) -> torch.Tensor:
    """Return the matrix of the free nodes with the kept ones minimised out."""
    inner = matrix[free][:, free]
    if not len(kept):
        return inner
    across = matrix[kept][:, free]
    rest: torch.Tensor = inner - across.mT @ torch.linalg.solve(matrix[kept][:, kept], across)
    return rest


class _Rows:
    """The matrices of the rows: free nodes with the kept ones minimised out, those that are off left out."""

    def __init__(self, matrix: Array, state: Array) -> None:
        self.matrix, self.state = torch.from_numpy(matrix), state
        p = len(matrix)
        others = ~np.eye(p, dtype=bool)
        self.free = [np.flatnonzero((state[i] == 0) & others[i]) for i in range(p)]
        kept = [np.flatnonzero((state[i] > 0) & others[i]) for i in range(p)]
        self.parts = [_schur(self.matrix, self.free[i], kept[i]) for i in range(p)]
        self.inside = torch.from_numpy((state >= 0) & others)

    def uniform(self) -> torch.Tensor:
        """Return the smallest eigenvalue of each row's matrix on its free nodes."""
        rows = torch.zeros_like(self.matrix)
        for i, (free, part) in enumerate(zip(self.free, self.parts, strict=True)):
            if len(free):
                rows[i, free] = float(torch.linalg.eigvalsh(part)[0])
        return rows.clamp_min(0.0)

    def steepest(self, weights: Array) -> torch.Tensor:
        """Return valid rows that nearly maximise the weighted sum."""
        rows = torch.zeros_like(self.matrix)
        for i, (free, part) in enumerate(zip(self.free, self.parts, strict=True)):
            if len(free):
                weight = torch.from_numpy(weights[i])[free]
                rows[i, free] = diagonal_split.maximise(part, weight + 0.05 * weight.mean())
        return rows

    def proven(self, rows: torch.Tensor) -> torch.Tensor:
        """Shrink each row a little until the proof goes through, in the form in which it will be checked."""
        return torch.stack(
            [
                diagonal_split.shrink_until_valid(self.matrix, rows[i : i + 1], self.inside[i : i + 1])[0]
                for i in range(len(rows))
            ]
        )

    def shift(self, rows: Array) -> Shift:
        """Return the rows as a shift."""
        return Shift(np.zeros(len(rows)), rows)

    def of(self, shift: Shift) -> Array:
        """Return a shift as rows, on free pairs."""
        nodes = np.arange(len(self.state))
        rows: Array = np.where(self.state == 0, shift.at(nodes[:, None], nodes[None, :]), 0.0)
        return rows


class _Common:
    """One diagonal for all rows of a larger graph, in the manner of :class:`_Rows`."""

    def __init__(self, matrix: Array) -> None:
        self.matrix = torch.from_numpy(matrix)

    def uniform(self) -> torch.Tensor:
        return torch.full((len(self.matrix),), max(_smallest(self.matrix) or 0.0, 0.0), dtype=torch.float64)

    def steepest(self, weights: Array) -> torch.Tensor:
        weight = torch.from_numpy(weights.sum(axis=0))
        return diagonal_split.maximise(self.matrix, weight + 0.05 * weight.mean())

    def proven(self, rows: torch.Tensor) -> torch.Tensor:
        return diagonal_split.shrink_until_valid(self.matrix, rows)

    def shift(self, rows: Array) -> Shift:
        return Shift(rows, np.zeros((0, 0)))

    def of(self, shift: Shift) -> Array:
        return shift.common


def common_shift(matrix: Array, *, proven: bool = True) -> Shift | None:
    """Return the smallest eigenvalue of S for all rows; ``None`` when it is next to nothing.

    Without ``proven`` the one of a large matrix is left to be proven by whoever uses it; it nearly always can be.
    """
    tensor = torch.from_numpy(matrix)
    smallest = _smallest(tensor)
    if smallest is None:
        return None
    common = torch.full((len(matrix),), smallest, dtype=torch.float64)
    if proven or len(matrix) <= _EIGEN:
        common = diagonal_split.shrink_until_valid(tensor, common * (1.0 - 1e-9))
    if not float(common.max()) > _LEAST * float(tensor.diagonal().min()):
        return None
    return Shift(common.numpy(), np.zeros((0, 0)))


def _smallest(matrix: torch.Tensor) -> float | None:
    """Return about the smallest eigenvalue of S; ``None`` when it is next to nothing.

    For large matrices a little below it, from Lanczos steps with the inverse through one triangular factor, in float32:
    all eigenvalues would take many times as long.
    """
    p = len(matrix)
    if p <= _EIGEN:
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


def best_shift(
    matrix: Array,
    state: Array,
    bound: Callable[[Shift, Point], tuple[float, Point, Array]],
    start: Point,
    steps: int,
    first: Shift | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> Shift | None:
    """Return the shift with the best bound found, by Frank-Wolfe steps with a line search on the bound itself.

    Parameters
    ----------
    matrix : float64 array, shape (p, p)
    state : int8 array, shape (p, p)
        -1 for pairs that are off, 1 for kept ones, 0 for free ones.
    bound : callable
        The bound for a shift from a warm start, with the relaxation's solution and :func:`shift_weights` there.
    start : Point
    steps : int
    first : Shift, optional
        One that is valid already; default the uniform one.
    go_on : callable
        ``False`` ends the search with the best one so far.

    Returns
    -------
    Shift or None
        ``None`` when there is none worth its proof.
    """
    if len(matrix) > _COMMON:
        return common_shift(matrix)
    rows: _Rows | _Common = _Rows(matrix, state) if len(matrix) <= _ROWWISE else _Common(matrix)
    chosen = rows.uniform().numpy()
    if first is None and not chosen.max() > _LEAST * matrix.diagonal().min():
        return None
    best, point, weights = bound(rows.shift(chosen), start)
    if first is not None:
        found = bound(rows.shift(rows.of(first)), start)
        if found[0] > best:
            chosen, (best, point, weights) = rows.of(first), found
    if not chosen.max() > _LEAST * matrix.diagonal().min():
        return None
    size = _FIRST
    for _ in range(steps):
        if not weights.any() or not go_on():
            break
        toward = rows.steepest(weights).numpy()
        size = min(2.0 * size, _FIRST)
        while size >= _LAST:
            mixed = (1.0 - size) * chosen + size * toward
            found = bound(rows.shift(mixed), point)
            if found[0] > best + 1e-6 * abs(best):
                chosen, (best, point, weights) = mixed, found
                break
            size *= 0.5
        else:
            break
    return rows.shift(rows.proven(torch.from_numpy(chosen)).numpy())
