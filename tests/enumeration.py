"""Exact optima of small layer-wise problems by enumerating every support of every row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb

import numpy as np
import torch
from torch import Tensor

from mipprune import Problem, Quadratic
from mipprune.solvers.layers.layer import row_groups

__all__ = ["Enumeration"]

_CHUNK = 1 << 14  # sets factorised together


@dataclass(frozen=True, eq=False)
class Enumeration:
    """The best value of every row for every removed set.

    Parameters
    ----------
    loss : Quadratic
        Of at most about 20 inputs, with one Gram matrix.
    """

    loss: Quadratic

    @cached_property
    def by_size(self) -> list[tuple[Tensor, Tensor]]:
        """For each number t of removed inputs: the sets (sets, t) and their values (sets, out)."""
        inverse = torch.linalg.inv(self.loss.gram.double())
        center = self.loss.center.double()
        width = center.shape[1]
        out = []
        for size in range(width + 1):
            flat = np.fromiter((i for s in combinations(range(width), size) for i in s), np.int64)
            sets = torch.from_numpy(flat).reshape(comb(width, size), size)
            values = torch.zeros(len(sets), center.shape[0], dtype=torch.float64)
            for first in range(0, len(sets) if size else 0, _CHUNK):
                part = sets[first : first + _CHUNK]
                # What removing S costs is w_S (A_SS)^-1 w_S with A = H^-1: one factorisation serves all rows.
                factor = torch.linalg.cholesky(inverse[part.unsqueeze(-1), part.unsqueeze(-2)])
                right = center.mT[part]
                half = torch.linalg.solve_triangular(factor, right, upper=False)
                values[first : first + _CHUNK] = half.square().sum(dim=1)
            out.append((sets, values))
        return out

    @cached_property
    def best_by_size(self) -> Tensor:
        """Least value of each row by number of removed inputs, (out, in + 1)."""
        return torch.stack([values.amin(dim=0) for _, values in self.by_size], dim=1)

    def per_row(self, kept: int) -> float:
        """Optimum with at most ``kept`` weights in each row."""
        return float(self.best_by_size[:, max(self.loss.shape[1] - kept, 0)].sum())

    def layer(self, kept: int) -> float:
        """Optimum with at most ``kept`` weights in all: dynamic programming over the rows."""
        best = self.best_by_size.numpy()
        removed = max(best.shape[0] * (best.shape[1] - 1) - kept, 0)
        table = np.full(removed + 1, np.inf)
        table[0] = 0.0
        for row in best:
            longer = np.full(removed + 1, np.inf)
            for size in range(min(len(row), removed + 1)):
                longer[size:] = np.minimum(longer[size:], table[: removed + 1 - size] + row[size])
            table = longer
        return float(table[removed])

    def n_of_m(self, n: int, m: int) -> float:
        """Optimum with at most ``n`` weights in each group of ``m`` consecutive inputs."""
        width = self.loss.shape[1]
        sets, values = self.by_size[width // m * (m - n)]
        groups = torch.nn.functional.one_hot(sets // m, width // m).sum(dim=1)
        return float(values[(groups == m - n).all(dim=1)].amin(dim=0).sum())

    def optimum(self, problem: Problem) -> float:
        """Optimum of a problem with this loss and a Cardinality, PerRow or NofM structure."""
        groups = row_groups(problem)
        assert groups is not None and groups.on is None
        if groups.whole:
            value = self.layer(groups.budget)
        elif groups.size == self.loss.shape[1]:
            value = self.per_row(groups.budget)
        else:
            value = self.n_of_m(groups.budget, groups.size)
        return self.loss.offset + value
