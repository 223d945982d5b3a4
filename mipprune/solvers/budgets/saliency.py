"""One oracle call on saliencies: magnitude, Fisher and optimal brain surgeon scores for whole networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from ...losses.low_rank import LowRank
from ..layers.layer import finish

__all__ = ["Saliency", "reason_against_low_rank"]

_SCORES = ("magnitude", "fisher", "surgeon")


def reason_against_low_rank(problem: Problem) -> str | None:
    """Return why a problem is not low-rank pruning over a family of supports, or ``None``."""
    loss, structure = problem.loss, problem.structure
    if not isinstance(loss, LowRank):
        return f"its loss is {type(loss).__name__}, and this method needs a LowRank one (formulations.network_pruning)"
    if not isinstance(structure, Sparse):
        return f"its structure is {type(structure).__name__}, and this method chooses supports: Sparse(...)"
    if structure.box is not None:
        return "the weights are boxed, which its refit would ignore; try ProjectedGradient"
    if bool((torch.as_tensor(structure.price_per_entry) != 0).any()):
        return "kept entries have a price, and this method only knows budgets; try DualBundle"
    return None


@dataclass(frozen=True)
class Saliency:
    r"""Keep the support with the largest sum of saliencies, one exact oracle call, then refit the weights on it.

    Parameters
    ----------
    score : {"magnitude", "fisher", "surgeon"}
        What pruning an entry is said to cost: :math:`\bar w_i^2`; :math:`\tfrac12 H_{ii}\bar w_i^2`, the loss with all
        other weights as they are; :math:`\bar w_i^2/(2[H^{-1}]_{ii})`, the loss when all other weights adapt.
    refit : bool
        Solve for the kept weights afterwards; without it they stay as they are.

    Notes
    -----
    With ``magnitude`` under a budget of non-zeros this is global magnitude pruning; with both budgets and a refit it is
    what the published code of FALCON does in a stage, its approximate selection replaced by the exact one.

    References
    ----------
    arXiv 2403.07094; Hassibi, Stork, "Second order derivatives for network pruning: optimal brain surgeon", 1992.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.formulations.network_pruning(torch.tensor([3.0, 1.0, 2.0]), torch.ones(1, 3), nnz=2, ridge=0.1)
    >>> Saliency(refit=False).solve(problem).point.tolist()
    [3.0, 0.0, 2.0]
    """

    score: str = "magnitude"
    refit: bool = True

    def __post_init__(self) -> None:
        if self.score not in _SCORES:
            raise InvalidProblem(f"score is {self.score!r}; choose one of {', '.join(_SCORES)}")

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return f"Saliency[{self.score}{' + refit' if self.refit else ''}]"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        return reason_against_low_rank(problem)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; ``start`` is not needed and ignored."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss, structure = problem.loss, problem.structure
        assert isinstance(loss, LowRank) and isinstance(structure, Sparse)
        center = loss.center.double()
        scores = center.square()
        if self.score == "fisher":
            scores = 0.5 * loss.diagonal * scores
        elif self.score == "surgeon":
            scores = 0.5 * scores / loss.inverse_diagonal(torch.ones_like(center, dtype=torch.bool))
        mask = structure.supports.keep(scores).to(center.device)
        point = torch.where(mask, loss.minimise_on(mask) if self.refit else center, 0.0)
        return finish(self, problem, point, watch=watch, stop=Stop.CONVERGED)
