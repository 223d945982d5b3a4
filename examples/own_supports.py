"""A family of supports of one's own: at most k weights of a row, no two of them neighbours (docs/own_supports.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import mipprune as mp


@dataclass(frozen=True, eq=False)
class Spaced(mp.Supports):
    """At most ``count`` kept entries in each row of an (out, in) array, no two of them neighbours."""

    count: int
    on: Tensor | None = None
    off: Tensor | None = None

    def _fixed(self, like: Tensor) -> tuple[Tensor, Tensor]:
        none = torch.zeros(like.shape, dtype=torch.bool, device=like.device)
        return (none, none) if self.on is None else (self.on.to(like.device), self.off.to(like.device))

    def select(self, gain: Tensor) -> mp.Selection:
        """Dynamic programming along the rows: ``best[j]`` is the most that the entries so far give with j kept."""
        on, off = self._fixed(gain)
        gain = gain.double()
        before = after = gain.new_zeros(len(gain), self.count + 1)  # tables up to entry i - 2 and up to i - 1
        decisions = []
        for i in range(gain.shape[1]):
            shifted = torch.cat([torch.full_like(before[:, :1], -math.inf), before[:, :-1]], dim=1)
            barred = off[:, i] | on[:, i - 1] if i else off[:, i]  # keeping i means pruning i - 1
            barred = barred.unsqueeze(1) | (shifted == -math.inf)
            take = torch.where(barred, -math.inf, gain[:, i : i + 1] + shifted)
            skip = torch.where(on[:, i : i + 1], -math.inf, after)
            decisions.append(take > skip)
            before, after = after, torch.maximum(take, skip)
        left = torch.full((len(gain), 1), self.count, device=gain.device)
        mask, blocked = torch.zeros_like(on), torch.zeros_like(left, dtype=torch.bool)
        for i in reversed(range(gain.shape[1])):
            kept = decisions[i].gather(1, left) & ~blocked
            mask[:, i : i + 1], left, blocked = kept, left - kept.long(), kept
        rows = after[:, -1].tolist()
        best = -math.inf if -math.inf in rows else math.fsum(rows)  # one empty row and the family is empty
        sizes = torch.where(torch.isfinite(gain) & ~off, gain.abs(), 0.0)
        rounding = (gain.shape[1] + 2) * 2.0**-52 * float(sizes.sum())
        return mp.Selection(mask, best, best + rounding)

    def select_bound(self, gain: Tensor, witness: Tensor | None) -> float:
        return self.select(gain).bound  # the selection is exact: it needs no witness

    def violation(self, mask: Tensor) -> int:
        on, off = self._fixed(mask)
        kept = mask | on
        neighbours = kept[:, 1:] & kept[:, :-1]
        excess = (kept.sum(dim=1) - self.count).clamp_min(0)
        return int(neighbours.sum() + excess.sum() + (kept & off).sum())

    def constraints(self, z) -> list:
        import cvxpy as cp

        out = [cp.sum(z, axis=1) <= self.count, z[:, 1:] + z[:, :-1] <= 1]
        if self.on is not None:
            out += [z >= self.on.numpy().astype(float), z <= 1.0 - self.off.numpy().astype(float)]
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Spaced:
        old_on, old_off = self._fixed(on)
        return replace(self, on=on | old_on, off=off | old_off)


def main() -> None:
    """Solve one small layer over the family in three ways and compare."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    problem = mp.formulations.layerwise(weight, inputs.T @ inputs, Spaced(3), name="spaced")
    print(problem.describe())
    for solver in (mp.ADMM(), mp.BranchAndBound(), mp.Scip()):
        solution = mp.solve(problem, solver)
        if solution.bound is None:
            solution = mp.certify(problem, solution)
        mp.check(problem, solution)
        print(f"\n{solution.solver}\n{solution}")


if __name__ == "__main__":
    main()
