"""Pruning whole networks: structure, errors, bounds, resuming, and what cannot work is said before any work."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mipprune as mp
from mipprune.errors import CertificateError, InvalidProblem, SolverFailure, Unsupported
from mipprune.io import check_file
from mipprune.networks import LayerRow, Report, calibrate, prune
from mipprune.solvers import ADMM, Magnitude

ROOT = Path(__file__).resolve().parents[2]
CHEAP = mp.Budget(seconds=0.1)


def mlp(seed: int = 0, widths: tuple[int, ...] = (16, 24, 24, 8), dtype: torch.dtype = torch.float32) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    net = nn.Sequential(*layers[:-1])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return net.to(dtype)


def batches(seed: int = 1, width: int = 16, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(40, width, generator=generator) for _ in range(count)]


def half(name: str, shape: tuple[int, int]) -> mp.Cardinality:
    return mp.Cardinality(round(0.5 * shape[0] * shape[1]))


def weights(net: nn.Module) -> list[Tensor]:
    return [module.weight.detach().clone() for module in net.modules() if isinstance(module, nn.Linear)]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))


STRUCTURES: dict[str, Any] = {
    "2:4": mp.NofM(2, 4),
    "4:8": mp.NofM(4, 8),
    "unstructured": half,
    "per row": lambda name, shape: mp.PerRow(shape[1] // 2),
    "groups": lambda name, shape: mp.Groups(4, shape[1] // 8),
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("sequential", [True, False])
def test_every_layer_gets_its_structure(structure: str, sequential: bool) -> None:
    net, dense = mlp(), mlp()
    choice = STRUCTURES[structure]
    report = prune(net, batches(), choice, sequential=sequential)
    assert report.complete and [row.layer for row in report.rows] == ["0", "2", "4"]
    for row, pruned, before in zip(report.rows, weights(net), weights(dense)):
        supports = choice if isinstance(choice, mp.Supports) else choice(row.layer, row.shape)
        assert supports.violation(pruned != 0) == 0
        assert row.kept == int((pruned != 0).sum()) <= 0.5 * row.size
        assert not torch.equal(pruned, before)
    assert report.density <= 0.5
    assert 0 < report.relative_error < 1
    for module, untouched in zip(net, dense):
        if isinstance(module, nn.Linear):
            assert torch.equal(module.bias, untouched.bias)


def test_the_numbers_of_the_report_are_those_of_the_network() -> None:
    """Recomputed from the network and its inputs, not from the report's own formulas."""
    net, dense = mlp(), mlp()
    data = batches()
    report = prune(net, data, mp.NofM(2, 4), certify=CHEAP, sequential=True)
    inputs = torch.cat(data)
    for number, row in enumerate(report.rows):
        layer, before = net[2 * number], dense[2 * number]
        assert isinstance(layer, nn.Linear) and isinstance(before, nn.Linear)
        target = (inputs @ before.weight.T).double().detach()
        error = float(((inputs @ layer.weight.T).double() - target).detach().square().sum() / target.square().sum())
        assert row.undamped_error == pytest.approx(error, rel=1e-3)
        assert row.written_error == pytest.approx(row.relative_error, rel=1e-3)
        assert row.proof == "checked"
        assert row.relative_bound is not None and 0 < row.relative_bound <= row.relative_error
        assert row.tokens == len(inputs)
        inputs = torch.relu(layer(inputs)).detach()  # the next layer sees the pruned one
    assert report.bound is not None and report.bound <= report.relative_error


def test_sequential_pruning_sees_the_pruned_layers() -> None:
    """The first layer agrees in both modes, later ones do not."""
    one, other = mlp(), mlp()
    first = prune(one, batches(), mp.NofM(2, 4))
    second = prune(other, batches(), mp.NofM(2, 4), sequential=False)
    assert first.rows[0].value == pytest.approx(second.rows[0].value, rel=1e-6)
    assert abs(first.rows[2].scale / second.rows[2].scale - 1) > 1e-4


def test_the_same_seed_and_data_give_the_same_network() -> None:
    one, other = mlp(), mlp()
    prune(one, batches(), half, seed=3)
    prune(other, batches(), half, seed=3)
    assert same(one, other)


def _executor(kind: str) -> Executor:
    if kind == "threads":
        return ThreadPoolExecutor(2)
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


