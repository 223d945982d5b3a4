"""Projections onto transposable masks, one iteration after another: each from the last, cut short while masks move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..kernels.transport import Transport
from ..kernels.transport_patterns import LARGEST_LISTED

if TYPE_CHECKING:
    from .transposable import TransposableNofM

__all__ = ["Projections"]

_SETTLED = 0.005  # of the kept entries change between two calls at most, where a support is said to settle
_QUICK_AT_MOST = 8  # size of a block up to which potentials >= 0 that start from the last settle in two or three sweeps


class Projections:
    """Masks for a run of similar gains, for example those of the iterations of ADMM.

    Each call starts from the potentials of the last. One that need not be exact makes a single sweep while more than
    0.5 % of the kept entries change between calls: lines of blocks that are still open then keep a few entries more or
    fewer than ``n``, as the potentials have it, which the next sweeps correct. Blocks of at most 4 x 4, whose masks
    can be listed, are admissible all the same. Once the support settles every call is exact.
    """

    def __init__(self, family: TransposableNofM) -> None:
        self.family = family
        self.last: Transport | None = None
        self.shape = torch.Size()
        self.moving = 2  # calls until the support counts as settled

    def __call__(self, gain: Tensor, exact: bool = True) -> Tensor:
        """See :class:`Keeper`."""
        family, last = self.family, self.last
        if gain.shape != self.shape:
            self.shape, last = gain.shape, None
        start = None if last is None else (last.rows, last.columns)
        if exact or start is None or not self._may_be_cut():
            found = family.solve(gain, start)
        else:
            found = family.solve(gain, start, sweeps=1, rest="round" if self._listed() else "leave")
        if last is not None:
            changed = int(torch.count_nonzero(found.mask & ~last.mask))
            few = changed <= _SETTLED * int(torch.count_nonzero(found.mask))
            self.moving = max(self.moving - 1, 0) if few else 2
        self.last = found
        return family.matrix(found.mask, tuple(gain.shape))

    def _listed(self) -> bool:
        return self.family.m <= LARGEST_LISTED and not self.family.at_most

    def _may_be_cut(self) -> bool:
        if self.family.at_most and self.family.m <= _QUICK_AT_MOST:
            return False
        return self._listed() or self.moving > 0
