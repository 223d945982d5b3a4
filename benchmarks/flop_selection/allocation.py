"""Sparsities of 54 layers within FLOP, weight or latency budgets: the proven optimum, HiGHS, and dynamic programming.

    python -m benchmarks.flop_selection.allocation [--seconds 30] [--rows "energy, FLOPs" ...] [--out FOLDER]

The layers are those of ResNet-50 at 224 x 224 (25,502,912 weights, 4.09e9 multiply-adds). Everything is generated; see
`instance`. Results are stored one by one; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune.kernels.choice import minimise_dual
from mipprune.solvers.budgets.spdy import SpdyDP

LEVELS = 101
_BOTTLENECKS = ((64, 256, 3, 56), (128, 512, 4, 28), (256, 1024, 6, 14), (512, 2048, 3, 7))


@cache
def resnet50_layers() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the numbers of weights and of output positions of the 53 convolutions and the classifier, in order."""
    sizes, positions = [3 * 64 * 49], [112 * 112]
    inputs = 64
    for width, outputs, blocks, side in _BOTTLENECKS:
        for block in range(blocks):
            before = side if block or width == 64 else 2 * side  # the first 1x1 convolution precedes the stride
            for size, place in ((inputs * width, before), (9 * width * width, side), (width * outputs, side)):
                sizes.append(size)
                positions.append(place * place)
            if block == 0:
                sizes.append(inputs * outputs)
                positions.append(side * side)
            inputs = outputs
    return np.array([*sizes, 2048 * 1000]), np.array([*positions, 1])


class Tables(NamedTuple):
    """Options of all layers: keep 0, 1, ..., 100 % of the weights."""

    error: np.ndarray[Any, Any]
    """(layers, options)"""
    costs: np.ndarray[Any, Any]
    """(layers, options, resources)"""
    budgets: np.ndarray[Any, Any]
    """(resources,)"""


@cache
def pruned_energy() -> np.ndarray[Any, Any]:
    """Return the sums of the smallest squares of Gaussian weights of deviation n^(-1/4), drawn layer by layer."""
    rng = np.random.default_rng(0)
    rows = []
    for size in resnet50_layers()[0].tolist():
        squares = np.sort((rng.standard_normal(size) * size**-0.25) ** 2)
        total = np.concatenate([[0.0], np.cumsum(squares)])
        rows.append(total[size - kept(size)])
    return np.array(rows)


def kept(size: int) -> np.ndarray[Any, Any]:
    """Return the numbers of weights that the options keep."""
    return np.round(np.arange(LEVELS) / (LEVELS - 1) * size).astype(np.int64)


ROWS = {
    "energy, FLOPs": ("energy", ("flops",)),
    "energy, FLOPs and weights": ("energy", ("flops", "weights")),
    "10 % noise, FLOPs": ("noise", ("flops",)),
    "10 % noise, FLOPs and weights": ("noise", ("flops", "weights")),
    "latency staircase": ("energy", ("latency",)),
    "latency staircase and weights": ("energy", ("latency", "weights")),
}
"""The six instances: which errors, which budgets (20 % of the dense weights and multiply-adds, 35 % of the latency)."""


def instance(name: str) -> Tables:
    """Return one of the six instances of `ROWS`.

    Errors are `pruned_energy`, with noise times (1 + 0.1 g), g standard normal from seed 1, so that tables are neither
    convex nor monotone. Costs are whole numbers: weights kept, multiply-adds of the kept weights, and nanoseconds: a
    dense layer takes 50,000 and one for each thousand multiply-adds, and what is kept is rounded up to sixteenths.
    """
    errors, resources = ROWS[name]
    error = pruned_energy()
    if errors == "noise":
        error = error * (1.0 + 0.1 * np.random.default_rng(1).standard_normal(error.shape))
    sizes, positions = resnet50_layers()
    weights = np.array([kept(size) for size in sizes.tolist()]).astype(float)
    dense = np.round(5e4 + sizes * positions / 1e3)
    sixteenths = np.ceil(np.arange(LEVELS) * 16 / (LEVELS - 1))
    of = {
        "weights": weights,
        "flops": weights * positions[:, None],
        "latency": np.round(dense[:, None] * sixteenths[None] / 16),
    }
    costs = np.stack([of[resource] for resource in resources], axis=-1)
    shares = np.array([0.35 if resource == "latency" else 0.2 for resource in resources])
    return Tables(error, costs, np.floor(shares * costs[:, -1].sum(axis=0)))


