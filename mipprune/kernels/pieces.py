"""Maximising the least of a few concave quadratics: the master problem of a bundle method."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Peak", "maximise_least"]


class Peak(NamedTuple):
    """The maximum of the least of several concave quadratics."""

    point: Tensor
    """float64 (n,)"""
    value: float
    """an upper bound of the maximum, the maximum itself up to the tolerance"""
    shares: Tensor
    """float64 (k,), >= 0 with sum 1: the quadratics that meet at the maximum, mixed so that the slope vanishes"""


def maximise_least(hessians: Tensor, linears: Tensor, constants: Tensor, shares: Tensor | None = None) -> Peak:
    r"""Maximise :math:`\min_k c_k + \langle b_k, u\rangle - \tfrac12\langle u, H_k u\rangle` over u.

    Parameters
    ----------
    hessians : Tensor, shape (k, n, n)
        Positive definite, float64.
    linears : Tensor, shape (k, n)
    constants : Tensor, shape (k,)
    shares : Tensor, shape (k,), optional
        Where to start, >= 0 with sum 1; default equal.

    Returns
    -------
    Peak

    Notes
    -----
    By minimax duality the maximum is the least, over the simplex, of the convex function "maximum over u of the mixed
    quadratic", whose gradient is the vector of values of all quadratics at the maximising u. Any shares give an upper
    bound, so an inexact minimiser is a valid one. One evaluation factorises an n x n matrix once.

    Examples
    --------
    >>> one = torch.ones(2, 1, 1, dtype=torch.float64)
    >>> slopes = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    >>> peak = maximise_least(one, slopes, torch.zeros(2, dtype=torch.float64))
    >>> float(peak.point.abs()) < 1e-6, abs(peak.value) < 1e-6
    (True, True)
    """
    count = len(constants)
    begin = np.full(count, 1.0 / count) if shares is None else shares.cpu().numpy()

    def mixed(weights: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        theta = torch.from_numpy(weights).to(hessians)
        bend = torch.einsum("k,kij->ij", theta, hessians)
        factor, failed = torch.linalg.cholesky_ex(bend)
        if int(failed):  # positive definite but for rounding
            factor = torch.linalg.cholesky(bend + 1e-10 * torch.diag(bend.diagonal().abs().max().expand(len(bend))))
        point = torch.cholesky_solve((theta @ linears).unsqueeze(1), factor).squeeze(1)
        return point, linears @ point + constants - 0.5 * torch.einsum("i,kij,j->k", point, hessians, point)

    def best(weights: np.ndarray[Any, Any]) -> Peak:
        point, values = mixed(weights)
        theta = torch.from_numpy(weights).to(hessians)
        return Peak(point, float(theta @ values), theta)

    first = best(begin)
    if count == 1:
        return first
    from scipy.optimize import minimize

    values = mixed(begin)[1]
    unit = float(values.max() - values.min())
    if not unit > 1e-15 * abs(first.value):
        return first

    def scaled(weights: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        inside = np.clip(weights, 0.0, None)
        inside /= inside.sum()
        values = (mixed(inside)[1].cpu().numpy() - first.value) / unit
        return float(inside @ values), values

    found = minimize(
        scaled,
        begin,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * count,
        constraints=[{"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones_like(w)}],
        options={"maxiter": 100, "ftol": 1e-10},
    )
    weights = np.clip(found.x, 0.0, None)
    if not np.isfinite(weights).all() or not weights.sum() > 0:
        return first
    last = best(weights / weights.sum())
    return last if last.value <= first.value else first
