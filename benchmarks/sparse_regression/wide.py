"""Sparse regression with very many columns: value, checked bound, seconds and memory.

    python -m benchmarks.sparse_regression.wide [--samples 1000] [--columns 100000] [--l2 0.5] [--seconds 60]

The certificate of a run that ends early is the root's tangent, or the tree so far: a heuristic point with a bound.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune.bench.families.sparse_regression import correlated_regression

_COLUMNS = (
    ("columns", "columns", "d"),
    ("samples", "samples", "d"),
    ("l2", "l2", "g"),
    ("value", "value", ".8g"),
    ("gap", "checked gap", ".3g"),
    ("found", "true columns found", "d"),
    ("nodes", "nodes", "d"),
    ("seconds", "seconds", ".3g"),
    ("check_seconds", "check, seconds", ".3g"),
    ("kilobytes", "certificate, kB", "d"),
    ("memory", "memory of the process, GB", ".2g"),
    ("stop", "end", "s"),
)


def run(options: argparse.Namespace, out: Path) -> Path:
    """Run one size."""
    path = out / "sparse_regression_wide.json"
    record = Record.open(
        path,
        Record(
            name="sparse_regression.wide",
            title="Sparse regression with very many columns",
            instance={"support": 10, "rho": 0.1, "snr": 10.0, "seed": 0, "gap": 0.01},
            columns=_COLUMNS,
            command=command("benchmarks.sparse_regression.wide", {"columns": "P", "samples": "N", "l2": "L"}),
            notes=("Dense float64 columns; the memory includes the generator's copies.",),
        ),
    )
    keys = {"columns": options.columns, "samples": options.samples, "l2": options.l2}
    if record.has(**keys):
        return path
    made = correlated_regression(options.samples, options.columns, 10, 0.1, 10.0, 0, l2=options.l2)
    loss = mp.LeastSquares(torch.from_numpy(made.x), torch.from_numpy(made.y), 2 * made.l2)
    problem = mp.Problem(loss, mp.Sparse(mp.AnySupport(), made.box, made.l0))
    budget = mp.Budget(gap=0.01, seconds=options.seconds)
    solution = mp.BranchAndBound().solve(problem, budget=budget)
    started = time.perf_counter()
    checked = mp.check(problem, solution)
    tree = solution.certificate
    assert isinstance(tree, mp.SparseTree) and solution.mask is not None
    result = {
        **keys,
        "value": checked.value,
        "gap": rounded(checked.gap or 0.0),
        "found": int(solution.mask[torch.from_numpy(made.support)].sum()),
        "nodes": solution.stats.nodes,
        "seconds": rounded(solution.stats.seconds or 0.0),
        "check_seconds": rounded(time.perf_counter() - started),
        "kilobytes": tree.nbytes // 1000,
        "memory": rounded(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3),
        "stop": solution.stop.value,
    }
    record.add(path, result)
    say(str(result))
    return path


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.sparse_regression.wide")
    made.add_argument("--samples", type=int, default=1000)
    made.add_argument("--columns", type=int, default=100_000)
    made.add_argument("--l2", type=float, default=0.5)
    made.add_argument("--seconds", type=float, default=60.0)
    made.add_argument("--out", type=Path, default=RESULTS)
    return made


def quick(data: Path | None, out: Path) -> None:
    """Run a smaller size."""
    run(parser().parse_args(["--samples", "200", "--columns", "5000"]), out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    options = parser().parse_args(arguments)
    run(options, options.out)


if __name__ == "__main__":
    main()
