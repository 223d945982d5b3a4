"""The command line, as a user runs it: prune, interrupt, resume, check, tamper, and readable errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import mipprune as mp
from mipprune.cli import demo as demo_module
from mipprune.cli import main
from mipprune.cli import prune as prune_module
from mipprune.cli.options import SOLVERS, STRUCTURES, parse_structure, solver_of
from mipprune.errors import InvalidProblem
from mipprune.networks import load as load_network

NETWORK = """
import torch
from torch import nn

def network():
    net = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 8))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return net

def broken():
    net = network()
    with torch.no_grad():
        net[2].weight[0, 0] = torch.nan
    return net
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Ran(stopped.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and calibration data, as the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORK, encoding="utf-8")
    inputs = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    np.save(tmp_path / "data.npy", inputs)
    inputs[7, 3] = np.nan
    np.save(tmp_path / "nan.npy", inputs)
    np.save(tmp_path / "empty.npy", inputs[:0])
    return tmp_path


BASIC = ("prune", "net.py:network", "--calibration", "data.npy", "--certify-seconds", "0.1", "--device", "cpu")


# ----------------------------------------------------------------------------------------------------- the job


def test_prune_then_check(run: Run, workplace: Path) -> None:
    finished = run(*BASIC, "--structure", "2:4", "--out", "pruned")
    assert finished.code == 0, finished.err
    assert "total, 3 layers" in finished.out and "checked" in finished.out
    folder = workplace / "pruned"
    assert {"job.json", "report.json", "report.html", "model.safetensors", "certificates"} <= {
        path.name for path in folder.iterdir()
    }
    saved = load_network(f"{workplace / 'net.py'}:network", weights=folder / "model.safetensors").model
    for module in saved.modules():
        if isinstance(module, nn.Linear):
            assert mp.NofM(2, 4).violation(module.weight != 0) == 0
    rows = json.loads((folder / "report.json").read_text())["rows"]
    assert all(row["bound"] > 0 and row["proof"] == "checked" for row in rows)
    checked = run("check", "pruned")
    assert checked.code == 0, checked.err
    assert "has the certified weights in 3 layers" in checked.out
    assert checked.out.count("holds") == 3 and "3 solutions hold, 3 with a proven bound" in checked.out
    one = run("check", folder / "certificates" / "2.safetensors", "--exact")
    assert one.code == 0 and "1 solution hold" in one.out


