"""Diagonals D with H - Diag(D) positive semidefinite: verification, repair, and the search for a good one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["factor", "inverse_root", "is_valid", "largest_factor", "maximise", "shrink_until_valid"]

_UNIT_ROUNDOFF = 2.0**-53


def inverse_root(diagonal: Tensor) -> Tensor:
    """Return ``diagonal ** -1/2``, 1 where the diagonal is 0."""
    return torch.where(diagonal > 0, diagonal, 1.0).rsqrt()


def factor(matrix: Tensor) -> Tensor:
    """Return L' with ``matrix = L L'`` for a positive semidefinite matrix (..., n, n), from its eigenvectors."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = values.clamp_min(0.0).sqrt().unsqueeze(-1) * vectors.mT
    return root


def _on_allowed(matrix: Tensor, allowed: Tensor | None) -> Tensor:
    if allowed is None:
        return matrix
    matrix = matrix.expand(allowed.shape[0], *matrix.shape[-2:])
    inside = allowed.unsqueeze(-1) & allowed.unsqueeze(-2)
    return torch.where(inside, matrix, 0.0)


def is_valid(gram: Tensor, split: Tensor, allowed: Tensor | None = None) -> bool:
    """Tell whether ``gram - Diag(split)`` is positive semidefinite, rigorously, by a shifted Cholesky factorisation.

    Parameters
    ----------
    gram : float64 Tensor, shape (in, in) or (out, in, in)
    split : float64 Tensor, shape (in,) or (out, in)
        D.
    allowed : bool Tensor, shape (out, in), optional
        Only these entries of each row matter.

    Notes
    -----
    If the floating-point factorisation of A - E runs to completion, A - E + Delta is positive semidefinite for some
    ``|Delta_ij| <= g/(1-g) sqrt(a_ii a_jj)`` with ``g = gamma_{n+1}`` (Demmel; Rump, BIT 46, 2006), and such a Delta is
    below ``n g/(1-g) Diag(a)``. Factorising with E twice that large, rounding of the subtraction included, is a
    proof. Rows and columns that are exactly zero are positive semidefinite by themselves and are left out.
    """
    if split.shape[-1:] != gram.shape[-1:]:  # anything else would broadcast to a matrix that is not diagonal
        raise ValueError(f"a split of shape {tuple(split.shape)} does not fit a matrix with {gram.shape[-1]} columns")
    rest = gram.expand(torch.broadcast_shapes(gram.shape[:-1], split.shape) + gram.shape[-1:]).clone()
    torch.diagonal(rest, dim1=-2, dim2=-1).sub_(split)
    rest = _on_allowed(rest, allowed)
    size = gram.shape[-1]
    diagonal = torch.diagonal(rest, dim1=-2, dim2=-1)
    if bool((diagonal < 0).any()):
        return False
    empty = diagonal == 0
    if bool(empty.any()):
        empty &= (rest == 0).all(dim=-1)
    original = torch.diagonal(gram, dim1=-2, dim2=-1).abs().expand(diagonal.shape)
    growth = 2.0 * (size + 2) * (size + 2) * _UNIT_ROUNDOFF
    # An underflow changes an entry by at most (size + sqrt(largest entry)) times the smallest normal number.
    tiny = 2.0 * (size + 2) * (size + 2 + diagonal.amax().sqrt()) * torch.finfo(rest.dtype).tiny if size else 0.0
    shift = torch.where(empty, -1.0, growth * diagonal + 2.0 * _UNIT_ROUNDOFF * original + tiny)
    diagonal.sub_(shift)
    _, info = torch.linalg.cholesky_ex(rest)
    return bool((info == 0).all())


