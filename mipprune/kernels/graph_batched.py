"""L0 descent on a graphical model with many pairs at once, on any device: pairs that share no node do not interact."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["descend_batched"]

_REFRESH = 50  # steps after which the product S V is formed anew


def descend_batched(
    matrix: Tensor,
    price: Tensor,
    ridge: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    start: Tensor | None = None,
    steps: int = 1000,
    tolerance: float = 1e-6,
    go_on: Callable[[], bool] = lambda: True,
) -> Tensor:
    r"""Return off-diagonal entries that no change of a single pair improves by more than the tolerance.

    Parameters
    ----------
    matrix : Tensor, shape (p, p)
        S, in the precision and on the device of the work.
    price, ridge, lower, upper : Tensor broadcastable to (p, p)
        Symmetric; ``ridge`` without 1/2.
    start : Tensor, shape (p, p), optional
        Symmetric with a zero diagonal; default the empty graph.
    steps : int
        At most so many; each is a few elementwise operations on p x p arrays.
    tolerance : float
        Smallest decrease of the objective that is worth a change.
    go_on : callable

    Returns
    -------
    Tensor, shape (p, p)
        Symmetric with a zero diagonal.

    Notes
    -----
    For the diagonal at hand the best value of every pair, kept or zero, follows from :math:`H = SV` in closed form. Of
    all pairs those are changed that are the best of both their rows: rows that share no pair do not interact while the
    diagonal rests, so that the decreases add up exactly.
    """
    p = len(matrix)
    own = matrix.diagonal()
    values = torch.zeros_like(matrix) if start is None else start.to(matrix).clone()
    product = matrix @ values
    diagonal = torch.eye(p, dtype=torch.bool, device=matrix.device)
    nodes = torch.arange(p, device=matrix.device)
    for step in range(steps):
        theta = (1 + (1 + 4 * own * (values * product).sum(dim=0).clamp_min(0)).sqrt()) / (2 * own)
        inverse = theta.reciprocal()
        a = own.unsqueeze(0) * inverse.unsqueeze(1)
        a = a + a.mT
        slope = product * inverse
        b = 4 * matrix + 2 * (slope + slope.mT) - 2 * a * values
        stiff = a + ridge
        best = torch.minimum(torch.maximum(-b / (2 * stiff), lower), upper)
        worth = -(stiff * best + b) * best - price
        best = torch.where(worth > 0, best, 0.0)
        now = (stiff * values + b) * values + torch.where(values != 0, price, 0.0)
        decrease = (now + worth.clamp_min(0)).masked_fill(diagonal, 0.0)
        most, partner = decrease.max(dim=1)
        chosen = nodes[(partner[partner] == nodes) & (most > tolerance) & (nodes < partner)]
        if len(chosen) == 0 or not go_on():
            break
        other = partner[chosen]
        change = best[chosen, other] - values[chosen, other]
        values[chosen, other] = best[chosen, other]
        values[other, chosen] = best[chosen, other]
        if step % _REFRESH == _REFRESH - 1:
            product = matrix @ values
        else:
            product[:, chosen] += matrix[:, other] * change
            product[:, other] += matrix[:, chosen] * change
    return values
