"""Synthetic layers with correlated, heavy-tailed inputs: the generator behind every stored figure."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mipprune import Cardinality, NofM, PerRow, Supports

__all__ = ["cached_layer", "make_layer", "reference", "relative_error", "supports_of"]


def make_layer(d: int, m: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return the weights (m, d) in float32 and the Gram matrix X'X (d, d) in float64 of a synthetic layer.

    Parameters
    ----------
    d, m : int
        Inputs and outputs.
    n : int
        Calibration tokens.
    seed : int
        Of numpy's ``default_rng``; the order of the draws is part of the definition.
    """
    rng = np.random.default_rng(seed)
    scale = np.exp(0.5 * rng.standard_normal(d))
    scale[rng.choice(d, max(1, d // 100), replace=False)] *= 10.0
    rank = d // 8
    loadings = rng.standard_normal((d, rank)) / np.sqrt(rank)
    order = np.arange(1, rank + 1)
    strengths = 2.0 * np.sqrt(rank) * order**-0.5 / np.sqrt((1.0 / order).sum())
    factors = rng.standard_normal((n, rank)) * strengths
    noise = rng.standard_normal((n, d))
    inputs = (factors @ loadings.T + noise) * scale
    weight = rng.standard_t(5, (m, d)) / np.sqrt(d)
    inputs = torch.from_numpy(inputs.astype(np.float32)).double()
    return torch.from_numpy(weight.astype(np.float32)), inputs.T @ inputs


def relative_error(weight: Tensor, pruned: Tensor, gram: Tensor) -> float:
    """Return ``tr((W - What) X'X (W - What)')/tr(What X'X What')``, on the undamped Gram matrix."""
    weight = weight.double()
    delta = pruned.double().cpu() - weight
    return float(((delta @ gram) * delta).sum() / ((weight @ gram) * weight).sum())


@cache
def cached_layer(d: int, m: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return :func:`make_layer`, built once; the tensors are shared, so leave them as they are."""
    return make_layer(d, m, n, seed)


def reference(name: str) -> dict[str, Any]:
    """Return a file of stored figures, ``tests/reference/<name>.json``."""
    return json.loads((Path(__file__).parent / "reference" / f"{name}.json").read_text())


def supports_of(structure: dict[str, Any], d: int, m: int) -> Supports:
    """Return the family of supports that a reference entry names, for weights (m, d)."""
    if structure["type"] == "n_of_m":
        return NofM(structure["n"], structure["m"])
    density = 1 - structure["sparsity"]
    return Cardinality(round(density * d * m)) if structure["type"] == "layer" else PerRow(round(density * d))
