"""Eliminating fixed entries of rows of a quadratic: zero entries dropped, kept entries minimised out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Reduced", "eliminate", "recover"]


class Reduced(NamedTuple):
    """Row-wise quadratics of the free entries; rows and columns of the others are zero."""

    gram: Tensor
    """(out, in, in)"""
    center: Tensor
    """(out, in), 0 on entries that are not free"""
    offset: float


def _restricted(gram: Tensor, keep: Tensor) -> Tensor:
    """``gram`` with rows and columns outside ``keep`` (out, in) replaced by those of the identity."""
    gram = gram.expand(keep.shape[0], *gram.shape[-2:])
    inside = keep.unsqueeze(-1) & keep.unsqueeze(-2)
    return torch.where(inside, gram, 0.0) + torch.diag_embed((~keep).to(gram.dtype))


def _zero_entries_dropped(gram: Tensor, center: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
    """New center and offset when the entries of ``off`` are zero: (out, in) and (out,)."""
    allowed = ~off
    dropped = torch.where(off, center, 0.0)
    pull = (dropped.unsqueeze(1) @ gram.expand(len(center), *gram.shape[-2:])).squeeze(1)  # H_{:,off} c_off
    shift = torch.linalg.solve(_restricted(gram, allowed), torch.where(allowed, pull, 0.0))
    offset = (dropped * pull).sum(dim=1) - (shift * pull).sum(dim=1)
    return torch.where(allowed, center + shift, 0.0), offset


def eliminate(gram: Tensor, center: Tensor, on: Tensor, off: Tensor) -> Reduced:
    """Return the quadratic of the free entries.

    Parameters
    ----------
    gram : float64 Tensor, shape (in, in) or (out, in, in)
        Positive definite.
    center : float64 Tensor, shape (out, in)
    on, off : bool Tensor, shape (out, in)
        Entries minimised out and entries that are zero.
    """
    moved, offset = _zero_entries_dropped(gram, center, off)
    free = ~(on | off)
    rows = gram.expand(len(center), *gram.shape[-2:])
    cross = torch.where(on.unsqueeze(-1) & free.unsqueeze(-2), rows, 0.0)
    schur = torch.where(free.unsqueeze(-1) & free.unsqueeze(-2), rows, 0.0)
    schur = schur - cross.mT @ torch.linalg.solve(_restricted(gram, on), cross)
    return Reduced(0.5 * (schur + schur.mT), torch.where(free, moved, 0.0), float(offset.clamp_min(0).sum()))


def recover(gram: Tensor, center: Tensor, v: Tensor, on: Tensor, off: Tensor) -> Tensor:
    """Return the full point whose free entries are those of ``v`` and whose kept entries minimise the quadratic."""
    moved, _ = _zero_entries_dropped(gram, center, off)
    free = ~(on | off)
    step = torch.where(free, v - moved, 0.0)
    rows = gram.expand(len(center), *gram.shape[-2:])
    pull = (step.unsqueeze(1) @ rows).squeeze(1)
    change = torch.linalg.solve(_restricted(gram, on), torch.where(on, pull, 0.0))
    return torch.where(free, v, torch.where(on, moved - change, 0.0))
