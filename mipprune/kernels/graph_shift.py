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
from .graph_local import ALL, Inverse, proves_rows, smallest_eigenvalue
from .pairs import split_pairs

__all__ = ["best_shift", "common_shift", "shares_of", "shift_weights"]

Array = np.ndarray[Any, Any]
Point = tuple[Array, Array]

_FIRST, _LAST = 0.8, 0.05  # sizes of a step towards the steepest shift
_ROWWISE = 128  # nodes up to which each row gets a diagonal of its own
_PAIRS = 128  # pairs in such a diagonal, at most
_NEAR = 0.5  # slope, in units of that at which a pair enters the relaxation, from which on it is worth curvature
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


class _Local(_Rows):
    """Rows of a larger graph, each with curvature for few of its pairs; from the inverse of S."""

    def __init__(self, inverse: Inverse, state: Array, near: Array) -> None:
        self.inverse, self.state = inverse, state
        p, whole = len(state), inverse.matrix
        self.matrix = whole  # of the shape that is wanted
        self.free, self.parts = [], []
        near = np.where(state == 0, near, 0.0)
        np.fill_diagonal(near, 0.0)
        for i in range(p):
            nodes = np.argsort(-near[i], kind="stable")[:_PAIRS]
            nodes = np.sort(nodes[near[i, nodes] >= _NEAR])
            across = whole[i, nodes]
            self.free.append(nodes)
            self.parts.append(torch.linalg.inv(whole[nodes][:, nodes] - torch.outer(across, across) / whole[i, i]))
        self.parts = [0.5 * (part + part.mT) for part in self.parts]

    def proven(self, rows: torch.Tensor) -> torch.Tensor:
        rows, left = rows.clone(), torch.arange(len(rows))
        original = rows.clone()
        for loss in (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0):
            rows[left] = (1.0 - loss) * original[left]
            left = left[~proves_rows(self.inverse, rows[left], left)]
            if not len(left):
                break
        return rows

    def of(self, shift: Shift) -> Array:
        """Return a shift as rows, on the pairs that get one."""
        every, out = super().of(shift), np.zeros(self.state.shape)
        for i, nodes in enumerate(self.free):
            out[i, nodes] = every[i, nodes]
        return out


class _Common(_Rows):
    """One diagonal for all rows of a larger graph."""

    def __init__(self, matrix: Array) -> None:
        self.matrix = torch.from_numpy(matrix)

    def uniform(self) -> torch.Tensor:
        """Return the smallest eigenvalue of S, or a little less, for every node."""
        return torch.full((len(self.matrix),), max(smallest_eigenvalue(self.matrix) or 0.0, 0.0), dtype=torch.float64)

    def steepest(self, weights: Array) -> torch.Tensor:
        """Return a valid diagonal that nearly maximises the weighted sum."""
        weight = torch.from_numpy(weights.sum(axis=0))
        return diagonal_split.maximise(self.matrix, weight + 0.05 * weight.mean())

    def proven(self, rows: torch.Tensor) -> torch.Tensor:
        """Shrink the diagonal a little until the proof goes through."""
        return diagonal_split.shrink_until_valid(self.matrix, rows)

    def shift(self, rows: Array) -> Shift:
        """Return the diagonal as a shift."""
        return Shift(rows, np.zeros((0, 0)))

    def of(self, shift: Shift) -> Array:
        """Return what all rows of a shift share."""
        return shift.common


def common_shift(matrix: Array, *, proven: bool = True) -> Shift | None:
    """Return the smallest eigenvalue of S for all rows; ``None`` when it is next to nothing.

    Without ``proven`` the one of a large matrix is left to be proven by whoever uses it; it nearly always can be.
    """
    tensor = torch.from_numpy(matrix)
    smallest = smallest_eigenvalue(tensor)
    if smallest is None:
        return None
    common = torch.full((len(matrix),), smallest, dtype=torch.float64)
    if proven or len(matrix) <= ALL:
        common = diagonal_split.shrink_until_valid(tensor, common * (1.0 - 1e-9))
    if not float(common.max()) > _LEAST * float(tensor.diagonal().min()):
        return None
    return Shift(common.numpy(), np.zeros((0, 0)))


def best_shift(
    matrix: Array,
    state: Array,
    bound: Callable[[Shift, Point], tuple[float, Point, Array]],
    start: Point,
    steps: int,
    first: Shift | None = None,
    go_on: Callable[[], bool] = lambda: True,
    local: Callable[[], tuple[Inverse, Array] | None] = lambda: None,
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
    local : callable, optional
        For larger graphs: the inverse of S, and :func:`~mipprune.kernels.graph_local.candidates`, (p, p).

    Returns
    -------
    Shift or None
        ``None`` when there is none worth its proof.
    """
    if len(matrix) <= _ROWWISE:
        kinds: list[_Rows] = [_Rows(matrix, state)]
    else:
        found = local()
        if found is None and len(matrix) > ALL:
            return common_shift(matrix)
        kinds = [_Common(matrix), *([] if found is None else [_Local(found[0], state, found[1])])]
    begun = []
    for kind in kinds:
        uniform = kind.uniform().numpy()
        if uniform.max() > _LEAST * matrix.diagonal().min() or first is not None:
            begun.append((kind, uniform, bound(kind.shift(uniform), start)))
        if not go_on():
            break
    if not begun:
        return None
    rows, chosen, (best, point, weights) = max(begun, key=lambda item: item[2][0])
    if first is not None:
        again = bound(rows.shift(rows.of(first)), start)
        if again[0] > best:
            chosen, (best, point, weights) = rows.of(first), again
    if not chosen.max() > _LEAST * matrix.diagonal().min():
        return None
    size = _FIRST
    for _ in range(steps):
        if not weights.any() or not go_on():
            break
        toward = rows.steepest(weights).numpy()
        size = min(2.0 * size, _FIRST)
        while size >= _LAST and go_on():
            mixed = (1.0 - size) * chosen + size * toward
            again = bound(rows.shift(mixed), point)
            if again[0] > best + 1e-6 * abs(best):
                chosen, (best, point, weights) = mixed, again
                break
            size *= 0.5
        else:
            break
    return rows.shift(rows.proven(torch.from_numpy(chosen)).numpy())
