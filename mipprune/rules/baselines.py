"""Other ways to pick few rules from an ensemble, for comparison: frequency (SIRUS) and the lasso (RuleFit)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidProblem

__all__ = ["frequent_rules", "independent_of_earlier", "lasso_rules"]

Array = np.ndarray[Any, Any]


def _matrix(columns: Any) -> Array:
    found = np.asarray(columns, dtype=np.float64)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise InvalidProblem(f"columns have shape {found.shape}; a finite matrix (samples, rules) is needed")
    return found


def frequent_rules(columns: Any, frequencies: Any, count: int) -> Array:
    """Pick the most frequent rules, leaving out those that are linear combinations of earlier ones and the constant.

    Parameters
    ----------
    columns : array (n, p)
        The rules over the training samples.
    frequencies : array (p,)
        How often each was selected; ties go to the lower index.
    count : int
        Number of rules.

    Returns
    -------
    bool array (p,)

    References
    ----------
    SIRUS: Benard, Biau, Da Veiga, Scornet, "Interpretable random forests via rule extraction", AISTATS 2021.

    Examples
    --------
    >>> frequent_rules([[1, 0, 1], [0, 1, 1], [1, 0, 0]], [5, 4, 3], 2).tolist()
    [True, False, True]
    """
    columns = _matrix(columns)
    order = np.argsort(-np.asarray(frequencies, dtype=np.float64), kind="stable")
    chosen = np.zeros(columns.shape[1], dtype=bool)
    chosen[order[independent_of_earlier(columns[:, order], count)]] = True
    return chosen


def independent_of_earlier(columns: Any, count: int | None = None, tolerance: float = 1e-8) -> Array:
    """Return the first ``count`` columns that are no linear combination of those before them and the constant.

    Parameters
    ----------
    columns : array (n, p)
    count : int, optional
        Default all.
    tolerance : float
        Relative size of what a column must add.

    Returns
    -------
    int array
        Their numbers, increasing.
    """
    columns = _matrix(columns)
    n, p = columns.shape
    basis = np.full((n, 1), 1.0 / np.sqrt(max(n, 1)))
    kept: list[int] = []
    for j in range(p):
        if count is not None and len(kept) >= count:
            break
        rest = columns[:, j]
        size = float(np.linalg.norm(rest))
        for _ in range(2):  # a second pass makes the projection accurate
            rest = rest - basis @ (basis.T @ rest)
        left = float(np.linalg.norm(rest))
        if size > 0 and left > tolerance * size:
            basis = np.hstack([basis, (rest / left)[:, None]])
            kept.append(j)
    return np.array(kept, dtype=np.int64)


def lasso_rules(columns: Any, response: Any, count: int, *, points: int = 200) -> tuple[Array, Array]:
    """Pick rules by the lasso on standardised columns: the last point of the path with at most ``count`` rules.

    Parameters
    ----------
    columns : array (n, p)
    response : array (n,)
    count : int
        Largest number of rules.
    points : int
        Points of the path.

    Returns
    -------
    chosen : bool array (p,)
    coefficients : float64 array (p,)
        Of the lasso, in the units of the columns.

    References
    ----------
    RuleFit: Friedman and Popescu, "Predictive learning via rule ensembles", Annals of Applied Statistics 2 (2008),
    doi:10.1214/07-AOAS148.
    """
    from sklearn.linear_model import lasso_path

    columns = _matrix(columns)
    response = np.asarray(response, dtype=np.float64)
    scale = columns.std(axis=0)
    safe = np.where(scale > 0, scale, 1.0)
    standard = np.asfortranarray(np.where(scale > 0, (columns - columns.mean(axis=0)) / safe, 0.0))
    best = np.zeros(columns.shape[1])
    alphas = float(np.abs(standard.T @ (response - response.mean())).max(initial=0.0)) / max(len(response), 1)
    if alphas > 0:
        grid = alphas * np.logspace(0, -3, points)
        start = best
        for first in range(0, points, 10):  # the dense end of the path is never needed
            _, path, _ = lasso_path(
                standard, response - response.mean(), alphas=grid[first : first + 10], coef_init=start, max_iter=5000
            )
            sizes = (path != 0).sum(axis=0)
            fitting = np.flatnonzero(sizes <= count)
            if len(fitting):
                best = path[:, fitting[-1]]
            if sizes[-1] > count:
                break
            start = path[:, -1]
    return best != 0, best / safe
