"""Packages that choose columns of a regression: their supports are refitted by the problem itself, the best counts."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.problem import Problem
from ...core.solution import Solution, Stats, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...losses.least_squares import LeastSquares
from ...structures.antichain import Antichain
from ...structures.any_support import AnySupport
from ...structures.cardinality import Cardinality
from .elsewhere import ask, missing

__all__ = ["Abess", "LassoPath", "MatchingPursuit", "RuleFitSelection", "SkglmPath", "best_refitted"]

Array = np.ndarray[Any, Any]

_MOST = 50  # columns up to which a path is followed where only prices limit their number
_REFITS = 100  # supports of a path that are refitted


class _Data(NamedTuple):
    design: Array
    response: Array
    most: int
    """columns to choose at most"""
    fixed: bool
    """whether that is part of the problem"""


def _data(problem: Problem) -> _Data | None:
    """Data of "least squares with few columns": at most k, as an antichain, or for a price each; else None."""
    loss, structure = problem.loss, problem.structure
    if not isinstance(loss, LeastSquares) or not isinstance(structure, Sparse) or problem.on is not None:
        return None
    supports = structure.supports
    if loss.too_large is not None:
        return None
    design, response = loss.dense.double().cpu().numpy(), loss.response.double().cpu().numpy()
    priced = bool(torch.as_tensor(structure.price_per_entry).any())
    count: int | None = None
    if isinstance(supports, (Cardinality, Antichain)):
        count = supports.count
    elif not (isinstance(supports, AnySupport) and priced):
        return None
    most = min(*design.shape, _MOST)
    return _Data(design, response, most if count is None else min(count, design.shape[1]), count is not None)


def best_refitted(problem: Problem, points: Array) -> Tensor:
    """Return the best of several candidates, each brought into the problem's set and refitted on its support.

    Parameters
    ----------
    problem : Problem
        Of least squares, see the peers of this module.
    points : array, shape (m, p)
        Coefficients; with more columns than allowed the largest are kept, and what still violates the structure is
        replaced by the nearest point that does not.

    Returns
    -------
    float64 Tensor, shape (p,)
    """
    reference, structure = problem.reference, problem.structure
    assert isinstance(structure, Sparse) and isinstance(reference.loss, LeastSquares)
    supports = structure.supports
    count = supports.count if isinstance(supports, (Cardinality, Antichain)) else None
    best = torch.zeros(problem.shape, dtype=torch.float64)  # a member of all of these sets
    value = reference.value(best)
    masks = _distinct(np.asarray(points, dtype=np.float64), count, len(reference.loss.design))
    estimates = _estimates(reference, structure, masks)
    for index in np.argsort(estimates, kind="stable"):
        if estimates[index] > value + 1e-6 * abs(value):
            break
        mask = masks[index]
        point = torch.where(torch.from_numpy(mask), reference.loss.minimise_on(torch.from_numpy(mask)), 0.0)
        found = reference.value(point)
        if found < value and reference.violation(point) != 0:
            point = _inside(reference, structure, point)
            found = reference.value(point)
        if found < value:
            best, value = point, found
    return best


def _estimates(problem: Problem, structure: Sparse, masks: list[Array]) -> Array:
    """Values of the refits without box or structure, by normal equations: an order to try them in, no more."""
    loss = problem.loss
    assert isinstance(loss, LeastSquares)
    design, response = loss.dense.numpy(), loss.response.numpy()
    ridge = np.broadcast_to(torch.as_tensor(loss.ridge, dtype=torch.float64).numpy(), design.shape[1:])
    price = torch.as_tensor(structure.price_per_entry, dtype=torch.float64).numpy()
    prices = np.broadcast_to(price, design.shape[1:])
    found = np.full(len(masks), -np.inf)  # what cannot be estimated is refitted
    for number, mask in enumerate(masks):
        columns = design[:, mask]
        right = columns.T @ response
        with contextlib.suppress(np.linalg.LinAlgError):
            best = np.linalg.solve(columns.T @ columns + np.diag(ridge[mask]), right)
            found[number] = 0.5 * (response @ response - right @ best) + prices[mask].sum()
    return found


def _distinct(points: Array, count: int | None, most: int) -> list[Array]:
    """The supports of a path, each once, at most so many columns; of a long path some that are spread over it."""
    found: dict[bytes, Array] = {}
    for row in points[np.isfinite(points).all(axis=1)]:
        kept = np.flatnonzero(row)
        if count is not None and len(kept) > count:
            kept = kept[np.argsort(-np.abs(row[kept]), kind="stable")[:count]]
        if len(kept) <= most:
            mask = np.zeros(len(row), dtype=bool)
            mask[kept] = True
            found[mask.tobytes()] = mask
    masks = sorted(found.values(), key=np.count_nonzero)
    chosen = np.unique(np.linspace(0, len(masks) - 1, min(len(masks), _REFITS)).round().astype(int))
    return [masks[index] for index in chosen]


def _inside(problem: Problem, structure: Sparse, point: Tensor) -> Tensor:
    """Clip to the box and refit there, if that is all that is wrong; else the nearest point of the set, refitted."""
    if structure.box is not None:
        lower, upper = (torch.as_tensor(side, dtype=torch.float64) for side in structure.box)
        clipped = point.clamp(lower, upper)
        if problem.violation(clipped) == 0:
            return problem.refit(clipped)
    return problem.repair(point)


@dataclass(frozen=True)
class _Columns(ABC):
    """What these peers have in common: a package, candidates, a refit."""

    package = ""
    title = ""

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return self.title

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        if _data(problem) is None:
            return "it takes least squares with few columns: at most k of them, or each for a price"
        return self._missing()

    def _missing(self) -> str | None:
        return None if find_spec(self.package) is not None else f"the package {self.package} is not installed"

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Choose columns and refit them; see :class:`mipprune.Solver`. ``start`` is not used."""
        accept(self, problem)
        watch = Watch(budget, progress)
        data = _data(problem)
        assert data is not None
        found = self._choose(data, watch.budget)
        if isinstance(found, Stop):
            return Solution.of(problem, None, stop=found, stats=watch.stats(device="cpu"), solver=self.name)
        points, seconds = found
        chosen = watch.seconds
        point = best_refitted(problem, points)
        own = watch.seconds if seconds is None else seconds + (watch.seconds - chosen)
        stats = Stats(seconds=own, device="cpu")
        return Solution.of(problem, point, stop=Stop.CONVERGED, stats=stats, solver=self.name)

    @abstractmethod
    def _choose(self, data: _Data, budget: Budget) -> tuple[Array, float | None] | Stop:
        """Candidates (m, p) and the seconds they took elsewhere, or why there are none."""


