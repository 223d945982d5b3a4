"""Packages that choose columns of a regression: their support is refitted with the problem's own ridge and judged."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...losses.least_squares import LeastSquares
from ...structures.cardinality import Cardinality

__all__ = ["Abess", "LassoPath", "MatchingPursuit"]

_Data = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]


def _data(problem: Problem) -> _Data | None:
    """Columns, response and k of "least squares with at most k columns", else None."""
    loss, structure = problem.loss, problem.structure
    if not isinstance(loss, LeastSquares) or not isinstance(structure, Sparse):
        return None
    if not isinstance(structure.supports, Cardinality) or structure.box is not None:
        return None
    if bool(torch.as_tensor(structure.price_per_entry).any()) or problem.on is not None:
        return None
    design, response = loss.design.double().cpu().numpy(), loss.response.double().cpu().numpy()
    return design, response, min(structure.supports.count, design.shape[1])


@dataclass(frozen=True)
class _Columns:
    """What the three have in common: a package, a choice of columns, a refit."""

    package = ""
    title = ""

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return self.title

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if find_spec(self.package) is None:
            return f"the package {self.package} is not installed"
        if _data(problem) is None:
            return "it takes least squares with at most k columns, without box, price or fixed entries"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Choose columns and refit them; see :class:`mipprune.Solver`. The package knows no limits and no start."""
        accept(self, problem)
        watch = Watch(budget or Budget(), progress)
        data = _data(problem)
        assert data is not None
        chosen = self._choose(*data)
        mask = torch.zeros(problem.shape, dtype=torch.bool)
        mask[torch.from_numpy(np.flatnonzero(chosen))] = True
        point = torch.where(mask, problem.reference.loss.minimise_on(mask), 0.0)
        return Solution.of(problem, point, stop=Stop.CONVERGED, stats=watch.stats(device="cpu"), solver=self.name)

    def _choose(self, design: np.ndarray[Any, Any], response: np.ndarray[Any, Any], count: int) -> Any:
        raise AssertionError("each peer chooses in its own way")


@dataclass(frozen=True)
class MatchingPursuit(_Columns):
    """Orthogonal matching pursuit of scikit-learn.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.Problem(mp.LeastSquares(torch.eye(3), torch.arange(3.0)), mp.Sparse(mp.Cardinality(1)))
    >>> MatchingPursuit().solve(problem).value
    0.5
    """

    package = "sklearn"
    title = "matching pursuit (scikit-learn)"

    def _choose(self, design: np.ndarray[Any, Any], response: np.ndarray[Any, Any], count: int) -> Any:
        from sklearn.linear_model import orthogonal_mp

        return orthogonal_mp(design, response, n_nonzero_coefs=count)


@dataclass(frozen=True)
class LassoPath(_Columns):
    """The last support of the lasso path (LARS of scikit-learn) with at most k columns."""

    package = "sklearn"
    title = "lasso path (scikit-learn)"

    def _choose(self, design: np.ndarray[Any, Any], response: np.ndarray[Any, Any], count: int) -> Any:
        from sklearn.linear_model import lars_path

        _, _, path = lars_path(design, response, method="lasso", max_iter=4 * count)
        sizes = (path != 0).sum(axis=0)
        return path[:, int(np.flatnonzero(sizes <= count)[-1])]


@dataclass(frozen=True)
class Abess(_Columns):
    """Adaptive best-subset selection (package abess, arXiv 2110.09697)."""

    package = "abess"
    title = "abess"

    def _choose(self, design: np.ndarray[Any, Any], response: np.ndarray[Any, Any], count: int) -> Any:
        from abess import LinearRegression

        model = LinearRegression(support_size=[count], fit_intercept=False)
        model.fit(design, response)
        return model.coef_
