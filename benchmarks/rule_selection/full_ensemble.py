"""Ten rules out of all rules of a forest, proven: python -m benchmarks.rule_selection.full_ensemble [--seconds 30]

No column is left out beforehand: what the bounds prove to be out is fixed inside the tree, as part of the certificate.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.rule_selection.path import COUNT, GAMMA, forest_rules
from mipprune.formulations import rule_selection


def run(name: str, trees: int, seconds: float, out: Path) -> None:
    """Solve, check and record."""
    fresh = Record(
        name="rule_selection.full_ensemble",
        title=f"Ten rules out of all distinct rules of {trees} trees of depth 3, {name}: proven gap",
        instance={
            "data": f"{name}, 70/30, seed 0, response standardised",
            "forest": f"{trees} trees of depth 3, a third of the features at a split, seed 0; equal columns merged",
            "gamma": GAMMA,
            "count": COUNT,
        },
        columns=(
            ("method", "method", ""),
            ("limit", "limit, CPU s", ".0f"),
            ("columns", "columns", ""),
            ("value", "value", ".6f"),
            ("bound", "bound", ".6f"),
            ("gap", "proven gap, %", ".3f"),
            ("nodes", "nodes", ""),
            ("seconds", "CPU s", ".2f"),
            ("check_seconds", "check, CPU s", ".2f"),
        ),
        command=command(
            "benchmarks.rule_selection.full_ensemble", {"data": name, "trees": trees, "seconds": f"{seconds:g}"}
        ),
        notes=(
            "Exchanges with 20 restarts; the relaxation's tangent; branch and bound from the best point met. The limit"
            " is on the processor time of all threads, for all three together: other work ran on the machine. Bounds"
            " are those that mipprune.check recomputes from the certificate alone.",
        ),
    )
    path = out / f"rule_selection_full_{name}_{trees}.json"
    record = Record.open(path, fresh)
    if record.has(limit=seconds):
        return
    rules, response, _, _ = forest_rules(name, trees)
    problem = rule_selection(rules.unique(), response, gamma=GAMMA, count=COUNT)
    small = rule_selection(rules.take(range(12)), response, gamma=GAMMA, count=2)
    mp.solve(small, mp.BranchAndBound(), budget=mp.Budget(seconds=20))  # compile
    started = time.process_time()
    swapped = mp.RuleSwaps(restarts=20).solve(problem)
    times = [time.process_time() - started]
    tangent = mp.certify(problem, swapped, iterations=300, strength=1.0, splits=0)
    times.append(time.process_time() - started)

    def over(_: float, value: float | None, bound: float | None) -> bool:
        return time.process_time() - started > seconds

    proven = mp.solve(problem, mp.BranchAndBound(), start=swapped.point, progress=over)
    times.append(time.process_time() - started)
    for method, solution, spent in zip(
        ("exchanges", "+ relaxation", "+ branch and bound"), (swapped, tangent, proven), times, strict=True
    ):
        began = time.process_time()
        checked = mp.check(problem, solution)
        row = {
            "method": method,
            "limit": seconds,
            "columns": problem.size,
            "value": checked.value,
            "bound": checked.bound,
            "gap": None if checked.gap is None else 100 * checked.gap,
            "nodes": solution.stats.nodes,
            "seconds": rounded(spent, 3),
            "check_seconds": rounded(time.process_time() - began, 3),
        }
        record.add(path, row)
        say(f"{method}: value {checked.value:.4f}, bound {checked.bound}, {spent:.1f} s")


def quick(data: Path | None, out: Path) -> None:
    """Run a small forest."""
    run("diabetes", 40, 15.0, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rule_selection.full_ensemble", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--data", default="diabetes")
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.data, options.trees, options.seconds, options.out)


if __name__ == "__main__":
    main()
