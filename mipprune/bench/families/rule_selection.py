"""Choosing few rules: synthetic forests of complete trees, and the forest of a data set that scikit-learn ships."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ... import solvers
from ...core.problem import Problem
from ...core.solver import Solver
from ...errors import InvalidProblem
from ...formulations import rule_selection
from ..peers import CVXPY, Abess, LassoPath, MatchingPursuit, RuleFitSelection, SkglmPath
from .family import Family

__all__ = ["RULE_SELECTION", "random_forest"]

_GRID = 4096.0


def random_forest(rows: int, trees: int, depth: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rule columns (rows, p) of complete trees with random splits, a response (rows,) and parents (p,).

    Parameters
    ----------
    rows, trees, depth : int
    seed : int
        Of numpy's ``default_rng``.

    Notes
    -----
    Eight uniform features; a node splits a random one at a random place inside its own box. The roots are left out.
    The response is the sum of one random node of each of eight trees with standard normal weights, plus noise of half
    its standard deviation; it is centred, scaled to variance 1, and rounded to multiples of 2^-12, so that it is the
    same on every machine.
    """
    rng = np.random.default_rng(seed)
    features = rng.integers(0, 1 << 16, (rows, 8)) / float(1 << 16)
    columns: list[np.ndarray[Any, Any]] = []
    parents: list[int] = []

    def grow(holds: np.ndarray[Any, Any], parent: int, left: int) -> None:
        if left == 0:
            return
        feature = int(rng.integers(8))
        inside = features[holds, feature]
        threshold = float(rng.choice(inside)) if inside.size else 0.5
        for side in (features[:, feature] <= threshold, features[:, feature] > threshold):
            columns.append(holds & side)
            parents.append(parent)
            grow(holds & side, len(columns) - 1, left - 1)

    for _ in range(trees):
        grow(np.ones(rows, dtype=bool), -1, depth)
    matrix = np.stack(columns, axis=1).astype(np.float64)
    chosen = rng.choice(matrix.shape[1], 8, replace=False)
    signal = matrix[:, chosen] @ np.round(rng.standard_normal(8) * 16) / 16
    response = signal + 0.5 * max(signal.std(), 1e-3) * rng.standard_normal(rows)
    response = (response - response.mean()) / response.std()
    response = np.round(response * _GRID) / _GRID
    return torch.from_numpy(matrix), torch.from_numpy(response), torch.tensor(parents)


def _diabetes(trees: int, depth: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    try:
        from sklearn.datasets import load_diabetes
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        raise InvalidProblem("the diabetes instances need scikit-learn: pip install 'mipprune[learn]'") from error
    from ...rules import extract_rules

    data, target = load_diabetes(return_X_y=True)
    target = (target - target.mean()) / target.std()
    forest = RandomForestRegressor(trees, max_depth=depth, max_features=1 / 3, random_state=seed).fit(data, target)
    matrix = extract_rules(forest, data)
    return matrix.dense(), torch.from_numpy(target), torch.from_numpy(np.asarray(matrix.parent))


def _build(
    *,
    trees: int,
    depth: int,
    count: int,
    gamma: float,
    seed: int,
    rows: int = 300,
    source: str = "synthetic",
    antichain: bool = True,
) -> Problem:
    if source not in ("synthetic", "diabetes"):
        raise InvalidProblem(f"source {source!r} is not known; choose synthetic or diabetes")
    forest = random_forest(rows, trees, depth, seed) if source == "synthetic" else _diabetes(trees, depth, seed)
    matrix, response, parents = forest
    above = parents if antichain else None
    return rule_selection(matrix, response, gamma=gamma, count=count, antichain=antichain, parents=above)


_SOLVERS: dict[str, Callable[[], Solver]] = {
    "tree": solvers.BranchAndBound,
    "cutting-planes": solvers.CuttingPlanes,
    "swaps": solvers.RuleSwaps,
    "projected-gradient": solvers.ProjectedGradient,
    "scip": solvers.Scip,
    "highs": solvers.Highs,
    "matching-pursuit": MatchingPursuit,
    "lasso-path": LassoPath,
    "abess": Abess,
    "skglm": SkglmPath,
    "imodels": RuleFitSelection,
    **CVXPY,
}

_SMALL: dict[str, Any] = {"depth": 3, "count": 5, "gamma": 0.05}

RULE_SELECTION = Family(
    name="rule_selection",
    title="Rules of tree ensembles",
    build=_build,
    suites={
        "quick": (
            {"trees": 4, **_SMALL},
            {"trees": 4, **_SMALL, "antichain": False},
            {"trees": 8, **_SMALL, "gamma": 0.01},
            {"trees": 8, **_SMALL, "gamma": 0.01, "antichain": False},
        ),
        "full": tuple(
            {"trees": trees, "depth": 3, "count": 10, "gamma": gamma, "antichain": antichain, "source": source}
            for trees in (8, 50, 200)
            for gamma in (0.01, 0.05)
            for antichain in (True, False)
            for source in ("synthetic", "diabetes")
        ),
    },
    tiny={"trees": 2, "depth": 2, "count": 2, "gamma": 0.05, "rows": 40},
    solvers=_SOLVERS,
    size="trees",
)