@dataclass(frozen=True)
class MatchingPursuit(_Columns):
    """Orthogonal matching pursuit of scikit-learn; with prices, the best length of its path.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.Problem(mp.LeastSquares(torch.eye(3), torch.arange(3.0)), mp.Sparse(mp.Cardinality(1)))
    >>> MatchingPursuit().solve(problem).value
    0.5
    """

    package = "sklearn"
    title = "matching pursuit (scikit-learn)"

    def _choose(self, data: _Data, budget: Budget) -> tuple[Array, float | None]:
        from sklearn.linear_model import orthogonal_mp

        if data.fixed:
            return orthogonal_mp(data.design, data.response, n_nonzero_coefs=data.most)[None], None
        path = orthogonal_mp(data.design, data.response, n_nonzero_coefs=data.most, return_path=True)
        return np.asarray(path).reshape(data.design.shape[1], -1).T, None


@dataclass(frozen=True)
class LassoPath(_Columns):
    """Supports of the lasso path (LARS of scikit-learn): the best after a refit."""

    package = "sklearn"
    title = "lasso path (scikit-learn)"

    def _choose(self, data: _Data, budget: Budget) -> tuple[Array, float | None]:
        from sklearn.linear_model import lars_path

        _, _, path = lars_path(data.design, data.response, method="lasso", max_iter=4 * data.most)
        if data.fixed:
            path = path[:, (path != 0).sum(axis=0) <= data.most]
        return path.T, None


@dataclass(frozen=True)
class _Elsewhere(_Columns):
    """A peer that runs in a process of its own."""

    program = ""

    def _missing(self) -> str | None:
        return missing(self.program)

    def _choose(self, data: _Data, budget: Budget) -> tuple[Array, float | None] | Stop:
        arrays = {"x": data.design, "y": data.response}
        answer = ask(self.program, arrays, {"count": data.most, "fixed": data.fixed}, seconds=budget.seconds)
        return answer if isinstance(answer, Stop) else (answer.arrays["points"], answer.seconds)


@dataclass(frozen=True)
class Abess(_Elsewhere):
    """Adaptive best-subset selection (package abess, arXiv 2110.09697); with prices, the best of its sizes up to 50."""

    program = package = title = "abess"


@dataclass(frozen=True)
class SkglmPath(_Elsewhere):
    """The path of the minimax concave penalty (package skglm, arXiv 2204.07826): the best support after a refit."""

    program = package = "skglm"
    title = "MCP path (skglm)"


@dataclass(frozen=True)
class RuleFitSelection(_Elsewhere):
    """How RuleFit chooses among given rules (package imodels): the cross-validated lasso with at most k of them.

    RuleFit as a whole grows rules of its own, which are no columns of the instance; its second step maps.
    """

    program = package = "imodels"
    title = "RuleFit selection (imodels)"
