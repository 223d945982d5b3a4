"""The search of :mod:`~mipprune.kernels.block_swaps` for groups in lockstep, with torch operations on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .block_swaps import FLAT, Blocks
from .swaps import Rows
from .swaps_batched import Lockstep

__all__ = ["search"]


class _Lines(NamedTuple):
    """What lines of blocks are short of, and how much more they may be; the last column is that of nothing."""

    spare: Tensor
    """int64 (groups, height, blocks)"""
    room: Tensor
    """int64 (blocks,): the most that ``spare`` may be"""
    give: Tensor
    """bool (groups, blocks, side): the row of nothing can give up this column"""
    take: Tensor


class _Groups:
    """The state of a batch of groups, with the change that every exchange of every row would make."""

    def __init__(self, gram: Tensor, state: Rows, on: Tensor, off: Tensor, blocks: Blocks) -> None:
        self.rows, self.state, self.blocks = Lockstep(gram, state), state, blocks
        self.on, self.off = on, off
        self.width = on.shape[1]
        self.across = -(-self.width // blocks.size)
        self.side = blocks.size + blocks.open_lines(self.width)
        self.inside = self._cut(torch.ones(1, self.width, dtype=torch.bool, device=on.device))[0]
        self.lines = self._count()
        self.change = self._appraise(torch.arange(len(on), device=on.device))

    def _cut(self, array: Tensor) -> Tensor:
        """Return what is given for each input, (rows, in, ...), by block and place in it; 0 in the padding."""
        missing = self.across * self.blocks.size - self.width
        padded: Tensor = pad(array, (0, 0) * (array.ndim - 2) + (0, missing))
        return padded.reshape(len(array), self.across, self.blocks.size, *array.shape[2:])

    def _count(self) -> _Lines:
        count, size, height, at_most = self.blocks
        kept = self._cut(self.state.slot >= 0).unflatten(0, (-1, height))
        spare = count - kept.sum(dim=3)
        inside = self.inside.sum(dim=1)
        room = torch.full_like(inside, count) if at_most else size - inside
        short = count - kept.sum(dim=1)
        give, take = short > 0, short < (count if at_most else size - height)
        corner = kept.sum(dim=(1, 3)) - (inside + height - size) * count
        if self.side == size:
            return _Lines(spare, room, torch.zeros_like(give), torch.zeros_like(take))
        own = corner > 0, corner < (size - height) * (size - inside)
        if at_most:
            own = torch.ones_like(own[0]), torch.ones_like(own[1])
        parts = ((part & self.inside, mine) for part, mine in zip((give, take), own, strict=True))
        return _Lines(spare, room, *(torch.cat([part, mine.unsqueeze(2)], dim=2) for part, mine in parts))

    def _appraise(self, n: Tensor) -> Tensor:
        """Return what exchanges of some rows would change, (rows, blocks, side, side); infinity where there is none."""
        table, pivot, level, slot, _, _ = (part[n] for part in self.state)
        size, side = self.blocks.size, self.side
        pivots, levels = self._cut(pivot), self._cut(level)
        kept = self._cut(slot >= 0)
        out = kept & ~self._cut(self.on[n])
        into = self.inside & ~kept & ~self._cut(self.off[n])
        weight = torch.where(out, 1.0 / pivots, 0.0)
        shift = torch.where(out, levels, 0.0) * weight
        own = self._cut(slot.clamp_min(0)).unsqueeze(2).expand(-1, -1, size, -1)  # slots of the block, for each input
        here = self._cut(table).gather(3, own).mT  # entry given up, entry taken
        moved = levels.unsqueeze(2) + here * shift.unsqueeze(3)
        schur = pivots.unsqueeze(2) + here.square() * weight.unsqueeze(3)
        cost = levels * shift
        possible = out.unsqueeze(3) & into.unsqueeze(2) & (schur > FLAT)
        swap = torch.where(possible, cost.unsqueeze(3) - moved.square() / schur, torch.inf)
        if side == size:
            return swap
        change = pad(swap, (0, 1, 0, 1), value=torch.inf)
        spare = self.lines.spare.flatten(0, 1)[n].unsqueeze(2)
        removal = out & (spare < self.lines.room[:, None])
        change[..., :size, size] = torch.where(removal, cost, torch.inf)
        insertion = into & (spare > 0) & (pivots > FLAT)
        change[..., size, :size] = torch.where(insertion, -levels.square() / pivots, torch.inf)
        return change

    def best_cycles(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return for each group the change of its best cycle, its block, its two entries (p, q) and its two rows.

        Entries are (groups, 2) in a block; so are rows, ``height`` for the row of nothing.
        """
        height = self.blocks.height
        low, owner = self.change.unflatten(0, (-1, height)).min(dim=1)
        nothing = self.lines.give.unsqueeze(3) & self.lines.take.unsqueeze(2) & (low > 0)
        low, owner = torch.where(nothing, 0.0, low), torch.where(nothing, height, owner)
        upper = torch.ones(self.side, self.side, dtype=torch.bool, device=low.device).triu(1)
        best, where = torch.where(upper, low + low.mT, torch.inf).flatten(1).min(dim=1)
        block, pair = where // self.side**2, where % self.side**2
        ends = torch.stack([pair // self.side, pair % self.side], dim=1)
        group = torch.arange(len(best), device=low.device)[:, None]
        return best, block, ends, owner[group, block[:, None], ends, ends.flip(1)]

    def exchange(self, group: Tensor, block: Tensor, ends: Tensor, row: Tensor) -> None:
        """Make one exchange in each of these groups, given as by :meth:`best_cycles`."""
        real = row < self.blocks.height
        n = (group[:, None] * self.blocks.height + row)[real]
        first = (block * self.blocks.size)[:, None].expand_as(ends)[real]
        out, into = ends[real], ends.flip(1)[real]
        for local, insert in ((out, False), (into, True)):
            moved = local < self.blocks.size
            active = torch.zeros(len(self.on), dtype=torch.bool, device=row.device)
            active[n[moved]] = True
            entry = torch.zeros_like(active, dtype=torch.int64)
            entry[n[moved]] = (first + local)[moved]
            if insert:
                self.rows.insert(entry, self.rows.free_slot()[0], active)
            else:
                self.rows.remove(entry, active)
        self.lines = self._count()
        self.change[n] = self._appraise(n)


def search(
    gram: Tensor,
    state: Rows,
    mask: Tensor,
    on: Tensor,
    off: Tensor,
    blocks: Blocks,
    *,
    limit: int,
    least: float,
    go_on: Callable[[], bool] = lambda: True,
) -> Tensor:
    """Exchange entries until none helps; see :func:`mipprune.kernels.block_swaps.search`."""
    groups = _Groups(gram, state, on, off, blocks)
    made = torch.zeros(len(on) // blocks.height, dtype=torch.int64, device=on.device)
    for _ in range(limit):
        if not go_on():
            break
        best, block, ends, row = groups.best_cycles()
        group = (best < -least).nonzero().flatten()
        if len(group) == 0:
            break
        groups.exchange(group, block[group], ends[group], row[group])
        mask.copy_(state.slot >= 0)
        made[group] += 1
    return made
