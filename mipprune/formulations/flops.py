"""Choosing the weights of a network that keep the largest score within budgets on non-zeros and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Masks
from ..core.arrays import as_tensor
from ..core.problem import Problem
from ..errors import InvalidProblem
from ..losses.linear import Linear
from ..structures.budgets import Budgets
from .limits import as_limit, per_layer

__all__ = ["flop_selection", "lamp_scores"]


def flop_selection(
    scores: Any,
    costs: Any,
    *,
    nnz: int | float | None = None,
    flops: int | float | None = None,
    lower: Any = None,
    upper: Any = None,
    strict: bool = False,
    name: str = "FLOP-constrained selection",
) -> Problem:
    r"""Choose the weights with the largest sum of scores within budgets on non-zeros and FLOPs.

    Parameters
    ----------
    scores : mapping or sequence of arrays
        What keeping each weight is worth, one array of any shape for each layer (for instance ``w ** 2``). float32 and
        float64 are kept. A weight with a score <= 0 is kept only where ``lower`` asks for it.
    costs : mapping, sequence or number
        What one kept weight of a layer costs, >= 0: FLOPs or multiply-adds of one forward pass, as
        :func:`mipprune.networks.weight_costs` counts them, seconds, joules. By layer name, in order, or one for all.
    nnz : int or float, optional
        Kept weights at most: a whole number counts them, a float in [0, 1] is a share of all.
    flops : int or float, optional
        Cost of the kept weights at most: a whole number in the units of ``costs``, a float in [0, 1] a share of the
        dense cost.
    lower, upper : mapping, sequence or int, optional
        Fewest and most kept weights of each layer.
    strict : bool
        Round the scores to multiples of a power of two of which their total is at most 2^43, in float64. Every sum is
        then exact, and the bound of an optimal mask is its value, without any allowance for rounding. The rounding
        itself moves a sum by at most 2^-44 of the total for each weight.
    name : str
        For reports.

    Returns
    -------
    Problem
        Over one vector of all weights, layer after layer, each in C order. Its point is the mask as 0/1 numbers and its
        value *minus* the kept score, since the package minimises.

    Raises
    ------
    InvalidProblem
        On NaN or infinite scores, negative costs, budgets below what ``lower`` needs, or no budget at all.

    Notes
    -----
    .. math:: \min_z\; -\sum_i s_i z_i \quad\text{s.t. } \sum_i z_i \le K,\; \sum_i f_i z_i \le F,\; z \in \{0,1\}^p

    With :math:`s_i = v_i^2` it is the Euclidean projection of v onto the weights within both budgets. Without a solver
    named, ``mp.solve`` is exact and its certificate closes the gap. Any number of further resources (bytes, energy):
    ``Problem(Linear(-s), Masks(Budgets(sizes, costs, limits)))``.

    References
    ----------
    arXiv 2403.07094 (FALCON).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> scores = {"conv": torch.tensor([9.0, 8.0, 7.0]), "head": torch.tensor([3.0, 2.0, 1.0])}
    >>> problem = flop_selection(scores, {"conv": 10, "head": 1}, nnz=3, flops=12)
    >>> solution = mp.solve(problem)
    >>> solution.value, solution.mask.int().tolist(), solution.status.value, solution.proof.value
    (-14.0, [1, 0, 0, 1, 1, 0], 'optimal', 'checked')
    """
    if isinstance(scores, (Tensor, np.ndarray)):
        raise InvalidProblem("scores is a single array; give one array for each layer, in a list or by name")
    names = [str(key) for key in scores] if isinstance(scores, Mapping) else None
    found = list(scores.values()) if isinstance(scores, Mapping) else list(scores)
    layers = [
        as_tensor(layer, "scores" if names is None else f"scores of {names[i]!r}") for i, layer in enumerate(found)
    ]
    sizes = [layer.numel() for layer in layers]
    if not sum(sizes):
        raise InvalidProblem("scores is empty; there is nothing to choose from")
    if nnz is None and flops is None:
        raise InvalidProblem("give a budget: nnz (kept weights), flops (their cost), or both")
    numbers = per_layer(costs, names, len(layers), "costs")
    if not bool((numbers >= 0).all()) or not bool(torch.isfinite(numbers).all()):
        raise InvalidProblem("costs has negative, infinite or NaN entries; what a weight costs is a number >= 0")
    rows, limits = [], []
    if nnz is not None:
        rows.append(torch.ones_like(numbers))
        limits.append(as_limit(nnz, Fraction(sum(sizes)), "nnz"))
    if flops is not None:
        dense = sum((Fraction(repr(c)) * n for c, n in zip(numbers.tolist(), sizes, strict=True)), Fraction(0))
        rows.append(numbers)
        limits.append(as_limit(flops, dense, "flops"))
    counts = [None if side is None else per_layer(side, names, len(layers), "counts") for side in (lower, upper)]
    grid = None
    if strict:
        total = sum(float(layer.double().abs().sum()) for layer in layers)
        grid = 2.0 ** math.ceil(math.log2(max(total, 1e-290) * (1.0 + 1e-9)) - 43.0)
        layers = [(layer.double() / grid).round() * grid for layer in layers]
    family = Budgets(sizes, torch.stack(rows), limits, counts[0], counts[1], grid)
    kind = torch.float32 if all(layer.dtype == torch.float32 for layer in layers) else torch.float64
    device = next(layer.device for layer in layers if layer.numel())
    vector = torch.empty(sum(sizes), dtype=kind, device=device)
    torch.cat([layer.reshape(-1).to(vector) for layer in layers], out=vector)
    return Problem(Linear(vector.neg_()), Masks(family), name)


def lamp_scores(weights: Any) -> Any:
    r"""Return the scores of layer-adaptive magnitude pruning (LAMP), in float64.

    Parameters
    ----------
    weights : Tensor or array, or a mapping or sequence of them
        Weights of each layer.

    Returns
    -------
    Tensor, dict or list
        In the form given. The score of a weight u is :math:`u^2 / \sum_{v^2 \ge u^2} v^2` over its layer, in (0, 1]; 0
        for a weight that is 0. Choosing the K largest of all layers is LAMP; as scores of :func:`flop_selection` they
        also meet a FLOP budget.

    References
    ----------
    arXiv 2010.07611.

    Examples
    --------
    >>> import torch
    >>> lamp_scores(torch.tensor([1.0, -2.0, 2.0])).tolist()
    [0.1111111111111111, 0.5, 0.5]
    """
    if isinstance(weights, Mapping):
        return {key: lamp_scores(value) for key, value in weights.items()}
    if isinstance(weights, (list, tuple)) and not all(isinstance(value, (int, float)) for value in weights):
        return [lamp_scores(value) for value in weights]
    squares = as_tensor(weights, "weights").double().square()
    rising = squares.reshape(-1).sort().values
    above = rising.flip(0).cumsum(0).flip(0)  # above[j]: sum from the j-th smallest on
    first = torch.searchsorted(rising, squares.reshape(-1))  # of the equal ones, so that all of them count
    return torch.where(squares > 0, squares / above[first].reshape(squares.shape), 0.0) if squares.numel() else squares
