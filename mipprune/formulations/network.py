"""Pruning a whole network within global budgets, by the low-rank quadratic model of its loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import as_tensor
from ..core.problem import Problem
from ..core.structure import Supports
from ..errors import InvalidProblem
from ..losses.low_rank import LowRank
from ..structures.budgets import Budgets
from ..structures.cardinality import Cardinality
from .limits import as_limit

__all__ = ["network_pruning"]


def network_pruning(
    weights: Any,
    gradients: Any,
    *,
    nnz: int | float | None = None,
    flops: int | float | None = None,
    costs: Any | None = None,
    ridge: float = 1e-3,
    first_order: float = 0.0,
    structure: Supports | None = None,
    name: str = "network pruning",
) -> Problem:
    r"""Prune a network within budgets on non-zeros and FLOPs, so that a quadratic model of its loss grows least.

    Parameters
    ----------
    weights : Tensor, or mapping or sequence of Tensors
        Dense weights: one array for each layer, or one vector for all (then layers matter to ``costs`` only).
    gradients : Tensor of shape (n, p), or mapping or sequence of Tensors of shape (n, *layer)
        Gradients of the losses of n samples (or mini-batches) at these weights, p weights in the order of ``weights``;
        :func:`mipprune.networks.sample_gradients` makes them.
    nnz : int or float, optional
        Kept weights at most: a whole number counts them, a float in [0, 1] is a share of all.
    flops : int or float, optional
        Cost at most: a whole number in the units of ``costs``, a float in [0, 1] a share of the dense cost.
    costs : mapping, sequence or Tensor, optional
        What one kept weight costs, for instance its multiply-adds in one forward pass: one number for each layer, or
        one for each weight where ``weights`` is a vector. Needed for ``flops``.
    ridge : float
        :math:`\lambda > 0` below, relative to the n samples.
    first_order : float
        Weight :math:`\gamma \ge 0` of the first-order term; 0 leaves it out, as for a network trained to convergence.
    structure : Supports, optional
        Any other family of supports on the vector of weights, in place of ``nnz`` and ``flops``.
    name : str
        For reports.

    Returns
    -------
    Problem
        Over the vector of all weights, layers one after the other in C order.

    Raises
    ------
    InvalidProblem
        On shapes that do not fit, NaN, budgets out of range, or a FLOP budget without costs.

    Notes
    -----
    .. math:: \min_w\; \tfrac12\|X(w-\bar w)\|^2 + \tfrac{n\lambda}{2}\|w-\bar w\|^2 +
              \gamma\, \mathbf 1^\top X (w-\bar w) \quad\text{s.t. } \|w\|_0 \le K,\; \sum_i f_i 1[w_i \ne 0] \le F

    with the gradients as rows of X: n times the second-order model of the mean loss, its Hessian estimated by the
    empirical Fisher matrix :math:`X^\top X/n`. With ``nnz`` alone it is the problem of CHITA, with both budgets that of
    FALCON. ``mp.solve`` takes :class:`~mipprune.DualBundle`, whose answer has a certificate.

    References
    ----------
    arXiv 2302.14623 (CHITA); arXiv 2403.07094 (FALCON).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> generator = torch.Generator().manual_seed(0)
    >>> weights = [torch.randn(8, 20, generator=generator), torch.randn(4, 8, generator=generator)]
    >>> gradients = [torch.randn(3, *w.shape, generator=generator) for w in weights]
    >>> problem = network_pruning(weights, gradients, nnz=0.5, flops=0.3, costs=[100, 1], ridge=1.0)
    >>> solution = mp.solve(problem)
    >>> solution.gap < 0.02, problem.structure.supports.usage(solution.mask) <= torch.tensor([96.0, 4809.0])
    (True, tensor([True, True]))
    """
    layers, names = _layers(weights)
    sizes = [layer.numel() for layer in layers]
    vector = torch.cat([layer.reshape(-1) for layer in layers])
    rows = _rows(gradients, layers, names)
    if not (math.isfinite(ridge) and ridge > 0):
        raise InvalidProblem(
            f"ridge is {ridge}; it must be > 0, for a few gradients say nothing about most directions of the weights"
        )
    if not (math.isfinite(first_order) and first_order >= 0):
        raise InvalidProblem(f"first_order is {first_order}; it is a weight >= 0, and 0 leaves the term out")
    slope = first_order * rows.sum(dim=0, dtype=torch.float64) if first_order else None
    loss = LowRank(rows, vector, float(ridge) * rows.shape[0], slope)
    if structure is None:
        structure = _budgets(sizes, names, nnz, flops, costs)
    elif nnz is not None or flops is not None or costs is not None:
        raise InvalidProblem("give either a structure or budgets (nnz, flops, costs), not both")
    return Problem(loss, Sparse(structure), name)


def _layers(weights: Any) -> tuple[list[Tensor], list[str] | None]:
    """The layers and, where they have some, their names."""
    if isinstance(weights, torch.nn.Module):
        raise InvalidProblem(
            "weights is a torch module; mipprune.networks.pruning_problem(model, batches, ...) collects its weights "
            "and gradients and calls this function"
        )
    if isinstance(weights, Mapping):
        found, names = list(weights.values()), [str(key) for key in weights]
    elif isinstance(weights, (Tensor, np.ndarray)):
        found, names = [weights], None
    else:
        found, names = list(weights), None
    layers = [
        as_tensor(layer, "weights" if names is None else f"weights of {names[i]!r}") for i, layer in enumerate(found)
    ]
    if not sum(layer.numel() for layer in layers):
        raise InvalidProblem("weights is empty; there is nothing to prune")
    return layers, names


def _rows(gradients: Any, layers: Sequence[Tensor], names: list[str] | None) -> Tensor:
    """The gradients as one matrix (n, p)."""
    width = sum(layer.numel() for layer in layers)
    if isinstance(gradients, Mapping):
        if names is None or set(gradients) != set(names):
            raise InvalidProblem("gradients are given by name; then weights must have the same names")
        gradients = [gradients[name] for name in names]
    if isinstance(gradients, (Tensor, np.ndarray)):
        rows = as_tensor(gradients, "gradients", ndim=2)
    else:
        parts = [as_tensor(part, "gradients") for part in gradients]
        if len(parts) != len(layers):
            raise InvalidProblem(f"gradients are given for {len(parts)} layers, weights for {len(layers)}")
        for part, layer in zip(parts, layers, strict=True):
            if part.ndim != layer.ndim + 1 or tuple(part.shape[1:]) != tuple(layer.shape):
                raise InvalidProblem(
                    f"gradients of a layer have shape {tuple(part.shape)}; (samples, *{tuple(layer.shape)}) is needed"
                )
        if len({part.shape[0] for part in parts}) != 1:
            raise InvalidProblem("gradients have different numbers of samples in different layers")
        rows = torch.cat([part.reshape(part.shape[0], -1) for part in parts], dim=1)
    if rows.shape[1] != width:
        raise InvalidProblem(f"gradients have {rows.shape[1]} columns for {width} weights")
    return rows


def _budgets(sizes: list[int], names: list[str] | None, nnz: Any, flops: Any, costs: Any) -> Supports:
    total = sum(sizes)
    if nnz is None and flops is None:
        raise InvalidProblem("give a budget: nnz (kept weights), flops (with costs), or both; or a structure")
    if flops is None:
        return Cardinality(_limit(nnz, total, "nnz"))
    if costs is None:
        raise InvalidProblem("a FLOP budget needs costs: what one weight of each layer costs in a forward pass")
    if isinstance(costs, Mapping):
        if names is None or not set(names) <= set(costs):
            raise InvalidProblem("costs are given by name; then weights must have names, each with a cost")
        costs = [costs[name] for name in names]
    numbers = as_tensor(costs, "costs", ndim=1).double().cpu()
    if bool((numbers < 0).any()):
        raise InvalidProblem("costs has negative entries; what a weight costs is >= 0")
    if numbers.numel() == total and len(sizes) == 1 and total > 1:
        numbers, counts = torch.unique_consecutive(numbers, return_counts=True)  # a run of equal costs is a layer
        sizes = counts.tolist()
    elif numbers.numel() != len(sizes):
        raise InvalidProblem(f"costs has {numbers.numel()} numbers for {len(sizes)} layers")
    dense = float(numbers @ torch.tensor(sizes, dtype=torch.float64))
    rows, limits = [numbers], [float(_limit(flops, dense, "flops"))]
    if nnz is not None:
        rows, limits = [torch.ones_like(numbers), *rows], [float(_limit(nnz, total, "nnz")), *limits]
    return Budgets(sizes, torch.stack(rows), limits)


def _limit(budget: Any, dense: float, name: str) -> int:
    """A budget as a whole number: given as one, or as a share of the dense network, rounded down."""
    return math.floor(as_limit(budget, Fraction(dense), name))
