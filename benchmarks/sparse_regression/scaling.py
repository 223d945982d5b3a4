"""One tree searched by one process and by two: wall-clock time, processor time, and the same optimum.

    python -m benchmarks.sparse_regression.scaling

Each process first loads the compiled functions by a run on small instances; how long that takes is recorded beside.
Processor time tells how much more work two processes do than one, and how evenly it is shared, whatever else the
machine does at the time; wall-clock times need two free cores. Runs with one process and with two take turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.graphical_models.trees import PRICE, problem_of
from benchmarks.sparse_regression.instances import regression

REGRESSIONS = (((200, 100, 10, 0.5, 5.0, 0), 1e-4),)
"""REG(n, p, k, rho, snr, seed) and the relative gap at which to stop."""
GRAPHS = ((20, 0),)
"""Nodes and seeds of published graphs, to a gap of 1e-3 prices."""
LIMIT = 170.0


def instances(quickly: bool) -> dict[str, tuple[mp.Problem, mp.Budget]]:
    """Return by name: the instance, and when to stop."""
    if quickly:
        return {"REG(60, 40, 6, 0.7, 3.0, 2)": (regression(60, 40, 6, 0.7, 3.0, 2), mp.Budget(gap=1e-4))}
    found = {
        f"REG{made} to {gap:g}": (regression(*made), mp.Budget(seconds=LIMIT, gap=gap)) for made, gap in REGRESSIONS
    }
    for nodes, seed in GRAPHS:
        budget = mp.Budget(seconds=LIMIT, gap=0.0, absolute_gap=1e-3 * PRICE)
        found[f"graph of {nodes} nodes, seed {seed}"] = (problem_of(nodes, seed), budget)
    return found


def loaded(_: int) -> None:
    """Load the compiled functions of both kinds of trees; idle for a moment, so that each process does so once."""
    mp.BranchAndBound().solve(regression(60, 40, 6, 0.7, 3.0, 2), budget=mp.Budget(gap=1e-4))
    mp.BranchAndBound().solve(problem_of(8, 0), budget=mp.Budget(gap=0.0, absolute_gap=1e-3 * PRICE))
    time.sleep(1.0)


def used(_: int) -> tuple[int, float]:
    """Return a process and the processor time that it has used; idle for a moment, so that each is asked once."""
    time.sleep(0.5)
    return os.getpid(), time.process_time()


def measure(problem: mp.Problem, budget: mp.Budget, processes: int) -> dict[str, Any]:
    """Solve with so many processes and check the certificate; 1 means this one alone."""
    spawn = multiprocessing.get_context("spawn")
    begun = time.perf_counter()
    with ProcessPoolExecutor(processes, mp_context=spawn) if processes > 1 else nullcontext() as pool:

        def clocks() -> dict[int, float]:
            return dict([used(0), *(pool.map(used, range(processes)) if pool else [])])

        solver = mp.BranchAndBound(executor=pool, workers=processes)
        loaded(0)
        if pool is not None:
            list(pool.map(loaded, range(processes)))
        before, ready = clocks(), time.perf_counter()
        solution = solver.solve(problem, budget=budget)
        ended, after = time.perf_counter(), clocks()
    work = [seconds - before.get(process, 0.0) for process, seconds in after.items()]
    checked = mp.check(problem, solution)
    assert checked.bound is not None and isinstance(solution.certificate, mp.SparseTree)
    return {
        "processes": processes,
        "seconds": rounded(ended - ready),
        "start_seconds": rounded(ready - begun),
        "processor_seconds": rounded(sum(work)),
        "busiest_seconds": rounded(max(work)),
        "value": solution.value,
        "bound": checked.bound,
        "nodes": solution.stats.nodes,
        "leaves": solution.certificate.leaves,
        "stop": solution.stop.value,
    }


def run(out: Path, *, quickly: bool = False, processes: Sequence[int] = (1, 2)) -> None:
    """Solve and record."""
    torch.set_num_threads(1)
    fresh = Record(
        name="sparse_regression.scaling",
        title="One tree searched by one process and by two: the same optimum, certificates checked",
        instance={"limit": LIMIT, "quick": quickly},
        columns=(
            ("instance", "instance", ""),
            ("processes", "processes", ""),
            ("seconds", "seconds", ".1f"),
            ("speedup", "times as fast", ".2f"),
            ("processor_seconds", "processor seconds of all", ".1f"),
            ("busiest_seconds", "of the busiest process", ".1f"),
            ("start_seconds", "seconds to start, before", ".1f"),
            ("nodes", "nodes", ""),
            ("leaves", "leaves", ""),
            ("value", "value", ".9f"),
            ("bound", "checked bound", ".9f"),
            ("stop", "stopped by", ""),
        ),
        command=command("benchmarks.sparse_regression.scaling", {}),
        notes=(
            "Stopped at the same gap; one thread in each process. With two processes a third one, which hands out the"
            " work and makes the certificate, takes the rest of the processor seconds. Wall-clock times were taken"
            " beside a job of low priority on the same two cores.",
        ),
    )
    path = out / "sparse_regression_scaling.json"
    record = Record.open(path, fresh)
    for name, (problem, budget) in instances(quickly).items():
        for count in processes:
            if record.has(instance=name, processes=count):
                continue
            found = {"instance": name, **measure(problem, budget, count)}
            alone = next((r for r in record.results if r["instance"] == name and r["processes"] == 1), found)
            found["speedup"] = rounded(alone["seconds"] / found["seconds"], 3)
            record.add(path, found)
            say(f"{name}, {count} process(es): {found['seconds']} s, {found['nodes']} nodes, {found['stop']}")


def quick(data: Path | None, out: Path) -> None:
    """One small instance."""
    run(out, quickly=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    run(options.out)


if __name__ == "__main__":
    main()
