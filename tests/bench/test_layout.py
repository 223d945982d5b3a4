"""The benchopt folders: their classes keep the protocol, and benchopt itself runs one of them."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mipprune.bench import families
from mipprune.bench.layout import instances

ROOT = Path(__file__).resolve().parents[2] / "benchmarks"
FAMILIES = [family.name for family in families.ALL]


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"layout_{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_dataset_solver_and_objective_of_a_family_work_together(name: str) -> None:
    family = families.find(name)
    dataset = _module(ROOT / name / "datasets" / "generated.py").Dataset()
    objective = _module(ROOT / name / "objective.py").Objective()
    solver = _module(ROOT / name / "solvers" / "registered.py").Solver()
    assert dataset.family == solver.family == name
    dataset.instance, dataset.seed, dataset.data = json.dumps(dict(family.tiny)), 0, None
    solver.seconds = 20.0
    objective.set_data(**dataset.get_data())
    given = objective.get_objective()
    assert objective.evaluate_result(**objective.get_one_result())["faults"] == 0
    ran = 0
    for solver.solver in list(family.solvers)[:3]:
        if solver.skip(**given)[0]:
            continue
        solver.set_objective(**given)
        solver.run(None)
        metrics = objective.evaluate_result(**solver.get_result())
        assert math.isfinite(metrics["value"]) and metrics["violation"] == 0 and metrics["faults"] == 0
        ran += 1
    assert ran, "no solver ran"


@pytest.mark.parametrize("name", FAMILIES)
def test_suites_are_plain_data(name: str) -> None:
    for suite in families.find(name).suites:
        assert [json.loads(text) for text in instances(name, suite)] == [
            dict(parameters) for parameters in families.find(name).suites[suite]
        ]


@pytest.mark.slow
def test_benchopt_runs_a_family(tmp_path: Path) -> None:
    instance = json.dumps(dict(families.find("layerwise").tiny), sort_keys=True)
    config = tmp_path / "run.yml"
    config.write_text(
        json.dumps(
            {
                "solver": [{"registered": {"solver": ["tree", "wanda"], "seconds": [5.0]}}],
                "dataset": [{"generated": {"instance": [instance], "seed": [0]}}],
                "n-repetitions": 1,
            }
        )
    )
    words = ["run", str(ROOT / "layerwise"), "--config", str(config), "--no-plot", "--no-cache", "--no-display"]
    words += ["--output", str(tmp_path / "result.parquet")]
    done = subprocess.run(
        [sys.executable, "-m", "benchopt", *words], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    import pandas as pd

    files = sorted(tmp_path.rglob("*.parquet")) or sorted((ROOT / "layerwise" / "outputs").glob("result*.parquet"))
    assert files, done.stdout[-2000:] + done.stderr[-2000:]
    rows = pd.read_parquet(files[-1])
    assert len(rows) == 2 and (rows["objective_faults"] == 0).all()
    assert rows["objective_checked_bound"].notna().sum() == 1, "the tree proves, the heuristic does not"