COLUMNS = (
    ("row", "table and budgets", ""),
    ("method", "method", ""),
    ("value", "error", ".4f"),
    ("bound", "lower bound", ".4f"),
    ("proof", "proof", ""),
    ("gap", "gap", ".1e"),
    ("dual_gap", "gap of the multipliers alone", ".1e"),
    ("excess", "above the optimum", ".3%"),
    ("seconds", "s", ".2f"),
    ("check_seconds", "check s", ".2f"),
)
NOTES = (
    "`mp.solve` ends with a search of its own over partial choices; its bound is proven by repeating that search in "
    "float64 with a rounding allowance (`check s`), so `checked` means optimal up to about 1e-13. The gap of the "
    "multipliers alone is what the Lagrangian bound would have left. HiGHS solves the same problem as a "
    "mixed-integer program; its bound is its own word. `spdy_dp` is dynamic programming over one budget cut into "
    "10,000 buckets with costs rounded up (arXiv 2201.13096).",
)


def run(row: str, method: str, seconds: float) -> dict[str, Any]:
    """Solve one instance by one method."""
    tables = instance(row)
    problem = mp.formulations.allocation(tables.error, tables.costs, tables.budgets)
    if method == "mp.solve":
        family = problem.structure.supports  # type: ignore[attr-defined]
        mp.solve(mp.formulations.allocation(tables.error[:3], tables.costs[:3], tables.budgets))  # compiles
        before = time.perf_counter()
        solution = mp.solve(problem, budget=mp.Budget(gap=1e-9))
        spent = time.perf_counter() - before
        checked = mp.check(problem, solution)
        model, _ = family._model(-problem.loss.cost.numpy(), np.ones(family.size, dtype=bool))  # type: ignore[attr-defined]
        dual = -float(model.bounds(minimise_dual(model).multipliers).min())
        return {
            "value": solution.value,
            "bound": checked.bound,
            "proof": solution.proof.value,
            "gap": rounded((solution.value - (checked.bound or 0.0)) / solution.value, 3),
            "dual_gap": rounded((solution.value - dual) / solution.value, 3),
            "excess": 0.0,
            "seconds": rounded(spent, 3),
            "check_seconds": rounded(time.perf_counter() - before - spent, 3),
        }
    solver: Any = SpdyDP() if method == "spdy_dp" else mp.Highs(threads=1)
    before = time.perf_counter()
    solution = solver.solve(problem, budget=mp.Budget(gap=1e-9, seconds=None if method == "spdy_dp" else seconds))
    spent = time.perf_counter() - before
    bound = None if solution.claim is None else solution.claim.bound
    return {
        "value": solution.value,
        "bound": bound,
        "proof": "none" if bound is None else "claimed",
        "gap": None if bound is None else rounded(max(solution.value - bound, 0.0) / solution.value, 3),
        "seconds": rounded(spent, 3),
    }


def main(arguments: Sequence[str] | None = None) -> Record:
    """Run what is missing in the record and return it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flop_selection.allocation")
    parser.add_argument("--seconds", type=float, default=30.0, help="limit for HiGHS")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--methods", nargs="+", default=["mp.solve", "spdy_dp", "HiGHS"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args(arguments)
    path = options.out / "allocation.json"
    sizes, positions = resnet50_layers()
    fresh = Record(
        "allocation",
        "One sparsity for each of 54 layers within budgets (multiple-choice knapsack)",
        {
            "layers": len(sizes),
            "options_per_layer": LEVELS,
            "weights": int(sizes.sum()),
            "multiply_adds": int((sizes * positions).sum()),
            "budgets": "20 % of the weights and multiply-adds, 35 % of the latency",
            "seeds": {"weights": 0, "noise": 1},
            "highs_seconds": options.seconds,
        },
        COLUMNS,
        command("benchmarks.flop_selection.allocation", {"seconds": options.seconds}),
        NOTES,
    )
    record = Record.open(path, fresh)
    for row in options.rows:
        for method in options.methods:
            if record.has(row=row, method=method) or (method == "spdy_dp" and len(ROWS[row][1]) > 1):
                continue
            result = {"row": row, "method": method, **run(row, method, options.seconds)}
            best = [r["value"] for r in record.results if r["row"] == row and r["method"] == "mp.solve"]
            if best and method != "mp.solve":
                result["excess"] = rounded(result["value"] / best[0] - 1.0, 4)
            record.add(path, result)
            say(f"{row}, {method}: {result['value']:.6f}, bound {result['bound']}, {result['seconds']} s")
    return record


def quick(data: Path | None, out: Path) -> Record:
    """Run all six instances by the package's own search and by `spdy_dp`; see `benchmarks.run_all`."""
    return main(["--out", str(out), "--methods", "mp.solve", "spdy_dp"])


if __name__ == "__main__":
    main()
