"""What searches by exchanges share: a layer in unit-diagonal variables, its mask, and weights that go with it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ...core.problem import Problem
from ...core.solution import Stop
from ...core.solver import Watch
from ...kernels.masked_solve import minimise
from ...kernels.swaps import Rows
from .layer import Layer

__all__ = ["Exchanges"]

_FITTED = 1e-9  # gradient on the support, relative to that at zero, at which a row needs no further fit


class Exchanges(ABC):
    """A mask that a search improves in place, and that is admissible whenever the search may be left.

    Parameters
    ----------
    problem : Problem
        A layer.
    point : Tensor, shape (out, in)
        The member of S to begin with.
    mask : bool Tensor, shape (out, in)
        An admissible mask around its support.
    on, off : bool Tensor, shape (out, in), optional
        Entries that stay and entries that never come in.
    watch : Watch
    tolerance : float
        Smallest decrease that counts, relative to the mean value of a row.
    """

    def __init__(
        self,
        problem: Problem,
        point: Tensor,
        mask: Tensor,
        on: Tensor | None,
        off: Tensor | None,
        watch: Watch,
        tolerance: float,
    ) -> None:
        self.watch = watch
        self.layer = Layer.of(problem, torch.float64)
        self.mask = mask.to(self.layer.center.device).contiguous()
        blank = torch.zeros_like(self.mask)
        self.on = blank if on is None else on.to(blank.device)
        self.off = blank if off is None else off.to(blank.device)
        self.w = point.to(self.layer.center) / self.layer.scale
        self.fitted = self.mask.clone()
        """support that the weights of each row are meant for"""
        self.searched = torch.zeros(len(mask), dtype=torch.bool, device=blank.device)
        """rows whose weights should be the minimiser on their support"""
        refitted = self.layer.refit(self.layer.center, self.mask, 10)
        self.least = tolerance * max(self.layer.value(refitted) / self.layer.unit**2 / max(len(mask), 1), 1e-300)
        self.iterations = 0

    @abstractmethod
    def iterate(self) -> Stop:
        """Search until nothing changes or a limit is reached."""

    def take(self, rows: Tensor | slice, state: Rows, right: Tensor) -> None:
        """Take over the weights of some rows that were searched from their tables, where these are ``right``."""
        kept = (state.slot >= 0) & right[:, None]
        self.w[rows] = torch.where(kept, state.level, torch.where(right[:, None], 0.0, self.w[rows]))
        self.fitted[rows] = torch.where(right[:, None], kept, self.fitted[rows])
        self.searched[rows] = True

    def point(self) -> Tensor:
        """Return weights on the mask; rows that were searched are fitted anew where their weights do not minimise.

        Rows not searched keep what they began with.
        """
        gram, center = self.layer.gram, self.layer.center
        w = torch.where(self.mask, self.w.nan_to_num(), 0.0)
        pull = center @ gram
        rest = torch.where(self.mask, pull - w @ gram, 0.0)
        behind = self.searched & ~(rest.norm(dim=1) <= _FITTED * pull.norm(dim=1))
        behind |= (self.fitted != self.mask).any(dim=1)
        if bool(behind.any()):
            w[behind] = minimise(gram, center[behind], self.mask[behind], w[behind])
        return torch.where(self.mask, self.layer.to_weights(w), 0.0)
