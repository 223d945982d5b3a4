"""Transposable N:M masks of score matrices with several distributions."""

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
from ...formulations import transposable_mask
from ...structures import TransposableNofM
from ..peers import CVXPY
from .family import Family
from .stored import files, located, read

__all__ = ["TRANSPOSABLE_MASKS"]


def _scores(kind: str, rows: int, columns: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        drawn = rng.standard_normal((rows, columns))
    elif kind == "t3":
        drawn = rng.standard_t(3, (rows, columns))
    elif kind == "columns":  # activations with outlier channels
        drawn = rng.standard_normal((rows, columns)) * np.exp(rng.standard_normal(columns))
    elif kind == "integers":  # ties everywhere
        drawn = rng.integers(0, 17, (rows, columns)).astype(float)
    else:
        raise InvalidProblem(f"scores {kind!r} are not known; choose gaussian, t3, columns or integers")
    return torch.from_numpy(np.round(np.abs(drawn) * 65536.0) / 65536.0)  # the same on every machine


_PATTERNS = (
    *("transposable_masks/*.npz", "transposable_masks/*.safetensors", "*/*.gguf"),
    *("mnist/*.safetensors", "cifar10/*.safetensors"),
)
_MASKS = ("2:4", "8:16", "16:32")
_MATRICES = 4  # of one file


def _matrices(path: Path) -> dict[str, torch.Tensor]:
    """The largest matrices of a file that take one of the patterns, by name; kernels of convolutions are flattened."""
    named: dict[str, np.ndarray[Any, Any]]
    if path.suffix == ".gguf":
        try:
            import gguf
        except ImportError as error:
            raise InvalidProblem(f"{str(path)!r} needs the package gguf: pip install 'mipprune[hf]'") from error
        blocks = [t for t in gguf.GGUFReader(path).tensors if t.name.startswith("blk.0.") and len(t.shape) == 2]
        named = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in blocks}
    else:
        named = read(path)
    found = {}
    for name, array in named.items():
        if array.ndim >= 2:
            matrix = torch.from_numpy(np.array(array, dtype=float)).flatten(1)
            if _fitting(matrix):
                found[name] = matrix
    return dict(sorted(found.items(), key=lambda item: -item[1].numel())[:_MATRICES])


def _fitting(matrix: torch.Tensor) -> list[str]:
    sizes = [(pattern, int(pattern.partition(":")[2])) for pattern in _MASKS]
    return [pattern for pattern, size in sizes if all(length % size == 0 for length in matrix.shape)]


def _real(data: Path | None) -> list[dict[str, Any]]:
    return [
        {"source": source, "scores": name, "rows": len(matrix), "pattern": pattern}
        for source in files(data, _PATTERNS)
        for name, matrix in _matrices(located(data, source)).items()
        for pattern in _fitting(matrix)
    ]


def _build(
    *,
    scores: str,
    rows: int,
    pattern: str,
    seed: int,
    sense: str = "exact",
    source: str | None = None,
    data: Path | None = None,
) -> Problem:
    n, _, m = pattern.partition(":")
    if source is None:
        matrix = _scores(scores, rows, rows, seed)
    else:
        found = _matrices(located(data, source))
        if scores not in found:
            raise InvalidProblem(f"{source!r} has no matrix {scores!r} that fits; it has {', '.join(found) or 'none'}")
        matrix = found[scores].abs()
    return transposable_mask(matrix, TransposableNofM(int(n), int(m), sense))


def _grid(rows: int, patterns: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    return tuple({"scores": kind, "rows": rows, "pattern": pattern} for pattern in patterns for kind in kinds)


_SOLVERS: dict[str, Callable[[], Solver]] = {
    "exact-sweeps": solvers.Oracle,
    "fast-sweeps": solvers.SweepMask,
    "patterns": solvers.PatternMask,
    "entropic": solvers.EntropicMask,
    "two-approximation": solvers.TwoApproximationMask,
    "greedy": solvers.GreedyMask,
    "bi-nm": solvers.BiNMMask,
    "random": solvers.RandomMask,
    "highs": solvers.Highs,
    "scip": solvers.Scip,
    **CVXPY,
}

TRANSPOSABLE_MASKS = Family(
    name="transposable_masks",
    title="Transposable N:M masks",
    build=_build,
    suites={
        "quick": _grid(32, ("2:4", "8:16"), ("gaussian", "integers")),
        "full": (
            *_grid(32, ("2:4", "8:16", "16:32"), ("gaussian", "integers")),
            *_grid(128, ("4:8", "8:16", "16:32"), ("t3", "columns")),
            *_grid(1024, ("2:4", "16:32"), ("gaussian",)),
        ),
    },
    tiny={"scores": "gaussian", "rows": 8, "pattern": "2:4"},
    solvers=_SOLVERS,
    size="rows",
    real=_real,
    layout="transposable_masks/*.npz, *.safetensors or *.gguf (matrices of weights), mnist/ and cifar10/*.safetensors, "
    "*/*.gguf",
)
