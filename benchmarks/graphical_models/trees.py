"""Published instances by trees: optima up to 12 nodes, gaps at 20 nodes over seeds, and a ladder up to 100 nodes.

    python -m benchmarks.graphical_models.trees [--seconds 60]

Before each timed run the compiled functions are loaded by a run on a small instance.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.graphical_models.generator import draw

PRICE = 0.05
SMALL = (6, 8, 10, 12)
LADDER = (30, 50, 100)


def problem_of(p: int, seed: int) -> mp.Problem:
    """Return the published instance: l0 = l2 = 0.05, the box from the truth, data centred and not scaled."""
    samples, theta = draw("uniform", p, 10 * p, seed)
    box = float(np.abs(theta).max())
    return mp.formulations.graphical_model(samples, l0=PRICE, l2=PRICE, box=box, standardize=False)


def measure(p: int, seed: int, seconds: float, gap: float) -> dict[str, Any]:
    """Solve, check the certificate, and return one line of the table."""
    problem = problem_of(p, seed)
    solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(seconds=seconds, gap=0.0, absolute_gap=gap))
    bound = mp.check(problem, solution).bound
    assert bound is not None
    trace = [(at, value - low) for at, value, low in solution.stats.trace if value is not None and low is not None]
    return {
        "p": p,
        "seed": seed,
        "limit": seconds,
        "value": solution.value,
        "bound": bound,
        "gap": solution.value - bound,
        "edges_gap": (solution.value - bound) / PRICE,
        "first_gap": trace[0][1] if trace else None,
        "below_0_2": next((at for at, gap_then in trace if gap_then < 0.2), None),
        "edges": int(solution.mask.sum()),
        "nodes": solution.stats.nodes,
        "certificate_nodes": len(solution.certificate),
        "certificate_bytes": solution.certificate.nbytes,
        "stop": solution.stop.value,
        "seconds": rounded(solution.stats.seconds or 0.0),
    }


def run(
    seconds: float, out: Path, small: Sequence[int] = SMALL, seeds: int = 5, ladder: Sequence[int] = LADDER
) -> None:
    """Solve and record."""
    fresh = Record(
        name="graphical_models.trees",
        title="Graphical models: published instances by branch and bound, certificates checked",
        instance={"generator": "uniform(p, 10 p), s = 3, condition 2", "price": PRICE, "seconds": seconds},
        columns=(
            ("p", "nodes p", ""),
            ("seed", "seed", ""),
            ("value", "value", ".6f"),
            ("bound", "checked bound", ".6f"),
            ("gap", "gap", ".2e"),
            ("edges_gap", "gap / l0", ".3f"),
            ("first_gap", "gap at the root", ".3f"),
            ("below_0_2", "seconds to gap < 0.2", ".2f"),
            ("edges", "edges", ""),
            ("nodes", "tree nodes", ""),
            ("stop", "stopped by", ""),
            ("seconds", "seconds", ".2f"),
        ),
        command=command("benchmarks.graphical_models.trees", {"seconds": seconds}),
        notes=(
            "Up to 12 nodes the tolerance is an absolute gap of 1e-4, from 20 nodes on 1e-3 prices of one edge. Plain"
            " relaxations (arXiv 2307.09366) start at gaps of 0.53 (12 nodes) and 1.35 (20 nodes, seed 0), and need"
            " 124,339 tree nodes for 1e-4 at 12 nodes; at 20 nodes, seed 0, the published code was seen to hold a gap"
            " of about 0.91, that is 18 prices, after 120 s on another machine. It did not run here.",
            "Recorded with OMP_NUM_THREADS=1. The samples of 100 nodes depend on it: numpy draws them by a singular"
            " value decomposition, whose signs are another matter with more threads.",
        ),
    )
    path = out / "graphical_models_trees.json"
    record = Record.open(path, fresh)
    measure(6, 1, 5.0, 1e-4)
    plan = [(p, 0, 60.0, 1e-4) for p in small] + [(20, seed, seconds, 1e-3 * PRICE) for seed in range(seeds)]
    for p, seed, limit, gap in plan + [(p, 0, seconds, 1e-3 * PRICE) for p in ladder]:
        if not record.has(p=p, seed=seed):
            record.add(path, measure(p, seed, limit, gap))
            last = record.results[-1]
            say(f"p = {p}, seed {seed}: gap {last['gap']:.2e}, {last['nodes']} nodes, {last['seconds']} s")


def quick(data: Path | None, out: Path) -> None:
    """Two small instances and one seed."""
    run(5.0, out, small=(6, 8), seeds=1, ladder=())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of each run from 20 nodes on")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    run(options.seconds, options.out)


if __name__ == "__main__":
    main()
