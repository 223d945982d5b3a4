"""What the benchmark suite costs: ``python -m benchmarks.suite.overhead [--repeats 5]``.

The same runs are timed twice in turn: bare (``solver.solve`` in this process, after a run that compiles) and through a
worker process of the suite. Compared are the seconds that the suite records against the bare ones, and what a run
takes besides its recorded seconds (building the instance, judging, sending) once its worker is up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune.bench import Job
from mipprune.bench.supervisor import Worker

_JOBS = (
    Job("layerwise", {"inputs": 16, "outputs": 1, "structure": "2:4"}, 0, "scip", seconds=60.0),
    Job("layerwise", {"inputs": 32, "outputs": 2, "structure": "2:4"}, 0, "tree", seconds=60.0),
    Job("layerwise", {"inputs": 256, "outputs": 128, "structure": "0.5"}, 0, "local-search", seconds=60.0),
    Job("transposable_masks", {"scores": "gaussian", "rows": 1024, "pattern": "8:16"}, 0, "entropic", seconds=60.0),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite.overhead", description=__doc__.split(":")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    measure(options.out, options.repeats, _JOBS)


def quick(data: Path | None, out: Path) -> None:
    """One short run, for `benchmarks.run_all`."""
    measure(out, 3, [replace(_JOBS[1], seconds=20.0)])


def measure(out: Path, repeats: int, jobs: Sequence[Job]) -> None:
    """Time each job bare and through the suite, and write the record."""
    path = out / "suite_overhead.json"
    record = Record(
        name="suite.overhead",
        title="The benchmark suite: what measuring costs",
        instance={"repeats": repeats, "threads": 1},
        columns=(
            ("job", "run", "s"),
            ("bare", "bare, s", ".3f"),
            ("recorded", "recorded by the suite, s", ".3f"),
            ("ratio", "ratio", ".3f"),
            ("around", "around it, share of the run", ".2%"),
        ),
        command=command("benchmarks.suite.overhead", {"repeats": repeats}),
        notes=("Medians of runs taken in turn, bare and through the suite, on one thread.",),
    )
    torch.set_num_threads(1)
    worker = Worker()
    for job in jobs:
        problem, solver = job.problem(), job.make_solver()
        solver.solve(problem, budget=job.budget)
        worker.run(job)
        bare, recorded, around = [], [], []
        for _ in range(repeats):
            started = time.perf_counter()
            solver.solve(problem, budget=job.budget)
            bare.append(time.perf_counter() - started)
            started = time.perf_counter()
            result = worker.run(job)
            whole = time.perf_counter() - started
            assert result.seconds is not None, result.reason
            recorded.append(result.seconds)
            around.append((whole - result.seconds) / result.seconds)
        line = {
            "job": f"{job.family}: {job.solver}, {job.instance}",
            "bare": rounded(median(bare)),
            "recorded": rounded(median(recorded)),
            "ratio": rounded(median(b / a for a, b in zip(bare, recorded)), 4),
            "around": rounded(median(around), 3),
        }
        say(str(line))
        record.add(path, line)
    worker.close()


if __name__ == "__main__":
    main()
