"""The frontier between accuracy and stability on diabetes, point by point with both grounds of its bound.

python -m benchmarks.rule_selection.moss [--points 50] [--gamma 0.01]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.rule_selection.real import load
from mipprune import Budget, CuttingPlanes
from mipprune.formulations import most_frequent, stability_levels, stable_rules
from mipprune.rules.candidates import binned_candidates
from mipprune.solvers import FrontierPoint, frontier

COUNT = 15


def run(points: int, gamma: float, out: Path) -> None:
    """Solve and record the first points of the frontier."""
    X, y = load("diabetes")
    y = (y - y.mean()) / y.std()
    rules = binned_candidates(X, y).rules
    levels = stability_levels(rules.count, COUNT)[:points]
    seconds, gap = 5.0, 0.05
    fresh = Record(
        name="rule_selection.moss",
        title=f"Frontier of stable rule sets, diabetes, {COUNT} rules, gamma {gamma:g}: the first {points} levels",
        instance={
            "data": "diabetes of scikit-learn, all 442 samples, response standardised",
            "candidates": f"{len(rules)} leaves of 500 trees of depth 2 on 10 quantile bins (seed 0), value columns",
            "asked": f"gap {gap:g} in at most {seconds:g} s for each point",
        },
        columns=(
            ("level", "least frequency", ""),
            ("frequency", "frequency", ""),
            ("rules", "rules", ""),
            ("value", "value", ".4f"),
            ("checked_gap", "checked gap", ".4f"),
            ("claimed_gap", "gap with the master's claim", ".4f"),
            ("seconds", "s", ".2f"),
        ),
        command=command("benchmarks.rule_selection.moss", {"points": points, "gamma": gamma}),
        notes=(
            "One thread. One pool of cuts and one master (HiGHS) for the whole chain. Seconds are those of a point "
            "alone, everything included.",
            "The checked gap rests on a tangent that is re-evaluated from the data; the other one takes the better of "
            "it and the bound that HiGHS states for the master.",
        ),
    )
    path = out / f"rule_selection_moss_{points}_{gamma:g}.json"
    if path.is_file():
        path.unlink()  # one chain: points of two runs must not be mixed
    record = Record.open(path, fresh)
    problems = [stable_rules(rules, y, count=COUNT, least=level, gamma=gamma) for level in levels]
    frontier(problems[:1], budget=Budget(seconds=seconds, gap=gap))  # load the back end
    found = frontier(
        problems, solver=CuttingPlanes(), budget=Budget(seconds=seconds, gap=gap), progress=_progress(len(problems))
    )
    values = [point.solution.value for point in found]
    assert all(later <= earlier for earlier, later in pairwise(values)), "values must fall"
    frequent = most_frequent(rules.count, COUNT)
    first = found[0].mask
    assert first is not None and int(rules.count[first.numpy()].sum()) == levels[0]
    assert bool((first | ~frequent).all()), "the first point holds every rule of the most frequent set"
    for level, point in zip(levels, found, strict=True):
        mask = point.mask
        assert mask is not None and bool(np.isfinite(point.solution.value))
        record.results.append(
            {
                "level": level,
                "frequency": int(rules.count[mask.numpy()].sum()),
                "rules": int(mask.sum()),
                "value": rounded(point.solution.value, 8),
                "checked_gap": rounded(point.checked_gap, 4),
                "claimed_gap": rounded(point.claimed_gap, 4),
                "seconds": rounded(point.seconds, 3),
                "proof": point.solution.proof.value,
            }
        )
    last = record.results.pop()
    record.add(path, last)
    for result in record.results:
        result.update(machine=record.results[-1]["machine"], versions=record.results[-1]["versions"])
    record.write(path)
    say(
        f"{len(found)} points, largest checked gap {max(point.checked_gap for point in found):.4f}, "
        f"largest time {max(point.seconds for point in found):.2f} s"
    )


def _progress(total: int) -> object:
    def report(number: int, point: FrontierPoint) -> None:
        if number % 10 == 0:
            say(f"{number + 1}/{total}: value {point.solution.value:.4f}, checked gap {point.checked_gap:.4f}")

    return report


def quick(data: Path | None, out: Path) -> None:
    """Run the first eight points."""
    run(8, 0.01, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rule_selection.moss", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--gamma", type=float, default=0.01)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.points, options.gamma, options.out)


if __name__ == "__main__":
    main()
