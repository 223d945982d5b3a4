"""FIRE: sparse and fused rule weights with a non-convex penalty, by block descent over trees."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidProblem

__all__ = ["fire_rules", "fused_prox"]

Array = np.ndarray[Any, Any]


def fire_rules(
    columns: Any,
    response: Any,
    trees: Any,
    count: int,
    *,
    gamma: float = 1.1,
    fusion: float = 0.1,
    points: int = 100,
    sweeps: int = 50,
) -> tuple[Array, Array]:
    r"""Pick rules on the path of a fused minimax concave penalty.

    Parameters
    ----------
    columns : array (n, p)
        Leaves (times their values), those of a tree side by side in order; they are standardised here.
    response : array (n,)
    trees : int array (p,)
        The tree of each column, non-decreasing.
    count : int
        Largest number of rules.
    gamma : float
        Of the concave penalty, > 1: towards 1 like counting, large like the lasso.
    fusion : float
        Weight of the differences of neighbouring leaves relative to that of the penalty, >= 0.
    points : int
        Points of the path, from 1 to 1e-3 in units of correlation.
    sweeps : int
        Largest number of sweeps over the active trees at a point.

    Returns
    -------
    chosen : bool array (p,)
        Of the last point of the path with at most ``count`` rules.
    weights : float64 array (p,)
        In the units of the columns.

    Notes
    -----
    .. math:: \min_w\; \tfrac1{2n}\|y - Mw\|^2 + \sum_j P_\gamma(w_j, \lambda) + \phi\lambda\sum_t \|D_t w_t\|_1

    A block is a tree. From the gradient step with the largest curvature of the block, the fused proximal map is taken,
    then the threshold of the concave penalty.

    References
    ----------
    FIRE, arXiv 2306.07432; the comparison of arXiv 2506.08030 takes gamma = 1.1 and 100 points.
    """
    columns, response = np.asarray(columns, dtype=np.float64), np.asarray(response, dtype=np.float64)
    trees = np.asarray(trees)
    p = columns.shape[1]
    if trees.shape != (p,) or (np.diff(trees) < 0).any():
        raise InvalidProblem("trees must name the tree of each column, in non-decreasing order")
    if not gamma > 1 or not fusion >= 0:
        raise InvalidProblem(f"gamma is {gamma} and fusion {fusion}; gamma > 1 and fusion >= 0 are needed")
    scale = columns.std(axis=0)
    safe = np.where(scale > 0, scale, 1.0)
    standard = np.where(scale > 0, (columns - columns.mean(axis=0)) / safe, 0.0)
    blocks, curvature = _blocks(standard, trees)
    residual = response - response.mean()
    weights, best = np.zeros(p), np.zeros(p)
    for strength in np.logspace(0, -3, points):
        residual = _descend(standard, residual, weights, blocks, curvature, strength, gamma, fusion, sweeps)
        if np.count_nonzero(weights) > count:
            break
        best = weights.copy()
    return best != 0, best / safe


def _blocks(standard: Array, trees: Array) -> tuple[Array, Array]:
    """Columns of each tree, padded with -1, and the largest curvature of each block."""
    _, first, lengths = np.unique(trees, return_index=True, return_counts=True)
    offsets = np.arange(lengths.max(initial=1))
    blocks = np.where(offsets < lengths[:, None], first[:, None] + offsets, -1)
    padded = np.hstack([standard, np.zeros((len(standard), 1))])  # -1 is the column of zeros
    held = padded.T[blocks]  # (trees, leaves, n)
    gram = held @ held.transpose(0, 2, 1) / len(standard)
    return blocks, np.maximum(np.linalg.eigvalsh(gram)[:, -1], 1e-12)


def _descend(
    standard: Array,
    residual: Array,
    weights: Array,
    blocks: Array,
    curvature: Array,
    strength: float,
    gamma: float,
    fusion: float,
    sweeps: int,
) -> Array:
    """Sweep over the trees that move until none does; ``weights`` is changed in place, the residual returned."""
    n = len(standard)
    for _ in range(sweeps):
        pull = np.append(standard.T @ residual / n, 0.0)
        padded = np.append(weights, 0.0)
        step = curvature[:, None]
        center = np.where(blocks >= 0, padded[blocks] + pull[blocks] / step, 0.0)
        moved = _shrunk(center, step, strength, gamma)  # fusing never exceeds the largest of a tree
        active = np.flatnonzero(((moved != 0) | (padded[blocks] != 0)).any(axis=1))
        largest = 0.0
        for t in active:
            place = blocks[t][blocks[t] >= 0]
            held = standard[:, place]
            center_t = weights[place] + held.T @ residual / n / curvature[t]
            fused = fused_prox(center_t, fusion * strength / curvature[t])
            new = _shrunk(fused, curvature[t], strength, gamma)
            change = new - weights[place]
            if change.any():
                residual = residual - held @ change
                weights[place] = new
                largest = max(largest, float(np.abs(change).max()))
        if largest <= 1e-5:
            break
    return residual


def _shrunk(center: Array, step: Any, strength: float, gamma: float) -> Array:
    """The proximal map of the minimax concave penalty of strength ``strength`` with curvature ``step``.

    The map is single-valued where ``gamma * step > 1``; the threshold in units of the step keeps that so.
    """
    level = strength / step
    soft = np.sign(center) * np.maximum(np.abs(center) - level, 0.0)
    return np.where(np.abs(center) <= gamma * level, soft * (gamma / (gamma - 1.0)), center)


def fused_prox(center: Array, level: float) -> Array:
    r"""Return the minimiser of :math:`\tfrac12\|w - \text{center}\|^2 + \text{level}\sum_i |w_{i+1} - w_i|`.

    Parameters
    ----------
    center : array (leaves,)
    level : float
        >= 0.

    Notes
    -----
    Solved in the dual, whose box-constrained tridiagonal problem is settled by merging: neighbouring runs of equal
    values are joined one by one as the level grows, which is exact since runs never split along the way.

    Examples
    --------
    >>> fused_prox(np.array([0.0, 1.0, 5.0]), 1.0).tolist()
    [1.0, 1.0, 4.0]
    """
    runs: list[list[Any]] = [[float(value), 1] for value in center]
    left = float(level)
    while len(runs) > 1 and left > 0:
        values = np.array([run[0] for run in runs])
        lengths = np.array([run[1] for run in runs])
        sides = np.sign(np.diff(values))
        # The derivative of a run's value in the level: it is pulled towards each neighbour with strength one.
        speed = (np.append(sides, 0.0) - np.insert(sides, 0, 0.0)) / lengths
        closing = np.diff(speed)
        gaps = np.diff(values)
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(gaps == 0, 0.0, np.where(gaps * closing < 0, -gaps / closing, np.inf))
        when = min(float(times.min()), left)
        for run, change in zip(runs, speed.tolist(), strict=True):
            run[0] += when * change
        left -= when
        if times.min() <= when:
            i = int(times.argmin())
            total = runs[i][1] + runs[i + 1][1]
            runs[i : i + 2] = [[(runs[i][0] * runs[i][1] + runs[i + 1][0] * runs[i + 1][1]) / total, total]]
    return np.repeat([run[0] for run in runs], [run[1] for run in runs])
