"""Single rows to proven optimality: the package's tree beside SCIP.

    python -m benchmarks.layerwise.single_rows [--seconds 300] [--threads 1]

The rows are those of ``tests/reference/layerwise_7_2.json``, and some wider ones. Both solvers start from the same
repaired point and have to close the gap to 1e-4; the tree's certificate is checked, SCIP's bound is its word.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune import BranchAndBound, Budget, Cardinality, Problem, Scip, Solver, check
from mipprune.formulations import layerwise
from tests.layers import make_layer, reference

WIDER = [
    {"d": 64, "sparsity": 0.75, "row": 0},
    {"d": 96, "sparsity": 0.5, "row": 0},
    {"d": 128, "sparsity": 0.5, "row": 0},
]
SOLVERS: dict[str, Solver] = {"tree": BranchAndBound(), "scip": Scip()}


def fresh(seconds: float) -> Record:
    """Return the empty record."""
    return Record(
        name="layerwise.single_rows",
        title="Single rows, at most k kept weights: proven optimal by the tree and by SCIP",
        instance={
            "rows": "tests.layers.make_layer(d, 8, 64 d, 0), k = round((1 - sparsity) d), damping 0.01",
            "gap": 1e-4,
            "seconds": seconds,
        },
        columns=(
            ("d", "inputs", "d"),
            ("sparsity", "sparsity", ""),
            ("row", "row", "d"),
            ("solver", "solver", ""),
            ("value", "OPT/c", ".6f"),
            ("gap", "gap", ".1e"),
            ("proof", "proof", ""),
            ("nodes", "nodes", "d"),
            ("seconds", "seconds", ".2f"),
            ("check_seconds", "check s", ".2f"),
        ),
        command=command("benchmarks.layerwise.single_rows", {"seconds": seconds}),
        notes=(
            "Seconds are wall-clock times on a machine that was doing other work too; the two solvers of a row ran one "
            "after the other.",
        ),
    )


def problem_of(row: dict[str, Any]) -> Problem:
    """Return one row's problem."""
    d, number = row["d"], row["row"]
    weight, gram = make_layer(d, 8, 64 * d, 0)
    return layerwise(weight[number : number + 1], gram, Cardinality(round((1 - row["sparsity"]) * d)))


def measure(row: dict[str, Any], name: str, seconds: float) -> dict[str, Any]:
    """Solve one row with one solver."""
    problem = problem_of(row)
    solution = SOLVERS[name].solve(problem, budget=Budget(seconds=seconds))
    started = time.perf_counter()
    check(problem, solution)
    spent = time.perf_counter() - started
    dense = problem.value(torch.zeros(problem.shape))
    return {
        **{key: row[key] for key in ("d", "sparsity", "row")},
        "solver": name,
        "value": rounded(solution.value / dense, 7),
        "gap": None if solution.gap is None else rounded(solution.gap, 3),
        "proof": solution.proof.value,
        "stop": solution.stop.value,
        "nodes": solution.stats.nodes,
        "seconds": rounded(solution.stats.seconds or 0.0, 3),
        "check_seconds": rounded(spent, 2) if name == "tree" else None,
    }


def run(rows: Sequence[dict[str, Any]], seconds: float, out: Path) -> None:
    """Measure what is not yet recorded."""
    path = out / "layerwise_single_rows.json"
    record = Record.open(path, fresh(seconds))
    BranchAndBound().solve(problem_of({"d": 16, "sparsity": 0.5, "row": 0}))  # compile the kernels
    for row in rows:
        for name in SOLVERS:
            keys = {key: row[key] for key in ("d", "sparsity", "row")}
            if record.has(solver=name, **keys):
                continue
            result = measure(row, name, seconds)
            record.add(path, result)
            say(f"{keys} {name}: {result['value']:.6f}, {result['nodes']} nodes, {result['seconds']:.2f} s")


def quick(data: Path | None, out: Path) -> None:
    """Run the rows with 24 inputs."""
    run([row for row in reference("layerwise_7_2")["rows"] if row["d"] == 24], 60.0, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layerwise.single_rows", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="limit for each run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    run(reference("layerwise_7_2")["rows"] + WIDER, options.seconds, options.out)


if __name__ == "__main__":
    main()
