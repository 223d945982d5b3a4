"""Selection of weights within budgets on non-zeros and FLOPs: the layers of ResNet-50, scaled down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import solvers
from ...core.problem import Problem
from ...core.solver import Solver
from ...errors import InvalidProblem
from ...formulations import flop_selection
from ..peers import CVXPY
from .family import Family
from .stored import files, located, read
from .trained import layer_costs, weight_files

__all__ = ["FLOP_SELECTION", "resnet_layers"]

# Sizes and multiply-adds per weight of the 54 weighted layers of ResNet-50 for ImageNet, downsampling included.
_STAGES = ((3136, 64, 3), (784, 128, 4), (196, 256, 6), (49, 512, 3))
_WEIGHTS = 25_502_912


def resnet_layers() -> tuple[list[int], list[int]]:
    """Return the number of weights and the multiply-adds per weight of each layer of ResNet-50.

    Examples
    --------
    >>> sizes, costs = resnet_layers()
    >>> len(sizes), sum(sizes), sum(size * cost for size, cost in zip(sizes, costs))
    (54, 25502912, 4089184256)
    """
    sizes, costs = [64 * 3 * 49], [12544]
    width = 64
    before = 3136
    for area, inner, blocks in _STAGES:
        for block in range(blocks):
            sizes += [width * inner, 9 * inner * inner, 4 * inner * inner]
            costs += [before if block == 0 else area, area, area]
            if block == 0:
                sizes.append(width * 4 * inner)
                costs.append(area)
            width, before = 4 * inner, area
    return [*sizes, width * 1000], [*costs, 1]


def _scores(weights: int, seed: int, bits: int) -> tuple[list[torch.Tensor], list[int]]:
    rng = np.random.default_rng(seed)
    sizes, costs = resnet_layers()
    found = []
    for size in sizes:
        drawn = rng.standard_normal(max(8, round(size * weights / _WEIGHTS))) * size**-0.25
        found.append(torch.from_numpy(np.round(drawn * drawn * 2.0**bits) / 2.0**bits))  # the same on every machine
    return found, costs


_PATTERNS = ("flop_selection/*.npz",)


def _stored(source: str, data: Path | None) -> tuple[list[torch.Tensor], list[int]]:
    """Scores and multiply-adds per weight of each layer: squared weights of a network, or the arrays of a file."""
    path = located(data, source)
    if path.suffix == ".safetensors":
        layers = layer_costs(path).values()
        return [weight.flatten().square() for weight, _ in layers], [uses for _, uses in layers]
    found = read(path)
    names = [name.removesuffix(".scores") for name in found if name.endswith(".scores")]
    if not names or any(f"{name}.macs" not in found for name in names):
        raise InvalidProblem(f"{str(path)!r} needs arrays NAME.scores and a number NAME.macs for each layer")
    scores = [torch.from_numpy(found[f"{name}.scores"].astype(float)).flatten() for name in names]
    return scores, [int(found[f"{name}.macs"]) for name in names]


def _real(data: Path | None) -> list[dict[str, Any]]:
    return [
        {"source": source, "weights": sum(map(len, _stored(source, data)[0])), "nnz": nnz, "flops": flops}
        for source in [*files(data, _PATTERNS), *weight_files(data)]
        for nnz, flops in ((0.2, 0.2), (0.2, 0.1), (0.1, 0.2))
    ]


def _build(
    *,
    weights: int,
    nnz: float,
    flops: float,
    seed: int,
    costs: str = "resnet",
    source: str | None = None,
    data: Path | None = None,
) -> Problem:
    if source is not None:
        scores, per_weight = _stored(source, data)
        return flop_selection(scores, per_weight, nnz=nnz, flops=flops)
    scores, per_weight = _scores(weights, seed, 30)
    if costs == "distinct":  # a latency per layer: no two layers share a price
        drawn = np.random.default_rng(seed + 1).permutation(len(scores))
        per_weight = [cost * 64 + int(extra) for cost, extra in zip(per_weight, drawn)]
    elif costs != "resnet":
        raise InvalidProblem(f"costs {costs!r} are not known; choose resnet or distinct")
    return flop_selection(scores, per_weight, nnz=nnz, flops=flops)


_SOLVERS: dict[str, Callable[[], Solver]] = {
    "prefix-search": solvers.Oracle,
    "tree": solvers.BranchAndBound,
    "golden-section": solvers.GoldenSection,
    "greedy": solvers.GreedyBudget,
    "highs": solvers.Highs,
    "scip": solvers.Scip,
    **CVXPY,
}


def _grid(sizes: tuple[int, ...], shares: tuple[tuple[float, float], ...]) -> tuple[dict[str, Any], ...]:
    return tuple({"weights": size, "nnz": nnz, "flops": flops} for size in sizes for nnz, flops in shares)


FLOP_SELECTION = Family(
    name="flop_selection",
    title="Selection within NNZ and FLOP budgets",
    build=_build,
    suites={
        "quick": (*_grid((1_000, 5_000), ((0.2, 0.2),)), {"weights": 1_000, "nnz": 0.2, "flops": 0.1}),
        "full": (
            *_grid((2_000, 10_000, 100_000, 1_000_000), ((0.2, 0.1), (0.4, 0.3))),
            {"weights": 10_000, "nnz": 0.2, "flops": 0.1, "costs": "distinct"},
            {"weights": 100_000, "nnz": 0.2, "flops": 0.1, "costs": "distinct"},
        ),
    },
    tiny={"weights": 200, "nnz": 0.3, "flops": 0.3},
    solvers=_SOLVERS,
    size="weights",
    real=_real,
    layout="flop_selection/*.npz (NAME.scores, NAME.macs), mnist/ and cifar10/*.safetensors (weights of MLPNet and "
    "ResNet-20)",
)