@pytest.mark.parametrize(("kind", "sequential"), [("threads", True), ("threads", False), ("processes", False)])
def test_any_executor_gives_the_same_network(kind: str, sequential: bool, tmp_path: Path) -> None:
    here, elsewhere = mlp(), mlp()
    prune(here, batches(), mp.NofM(2, 4), sequential=sequential)
    with _executor(kind) as executor:
        report = prune(
            elsewhere,
            batches(),
            mp.NofM(2, 4),
            sequential=sequential,
            executor=executor,
            out=tmp_path / "job",
        )
    assert [row.layer for row in report.rows] == ["0", "2", "4"]
    assert same(here, elsewhere)
    assert len([check_file(file) for file in (tmp_path / "job" / "certificates").glob("*.safetensors")]) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_keep_their_dtype_and_structure(dtype: torch.dtype, tmp_path: Path) -> None:
    net = mlp(dtype=dtype)
    report = prune(net, batches(), mp.NofM(2, 4), out=tmp_path)
    for row, weight in zip(report.rows, weights(net)):
        assert weight.dtype == dtype
        assert mp.NofM(2, 4).violation(weight != 0) == 0
        if dtype == torch.bfloat16:
            assert row.written_error > row.relative_error, "rounding to 8 bits costs something, and the report says so"


def test_a_singular_gram_matrix_is_damped_more_and_the_report_says_so() -> None:
    net = mlp()
    data = [torch.randn(6, 16, generator=torch.Generator().manual_seed(0))]  # 6 tokens for 16 inputs
    report = prune(net, data, mp.NofM(2, 4), damping=0.0)
    for row in report.rows:
        assert row.damping > 0
        assert any("not positive definite" in note for note in row.notes)
        assert any("6 calibration tokens" in note for note in row.notes)
    assert "not positive definite" in report.to_table()


def test_dead_inputs_are_pruned_and_named() -> None:
    net = mlp()
    data = [batch * (torch.arange(16) % 4 != 0) for batch in batches()]
    report = prune(net, data, mp.NofM(2, 4))
    assert "4 inputs were zero" in report.rows[0].notes[0]
    assert not bool(weights(net)[0][:, ::4].any())


def test_layers_without_input_are_reported_not_pruned() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.starved = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.starved(0.0 * self.used(x))

    for sequential in (True, False):
        net = Partly()
        before = copy.deepcopy(net)
        report = prune(net, [torch.randn(40, 8)], mp.NofM(2, 4), sequential=sequential)
        assert [row.layer for row in report.rows] == ["used"]
        assert report.complete
        reasons = dict(report.skipped)
        assert "never called" in reasons["unused"] and "zero" in reasons["starved"]
        assert torch.equal(net.unused.weight, before.unused.weight)
        assert torch.equal(net.starved.weight, before.starved.weight)


def test_tied_weights_are_pruned_once() -> None:
    net = mlp(widths=(16, 16, 16, 8))
    net[2].weight = net[0].weight  # type: ignore[union-attr]
    report = prune(net, batches(), mp.NofM(2, 4))
    assert [row.layer for row in report.rows] == ["0", "4"]
    assert net[2].weight is net[0].weight  # type: ignore[union-attr]
    assert report.rows[0].tokens == 2 * 160


def test_the_structure_may_depend_on_the_layer_and_leave_it_dense() -> None:
    net, dense = mlp(), mlp()
    report = prune(net, batches(), lambda name, shape: None if name == "2" else mp.NofM(1, 4))
    assert [row.layer for row in report.rows] == ["0", "4"]
    assert torch.equal(weights(net)[1], weights(dense)[1])
    assert ("2", "left dense by the choice of structures") in report.skipped


# ------------------------------------------------------------------------------------------- what cannot work


def test_layers_that_do_not_fit_are_listed_before_any_work() -> None:
    net = mlp(widths=(16, 18, 20, 8))
    before = copy.deepcopy(net)
    with pytest.raises(InvalidProblem, match=r"does not fit 1 of 3 layers: 2 \(.*18.*--skip"):
        prune(net, batches(), mp.NofM(2, 4))
    assert same(net, before)
    assert prune(net, batches(), mp.NofM(2, 4), skip=["2"]).complete


@pytest.mark.parametrize("place", ["weights", "activations"])
def test_nan_is_refused_with_the_name_of_the_layer(place: str) -> None:
    net, data = mlp(), batches()
    if place == "weights":
        with torch.no_grad():
            net[2].weight[0, 0] = torch.nan  # type: ignore[index, union-attr]
    else:
        data[1][3, 3] = torch.nan
    with pytest.raises(InvalidProblem, match="layer '2'" if place == "weights" else "layer '0'"):
        prune(net, data, mp.NofM(2, 4))


