"""Frozen rule-selection instances: at most 10 of 100 rules with a ridge, proven by the tree beside SCIP and HiGHS.

    python -m benchmarks.rule_selection.frozen --data FOLDER [--seconds 60] [--exact-seconds 15]

FOLDER holds ``r100_NAME_gammaG.npz`` with ``rules`` (n, 100) and ``y`` (n,). One thread. The best published values and
bounds, where there are two numbers, are those of a tree with first-order bounds after 15 s.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, Unavailable, rounded, say

_KNOWN = {
    ("diabetes", "0.01"): (80.665674, 80.665674),
    ("boston", "0.01"): (65.211383, 65.211383),
    ("breast_cancer", "0.01"): (39.370558, 39.370558),
    ("star98", "0.01"): (44.995533, 44.995533),
    ("diabetes", "0.05"): (64.936739, 64.936739),
    ("breast_cancer", "0.05"): (23.109565, 23.109565),
    ("boston", "0.05"): (35.566643, 34.754526),
    ("star98", "0.05"): (26.026357, 25.953457),
}
_COLUMNS = (
    ("data", "data", "s"),
    ("gamma", "gamma", "s"),
    ("solver", "solver", "s"),
    ("value", "value", ".8g"),
    ("bound", "bound", ".8g"),
    ("gap", "gap", ".3g"),
    ("proof", "proof", "s"),
    ("nodes", "nodes", "d"),
    ("seconds", "seconds", ".3g"),
    ("known_value", "best known", ".8g"),
    ("known_bound", "known bound", ".8g"),
)


def load(folder: Path | None, name: str, gamma: str) -> mp.Problem:
    """Return a frozen instance."""
    file = None if folder is None else folder / f"r100_{name}_gamma{gamma}.npz"
    if file is None or not file.is_file():
        raise Unavailable("the frozen rule instances are not there: --data must hold r100_NAME_gammaG.npz")
    stored = np.load(file)
    rules, y = (torch.from_numpy(stored[key].astype(np.float64)) for key in ("rules", "y"))
    return mp.Problem(mp.LeastSquares(rules, y, 1.0 / float(gamma)), mp.Sparse(mp.Cardinality(10)), name)


def run(folder: Path | None, out: Path, seconds: float, exact_seconds: float, cases: Sequence[Any]) -> Path:
    """Run what is not in the record yet."""
    path = out / "rule_selection_frozen.json"
    record = Record.open(
        path,
        Record(
            name="rule_selection.frozen",
            title="Rule selection, 10 of 100 frozen rules",
            instance={"gap": 1e-4, "seconds": seconds, "exact_seconds": exact_seconds, "threads": 1},
            columns=_COLUMNS,
            command="python -m benchmarks.rule_selection.frozen --data FOLDER",
            notes=(
                "Bounds of the tree are checked certificates; those of SCIP and HiGHS are their claims. Other work "
                "shared the machine, so that seconds are upper bounds; nodes do not depend on it.",
            ),
        ),
    )
    for name, gamma in cases:
        problem = load(folder, name, gamma)
        known = _KNOWN[name, gamma]
        for solver, limit in ((mp.BranchAndBound(), seconds), (mp.Scip(), exact_seconds), (mp.Highs(), exact_seconds)):
            if record.has(data=name, gamma=gamma, solver=solver.name):
                continue
            solution = solver.solve(problem, budget=mp.Budget(seconds=limit, gap=1e-4))
            if solution.certificate is not None:
                mp.check(problem, solution)
            result = {
                "data": name,
                "gamma": gamma,
                "solver": solver.name,
                "value": solution.value,
                "bound": solution.bound,
                "gap": None if solution.gap is None else rounded(solution.gap),
                "proof": solution.proof.value,
                "nodes": solution.stats.nodes,
                "seconds": rounded(solution.stats.seconds or 0.0),
                "known_value": known[0],
                "known_bound": known[1],
            }
            record.add(path, result)
            say(str(result))
    return path


def scale(folder: Path | None, out: Path, seconds: float) -> Path:
    """Solve the longest instance with one and with two processes."""
    path = out / "rule_selection_processes.json"
    record = Record.open(
        path,
        Record(
            name="rule_selection.processes",
            title="One tree, one or two processes (boston, gamma 0.05)",
            instance={"data": "boston", "gamma": "0.05", "gap": 1e-4, "threads_of_each": 1},
            columns=(
                ("processes", "processes", "d"),
                ("value", "value", ".10g"),
                ("gap", "checked gap", ".3g"),
                ("nodes", "nodes", "d"),
                ("seconds", "seconds", ".3g"),
            ),
            command="python -m benchmarks.rule_selection.frozen --data FOLDER --processes",
            notes=(
                "Starting the processes and compiling in them is not counted: each solves a small problem before. "
                "Other work shared the two cores. Tasks start without what the search has learned about branching, "
                "which is why two processes need more nodes.",
            ),
        ),
    )
    small, problem = load(folder, "diabetes", "0.01"), load(folder, "boston", "0.05")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for processes in (1, 2):
            if record.has(processes=processes):
                continue
            solver = mp.BranchAndBound() if processes == 1 else mp.BranchAndBound(executor=pool, workers=2)
            solver.solve(small, budget=mp.Budget(gap=1e-4))
            solution = solver.solve(problem, budget=mp.Budget(gap=1e-4, seconds=seconds))
            checked = mp.check(problem, solution)
            result = {
                "processes": processes,
                "value": checked.value,
                "gap": rounded(checked.gap or 0.0),
                "nodes": solution.stats.nodes,
                "seconds": rounded(solution.stats.seconds or 0.0),
            }
            record.add(path, result)
            say(str(result))
    return path


def quick(data: Path | None, out: Path) -> None:
    """Run the easiest instance."""
    run(None if data is None else data / "rules", out, 20.0, 3.0, [("diabetes", "0.01")])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rule_selection.frozen")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--exact-seconds", type=float, default=15.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--processes", action="store_true", help="one and two processes on the longest instance")
    options = parser.parse_args(arguments)
    if options.processes:
        scale(options.data, options.out, options.seconds)
        return
    run(options.data, options.out, options.seconds, options.exact_seconds, list(_KNOWN))


if __name__ == "__main__":
    main()
