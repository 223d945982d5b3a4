"""The search of :mod:`~mipprune.kernels.swaps` for many rows in lockstep, with torch operations on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from .swaps import Rows, Trace

__all__ = ["Lockstep", "search"]


class Lockstep:
    """The state of a batch of rows with its two updates; rows that are not ``active`` stand still."""

    def __init__(self, gram: Tensor, state: Rows) -> None:
        self.gram, self.state = gram, state
        self.number = torch.arange(len(state.slot), device=gram.device)

    def remove(self, p: Tensor, active: Tensor) -> None:
        """Remove the kept entry ``p`` of each active row."""
        table, pivot, level, slot, entry, _ = self.state
        n = self.number[active]
        p, s = p[active], slot[n, p[active]]
        own, inverse = table[n, p], 1.0 / pivot[n, p]
        ratio = level[n, p] * inverse
        here = table[n, :, s]
        here[torch.arange(len(n), device=p.device), p] = 0.0
        factor = here * inverse[:, None]
        sign = torch.where(slot[n] >= 0, -1.0, 1.0).to(factor.dtype)
        pivot[n] += sign * here * factor
        level[n] += sign * here * ratio[:, None]
        table[n] -= factor.unsqueeze(2) * own.unsqueeze(1)
        table[n, :, s] = 0.0
        own = -own * inverse[:, None]
        own.scatter_(1, s[:, None], 0.0)
        table[n, p], pivot[n, p], level[n, p] = own, inverse, ratio
        slot[n, p], entry[n, s] = -1, -1

    def insert(self, j: Tensor, s: Tensor, active: Tensor) -> None:
        """Insert the pruned entry ``j`` of each active row in its free slot ``s``."""
        table, pivot, level, slot, entry, _ = self.state
        n = self.number[active]
        j, s = j[active], s[active]
        own, inverse = table[n, j], 1.0 / pivot[n, j]
        ratio = level[n, j] * inverse
        used = entry[n] >= 0
        inner = torch.where(used, self.gram[j].gather(1, entry[n].clamp_min(0)), 0.0)
        kept = slot[n] >= 0
        schur = self.gram[j] - (table[n] @ inner.unsqueeze(2)).squeeze(2)
        here = torch.where(kept, -own.gather(1, slot[n].clamp_min(0)), schur)
        here[torch.arange(len(n), device=j.device), j] = 0.0
        factor = here * inverse[:, None]
        sign = torch.where(kept, 1.0, -1.0).to(factor.dtype)
        pivot[n] += sign * here * factor
        level[n] += sign * here * ratio[:, None]
        table[n] -= factor.unsqueeze(2) * own.unsqueeze(1)
        table[n, :, s] = factor
        own = -own * inverse[:, None]
        own.scatter_(1, s[:, None], inverse[:, None])
        table[n, j], pivot[n, j], level[n, j] = own, inverse, ratio
        slot[n, j], entry[n, s] = s, j

    def best_exchange(self, on: Tensor, off: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return change, kept entry and pruned entry of the best exchange of each row."""
        table, pivot, level, slot, entry, _ = self.state
        number, slots = self.number[:, None], entry.shape[1]
        index = entry.clamp_min(0)
        open_slots = (entry >= 0) & ~on[number, index]
        weight = torch.where(open_slots, 1.0 / pivot[number, index], 0.0)
        shift = level[number, index] * weight
        cost = torch.where(open_slots, level[number, index] * shift, torch.inf)
        moved = level.unsqueeze(2) + table * shift.unsqueeze(1)
        schur = pivot.unsqueeze(2) + table.square() * weight.unsqueeze(1)
        change = cost.unsqueeze(1) - moved.square() / schur
        change[(slot >= 0) | off] = torch.inf
        if size < slot.shape[1]:
            group = torch.arange(slot.shape[1], device=slot.device) // size
            change = torch.where(group[:, None] == (index // size).unsqueeze(1), change, torch.inf)
        best, where = change.flatten(1).min(dim=1)
        return best, index.gather(1, (where % slots)[:, None]).squeeze(1), where // slots

    def best_insertion(self, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Return gain and entry of the best insertion of each row among the allowed entries."""
        _, pivot, level, slot, _, _ = self.state
        gain = torch.where(allowed & (slot < 0) & (pivot > 0), level.square() / pivot, 0.0)
        return gain.max(dim=1)

    def free_slot(self) -> tuple[Tensor, Tensor]:
        """Return the first free slot of each row, and whether there is one."""
        free = self.state.entry < 0
        return free.to(torch.int8).argmax(dim=1), free.any(dim=1)


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
    """Overwrite ``state`` by local optima and fill in the trace; see :func:`mipprune.kernels.swaps.search`."""
    rows = Lockstep(gram, state)
    rest = torch.ones(len(on), dtype=torch.bool, device=on.device)
    while bool(rest.any()):
        kept = (state.slot >= 0).unflatten(1, (-1, size))
        room = (kept.sum(dim=2, keepdim=True) < budget).expand(kept.shape).flatten(1)
        gain, j = rows.best_insertion(room & ~off)
        free, any_free = rows.free_slot()
        rest &= (gain > least) & any_free
        rows.insert(j, free, rest)
    rest = torch.ones_like(rest)
    for _ in range(limit):
        change, p, j = rows.best_exchange(on, off, size)
        rest &= change < -least
        if not bool(rest.any()):
            break
        s = state.slot.gather(1, p[:, None]).squeeze(1)
        rows.remove(p, rest)
        rows.insert(j, s, rest)
    depth = trace.gains.shape[1]
    if depth:
        _record_insertions(Lockstep(gram, Rows(*(part.clone() for part in state))), off, trace)
        _record_removals(Lockstep(gram, Rows(*(part.clone() for part in state))), on, trace)


def _record_insertions(rows: Lockstep, off: Tensor, trace: Trace) -> None:
    rest = torch.ones(len(off), dtype=torch.bool, device=off.device)
    for step in range(trace.gains.shape[1]):
        gain, j = rows.best_insertion(~off)
        free, any_free = rows.free_slot()
        rest &= (gain > 0) & any_free
        trace.insertions[rest, step], trace.gains[rest, step] = j[rest], gain[rest]
        rows.insert(j, free, rest)


def _record_removals(rows: Lockstep, on: Tensor, trace: Trace) -> None:
    rest = torch.ones(len(on), dtype=torch.bool, device=on.device)
    for step in range(trace.costs.shape[1]):
        _, pivot, level, slot, _, _ = rows.state
        cost, p = torch.where((slot >= 0) & ~on, level.square() / pivot, torch.inf).min(dim=1)
        rest &= cost < torch.inf
        trace.removals[rest, step], trace.costs[rest, step] = p[rest], cost[rest]
        rows.remove(p, rest)
