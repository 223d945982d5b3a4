"""Rule sets from a weighted sum of accuracy and stability: the heuristic for the end of low stability (MOSS-L)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidProblem

__all__ = ["weighted_sum_rules"]

Array = np.ndarray[Any, Any]

SHARES = (*(round(0.25 + 0.025 * i, 3) for i in range(30)), 0.99)
"""The published shares of accuracy in the sum: 0.25, 0.275, ..., 0.975 and 0.99."""


def weighted_sum_rules(
    columns: Any,
    response: Any,
    frequencies: Any,
    count: int,
    *,
    shares: Any = SHARES,
    prices: Any = None,
    sweeps: int = 100,
) -> list[Array]:
    r"""Find rule sets that balance accuracy and stability, by coordinate descent with warm starts.

    Parameters
    ----------
    columns : array (n, p)
        They are standardised here.
    response : array (n,)
        Standardised response.
    frequencies : array (p,)
        How often each rule was selected.
    count : int
        Largest number of rules.
    shares : sequence of float
        Shares rho of accuracy, in (0, 1).
    prices : sequence of float, optional
        Falling prices of a rule; default 200 values from 100 to 1, evenly in the logarithm.
    sweeps : int
        Largest number of sweeps for each price.

    Returns
    -------
    list of bool array (p,)
        For each share the last set with at most ``count`` rules, without repetitions and empty sets, in the order of
        the shares.

    Notes
    -----
    .. math:: \min_w\; \tfrac\rho2\|y - Mw\|^2 - (1-\rho)\sum_j f_j 1[w_j \ne 0] + \lambda\|w\|_0

    References
    ----------
    arXiv 2506.08030 (MOSS), the heuristic behind its third point of the frontier.
    """
    from ..kernels.priced_descent import descend

    columns, response = np.asarray(columns, dtype=np.float64), np.asarray(response, dtype=np.float64)
    frequencies = np.asarray(frequencies, dtype=np.float64)
    if columns.ndim != 2 or response.shape != (len(columns),) or frequencies.shape != (columns.shape[1],):
        raise InvalidProblem(
            f"columns have shape {columns.shape}, the response {response.shape}, frequencies {frequencies.shape}; "
            "(n, p), (n,) and (p,) are needed"
        )
    prices = np.logspace(2, 0, 200) if prices is None else np.asarray(prices, dtype=np.float64)
    scale = columns.std(axis=0)
    standard = np.where(scale > 0, (columns - columns.mean(axis=0)) / np.where(scale > 0, scale, 1.0), 0.0)
    gram, target = standard.T @ standard, standard.T @ (response - response.mean())
    found: dict[bytes, Array] = {}
    for share in shares:
        if not 0 < share < 1:
            raise InvalidProblem(f"a share of accuracy is {share}; it must be between 0 and 1")
        weights, pull = np.zeros(len(target)), target.copy()
        best = None
        for price in prices:
            cost = (price - (1.0 - share) * frequencies) / share
            if descend(gram, pull, cost, weights, sweeps, 1e-6) > count:
                break
            best = weights != 0
        if best is not None and best.any():
            found.setdefault(best.tobytes(), best)
    return list(found.values())
