"""How long operator splitting takes, as a multiple of SparseGPT in the same process, and how much memory each needs.

    python -m benchmarks.layerwise.speed [--inputs 768] [--outputs 768] [--threads 2] [--repetitions 9]

Both solve the same problems in turn, so that whatever else the machine does burdens both; medians are compared, of
wall-clock time and of processor time of this process. Peak memory is that of a fresh process, less what the problem
itself had needed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune import ADMM, Cardinality, NofM, Problem, Solver, SparseGPT, Supports
from mipprune.formulations import layerwise
from tests.layers import cached_layer

_TARGETS = {"70 % of the layer": 12.0, "2:4": 5.3}  # multiples of SparseGPT to stay below


def structures(d: int, m: int) -> dict[str, Supports]:
    """Return what is measured."""
    return {"70 % of the layer": Cardinality(round(0.3 * d * m)), "2:4": NofM(2, 4)}


def problem_of(size: tuple[int, int, int, int], supports: Supports) -> Problem:
    """Build a problem with everything that solvers share already computed."""
    problem = layerwise(*cached_layer(*size), supports)
    assert problem.fingerprint and problem.reference.loss.scale > 0
    return problem


def times(solver: Solver, problem: Problem) -> tuple[float, float]:
    """Return wall-clock and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    solver.solve(problem)
    return time.perf_counter() - wall, time.process_time() - processor


def _peak_memory(solver: Solver, size: tuple[int, int, int, int], name: str, threads: int, answer: Any) -> None:
    torch.set_num_threads(threads)
    small = (64, 64, 256, 0)
    solver.solve(problem_of(small, structures(64, 64)[name]))  # compile and load everything first
    problem = problem_of(size, structures(*size[:2])[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    solver.solve(problem)
    answer.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024.0)


def peak_memory(solver: Solver, size: tuple[int, int, int, int], name: str, threads: int) -> float:
    """Return by how many MiB solving raises the peak memory of a fresh process."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peak_memory, args=(solver, size, name, threads, answer))
    process.start()
    mebibytes = float(answer.get())
    process.join()
    return mebibytes


def run(size: tuple[int, int, int, int], threads: int, repetitions: int, out: Path) -> None:
    """Measure and record one size."""
    torch.set_num_threads(threads)
    d, m, n, seed = size
    fresh = Record(
        name="layerwise.speed",
        title=f"Operator splitting (ADMM) against SparseGPT, {d} inputs and {m} outputs, {threads} thread(s)",
        instance={"layer": f"synthetic, tests.layers.make_layer({d}, {m}, {n}, {seed})", "repetitions": repetitions},
        columns=(
            ("structure", "structure", ""),
            ("sparsegpt_seconds", "SparseGPT, s", ".3f"),
            ("admm_seconds", "ADMM, s", ".3f"),
            ("ratio", "ratio", ".2f"),
            ("processor_ratio", "ratio of processor times", ".2f"),
            ("target", "ratio to stay below", ".1f"),
            ("sparsegpt_mib", "SparseGPT, MiB", ".0f"),
            ("admm_mib", "ADMM, MiB", ".0f"),
        ),
        command=command(
            "benchmarks.layerwise.speed",
            {"inputs": d, "outputs": m, "threads": threads, "repetitions": repetitions},
        ),
        notes=("Medians of runs in turn within one process, the assessment of the solution in float64 included.",),
    )
    path = out / f"layerwise_speed_{d}x{m}_{threads}.json"
    record = Record.open(path, fresh)
    for name, supports in structures(d, m).items():
        if record.has(structure=name):
            continue
        problem = problem_of(size, supports)
        solvers: dict[str, Solver] = {"sparsegpt": SparseGPT(), "admm": ADMM()}
        taken: dict[str, list[tuple[float, float]]] = {key: [] for key in solvers}
        for repetition in range(repetitions + 1):
            for key, solver in solvers.items():
                pair = times(solver, problem)
                taken[key] += [pair] if repetition else []  # the first round compiles kernels
        wall, processor = (
            {key: statistics.median(pair[i] for pair in pairs) for key, pairs in taken.items()} for i in (0, 1)
        )
        result = {
            "structure": name,
            "sparsegpt_seconds": rounded(wall["sparsegpt"], 3),
            "admm_seconds": rounded(wall["admm"], 3),
            "ratio": rounded(wall["admm"] / wall["sparsegpt"], 3),
            "sparsegpt_processor_seconds": rounded(processor["sparsegpt"], 3),
            "admm_processor_seconds": rounded(processor["admm"], 3),
            "processor_ratio": rounded(processor["admm"] / processor["sparsegpt"], 3),
            "target": _TARGETS[name],
            "sparsegpt_mib": rounded(peak_memory(solvers["sparsegpt"], size, name, threads), 3),
            "admm_mib": rounded(peak_memory(solvers["admm"], size, name, threads), 3),
        }
        record.add(path, result)
        say(f"{name}: ratio {result['ratio']}, of processor times {result['processor_ratio']}")


def quick(data: Path | None, out: Path) -> None:
    """Run a smaller layer a few times."""
    run((512, 512, 1024, 0), 1, 3, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.layerwise.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=768)
    parser.add_argument("--outputs", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    size = (options.inputs, options.outputs, options.tokens, 0)
    run(size, options.threads, options.repetitions, options.out)


if __name__ == "__main__":
    main()
