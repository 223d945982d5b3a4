"""Cuts in the mask: what a tangent says about every mask, and the best tangent at a fractional mask.

A separable model below the loss, minimised over the weights that a mask z leaves, is linear in z:
``F(w) + price(z) >= constant - <gain, z>``. So every tangent of the loss is a cut of the best value as a function of
the mask, whatever its point, and the tangent at the perspective's minimiser for z is the one that touches at z.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.arrays import digest
from ...core.problem import Problem
from ...losses import LeastSquares
from ...losses.designs.refit import by_factors
from ...losses.logistic import Logistic

__all__ = ["Cut", "CutPool", "cut_reason"]

Array = np.ndarray[Any, Any]

_LOSSES = (LeastSquares, Logistic)  # with a ridge for each weight that the loss can be given anew
_TINY = 1e-9  # shares below it are taken as zero: the cut stays valid, since every tangent is one
_GRAM = 3000  # widest problem whose Gram matrix is kept


def cut_reason(problem: Problem) -> str | None:
    """Return why the problem has no cuts in the mask, or ``None``."""
    if not isinstance(problem.structure, Sparse):
        return f"cuts in the mask are for weights on supports (Sparse), not for {type(problem.structure).__name__}"
    if problem.structure.box is not None:
        return "a box on the weights is not in the cuts; Scip, Highs and BranchAndBound take it"
    ridge = problem.loss.ridge if isinstance(problem.loss, _LOSSES) else None
    if ridge is None:
        return (
            f"{type(problem.loss).__name__} has no ridge, which is what a cut charges for a weight; use BranchAndBound"
        )
    if not bool((torch.as_tensor(ridge) > 0).all()):
        return "the ridge must be positive for every weight: a cut divides by it"
    return problem.loss.too_large if isinstance(problem.loss, LeastSquares) else None


@dataclass(frozen=True, eq=False)
class Cut:
    """``value(z) >= constant - <gain, z>`` for every mask z, and the point whose tangent it is."""

    point: Tensor
    constant: float
    gain: Array

    def at(self, shares: Array) -> float:
        """Return the right-hand side at a mask or a fractional one."""
        return self.constant - float(self.gain @ shares)


class CutPool:
    """The cuts of one loss and price; they hold for every family of supports.

    Parameters
    ----------
    problem : Problem
        One that :func:`cut_reason` accepts; only its loss and its price are used.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = replace(problem.reference, on=None, off=None)
        assert isinstance(self.problem.loss, _LOSSES)
        self.loss: LeastSquares | Logistic = self.problem.loss
        self.split: Tensor = torch.as_tensor(self.loss.ridge).double().expand(problem.shape)
        self.cuts: list[Cut] = []
        self.evaluations = 0

    def fits(self, problem: Problem) -> bool:
        """Tell whether the cuts hold for another problem: the same loss and the same price."""
        ours, theirs = self.problem, problem
        assert isinstance(ours.structure, Sparse) and isinstance(theirs.structure, Sparse)
        return digest(ours.loss, ours.structure.price_per_entry) == digest(
            theirs.reference.loss, theirs.structure.price_per_entry
        )

    @cached_property
    def gram(self) -> Tensor | None:
        """X'X of least squares of moderate width."""
        if not isinstance(self.loss, LeastSquares) or self.problem.size > _GRAM:
            return None
        return self.loss.matrix.gram()

    def weights(self, shares: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the minimiser of F with the ridge divided by the shares (the perspective at a fractional mask)."""
        self.evaluations += 1
        used = shares > _TINY
        out = torch.zeros(self.problem.shape, dtype=torch.float64)
        if not bool(used.any()):
            return out
        ridge = self.split[used] / shares[used]
        if isinstance(self.loss, LeastSquares):
            out[used] = self._solve(used.nonzero().ravel(), ridge)
            return out
        full = torch.where(used, self.split / shares.clamp_min(_TINY), self.split)
        loss = replace(self.loss, ridge=full)
        return torch.where(used, loss.minimise_on(used, start=start), 0.0)

    def _solve(self, used: Tensor, ridge: Tensor) -> Tensor:
        assert isinstance(self.loss, LeastSquares)
        design, response = self.loss.dense, self.loss.response
        columns = design[:, used]
        n, s = columns.shape
        if s > n:
            scaled = columns / ridge
            factor, failed = torch.linalg.cholesky_ex(torch.eye(n, dtype=torch.float64) + scaled @ columns.mT)
            dual = torch.cholesky_solve(response.unsqueeze(1), factor).squeeze(1)
            if not int(failed):
                return scaled.mT @ dual
        gram = columns.mT @ columns if self.gram is None else self.gram[used][:, used]
        factor, failed = torch.linalg.cholesky_ex(gram + torch.diag(ridge))
        if int(failed):  # alike columns and next to no ridge
            return by_factors(columns, response, ridge).nan_to_num(0.0, 0.0, 0.0)
        return torch.cholesky_solve((columns.mT @ response).unsqueeze(1), factor).squeeze(1)

    def cut_at(self, point: Tensor) -> Cut:
        """Add the tangent at a point of weights and return it."""
        model = self.problem.minorant(point, self.split)
        assert isinstance(self.problem.structure, Sparse)
        gain = self.problem.structure.gain(model).reshape(-1).numpy()
        cut = Cut(point, model.constant, gain)
        self.cuts.append(cut)
        return cut

    def combined(self, multipliers: Array) -> Tensor:
        """Return the combination of the points of all cuts with the given weights (normalised), shape of the problem.

        For least squares the tangent there proves at least the combination of the cuts: in the dual vector, which is
        linear in the point, the cut is concave for every mask.
        """
        multipliers = np.maximum(multipliers, 0.0)
        total = float(multipliers.sum())
        if total <= 0:
            return self.cuts[-1].point
        out = torch.zeros(self.problem.shape, dtype=torch.float64)
        for index in np.flatnonzero(multipliers):
            out += float(multipliers[index]) / total * self.cuts[index].point
        return out
