"""How long operator splitting takes, as a multiple of SparseGPT in the same process, and how much memory each needs.

    python -m benchmarks.layerwise.speed [--inputs 768] [--outputs 768] [--threads 2] [--repetitions 9]

Both solve the same problems in turn, so that whatever else the machine does burdens both; medians are compared, of
wall-clock time and of processor time of this process. Peak memory is by how much solving raises the resident memory of
a fresh process at most (Linux only).
"""

from __future__ import annotations

import argparse
import multiprocessing
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
    small = (256, 256, 512, 0)
    solver.solve(problem_of(small, structures(256, 256)[name]))  # compile and load everything first
    problem = problem_of(size, structures(*size[:2])[name])
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present
    solver.solve(problem)
    answer.put((_status("VmHWM") - before) / 1024.0)


def _status(key: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def peak_memory(solver: Solver, size: tuple[int, int, int, int], name: str, threads: int) -> float | None:
    """Return by how many MiB solving raises the memory of a fresh process, ``None`` where that cannot be told."""
    if not Path("/proc/self/clear_refs").is_file():
        return None
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_peak_memory, args=(solver, size, name, threads, answer))
    process.start()
    mebibytes = float(answer.get())
    process.join()
    return mebibytes


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else rounded(value, 3)


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
            **{f"{key}_mib": _rounded_or_none(peak_memory(s, size, name, threads)) for key, s in solvers.items()},
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
