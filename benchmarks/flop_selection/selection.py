"""Weights kept within NNZ and FLOP budgets: the exact search, the authors' golden section, SCIP and HiGHS.

    python -m benchmarks.flop_selection.selection [--sizes 2000 10000 ...] [--methods exact golden ...] [--seconds 30]

Instances are generated: the 54 layers of ResNet-50 scaled to a number of weights, scores w^2 of Gaussian weights drawn
layer by layer. Each run has a process of its own, so that its peak memory is its own; kernels are compiled beforehand
on a small instance. Results are stored one by one; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mipprune as mp
from benchmarks.common import RESULTS, ROOT, Record, command, rounded, say
from benchmarks.flop_selection.allocation import resnet50_layers
from mipprune.formulations import flop_selection
from mipprune.solvers import GoldenSection, GreedyBudget
from mipprune.structures import Budgets

FULL = 25_502_912
SIZES = (2_000, 10_000, 100_000, 1_000_000, 10_000_000, FULL)
SHARES = ((0.2, 0.2), (0.2, 0.1), (0.3, 0.1))
"""Budgets (NNZ, FLOPs); all but the first at the full size only."""
METHODS = ("select", "exact", "golden", "greedy", "scip", "highs")
LARGEST = {"golden": 10_000_000, "greedy": 1_000_000, "scip": 100_000, "highs": 100_000}
COLUMNS = (
    ("weights", "weights", ""),
    ("costs", "distinct costs", ""),
    ("nnz", "NNZ", ".2f"),
    ("flops", "FLOPs", ".2f"),
    ("method", "method", ""),
    ("value", "kept score", ".12g"),
    ("gap", "relative gap to its own bound", ".1e"),
    ("short", "short of the best bound", ".1e"),
    ("status", "status", ""),
    ("proof", "proof", ""),
    ("seconds", "s", ".3f"),
    ("peak_gib", "peak GiB", ".2f"),
)
NOTES = (
    "`select` is the oracle alone (float32 scores): mask, value and bound, finding the thresholds included. `exact` is "
    "`mp.solve(flop_selection(...))`: the same and the solution's bookkeeping (value and certificate evaluated again "
    "in float64, digest of the data). `golden` is the method of FALCON's release, restated; `greedy` ranks by score "
    "per share of the budgets. SCIP and HiGHS get the full integer program; they do not take more than 20,000 "
    "entries. `short` compares with the smallest bound of all methods on the instance. Peak memory is that of the "
    "whole process (Python, torch and the scores included). The machine was shared with other work.",
)


def scores(weights: int, seed: int = 0, kind: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return the scores of the scaled layers: squares of weights of deviation n^(-1/4), n the size before scaling."""
    rng = np.random.default_rng(seed)
    made = []
    for size in resnet50_layers()[0].tolist():
        count = max(8, round(size * weights / FULL))
        made.append(torch.from_numpy(np.square(rng.standard_normal(count) * size**-0.25)).to(kind))
    return made


def costs(distinct: int) -> list[int]:
    """Return the multiply-adds of a weight of each layer, or 54 different random costs."""
    if distinct == 54:
        return np.random.default_rng(54).permutation(np.arange(1, 13_000))[:54].tolist()
    return resnet50_layers()[1].tolist()


