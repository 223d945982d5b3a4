"""A budget for the whole network shared out over its layers: tables, choice, pruning, resuming, the command line."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mipprune as mp
from mipprune.cli import main
from mipprune.io import check_file
from mipprune.networks import prune
from mipprune.networks.allocation import Allocation, share_out
from mipprune.networks.tables import LayerTable
from mipprune.solvers import ADMM, Magnitude
from tests.networks.models import resnet, seeded

GRID = (0.1, 0.3, 0.5, 0.8, 1.0)


def mlp() -> nn.Sequential:
    return seeded(lambda: nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 16)))


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(60, 12, generator=generator) for _ in range(3)]


def draw_tables(seed: int, layers: int = 4) -> list[LayerTable]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(layers):
        shape = (int(rng.integers(4, 12)), int(rng.integers(4, 12)))
        errors = (*rng.random(len(GRID) - 1).tolist(), 0.0)
        found.append(
            LayerTable(f"layer{number}", shape, float(rng.integers(1, 9)), GRID, errors, float(rng.random() + 0.1))
        )
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("error", ["relative", "absolute"])
def test_the_choice_against_enumeration(seed: int, error: str) -> None:
    tables = draw_tables(seed)
    allocation = Allocation(nnz=0.6, flops=0.5 if seed % 2 else None, densities=GRID, error=error)
    found = share_out(tables, allocation)
    size = np.array([table.shape[0] * table.shape[1] for table in tables])
    macs = size * np.array([table.macs for table in tables])
    best = np.inf
    for options in itertools.product(range(len(GRID)), repeat=len(tables)):
        kept = np.array([round(GRID[j] * n) for j, n in zip(options, size)])
        if kept.sum() > 0.6 * size.sum() or (seed % 2 and (kept * macs / size).sum() > 0.5 * macs.sum()):
            continue
        errors = [t.errors[j] / (t.scale if error == "relative" else 1.0) for t, j in zip(tables, options)]
        best = min(best, sum(errors))
    assert found.solution.value == pytest.approx(best, rel=1e-12)
    assert found.solution.proof is mp.Proof.CHECKED


@pytest.mark.parametrize("budget", [{"nnz": 0.4}, {"flops": 0.5}, {"nnz": 0.5, "flops": 0.5}])
def test_a_pruned_network_meets_the_budget_of_all_layers(budget: dict[str, float]) -> None:
    model, data = resnet(), [torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0)) for _ in range(3)]
    report = prune(model, data, solver=Magnitude(), allocation=Allocation(densities=GRID, **budget), sequential=False)
    assert "stay, shared out" in report.settings["allocation"]
    kept = {name: int((p != 0).sum()) for name, p in model.named_parameters() if p.ndim > 1}
    costs = mp.networks.weight_macs(model, data[0], missing=0.0)
    pruned = {name: p for name, p in model.named_parameters() if name in kept and not name.startswith("linear")}
    if "nnz" in budget:
        assert sum(kept[name] for name in pruned) <= budget["nnz"] * sum(p.numel() for p in pruned.values())
    if "flops" in budget:
        spent = sum(kept[name] * costs[name] for name in pruned)
        assert spent <= budget["flops"] * sum(p.numel() * costs[name] for name, p in pruned.items())
    assert len({round(row.density, 2) for row in report.rows}) > 1  # not all layers alike


def test_the_sum_of_errors_is_no_larger_than_at_one_density_for_all() -> None:
    allocation = Allocation(nnz=0.5, densities=GRID)
    model, data = mlp(), batches()
    shared = mp.networks.allocate(model, data, allocation, ADMM())
    uniform = sum(table.errors[GRID.index(0.5)] / table.scale for table in shared.tables)
    assert shared.solution.value <= uniform
    for table in shared.tables:
        problem_errors = dict(zip(table.densities, table.errors))
        assert problem_errors[1.0] == 0.0 and table.scale > 0
    before = copy.deepcopy(model.state_dict())
    report = prune(model, data, solver=ADMM(), allocation=allocation, sequential=False)
    for row in report.rows:  # what was promised on the dense network's inputs is what was delivered there
        table = next(t for t in shared.tables if t.layer == row.layer)
        assert row.value == pytest.approx(table.errors[GRID.index(shared.densities[row.layer])], rel=1e-6)
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@dataclass(frozen=True)
class Interrupted(Magnitude):
    """Magnitude pruning that is interrupted when it has solved so many problems."""

    left: ClassVar[list[int]] = [0]
    solved: ClassVar[list[int]] = [0]

    def solve(self, problem: Any, **options: Any) -> Any:
        if self.left[0] == 0:
            raise KeyboardInterrupt
        self.left[0] -= 1
        self.solved[0] += 1
        return super().solve(problem, **options)


@pytest.mark.parametrize("stop", [2, 5, 9, 13])
def test_an_interrupted_job_goes_on_where_it_stopped(tmp_path: Path, stop: int) -> None:
    """Three layers at four densities each make 12 solves, then three more prune."""
    allocation, data = Allocation(nnz=0.4, densities=GRID), batches()
    straight = mlp()
    prune(straight, data, solver=Magnitude(), allocation=allocation)
    model, out = mlp(), tmp_path / "job"
    Interrupted.left[0], Interrupted.solved[0] = stop, 0
    with pytest.raises(KeyboardInterrupt):
        prune(model, data, solver=Interrupted(), allocation=allocation, out=out)
    assert len(list((out / "tables").glob("*.json"))) == min(stop // 4, 3)
    with pytest.raises(mp.InvalidProblem, match="resume"):
        prune(mlp(), data, solver=Interrupted(), allocation=allocation, out=out)
    Interrupted.left[0] = 1000
    again = mlp() if stop % 2 else model  # a fresh network, or the one that may be partly pruned
    prune(again, data, solver=Interrupted(), allocation=allocation, out=out, resume=True)
    assert Interrupted.solved[0] == 15 + stop % 4 * (stop < 12)
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), again.state_dict().values()))
    check_file(out / "allocation.safetensors")


def test_tables_of_another_job_are_refused(tmp_path: Path) -> None:
    allocation, data, out = Allocation(nnz=0.4, densities=GRID), batches(), tmp_path / "job"
    mp.networks.allocate(mlp(), data, allocation, Magnitude(), out=out)
    for changed, message in [
        (lambda: mp.networks.allocate(mlp(), data, allocation, ADMM(), out=out, resume=True), "solver"),
        (lambda: mp.networks.allocate(mlp(), data[:2], allocation, Magnitude(), out=out, resume=True), "calibration"),
        (lambda: mp.networks.allocate(resnet(), data, allocation, Magnitude(), out=out, resume=True), "structures"),
    ]:
        with pytest.raises(mp.InvalidProblem, match=message):
            changed()
    tables = mp.networks.allocate(mlp(), data, Allocation(nnz=0.9, densities=GRID), Magnitude(), out=out, resume=True)
    assert tables.solution.value >= 0  # another budget may use the same tables
    file = sorted((out / "tables").glob("*.json"))[0]
    file.write_text("{}")
    with pytest.raises(mp.InvalidProblem, match="no table"):
        mp.networks.allocate(mlp(), data, allocation, Magnitude(), out=out, resume=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Allocation(), "needs a budget"),
        (lambda: Allocation(nnz=0.0), r"\(0, 1\]"),
        (lambda: Allocation(flops=1.5), r"\(0, 1\]"),
        (lambda: Allocation(nnz=0.5, densities=()), "rising"),
        (lambda: Allocation(nnz=0.5, densities=(0.5, 0.2)), "rising"),
        (lambda: Allocation(nnz=0.5, densities=(0.0, 0.2)), "rising"),
        (lambda: Allocation(nnz=0.5, error="cubic"), "choose"),
        (lambda: share_out([], Allocation(nnz=0.5)), "no table"),
        (lambda: share_out(draw_tables(0), Allocation(nnz=0.01, densities=GRID)), "smallest densities keep 0.09"),
        (lambda: prune(mlp(), batches()), "either a structure"),
        (lambda: prune(mlp(), batches(), mp.NofM(2, 4), allocation=Allocation(nnz=0.5)), "either a structure"),
        (lambda: prune(mlp(), [], allocation=Allocation(nnz=0.5)), "no batch"),
    ],
)
def test_what_cannot_work_is_refused(call: Any, message: str) -> None:
    with pytest.raises(mp.InvalidProblem, match=message):
        call()


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\ndef network():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8))\n"
    )
    np.save(tmp_path / "data.npy", np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32))
    words = ["prune", "net.py:network", "--calibration", "data.npy", "--no-certify", "--device", "cpu"]
    words += ["--solver", "magnitude", "--out", "out"]

    def ran(*more: str) -> int:
        with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as stopped:
            main([*words, *more])
        return int(str(stopped.value.code))

    assert ran("--allocate", "0.3", "--structure", "2:4") != 0
    assert "give one of" in capsys.readouterr().err
    assert ran("--allocate", "0.3") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert sum(row["kept"] for row in report["rows"]) <= 0.3 * sum(
        row["shape"][0] * row["shape"][1] for row in report["rows"]
    )
    assert ran("--allocate", "0.3", "--resume") == 0
