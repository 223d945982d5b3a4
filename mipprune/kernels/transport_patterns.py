"""Transposable masks of tiny blocks: all of them are listed, and the best is taken."""

from __future__ import annotations

import itertools
from functools import cache

import torch
from torch import Tensor

__all__ = ["LARGEST_LISTED", "best_pattern", "pattern_table"]

LARGEST_LISTED = 4
"""size of a block up to which all masks are listed; 5 x 5 has 2040, 6 x 6 already 297200"""


def best_pattern(scores: Tensor, count: int) -> Tensor:
    """Return the best mask of each block by scoring every one, up to the rounding of a sum.

    Parameters
    ----------
    scores : Tensor, shape (blocks, size, size)
        float32 or float64, size <= 4.
    count : int
        Kept entries of each line.

    References
    ----------
    Hu et al., "Accelerating transformer pre-training with 2:4 sparsity", arXiv 2404.01847 (the 90 patterns of 2:4).

    Examples
    --------
    >>> best_pattern(torch.tensor([[[3.0, 2.0], [2.0, 0.0]]]), 1)
    tensor([[[False,  True],
             [ True, False]]])
    """
    patterns = pattern_table(scores.shape[1], count).to(scores.device)
    totals = scores.flatten(1) @ patterns.flatten(1).to(scores.dtype).mT
    return patterns[totals.argmax(dim=1)]


@cache
def pattern_table(size: int, count: int) -> Tensor:
    """Return every mask with ``count`` entries in each line, bool (patterns, size, size), for sizes up to 4.

    Examples
    --------
    >>> len(pattern_table(4, 2)), len(pattern_table(4, 1)), len(pattern_table(3, 2))
    (90, 24, 6)
    """
    if size > LARGEST_LISTED:
        raise ValueError(f"blocks of {size} have too many masks to list; {LARGEST_LISTED} is the largest size")
    lines = [[i in chosen for i in range(size)] for chosen in itertools.combinations(range(size), count)]
    grids = torch.tensor(list(itertools.product(lines, repeat=size)), dtype=torch.bool)
    return grids[(grids.sum(dim=1) == count).all(dim=1)]