def one(
    method: str, weights: int, nnz: float, flops: float, distinct: int, seconds: float, threads: int
) -> dict[str, Any]:
    """Run one method in this process."""
    torch.set_num_threads(threads)
    warm = [torch.rand(60_000, generator=torch.Generator().manual_seed(0)) for _ in range(10)]
    for small in (warm, [part[:100] for part in warm]):  # compiles the kernels of both ways, counting and sorting
        if method in ("select", "exact"):
            mp.solve(flop_selection(small, list(range(1, 11)), nnz=0.2, flops=0.2))
    data, prices = scores(weights), costs(distinct)
    if method == "select":
        problem = flop_selection(data, prices, nnz=nnz, flops=flops)
        family, gain = problem.structure.supports, -problem.loss.cost
        assert isinstance(family, Budgets)
        del problem
        started = time.perf_counter()
        found = family.select(gain)
        taken = time.perf_counter() - started
        answer = {"value": found.value, "bound": found.bound, "status": "optimal", "proof": "checked"}
        answer["gap"] = (found.bound - found.value) / found.value
    else:
        solver = {
            "exact": None,
            "golden": GoldenSection(),
            "greedy": GreedyBudget(),
            "scip": mp.Scip(),
            "highs": mp.Highs(),
        }
        started = time.perf_counter()
        problem = flop_selection(data, prices, nnz=nnz, flops=flops)
        if solver[method] is not None and (reason := solver[method].rejects(problem)) is not None:
            empty = {"value": None, "bound": None, "gap": None, "proof": "none", "seconds": None, "peak_gib": None}
            return {"weights": problem.size, "status": f"not taken: {reason.split(';')[0]}", **empty}
        solution = mp.solve(
            problem, solver[method], budget=mp.Budget(seconds=seconds, gap=0.0 if method != "exact" else 1e-12)
        )
        taken = time.perf_counter() - started
        answer = {
            "value": -solution.value if solution.point is not None else None,
            "bound": None if solution.bound is None else -solution.bound,
            "gap": solution.gap,
            "status": solution.status.value,
            "proof": solution.proof.value,
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    count = sum(part.numel() for part in data)
    return {"weights": count, **answer, "seconds": rounded(taken, 4), "peak_gib": rounded(peak, 3)}


def in_process(*arguments: Any) -> dict[str, Any]:
    """Run one method in a process of its own and return its result."""
    module = "benchmarks.flop_selection.selection"
    code = f"import json, sys; from {module} import one; print(json.dumps(one(*json.loads(sys.argv[1]))))"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, json.dumps(arguments)],
        capture_output=True, text=True, cwd=ROOT.parent, check=False,
    )  # fmt: skip
    if run.returncode:
        raise RuntimeError(f"{arguments} failed:\n{run.stderr[-2000:]}")
    return dict(json.loads(run.stdout.strip().splitlines()[-1]))


def record(sizes: Sequence[int], methods: Sequence[str], seconds: float, threads: int, out: Path, name: str) -> Record:
    """Run what is missing in the record and return it."""
    options = {"sizes": None, "seconds": f"{seconds:g}", "threads": threads}
    made = Record(
        name="flop_selection.selection",
        title="FLOP-constrained selection: exact search, golden section, SCIP and HiGHS",
        instance={
            "layers": "ResNet-50, scaled",
            "seed": 0,
            "scores": "w^2, float32",
            "seconds": seconds,
            "threads": threads,
        },
        columns=COLUMNS,
        command=command("benchmarks.flop_selection.selection", options),
        notes=NOTES,
    )
    path = out / f"{name}.json"
    made = Record.open(path, made)
    for size in sizes:
        shares = SHARES if size == FULL else SHARES[:1]
        rows = [(6, *share) for share in shares] + ([(54, 0.2, 0.1)] if size <= 1_000_000 else [])
        for distinct, nnz, flops in rows:
            for method in methods:
                asked = {"size": size, "costs": distinct, "nnz": nnz, "flops": flops, "method": method}
                skipped = size > LARGEST.get(method, FULL) or (distinct == 54 and method in ("scip", "greedy"))
                if skipped or made.has(**asked):
                    continue
                result = {**asked, **in_process(method, size, nnz, flops, distinct, seconds, threads)}
                if result["value"] is None:
                    made.add(path, result)
                    say(f"{method:8s}{result['weights']:>10,d} {distinct:2d} {result['status']}")
                    continue
                best = min(
                    [r["bound"] for r in [*made.results, result] if _same(r, asked) and r["bound"] is not None],
                    default=None,
                )
                if best is not None and result["value"] is not None:
                    result["short"] = max(0.0, 1.0 - result["value"] / best)
                made.add(path, result)
                say(f"{method:8s}{result['weights']:>10,d} {distinct:2d} {result['seconds']:9.3f} s {result['value']}")
    return made


def _same(result: dict[str, Any], asked: dict[str, Any]) -> bool:
    return all(result[key] == asked[key] for key in ("size", "costs", "nnz", "flops"))


def main(arguments: Sequence[str] | None = None) -> Record:
    """Run what is missing in the record and return it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flop_selection.selection")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="weights of the instances")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=30.0, help="time limit of SCIP and HiGHS")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args(arguments)
    return record(options.sizes, options.methods, options.seconds, options.threads, options.out, "flop_selection")


def quick(data: Path | None, out: Path) -> None:
    """Run small instances; nothing is needed."""
    record((2_000,), ("exact", "golden", "highs"), 3.0, 1, out, "flop_selection_quick")


if __name__ == "__main__":
    main()
