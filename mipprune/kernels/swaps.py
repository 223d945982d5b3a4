"""Exchanging kept and pruned entries of the rows of a quadratic until no exchange within a row helps.

For the kept set T of a row, P = H_TT^-1, refitted weights w_T and residual correlations r = (c - w) H, everything
needed is held in one table: row i of ``table`` is P_i for a kept entry and H_iT P for a pruned one (one column for each
slot of T), ``pivot`` is P_ii or the Schur complement H_ii - H_iT P H_Ti, and ``level`` is w_i or r_i. Removing a kept
entry costs ``level^2/pivot``, inserting a pruned one gains ``level^2/pivot``, and an exchange follows from both.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    order = torch.nn.functional.pad(order, (0, max(slots - width, 0)))[:, :slots]
    inside = torch.arange(slots, device=mask.device) < counts
    cross = gram[order] * inside.unsqueeze(2)  # (rows, slots, in)
    block = cross.gather(2, order.unsqueeze(1).expand(-1, slots, -1)) * inside.unsqueeze(1)
    factor, info = torch.linalg.cholesky_ex(block + torch.diag_embed((~inside).to(gram.dtype)))
    inverse = torch.cholesky_inverse(factor) * (inside.unsqueeze(1) & inside.unsqueeze(2))
    table = cross.mT @ inverse
    pivot = gram.diagonal() - (table * cross.mT).sum(dim=2)
    w_kept = (inverse @ (cross @ center.unsqueeze(2))).squeeze(2)
    position = torch.where(inside, order, width)
    w = torch.zeros(rows, width + 1, dtype=center.dtype, device=center.device).scatter_(1, position, w_kept)[:, :width]
    level = torch.where(mask, w, (center - w) @ gram)
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
    kernel = _compiled() if gram.device.type == "cpu" else None
    if kernel is None:
        from . import swaps_batched

        swaps_batched.search(gram, state, on, off, size=size, budget=budget, limit=limit, least=least, trace=trace)
        return
    matrix = gram.contiguous().numpy()
    arrays = [part.numpy() for part in (*state[:5], on.contiguous(), off.contiguous())]
    steps = [part.numpy() for part in trace]

    def task(first: int, last: int) -> None:
        own = [array[first:last] for array in arrays]
        kernel(matrix, *own, size, budget, limit, least, *(array[first:last] for array in steps))

    over_rows(task, len(on), chunk=max(1, min(4, len(on) // 4)))


@cache
def _compiled() -> Any:
    if find_spec("numba") is None:
        return None
    import numpy as np
    from numba import njit

    options: dict[str, Any] = {
        "cache": True,
        "nogil": True,
        "fastmath": {"contract", "reassoc", "nnan", "nsz", "arcp"},
        "error_model": "numpy",
    }

    @njit(**options)
    def remove(table, pivot, level, slot, entry, p):  # type: ignore[no-untyped-def]  # pragma: no cover
        width, slots = table.shape
        s = slot[p]
        own = table[p]
        inverse = 1.0 / pivot[p]
        ratio = level[p] * inverse
        for i in range(width):
            if i == p:
                continue
            here = table[i, s]
            factor = here * inverse
            if slot[i] >= 0:
                pivot[i] -= here * factor
                level[i] -= here * ratio
            else:
                pivot[i] += here * factor
                level[i] += here * ratio
            row = table[i]
            for c in range(slots):
                row[c] -= factor * own[c]
            row[s] = 0.0
        for c in range(slots):
            own[c] *= -inverse
        own[s] = 0.0
        pivot[p] = inverse
        level[p] = ratio
        slot[p] = -1
        entry[s] = -1

    @njit(**options)
    def insert(gram, table, pivot, level, slot, entry, j, s, inner):  # type: ignore[no-untyped-def]  # pragma: no cover
        width, slots = table.shape
        own = table[j]
        for c in range(slots):
            inner[c] = gram[j, entry[c]] if entry[c] >= 0 else 0.0
        inverse = 1.0 / pivot[j]
        ratio = level[j] * inverse
        for i in range(width):
            if i == j:
                continue
            row = table[i]
            if slot[i] >= 0:
                here = -own[slot[i]]
                factor = here * inverse
                pivot[i] += here * factor
                level[i] += here * ratio
            else:
                here = gram[j, i]
                for c in range(slots):
                    here -= row[c] * inner[c]
                factor = here * inverse
                pivot[i] -= here * factor
                level[i] -= here * ratio
            for c in range(slots):
                row[c] -= factor * own[c]
            row[s] = factor
        for c in range(slots):
            own[c] *= -inverse
        own[s] = inverse
        pivot[j] = inverse
        level[j] = ratio
        slot[j] = s
        entry[s] = j

    @njit(**options)
    def best_exchange(  # type: ignore[no-untyped-def]  # pragma: no cover
        table, pivot, level, slot, entry, on, off, size, cost, shift, weight
    ):
        """Return (change of the value, kept entry, pruned entry) of the best exchange within a group."""
        width, slots = table.shape
        for s in range(slots):
            p = entry[s]
            if p >= 0 and not on[p]:
                weight[s] = 1.0 / pivot[p]
                shift[s] = level[p] * weight[s]
                cost[s] = level[p] * shift[s]
            else:
                weight[s] = 0.0
                shift[s] = 0.0
                cost[s] = 1e300
        best = 0.0
        out = -1
        into = -1
        for j in range(width):
            if slot[j] >= 0 or off[j]:
                continue
            row = table[j]
            r = level[j]
            schur = pivot[j]
            if size == width:
                least = 1e300
                for s in range(slots):
                    moved = r + row[s] * shift[s]
                    change = cost[s] - moved * moved / (schur + row[s] * row[s] * weight[s])
                    least = min(least, change)
                if least < best:
                    for s in range(slots):
                        moved = r + row[s] * shift[s]
                        change = cost[s] - moved * moved / (schur + row[s] * row[s] * weight[s])
                        if change < best and entry[s] >= 0:
                            best = change
                            out = entry[s]
                            into = j
            else:
                first = j - j % size
                for i in range(first, first + size):
                    s = slot[i]
                    if s >= 0:
                        moved = r + row[s] * shift[s]
                        change = cost[s] - moved * moved / (schur + row[s] * row[s] * weight[s])
                        if change < best:
                            best = change
                            out = i
                            into = j
        return best, out, into

    @njit(**options)
    def best_insertion(pivot, level, slot, off, size, budget, count):  # type: ignore[no-untyped-def]  # pragma: no cover
        best = 0.0
        into = -1
        for j in range(slot.size):
            if slot[j] < 0 and not off[j] and count[j // size] < budget and pivot[j] > 0.0:
                gain = level[j] * level[j] / pivot[j]
                if gain > best:
                    best = gain
                    into = j
        return best, into

    @njit(**options)
    def search(  # type: ignore[no-untyped-def]  # pragma: no cover
        gram, table, pivot, level, slot, entry, on, off, size, budget, limit, least, insertions, gains, removals, costs
    ):
        rows, width, slots = table.shape
        depth = gains.shape[1]
        work = np.empty((3, slots), table.dtype)
        count = np.empty(width // size, np.int64)
        for r in range(rows):
            count[:] = 0
            for i in range(width):
                if slot[r, i] >= 0:
                    count[i // size] += 1
            free = 0
            while True:  # groups that are not full
                gain, j = best_insertion(pivot[r], level[r], slot[r], off[r], size, budget, count)
                while free < slots and entry[r, free] >= 0:
                    free += 1
                if j < 0 or gain <= least or free == slots:
                    break
                insert(gram, table[r], pivot[r], level[r], slot[r], entry[r], j, free, work[0])
                count[j // size] += 1
            for _ in range(limit):
                change, p, j = best_exchange(
                    table[r], pivot[r], level[r], slot[r], entry[r], on[r], off[r], size, work[0], work[1], work[2]
                )
                if p < 0 or change > -least:
                    break
                s = slot[r, p]
                remove(table[r], pivot[r], level[r], slot[r], entry[r], p)
                insert(gram, table[r], pivot[r], level[r], slot[r], entry[r], j, s, work[0])
            if depth == 0:
                continue
            table2, pivot2, level2 = table[r].copy(), pivot[r].copy(), level[r].copy()
            slot2, entry2 = slot[r].copy(), entry[r].copy()
            count[:] = -width  # the layer's budget is not the row's
            for step in range(depth):
                gain, j = best_insertion(pivot2, level2, slot2, off[r], size, 0, count)
                free = 0
                while free < slots and entry2[free] >= 0:
                    free += 1
                if j < 0 or free == slots:
                    break
                insertions[r, step] = j
                gains[r, step] = gain
                insert(gram, table2, pivot2, level2, slot2, entry2, j, free, work[0])
            table2[:] = table[r]
            pivot2[:] = pivot[r]
            level2[:] = level[r]
            slot2[:] = slot[r]
            entry2[:] = entry[r]
            for step in range(depth):
                best = np.inf
                p = -1
                for i in range(width):
                    if slot2[i] >= 0 and not on[r, i]:
                        price = level2[i] * level2[i] / pivot2[i]
                        if price < best:
                            best = price
                            p = i
                if p < 0:
                    break
                removals[r, step] = p
                costs[r, step] = best
                remove(table2, pivot2, level2, slot2, entry2, p)

    return search
