"""The suite of real data: what packages hold, what lies in a folder, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_state

from mipprune.bench import Job, Store, expand, families
from mipprune.bench.families.stored import read
from mipprune.bench.families.trained import NETWORKS, MLPNet, ResNet20, layer_costs, trained_layer
from mipprune.bench.layout import instances
from mipprune.bench.peers.program import PEERS
from mipprune.cli import entry
from mipprune.errors import InvalidProblem
from mipprune.formulations import layerwise

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny file of every kind."""
    root = tmp_path_factory.mktemp("data")
    for name in ("layerwise", "transposable_masks", "flop_selection", "sparse_regression", "graphical_models", "ggm"):
        (root / name).mkdir()
    for name in ("rules", "mnist"):
        (root / name).mkdir()
    x = RNG.standard_normal((20, 8))
    np.savez(root / "layerwise" / "mine.npz", weight=RNG.standard_normal((2, 8)), inputs=x)
    save_file({"weight": RNG.standard_normal((2, 6)), "gram": np.eye(6)}, root / "layerwise" / "other.safetensors")
    np.savez(root / "transposable_masks" / "w.npz", a=RNG.standard_normal((16, 32)), b=RNG.standard_normal((3, 5)))
    layers = {"a.scores": RNG.random(30), "a.macs": np.array(9), "b.scores": RNG.random(20), "b.macs": np.array(1)}
    np.savez(root / "flop_selection" / "net.npz", **layers)  # type: ignore[arg-type]
    np.savez(root / "sparse_regression" / "xy.npz", X=x, y=x[:, 0] + 0.1 * RNG.standard_normal(20))
    rows = "\n".join(f"2024-01-{day:02d},{a:.6f},{b:.6f},{a + b:.6f}" for day, (a, b) in enumerate(x[:, :2], start=1))
    (root / "sparse_regression" / "table.csv").write_text(f"day,a,b,y\n{rows}\n")
    (root / "graphical_models" / "returns.csv").write_text(f"day,a,b,c\n{rows}\n")
    np.savez(root / "ggm" / "stockdata.npz", prices=np.exp(np.cumsum(RNG.standard_normal((40, 20)), axis=0)))
    rules = (RNG.random((30, 12)) < 0.4).astype(np.uint8)
    np.savez(root / "rules" / "r_gamma0.02.npz", rules=rules, y=RNG.standard_normal(30))
    save_state(MLPNet().state_dict(), root / "mnist" / "weights.safetensors")
    images = RNG.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    np.savez(root / "mnist" / "train30.npz", images=images, labels=np.zeros(30, np.uint8))
    return root


@pytest.mark.parametrize("family", families.ALL, ids=lambda family: family.name)
def test_every_family_finds_its_files_and_builds_the_same_problem_twice(family: Any, folder: Path) -> None:
    bundled, found = family.instances("real"), family.instances("real", folder)
    assert list(bundled) == [each for each in found if "." not in each["source"]]
    of_files = [each for each in found if "." in each["source"]]
    assert of_files
    seen = set()
    for parameters in of_files:
        assert json.loads(json.dumps(parameters)) == parameters
        problem = family.problem(parameters, 0, folder)
        assert problem.fingerprint == family.problem(parameters, 1, folder).fingerprint, "no randomness"
        assert float(parameters.get(family.size, problem.size)) > 0
        seen.add(problem.fingerprint)
    assert len(seen) == len(of_files)


def test_instances_of_packages_are_built_without_a_folder() -> None:
    for name in ("sparse_regression", "graphical_models", "rule_selection"):
        parameters = families.find(name).instances("real")[0]
        assert families.find(name).problem(parameters, 0).size > 10
        assert json.loads(instances(name, "real")[0]) == parameters


def test_numbers_of_files_are_those_of_the_problem(folder: Path) -> None:
    parameters = {"source": "layerwise/mine.npz", "inputs": 8, "outputs": 2, "structure": "0.5"}
    problem = families.find("layerwise").problem(parameters, 0, folder)
    stored = read(folder / "layerwise" / "mine.npz")
    weight, x = torch.from_numpy(stored["weight"]), torch.from_numpy(stored["inputs"])
    same = layerwise(weight, x.T @ x, problem.structure.supports, damping=0.01)  # type: ignore[attr-defined]
    assert same.fingerprint == problem.fingerprint
    table = read(folder / "sparse_regression" / "table.csv")["table"]
    assert table.shape == (20, 3) and np.allclose(table[:, 2], table[:, 0] + table[:, 1], atol=1e-5)
    parameters = {"source": "ggm/stockdata.npz", "nodes": 20, "l0": 0.05, "l2": 0.05}
    graph = families.find("graphical_models").problem(parameters, 0, folder)
    returns = np.diff(np.log(read(folder / "ggm" / "stockdata.npz")["prices"]), axis=0)
    assert np.allclose(graph.loss.matrix, np.corrcoef(returns, rowvar=False))  # type: ignore[attr-defined]


