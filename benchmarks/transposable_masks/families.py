"""Kinds of score blocks, drawn with a seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FAMILIES = (
    "gaussian",
    "t3",
    "lognormal",
    "column-scaled",
    "bf16",
    "integers",
    "constant",
    "zeros",
    "padded",
)


def draw(family: str, blocks: int, size: int, seed: int = 0) -> Tensor:
    """Return float32 scores of shape (blocks, size, size)."""
    rng = np.random.default_rng([seed, size, FAMILIES.index(family)])
    shape = (blocks, size, size)
    if family == "t3":
        scores = np.abs(rng.standard_t(3, shape))
    elif family == "lognormal":
        scores = np.exp(rng.standard_normal(shape))
    elif family == "integers":
        scores = rng.integers(0, 17, shape).astype(float)
    elif family in ("constant", "zeros"):
        scores = np.full(shape, 0.3 if family == "constant" else 0.0)
    else:
        scores = np.abs(rng.standard_normal(shape))
        if family == "column-scaled":
            scores *= np.exp(rng.standard_normal((blocks, 1, size)))
        elif family == "padded":
            scores[:, size // 2 + 1 :] = 0.0
    found = torch.from_numpy(scores.astype(np.float32))
    return found.bfloat16().float() if family == "bf16" else found


def kept(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the kept score of each block in float64."""
    return (scores.double() * mask).sum(dim=(1, 2))


def bound(scores: Tensor, rows: Tensor, columns: Tensor, count: int) -> Tensor:
    """Return the dual value of each block in float64: an upper bound of what any mask keeps."""
    reduced = scores.double() - rows.double().unsqueeze(2) - columns.double().unsqueeze(1)
    lines = count * (rows.double().sum(dim=1) + columns.double().sum(dim=1))
    return lines + reduced.clamp_min(0.0).sum(dim=(1, 2))
