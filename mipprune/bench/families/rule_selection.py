"""Choosing few rules: synthetic forests of complete trees, and the forest of a data set that scikit-learn ships."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
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
from .stored import files, located, read

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


_BUNDLED = ("diabetes", "breast_cancer", "wine")
_PATTERNS = ("rule_selection/*.npz", "rules/*.npz")


def _fitted(source: str, trees: int, depth: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rules of a forest on a data set of scikit-learn; classes are taken as numbers."""
    try:
        from sklearn import datasets
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        raise InvalidProblem(f"the {source} instances need scikit-learn: pip install 'mipprune[learn]'") from error
    from ...rules import extract_rules

    data, target = getattr(datasets, f"load_{source}")(return_X_y=True)
    target = (target - target.mean()) / target.std()
    forest = RandomForestRegressor(trees, max_depth=depth, max_features=1 / 3, random_state=seed).fit(data, target)
    matrix = extract_rules(forest, data)
    return matrix.dense(), torch.from_numpy(target), torch.from_numpy(np.asarray(matrix.parent))


def _stored(source: str, data: Path | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Rule columns (n, p), a response (n,) and, where the file has them, the parents of the columns."""
    path = located(data, source)
    found = read(path, "rules", "y", "parents")
    if not {"rules", "y"} <= found.keys():
        raise InvalidProblem(f"{str(path)!r} needs arrays rules (n, p) and y (n,)")
    parents = found.get("parents")
    return (
        torch.from_numpy(found["rules"].astype(float)),
        torch.from_numpy(found["y"].astype(float).ravel()),
        None if parents is None else torch.from_numpy(parents.astype(np.int64)),
    )


def _real(data: Path | None) -> list[dict[str, Any]]:
    common: dict[str, Any] = {"depth": 3, "count": 10, "gamma": 0.05}
    bundled = _BUNDLED if find_spec("sklearn") is not None else ()
    found: list[dict[str, Any]] = []
    for source in bundled:
        found += [{"source": source, "trees": 20, **common, "antichain": antichain} for antichain in (True, False)]
    for source in files(data, _PATTERNS):
        trees = _stored(source, data)[2] is not None
        named = re.findall(r"gamma([0-9.]*[0-9])", source)
        gammas = [float(named[-1])] if named else [0.01, 0.05]
        found += [{"source": source, "count": 10, "gamma": gamma, "antichain": trees} for gamma in gammas]
    return found


def _build(
    *,
    count: int,
    gamma: float,
    seed: int,
    trees: int = 0,
    depth: int = 0,
    rows: int = 300,
    source: str = "synthetic",
    antichain: bool = True,
    data: Path | None = None,
) -> Problem:
    parents: torch.Tensor | None
    if source == "synthetic":
        matrix, response, parents = random_forest(rows, trees, depth, seed)
    elif source in _BUNDLED:
        matrix, response, parents = _fitted(source, trees, depth, seed)
    elif "." in source:
        matrix, response, parents = _stored(source, data)
    else:
        raise InvalidProblem(f"source {source!r} is not known; choose synthetic, {', '.join(_BUNDLED)} or a file")
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
            for trees, gamma in ((8, 0.05), (50, 0.01), (200, 0.05))
            for antichain in (True, False)
            for source in ("synthetic", "diabetes")
        ),
    },
    tiny={"trees": 2, "depth": 2, "count": 2, "gamma": 0.05, "rows": 40},
    solvers=_SOLVERS,
    size="trees",
    real=_real,
    layout="rule_selection/*.npz or rules/*.npz (rules, y, and parents where the trees are known)",
)
