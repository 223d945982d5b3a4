"""The sweep of the optimal-brain-surgeon update over the inputs of a layer, in blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["inverse_factor", "sweep"]


def inverse_factor(gram: Tensor) -> Tensor | None:
    """Return the upper triangular U with ``gram^-1 = U' U``, or ``None`` when the factorisation fails.

    With J the reversal of the order, ``J gram J = M M'`` (Cholesky) gives ``gram = R R'`` for the upper triangular
    ``R = J M J``, and U is its inverse: one factorisation and one triangular inverse instead of three steps.
    """
    factor, info = torch.linalg.cholesky_ex(gram.flip(0, 1))
    if bool((info != 0).any()):
        return None
    identity = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.flip(0, 1)


def sweep(
    weight: Tensor,
    factor: Tensor,
    choose: Callable[[Tensor, int, int], Tensor],
    *,
    block: int,
    group: int,
) -> Tensor:
    """Return the mask and leave in ``weight`` the weights after pruning input after input with error compensation.

    Parameters
    ----------
    weight : Tensor, shape (in, out)
        Transposed dense weights; overwritten by the pruned ones.
    factor : Tensor, shape (in, in)
        U of :func:`inverse_factor`.
    choose : callable
        ``choose(scores, first, last)`` returns the mask (bool, the shape of the scores) of what is kept of the inputs
        first..last-1, given the scores ``w_i^2/U_ii^2`` (last - first, out) at the moment the sweep reaches them.
    block : int
        Inputs updated together; later inputs see their errors through one product.
    group : int
        Inputs for which a choice is made at a time; divides ``block`` or is a multiple of it.

    Returns
    -------
    bool Tensor, shape (in, out)

    Notes
    -----
    Removing input i moves the later ones by ``-w_i/U_ii U_{i,i+1:}``; earlier ones stay, which is what an exact refit
    recovers afterwards (arXiv 2301.00774).
    """
    width = weight.shape[0]
    mask = torch.empty_like(weight, dtype=torch.bool)
    diagonal = factor.diagonal()
    inverse_square = diagonal.square().reciprocal().unsqueeze(1)
    zero = torch.zeros((), dtype=weight.dtype, device=weight.device)
    for first in range(0, width, block):
        last = min(first + block, width)
        local = factor[first:last, first:last] / diagonal[first:last, None]
        errors = torch.empty_like(weight[first:last])
        for i in range(first, last):
            if i % group == 0:
                stop = min(i + group, width)
                mask[i:stop] = choose(weight[i:stop].square() * inverse_square[i:stop], i, stop)
            row = weight[i]
            error = torch.where(mask[i], zero, row, out=errors[i - first])
            row.sub_(error)
            if i + 1 < last:
                weight[i + 1 : last].addr_(local[i - first, i - first + 1 :], error, alpha=-1.0)
        if last < width:
            coupling = factor[first:last, last:] / diagonal[first:last, None]
            weight[last:].addmm_(coupling.mT, errors, alpha=-1.0)
    return mask
