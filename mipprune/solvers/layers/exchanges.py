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


class Exchanges(ABC):
    """A mask that a search improves in place, and that is admissible whenever the search may be left.

    Parameters
    ----------
    problem : Problem
        A layer.
    mask : bool Tensor, shape (out, in)
    on, off : bool Tensor, shape (out, in), optional
        Entries that stay and entries that never come in.
    watch : Watch
    tolerance : float
        Smallest decrease that counts, relative to the mean value of a row.
    """

    def __init__(
        self, problem: Problem, mask: Tensor, on: Tensor | None, off: Tensor | None, watch: Watch, tolerance: float
    ) -> None:
        self.watch = watch
        self.layer = Layer.of(problem, torch.float64)
        self.mask = mask.to(self.layer.center.device).contiguous()
        blank = torch.zeros_like(self.mask)
        self.on = blank if on is None else on.to(blank.device)
        self.off = blank if off is None else off.to(blank.device)
        self.w = self.layer.refit(self.layer.center, self.mask, 10)
        self.fitted = blank.clone()
        """support that the weights of each row are the minimiser on; none to begin with"""
        mean = self.layer.value(self.w) / self.layer.unit**2 / max(len(mask), 1)
        self.least = tolerance * max(mean, 1e-300)
        self.iterations = 0

    @abstractmethod
    def iterate(self) -> Stop:
        """Search until nothing changes or a limit is reached."""

    def take(self, rows: Tensor | slice, state: Rows) -> None:
        """Take over the weights of some rows from their tables; rows whose tables failed keep theirs."""
        kept = state.slot >= 0
        self.w[rows] = torch.where(kept & state.sound[:, None], state.level, self.w[rows])
        self.fitted[rows] = kept & state.sound[:, None]

    def point(self) -> Tensor:
        """Return weights on the mask, rows that its last change left behind fitted anew, in the layer's variables."""
        w = torch.where(self.mask, self.w, 0.0)
        behind = (self.fitted != self.mask).any(dim=1)
        if bool(behind.any()):
            w[behind] = minimise(self.layer.gram, self.layer.center[behind], self.mask[behind], w[behind])
        return torch.where(self.mask, self.layer.to_weights(w), 0.0)