def shrink_until_valid(gram: Tensor, split: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Return the split multiplied by the largest tried factor <= 1 for which :func:`is_valid` holds (else zeros)."""
    split = split.clamp_min(0.0)
    for loss in (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5):
        candidate = split * (1.0 - loss)
        if is_valid(gram, candidate, allowed):
            return candidate
    return torch.zeros_like(split)


def largest_factor(gram: Tensor, split: Tensor) -> Tensor:
    """Return, per matrix, the largest t with ``gram - t Diag(split)`` positive semidefinite (1 where split is zero).

    ``gram`` has shape (..., in, in), ``split`` (..., in), zero entries allowed where the row of ``gram`` is zero.
    """
    active = split > 0
    scale = inverse_root(torch.where(active, split, 1.0))
    inside = active.unsqueeze(-1) & active.unsqueeze(-2)
    scaled = torch.where(inside, scale.unsqueeze(-1) * gram * scale.unsqueeze(-2), 0.0)
    ceiling = 1.0 + scaled.abs().sum(dim=-1).amax(dim=-1)  # above every eigenvalue: inactive rows never decide
    scaled = scaled + torch.diag_embed(torch.where(active, 0.0, ceiling.unsqueeze(-1)))
    smallest = torch.linalg.eigvalsh(scaled)[..., 0]
    return torch.where(active.any(dim=-1), smallest.clamp_min(0.0), 1.0)


def _mixing_sweeps(gram: Tensor, weights: Tensor, rank: int, sweeps: int) -> Tensor:
    """Norms ``|g_i|`` of the low-rank dual ``min <H, Y>, Y psd, Y_ii = c_i`` by cyclic coordinate minimisation."""
    import numpy as np

    from .mixing import sweep

    size = gram.shape[0]
    factors = np.random.default_rng(0).standard_normal((size, rank)).astype(np.float32)
    roots = weights.sqrt().cpu().numpy().astype(np.float32)
    factors *= (roots / np.linalg.norm(factors, axis=1))[:, None]
    off_diagonal = np.ascontiguousarray((gram - torch.diag(gram.diagonal())).cpu().numpy().astype(np.float32))
    return torch.from_numpy(sweep(off_diagonal, factors, roots, sweeps)).to(gram)


def maximise(gram: Tensor, weights: Tensor, *, rank: int = 48, sweeps: int = 60) -> Tensor:
    """Return a D with ``gram - Diag(D)`` positive semidefinite that nearly maximises ``<weights, D>``.

    Parameters
    ----------
    gram : float64 Tensor, shape (in, in)
    weights : float64 Tensor, shape (in,)
        >= 0; floored at 1 % of their mean so that no entry is ignored.
    rank, sweeps : int
        Of the low-rank dual.

    Notes
    -----
    The dual of the linear step is of the Max-Cut type, ``min <H, Y>`` over Y positive semidefinite with diagonal c;
    with
    ``Y = V V'`` a cyclic update of the rows ``v_i <- -sqrt(c_i) g_i/|g_i|`` converges to the optimum for sufficient
    rank
    (the "mixing method"). It returns ``D_i = H_ii - |g_i|/sqrt(c_i)``, repaired by the better of a shift and a scaling.
    """
    scale = inverse_root(gram.diagonal())
    unit = scale.unsqueeze(1) * gram * scale
    target = weights.clamp_min(0.0) / scale.square()  # <weights, D> = <target, D'> in unit-diagonal variables
    target = target.nan_to_num(0.0, 0.0)  # any weights do; those of a relaxation may have overflowed
    mean = float(target.mean())
    if not 0 < mean < math.inf:
        target, mean = torch.ones_like(target), 1.0
    target = torch.maximum(target, torch.full_like(target, 0.01 * mean)) / mean
    pull = _mixing_sweeps(unit, target, min(rank, gram.shape[0]), sweeps)
    split = (unit.diagonal() - pull / target.sqrt()).clamp_min(1e-6)
    shifted = split + torch.linalg.eigvalsh(unit - torch.diag(split))[0]
    scaled = split * largest_factor(unit, split)
    better = shifted if bool((shifted > 0).all()) and float(target @ shifted) > float(target @ scaled) else scaled
    return better / scale.square()
