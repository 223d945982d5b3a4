"""Certified gaps of whole layers: how far ALPS, and ALPS improved by swaps, can be from the optimum.

    python -m benchmarks.layerwise.certificates [--threads 1]

The layer is the one of ``tests/reference/layerwise_7_5.json`` with 768 inputs and outputs. ``bound/ALPS`` divides by
the damped error of the published ALPS code, so that it measures the bound alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune import ADMM, Budget, Cardinality, NofM, Supports, certify, check
from mipprune.formulations import layerwise
from tests.layers import cached_layer

D = 768
# Damped errors of the published code, layer-wise page 7.3.
CASES: dict[str, tuple[Supports, float]] = {
    "50 % of the layer": (Cardinality(round(0.5 * D * D)), 0.002697446),
    "70 % of the layer": (Cardinality(round(0.3 * D * D)), 0.009601526),
    "90 % of the layer": (Cardinality(round(0.1 * D * D)), 0.038473087),
    "2:4": (NofM(2, 4), 0.006109367),
}


def fresh(threads: int) -> Record:
    """Return the empty record."""
    return Record(
        name="layerwise.certificates",
        title=f"One layer, {D} x {D}: certified gap of ALPS",
        instance={
            "layer": f"synthetic, tests.layers.make_layer({D}, {D}, 4096, 0), damping 0.01",
            "threads": threads,
            "certify": "defaults (5 split steps of 30 iterations)",
        },
        columns=(
            ("structure", "structure", ""),
            ("value", "value/c", ".6g"),
            ("bound", "bound/c", ".6g"),
            ("gap", "certified gap", ".1%"),
            ("bound_over_published", "bound/ALPS", ".4f"),
            ("first_bound_over_published", "first split", ".4f"),
            ("solve_seconds", "ALPS s", ".2f"),
            ("certify_seconds", "certify s", ".1f"),
            ("check_seconds", "check s", ".1f"),
        ),
        command=command("benchmarks.layerwise.certificates", {"threads": threads}),
        notes=(
            "c is the damped value of pruning everything. The gap is (value - bound)/value; how much of it is the "
            "heuristic's and how much the relaxation's is unknown.",
        ),
    )


def measure(name: str) -> dict[str, Any]:
    """Solve, certify and check one structure."""
    supports, published = CASES[name]
    problem = layerwise(*cached_layer(D, D, 4096, 0), supports)
    dense = problem.value(torch.zeros(problem.shape))
    solution = ADMM().solve(problem)
    bounds: list[float] = []
    started = time.perf_counter()
    certified = certify(
        problem, solution, budget=Budget(seconds=600.0), progress=lambda _s, _v, bound: bounds.append(bound or 0.0)
    )
    spent = time.perf_counter() - started
    started = time.perf_counter()
    check(problem, certified)
    assert certified.bound is not None and certified.gap is not None
    return {
        "structure": name,
        "value": rounded(certified.value / dense, 7),
        "bound": rounded(certified.bound / dense, 7),
        "gap": rounded(certified.gap, 4),
        "bound_over_published": rounded(certified.bound / dense / published, 5),
        "first_bound_over_published": rounded(bounds[0] / dense / published, 5),
        "solve_seconds": rounded(solution.stats.seconds or 0.0, 3),
        "certify_seconds": rounded(spent, 3),
        "check_seconds": rounded(time.perf_counter() - started, 2),
    }


def run(names: Sequence[str], threads: int, out: Path) -> None:
    """Measure what is not yet recorded."""
    path = out / "layerwise_certificates.json"
    record = Record.open(path, fresh(threads))
    warm = layerwise(*cached_layer(256, 256, 1024, 0), NofM(2, 4))
    certify(warm, ADMM().solve(warm), splits=1, iterations=2)  # compile the kernels
    for name in names:
        if record.has(structure=name):
            continue
        result = measure(name)
        record.add(path, result)
        say(f"{name}: bound/ALPS {result['bound_over_published']:.4f}, {result['certify_seconds']:.1f} s")


def quick(data: Path | None, out: Path) -> None:
    """Run the two usual structures."""
    run(["70 % of the layer", "2:4"], torch.get_num_threads(), out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layerwise.certificates", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    run(list(CASES), options.threads, options.out)


if __name__ == "__main__":
    main()
