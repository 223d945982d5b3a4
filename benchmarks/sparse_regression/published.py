"""The standard instances of the L0BnB experiments: nodes, seconds and gaps of the tree beside published codes.

    python -m benchmarks.sparse_regression.published [--samples 500] [--columns 1000] [--rho 0.1] [--snr 10]
        [--seeds 10] [--seconds 30] [--gaps 0.01 0.0001] [--l0bnb PYTHON] [--el0ps PYTHON]

The published codes run in environments of their own, whose interpreters are given by ``--l0bnb`` (needs numpy 1) and
``--el0ps`` (needs an MPI library); without one, that code is left out and the record says so. Every code starts cold,
on one thread, and is compiled before its clock starts. All values are computed here from the coefficients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune.bench.families.sparse_regression import correlated_regression

_COLUMNS = (
    ("seed", "seed", "d"),
    ("gap_asked", "gap asked", "g"),
    ("solver", "solver", "s"),
    ("value", "value", ".8g"),
    ("gap", "checked gap", ".3g"),
    ("nodes", "nodes", "d"),
    ("leaves", "leaves", "d"),
    ("seconds", "seconds", ".3g"),
    ("check_seconds", "check, seconds", ".3g"),
    ("kilobytes", "certificate, kB", "d"),
    ("remark", "remark", "s"),
)


def build(options: argparse.Namespace, seed: int) -> tuple[mp.Problem, dict[str, Any]]:
    """Return a problem and its data."""
    made = correlated_regression(
        options.samples, options.columns, options.support, options.rho, options.snr, seed, l2=options.l2
    )
    problem = mp.formulations.sparse_regression(
        made.x, made.y, l0=made.l0, l2=made.l2, box=made.box, fit_intercept=False, standardize=False
    )
    return problem, {"x": made.x, "y": made.y, "l0": made.l0, "l2": made.l2, "box": made.box}


def own(problem: mp.Problem, gap: float, seconds: float) -> dict[str, Any]:
    """Solve, check, and describe the certificate."""
    solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=gap, seconds=seconds))
    started = time.perf_counter()
    checked = mp.check(problem, solution)
    checking = time.perf_counter() - started
    tree = solution.certificate
    assert isinstance(tree, mp.SparseTree)
    return {
        "value": checked.value,
        "bound": checked.bound,
        "gap": rounded(checked.gap or 0.0),
        "gap_in_l0": rounded((checked.value - (checked.bound or 0.0)) / float(problem.structure.price_per_entry)),
        "nodes": solution.stats.nodes,
        "leaves": tree.leaves,
        "seconds": rounded(solution.stats.seconds or 0.0),
        "check_seconds": rounded(checking),
        "kilobytes": tree.nbytes // 1000,
        "remark": solution.stop.value,
    }


def peer(python: str, name: str, file: Path, gap: float, seconds: float) -> dict[str, Any]:
    """Run a published code and read its line."""
    script = Path(__file__).with_name("peer.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(
            [python, str(script), name, str(file), str(gap), str(seconds)],
            capture_output=True, text=True, timeout=4 * seconds + 120, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"remark": f"no answer in {4 * seconds + 120:.0f} s (asked for {seconds:.0f} s)"}
    if done.returncode:
        return {"remark": "failed: " + done.stderr.strip().splitlines()[-1][:120]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {"value": found["value"], "nodes": found["nodes"], "seconds": rounded(found["seconds"])}


def run(options: argparse.Namespace, out: Path) -> Path:
    """Run what is not in the record yet."""
    instance = {
        key: getattr(options, key) for key in ("samples", "columns", "support", "rho", "snr", "l2", "gaps", "seconds")
    }
    shown = {**{key: instance[key] for key in ("samples", "columns", "rho", "snr", "seconds")}, "seeds": options.seeds}
    path = out / f"sparse_regression_{options.samples}x{options.columns}_{options.rho}_{options.snr}.json"
    record = Record.open(
        path,
        Record(
            name="sparse_regression.published",
            title=f"Sparse regression, n = {options.samples}, p = {options.columns}, "
            f"correlation {options.rho}, signal-to-noise {options.snr}",
            instance=instance,
            columns=_COLUMNS,
            command=command("benchmarks.sparse_regression.published", shown),
            notes=(
                "The gap of the tree is (value - bound)/value from its checked certificate. The published codes report "
                "no certificate; their values are computed from their coefficients, and their gap is the one asked "
                "for, in their own terms (el0ps's relative gap was multiplied by the objective, see peer.py).",
            ),
        ),
    )
    own(build(argparse.Namespace(**{**vars(options), "samples": 30, "columns": 40, "support": 3}), 0)[0], 0.1, 10)
    for seed in range(options.seeds):
        problem, data = build(options, seed)
        best = None
        for gap in options.gaps:
            if not record.has(seed=seed, gap_asked=gap, solver="mipprune"):
                result = own(problem, gap, options.seconds)
                record.add(path, {"seed": seed, "gap_asked": gap, "solver": "mipprune", **result})
                say(f"seed {seed}, gap {gap}: {result}")
        best = min(r["value"] for r in record.results if r["seed"] == seed and r["solver"] == "mipprune")
        for name in ("el0ps", "l0bnb"):
            python = getattr(options, name)
            for gap in options.gaps if python and seed < options.peer_seeds else ():
                if record.has(seed=seed, gap_asked=gap, solver=name):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / "instance.npz"
                    np.savez(file, value=best, **data)
                    result = peer(python, name, file, gap, options.seconds)
                record.add(path, {"seed": seed, "gap_asked": gap, "solver": name, **result})
                say(f"seed {seed}, gap {gap}, {name}: {result}")
    return path


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.sparse_regression.published")
    made.add_argument("--samples", type=int, default=500)
    made.add_argument("--columns", type=int, default=1000)
    made.add_argument("--support", type=int, default=10)
    made.add_argument("--rho", type=float, default=0.1)
    made.add_argument("--snr", type=float, default=10.0)
    made.add_argument("--l2", type=float, default=0.01)
    made.add_argument("--seeds", type=int, default=10)
    made.add_argument("--peer-seeds", type=int, default=3, help="seeds on which the published codes run too")
    made.add_argument("--seconds", type=float, default=30.0)
    made.add_argument("--gaps", type=float, nargs="+", default=[1e-2, 1e-4])
    made.add_argument("--l0bnb", help="a Python interpreter that has l0bnb")
    made.add_argument("--el0ps", help="a Python interpreter that has el0ps")
    made.add_argument("--out", type=Path, default=RESULTS)
    return made


def quick(data: Path | None, out: Path) -> None:
    """Run two small instances."""
    options = parser().parse_args(["--samples", "100", "--columns", "200", "--support", "5", "--seeds", "2"])
    run(options, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    options = parser().parse_args(arguments)
    run(options, options.out)


if __name__ == "__main__":
    main()
