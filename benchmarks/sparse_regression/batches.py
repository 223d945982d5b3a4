"""Nodes of a regression tree relaxed one by one by compiled descent, and many at a time in torch.

    python -m benchmarks.sparse_regression.batches [--device cuda]

Each run ends after the same number of nodes; intervals are left alone, so that relaxations take most of the time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.sparse_regression.instances import regression

INSTANCES = ((200, 400, 8, 0.3, 5.0, 1), (500, 1000, 10, 0.3, 5.0, 0))
BATCHES = (1, 16, 64, 256)


def run(out: Path, device: str, nodes: int, repeats: int) -> None:
    """Search and record."""
    fresh = Record(
        name="sparse_regression.batches",
        title="Nodes of a tree relaxed one by one and many at a time: seconds for the same number of nodes",
        instance={"instances": [list(instance) for instance in INSTANCES], "nodes": nodes, "repeats": repeats},
        columns=(
            ("instance", "instance", "s"),
            ("device", "device", "s"),
            ("batch", "nodes at a time", "d"),
            ("seconds", "median seconds", ".3g"),
            ("milliseconds", "ms for a node", ".3g"),
            ("ratio", "against one by one", ".3g"),
            ("bound", "checked bound", ".7g"),
        ),
        command=command("benchmarks.sparse_regression.batches", {"device": device}),
        notes=("One thread on a CPU; interleaved runs after one that compiles. No intervals are narrowed.",),
    )
    path = out / f"sparse_regression_batches_{device}.json"
    record = Record.open(path, fresh)
    torch.set_num_threads(1)
    budget = mp.Budget(gap=1e-3, nodes=nodes)
    for instance in INSTANCES:
        name = f"REG{instance}"
        if record.has(instance=name, batch=BATCHES[-1]):
            continue
        problem = regression(*instance).to(device=device)
        took: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        bounds = {}
        for repeat in range(repeats + 1):
            for batch in BATCHES:
                solution = mp.BranchAndBound(batch=batch, intervals=False).solve(problem, budget=budget)
                bounds[batch] = mp.check(problem, solution).bound
                if repeat:
                    took[batch].append(solution.stats.seconds or 0.0)
        alone = statistics.median(took[1])
        for batch in BATCHES:
            seconds = statistics.median(took[batch])
            found = {"seconds": rounded(seconds), "milliseconds": rounded(1e3 * seconds / nodes)}
            found |= {"ratio": rounded(seconds / alone), "bound": bounds[batch]}
            record.add(path, {"instance": name, "device": device, "batch": batch, **found})
            say(f"{name}, {batch} at a time: {found}")


def quick(data: Path | None, out: Path) -> None:
    """Few nodes."""
    run(out, "cpu", 32, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    run(options.out, options.device, options.nodes, options.repeats)


if __name__ == "__main__":
    main()
