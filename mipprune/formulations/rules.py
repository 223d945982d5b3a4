"""Choosing few rules of a tree ensemble."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import as_tensor
from ..core.problem import Problem
from ..core.structure import Supports
from ..errors import InvalidProblem
from ..losses.least_squares import LeastSquares
from ..losses.logistic import Logistic
from ..rules.matrix import RuleMatrix
from ..structures.antichain import Antichain
from ..structures.cardinality import Cardinality

__all__ = ["rule_selection"]


def rule_selection(
    rules: Any,
    response: Any,
    *,
    gamma: float = 0.01,
    count: int | None = None,
    price: float = 0.0,
    charge: str | Any = "count",
    antichain: bool | None = None,
    parents: Any | None = None,
    loss: str = "squared",
    sample_weight: Any | None = None,
    name: str = "rule selection",
) -> Problem:
    r"""Choose rules and their weights so that few rules of small depth explain the response.

    Parameters
    ----------
    rules : RuleMatrix, or Tensor, shape (n, p)
        Columns to choose from: 0/1, or the values of the trees.
    response : Tensor, shape (n,)
        y. There is no intercept: center y first (and standardise it, for the values of ``gamma`` in the literature).
    gamma : float
        Inverse strength of the ridge, > 0: the larger, the weaker the ridge and the harder the problem.
    count : int, optional
        Most rules.
    price : float
        Price lambda of one unit of ``charge``, >= 0.
    charge : {"count", "depth", "features"} or array (p,)
        What a rule is charged for: 1, its depth plus 1, its number of distinct features, or numbers of one's own.
    antichain : bool, optional
        Whether at most one rule may be chosen on every path of a tree. Default: where the trees are known, which they
        are not after ``RuleMatrix.unique()``.
    parents : int Tensor, shape (p,), optional
        Parent of each column in its tree, -1 for none, for columns that come as a plain array.
    loss : {"squared", "logistic"}
        Logistic for two classes: the response then holds 0/1 or -1/1, see :class:`~mipprune.Logistic`.
    sample_weight : Tensor, shape (n,), optional
        Weights of the samples in the loss, >= 0.
    name : str
        For reports.

    Returns
    -------
    Problem

    Raises
    ------
    InvalidProblem
        On wrong shapes, NaN, ``gamma <= 0``, negative prices or weights, or an antichain without trees.

    Notes
    -----
    .. math:: \min_{w}\; \tfrac12\sum_i \omega_i (y_i - (Mw)_i)^2 + \tfrac1{2\gamma}\|w\|^2
              + \lambda \sum_{j: w_j\neq 0} a_j \quad\text{s.t. } \|w\|_0 \le K,\;\text{antichain in each tree,}

    or the logistic loss in the place of the squared one.

    All nodes of a tree are candidates, so that choosing an inner node is choosing a shorter rule.

    References
    ----------
    arXiv 2506.20114, problem with joint control of the number and the depth of rules.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> M = torch.tensor([[1.0, 1, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]])
    >>> problem = rule_selection(M, torch.tensor([3.0, 3, 1, 0]), gamma=10.0, count=2, parents=torch.tensor([-1, 0, 0]))
    >>> mp.solve(problem).mask.tolist()
    [False, True, True]
    """
    matrix = rules if isinstance(rules, RuleMatrix) else None
    design = as_tensor(rules, "rules", ndim=2) if matrix is None else matrix.dense()
    n, p = design.shape
    if n == 0 or p == 0:
        raise InvalidProblem(f"rules have shape {(n, p)}; at least one sample and one rule are needed")
    response = as_tensor(response, "response", shape=(n,))
    if not (np.isfinite(gamma) and gamma > 0):
        raise InvalidProblem(f"gamma is {gamma}; it must be a positive number (the ridge is 1/gamma)")
    if matrix is not None and parents is None and matrix.parent is not None:
        parents = torch.from_numpy(matrix.parent)
    if antichain is None:
        antichain = parents is not None
    if antichain and parents is None:
        raise InvalidProblem(
            "an antichain needs the trees: give a RuleMatrix whose rules were not merged by unique(), or parents=..."
        )
    supports: Supports
    if antichain:
        supports = Antichain(torch.as_tensor(parents), count)
    else:
        supports = Cardinality(p if count is None else count)
    weights = None if sample_weight is None else as_weights(sample_weight, n).to(design)
    structure = Sparse(supports, price=prices(matrix, price, charge, p))
    if loss == "logistic":
        return Problem(Logistic(design, response, ridge=1.0 / gamma, weights=weights), structure, name)
    if loss != "squared":
        raise InvalidProblem(f"loss is {loss!r}; choose 'squared' or 'logistic'")
    if weights is not None:
        root = weights.sqrt()
        design, response = design * root[:, None], response.to(design) * root
    return Problem(LeastSquares(design, response, ridge=1.0 / gamma), structure, name)


def as_weights(sample_weight: Any, n: int) -> Tensor:
    """Return weights of n samples as a tensor, or raise :class:`InvalidProblem` when one is negative or all are 0."""
    weights = as_tensor(sample_weight, "sample_weight", shape=(n,))
    if bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise InvalidProblem("sample_weight must be >= 0, and positive for at least one sample")
    return weights


def prices(matrix: RuleMatrix | None, price: float, charge: Any, p: int) -> float | Tensor:
    """Return the price of each column: ``price`` times its charge."""
    if not price >= 0 or not np.isfinite(price):
        raise InvalidProblem(f"price is {price}; it must be >= 0")
    if price == 0:
        return 0.0
    if isinstance(charge, str):
        if charge == "count":
            return float(price)
        if matrix is None:
            raise InvalidProblem(f"charge {charge!r} needs a RuleMatrix; give numbers, one for each column, instead")
        charge = matrix.charge(charge)
    charges = as_tensor(charge, "charge", shape=(p,)).double()
    if bool((charges < 0).any()):
        raise InvalidProblem("charge has negative entries; it must be >= 0")
    return price * charges
