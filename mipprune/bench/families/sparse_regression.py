"""Sparse regression: the generator of the L0BnB experiments, with prices that come from the true support."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import solvers
from ...core.problem import Problem
from ...core.solver import Solver
from ...errors import InvalidProblem
from ...formulations import sparse_regression
from ..peers import CVXPY, Abess, El0ps, L0bnb, LassoPath, MatchingPursuit, SkglmPath
from .family import Family
from .stored import files, located, read

__all__ = ["SPARSE_REGRESSION", "RegressionInstance", "correlated_regression"]

_GRID = 2.0**40
Array = np.ndarray[Any, Any]


class RegressionInstance(NamedTuple):
    """Data with unit columns and unit response, and the weights that go with them."""

    x: Array
    y: Array
    l0: float
    l2: float
    box: float
    support: Array


def correlated_regression(
    n: int, p: int, k: int, rho: float, snr: float, seed: int, *, l2: float = 0.01
) -> RegressionInstance:
    """Return REG(n, p, k, rho, snr, seed) of the L0BnB experiments.

    Parameters
    ----------
    n, p, k : int
        Samples, columns, true columns.
    rho : float
        Correlation of the columns through a common factor, in [0, 1).
    snr : float
        Signal-to-noise ratio, > 0.
    seed : int
        Of numpy's ``RandomState``.
    l2 : float
        Ridge without 1/2.

    Notes
    -----
    k equally spaced coefficients of 1; everything is centred and scaled to unit norm (arXiv 2004.06152). With the ridge
    fit on the true support, let ``rem`` be the smallest increase of its value when a true column is dropped and ``add``
    the largest decrease when another is added, both refitted. Then ``l0 = sqrt(rem * add)``, and the box is 1.5 times
    the largest ridge coefficient.
    """
    state = np.random.RandomState(seed)
    support = np.array([int(i * p / k) for i in range(k)])
    truth = np.zeros(p)
    truth[support] = 1.0
    x = state.normal(size=(n, p)) + np.sqrt(rho / (1 - rho)) * state.normal(size=(n, 1))
    mean = x @ truth
    y = mean + state.normal(scale=np.std(mean, ddof=1) / np.sqrt(snr), size=n)
    x, y = x - x.mean(axis=0), y - y.mean()
    x, y = x / np.linalg.norm(x, axis=0), y / np.linalg.norm(y)
    inverse = np.linalg.inv(x[:, support].T @ x[:, support] + 2 * l2 * np.eye(k))
    coefficients = inverse @ (x[:, support].T @ y)
    # Dropping column i raises the value by b_i^2 / (2 (A^-1)_ii); adding j lowers it by (x_j'r)^2 / (2 s_j) with the
    # Schur complement s_j.
    removed = float((coefficients**2 / (2 * np.diag(inverse))).min())
    cross = x[:, support].T @ x
    schur = 1.0 + 2 * l2 - np.einsum("ij,ij->j", cross, inverse @ cross)
    gain = (x.T @ (y - x[:, support] @ coefficients)) ** 2 / (2 * schur)
    gain[support] = 0.0
    price = float(np.sqrt(removed * gain.max()))
    return RegressionInstance(x, y, price, l2, float(1.5 * np.abs(coefficients).max()), support)


def _build(
    *,
    columns: int,
    support: int,
    seed: int,
    samples: int = 0,
    rho: float = 0.0,
    snr: float = 1.0,
    form: str = "price",
    l2: float = 0.01,
    source: str | None = None,
    data: Path | None = None,
) -> Problem:
    if source is not None:
        return _real_problem(source, data, columns=columns, support=support, form=form, l2=l2)
    made = correlated_regression(samples, columns, support, rho, snr, seed, l2=l2)
    x, y = np.round(made.x * _GRID) / _GRID, np.round(made.y * _GRID) / _GRID  # the same on every machine
    options: dict[str, Any] = {"l2": l2, "fit_intercept": False, "standardize": False}
    if form == "price":
        l0, box = float(np.round(made.l0 * _GRID) / _GRID), float(np.round(made.box * 1024) / 1024)
        return sparse_regression(x, y, l0=l0, box=box, **options)
    if form == "count":
        return sparse_regression(x, y, k=support, **options)
    raise InvalidProblem(f"form {form!r} is not known; choose price or count")


_PATTERNS = ("sparse_regression/*.npz", "sparse_regression/*.csv", "ggm/riboflavin.npz")


def _table(source: str, data: Path | None) -> tuple[Array, Array]:
    """Columns (n, p) and response (n,) of a data set of scikit-learn with its products of two columns, or of a file."""
    if source in ("diabetes", "breast_cancer"):
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{source}")(return_X_y=True)
        x = (x - x.mean(axis=0)) / x.std(axis=0)
        first, second = np.triu_indices(x.shape[1])
        x = np.hstack([x, x[:, first] * x[:, second]])
        return x[:, x.std(axis=0) > 1e-9], y.astype(float)
    path = located(data, source)
    found = read(path, "X", "y")
    if "table" in found and found["table"].shape[1] > 1:  # the last column is the response
        return found["table"][:, :-1], found["table"][:, -1]
    if not {"X", "y"} <= found.keys():
        raise InvalidProblem(f"{str(path)!r} needs arrays X (n, p) and y (n,), or a table of two columns or more")
    return found["X"].astype(float), found["y"].astype(float).ravel()


def _real_problem(source: str, data: Path | None, *, columns: int, support: int, form: str, l2: float) -> Problem:
    """At most ``support`` columns; or a price of one per cent of the value at zero, within a box of 2."""
    x, y = _table(source, data)
    if x.shape[1] != columns:
        raise InvalidProblem(f"{source!r} has {x.shape[1]} columns now, not {columns}")
    if form == "count":
        return sparse_regression(x, y, k=support, l2=l2)
    if form == "price":
        return sparse_regression(x, y, l0=0.005, l2=l2, box=2.0)
    raise InvalidProblem(f"form {form!r} is not known; choose price or count")


def _real(data: Path | None) -> list[dict[str, Any]]:
    bundled = ["diabetes", "breast_cancer"] if find_spec("sklearn") is not None else []
    found = []
    for source in [*bundled, *files(data, _PATTERNS)]:
        columns = _table(source, data)[0].shape[1]
        common = {"source": source, "columns": columns, "support": min(5, columns), "l2": 0.01}
        found += [{**common, "form": form} for form in ("price", "count")]
    return found


_SOLVERS: dict[str, Callable[[], Solver]] = {
    "tree": solvers.BranchAndBound,
    "projected-gradient": solvers.ProjectedGradient,
    "swaps": solvers.RuleSwaps,
    "cutting-planes": solvers.CuttingPlanes,
    "scip": solvers.Scip,
    "highs": solvers.Highs,
    "matching-pursuit": MatchingPursuit,
    "lasso-path": LassoPath,
    "abess": Abess,
    "skglm": SkglmPath,
    "l0bnb": L0bnb,
    "el0ps": El0ps,
    **CVXPY,
}


def _grid(sizes: tuple[tuple[int, int, int], ...], rhos: tuple[float, ...], snr: float) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"samples": n, "columns": p, "support": k, "rho": rho, "snr": snr, "form": form}
        for n, p, k in sizes
        for rho in rhos
        for form in ("price", "count")
    )


SPARSE_REGRESSION = Family(
    name="sparse_regression",
    title="Sparse regression",
    build=_build,
    suites={
        "quick": _grid(((100, 20, 4), (100, 60, 5)), (0.3,), 5.0),
        "full": (
            *_grid(((200, 30, 5),), (0.5,), 10.0),
            *_grid(((200, 100, 5), (500, 1000, 10)), (0.1, 0.5), 10.0),
            *_grid(((1000, 5000, 10),), (0.1,), 10.0),
        ),
    },
    tiny={"samples": 20, "columns": 6, "support": 2, "rho": 0.1, "snr": 10.0},
    solvers=_SOLVERS,
    size="columns",
    real=_real,
    layout="sparse_regression/*.npz (X, y) or *.csv (the last column is the response), ggm/riboflavin.npz",
)
