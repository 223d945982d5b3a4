"""Several regressions with few columns each: one support, a price for differing ones, or none shared.

    python -m benchmarks.sparse_regression.multitask [--seconds 20] [--seeds 3]

Of k = 5 true columns of a task four are those of all tasks and one is its own; designs are correlated, with two samples
for each column. Coefficients on true columns are 1 plus a deviation of 0.3; the signal-to-noise ratio is 4.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune.formulations.multitask import MultitaskData
from mipprune.solvers import TaskDescent

_COLUMNS = (
    ("tasks", "tasks", "d"),
    ("columns", "columns", "d"),
    ("sharing", "supports", "s"),
    ("solver", "solver", "s"),
    ("seed", "seed", "d"),
    ("value", "value", ".8g"),
    ("bound", "checked bound", ".8g"),
    ("claimed", "claimed bound", ".8g"),
    ("seconds", "seconds", ".3g"),
    ("error", "held-out error", ".4f"),
    ("hits", "share of true columns", ".2f"),
)

_SIZES = ((2, 20), (4, 50), (8, 100))
_SHARING = {"one for all": math.inf, "price 0.02": 0.02, "separate": 0.0}
_K = 5


def draw(tasks: int, columns: int, seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Return designs and responses with as many held-out rows as rows to fit, and the true coefficients."""
    rng = np.random.default_rng(seed)
    rows = 2 * columns
    common = rng.choice(columns, _K - 1, replace=False)
    rest = np.setdiff1d(np.arange(columns), common)
    truth = np.zeros((tasks, columns))
    designs, responses = [], []
    for task in range(tasks):
        own = np.append(common, rng.choice(rest))
        truth[task, own] = 1.0 + 0.3 * rng.standard_normal(_K)
        x = rng.standard_normal((2 * rows, columns)) + 0.7 * rng.standard_normal((2 * rows, 1))
        mean = x @ truth[task]
        designs.append(torch.from_numpy(x))
        responses.append(torch.from_numpy(mean + mean.std() / 2.0 * rng.standard_normal(2 * rows)))
    return designs, responses, torch.from_numpy(truth)


def solvers() -> dict[str, Any]:
    """Return the solvers by name."""
    return {"descent": TaskDescent(), "tree": mp.BranchAndBound(), "SCIP": mp.Scip(), "HiGHS": mp.Highs()}


def run(options: argparse.Namespace, out: Path) -> Path:
    """Run every size, kind of sharing and solver."""
    path = out / "sparse_regression_multitask.json"
    record = Record.open(
        path,
        Record(
            name="sparse_regression.multitask",
            title="Multi-task regression: one support, priced differences, or separate supports",
            instance={"k": _K, "rows": "2 p for each task", "ridge": 0.1, "limit": f"{options.seconds:g} s"},
            columns=_COLUMNS,
            command=command("benchmarks.sparse_regression.multitask", {"seconds": f"{options.seconds:g}"}),
            notes=(
                "Values are comparable within one instance and one kind of sharing. The held-out error is the mean "
                "squared error over the variance.",
            ),
        ),
    )
    for tasks, columns in _SIZES if options.size is None else (_SIZES[options.size],):
        for seed in range(options.seeds):
            designs, responses, truth = draw(tasks, columns, seed)
            half = [len(design) // 2 for design in designs]
            data = MultitaskData.of(
                [design[:h] for design, h in zip(designs, half, strict=True)],
                [response[:h] for response, h in zip(responses, half, strict=True)],
            )
            held = [(x[h:], y[h:]) for x, y, h in zip(designs, responses, half, strict=True)]
            for sharing, price in _SHARING.items():
                problem = data.problem(_K, support_sharing=price, ridge=0.1)
                for name, solver in solvers().items():
                    keys = {"tasks": tasks, "columns": columns, "sharing": sharing, "solver": name, "seed": seed}
                    if record.has(**keys) or solver.rejects(problem) is not None:
                        continue
                    solution = solver.solve(problem, budget=mp.Budget(seconds=options.seconds))
                    record.add(path, {**keys, **measured(problem, solution, data, held, truth)})
                    say(f"{keys} {solution.value} {solution.bound} {solution.stats.seconds}")
    return path


def measured(
    problem: mp.Problem,
    solution: mp.Solution,
    data: MultitaskData,
    held: Sequence[tuple[torch.Tensor, torch.Tensor]],
    truth: torch.Tensor,
) -> dict[str, Any]:
    """Return value, checked and claimed bounds, held-out error and the share of true columns found."""
    if solution.point is None:
        return {"value": None, "seconds": rounded(solution.stats.seconds or 0.0)}
    checked = mp.check(problem, solution) if solution.proof is mp.Proof.CHECKED else None
    coefficients, intercepts = data.restore(solution.point)
    errors = [
        float((y - x @ b - c).square().mean() / y.var())
        for (x, y), b, c in zip(held, coefficients, intercepts, strict=True)
    ]
    return {
        "value": solution.value,
        "bound": None if checked is None else checked.bound,
        "claimed": None if solution.claim is None else solution.claim.bound,
        "seconds": rounded(solution.stats.seconds or 0.0),
        "error": rounded(sum(errors) / len(errors)),
        "hits": rounded(float(((coefficients != 0) & (truth != 0)).sum() / (truth != 0).sum())),
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.sparse_regression.multitask", description=__doc__)
    made.add_argument("--seconds", type=float, default=20.0)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--size", type=int, choices=range(len(_SIZES)), help="one size only")
    made.add_argument("--out", type=Path, default=RESULTS)
    return made


def quick(data: Path | None, out: Path) -> Path:
    """Run the smallest size once."""
    return run(parser().parse_args(["--seconds", "3", "--seeds", "1", "--size", "0"]), out)


if __name__ == "__main__":
    options = parser().parse_args()
    run(options, options.out)
