"""Exchanging kept and pruned entries of the rows of a quadratic until no exchange within a row helps.

For the kept set T of a row, P = H_TT^-1, refitted weights w_T and residual correlations r = (c - w) H, everything
needed is held in one table: row i of ``table`` is P_i for a kept entry and H_iT P for a pruned one (one column for each
slot of T), ``pivot`` is P_ii or the Schur complement H_ii - H_iT P H_Ti, and ``level`` is w_i or r_i. Removing a kept
entry costs ``level^2/pivot``, inserting a pruned one gains ``level^2/pivot``, and an exchange follows from both.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .compiling import has_numba
from .threads import over_rows

__all__ = ["Rows", "Trace", "prepare", "search"]


class Rows(NamedTuple):
    """State of a batch of rows."""

    table: Tensor
    """(rows, in, slots)"""
    pivot: Tensor
    """(rows, in)"""
    level: Tensor
    """(rows, in)"""
    slot: Tensor
    """int64 (rows, in): slot of a kept entry, -1 for a pruned one"""
    entry: Tensor
    """int64 (rows, slots): kept entry of a slot, -1 for a free slot"""
    sound: Tensor
    """bool (rows,): the factorisation succeeded"""


class Trace(NamedTuple):
    """Greedy steps away from the local optimum of each row, (rows, depth) each; unused ones are -1, 0 and +inf."""

    insertions: Tensor
    gains: Tensor
    removals: Tensor
    costs: Tensor

    @classmethod
    def empty(cls, rows: int, depth: int, like: Tensor) -> Trace:
        """Return an unused trace in the precision and on the device of ``like``."""
        index = torch.full((rows, depth), -1, dtype=torch.int64, device=like.device)
        gains = torch.zeros(rows, depth, dtype=like.dtype, device=like.device)
        return cls(index, gains, index.clone(), torch.full_like(gains, torch.inf))


def prepare(gram: Tensor, center: Tensor, mask: Tensor, slots: int) -> Rows:
    """Build the state of a batch of rows.

    Parameters
    ----------
    gram : Tensor, shape (in, in)
    center : Tensor, shape (rows, in)
    mask : bool Tensor, shape (rows, in)
        Kept entries, at most ``slots`` in each row.
    slots : int
        Columns of the table; free ones leave room for insertions.
    """
    rows, width = center.shape
    counts = mask.sum(dim=1, keepdim=True)
    order = torch.argsort(mask.to(torch.int8), dim=1, descending=True, stable=True)
    others = order[:, int(counts.min()) :]  # those that some row prunes
    order = torch.nn.functional.pad(order, (0, max(slots - width, 0)))[:, :slots]
    inside = torch.arange(slots, device=mask.device) < counts
    both = inside.unsqueeze(1) & inside.unsqueeze(2)
    block = torch.where(both, gram[order.unsqueeze(2), order.unsqueeze(1)], 0.0)
    factor, info = torch.linalg.cholesky_ex(block + torch.diag_embed((~inside).to(gram.dtype)))
    inverse = torch.cholesky_inverse(factor) * both
    position = torch.where(inside, order, width)
    w_kept = (inverse @ (center @ gram).gather(1, order).unsqueeze(2)).squeeze(2)
    w = torch.zeros(rows, width + 1, dtype=center.dtype, device=center.device).scatter_(1, position, w_kept)[:, :width]
    level = torch.where(mask, w, (center - w) @ gram)
    cross = torch.where(inside.unsqueeze(1), gram[others.unsqueeze(2), order.unsqueeze(1)], 0.0)
    outside = cross @ inverse
    table = torch.empty(rows, width, slots, dtype=gram.dtype, device=gram.device)
    table.scatter_(1, others.unsqueeze(2).expand_as(outside), outside)
    pivot = gram.diagonal().repeat(rows, 1)
    pivot.scatter_add_(1, others, -outside.mul_(cross).sum(dim=2))
    row, column = inside.nonzero(as_tuple=True)
    kept = order[row, column]
    table[row, kept] = inverse[row, column]
    pivot[row, kept] = inverse[row, column, column]
    slot = torch.full((rows, width), -1, dtype=torch.int64, device=mask.device)
    slot[row, kept] = column
    return Rows(table, pivot, level, slot, torch.where(inside, order, -1), info == 0)


def search(
    gram: Tensor,
    state: Rows,
    on: Tensor,
    off: Tensor,
    *,
    size: int,
    budget: int,
    limit: int,
    least: float,
    trace: Trace,
) -> None:
    """Overwrite ``state`` by local optima with respect to single exchanges, and record greedy steps from there.

    Parameters
    ----------
    gram : Tensor, shape (in, in)
    state : Rows
        Of :func:`prepare`.
    on, off : bool Tensor, shape (rows, in)
        Entries that stay and entries that never come in.
    size : int
        Exchanges stay within groups of this many consecutive inputs.
    budget : int
        Groups with fewer kept entries are filled first; 0 when there is no budget within rows.
    limit : int
        Most exchanges of a row.
    least : float
        Smallest decrease that counts.
    trace : Trace
        Filled in as deep as it is.
    """
    if gram.device.type != "cpu" or not has_numba():
        from . import swaps_batched

        swaps_batched.search(gram, state, on, off, size=size, budget=budget, limit=limit, least=least, trace=trace)
        return
    from .swaps_compiled import search as kernel

    matrix = gram.contiguous().numpy()
    arrays = [part.numpy() for part in (*state[:5], on.contiguous(), off.contiguous())]
    steps = [part.numpy() for part in trace]

    def task(first: int, last: int) -> None:
        own = [array[first:last] for array in arrays]
        kernel(matrix, *own, size, budget, limit, least, *(array[first:last] for array in steps))

    over_rows(task, len(on), chunk=max(1, min(4, len(on) // 4)))
