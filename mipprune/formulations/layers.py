"""Pruning the layers of the trees of an ensemble."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..core.adapters import Masks
from ..core.arrays import as_tensor
from ..core.problem import Problem
from ..errors import InvalidProblem
from ..losses.least_squares import LeastSquares
from ..rules.extraction import extract_rules
from ..structures.rooted import Rooted

__all__ = ["layer_pruning"]


def layer_pruning(
    ensemble: Any, X: Any, response: Any, *, price: float = 0.0, charge: Any | None = None, name: str = "layer pruning"
) -> Problem:
    r"""Keep the top layers of each tree of a fitted ensemble, its values as they are.

    Parameters
    ----------
    ensemble : estimator
        A fitted forest or gradient boosting regressor of scikit-learn (its prediction is a mean, or a sum with the
        learning rate).
    X : array (n, features)
    response : Tensor, shape (n,)
    price : float
        Of one layer, in units of half the squared error, >= 0.
    charge : array (layers,), optional
        What a layer is charged, for instance its number of nodes; default 1.
    name : str

    Returns
    -------
    Problem
        Over masks ``z`` of layers, ordered by tree and depth; layer d of a tree needs the layers above it.

    Notes
    -----
    .. math:: \min_z\; \tfrac12\Bigl\|y - c - \sum_{t,d}\Delta_{td} z_{td}\Bigr\|^2 + \lambda\sum_{t,d} a_{td} z_{td}
              \quad\text{s.t. } z_{t,d+1} \le z_{t,d},\; z\in\{0,1\},

    with :math:`\Delta_{td}` the change of the prediction when layer d of tree t is added, and c the prediction without
    trees. Since z = z^2 on masks, prices enter as the ridge :math:`2\lambda a`.

    References
    ----------
    ForestPrune (Liu, Mazumder, AISTATS 2023).

    Examples
    --------
    >>> import mipprune as mp
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> X, y = [[float(i)] for i in range(20)], [float(i > 9) for i in range(20)]
    >>> forest = RandomForestRegressor(3, max_depth=4, random_state=0).fit(X, y)
    >>> mp.solve(layer_pruning(forest, X, y, price=0.1), mp.solvers.LayerDescent()).mask.sum().item() <= 15
    True
    """
    if not (price >= 0 and np.isfinite(price)):
        raise InvalidProblem(f"price is {price}; it must be >= 0")
    rules = extract_rules(ensemble, X, constant="keep")
    samples = rules.shape[0]
    scale, constant = _combination(ensemble, X, rules.trees)
    held = rules.matrix
    assert rules.parent is not None
    # Of a node, what it adds to the value of its parent; a sample meets one node of each layer at most.
    rise = rules.value - np.where(rules.parent >= 0, rules.value[rules.parent], 0.0)
    keys, layer = np.unique(np.stack([rules.tree, rules.depth], axis=1), axis=0, return_inverse=True)
    from scipy import sparse

    places = (np.arange(len(rules)), np.ravel(layer))
    change = np.asarray((held @ sparse.csc_array((scale * rise, places), shape=(len(rules), len(keys)))).todense())
    parents = np.where(keys[:, 1] > 0, np.arange(len(keys)) - 1, -1)
    charges = np.ones(len(keys)) if charge is None else np.asarray(as_tensor(charge, "charge", shape=(len(keys),)))
    target = as_tensor(response, "response", shape=(samples,)).double() - torch.from_numpy(constant)
    loss = LeastSquares(torch.from_numpy(change), target, ridge=torch.from_numpy(2.0 * price * charges))
    return Problem(loss, Masks(Rooted(torch.from_numpy(parents))), name)


def _combination(ensemble: Any, X: Any, trees: int) -> tuple[float, Any]:
    """Return the factor of every tree and the prediction without trees."""
    X = np.asarray(X, dtype=np.float64)
    if hasattr(ensemble, "init_") and hasattr(ensemble, "learning_rate"):
        start = ensemble.init_.predict(X) if hasattr(ensemble.init_, "predict") else np.zeros(len(X))
        return float(ensemble.learning_rate), np.asarray(start, dtype=np.float64)
    if not hasattr(ensemble, "estimators_") and trees != 1:
        raise InvalidProblem(f"{type(ensemble).__name__}: how it combines its trees is not known; use scikit-learn's")
    return 1.0 / trees, np.zeros(len(X))
