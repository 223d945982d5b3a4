"""The command line on whole networks within budgets: prune, check, tamper, interrupt, resume, readable errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from mipprune.cli import main

NETWORK = """
import torch
from torch import nn

def network():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*words: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Ran(stopped.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    images = generator.standard_normal((40, 1, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=generator.integers(0, 5, 40))
    return tmp_path


def test_prune_check_and_tamper(run: Callable[..., Ran], folder: Path) -> None:
    words = ["prune", f"{folder / 'net.py'}:network", "--calibration", folder / "data.npz", "--samples", 30]
    out = folder / "out"
    ran = run(*words, "--nnz", 0.5, "--flops", 0.4, "--ridge", 0.1, "--out", out)
    assert ran.code == 0, ran.err
    report = json.loads((out / "report.json").read_text())
    assert report["stages"][0]["proof"] == "checked"
    kept = {layer["name"]: layer["kept"] for layer in report["layers"]}
    assert sum(kept.values()) <= 178 and 16 * kept["0.weight"] + kept["3.weight"] <= 0.4 * (16 * 36 + 320)
    checked = run("check", out)
    assert checked.code == 0 and "has the certified weights in 2 layers" in checked.out

    assert "already holds a pruning job" in run(*words, "--nnz", 0.5, "--out", out).err
    again = run(*words, "--nnz", 0.5, "--flops", 0.4, "--ridge", 0.1, "--out", out, "--resume")
    assert again.code == 0, again.err

    report["stages"][-1]["value"] += 1.0
    (out / "report.json").write_text(json.dumps(report))
    tampered = run("check", out)
    assert tampered.code == 1 and "value of the last stage" in tampered.err

    from safetensors.torch import load_file, save_file

    state = load_file(out / "model.safetensors")
    state["3.weight"][0, 0] += 1.0
    save_file(state, out / "model.safetensors")
    assert "does not have the certified weights" in run("check", out).err


def test_stages_methods_and_generated_inputs(run: Callable[..., Ran], folder: Path) -> None:
    words = ["prune", f"{folder / 'net.py'}:network", "--inputs", "1x6x6", "--samples", 20, "--nnz", 0.3]
    for method in ("dual", "magnitude", "surgeon", "first-order", "blocks"):
        out = folder / method
        ran = run(*words, "--method", method, "--stages", 2, "--out", out)
        assert ran.code == 0, ran.err
        assert len(json.loads((out / "report.json").read_text())["stages"]) == 2
        assert run("check", out).code == 0


def test_an_interrupted_job_resumes(run: Callable[..., Ran], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["prune", f"{folder / 'net.py'}:network", "--inputs", "1x6x6", "--samples", 20, "--nnz", 0.3]
    words += ["--stages", 3, "--out", folder / "out"]
    from mipprune.networks import budgeted

    original, calls = budgeted.sample_gradients, []

    def interrupted(*arguments: object, **settings: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(budgeted, "sample_gradients", interrupted)
    first = run(*words)
    assert first.code == 130 and "--resume" in first.err
    assert run(*words, "--resume").code == 0
    assert len(calls) == 4  # the finished stage is not repeated
    assert len(json.loads((folder / "out" / "report.json").read_text())["stages"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nnz", 0.5, "--structure", "2:4"], "--structure belongs to pruning layer by layer"),
        (["--nnz", 0.5, "--solver", "alps", "--damping", 0.1], "--solver, --damping belongs"),
        (["--stages", 3], "add --nnz or --flops"),
        (["--nnz", 1.5], "1.5"),
        (["--nnz", 0.5, "--inputs", "3 x 4"], "is no shape"),
        (["--nnz", 0.5, "--inputs", "1x6x6", "--calibration", "x.npz"], "give one of the two"),
        (["--nnz", 0.5, "--calibration", "missing.npz"], "no file"),
    ],
)
def test_what_the_command_refuses(run: Callable[..., Ran], folder: Path, words: list[object], message: str) -> None:
    ran = run("prune", f"{folder / 'net.py'}:network", "--out", folder / "out", *words)
    assert ran.code == 2 and message in ran.err