def test_layers_of_a_network_see_the_inputs_that_the_network_gives_them(folder: Path) -> None:
    path = folder / "mnist" / "weights.safetensors"
    weight, gram = trained_layer(path, "fc1")
    pixels = read(folder / "mnist" / "train30.npz")["images"].reshape(30, -1) / 255
    x = (pixels - NETWORKS["mnist"].mean[0]) / NETWORKS["mnist"].deviation[0]
    assert weight.shape == (40, 784) and np.allclose(gram, x.T @ x, rtol=1e-4, atol=1e-2)
    with pytest.raises(InvalidProblem, match="has no layer 'fc9'"):
        trained_layer(path, "fc9")


def test_multiply_adds_and_second_moments_of_convolutions(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    path = tmp_path / "cifar10" / "net.safetensors"
    torch.manual_seed(0)
    save_state(ResNet20().state_dict(), path)
    costs = layer_costs(path)
    assert sum(weight.numel() * uses for weight, uses in costs.values()) == 40_551_040  # of ResNet-20, arXiv 1512.03385
    with pytest.raises(InvalidProblem, match=r"no train\*.npz"):
        trained_layer(path, "linear")
    images = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "cifar10" / "train4.npz", images=images)
    weight, gram = trained_layer(path, "conv1")
    described = NETWORKS["cifar10"]
    x = (images / 255.0 - described.mean) / described.deviation
    center = x.reshape(-1, 3).T @ x.reshape(-1, 3)  # the middle of the kernel sees every pixel once
    middle = [9 * channel + 4 for channel in range(3)]
    assert weight.shape == (16, 27) and np.allclose(gram[middle][:, middle], center, rtol=1e-4)


def test_a_file_that_changed_is_another_job_and_other_jobs_keep_their_keys(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    keys = []
    for seed in (0, 0, 1):
        rng = np.random.default_rng(seed)
        np.savez(tmp_path / "rules" / "r.npz", rules=np.eye(6, dtype=np.uint8), y=rng.standard_normal(6))
        jobs = expand("rule_selection:real", solvers=["tree"], data=tmp_path)
        keys.append({job.instance: job.key for job in jobs})
    changed = {name for name in keys[0] if keys[0][name] != keys[2][name]}
    assert keys[0] == keys[1] and changed == {name for name in keys[0] if "rules/r.npz" in name}
    assert Job("layerwise", {"inputs": 8}, 0, "tree").key == "5092c39aef2092b33ada"


def test_mistakes_about_folders_and_files_are_answered_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    for words, message in (
        ({"suite": "layerwise:real"}, "no real data come with packages here; give a folder by --data that holds for"),
        ({"suite": "layerwise:real", "data": tmp_path}, "holds no data for these families; it may hold"),
        ({"suite": "layerwise:real", "data": tmp_path / "none"}, "is no folder"),
        ({"suite": "layerwise:full", "data": folder}, "--data is for the suite 'real'"),
    ):
        with pytest.raises(InvalidProblem, match=message):
            expand(**words)  # type: ignore[arg-type]
    (tmp_path / "sparse_regression").mkdir()
    bad = tmp_path / "sparse_regression" / "bad.npz"
    regression = families.find("sparse_regression")
    for content, message in (
        ({"a": np.ones(3)}, "needs arrays X"),
        ({"X": np.array([{}], dtype=object), "y": np.ones(1)}, "cannot be read as arrays of numbers"),
    ):
        np.savez(bad, **content)  # type: ignore[arg-type]
        with pytest.raises(InvalidProblem, match=message):
            regression.instances("real", tmp_path)
    bad.write_bytes(b"no zip file")
    with pytest.raises(InvalidProblem, match="cannot be read"):
        regression.instances("real", tmp_path)
    gone = {"source": "sparse_regression/gone.npz", "columns": 3, "support": 1}
    with pytest.raises(InvalidProblem, match="there is no file"):
        regression.problem(gone, 0, tmp_path)
    with pytest.raises(InvalidProblem, match="give the folder it lies in by --data"):
        regression.problem(gone, 0)
    with pytest.raises(InvalidProblem, match="8 columns now, not 9"):
        regression.problem({"source": "sparse_regression/xy.npz", "columns": 9, "support": 1}, 0, folder)


def test_the_command_runs_on_a_folder(folder: Path, tmp_path: Path) -> None:
    words = ["bench", "run", "rule_selection:real", "--solvers", "matching-pursuit,lasso-path", "--seconds", "5"]
    done = CliRunner().invoke(entry.cli, [*words, "--data", str(folder), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output + str(done.exception)
    records = Store(tmp_path).read()
    ours = [record for record in records if "gamma0.02" in record.instance]
    assert {record.solver for record in ours} == {"matching-pursuit", "lasso-path"} and all(r.fingerprint for r in ours)
    assert json.loads(ours[0].parameters)["gamma"] == 0.02


def test_the_page_on_benchmarks_names_every_family_and_every_rival() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for family in families.ALL:
        assert f"| `{family.name}` |" in page
        folders = {word.partition("/")[0] for word in family.layout.replace(",", " ").split() if "/" in word}
        assert folders and all(f"{folder}/" in page for folder in folders), family.name
    assert all(f"`{package}`" in page for package, _ in PEERS.values())
