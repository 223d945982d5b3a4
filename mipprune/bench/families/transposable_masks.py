"""Transposable N:M masks of score matrices with several distributions."""

from __future__ import annotations

from collections.abc import Callable
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


def _build(*, scores: str, rows: int, pattern: str, seed: int, sense: str = "exact") -> Problem:
    n, _, m = pattern.partition(":")
    return transposable_mask(_scores(scores, rows, rows, seed), TransposableNofM(int(n), int(m), sense))


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
            *_grid(64, ("2:4", "4:8", "8:16", "16:32"), ("gaussian", "t3", "columns", "integers")),
            *_grid(1024, ("2:4", "8:16", "16:32"), ("gaussian", "t3")),
        ),
    },
    tiny={"scores": "gaussian", "rows": 8, "pattern": "2:4"},
    solvers=_SOLVERS,
    size="rows",
)
