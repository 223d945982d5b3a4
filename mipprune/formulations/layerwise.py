"""Layer-wise pruning from calibration data."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..core.adapters import Sparse
from ..core.arrays import as_tensor, require_symmetric
from ..core.problem import Problem
from ..core.structure import Structure, Supports
from ..errors import InvalidProblem
from ..kernels import diagonal_split
from ..losses.quadratic import Quadratic

__all__ = ["layerwise"]


def layerwise(
    weight: Any,
    gram: Any,
    structure: Supports | Structure,
    *,
    damping: float = 0.01,
    target: Any | None = None,
    name: str = "layerwise",
) -> Problem:
    r"""Prune one linear layer so that its outputs on the calibration data change least.

    Parameters
    ----------
    weight : Tensor, shape (out, in)
        Dense weights, as in ``torch.nn.Linear.weight``.
    gram : Tensor, shape (in, in)
        ``X'X`` (or any multiple of it) of the calibration inputs X (tokens, in), symmetric positive semidefinite.
    structure : Supports or Structure
        For example ``NofM(2, 4)`` or ``Cardinality(k)``; a ``Sparse(...)`` adds a box or a price.
    damping : float
        Ridge ``damping * mean(diag X'X)`` on the difference to the dense weights, >= 0. Values and certificates refer
        to the damped problem; state it with them.
    target : Tensor, shape (out, in), optional
        Linear term G = (X'Y)' when the outputs Y to match come from other inputs than X; default the layer's own,
        ``G = weight H``.
    name : str
        For reports.

    Returns
    -------
    Problem
        Its value is ``tr((W - What) H (W - What)')``, the squared error of the outputs plus damping. Divide by
        ``problem.value(0)`` for the relative error of the literature.

    Raises
    ------
    InvalidProblem
        On wrong shapes, NaN, a Gram matrix that is not symmetric or not positive definite after damping, or a
        structure that does not fit the shape.

    Notes
    -----
    .. math:: \min_W\; \|X\hat W^\top - XW^\top\|_F^2 + \lambda\|\hat W - W\|_F^2
              \quad\text{s.t. } \mathrm{supp}(W) \in \mathcal{M},\qquad H = X^\top X + \lambda I .

    A dead input (zero diagonal of X'X) has no influence on the outputs: its weights are taken as 0 and its diagonal
    as 1, as the published codes do.

    References
    ----------
    arXiv 2406.07831 (ALPS), section 2; arXiv 2301.00774 (SparseGPT) for the treatment of dead inputs.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(2, 8), x.T @ x, mp.NofM(2, 4))
    >>> problem.shape
    (2, 8)
    """
    weight = as_tensor(weight, "weight", ndim=2)
    rows, width = weight.shape
    if rows == 0 or width == 0:
        raise InvalidProblem(f"weight has shape {(rows, width)}; a layer needs at least one input and one output")
    gram = as_tensor(gram, "gram", shape=(width, width)).to(weight.device)
    gram = require_symmetric(gram, "gram").double()
    if not 0 <= damping < math.inf:
        raise InvalidProblem(f"damping is {damping}; it is a fraction of the mean diagonal, finite and >= 0")
    diagonal = gram.diagonal()
    if bool((diagonal < 0).any()):
        raise InvalidProblem("gram has negative diagonal entries, so it is not X'X of any data")
    dead = diagonal == 0
    ridge = damping * float(diagonal.mean())
    damped = gram + torch.diag(torch.full_like(diagonal, ridge).masked_fill(dead, 1.0))
    if not diagonal_split.is_valid(damped, torch.zeros_like(diagonal)):
        raise InvalidProblem(
            f"gram is not positive definite with damping {damping}: use more calibration tokens than inputs ({width}), "
            "accumulate X'X in float64, or raise the damping (0.01 is usual)"
        )
    if target is None:
        loss = Quadratic(damped, torch.where(dead, 0.0, weight.double()), ridge=ridge)
    else:
        target = as_tensor(target, "target", shape=(rows, width)).to(weight.device)
        loss = Quadratic.from_linear(damped, target, ridge=ridge)
    return Problem(loss, structure if isinstance(structure, Structure) else Sparse(structure), name)
