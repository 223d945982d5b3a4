"""The stored networks and the synthetic family behind the stored optima of FLOP-constrained selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.layers import reference

__all__ = ["REFERENCE", "costs_of", "r50", "sizes_of"]

REFERENCE: dict[str, Any] = reference("flop_selection")


def _spread(runs: list[Any]) -> list[int]:
    """Write ``[value, times]`` out."""
    return [n for run in runs for n in ([run[0]] * run[1] if isinstance(run, list) else [run])]


def sizes_of(network: str) -> list[int]:
    """Weights of each layer of a stored network."""
    return _spread(REFERENCE["networks"][network]["sizes"])


def costs_of(network: str) -> list[int]:
    """Multiply-adds of one weight of each layer of a stored network."""
    return _spread(REFERENCE["networks"][network]["costs"])


def r50(p: int, seed: int = 0) -> list[Tensor]:
    """Scores of the layers of a ResNet-50 scaled to about ``p`` weights, float64; see the file of optima."""
    rng = np.random.default_rng(seed)
    scores = []
    for size in sizes_of("resnet50"):
        count = max(8, round(size * p / 25_502_912))
        scores.append(torch.from_numpy(np.square(rng.standard_normal(count) * float(size) ** -0.25)))
    return scores
