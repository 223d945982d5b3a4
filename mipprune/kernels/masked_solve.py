"""Refitting rows of a quadratic on given supports: many linear systems that share one matrix."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["conjugate_gradient", "direct", "minimise"]

_DIRECT_ENTRIES = 1 << 24  # largest batch of gathered blocks, in matrix entries (128 MiB of float64)


def _times(rows: Tensor, gram: Tensor) -> Tensor:
    return rows @ gram if gram.ndim == 2 else (rows.unsqueeze(1) @ gram).squeeze(1)


def conjugate_gradient(
    gram: Tensor,
    target: Tensor,
    mask: Tensor,
    start: Tensor,
    *,
    iterations: int = 10,
    tolerance: float = 0.0,
) -> Tensor:
    """Solve ``(w_r H)_T = target_rT`` for every row r on its support T, by conjugate gradients with a diagonal preconditioner.

    Parameters
    ----------
    gram : Tensor, shape (in, in) or (out, in, in)
        Positive definite.
    target : Tensor, shape (out, in)
        Right-hand sides.
    mask : bool Tensor, shape (out, in)
        Supports.
    start : Tensor, shape (out, in)
        Starting point; used on the support only.
    iterations : int
        Largest number of iterations; each costs one product.
    tolerance : float
        Stop when every row's preconditioned residual fell by this factor.

    Notes
    -----
    Step lengths are per row, since rows are independent systems (arXiv 2406.07831 prints one scalar; its code and this one
    use one per row).
    """
    keep = mask.to(target.dtype)
    inverse = keep / torch.diagonal(gram, dim1=-2, dim2=-1).clamp_min(1e-300).to(target.dtype)
    w = start * keep
    residual = (target - _times(w, gram)) * keep
    scaled = residual * inverse
    direction = scaled.clone()
    energy = (residual * scaled).sum(dim=1, keepdim=True)
    first = energy.clone()
    for _ in range(iterations):
        product = _times(direction, gram)
        curvature = (direction * product).sum(dim=1, keepdim=True)
        step = torch.where(curvature > 0, energy / curvature, 0.0)
        w = torch.addcmul(w, direction, step)
        residual = torch.addcmul(residual, product * keep, step, value=-1.0)
        scaled = residual * inverse
        renewed = (residual * scaled).sum(dim=1, keepdim=True)
        if tolerance > 0 and bool((renewed <= tolerance * tolerance * first).all()):
            break
        direction = scaled + direction * torch.where(energy > 0, renewed / energy, 0.0)
        energy = renewed
    return w


def direct(gram: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Solve the same systems exactly: gathered blocks, padded with the identity, one batched Cholesky factorisation."""
    rows, width = target.shape
    counts = mask.sum(dim=1)
    largest = int(counts.max()) if rows else 0
    if largest == 0:
        return torch.zeros_like(target)
    order = torch.argsort(mask.to(torch.int8), dim=1, descending=True, stable=True)[:, :largest]
    valid = torch.arange(largest, device=mask.device) < counts.unsqueeze(1)
    solution = torch.zeros_like(target)
    chunk = max(1, _DIRECT_ENTRIES // (largest * largest))
    for first in range(0, rows, chunk):
        part = slice(first, first + chunk)
        index, inside = order[part], valid[part]
        source = gram if gram.ndim == 2 else None
        if source is not None:
            block = source[index.unsqueeze(-1), index.unsqueeze(-2)]
        else:
            batch = torch.arange(first, first + index.shape[0], device=mask.device)[:, None, None]
            block = gram[batch, index.unsqueeze(-1), index.unsqueeze(-2)]
        both = inside.unsqueeze(-1) & inside.unsqueeze(-2)
        block = torch.where(both, block, 0.0) + torch.diag_embed((~inside).to(block.dtype))
        right = torch.where(inside, target[part].gather(1, index), 0.0)
        factor, info = torch.linalg.cholesky_ex(block)
        if bool((info != 0).any()):
            fitted = torch.linalg.lstsq(block.cpu(), right.unsqueeze(-1).cpu(), driver="gelsd").solution.to(right)
        else:
            fitted = torch.cholesky_solve(right.unsqueeze(-1), factor)
        solution[part].scatter_(1, index, torch.where(inside, fitted.squeeze(-1), 0.0))
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
    target = _times(center, gram)
    largest = int(mask.sum(dim=1).max()) if mask.numel() else 0
    # Gathering and factorising costs rows * k^3 / 3 against about 60 products of rows * width^2.
    if largest**3 <= 180 * center.shape[1] ** 2 or center.numel() <= 1 << 14:
        return direct(gram, target, mask)
    begin = torch.where(mask, center if start is None else start.to(center), 0.0)
    tolerance = 1e-10 if center.dtype == torch.float64 else 1e-6
    return conjugate_gradient(gram, target, mask, begin, iterations=200, tolerance=tolerance)
