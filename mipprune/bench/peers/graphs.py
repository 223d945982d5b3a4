"""Graphical lassos of other packages: the best of the graphs on their paths, refitted and judged."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solution import Solution, Stats, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...losses.pseudo_likelihood import PseudoLikelihood
from ...structures.any_support import AnySupport
from .elsewhere import ask, missing

__all__ = ["GraphicalLassoPath", "SkglmGraph"]

Array = np.ndarray[Any, Any]

_FLAT = 1e-6  # entries of the lasso below it are zeros that the solver left


def _unlike(problem: Problem) -> str | None:
    structure = problem.structure
    plain = isinstance(structure, Sparse) and isinstance(structure.supports, AnySupport) and structure.box is None
    if not isinstance(problem.loss, PseudoLikelihood) or not plain or problem.on is not None:
        return "it takes graphical models with a price for each edge, without box or fixed entries"
    return None


def _refitted(loss: PseudoLikelihood, precision: Array) -> Tensor:
    """The best point on the graph of a precision matrix."""
    mask = torch.from_numpy(np.abs(precision[np.triu_indices(loss.nodes, 1)]) > _FLAT)
    return torch.where(mask, loss.minimise_on(mask), 0.0)


@dataclass(frozen=True)
class GraphicalLassoPath:
    """Graphs of the graphical lasso along a path of penalties; the one with the best refitted objective counts.

    Parameters
    ----------
    penalties : int
        Penalties in equal ratios, downwards from the one that keeps no edge to a hundredth of it.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> covariance = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    >>> problem = mp.formulations.graphical_model(covariance, covariance=True, l0=0.1, l2=0.05)
    >>> GraphicalLassoPath().solve(problem).mask.tolist()
    [True, False, False]
    """

    penalties: int = 20

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "graphical lasso path (scikit-learn)"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if find_spec("sklearn") is None:
            return "the package scikit-learn is not installed"
        return _unlike(problem)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Follow the path; see :class:`mipprune.Solver`. ``start`` is not used."""
        from sklearn.covariance import graphical_lasso
        from sklearn.exceptions import ConvergenceWarning

        accept(self, problem)
        watch = Watch(budget, progress)
        loss = problem.reference.loss
        assert isinstance(loss, PseudoLikelihood)
        matrix, pairs = loss.matrix, np.triu_indices(loss.nodes, 1)
        largest = float(np.abs(matrix[pairs]).max())
        best = torch.zeros(problem.shape, dtype=torch.float64)
        value, stop = problem.value(best), Stop.CONVERGED
        for penalty in largest * np.geomspace(1.0, 0.01, self.penalties) if largest > 0 else ():
            reason = watch.due()
            if reason is not None:
                stop = reason
                break
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                try:
                    _, precision = graphical_lasso(matrix, float(penalty))
                except FloatingPointError:  # too little penalty for a singular covariance
                    break
            point = _refitted(loss, precision)
            found = problem.value(point)
            if found < value:
                best, value = point, found
                watch.report(value, None)
        stats = watch.stats(iterations=self.penalties, device="cpu")
        return Solution.of(problem, best, stop=stop, stats=stats, solver=self.name)


@dataclass(frozen=True)
class SkglmGraph:
    """Graphs of the adaptive graphical lasso (package skglm) along its path; the best refitted objective counts."""

    program = "skglm-graph"

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "adaptive graphical lasso path (skglm)"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        return _unlike(problem) or missing(self.program)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Follow the path; see :class:`mipprune.Solver`. ``start`` is not used."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss = problem.reference.loss
        assert isinstance(loss, PseudoLikelihood)
        answer = ask(self.program, {"covariance": loss.matrix}, {}, seconds=watch.budget.seconds)
        if isinstance(answer, Stop):
            return Solution.of(problem, None, stop=answer, stats=watch.stats(device="cpu"), solver=self.name)
        found = watch.seconds
        points = [_refitted(loss, precision) for precision in answer.arrays["points"]]
        best = min(points, key=problem.value)
        stats = Stats(seconds=answer.seconds + watch.seconds - found, device="cpu")
        return Solution.of(problem, best, stop=Stop.CONVERGED, stats=stats, solver=self.name)
