"""Adding, dropping and exchanging columns of a ridge regression, with the value of every move in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Moves", "SupportState"]


@dataclass(frozen=True, eq=False)
class Moves:
    """Change of the value by every single move from a support of s columns; ``inf`` where a move is not allowed."""

    add: Tensor
    """(p,)"""
    drop: Tensor
    """(s,)"""
    swap: Tensor
    """(p, s): column j in for the i-th chosen one"""


@dataclass(eq=False)
class SupportState:
    r"""A support S of :math:`\tfrac12\|y - Xb\|^2 + \tfrac12\sum r_j b_j^2 + \sum_{j\in S} c_j` with what moves need.

    Parameters
    ----------
    design : Tensor, shape (n, p)
    response : Tensor, shape (n,)
    ridge : Tensor, shape (p,)
        r > 0 on columns that may be chosen.
    price : Tensor, shape (p,)
        c.
    memory : int
        Most columns of X'X that are kept.

    Notes
    -----
    With :math:`P = (X_S^\top X_S + R)^{-1}`, :math:`W = X^\top X_S P`, levels :math:`\ell = X^\top(y - X_S b_S)` and
    Schur complements :math:`\sigma_j = x_j^\top x_j + r_j - (X^\top X_S P X_S^\top X)_{jj}`, adding j changes the value
    by :math:`c_j - \ell_j^2/2\sigma_j`, dropping i by :math:`b_i^2/2P_{ii} - c_i`, and exchanging i for j by

    .. math:: \frac{b_i^2}{2P_{ii}} - c_i + c_j - \frac{(\ell_j + W_{ji} b_i/P_{ii})^2}{2(\sigma_j + W_{ji}^2/P_{ii})} .
    """

    design: Tensor
    response: Tensor
    ridge: Tensor
    price: Tensor
    memory: int = 256
    chosen: list[int] = field(default_factory=list)
    _columns: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.squares = self.design.square().sum(dim=0)
        self.slope = self.design.mT @ self.response
        self.base = 0.5 * float(self.response.square().sum())
        self.move_to(self.chosen)

    def _column(self, j: int) -> Tensor:
        """Column j of X'X."""
        found = self._columns.pop(j, None)
        if found is None:
            found = self.design.mT @ self.design[:, j]
            while len(self._columns) >= max(self.memory, len(self.chosen) + 1):
                self._columns.pop(next(iter(self._columns)))
        self._columns[j] = found
        return found

    def move_to(self, chosen: list[int]) -> None:
        """Take another support."""
        self.chosen = list(chosen)
        index = torch.tensor(self.chosen, dtype=torch.int64, device=self.design.device)
        if not self.chosen:
            self.inverse = self.design.new_zeros((0, 0))
            self.weights = self.design.new_zeros(0)
            self.table = self.design.new_zeros((self.design.shape[1], 0))
            self.level, self.schur = self.slope, self.squares + self.ridge
            self.value = self.base
            return
        products = torch.stack([self._column(j) for j in self.chosen], dim=1)
        system = products[index] + torch.diag(self.ridge[index])
        factor, failed = torch.linalg.cholesky_ex(system)
        singular = int(failed) > 0  # alike columns and next to no ridge
        self.inverse = torch.linalg.pinv(system, hermitian=True) if singular else torch.cholesky_inverse(factor)
        self.weights = self.inverse @ self.slope[index]
        self.table = products @ self.inverse
        self.level = self.slope - products @ self.weights
        # A duplicate of a chosen column has its ridge left; rounding must not take that away.
        self.schur = torch.maximum(
            self.squares + self.ridge - (self.table * products).sum(dim=1), self.ridge.clamp_min(1e-300)
        )
        self.value = self.base - 0.5 * float(self.weights @ self.slope[index]) + float(self.price[index].sum())

    def moves(self, allowed: Tensor, exchangeable: Tensor, droppable: Tensor) -> Moves:
        """Return the change of the value by every move.

        Parameters
        ----------
        allowed : bool Tensor, shape (p,)
            Columns that may be added.
        exchangeable : bool Tensor, shape (p, s)
            Columns that may take the place of a chosen one.
        droppable : bool Tensor, shape (s,)
            Chosen columns that may go.
        """
        index = torch.tensor(self.chosen, dtype=torch.int64, device=self.design.device)
        add = self.price - 0.5 * self.level.square() / self.schur
        pivot = self.inverse.diagonal()
        shift = self.weights / pivot
        drop = 0.5 * self.weights * shift - self.price[index]
        moved = self.level[:, None] + self.table * shift
        swap = drop + self.price[:, None] - 0.5 * moved.square() / (self.schur[:, None] + self.table.square() / pivot)
        outside = torch.ones(len(add), dtype=torch.bool, device=add.device)
        outside[index] = False
        return Moves(
            torch.where(allowed & outside, add, torch.inf),
            torch.where(droppable, drop, torch.inf),
            torch.where(exchangeable & outside[:, None] & droppable, swap, torch.inf),
        )
