"""The path over prices and the objective at ten rules, on ten data sets: python -m benchmarks.rule_selection.path

The forests have 500 trees of depth 3 (a third of the features at a split, seed 0); 70 % of at most 3000 samples train.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import mipprune as mp
from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from benchmarks.rule_selection import real
from mipprune.formulations import rule_selection
from mipprune.rules import RuleMatrix, extract_rules

Array = np.ndarray[Any, Any]
GAMMA, COUNT, POINTS = 0.01, 10, 25


def _friedman1() -> tuple[Array, Array]:
    from sklearn.datasets import make_friedman1

    X, y = make_friedman1(1000, noise=1.0, random_state=0)
    return X, y


def _breast_cancer() -> tuple[Array, Array]:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return X, y.astype(np.float64)


def _anes96() -> tuple[Array, Array]:
    data = real._module("statsmodels.api").datasets.anes96.load_pandas().data
    return data.drop(columns=["vote"]).to_numpy(dtype=np.float64), data["vote"].to_numpy(dtype=np.float64)


MORE: dict[str, Callable[[], tuple[Array, Array]]] = {
    "friedman1": _friedman1,
    "breast_cancer": _breast_cancer,
    "anes96": _anes96,
}
NAMES = (
    "diabetes", "boston", "autoMPG6", "star98", "concrete", "airfoil", "winequality_red", "friedman1", "breast_cancer",
    "anes96",
)  # fmt: skip


def forest_rules(name: str, trees: int) -> tuple[RuleMatrix, Tensor, float, float]:
    """Return all nodes over the training part, the standardised response, and the forest's seconds and test R2."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import train_test_split

    X, y = MORE[name]() if name in MORE else real.load(name)
    if len(X) > 3000:
        kept = np.random.default_rng(0).permutation(len(X))[:3000]
        X, y = X[kept], y[kept]
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0)
    started = time.perf_counter()
    forest = RandomForestRegressor(trees, max_depth=3, max_features=1 / 3, random_state=0).fit(X_train, y_train)
    seconds = time.perf_counter() - started
    response = torch.from_numpy((y_train - y_train.mean()) / y_train.std())
    return extract_rules(forest, X_train), response, seconds, float(forest.score(X_test, y_test))


def best_within(points: Sequence[mp.solvers.PricePoint], problem: mp.Problem, count: int) -> tuple[float, int]:
    """Return the smallest value, prices left aside, of the points with at most so many rules, and their number."""
    values = [(problem.value(p.point), p.count) for p in points if p.count <= count]
    return min(values, default=(problem.value(torch.zeros(problem.shape)), 0))


def measure(name: str, trees: int) -> dict[str, Any]:
    """Run everything on one data set."""
    rules, response, forest_seconds, forest_score = forest_rules(name, trees)
    free = rule_selection(rules, response, gamma=GAMMA)
    top = float((0.5 * (free.loss.design.T @ response).square() / (free.loss.design.sum(dim=0) + 1 / GAMMA)).max())
    started, worked = time.perf_counter(), time.process_time()
    path = mp.TreeDescent().path(free, np.geomspace(top, 1e-3 * top, POINTS))
    path_seconds, path_cpu = time.perf_counter() - started, time.process_time() - worked
    at_path, count_path = best_within(path, free, COUNT)

    problem = rule_selection(rules, response, gamma=GAMMA, count=COUNT)
    found = {}
    for label, solver, task in (
        ("greedy_swap", mp.RuleSwaps(), problem),
        ("descent", mp.TreeDescent(), problem),
        ("unique_swap", mp.RuleSwaps(), rule_selection(rules.unique(), response, gamma=GAMMA, count=COUNT)),
    ):
        started = time.process_time()
        solution = solver.solve(task)
        found[label] = {"value": solution.value, "cpu_seconds": rounded(time.process_time() - started, 3)}
        if label == "descent":
            started = time.process_time()
            certified = mp.certify(task, solution, iterations=300, strength=1.0, splits=0)
            found["bound"] = {"value": certified.bound, "cpu_seconds": rounded(time.process_time() - started, 3)}
            found["gap"] = 100 * (certified.gap or 0.0)
    return {
        "data": name,
        "samples": len(response),
        "nodes": len(rules),
        "forest_seconds": rounded(forest_seconds, 3),
        "forest_r2": rounded(forest_score, 3),
        "path_seconds": rounded(path_seconds, 3),
        "path_cpu_seconds": rounded(path_cpu, 3),
        "path_points": len(path),
        "path_largest": path[-1].count,
        "path_at_ten": at_path,
        "path_rules": count_path,
        **found,
    }


def record_of(trees: int) -> Record:
    """Return the empty record."""
    return Record(
        name="rule_selection.path",
        title=f"Rules of {trees} trees of depth 3: the path over prices, and the objective at ten rules",
        instance={
            "forest": f"{trees} trees of depth 3, a third of the features at a split, seed 0; nodes but constant ones",
            "split": "70/30, seed 0, at most 3000 samples",
            "gamma": GAMMA,
            "count": COUNT,
            "points": POINTS,
        },
        columns=(
            ("data", "data", ""),
            ("samples", "n", ""),
            ("nodes", "nodes", ""),
            ("path_cpu_seconds", "path of 25, CPU s", ".2f"),
            ("path_seconds", "elapsed, s", ".2f"),
            ("path_at_ten", "path, <= 10 rules", ".3f"),
            ("greedy_swap.value", "greedy + swaps", ".3f"),
            ("descent.value", "descent + swaps", ".3f"),
            ("descent.cpu_seconds", "CPU s", ".2f"),
            ("bound.value", "bound", ".3f"),
            ("gap", "gap, %", ".2f"),
            ("unique_swap.value", "greedy + swaps, no antichain", ".3f"),
        ),
        command=command("benchmarks.rule_selection.path", {"trees": trees}),
        notes=(
            "Objective: half the squared error of the standardised response plus the ridge, 1/(2 gamma) ||w||^2; the"
            " empty model has n/2. Antichains in each tree, except in the last column (equal columns merged). The path"
            " runs from the least price without a rule to a thousandth of it. One thread. Other work ran on the machine"
            " at the same time, so that the elapsed time is several times the processor time.",
        ),
    )


def run(names: Sequence[str], trees: int, out: Path) -> None:
    """Measure what is not recorded yet."""
    path = out / f"rule_selection_path_{trees}.json"
    record = Record.open(path, record_of(trees))
    mp.TreeDescent().solve(rule_selection(torch.eye(4), torch.arange(4.0), count=2, parents=torch.full((4,), -1)))
    missing = []
    for name in names:
        if record.has(data=name):
            continue
        try:
            record.add(path, measure(name, trees))
        except Unavailable as reason:
            missing.append(str(reason))
            say(f"skipped {name}: {reason}")
            continue
        row = record.results[-1]
        say(
            f"{name}: path {row['path_seconds']} s, ten rules {row['path_at_ten']:.3f} (path), "
            f"{row['greedy_swap']['value']:.3f} (greedy + swaps), {row['descent']['value']:.3f}, gap {row['gap']:.2f} %"
        )
    if len(missing) == len(names):
        raise Unavailable(missing[0])


def quick(data: Path | None, out: Path) -> None:
    """Run small forests on data that come with scikit-learn."""
    run(("diabetes", "breast_cancer"), 40, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rule_selection.path", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--trees", type=int, default=500)
    parser.add_argument("--data", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.data, options.trees, options.out)


if __name__ == "__main__":
    main()
