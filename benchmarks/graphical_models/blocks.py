"""Graphs of blocks with next to nothing between them: by blocks, and as one tree.

    python -m benchmarks.graphical_models.blocks [--seconds 60]

Each block has the sample covariance of ten times as many samples as nodes; between blocks there are random covariances
of standard deviation 0.004, as of groups measured on many common samples.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.graphical_models.generator import draw

PRICE = 0.05
NOISE = 0.004
BLOCKS = 5
SIZES = (10,)


def problem_of(nodes: int, seed: int) -> mp.Problem:
    """Return five blocks of so many nodes; l0 = l2 = 0.05, the box from the truth, not scaled."""
    size, rng, box = BLOCKS * nodes, np.random.default_rng(seed), 0.0
    covariance = np.triu(NOISE * rng.standard_normal((size, size)), 1)
    covariance += covariance.T
    for number in range(BLOCKS):
        samples, theta = draw("uniform", nodes, 10 * nodes, BLOCKS * seed + number)
        place = slice(number * nodes, (number + 1) * nodes)
        covariance[place, place] = np.cov(samples.T, bias=True)
        box = max(box, float(np.abs(theta).max()))
    return mp.formulations.graphical_model(covariance, l0=PRICE, l2=PRICE, box=box, standardize=False, covariance=True)


def measure(nodes: int, seed: int, seconds: float, way: str) -> dict[str, Any]:
    """Solve, check the certificate, and return one line of the table."""
    problem = problem_of(nodes, seed)
    budget = mp.Budget(seconds=seconds, gap=0.0, absolute_gap=0.02 * PRICE)
    with tempfile.TemporaryDirectory() as folder:
        # a run that can be resumed is one tree
        solver = mp.BranchAndBound(checkpoint=f"{folder}/state") if way == "one tree" else mp.BranchAndBound()
        solution = solver.solve(problem, budget=budget)
    bound = mp.check(problem, solution).bound
    certificate = solution.certificate
    assert bound is not None and isinstance(certificate, mp.SparseTree | mp.GraphBlocks)
    return {
        "blocks": BLOCKS,
        "nodes_each": nodes,
        "seed": seed,
        "way": way,
        "value": solution.value,
        "bound": bound,
        "gap": solution.value - bound,
        "edges_gap": (solution.value - bound) / PRICE,
        "edges": int(solution.mask.sum()) if solution.mask is not None else None,
        "tree_nodes": solution.stats.nodes,
        "kilobytes": rounded(certificate.nbytes / 1000, 3),
        "stop": solution.stop.value,
        "seconds": rounded(solution.stats.seconds or 0.0),
    }


def run(seconds: float, out: Path, sizes: Sequence[int] = SIZES, seeds: int = 2) -> None:
    """Solve and record."""
    fresh = Record(
        name="graphical_models.blocks",
        title="Graphs of five blocks, proven block by block and as one tree, certificates checked",
        instance={"generator": "uniform(p, 10 p) in each block", "noise": NOISE, "price": PRICE, "seconds": seconds},
        columns=(
            ("blocks", "blocks", ""),
            ("nodes_each", "nodes in each", ""),
            ("seed", "seed", ""),
            ("way", "proven", ""),
            ("value", "value", ".6f"),
            ("bound", "checked bound", ".6f"),
            ("edges_gap", "gap / l0", ".3f"),
            ("edges", "edges", ""),
            ("tree_nodes", "tree nodes", ""),
            ("stop", "stopped by", ""),
            ("seconds", "seconds", ".1f"),
        ),
        command=command("benchmarks.graphical_models.blocks", {"seconds": seconds}),
        notes=(
            "Stopped at a gap of 0.02 prices of one edge, or at the limit. Other work ran on the same two cores at the"
            " time, so that the seconds are too many; both ways had the same limit.",
        ),
    )
    path = out / "graphical_models_blocks.json"
    record = Record.open(path, fresh)
    mp.solve(problem_of(4, 1), mp.BranchAndBound(), budget=mp.Budget(seconds=5.0))
    for nodes in sizes:
        for seed in range(seeds):
            for way in ("by blocks", "one tree"):
                if not record.has(nodes_each=nodes, seed=seed, way=way):
                    record.add(path, measure(nodes, seed, seconds, way))
                    last = record.results[-1]
                    say(f"5 x {nodes}, seed {seed}, {way}: gap {last['edges_gap']:.3f} prices, {last['seconds']} s")


def quick(data: Path | None, out: Path) -> None:
    """Small blocks and one seed."""
    run(5.0, out, sizes=(6,), seeds=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of each run")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    run(options.seconds, options.out)


if __name__ == "__main__":
    main()
