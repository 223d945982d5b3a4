"""Refitting rows of a quadratic on given supports: many linear systems that share one matrix."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["conjugate_gradient", "direct", "minimise"]

_DIRECT_ENTRIES = 1 << 24  # largest batch of gathered blocks, in matrix entries (128 MiB of float64)


def _times(rows: Tensor, gram: Tensor, out: Tensor | None = None) -> Tensor:
    if gram.ndim == 2:
        return torch.mm(rows, gram) if out is None else torch.mm(rows, gram, out=out)
    own = (rows.unsqueeze(1) @ gram).squeeze(1)
    return own if out is None else out.copy_(own)


def conjugate_gradient(
    gram: Tensor,
    center: Tensor,
    mask: Tensor,
    start: Tensor,
    *,
    iterations: int = 10,
    tolerance: float = 0.0,
    share: float = 0.0,
) -> Tensor:
    """Minimise ``(w_r - c_r) H (w_r - c_r)'`` for every row r on its support, by preconditioned conjugate gradients.

    Parameters
    ----------
    gram : Tensor, shape (in, in) or (out, in, in)
        Positive definite.
    center : Tensor, shape (out, in)
        C, the unconstrained minimiser.
    mask : bool Tensor, shape (out, in)
        Supports.
    start : Tensor, shape (out, in)
        Starting point; used on the support only.
    iterations : int
        Largest number of iterations; each costs one product.
    tolerance : float
        Stop when every row's preconditioned residual fell by this factor.
    share : float
        Stop when an iteration lowers the value of all rows together by less than this share of it.

    Notes
    -----
    Step lengths are per row, since rows are independent systems (arXiv 2406.07831 prints one scalar; its code and this
    one use one per row). All rows keep iterating until the slowest is done; the buffers are reused.
    """
    keep = mask.to(center.dtype)
    tiny = torch.finfo(center.dtype).tiny
    inverse = keep / torch.diagonal(gram, dim1=-2, dim2=-1).clamp_min(tiny).to(center.dtype)
    w = start * keep
    delta = center - w
    product = _times(delta, gram)
    value = float((delta * product).sum()) if share > 0 else 0.0
    residual = product * keep
    scaled = residual * inverse
    direction = scaled.clone()
    work = torch.empty_like(w)
    energy = torch.mul(residual, scaled, out=work).sum(dim=1, keepdim=True)
    first = energy.clone()
    for _ in range(iterations):
        _times(direction, gram, out=product)
        curvature = torch.mul(direction, product, out=work).sum(dim=1, keepdim=True)
        step = torch.where(curvature > 0, energy / curvature, 0.0)
        w.addcmul_(direction, step)
        if share > 0:
            decrease = float((step * energy).sum())
            value -= decrease
            if decrease <= share * value:
                break
        residual.addcmul_(product.mul_(keep), step, value=-1.0)
        torch.mul(residual, inverse, out=scaled)
        renewed = torch.mul(residual, scaled, out=work).sum(dim=1, keepdim=True)
        if tolerance > 0 and bool((renewed <= tolerance * tolerance * first).all()):
            break
        direction.mul_(torch.where(energy > 0, renewed / energy, 0.0)).add_(scaled)
        energy = renewed
    return w


def direct(gram: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Solve ``(w_r H)_T = target_rT`` for every row r on its support T exactly, by batched Cholesky factorisations."""
    counts = mask.sum(dim=1)
    largest = int(counts.max()) if mask.shape[0] else 0
    if largest == 0:
        return torch.zeros_like(target)
    # Neighbours in the order of their counts need little padding.
    order = torch.argsort(counts)
    solution = torch.zeros_like(target)
    first = 0
    while first < len(order):
        chunk = max(1, _DIRECT_ENTRIES // max(int(counts[order[first]]), 1) ** 2)
        rows = order[first : first + chunk]
        fewer = max(1, _DIRECT_ENTRIES // max(int(counts[rows[-1]]), 1) ** 2)
        rows = rows[:fewer]
        own = gram if gram.ndim == 2 else gram[rows]
        solution[rows] = _direct_rows(own, target[rows], mask[rows])
        first += len(rows)
    return solution


def _direct_rows(gram: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    counts = mask.sum(dim=1)
    largest = int(counts.max())
    solution = torch.zeros_like(target)
    if largest == 0:
        return solution
    index = torch.argsort(mask.to(torch.int8), dim=1, descending=True, stable=True)[:, :largest]
    inside = torch.arange(largest, device=mask.device) < counts.unsqueeze(1)
    if gram.ndim == 2:
        block = gram[index.unsqueeze(-1), index.unsqueeze(-2)]
    else:
        batch = torch.arange(len(index), device=mask.device)[:, None, None]
        block = gram[batch, index.unsqueeze(-1), index.unsqueeze(-2)]
    both = inside.unsqueeze(-1) & inside.unsqueeze(-2)
    block = torch.where(both, block, 0.0) + torch.diag_embed((~inside).to(block.dtype))
    right = torch.where(inside, target.gather(1, index), 0.0)
    factor, info = torch.linalg.cholesky_ex(block)
    if bool((info != 0).any()):
        fitted = torch.linalg.lstsq(block.cpu(), right.unsqueeze(-1).cpu(), driver="gelsd").solution.to(right)
    else:
        fitted = torch.cholesky_solve(right.unsqueeze(-1), factor)
    solution.scatter_(1, index, torch.where(inside, fitted.squeeze(-1), 0.0))
    return solution


def minimise(gram: Tensor, center: Tensor, mask: Tensor, start: Tensor | None = None) -> Tensor:
    """Return the minimiser of ``sum_r (w_r - c_r) H (w_r - c_r)'`` over the rows that vanish outside ``mask``.

    Parameters
    ----------
    gram : Tensor, shape (in, in) or (out, in, in)
    center : Tensor, shape (out, in)
    mask : bool Tensor, shape (out, in)
    start : Tensor, shape (out, in), optional
        Starting point of the iteration for large layers.
    """
    mask = mask.to(center.device)
    largest = int(mask.sum(dim=1).max()) if mask.numel() else 0
    # Gathering and factorising costs rows * k^3 / 3 against about 60 products of rows * width^2.
    small = center.numel() <= 1 << 14 and largest <= 1 << 10
    if small or largest**3 <= 180 * center.shape[1] ** 2:
        return direct(gram, _times(center, gram), mask)
    begin = torch.where(mask, center if start is None else start.to(center), 0.0)
    tolerance = 1e-10 if center.dtype == torch.float64 else 1e-6
    return conjugate_gradient(gram, center, mask, begin, iterations=200, tolerance=tolerance)
