"""The core of a grouped knapsack as a mixed-integer program: what the dual cannot decide, handed to HiGHS.

Only the items whose own loss is below the gap of the best known choice are variables; equal scores of a group share
one integer variable. The objective is the gap divided by that of the known choice, since scores that differ by 1e-10
of the total are below the tolerances of any solver. The answer is a choice like any other: it is tested and evaluated
by the caller, and proves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .knapsack import Groups

__all__ = ["core_choice"]

SECONDS = 10.0
"""Time limit of HiGHS."""
_VARIABLES = 20_000  # beyond it no answer is to be expected in time


def core_choice(
    groups: Groups,
    lam: NDArray[np.float64],
    theta: NDArray[np.float64],
    gap: float,
    seconds: float = SECONDS,
) -> NDArray[np.int64] | None:
    """Return an admissible choice with a smaller gap, or ``None`` when HiGHS finds none.

    Parameters
    ----------
    groups : Groups
    lam, theta : float64 arrays, shapes (budgets,) and (groups,)
    gap : float
        Of the best known choice, > 0.
    seconds : float
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes, owner, gains = [], [], []
    fixed = groups.base.copy()
    for g in range(groups.base.size):
        items = groups.values[groups.start[g] : groups.start[g + 1]]
        first = int(np.searchsorted(-items, -(theta[g] + gap), side="left"))  # above: kept in every better choice
        last = int(np.searchsorted(-items, -(theta[g] - gap), side="right"))
        first, last = max(first, int(groups.low[g] - groups.base[g])), min(last, int(groups.high[g] - groups.base[g]))
        first = min(first, last)
        fixed[g] += first
        values, lengths = np.unique(items[first:last], return_counts=True)
        sizes.append(lengths)
        gains.append(values - float(groups.costs[g] @ lam))
        owner.append(np.full(values.size, g))
    upper, gain, group = (np.concatenate(parts) for parts in (sizes, gains, owner))
    left = groups.limits - groups.costs.T @ fixed
    if not 0 < upper.size <= _VARIABLES or (left < 0).any():
        return None
    budgets = lam.size
    scale = np.maximum(groups.costs.max(axis=0), 1).astype(float)
    slack_top = np.where(lam > 0, np.minimum(gap / np.where(lam > 0, lam, 1.0), left), left) / scale
    rows = np.hstack([groups.costs[group].T / scale[:, None], np.eye(budgets)])
    answer = milp(
        np.concatenate([-gain, lam * scale]) / gap,
        integrality=np.concatenate([np.ones(upper.size), np.zeros(budgets)]),
        bounds=Bounds(0.0, np.concatenate([upper, slack_top])),
        constraints=LinearConstraint(rows, left / scale, left / scale),
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    if answer.x is None:
        return None
    taken = np.rint(answer.x[: upper.size]).astype(np.int64)
    kept = fixed + np.bincount(group, weights=taken, minlength=fixed.size).astype(np.int64)
    admissible = (groups.costs.T @ kept <= groups.limits).all() and (kept >= groups.low).all()
    return kept if admissible and (kept <= groups.high).all() else None
