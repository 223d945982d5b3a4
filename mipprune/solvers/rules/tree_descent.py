"""Block coordinate descent over trees with exact blocks, and the path over prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from ...losses.least_squares import LeastSquares
from ...structures.antichain import Antichain
from .rule_swaps import RuleSwaps, is_empty
from .tree_state import Descent, blocks_of

__all__ = ["PricePoint", "TreeDescent"]

Array = np.ndarray[Any, Any]
_DISJOINT = "the columns of a path's branches overlap: those of one tree must hold for disjoint samples"


@dataclass(frozen=True, eq=False)
class PricePoint:
    """One point of a path over prices.

    Attributes
    ----------
    price : float
    problem : Problem
        The problem at this price.
    point : Tensor, shape (p,)
        A member of its set.
    value : float
        Of the problem at the point, price included.
    sweeps : int
    """

    price: float
    problem: Problem
    point: Tensor
    value: float
    sweeps: int

    @property
    def count(self) -> int:
        """Number of rules."""
        return int((self.point != 0).sum())


@dataclass(frozen=True)
class TreeDescent:
    r"""Cyclic descent over the trees of a rule problem; each block is solved exactly in closed form.

    Parameters
    ----------
    sweeps : int
        Most sweeps over all trees for one price.
    tolerance : float
        A sweep that decreases the value by less than this, relative to the value of the empty model, is the last, > 0.
    order : {"cyclic", "greedy"}
        One tree after the other, compiled for the CPU; or all blocks at once in torch, on the device of the problem,
        of which the best one is taken (Gauss-Southwell). Both end at points that no block improves.
    polish : bool
        With a budget of rules: go on with the exchanges of :class:`RuleSwaps`, from here and from the empty model, and
        keep the better end.

    Notes
    -----
    For least squares over ``Sparse(Antichain(parents, count), price=...)`` whose columns hold for nested or disjoint
    samples within a tree. With the residual r of the other trees, :math:`c_v = m_v^\top r`, the block is

    .. math:: \max_{S}\sum_{v\in S} \Bigl(\tfrac{c_v^2}{2(\|m_v\|^2 + 1/\gamma)} - \lambda a_v\Bigr),\qquad
              w_v = \frac{c_v}{\|m_v\|^2 + 1/\gamma},

    over antichains S: one pass from the leaves up. With a budget, a price for every rule is bisected until the budget
    holds. The value never increases.

    References
    ----------
    arXiv 2506.20114 for the descent over trees (there each block is a mixed-integer program); closed form derived here.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> M = torch.tensor([[1.0, 1, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]])
    >>> y, parents = torch.tensor([3.0, 3, 1, 0]), torch.tensor([-1, 0, 0])
    >>> problem = mp.formulations.rule_selection(M, y, price=0.5, gamma=10.0, parents=parents)
    >>> TreeDescent().solve(problem).mask.tolist()
    [False, True, False]
    """

    sweeps: int = 1000
    tolerance: float = 1e-6
    order: str = "cyclic"
    polish: bool = True

    def __post_init__(self) -> None:
        if self.sweeps < 1 or not self.tolerance > 0:
            raise InvalidProblem(f"sweeps is {self.sweeps} and tolerance {self.tolerance}; both must be positive")
        if self.order not in ("cyclic", "greedy"):
            raise InvalidProblem(f"order is {self.order!r}; choose 'cyclic' or 'greedy'")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "TreeDescent"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if not isinstance(problem.loss, LeastSquares):
            return f"its blocks are those of least squares, not of {type(problem.loss).__name__}"
        if not isinstance(problem.structure, Sparse) or not isinstance(problem.structure.supports, Antichain):
            return "it descends over trees: Sparse(Antichain(parents)) is needed"
        if problem.structure.box is not None:
            return "its blocks have no box around the weights"
        if problem.loss.too_large is not None:
            return problem.loss.too_large
        if blocks_of(problem.loss.dense, problem.structure.supports) is None:
            return _DISJOINT
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`mipprune.Solver.solve`; descent begins at ``start`` (default: the empty model)."""
        accept(self, problem)
        watch = Watch(budget, progress)
        if is_empty(problem):
            return Solution.of(problem, None, stop=Stop.CONVERGED, infeasible=True, solver=self.name)
        descent = Descent(problem, self.sweeps, self.tolerance, self.order == "greedy")
        first = torch.zeros(problem.shape, dtype=torch.float64) if start is None else start
        descent.offer(first if problem.violation(first) == 0 else problem.repair(first))
        if start is not None:
            descent.begin(descent.best)
        try:
            stop = self._solve(problem, descent, watch)
        except KeyboardInterrupt:
            stop = Stop.USER
            descent.offer(descent.point())
        return Solution.of(
            problem,
            descent.best,
            stop=stop,
            tolerance=watch.budget.gap,
            stats=watch.stats(iterations=descent.done, device="cpu"),
            solver=self.name,
        )

    def _solve(self, problem: Problem, descent: Descent, watch: Watch) -> Stop:
        if descent.count is None:
            stop = descent.run(0.0, watch)
            descent.offer(descent.point())
            watch.report(descent.value, None)
            return stop or Stop.CONVERGED
        stop = descent.within_budget(watch)
        watch.report(descent.value, None)
        if stop is not None or not self.polish or RuleSwaps().rejects(problem) is not None:
            return stop or watch.due() or Stop.CONVERGED
        for start in (descent.best, None):
            seconds = None if watch.budget.seconds is None else max(watch.remaining, 1e-3)
            before = descent.value
            ended = RuleSwaps().solve(problem, budget=replace(watch.budget, seconds=seconds), start=start)
            if ended.point is not None:
                descent.offer(ended.point)
            if descent.value < before:
                watch.report(descent.value, None)
            if ended.stop is Stop.USER:
                return Stop.USER
        return watch.due() or Stop.CONVERGED

    def path(
        self,
        problem: Problem,
        prices: Sequence[float],
        *,
        budget: Budget | None = None,
        progress: Progress | None = None,
    ) -> list[PricePoint]:
        """Solve a problem without a budget of rules for a list of prices, each from the solution of the one before.

        Parameters
        ----------
        problem : Problem
            Its own prices are the unit: entry j costs ``price * a_j``, with a_j = 1 where it has none.
        prices : sequence of float
            Usually from large to small, >= 0.
        budget : Budget, optional
            ``seconds`` for the whole path; what is done by then is returned.
        progress : callable, optional
            Receives (seconds, value, None) after each price.

        Returns
        -------
        list of PricePoint
            One for each price; fewer when time was up or the run was interrupted. ``mp.certify(p.problem, p.point,
            iterations=300, strength=1.0)`` gives the bound of one.
        """
        accept(self, problem)
        watch = Watch(budget, progress)
        wanted = [self.priced(problem, price) for price in prices]
        descent = Descent(problem, self.sweeps, self.tolerance, self.order == "greedy")
        if descent.count is not None:
            raise InvalidProblem(f"the path over prices has no budget of rules; the problem asks for {descent.count}")
        found: list[PricePoint] = []
        try:
            for price, at in zip(prices, wanted, strict=True):
                before = descent.done
                descent.charge(at)
                stop = descent.run(0.0, watch)
                point = descent.point(at)
                found.append(PricePoint(float(price), at, point, at.value(point), descent.done - before))
                watch.report(found[-1].value, None)
                if stop is not None or watch.due() is not None:
                    break
        except KeyboardInterrupt:
            pass  # what is done is returned
        return found

    @staticmethod
    def priced(problem: Problem, price: float) -> Problem:
        """Return the problem with its prices multiplied by ``price`` (a problem without prices: with this price)."""
        if not price >= 0:
            raise InvalidProblem(f"price is {price}; it must be >= 0")
        structure = problem.structure
        assert isinstance(structure, Sparse)
        unit = structure.price_per_entry
        empty = not bool((torch.as_tensor(unit) > 0).any())
        return replace(problem, structure=Sparse(structure.supports, structure.box, price if empty else price * unit))
