"""Exchanging kept entries of transposable masks between the rows of a group until no smallest exchange helps.

The rows of a quadratic separate, and ``size`` consecutive ones share blocks of ``size x size`` entries. What keeps the
sums of all lines is a cycle of four entries of a block: one row exchanges the kept p for the pruned q, another one q
for p. The value changes by the sum of what both exchanges cost within their rows, which the tables of
:mod:`~mipprune.kernels.swaps` tell exactly, so that the best cycle of a block has, for each (p, q), the row that gives
up p for q most cheaply.

Lines that may keep fewer entries have the rest in one further row and column of their block, which stand for nothing
and cost nothing; so have cut blocks, whose padding they add up. An entry there holds as many units as the line is
short of, and a cycle through them is a removal, an insertion, an exchange within a row or within a column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .compiling import has_numba
from .swaps import Rows
from .threads import over_rows

__all__ = ["FLAT", "Blocks", "search"]

FLAT = 1e-12
"""Schur complement, where the diagonal is 1, below which an input counts as dependent on the kept ones and stays out"""
_CALL = 1 << 25  # entries of a table that are updated by one call of the kernel: about 50 ms


class Blocks(NamedTuple):
    """What masks of the groups of a batch are admissible."""

    keep: int
    """kept entries of a line of a block"""
    size: int
    """lines of a block; the last block of a row may be cut"""
    height: int
    """rows of each group: ``size``, or fewer where the last group is cut"""
    at_most: bool
    """whether lines may keep fewer than ``keep``; else only padding makes up for them"""

    def slots(self, width: int) -> int:
        """Return the most entries that a row of so many inputs can keep."""
        return width // self.size * self.keep + min(width % self.size, self.keep)

    def open_lines(self, width: int) -> bool:
        """Return whether a line may keep fewer than ``keep`` entries of a block."""
        return self.at_most or self.height < self.size or width % self.size > 0


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
    """Exchange entries, the best cycle first, until none helps; return the number of exchanges of each group.

    Parameters
    ----------
    gram : Tensor, shape (in, in)
    state : Rows
        Of :func:`.swaps.prepare` with :meth:`Blocks.slots` slots, for an admissible mask of whole groups; overwritten.
    mask : bool Tensor, shape (rows, in)
        The same mask. It is overwritten exchange by exchange and admissible at every moment.
    on, off : bool Tensor, shape (rows, in)
        Entries that stay and entries that never come in.
    blocks : Blocks
    limit : int
        Most exchanges of a group.
    least : float
        Smallest decrease that counts.
    go_on : callable
        Asked every now and then; ``False`` ends the work early.

    Returns
    -------
    int64 Tensor, shape (groups,)
    """
    if gram.device.type != "cpu" or not has_numba():
        from . import block_swaps_batched

        return block_swaps_batched.search(gram, state, mask, on, off, blocks, limit=limit, least=least, go_on=go_on)
    from .block_swaps_compiled import search as kernel

    width, slots = state.table.shape[1:]
    matrix = gram.contiguous().numpy()
    parts = (*state[:5], mask, on.contiguous(), off.contiguous())
    arrays = [part.view(-1, blocks.height, *part.shape[1:]).numpy() for part in parts]
    made, waiting = [0] * len(arrays[0]), list(range(len(arrays[0])))
    few = max(1, _CALL // (width * slots))

    def task(first: int, last: int) -> None:
        for group in waiting[first:last]:
            own = [array[group] for array in arrays]
            most = min(few, limit - made[group])
            made[group] += kernel(matrix, *own, blocks.keep, blocks.size, blocks.at_most, most, least)

    while waiting:
        before = list(made)
        if over_rows(task, len(waiting), chunk=1, go_on=go_on) < len(waiting):
            break
        waiting = [group for group in waiting if made[group] == before[group] + few and made[group] < limit]
    return torch.tensor(made)