@pytest.mark.parametrize("where", ["module", "huggingface"])
def test_interrupt_resume_check_tamper(where: str, run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "module":
        command: tuple[object, ...] = (*BASIC, "--out", "job")
        layers = 3
    else:
        save_tiny_llama(workplace / "llama")
        np.save(workplace / "ids.npy", np.random.default_rng(0).integers(0, 50, (20, 12)))
        command = ("prune", "llama", "--calibration", "ids.npy", "--certify-seconds", "0.05", "--out", "job")
        layers = 14
    with monkeypatch.context() as patched:
        patched.setattr(prune_module, "progress_bar", interrupting(after=2))
        stopped = run(*command)
    assert stopped.code == 130
    assert "Interrupted after 2 of" in stopped.err and "Continue with:\n  mipprune prune" in stopped.err
    resumed_with = stopped.err.strip().splitlines()[-1].split()
    assert resumed_with[0] == "mipprune" and resumed_with[-1] == "--resume"
    assert len(list((workplace / "job" / "certificates").glob("*.safetensors"))) == 2

    refused = run(*command)
    assert refused.code == 2 and "--resume" in refused.err
    finished = run(*resumed_with[1:])
    assert finished.code == 0, finished.err
    assert f"total, {layers} layers" in finished.out
    checked = run("check", "job")
    assert checked.code == 0 and f"certified weights in {layers} layers" in checked.out

    straight = run(*command[:-1], "straight", "--no-certify")
    assert straight.code == 0
    job, uninterrupted = (workplace / name / "model.safetensors" for name in ("job", "straight"))
    assert job.read_bytes() == uninterrupted.read_bytes()

    file = sorted((workplace / "job" / "certificates").glob("*.safetensors"))[1]
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    tampered = run("check", "job")
    assert tampered.code == 1
    assert "FAILED" in tampered.err and "was altered" in tampered.err and file.name in tampered.err
    assert tampered.out.count("ALTERED") == 1
    assert tampered.out.count("holds") == layers - 1, "the others are still checked"


def interrupting(after: int) -> Any:
    """A stand-in for the progress bar, during which Ctrl-C is pressed."""
    from contextlib import contextmanager

    @contextmanager
    def bar(title: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
        def advance(done: int, text: str) -> None:
            if done == after:
                raise KeyboardInterrupt

        yield advance

    return bar


def save_tiny_llama(folder: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=50,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    finally:
        torch.random.set_rng_state(state)


# -------------------------------------------------------------------------------------------------- tampering


@pytest.fixture
def finished_job(run: Run, workplace: Path) -> Path:
    assert run(*BASIC, "--out", "job").code == 0
    return workplace / "job"


@pytest.mark.parametrize("key", ["value", "bound", "kept", "undamped_value", "damping", "certify_seconds", "proof"])
def test_an_altered_report_is_found(key: str, run: Run, finished_job: Path) -> None:
    file = finished_job / "report.json"
    report = json.loads(file.read_text())
    old = report["rows"][1][key]
    report["rows"][1][key] = "claimed" if key == "proof" else old + 1
    file.write_text(json.dumps(report))
    found = run("check", finished_job)
    assert found.code == 1
    assert f"{key} of layer '2'" in found.err


def test_an_altered_network_is_found(run: Run, finished_job: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(finished_job / "model.safetensors")
    weights["4.weight"][0, 0] += 0.5
    save_file(weights, str(finished_job / "model.safetensors"))
    found = run("check", finished_job)
    assert found.code == 1
    assert "does not have the certified weights in layer '4'" in found.err


@pytest.mark.parametrize("kind", ["missing certificate", "foreign certificate", "report", "job"])
def test_an_incomplete_job_is_found(kind: str, run: Run, finished_job: Path) -> None:
    certificates = finished_job / "certificates"
    if kind == "missing certificate":
        (certificates / "2.safetensors").unlink()
    elif kind == "foreign certificate":
        job = json.loads((finished_job / "job.json").read_text())
        del job["layers"]["2"]
        (finished_job / "job.json").write_text(json.dumps(job))
    else:
        (finished_job / f"{kind}.json").write_text("{}")
    assert run("check", finished_job).code == 1


def test_certificates_may_be_moved_as_a_whole(run: Run, finished_job: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_job / "certificates", tmp_path / "elsewhere")
    assert run("check", tmp_path / "elsewhere").code == 0
    shutil.rmtree(tmp_path / "elsewhere" / "shared")
    gone = run("check", tmp_path / "elsewhere")
    assert gone.code == 1 and "is missing" in gone.err


# ------------------------------------------------------------------------------------------------------ errors

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "no model": (("prune", "nowhere", "--out", "x"), "no model 'nowhere'"),
    "no calibration file": ((*BASIC[:3], "nowhere.npy", "--out", "x"), "no file 'nowhere.npy'"),
    "no text": ((*BASIC[:2], "--out", "x"), "tokenizer"),
    "empty data": ((*BASIC[:3], "empty.npy", "--out", "x"), "0 samples"),
    "bad structure": ((*BASIC, "--structure", "2of4", "--out", "x"), "'2of4' is not known"),
    "n above m": ((*BASIC, "--structure", "5:4", "--out", "x"), "NofM(5, 4)"),
    "sparsity in per cent": ((*BASIC, "--structure", "unstructured:70", "--out", "x"), "must be >= 0 and < 1"),
    "not divisible": ((*BASIC, "--structure", "2:7", "--out", "x"), "does not fit 3 of 3 layers"),
    "groups not divisible": ((*BASIC, "--structure", "groups:5:0.5", "--out", "x"), "groups of 5"),
    "nan in weights": (("prune", "net.py:broken", *BASIC[2:], "--out", "x"), "layer '2' contain NaN"),
    "nan in activations": ((*BASIC[:3], "nan.npy", "--samples", "200", "--out", "x"), "layer '0' received NaN"),
    "skip matches nothing": ((*BASIC, "--skip", "lm_*", "--out", "x"), "'lm_*' matches no layer"),
    "everything skipped": ((*BASIC, "--skip", "*", "--out", "x"), "no layer to prune"),
    "out is the model": (("prune", ".", "--out", "."), "is the model itself"),
    "out is a file": ((*BASIC, "--out", "net.py"), "is a file"),
    "unknown solver": ((*BASIC, "--solver", "magic", "--out", "x"), "'magic' is not one of"),
    "no out": (BASIC, "Missing option '--out'"),
    "bad damping": ((*BASIC, "--damping", "-1", "--out", "x"), "--damping"),
    "nothing to check": (("check", "."), "holds no certificates"),
    "check nowhere": (("check", "nowhere"), "no file or folder"),
    "check a network": (("check", "net.safetensors"), "holds no problems"),
    "unknown module": (("check", ".", "--import", "no_such_module"), "no_such_module"),
    "unknown command": (("trim",), "No such command"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_are_one_readable_line(case: str, run: Run, workplace: Path) -> None:
    if case == "check a network":
        from safetensors.torch import save_file

        save_file({"w": torch.zeros(2)}, "net.safetensors")
    words, said = REFUSED[case]
    failed = run(*words)
    assert failed.code == 2
    assert said in failed.err
    assert "Traceback" not in failed.err
    if "Usage:" not in failed.err:
        assert failed.err.startswith("error: ")
    assert not (workplace / "x" / "certificates").exists(), "nothing was done"


def test_debug_shows_where_an_error_comes_from(workplace: Path) -> None:
    with pytest.raises(InvalidProblem):
        main([*BASIC, "--structure", "2of4", "--out", "x", "--debug"])


def test_cuda_is_asked_for_in_vain(run: Run, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    failed = run(*BASIC[:-1], "cuda", "--out", "x")
    assert failed.code == 2 and "no CUDA device" in failed.err


def test_windows_longer_than_the_model_are_refused(run: Run, workplace: Path) -> None:
    save_tiny_llama(workplace / "llama")
    failed = run("prune", "llama", "--calibration", "ids.npy", "--length", "64", "--out", "x")
    assert failed.code == 2 and "32 positions" in failed.err


# ----------------------------------------------------------------------------------------- structures, solvers


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_prunes(solver: str, run: Run, workplace: Path) -> None:
    out = run(*BASIC, "--solver", solver, "--structure", "4:8", "--no-certify", "--out", solver)
    assert out.code == 0, out.err
    rows = json.loads((workplace / solver / "report.json").read_text())["rows"]
    assert all(row["bound"] is None and row["proof"] == "none" for row in rows)
    assert run("check", solver).code == 0
    assert solver_of(solver).name


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_prunes(structure: str, run: Run, workplace: Path) -> None:
    out = run(*BASIC, "--structure", structure, "--no-certify", "--out", "x", "--no-sequential", "--seed", "3")
    assert out.code == 0, out.err
    saved = load_network("net.py:network", weights="x/model.safetensors").model
    rule = parse_structure(structure)
    for module in (module for module in saved.modules() if isinstance(module, nn.Linear)):
        mask = module.weight != 0
        shape = (mask.shape[0], mask.shape[1])
        assert (rule if isinstance(rule, mp.Supports) else rule("", shape)).violation(mask) == 0
        assert 0.25 < float(mask.double().mean()) < 0.75


def test_structures_are_read() -> None:
    assert parse_structure("1:4") == mp.NofM(1, 4) or repr(parse_structure("1:4")) == repr(mp.NofM(1, 4))
    rule = parse_structure("unstructured:0.7")
    assert callable(rule) and repr(rule("x", (10, 20))) == repr(mp.Cardinality(60))
    rule = parse_structure("groups:4:0.75")
    assert callable(rule) and repr(rule("x", (2, 16))) == repr(mp.Groups(4, 1))
    for text in ("", "2:4:8", "unstructured", "per-row:1", "per-row:-0.5", "groups:0:0.5", "groups:4", "dense"):
        with pytest.raises(InvalidProblem):
            parse_structure(text)


def test_workers_give_the_same_network(run: Run, workplace: Path) -> None:
    for name, more in {"one": (), "two": ("--workers", "2")}.items():
        assert run(*BASIC, "--no-certify", "--no-sequential", *more, "--out", name).code == 0
    one, two = (workplace / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


# ---------------------------------------------------------------------------------------------- other commands


def test_version_and_info(run: Run) -> None:
    assert run("--version").out.strip().endswith(mp.__version__)
    shown = run("info")
    assert shown.code == 0
    for word in ("torch", "SCIP", "HiGHS", "cpu", "unstructured:0.7", "alps"):
        assert word in shown.out


@pytest.mark.parametrize("command", ["demo", "prune", "check", "info"])
def test_every_command_explains_itself(command: str, run: Run) -> None:
    shown = run(command, "--help")
    assert shown.code == 0 and "Usage: mipprune" in shown.out and "--debug" in shown.out


@pytest.mark.slow
def test_the_demonstration(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one block and with little time for the bounds; `make demo` runs the whole of it."""
    monkeypatch.setattr(demo_module, "_in_first_blocks", lambda layer: ".0.attention." in layer.name)
    monkeypatch.setattr(demo_module, "_CERTIFIED_BY", {True: 0.0, False: 0.0})
    shown = run("demo", "--quick", "--workers", "1", "--out", tmp_path)
    assert shown.code == 0, shown.err
    for word in ("magnitude", "wanda", "sparsegpt", "alps", "2:4", "unstructured:0.5", "re-checked 8 certificates"):
        assert word in shown.out
    assert "certified gap" in (tmp_path / "report.html").read_text(encoding="utf-8")
    files = sorted((tmp_path / "certificates").glob("*.safetensors"))
    assert len(files) == 8
    assert run("check", tmp_path).code == 0
