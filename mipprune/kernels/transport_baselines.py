"""What others do for transposable masks: entropic transport, rows and then columns, sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .top_k import keep_largest

__all__ = ["Entropic", "best_random", "entropic", "row_then_column"]

_ENTRIES = 1 << 22  # entries iterated at once


class Entropic(NamedTuple):
    """The entropic relaxation of blocks after some iterations."""

    shares: Tensor
    """fractional masks in [0, 1], (blocks, size, size)"""
    rows: Tensor
    """potentials (blocks, size), for a bound"""
    columns: Tensor
    """potentials (blocks, size)"""


def entropic(scores: Tensor, count: int, *, temperature: float, iterations: int) -> Entropic:
    r"""Iterate Dykstra's projections for the transport problem with an entropy, in logarithms.

    Parameters
    ----------
    scores : Tensor, shape (blocks, size, size)
        float32 or float64.
    count : int
        1 <= count <= size.
    temperature : float
        Inverse temperature times the largest score of each block: large values are sharp and slow.
    iterations : int
        Rounds of rows, columns and box.

    Notes
    -----
    .. math:: \max_S \langle A, S\rangle - \tfrac1\tau \sum S\log S \quad\text{s.t. line sums } n,\; 0 \le S \le 1

    The multipliers of the lines divided by :math:`\tau` are potentials.

    References
    ----------
    arXiv 2505.23949 (TSENOR); Benamou et al., "Iterative Bregman projections for regularized transportation problems",
    SIAM J. Sci. Comput. 2015, arXiv 1412.5154.
    """
    size = scores.shape[1]
    limit = max(1, _ENTRIES // (size * size))
    parts = [_entropic(part, count, temperature, iterations) for part in scores.split(limit)]
    return parts[0] if len(parts) == 1 else Entropic(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _entropic(scores: Tensor, count: int, temperature: float, iterations: int) -> Entropic:
    largest = scores.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    x = scores / largest * temperature  # one after the other: temperature / largest may overflow
    correction = torch.zeros_like(x)
    rows, columns = torch.zeros_like(x[:, :, :1]), torch.zeros_like(x[:, :1, :])
    target = math.log(count)
    for _ in range(iterations):
        step = torch.logsumexp(x, dim=2, keepdim=True) - target
        x, rows = x - step, rows + step
        step = torch.logsumexp(x, dim=1, keepdim=True) - target
        x, columns = x - step, columns + step
        moved = x + correction
        x = moved.clamp_max(0.0)
        correction = moved - x
    scale = largest / temperature
    return Entropic(x.exp(), (rows * scale).squeeze(2), (columns * scale).squeeze(1))


def row_then_column(scores: Tensor, count: int) -> Tensor:
    """Keep the largest of each row, then of each column of what is left; at most ``count`` in each line.

    References
    ----------
    Adapted from arXiv 2302.06058 (Bi-Mask), whose own masks for the two directions differ.
    """
    size = scores.shape[1]
    kept = keep_largest(scores.reshape(-1, size), count).reshape(scores.shape)
    rest = torch.where(kept, scores, -torch.inf).mT.contiguous()
    chosen = keep_largest(rest.reshape(-1, size), count).reshape(scores.shape).mT
    return chosen & kept


def best_random(
    scores: Tensor, count: int, *, trials: int, seed: int, go_on: Callable[[], bool] = lambda: True
) -> Tensor:
    """Return the best of so many random admissible masks for each block: circulants with permuted rows and columns.

    ``go_on``, asked after each, ends the draws with ``False``.
    """
    blocks, size, _ = scores.shape
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(size)
    circulant = ((index - index.unsqueeze(1)) % size < count).to(scores.device)
    best = torch.full((blocks,), -torch.inf, dtype=scores.dtype, device=scores.device)
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    for _ in range(trials):
        rows, columns = (torch.rand(blocks, size, generator=generator).argsort(dim=1).to(scores.device) for _ in "rc")
        drawn = circulant[rows.unsqueeze(2), columns.unsqueeze(1)]
        value = torch.where(drawn, scores, 0.0).flatten(1).sum(dim=1)
        better = value > best
        best = torch.where(better, value, best)
        mask[better] = drawn[better]
        if not go_on():
            break
    return mask