def test_unusable_requests_are_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblem, match="no batch"):
        prune(mlp(), [], mp.NofM(2, 4))
    with pytest.raises(InvalidProblem, match="no layer to prune"):
        prune(nn.Sequential(nn.ReLU()), batches(), mp.NofM(2, 4))
    with pytest.raises(InvalidProblem, match="family of supports"):
        prune(mlp(), batches(), lambda name, shape: "2:4")  # type: ignore[arg-type, return-value]
    with pytest.raises(InvalidProblem, match="needs the folder"):
        prune(mlp(), batches(), mp.NofM(2, 4), resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidProblem, match="is a file"):
        prune(mlp(), batches(), mp.NofM(2, 4), out=tmp_path / "file")
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "0.safetensors").touch()
    with pytest.raises(InvalidProblem, match=r"no job\.json"):
        prune(mlp(), batches(), mp.NofM(2, 4), out=tmp_path)


class Refusing(Magnitude):
    def rejects(self, problem: mp.Problem) -> str | None:
        return "it is Monday"


class Failing(Magnitude):
    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        return mp.Solution.of(problem, None, stop=mp.Stop.TIME)


def test_a_solver_that_refuses_or_fails_is_named_with_the_layer() -> None:
    with pytest.raises(Unsupported, match=r"layer '0': .*it is Monday"):
        prune(mlp(), batches(), mp.NofM(2, 4), Refusing())
    with pytest.raises(SolverFailure, match=r"layer '0': .*found no admissible weights \(time limit\)"):
        prune(mlp(), batches(), mp.NofM(2, 4), Failing())


# --------------------------------------------------------------------------------------------------- resuming


def interrupt_after(count: int) -> Any:
    def progress(row: LayerRow, done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
def test_an_interrupted_job_is_resumed_to_the_same_result(sequential: bool, fresh: bool, tmp_path: Path) -> None:
    straight = mlp()
    expected = prune(straight, batches(), mp.NofM(2, 4), certify=CHEAP, sequential=sequential)
    net = mlp()
    options: dict[str, Any] = {"certify": CHEAP, "sequential": sequential, "out": tmp_path}
    with pytest.raises(KeyboardInterrupt, match=r"after 2 of 3 layers.*resume=True"):
        prune(net, batches(), mp.NofM(2, 4), progress=interrupt_after(2), **options)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "certificates").glob("*.safetensors")}
    assert len(files) == 2
    seen: list[str] = []
    net = mlp() if fresh else net  # a new process, or the network as the interrupted run left it
    report = prune(
        net,
        batches(),
        mp.NofM(2, 4),
        resume=True,
        progress=lambda row, done, total: seen.append(row.layer),
        **options,
    )
    assert seen == ["4"], "nothing is repeated"
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert same(net, straight)
    assert [row.layer for row in report.rows] == [row.layer for row in expected.rows]
    assert [row.value for row in report.rows] == pytest.approx([row.value for row in expected.rows], rel=1e-9)
    again = prune(mlp(), batches(), mp.NofM(2, 4), resume=True, **options)
    assert again.rows == report.rows


class Interrupted(Magnitude):
    """A solver in which Ctrl-C was pressed: it returns what it has."""

    def solve(self, problem: mp.Problem, **options: Any) -> mp.Solution:
        solution = super().solve(problem, **options)
        return mp.Solution.of(problem, solution.point, stop=mp.Stop.USER)


def test_an_interrupted_search_is_not_recorded_as_a_result(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match="after 0 of 3"):
        prune(mlp(), batches(), mp.NofM(2, 4), Interrupted(), out=tmp_path)
    assert not list(tmp_path.glob("certificates/*"))


def test_progress_may_stop_a_job(tmp_path: Path) -> None:
    report = prune(
        mlp(), batches(), mp.NofM(2, 4), sequential=False, out=tmp_path, progress=lambda row, done, total: done == 1
    )
    assert len(report.rows) == 1 and not report.complete
    assert prune(mlp(), batches(), mp.NofM(2, 4), sequential=False, out=tmp_path, resume=True).complete


