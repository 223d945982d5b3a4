"""What nodes of a tree prove when the loss bounds cells and their parts by itself, see :meth:`Loss.appraise`."""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from ..errors import CertificateError
from .loss import Appraisal, Cells, Loss
from .replay import OFF, ON, Step

__all__ = ["appraised_claims", "rational_claims_of"]


def appraised_claims(
    loss: Loss,
    points: Tensor,
    cells: Cells,
    price: Tensor,
    sides: tuple[Tensor, Tensor],
    table: Appraisal,
    steps: Step,
    leaf: Tensor,
) -> Tensor:
    """Return the least bound over the parts that each node discards and, at a leaf, over what is left.

    Parameters
    ----------
    points, cells, price, sides
        As given to :meth:`Loss.appraise`.
    table : Appraisal
        Its answer.
    steps : Step
        Those of all nodes; they fix entries and do nothing else.
    leaf : bool Tensor, shape (B,)
    """
    if bool((steps.kind > ON).any()):
        raise CertificateError("tree: a step narrows an interval, for which this loss has no bound")
    least = torch.full((len(points),), math.inf, dtype=torch.float64)
    gone = steps.kind == OFF
    if len(steps.row):
        parts = torch.where(gone, table.if_on[steps.row, steps.entry], table.if_off[steps.row, steps.entry])
        least.scatter_reduce_(0, steps.row, parts, "amin")
    own = table.bound.clone()
    rows = torch.unique(steps.row[leaf[steps.row]])
    if len(rows):  # leaves with steps: the same point again, in the state in which they leave it
        on, off = cells.on.clone(), cells.off.clone()
        on[steps.row[~gone], steps.entry[~gone]] = True
        off[steps.row[gone], steps.entry[gone]] = True
        splits = None if cells.splits is None else cells.splits[rows]
        left = torch.where(off, 0.0, points)[rows]
        again = loss.appraise(
            left, Cells(on[rows], off[rows], splits), price, sides[0][rows], sides[1][rows], parts=False
        )
        assert again is not None
        own[rows] = again.bound
    return torch.where(leaf, torch.minimum(least, own), least)


def rational_claims_of(
    loss: Loss,
    point: Tensor,
    cell: Cells,
    price: Tensor,
    sides: tuple[Tensor, Tensor],
    steps: list[tuple[int, int]],
    leaf: bool,
) -> list[Fraction] | None:
    """Return the exact bounds of all parts of one node (B = 1), or ``None`` when the loss has none of its own.

    ``steps`` holds (entry, kind).
    """
    if any(kind > ON for _, kind in steps):
        return None
    found = loss.rational_appraise(point, cell, price, *sides)
    if found is None:
        return None
    parts = [(found[1] if kind == OFF else found[2])[entry] for entry, kind in steps]
    if leaf and steps:
        on, off = cell.on.clone(), cell.off.clone()
        for entry, kind in steps:
            (off if kind == OFF else on)[0, entry] = True
        left = torch.where(off[0], 0.0, point)
        found = loss.rational_appraise(left, Cells(on, off, cell.splits), price, *sides)
        assert found is not None
    return [*parts, found[0]] if leaf else parts
