"""Cells of a graphical model's search space, bounded row by row with curvature moved into the penalties."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.loss import Appraisal, Cells
from ..core.rational import rational
from ..kernels import diagonal_split
from ..kernels.graph_appraisal import Shift, appraise, diagonal_guess
from ..kernels.graph_local import proves_rows
from ..kernels.pairs import split_pairs

if TYPE_CHECKING:
    from .pseudo_likelihood import PseudoLikelihood

__all__ = ["appraise_cells", "proves_shift", "rational_cell", "shift_of"]

Array = np.ndarray[Any, Any]

_LARGE, _FEW = 128, 0.5  # nodes beyond which, and share of them up to which, rows are proven from the inverse of S
_ROWS = 1 << 23  # numbers in one batch of matrices whose semidefiniteness is proven


def shift_of(split: Tensor | None, p: int) -> Shift:
    """Return the shift that a split row stands for: ``common`` (p,), then ``extra`` (p, p); ``None``: no shift."""
    if split is None:
        return Shift.none(p)
    common, extra = split[:p].numpy(), split[p:].numpy().reshape(p, p)
    return Shift(np.ascontiguousarray(common), np.ascontiguousarray(extra) if extra.any() else np.zeros((0, 0)))


def proves_shift(loss: PseudoLikelihood, split: Tensor, allowed: Tensor) -> bool:
    """Tell whether S without row and column i, less ``Diag(D_i)``, is proven positive semidefinite for every i.

    ``allowed`` (size,) are the pairs that are not off: row i only matters on its own ones.
    """
    p, (whole, members) = loss.nodes, loss.frame
    matrix, nodes = torch.from_numpy(whole), torch.from_numpy(members)
    common, extra = split[:p], split[p:].reshape(p, p)
    if not bool((extra != 0).any()):
        everywhere = torch.zeros(len(matrix), dtype=torch.float64)
        everywhere[nodes] = common
        if diagonal_split.is_valid(matrix, everywhere):
            return True
    i, j = (torch.from_numpy(part) for part in split_pairs(np.arange(allowed.numel()), p))
    own = torch.zeros((p, p), dtype=torch.bool)
    own[i, j] = own[j, i] = allowed
    inside = torch.ones((p, len(matrix)), dtype=torch.bool)
    inside[:, nodes] = own
    shift = torch.zeros((p, len(matrix)), dtype=torch.float64)
    shift[:, nodes] = torch.where(own, common + extra, 0.0)
    few = int((shift > 0).sum(dim=1).max()) <= _FEW * len(matrix)
    inverse = loss.inverse if few and len(matrix) > _LARGE else None
    if inverse is not None and bool(proves_rows(inverse, shift, nodes).all()):
        return True
    step = max(1, _ROWS // len(matrix) ** 2)
    return all(
        diagonal_split.is_valid(matrix, shift[first : first + step], inside[first : first + step])
        for first in range(0, p, step)
    )


def appraise_cells(
    loss: PseudoLikelihood,
    points: Tensor,
    cells: Cells,
    price: Tensor,
    lower: Tensor,
    upper: Tensor,
    parts: bool,
) -> Appraisal:
    """See :meth:`Loss.appraise`."""
    bounds, kept, gone = [], [], []
    fixed = (cells.on.to(torch.int8) - cells.off.to(torch.int8)).numpy()
    for row, point in enumerate(points.numpy()):
        entries = np.flatnonzero(point)
        found = appraise(
            loss.matrix,
            loss.largest,
            entries,
            point[entries],
            np.ascontiguousarray(fixed[row]),
            shift_of(None if cells.splits is None else cells.splits[row], loss.nodes),
            loss.penalties(price, lower[row], upper[row]),
            parts=parts,
        )
        bounds.append(found.bound)
        kept.append(torch.from_numpy(found.if_on))
        gone.append(torch.from_numpy(found.if_off))
    return Appraisal(torch.tensor(bounds, dtype=torch.float64), torch.stack(kept), torch.stack(gone))


def rational_cell(
    loss: PseudoLikelihood, point: Tensor, cells: Cells, price: Tensor, lower: Tensor, upper: Tensor
) -> tuple[Fraction, list[Fraction], list[Fraction]]:
    """See :meth:`Loss.rational_appraise`."""
    from ..kernels.graph_bound import GRID
    from .graph_rational import Data, exact_appraisal

    p = loss.nodes
    i, j = split_pairs(np.arange(point.numel()), p)

    def square(values: Any, kind: Any) -> Array:
        out = np.zeros((p, p), dtype=kind) if kind is not object else np.full((p, p), Fraction(0), dtype=object)
        out[i, j] = out[j, i] = values
        return out

    fixed = (cells.on[0].to(torch.int8) - cells.off[0].to(torch.int8)).numpy()
    shift = shift_of(None if cells.splits is None else cells.splits[0], p)
    entries = np.flatnonzero(point.numpy())
    theta = diagonal_guess(
        loss.matrix, entries, point.numpy()[entries], shift, loss.penalties(price, lower[0], upper[0])
    )
    nodes = np.arange(p)
    moved = shift.at(nodes[:, None], nodes[None, :])
    data = Data(
        matrix=rational(torch.from_numpy(loss.matrix)),
        values=square(rational(point), object),
        theta=theta.tolist(),
        shift=rational(torch.from_numpy(np.broadcast_to(moved, (p, p)).copy())),
        fixed=square(fixed, np.int64),
        price=square(rational(price), object),
        ridge=square(np.broadcast_to(rational(torch.as_tensor(loss.ridge)), i.shape), object),
        lower=square(lower[0].numpy(), np.float64),
        upper=square(upper[0].numpy(), np.float64),
        grid=GRID.tolist(),
    )
    total, on, off = exact_appraisal(data)
    return total, list(total + on[i, j] + on[j, i]), list(total + off[i, j] + off[j, i])
