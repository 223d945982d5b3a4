"""Whole layers under N:M, proven row by row: the tree on each row beside the relaxation of the whole.

    python -m benchmarks.layerwise.whole_layers [--seconds 60] [--threads 1]

Rows of a layer share the inputs and nothing else once the budget is one of each group or row, so that their proofs add
up. ``certify`` is the point of ALPS with the bound of the relaxation; the tree starts anew.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune import ADMM, BranchAndBound, Budget, NofM, Problem, Solution, certify, check
from mipprune.formulations import layerwise
from tests.layers import make_layer

OUTPUTS = 16
SIZES = (16, 24, 32, 48, 64)
PATTERNS = ((2, 4), (4, 8))


def fresh(seconds: float) -> Record:
    """Return the empty record."""
    return Record(
        name="layerwise.whole_layers",
        title="Whole layers under N:M: ALPS with the relaxation's bound, and a tree for each row",
        instance={
            "layers": f"tests.layers.make_layer(d, {OUTPUTS}, 64 d, 0), damping 0.01",
            "gap": 1e-4,
            "seconds": seconds,
        },
        columns=(
            ("d", "inputs", "d"),
            ("pattern", "N:M", ""),
            ("method", "method", ""),
            ("value", "value/dense", ".6f"),
            ("gap", "checked gap", ".2e"),
            ("status", "status", ""),
            ("nodes", "nodes", "d"),
            ("seconds", "seconds", ".2f"),
            ("check_seconds", "check s", ".2f"),
        ),
        command=command("benchmarks.layerwise.whole_layers", {"seconds": seconds}),
    )


def problem_of(d: int, pattern: tuple[int, int]) -> Problem:
    """Return one layer's problem."""
    weight, gram = make_layer(d, OUTPUTS, 64 * d, 0)
    return layerwise(weight, gram, NofM(*pattern))


def measure(problem: Problem, method: str, seconds: float) -> dict[str, Any]:
    """Solve one layer by one method."""
    budget = Budget(seconds=seconds)
    started = time.perf_counter()
    solution: Solution
    if method == "tree":
        solution = BranchAndBound().solve(problem, budget=budget)
    else:
        solution = certify(problem, ADMM().solve(problem, budget=budget), budget=budget)
    spent = time.perf_counter() - started
    started = time.perf_counter()
    checked = check(problem, solution)
    return {
        "value": rounded(checked.value / problem.value(torch.zeros(problem.shape)), 7),
        "gap": rounded(checked.gap or 0.0),
        "status": solution.status.value,
        "nodes": solution.stats.nodes,
        "seconds": rounded(spent),
        "check_seconds": rounded(time.perf_counter() - started),
    }


def run(options: argparse.Namespace, out: Path) -> Path:
    """Run every layer with both methods."""
    torch.set_num_threads(options.threads)
    path = out / "layerwise_whole_layers.json"
    record = Record.open(path, fresh(options.seconds))
    for d in options.sizes:
        for n, m in PATTERNS:
            for method in ("certify", "tree"):
                keys = {"d": d, "pattern": f"{n}:{m}", "method": method}
                if not record.has(**keys):
                    record.add(path, {**keys, **measure(problem_of(d, (n, m)), method, options.seconds)})
                    say(str(record.results[-1]))
    return path


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.layerwise.whole_layers", description=__doc__)
    made.add_argument("--seconds", type=float, default=60.0, help="for each layer")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="inputs")
    made.add_argument("--out", type=Path, default=RESULTS)
    return made


def quick(data: Path | None, out: Path) -> Path:
    """Run the smallest layer."""
    return run(parser().parse_args(["--seconds", "20", "--sizes", "16"]), out)


def main(arguments: Sequence[str] | None = None) -> Path:
    """Run from the command line."""
    options = parser().parse_args(arguments)
    return run(options, options.out)


if __name__ == "__main__":
    main()
