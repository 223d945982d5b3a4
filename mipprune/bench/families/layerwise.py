"""Layer-wise pruning: synthetic layers with correlated, heavy-tailed inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import solvers
from ...core.problem import Problem
from ...core.solver import Solver
from ...core.structure import Supports
from ...errors import InvalidProblem
from ...formulations import layerwise
from ...structures import Cardinality, NofM
from ..peers import CVXPY
from .family import Family
from .stored import files, located, read
from .trained import trained_layer, weight_files

__all__ = ["LAYERWISE", "correlated_layer"]


def correlated_layer(inputs: int, outputs: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights (outputs, inputs) and the Gram matrix (inputs, inputs) of a layer with a spectrum like real ones.

    Parameters
    ----------
    inputs, outputs, tokens : int
    seed : int
        Of numpy's ``default_rng``; the order of the draws is part of the definition.

    Notes
    -----
    The inputs have ``inputs // 8`` common factors of decaying strength, unit noise, log-normal scales, and one input in
    a hundred that is ten times as large; the weights follow Student's t with 5 degrees of freedom. Inputs are rounded
    to multiples of 1/256 and weights to multiples of 2^-16, so that the Gram matrix is exact in float64 and the same
    on every machine.
    """
    rng = np.random.default_rng(seed)
    scale = np.exp(0.5 * rng.standard_normal(inputs))
    scale[rng.choice(inputs, max(1, inputs // 100), replace=False)] *= 10.0
    rank = max(1, inputs // 8)
    loadings = rng.standard_normal((inputs, rank)) / np.sqrt(rank)
    order = np.arange(1, rank + 1)
    strengths = 2.0 * np.sqrt(rank) * order**-0.5 / np.sqrt((1.0 / order).sum())
    factors = rng.standard_normal((tokens, rank)) * strengths
    x = (factors @ loadings.T + rng.standard_normal((tokens, inputs))) * scale
    weight = rng.standard_t(5, (outputs, inputs)) / np.sqrt(inputs)
    data = torch.from_numpy(np.round(x * 256.0) / 256.0)
    return torch.from_numpy(np.round(weight * 65536.0) / 65536.0), data.T @ data


def _structure(text: str, inputs: int, outputs: int) -> Supports:
    n, colon, m = text.partition(":")
    return NofM(int(n), int(m)) if colon else Cardinality(round(float(text) * inputs * outputs))


_PATTERNS = ("layerwise/*.npz", "layerwise/*.safetensors")
_LAYERS = {"mnist": ("fc2", "fc3"), "cifar10": ("layer1.0.conv1", "layer3.0.conv2")}


def _stored(source: str, layer: str | None, data: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (outputs, inputs) and Gram matrix of a file, or of a layer of a trained network."""
    path = located(data, source)
    if layer is not None:
        return trained_layer(path, layer)
    found = {
        key: torch.from_numpy(array.astype(float)) for key, array in read(path, "weight", "gram", "inputs").items()
    }
    if "weight" not in found or not {"gram", "inputs"} & found.keys():
        raise InvalidProblem(
            f"{str(path)!r} needs arrays weight (outputs, inputs), and gram (inputs, inputs) or inputs (tokens, inputs)"
        )
    gram = found["gram"] if "gram" in found else found["inputs"].T @ found["inputs"]
    return found["weight"].flatten(1), gram


def _real(data: Path | None) -> list[dict[str, Any]]:
    layers: list[tuple[str, str | None]] = [(source, None) for source in files(data, _PATTERNS)]
    for source in weight_files(data):
        layers += [(source, name) for name in _LAYERS[source.partition("/")[0]]]
    found: list[dict[str, Any]] = []
    for source, name in layers:
        outputs, inputs = _stored(source, name, data)[0].shape
        which = {"source": source, **({} if name is None else {"layer": name})}
        for rows in sorted({1, outputs}):
            patterns = ("0.5", "2:4") if inputs % 4 == 0 else ("0.5",)
            found += [{**which, "inputs": inputs, "outputs": rows, "structure": pattern} for pattern in patterns]
    return found


def _build(
    *,
    inputs: int,
    outputs: int,
    structure: str,
    seed: int,
    damping: float = 0.01,
    source: str | None = None,
    layer: str | None = None,
    data: Path | None = None,
) -> Problem:
    if source is None:
        weight, gram = correlated_layer(inputs, outputs, 2 * inputs, seed)
    else:
        weight, gram = _stored(source, layer, data)
        if weight.shape[1] != inputs or len(weight) < outputs:
            raise InvalidProblem(f"{source!r} has weights of shape {tuple(weight.shape)}, not {(outputs, inputs)}")
        weight = weight[:outputs].contiguous()
    return layerwise(weight, gram, _structure(structure, inputs, outputs), damping=damping)


def _grid(sizes: tuple[tuple[int, int], ...], structures: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    return tuple({"inputs": i, "outputs": o, "structure": s} for i, o in sizes for s in structures)


_SOLVERS: dict[str, Callable[[], Solver]] = {
    "tree": solvers.BranchAndBound,
    "admm": solvers.ADMM,
    "local-search": solvers.LocalSearch,
    "sparsegpt": solvers.SparseGPT,
    "wanda": solvers.Wanda,
    "magnitude": solvers.Magnitude,
    "scip": solvers.Scip,
    "highs": solvers.Highs,
    **CVXPY,
}

LAYERWISE = Family(
    name="layerwise",
    title="Layer-wise pruning",
    build=_build,
    suites={
        "quick": _grid(((16, 1), (24, 2)), ("0.5", "2:4")),
        "full": _grid(((16, 1), (24, 1), (32, 2), (64, 64), (256, 128)), ("0.5", "2:4")),
    },
    tiny={"inputs": 8, "outputs": 1, "structure": "2:4"},
    solvers=_SOLVERS,
    size="inputs",
    real=_real,
    layout="layerwise/*.npz or *.safetensors (weight, and gram or inputs), mnist/ and cifar10/ (*.safetensors: "
    "trained weights of MLPNet and ResNet-20; train*.npz: images)",
)
