"""Masks with the largest kept score."""

from __future__ import annotations

from typing import Any

import torch

from ..core.adapters import Masks
from ..core.arrays import as_tensor
from ..core.problem import Problem
from ..core.structure import Supports
from ..errors import InvalidProblem
from ..losses.linear import Linear

__all__ = ["transposable_mask"]


def transposable_mask(scores: Any, structure: Supports, *, name: str = "transposable mask") -> Problem:
    r"""Choose the mask of a weight matrix that keeps the largest sum of scores.

    Parameters
    ----------
    scores : Tensor, shape (out, in)
        What keeping each entry is worth: ``abs(W)``, ``W ** 2``, ``abs(W) * norm(X_j)`` (Wanda), ...
    structure : Supports
        For example ``TransposableNofM(16, 32)``; any family of masks will do.
    name : str
        For reports.

    Returns
    -------
    Problem
        Its value is *minus* the kept score, since the package minimises; its point is the mask as 0/1 numbers.

    Raises
    ------
    InvalidProblem
        On NaN, infinite or empty scores, or a structure that does not fit the shape.

    Notes
    -----
    .. math:: \min_S\; -\sum_{ij} A_{ij} S_{ij} \quad\text{s.t. } S \in \mathcal{M}

    For :class:`~mipprune.TransposableNofM` the problem falls apart into small transportation problems, and
    ``mp.solve(problem)`` is exact with potentials as certificate.

    References
    ----------
    arXiv 2102.08124; arXiv 2505.23949 (TSENOR).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> scores = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    >>> solution = mp.solve(transposable_mask(scores, mp.TransposableNofM(2, 3, "at_most")))
    >>> solution.value, solution.status.value, solution.proof.value
    (-5.0, 'optimal', 'checked')
    """
    scores = as_tensor(scores, "scores", ndim=2)
    if scores.numel() == 0:
        raise InvalidProblem(f"scores have shape {tuple(scores.shape)}; there is nothing to choose from")
    if not isinstance(structure, Supports):
        raise InvalidProblem(
            f"structure is a {type(structure).__name__}; a family of masks such as TransposableNofM(2, 4) is needed"
        )
    return Problem(Linear(-scores.to(torch.float64)), Masks(structure), name)
