"""Published branch-and-bound codes for sparse regression: their points are recomputed, their bounds are claims."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.certificate import Claim
from ...core.problem import Problem
from ...core.solution import Solution, Stats, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import CertificateError
from ...losses.least_squares import LeastSquares
from ...solvers import ProjectedGradient
from ...structures.any_support import AnySupport
from .elsewhere import ask, missing, versions_elsewhere
from .regression import MatchingPursuit, best_refitted

__all__ = ["El0ps", "L0bnb"]

Array = np.ndarray[Any, Any]


class _Priced(NamedTuple):
    l0: float
    l2: float
    box: float | None


def _priced(problem: Problem) -> _Priced | None:
    """One price, one ridge and one symmetric box of a least-squares problem; ``None`` when it is another one."""
    loss, structure = problem.loss, problem.structure
    if not isinstance(loss, LeastSquares) or not isinstance(structure, Sparse) or problem.on is not None:
        return None
    price, ridge = (torch.as_tensor(x, dtype=torch.float64).flatten() for x in (structure.price_per_entry, loss.ridge))
    if not isinstance(structure.supports, AnySupport) or not bool((price > 0).all()):
        return None
    if not bool((ridge > 0).all()):
        return None
    box: float | None = None
    values = [price, ridge]
    if structure.box is not None:
        lower, upper = (torch.as_tensor(side, dtype=torch.float64).flatten() for side in structure.box)
        box = float(upper[0])
        values += [lower, upper]
        if not bool((lower == -box).all()) or not math.isfinite(box):
            return None
    if any(bool((value != value[0]).any()) for value in values):
        return None
    return _Priced(float(price[0]), float(ridge[0]) / 2.0, box)  # our ridge is r/2 ||b||^2, theirs l2 ||b||^2


@dataclass(frozen=True)
class _BranchAndBound(ABC):
    """What the two have in common."""

    program = ""
    boxed = False

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return self.program

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        found = _priced(problem)
        if found is None or (self.boxed and found.box is None):
            box = "a symmetric box" if self.boxed else "at most a symmetric box"
            return f"it takes least squares with one price and one ridge for all columns and {box}"
        return missing(self.program)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Solve; see :class:`mipprune.Solver`. ``start`` is not used.

        Notes
        -----
        The point is the package's, refitted on its support; time and nodes are those it took in its own process. It
        may keep to its limit only between nodes; one that does not answer at twice the limit and 15 s is ended.
        """
        accept(self, problem)
        watch = Watch(budget, progress)
        found = _priced(problem)
        assert found is not None and isinstance(problem.loss, LeastSquares)
        arrays = {
            "x": problem.loss.dense.double().cpu().numpy(),
            "y": problem.loss.response.double().cpu().numpy(),
        }
        numbers: dict[str, Any] = {**found._asdict(), "gap": watch.budget.gap}
        self._prepare(problem, arrays, numbers)
        answer = ask(self.program, arrays, numbers, seconds=watch.budget.seconds)
        if isinstance(answer, Stop):
            return Solution.of(problem, None, stop=answer, stats=watch.stats(device="cpu"), solver=self.name)
        point = best_refitted(problem, answer.arrays["points"])
        stats = Stats(seconds=answer.seconds, nodes=answer.numbers["nodes"], device="cpu")
        late = watch.budget.seconds is not None and answer.seconds >= watch.budget.seconds
        ended = Stop.TIME if late else Stop.GAP
        known: dict[str, Any] = {"tolerance": watch.budget.gap, "stats": stats, "solver": self.name}
        assessed = Solution.of(problem, point, stop=ended, **known)
        if answer.numbers["bound"] is None:
            return assessed
        # Nodes count as integral within 1e-4, and node bounds stop at 1e-4: what it claims is good to that.
        version = versions_elsewhere().get(self.program, "")
        claim = Claim(self.program, version, float(answer.numbers["bound"]), 1e-4)
        try:
            return Solution.of(problem, point, stop=ended, claim=claim, **known)
        except CertificateError:  # above its own point: no bound, but the judge is to see what was claimed
            return replace(assessed, claim=claim)

    @abstractmethod
    def _prepare(self, problem: Problem, arrays: dict[str, Array], numbers: dict[str, Any]) -> None:
        """Add what this package is given besides data, prices and limits."""


def _heuristic(problem: Problem) -> Solution:
    """A good point, found before the clock runs."""
    pursuit = MatchingPursuit()
    if pursuit.rejects(problem) is None:
        return pursuit.solve(problem)
    return ProjectedGradient().solve(problem, budget=Budget(seconds=2.0))


@dataclass(frozen=True)
class L0bnb(_BranchAndBound):
    """L0BnB (package l0bnb, arXiv 2004.06152); it needs numpy 1, hence mostly an environment of its own.

    Parameters
    ----------
    warm : bool
        Begin with the support that matching pursuit finds (outside its clock). Its authors begin with one of L0Learn;
        from a cold start it finds good points late.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.formulations.sparse_regression(torch.eye(3), torch.ones(3), k=1, l2=0.1)
    >>> L0bnb().rejects(problem)
    'it takes least squares with one price and one ridge for all columns and a symmetric box'
    """

    warm: bool = True

    program = "l0bnb"
    boxed = True

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "l0bnb, warm start" if self.warm else "l0bnb"

    def _prepare(self, problem: Problem, arrays: dict[str, Array], numbers: dict[str, Any]) -> None:
        if self.warm:
            point = _heuristic(problem).point
            assert point is not None
            arrays["start"] = point.double().cpu().numpy()


@dataclass(frozen=True)
class El0ps(_BranchAndBound):
    """El0ps (package el0ps, arXiv 2506.06373); it needs an MPI library (packages mpich and mpi4py).

    Its engine scales the relative gap by max(1, |objective|), which on data of unit norm makes it an absolute one. It
    is therefore given the absolute gap that is the relative one asked for, at a value that a heuristic finds first.
    """

    program = "el0ps"

    def _prepare(self, problem: Problem, arrays: dict[str, Array], numbers: dict[str, Any]) -> None:
        numbers["value"] = _heuristic(problem).value