KILLED = """
import sys, time
sys.path.insert(0, {root!r})
from tests.networks.test_prune import batches, mlp
import mipprune as mp
from mipprune.networks import prune

def progress(row, done, total):
    if done == 2:
        print("ready", flush=True)
        time.sleep(60)

prune(mlp(), batches(), mp.NofM(2, 4), out={out!r}, progress=progress)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_job_is_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED.format(root=str(ROOT), out=str(tmp_path))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    leftover = tmp_path / "certificates" / ".4.safetensors.123.tmp"
    leftover.write_bytes(b"half a file")
    seen: list[str] = []
    net, straight = mlp(), mlp()
    prune(
        net,
        batches(),
        mp.NofM(2, 4),
        out=tmp_path,
        resume=True,
        progress=lambda row, done, total: seen.append(row.layer),
    )
    prune(straight, batches(), mp.NofM(2, 4))
    assert seen == ["4"]
    assert same(net, straight)
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"structure": mp.NofM(1, 4)}, "layer '0': .*structure"),
        ({"solver": Magnitude()}, "'solver'"),
        ({"damping": 0.02}, "'damping'"),
        ({"seed": 1}, "'seed'"),
        ({"sequential": False}, "'sequential'"),
        ({"certify": CHEAP}, "'certify'"),
        ({"skip": ["4"]}, "other layers: 4"),
        ({"batches": batches(seed=5)}, "calibration data differ"),
        ({"model": mlp(seed=5)}, "layer '0' has other weights"),
        ({"model": mlp(dtype=torch.float64)}, "layer '0': .*dtype"),
        ({"resume": False}, "already holds a pruning job"),
    ],
)
def test_a_job_is_not_mixed_with_another(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": mlp(), "batches": batches(), "structure": mp.NofM(2, 4), "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        prune(**options, progress=interrupt_after(1))
    options |= {"model": mlp(), "resume": True}
    with pytest.raises(InvalidProblem, match=named):
        prune(**{**options, **change})
    assert prune(**options).complete, "and the job itself is unharmed"


def test_an_altered_layer_file_is_refused(tmp_path: Path) -> None:
    prune(mlp(), batches(), mp.NofM(2, 4), out=tmp_path)
    file = tmp_path / "certificates" / "2.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(CertificateError, match=r"2\.safetensors.*altered"):
        prune(mlp(), batches(), mp.NofM(2, 4), out=tmp_path, resume=True)


# ---------------------------------------------------------------------------------------- real architectures


def tiny(family: str) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    import transformers

    common: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 50,
        "max_position_embeddings": 32,
    }
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    try:
        if family == "bert":
            model: nn.Module = transformers.BertModel(transformers.BertConfig(**common))
        else:
            config = transformers.LlamaConfig(**common, num_key_value_heads=1, tie_word_embeddings=False)
            model = transformers.LlamaForCausalLM(config)
    finally:
        torch.random.set_rng_state(state)
    ids = torch.randint(50, (12, 16), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    return model, [{"input_ids": a, "attention_mask": b} for a, b in zip(ids.split(4), mask.split(4))]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_transformers_are_pruned_resumed_and_checked(family: str, tmp_path: Path) -> None:
    straight, data = tiny(family)
    report = prune(straight, data, mp.NofM(2, 4), ADMM())
    net, _ = tiny(family)
    with pytest.raises(KeyboardInterrupt):
        prune(net, data, mp.NofM(2, 4), ADMM(), certify=CHEAP, out=tmp_path, progress=interrupt_after(5))
    net, _ = tiny(family)
    resumed = prune(net, data, mp.NofM(2, 4), ADMM(), certify=CHEAP, out=tmp_path, resume=True)
    assert same(net, straight)
    assert [row.layer for row in resumed.rows] == [row.layer for row in report.rows]
    assert {row.tokens for row in report.rows} >= {12 * 16 - 8}, "padding does not count"
    files = sorted((tmp_path / "certificates").glob("*.safetensors"))
    assert len(files) == len(report.rows)
    # Query, key and value read the same inputs: their Gram matrix is stored once.
    assert len(list((tmp_path / "certificates" / "shared").iterdir())) < len(files)
    for file in files:
        (checked,) = check_file(file).values()
        assert checked.bound is not None


def test_admm_beats_magnitude_on_every_layer() -> None:
    magnitude, data = tiny("bert")
    admm, _ = tiny("bert")
    grams = calibrate(admm, data)
    assert grams
    one = prune(magnitude, data, half, Magnitude(), sequential=False)
    other = prune(admm, data, half, ADMM(), sequential=False)
    for row, better in zip(one.rows, other.rows):
        assert better.relative_error < row.relative_error


# ---------------------------------------------------------------------------------------------------- report


def test_a_report_survives_json_and_makes_a_page(tmp_path: Path) -> None:
    started = time.perf_counter()
    report = prune(mlp(), batches(), mp.NofM(2, 4), certify=CHEAP, skip=["4"])
    assert 0 < report.seconds <= time.perf_counter() - started
    assert Report.from_json(report.to_json()) == report
    text = report.to_table()
    assert text.count("\n") >= 5 and "total, 2 layers" in text and "checked" in text
    page = report.to_html(tmp_path / "report.html", title="A <title>").read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page and "{{" not in page
    for part in ("Relative error of each layer", "Certified gap", "Seconds", "proven at least", "skip pattern"):
        assert part in page
    assert page.count('<svg class="plot"') == 3
    assert "http" not in page.replace("http-equiv", ""), "nothing is fetched"


def test_a_report_is_not_read_from_anything_else() -> None:
    for text in ("", "[]", "{}", '{"rows": [{"layer": "x"}]}'):
        with pytest.raises(InvalidProblem, match="not a report"):
            Report.from_json(text)
