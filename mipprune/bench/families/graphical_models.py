"""Gaussian graphical models: random sparse precision matrices."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ... import solvers
from ...core.problem import Problem
from ...core.solver import Solver
from ...errors import InvalidProblem
from ...formulations import graphical_model
from ..peers import GraphicalLassoPath, SkglmGraph
from .family import Family
from .stored import files, located, read

__all__ = ["GRAPHICAL_MODELS", "gaussian_sample"]

_GRID = 2.0**20


def gaussian_sample(
    nodes: int, samples: int, seed: int, *, model: str = "uniform", degree: int = 3, condition: float = 2.0
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the covariance (nodes, nodes) of a sample and the precision matrix it was drawn from.

    Parameters
    ----------
    nodes, samples : int
    seed : int
        Of numpy's ``RandomState``.
    model : {"uniform", "banded"}
        Entries 0.5 at random with ``degree`` expected in a row, or ``0.5 ** |i - j|`` within a band of ``degree``.
    degree : int
    condition : float
        Condition number of the precision matrix, which its diagonal is chosen for.

    Notes
    -----
    The generator of the GraphL0BnB experiments (arXiv 2307.09366). The covariance is rounded to multiples of 2^-20.
    """
    state = np.random.RandomState(seed)
    if model == "uniform":
        lower = np.tril(0.5 * state.binomial(1, min(degree / nodes, 1.0), (nodes, nodes)), -1)
    elif model == "banded":
        distance = np.abs(np.subtract.outer(np.arange(nodes), np.arange(nodes)))
        lower = np.tril(np.where((distance > 0) & (distance <= degree), 0.5**distance, 0.0), -1)
    else:
        raise InvalidProblem(f"model {model!r} is not known; choose uniform or banded")
    edges = lower + lower.T
    values = np.linalg.eigvalsh(edges)
    precision = edges + (condition * values[0] - values[-1]) / (1.0 - condition) * np.eye(nodes)
    precision *= np.diag(np.linalg.inv(precision)).max()
    factor = np.linalg.cholesky(np.linalg.inv(precision))
    data = state.standard_normal((samples, nodes)) @ factor.T
    data -= data.mean(axis=0)
    return np.round(data.T @ data / samples * _GRID) / _GRID, precision


_PATTERNS = ("graphical_models/*.npz", "graphical_models/*.csv", "ggm/stockdata.npz")


def _samples(source: str, data: Path | None) -> np.ndarray[Any, Any]:
    """Samples (n, nodes) of a data set of scikit-learn or of a file; of prices the logarithms of daily returns."""
    if source in ("wine", "breast_cancer"):
        from sklearn import datasets

        return np.asarray(getattr(datasets, f"load_{source}")(return_X_y=True)[0], dtype=float)
    path = located(data, source)
    found = read(path, "X", "prices")
    if "prices" in found:
        if not (found["prices"] > 0).all():
            raise InvalidProblem(f"{str(path)!r} has prices that are not positive")
        return np.diff(np.log(found["prices"].astype(float)), axis=0)
    values = found.get("X", found.get("table"))
    if values is None or values.ndim != 2:
        raise InvalidProblem(f"{str(path)!r} needs an array X (samples, variables) or prices (days, companies)")
    return values.astype(float)


def _real(data: Path | None) -> list[dict[str, Any]]:
    bundled = ["wine", "breast_cancer"] if find_spec("sklearn") is not None else []
    found = []
    for source in [*bundled, *files(data, _PATTERNS)]:
        every = _samples(source, data).shape[1]
        for nodes in [size for size in (15, 50, 200) if size < every] + [every]:
            found.append({"source": source, "nodes": nodes, "l0": 0.05, "l2": 0.05})
    return found


def _build(
    *,
    nodes: int,
    l0: float,
    l2: float,
    seed: int,
    samples: int = 0,
    model: str = "uniform",
    source: str | None = None,
    data: Path | None = None,
) -> Problem:
    if source is not None:
        columns = _samples(source, data)
        if columns.shape[1] < nodes:
            raise InvalidProblem(f"{source!r} has {columns.shape[1]} variables, not {nodes}")
        return graphical_model(np.ascontiguousarray(columns[:, :nodes]), l0=l0, l2=l2)
    covariance, _ = gaussian_sample(nodes, samples, seed, model=model)
    return graphical_model(covariance, covariance=True, l0=l0, l2=l2, standardize=False)


_SOLVERS: dict[str, Callable[[], Solver]] = {
    "tree": solvers.BranchAndBound,
    "edge-descent": solvers.EdgeDescent,
    "projected-gradient": solvers.ProjectedGradient,
    "scip": solvers.Scip,
    "highs": solvers.Highs,
    "graphical-lasso": GraphicalLassoPath,
    "skglm": SkglmGraph,
}

GRAPHICAL_MODELS = Family(
    name="graphical_models",
    title="Gaussian graphical models",
    build=_build,
    suites={
        "quick": (
            {"nodes": 5, "samples": 50, "l0": 0.05, "l2": 0.05},
            {"nodes": 10, "samples": 100, "l0": 0.05, "l2": 0.05},
        ),
        "full": tuple(
            {"nodes": nodes, "samples": 10 * nodes, "l0": 0.05, "l2": 0.05, "model": model}
            for nodes, model in (
                *((6, "uniform"), (8, "banded"), (12, "uniform"), (12, "banded"), (20, "uniform"), (30, "banded")),
                *((40, "uniform"), (60, "uniform")),
            )
        ),
    },
    tiny={"nodes": 4, "samples": 40, "l0": 0.1, "l2": 0.1},
    solvers=_SOLVERS,
    size="nodes",
    real=_real,
    layout="graphical_models/*.npz (X: samples, variables) or *.csv, ggm/stockdata.npz (prices)",
)
