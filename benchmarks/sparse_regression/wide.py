"""Sparse regression with very many columns: value, checked bound, seconds and memory.

    python -m benchmarks.sparse_regression.wide [--columns 100000] [--l2 0.1] [--seed 0] [--seconds 150]

REG(n, p, 10, 0.1, 10) of the L0BnB experiments, to a gap of 1 %. The certificate of a run that ends early is the tree
so far. The matrix is used as the generator leaves it, in float64, without a copy.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.sparse_regression.million import forget_peak, peak
from mipprune.bench.families.sparse_regression import correlated_regression

_COLUMNS = (
    ("columns", "columns", "d"),
    ("samples", "samples", "d"),
    ("l2", "l2", "g"),
    ("seed", "seed", "d"),
    ("value", "value", ".8g"),
    ("gap", "checked gap", ".3g"),
    ("found", "true columns found", "d"),
    ("nodes", "nodes", "d"),
    ("tangents", "tangents", "d"),
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
            instance={"support": 10, "rho": 0.1, "snr": 10.0, "gap": 0.01},
            columns=_COLUMNS,
            command=command("benchmarks.sparse_regression.wide", {"columns": "P", "l2": "L", "seed": "S"}),
            notes=("The memory is the largest of the process once the data are there; 100,000 columns take 0.8 GB.",),
        ),
    )
    keys = {"columns": options.columns, "samples": options.samples, "l2": options.l2, "seed": options.seed}
    if record.has(**keys):
        return path
    made = correlated_regression(options.samples, options.columns, 10, 0.1, 10.0, options.seed, l2=options.l2)
    loss = mp.LeastSquares(torch.from_numpy(made.x), torch.from_numpy(made.y), 2 * made.l2)
    problem = mp.Problem(loss, mp.Sparse(mp.AnySupport(), made.box, made.l0))
    gc.collect()
    forget_peak()
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
        "tangents": int(tree.point_start.numel()) - 1,
        "seconds": rounded(solution.stats.seconds or 0.0),
        "check_seconds": rounded(time.perf_counter() - started),
        "kilobytes": tree.nbytes // 1000,
        "memory": rounded(peak(), 3),
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
    made.add_argument("--l2", type=float, default=0.1)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--seconds", type=float, default=150.0)
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
