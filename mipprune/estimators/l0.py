"""Sparse linear regression as scikit-learn estimators, with the distance to the best sparse model proven."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import check_cv
from sklearn.utils.validation import check_is_fitted, validate_data

from ..core.solution import Solution
from ..core.solver import Budget, Solver
from ..errors import InvalidProblem
from ..formulations.regression import RegressionData
from ..losses.least_squares import LeastSquares
from ..solve import solve
from ..solvers.branch_and_bound import BranchAndBound
from ..solvers.path import regularization_path
from .plotting import axes

__all__ = ["L0Regressor", "L0RegressorCV"]

Array = np.ndarray[Any, Any]
_SPARSE = ("csc", "csr")


class _Linear(RegressorMixin, BaseEstimator):
    """What both share: the prediction, and one fit on prepared data."""

    coef_: Array
    intercept_: float

    def predict(self, X: Any) -> Array:
        """Return the predictions (n,) of the rows of X (n, p)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64, accept_sparse=_SPARSE)
        predicted: Array = X @ self.coef_ + self.intercept_
        return predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    @property
    def selected_(self) -> Array:
        """Indices of the columns with a coefficient."""
        check_is_fitted(self)
        return np.flatnonzero(self.coef_)


class L0Regressor(_Linear):
    r"""Least squares with a price for each column, or with at most k columns, and a ridge.

    Parameters
    ----------
    l0 : float
        Price of a column, >= 0, for a response and columns of unit norm: a column is worth its place when it lowers
        half the squared residual by more. Not used when ``k`` is given.
    l2 : float
        Ridge, >= 0, without 1/2.
    k : int, optional
        Columns at most, >= 1; instead of the price.
    box : float, optional
        Bound on the standardised coefficients; without it they are bounded by the ridge alone.
    fit_intercept, standardize : bool
    solver : Solver, optional
        Default :class:`~mipprune.BranchAndBound`, which proves how far the model is from the best one. A heuristic
        alone is faster and proves nothing.
    time_limit : float, optional
        Seconds; the best model found by then is kept, with its gap.
    gap : float
        Relative gap at which the search ends, >= 0.

    Attributes
    ----------
    coef_ : ndarray, shape (p,)
    intercept_ : float
    selected_ : int ndarray
    solution_ : Solution
        Value, bound and certificate on the standardised data; :func:`mipprune.check` takes it with ``problem_``.
    problem_ : Problem
    gap_ : float or None
        Proven relative gap of the objective.
    box_validity_ : {"none", "proven", "given"}
        Whether ``gap_`` speaks of the problem without the box too, see :meth:`mipprune.Problem.box_validity`.
    n_features_in_, feature_names_in_

    Notes
    -----
    .. math:: \min_b\; \tfrac12\|y - Xb\|^2 + \lambda_0 \|b\|_0 + \lambda_2 \|b\|^2

    on centred data with columns and response of unit norm, as in arXiv 2004.06152.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((80, 10))
    >>> model = L0Regressor(k=2, l2=1e-3).fit(X, 3 * X[:, 1] - 2 * X[:, 6] + 1)
    >>> model.selected_.tolist(), round(float(model.intercept_), 1), model.gap_ <= 1e-3
    ([1, 6], 1.0, True)
    """

    def __init__(
        self,
        l0: float = 1e-3,
        l2: float = 1e-3,
        *,
        k: int | None = None,
        box: float | None = None,
        fit_intercept: bool = True,
        standardize: bool = True,
        solver: Solver | None = None,
        time_limit: float | None = 60.0,
        gap: float = 1e-3,
    ) -> None:
        self.l0 = l0
        self.l2 = l2
        self.k = k
        self.box = box
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.solver = solver
        self.time_limit = time_limit
        self.gap = gap

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array, DataFrame or scipy sparse array, shape (n, p)
            Sparse data stay sparse.
        y : array, shape (n,)

        Raises
        ------
        InvalidProblem
            On bad parameters.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, accept_sparse=_SPARSE)
        data = RegressionData.of(X, y, fit_intercept=self.fit_intercept, standardize=self.standardize)
        count = _count(self.k, X.shape[1])
        price = None if count is not None else self.l0
        self.problem_ = data.problem(l0=price, l2=self.l2, k=count, box=self.box)
        self.solution_ = _solve(self.problem_, self.solver, self.time_limit, self.gap, None)
        self.gap_ = self.solution_.gap
        self.box_validity_ = self.problem_.box_validity(self.solution_.value)
        self.coef_, self.intercept_ = _restored(data, self.solution_)
        return self


