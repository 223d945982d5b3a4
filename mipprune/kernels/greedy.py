"""Greedy removal of the entries of rows of a quadratic, always the one that costs least (optimal brain surgeon)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .compiling import compiled_if_possible, has_numba
from .threads import over_rows

__all__ = ["Traces", "removal_traces"]

_BATCH_ENTRIES = 1 << 27  # of the inverse matrices held at a time by the batched path (1 GiB of float64)


class Traces(NamedTuple):
    """In which order each row lost its entries, and what each removal cost."""

    order: Tensor
    """int64 (rows, steps): inputs; -1 after the last removal"""
    cost: Tensor
    """(rows, steps): increase of the refitted value; -inf for entries fixed off, +inf after the last removal"""


@cache
def _compiled() -> Any:
    if not has_numba():
        return None
    import numpy as np

    @compiled_if_possible(fastmath={"contract", "reassoc"})
    def trace(inverse, weight, on, off, size, budget, order, cost):  # type: ignore[no-untyped-def]  # pragma: no cover
        rows, width = weight.shape
        matrix = np.empty((width, width), inverse.dtype)  # the lower triangle of the leading block is what is left
        left = np.empty(width // size, np.int64)
        inputs = np.empty(width, np.int64)
        w = np.empty(width, inverse.dtype)
        column = np.empty(width, inverse.dtype)
        for row in range(rows):
            matrix[:] = inverse
            left[:] = size
            w[:] = weight[row]
            for i in range(width):
                inputs[i] = i
            active = width
            for step in range(order.shape[1]):
                best = np.inf
                p = -1
                for i in range(active):
                    entry = inputs[i]
                    if off[row, entry]:
                        p = i
                        best = -np.inf
                        break
                    if left[entry // size] > budget and not on[row, entry]:
                        price = w[i] * w[i] / matrix[i, i]
                        if price < best or (price == best and entry < inputs[p]):
                            best = price
                            p = i
                if p < 0:
                    break
                order[row, step] = inputs[p]
                cost[row, step] = best
                left[inputs[p] // size] -= 1
                for j in range(p + 1):
                    column[j] = matrix[p, j]
                for j in range(p + 1, active):
                    column[j] = matrix[j, p]
                pivot = column[p]
                ratio = w[p] / pivot
                for j in range(active):
                    w[j] -= ratio * column[j]
                # The last entry moves into the gap, so that what is left stays one block.
                active -= 1
                inputs[p] = inputs[active]
                w[p] = w[active]
                column[p] = column[active]
                for j in range(p):
                    matrix[p, j] = matrix[active, j]
                matrix[p, p] = matrix[active, active]
                for j in range(p + 1, active):
                    matrix[j, p] = matrix[active, j]
                for i in range(active):
                    factor = column[i] / pivot
                    for j in range(i + 1):
                        matrix[i, j] -= factor * column[j]

    return trace


def _batched(
    inverse: Tensor, weight: Tensor, on: Tensor, off: Tensor, size: int, budget: int, order: Tensor, cost: Tensor
) -> None:
    """The same for a batch of rows in lockstep, with torch operations on any device."""
    rows, width = weight.shape
    matrix = inverse.expand(rows, width, width).clone()
    w = weight.clone()
    gone = torch.zeros_like(on)
    number = torch.arange(rows, device=w.device)
    for step in range(order.shape[1]):
        left = (~gone).reshape(rows, -1, size).sum(dim=2, keepdim=True)
        open_groups = (left > budget).expand(-1, -1, size).reshape(rows, width)
        price = w.square() / torch.diagonal(matrix, dim1=1, dim2=2).clamp_min(torch.finfo(w.dtype).tiny)
        price = torch.where(gone | on | ~open_groups, torch.inf, price)
        price = torch.where(off & ~gone, -torch.inf, price)
        best, p = price.min(dim=1)
        alive = best < torch.inf
        order[:, step] = torch.where(alive, p, -1)
        cost[:, step] = best
        column = matrix[number, p]
        pivot = column.gather(1, p[:, None])
        scaled = torch.where(alive[:, None], column / pivot, 0.0)
        w -= scaled * w.gather(1, p[:, None])
        matrix.baddbmm_(scaled.unsqueeze(2), column.unsqueeze(1), alpha=-1.0)
        gone[number, p] |= alive
        w[gone] = 0.0


def removal_traces(
    inverse: Tensor,
    weight: Tensor,
    *,
    size: int,
    budget: int,
    on: Tensor | None = None,
    off: Tensor | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> Traces:
    """Remove entry after entry from each row, refitting the rest, until no group has more than its budget.

    Parameters
    ----------
    inverse : Tensor, shape (in, in)
        H^-1.
    weight : Tensor, shape (out, in)
        Unconstrained minimiser C.
    size, budget : int
        Entries of a group of consecutive inputs, and how many of them stay.
    on, off : bool Tensor, shape (out, in), optional
        Entries that stay and entries that go first.
    go_on : callable
        Asked from time to time; once ``False``, the remaining rows are ordered by their first costs alone.

    Notes
    -----
    With A the inverse of H on what is left, removing i costs ``w_i^2/A_ii``; then ``w -= A_:i w_i/A_ii`` and
    ``A -= A_:i A_i:/A_ii`` (arXiv 2208.11580). A row costs in^3/6 multiplications.
    """
    rows, width = weight.shape
    on = torch.zeros_like(weight, dtype=torch.bool) if on is None else on.to(weight.device)
    off = torch.zeros_like(on) if off is None else off.to(weight.device)
    steps = width if budget == 0 or bool(off.any()) else width // size * max(size - budget, 0)
    order = torch.full((rows, steps), -1, dtype=torch.int64, device=weight.device)
    cost = torch.full((rows, steps), torch.inf, dtype=weight.dtype, device=weight.device)
    kernel = _compiled() if weight.device.type == "cpu" and weight.numel() >= 1 << 12 else None
    if kernel is None:
        done, chunk = 0, max(1, _BATCH_ENTRIES // width**2)
        while done < rows and go_on():
            part = slice(done, done + chunk)
            _batched(inverse, weight[part], on[part], off[part], size, budget, order[part], cost[part])
            done = min(done + chunk, rows)
    else:
        arrays = [t.detach().contiguous().numpy() for t in (weight, on, off, order, cost)]
        matrix = inverse.detach().contiguous().numpy()

        def task(first: int, last: int) -> None:
            w, keep, drop, into, price = (array[first:last] for array in arrays)
            kernel(matrix, w, keep, drop, size, budget, into, price)

        done = over_rows(task, rows, chunk=max(1, min(8, rows // (2 * torch.get_num_threads()))), go_on=go_on)
    if done < rows:
        late = slice(done, rows)
        _by_first_cost(inverse, weight[late], on[late], off[late], size, budget, order[late], cost[late])
    return Traces(order, cost)


def _by_first_cost(
    inverse: Tensor, weight: Tensor, on: Tensor, off: Tensor, size: int, budget: int, order: Tensor, cost: Tensor
) -> None:
    """Order by the cost of removing each entry alone, for rows that time did not suffice for."""
    rows, width = weight.shape
    price = weight.square() / inverse.diagonal()
    price = torch.where(off, -torch.inf, torch.where(on, torch.inf, price))
    grouped = price.reshape(rows, -1, size)
    rank = grouped.argsort(dim=2, stable=True).argsort(dim=2)
    stays = ((rank >= size - budget) & ~off.reshape(grouped.shape)).reshape(rows, width)
    price = torch.where(stays, torch.inf, price)
    ordered = price.sort(dim=1, stable=True)
    cost.copy_(ordered.values[:, : cost.shape[1]])
    order.copy_(torch.where(cost == torch.inf, -1, ordered.indices[:, : order.shape[1]]))
