"""Descent over trees with all blocks at once: every tree's best antichain, of which the best one is taken.

Plain torch, on any device: each step is one product with the columns and one pass over the levels of the forest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TreeBatch"]


@dataclass(eq=False)
class TreeBatch:
    r"""State of greedy block descent (Gauss-Southwell).

    Parameters
    ----------
    design : float Tensor, shape (n, p)
    response : Tensor, shape (n,)
    ridge, price : Tensor, shape (p,)
    parent, block : int64 Tensor, shape (p,)
        The forest (-1 at a root), and the block of each column; comparable columns share a block.
    free, forced : bool Tensor, shape (p,)
        Columns that may, and that must, be chosen.
    weight : Tensor, shape (p,)
        Where to start.

    Notes
    -----
    For block b with the residual r of the others, slopes are :math:`M_b^\top r = M_b^\top(y - Mw) + M_b^\top M_b w_b`:
    the first part is kept up to date for all columns by one product a step, the second is kept for each block.
    """

    design: Tensor
    response: Tensor
    ridge: Tensor
    price: Tensor
    parent: Tensor
    block: Tensor
    free: Tensor
    forced: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        self.curvature = self.design.square().sum(dim=0) + self.ridge
        self.blocks = int(self.block.max()) + 1 if self.block.numel() else 0
        depth = torch.zeros_like(self.parent)
        above = self.parent.clone()
        while bool((above >= 0).any()):
            inside = above >= 0
            depth += inside
            above = torch.where(inside, self.parent[above.clamp_min(0)], above)
        deepest = int(depth.max()) if depth.numel() else -1
        self.levels = [(depth == level).nonzero().ravel() for level in range(deepest + 1)]
        self.refresh()

    def refresh(self) -> None:
        """Compute the residual and all slopes again from the weights."""
        self.residual = self.response - self.design @ self.weight
        self.outer = self.design.mT @ self.residual
        self.own = torch.zeros_like(self.weight)
        for b in self.block[self.weight != 0].unique().tolist():
            self._own(b)

    def _own(self, block: int) -> None:
        columns = (self.block == block).nonzero().ravel()
        part = self.design[:, columns]
        self.own[columns] = part.mT @ (part @ self.weight[columns])

    def best(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best weights of every block given the others, their worth, and that of the present ones."""
        slope = self.outer + self.own
        value = torch.where(self.curvature > 0, slope / self.curvature, 0.0)
        gain = 0.5 * slope * value - self.price
        gain = torch.where((self.curvature > 0) & (self.free | self.forced), gain, -torch.inf)
        inner, take = torch.zeros_like(gain), torch.zeros_like(self.free)
        total = torch.zeros(self.blocks, dtype=gain.dtype, device=gain.device)
        for nodes in reversed(self.levels):
            below = inner[nodes]
            chosen = self.forced[nodes] | ((gain[nodes] > 0) & (gain[nodes] >= below))
            take[nodes] = chosen
            worth = torch.where(chosen, gain[nodes], below)
            parents = self.parent[nodes]
            inner.index_add_(0, parents.clamp_min(0), torch.where(parents >= 0, worth, 0.0))
            total.index_add_(0, self.block[nodes], torch.where(parents < 0, worth, 0.0))
        blocked = torch.zeros_like(take)
        for nodes in self.levels[1:]:
            parents = self.parent[nodes]
            blocked[nodes] = blocked[parents] | take[parents]
        weight = torch.where(take & ~blocked, value, 0.0)
        now = slope * self.weight - 0.5 * self.curvature * self.weight.square()
        now = now - torch.where((self.weight != 0) | self.forced, self.price, 0.0)
        return weight, total, torch.zeros_like(total).index_add_(0, self.block, now)

    def step(self) -> float:
        """Replace the block that decreases the objective most; returns the decrease, 0 when there is none."""
        weight, best, now = self.best()
        decrease = best - now
        if decrease.numel() == 0:
            return 0.0
        block = int(decrease.argmax())
        gained = float(decrease[block])
        if not gained > 0:
            return 0.0
        columns = (self.block == block).nonzero().ravel()
        change = self.design[:, columns] @ (weight[columns] - self.weight[columns])
        self.weight[columns] = weight[columns]
        self.residual = self.residual - change
        self.outer = self.outer - self.design.mT @ change
        self._own(block)
        return gained

    def run(self, most: int, least: float) -> int:
        """Take up to ``most`` steps, until one decreases the objective by at most ``least``; returns their number."""
        for done in range(most):
            if self.step() <= least:
                return done + 1
        return most