class L0RegressorCV(_Linear):
    """:class:`L0Regressor` with the price of a column chosen by cross-validation or by an information criterion.

    Parameters
    ----------
    l2 : float
        Ridge, >= 0.
    n_prices : int
        Prices on the path, >= 1, from the one that keeps no column downwards in equal ratios.
    smallest : float
        Smallest price as a share of the largest, in (0, 1).
    criterion : {"cv", "bic", "ebic", "aic"}
        Cross-validated squared error, or a criterion on all data. The extended BIC of Chen and Chen (2008) adds
        ``2 log p`` for each column.
    cv : int or splitter
        Of the cross-validation.
    fit_intercept, standardize : bool
    heuristic : Solver, optional
        For the fits along the path, each started from the last; default a branch and bound that stops at its root.
    solver, time_limit, gap
        For the last fit, at the chosen price, as in :class:`L0Regressor`.

    Attributes
    ----------
    l0_ : float
        Chosen price.
    prices_ : ndarray, shape (n_prices,)
    scores_ : ndarray, shape (n_prices,)
        The criterion at each price; smaller is better.
    path_ : ndarray, shape (n_prices, p)
        Coefficients in the user's units, fitted on all data.
    counts_ : int ndarray, shape (n_prices,)
        Columns used at each price.
    coef_, intercept_, solution_, problem_, gap_, selected_
        As in :class:`L0Regressor`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((80, 10))
    >>> y = 3 * X[:, 1] - 2 * X[:, 6] + 0.5 * rng.standard_normal(80)
    >>> L0RegressorCV(criterion="bic").fit(X, y).selected_.tolist()
    [1, 6]
    """

    l0_: float
    prices_: Array
    scores_: Array
    path_: Array
    counts_: Array

    def __init__(
        self,
        l2: float = 1e-3,
        *,
        n_prices: int = 20,
        smallest: float = 1e-3,
        criterion: str = "cv",
        cv: Any = 5,
        fit_intercept: bool = True,
        standardize: bool = True,
        heuristic: Solver | None = None,
        solver: Solver | None = None,
        time_limit: float | None = 60.0,
        gap: float = 1e-3,
    ) -> None:
        self.l2 = l2
        self.n_prices = n_prices
        self.smallest = smallest
        self.criterion = criterion
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.heuristic = heuristic
        self.solver = solver
        self.time_limit = time_limit
        self.gap = gap

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the path, choose the price, and prove the model at it.

        Parameters
        ----------
        X : array, DataFrame or scipy sparse array, shape (n, p)
            Sparse data stay sparse.
        y : array, shape (n,)

        Raises
        ------
        InvalidProblem
            On bad parameters.
        """
        if self.criterion not in ("cv", "bic", "ebic", "aic"):
            raise InvalidProblem(f"criterion is {self.criterion!r}; choose cv, bic, ebic or aic")
        if not isinstance(self.n_prices, Integral) or self.n_prices < 1 or not 0 < self.smallest < 1:
            raise InvalidProblem(
                f"n_prices is {self.n_prices!r} and smallest is {self.smallest!r}; they must be >= 1 and inside (0, 1)"
            )
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, accept_sparse=_SPARSE)
        data = self._data(X, y)
        self.prices_ = _prices(data, self.l2, int(self.n_prices), self.smallest)
        solutions = self._path(data)
        restored = [_restored(data, solution) for solution in solutions]
        self.path_ = np.stack([coefficients for coefficients, _ in restored])
        self.counts_ = (self.path_ != 0).sum(axis=1)
        if self.criterion == "cv":
            self.scores_ = self._cross_validated(X, y)
        else:
            residuals = np.stack([y - X @ coefficients - intercept for coefficients, intercept in restored])
            self.scores_ = _information(self.criterion, (residuals**2).sum(axis=1), self.counts_, *X.shape)
        best = int(np.argmin(self.scores_))
        self.l0_ = float(self.prices_[best])
        self.problem_ = data.problem(l0=self.l0_, l2=self.l2)
        start = solutions[best].point
        self.solution_ = _solve(self.problem_, self.solver, self.time_limit, self.gap, start)
        self.gap_ = self.solution_.gap
        self.box_validity_ = self.problem_.box_validity(self.solution_.value)
        self.coef_, self.intercept_ = _restored(data, self.solution_)
        return self

    def _data(self, X: Array, y: Array) -> RegressionData:
        return RegressionData.of(X, y, fit_intercept=self.fit_intercept, standardize=self.standardize)

    def _path(self, data: RegressionData) -> list[Solution]:
        """Solutions at all prices, each started from the last."""
        problem, budget = data.problem(l0=0.0, l2=self.l2), Budget(nodes=1, gap=self.gap)
        path = regularization_path(problem, self.prices_.tolist(), budget=budget, solver=self.heuristic)
        if len(path) < len(self.prices_):
            raise KeyboardInterrupt(f"interrupted after {len(path)} of {len(self.prices_)} prices")
        return [point.solution for point in path]

    def _cross_validated(self, X: Array, y: Array) -> Array:
        total = np.zeros(len(self.prices_))
        for train, test in check_cv(self.cv).split(X, y):
            data = self._data(X[train], y[train])
            for number, solution in enumerate(self._path(data)):
                coefficients, intercept = _restored(data, solution)
                total[number] += float(((y[test] - X[test] @ coefficients - intercept) ** 2).sum())
        return total / len(y)

    def plot_path(self, ax: Any = None) -> Any:
        """Draw coefficients and scores against the price; return matplotlib's axes.

        Parameters
        ----------
        ax : matplotlib axes, optional

        Raises
        ------
        InvalidProblem
            Without matplotlib.
        """
        check_is_fitted(self)
        ax = axes(ax)
        names = getattr(self, "feature_names_in_", None)
        for column in np.flatnonzero(self.path_.any(axis=0)):
            name = f"x{column}" if names is None else str(names[column])
            ax.plot(self.prices_, self.path_[:, column], drawstyle="steps-post", label=name)
        ax.axvline(self.l0_, color="0.5", linestyle="--")
        ax.set(xscale="log", xlabel="price of a column", ylabel="coefficient")
        ax.invert_xaxis()
        return ax


def _count(k: Any, columns: int) -> int | None:
    if k is None:
        return None
    if isinstance(k, bool) or not isinstance(k, Integral) or k < 1:
        raise InvalidProblem(f"k is {k!r}; it must be a whole number >= 1")
    return min(int(k), columns)


def _solve(problem: Any, solver: Solver | None, seconds: float | None, gap: float, start: Any) -> Solution:
    chosen = BranchAndBound() if solver is None else solver
    return solve(problem, chosen, budget=Budget(seconds=seconds, gap=gap), start=start)


def _restored(data: RegressionData, solution: Solution) -> tuple[Array, float]:
    point = torch.zeros(len(data.scale), dtype=torch.float64) if solution.point is None else solution.point
    coefficients, intercept = data.restore(point)
    return coefficients.cpu().numpy(), intercept


def _prices(data: RegressionData, l2: float, count: int, smallest: float) -> Array:
    """Prices in equal ratios, downwards from the one above which no column pays for itself."""
    columns = LeastSquares(data.design, data.response).matrix
    gain = (data.response.double() @ columns).square() / (2.0 * (columns.squares + 2.0 * l2)).clamp_min(1e-300)
    largest = max(float(gain.max()), 1e-12)
    return largest * np.geomspace(1.0, smallest, count)


def _information(criterion: str, squares: Array, counts: Array, n: int, p: int) -> Array:
    """Information criteria of Gaussian models with so many coefficients, up to a constant."""
    charge = {"aic": 2.0, "bic": math.log(n), "ebic": math.log(n) + 2.0 * math.log(max(p, 2))}[criterion]
    scores: Array = n * np.log(np.maximum(squares / n, 1e-300)) + charge * counts
    return scores
