"""Large graphs: a heuristic with one checked bound.

python -m benchmarks.graphical_models.scale [--nodes 1000] [--samples 10000] [--price 0.01] [--ridge 0.05]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, say
from benchmarks.graphical_models.generator import peak_gib, sparse_draw
from mipprune.kernels.pairs import split_pairs
from mipprune.solvers import EdgeDescent


def run(nodes: int, samples: int, price: float, ridge: float, out: Path, seconds: float | None = None) -> None:
    """Draw, solve, check and record."""
    fresh = Record(
        name="graphical_models.scale",
        title=f"Graphical models: {nodes} nodes, descent with a checked root bound",
        instance={"nodes": nodes, "samples": samples, "degree": 3, "weight": 0.25},
        columns=(
            ("nodes", "nodes p", ""),
            ("samples", "n", ""),
            ("price", "l0", ""),
            ("ridge", "l2", ""),
            ("value", "value", ".4f"),
            ("bound", "checked bound", ".4f"),
            ("edges_gap", "gap / l0", ".1f"),
            ("share_of_gain", "gap / (empty - value)", ".4f"),
            ("edges", "edges", ""),
            ("true_edges", "true edges", ""),
            ("found", "of them found", ""),
            ("draw_seconds", "s to draw", ".1f"),
            ("build_seconds", "s to build", ".1f"),
            ("limit", "limit in s", ""),
            ("seconds", "s to solve and bound", ".1f"),
            ("check_seconds", "s to check", ".1f"),
            ("gib", "peak GiB", ".2f"),
        ),
        command=command(
            "benchmarks.graphical_models.scale",
            {"nodes": nodes, "samples": samples, "price": "PRICE", "ridge": "RIDGE", "seconds": "LIMIT"},
        ),
        notes=(
            "Random graphs of degree 3 (see generator.sparse_draw), variables standardised, no box. Up to about a"
            " thousand nodes the bound uses curvature that each row hands to the pairs near their thresholds, and"
            " ascent; beyond, the smallest eigenvalue of S as common shift. Peak memory is that of the whole process,"
            " data included. Each line is a run of its own, after the compiled functions have been loaded by a run on"
            " 300 nodes.",
        ),
    )
    path = out / f"graphical_models_scale_{nodes}.json"
    record = Record.open(path, fresh)
    if record.has(price=price, ridge=ridge, limit=seconds):
        return
    small = mp.formulations.graphical_model(torch.from_numpy(sparse_draw(300, 600, 1)[0]), l0=0.05, l2=0.05)
    mp.check(small, EdgeDescent().solve(small))
    begun = time.perf_counter()
    data, pairs = sparse_draw(nodes, samples, 0)
    started = time.perf_counter()
    problem = mp.formulations.graphical_model(torch.from_numpy(data), l0=price, l2=ridge)
    del data
    built = time.perf_counter()
    solution = EdgeDescent().solve(problem, budget=mp.Budget(seconds=seconds))
    solved = time.perf_counter()
    bound = mp.check(problem, solution).bound
    checked = time.perf_counter()
    assert bound is not None
    found = np.stack(split_pairs(solution.mask.numpy().nonzero()[0], nodes), axis=1)
    truth = {tuple(pair) for pair in pairs.tolist()}
    empty = nodes + float(problem.loss.covariance.diagonal().double().log().sum())
    record.add(
        path,
        {
            "nodes": nodes,
            "samples": samples,
            "price": price,
            "ridge": ridge,
            "limit": seconds,
            "value": solution.value,
            "bound": bound,
            "edges_gap": (solution.value - bound) / price,
            "share_of_gain": (solution.value - bound) / (empty - solution.value),
            "edges": len(found),
            "true_edges": len(truth),
            "found": len(truth & {tuple(pair) for pair in found.tolist()}),
            "draw_seconds": started - begun,
            "build_seconds": built - started,
            "seconds": solved - built,
            "check_seconds": checked - solved,
            "gib": peak_gib(),
        },
    )
    say(f"{record.results[-1]}")


def quick(data: Path | None, out: Path) -> None:
    """Two hundred nodes."""
    run(200, 2000, 0.01, 0.05, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--price", type=float, default=0.01)
    parser.add_argument("--ridge", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, help="time limit of the descent with its bound")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    run(options.nodes, options.samples, options.price, options.ridge, options.out, options.seconds)


if __name__ == "__main__":
    main()
