"""The midpoint sweeps in torch operations: any device, blocks in lockstep, finished ones taken out of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sweep_batched"]


def _middle(table: Tensor, count: int, dim: int) -> Tensor:
    """Midpoint of the ``count``-th and the next largest entries along ``dim``."""
    size = table.shape[dim]
    if 2 * count <= size:
        ends = torch.topk(table, count + 1, dim=dim).values.narrow(dim, count - 1, 2)
    else:
        ends = torch.topk(table, size - count + 1, dim=dim, largest=False).values.narrow(dim, size - count - 1, 2)
    return ends.sum(dim=dim, dtype=torch.int32) >> 1


def _wrong(kept: Tensor, count: int, potential: Tensor, at_most: bool) -> Tensor:
    """Lines that keep too many or too few."""
    short = kept < count
    if at_most:
        short &= potential > 0
    return short | (kept > count)


def _moved(potential: Tensor, middle: Tensor, first: bool, relax: int, clamp: bool) -> Tensor:
    if clamp:
        middle = middle.clamp_min(0)
    if first:
        return middle
    step = middle - potential
    moved = potential + step + (step >> relax)
    return moved.clamp_min(0) if clamp else moved


def sweep_batched(
    codes: Tensor,
    count: int,
    rows: Tensor,
    columns: Tensor,
    *,
    at_most: bool,
    first_sweep: int,
    eager_at: int,
    sweeps: int,
    balance_at: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the sweeps; the same numbers as the compiled kernel.

    Parameters
    ----------
    codes : int32 Tensor, shape (blocks, size, size)
    count : int
    rows, columns : int32 Tensor, shape (blocks, size)
        Potentials to start from.
    at_most : bool
    first_sweep, sweeps : int
        The sweeps are numbered from ``first_sweep`` (0 for a cold start) up to ``sweeps``.
    eager_at : int
        The over-relaxation is 1.25 before this sweep, which suits the first steps, and from it on 1.5, which suits the
        long chains of entries that are left.
    balance_at : int
        The sweep at which the potentials are balanced and from which on they stay >= 0, where ``at_most``.

    Returns
    -------
    mask : bool Tensor, shape (blocks, size, size)
    rows, columns : int32 Tensor, shape (blocks, size)
    used : int32 Tensor, shape (blocks,)
        Sweeps made in each block.
    """
    a, u, v = codes, rows, columns
    rows, columns = rows.clone(), columns.clone()
    used = torch.zeros(len(codes), dtype=torch.int32, device=codes.device)
    index = torch.arange(len(codes), device=codes.device)
    for sweep in range(first_sweep, sweeps + 1):
        clamp, relax = at_most and sweep >= balance_at, 2 if sweep < eager_at else 1
        if at_most and sweep == balance_at:
            shift = (v.amin(dim=1, keepdim=True) - u.amin(dim=1, keepdim=True)) >> 1
            u, v = (u + shift).clamp_min(0), (v - shift).clamp_min(0)
        table = a - v.unsqueeze(1)
        if clamp or not at_most:
            kept = table > u.unsqueeze(2)
            wrong = _wrong(kept.sum(dim=2), count, u, at_most).any(dim=1)
            left = wrong | _wrong(kept.sum(dim=1), count, v, at_most).any(dim=1)
            if not bool(left.all()):
                rows[index], columns[index] = u, v
                index, a, u, v, table = index[left], a[left], u[left], v[left], table[left]
        if sweep == sweeps or len(index) == 0:
            break
        u = _moved(u, _middle(table, count, 2), sweep == 0, relax, clamp)
        v = _moved(v, _middle(a - u.unsqueeze(2), count, 1), sweep == 0, relax, clamp)
        used[index] += 1
    rows[index], columns[index] = u, v
    return (codes - rows.unsqueeze(2) - columns.unsqueeze(1)) > 0, rows, columns, used
