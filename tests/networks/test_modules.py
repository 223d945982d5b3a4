"""Which layers are found, and that their matrices are what the modules multiply by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mipprune.errors import InvalidProblem
from mipprune.networks import blocks, prunable, survey
from tests.networks.models import bert, gpt2, irregular, llama, mlp, resnet, t5

CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 1)},
    {"kernel_size": 3, "padding": 1, "dilation": 2},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": (4, 2), "padding": "same", "dilation": (1, 2)},
    {"kernel_size": 3, "padding": "valid", "stride": 2},
    {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
    {"kernel_size": 4, "padding": "same", "padding_mode": "replicate"},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "groups": 2, "stride": 2, "padding_mode": "circular", "padding": 2},
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_a_convolution_is_its_patches_times_its_matrix(settings: dict[str, Any], generator: torch.Generator) -> None:
    module = nn.Conv2d(4, 6, bias=False, dtype=torch.float64, **settings)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64, generator=generator)
    layers = prunable(nn.ModuleDict({"conv": module}))
    assert len(layers) == module.groups
    parts = [layer.inputs(x) @ layer.weight_matrix().T for layer in layers]
    expected = module(x)
    rows = expected.permute(0, 2, 3, 1).reshape(-1, 6)
    torch.testing.assert_close(torch.cat(parts, dim=1), rows, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layers[0].inputs(x[0]), layers[0].inputs(x[:1]))


@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_writing_a_convolution_changes_only_its_own_group(settings: dict[str, Any]) -> None:
    module = nn.Conv2d(4, 6, **settings)
    layers = prunable(nn.ModuleDict({"conv": module}))
    before = [layer.weight_matrix() for layer in layers]
    layers[-1].write(2 * before[-1])
    assert torch.equal(layers[-1].weight_matrix(), 2 * before[-1])
    for layer, matrix in zip(layers[:-1], before):
        assert torch.equal(layer.weight_matrix(), matrix)


def test_transposed_linear_layers_of_gpt2(generator: torch.Generator) -> None:
    model = gpt2()
    layer = next(layer for layer in prunable(model) if layer.name == "transformer.h.0.attn.c_attn")
    assert layer.kind == "conv1d"
    assert layer.shape == (48, 16) == tuple(layer.weight_matrix().shape)
    x = torch.randn(2, 5, 16, generator=generator)
    with torch.no_grad():
        expected = layer.module(x) - layer.module.bias
    torch.testing.assert_close(layer.inputs(x) @ layer.weight_matrix().T, expected.reshape(10, 48))
    matrix = torch.randn(48, 16, generator=generator)
    layer.write(matrix)
    assert torch.equal(layer.module.weight, matrix.T)


def test_weight_matrix_is_a_copy_and_writing_keeps_the_parameter() -> None:
    model = mlp()
    layer = prunable(model)[0]
    parameter = model[0].weight
    layer.weight_matrix().zero_()
    assert bool((parameter != 0).any())
    layer.write(torch.zeros(8, 6, dtype=torch.float64))
    assert model[0].weight is parameter
    assert parameter.dtype == torch.float32
    assert parameter.requires_grad
    assert not bool((parameter != 0).any())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_writing_rounds_to_the_dtype_of_the_layer(dtype: torch.dtype) -> None:
    layer = prunable(nn.Sequential(nn.Linear(3, 2, dtype=dtype)))[0]
    matrix = torch.tensor([[1 / 3, 0.0, -2.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    layer.write(matrix)
    assert layer.weight_matrix().dtype == dtype
    assert torch.equal(layer.weight_matrix(), matrix.to(dtype))


def test_writing_refuses_wrong_shapes_and_values_that_are_not_finite() -> None:
    layer = prunable(nn.Sequential(nn.Linear(3, 2, dtype=torch.float16)))[0]
    before = layer.weight_matrix()
    with pytest.raises(InvalidProblem, match=r"\(2, 3\).*\(3, 2\)"):
        layer.write(torch.zeros(3, 2))
    for bad in (float("nan"), float("inf"), 1e6):  # 1e6 is beyond half precision
        with pytest.raises(InvalidProblem, match="not all finite"):
            layer.write(torch.full((2, 3), bad))
    assert torch.equal(layer.weight_matrix(), before)


def test_embeddings_heads_and_tied_weights_are_left_alone_with_reasons() -> None:
    model = llama(tie_word_embeddings=True)
    found = survey(model)
    reasons = {entry.name: entry.reason for entry in found.skipped}
    assert set(reasons) == {"model.embed_tokens", "lm_head"}
    assert "tied to the embedding 'model.embed_tokens'" in reasons["lm_head"]
    assert "looked up" in reasons["model.embed_tokens"]
    assert len(found.layers) == 14
    untied = {entry.name: entry.reason for entry in survey(llama(tie_word_embeddings=False)).skipped}
    assert "output head" in untied["lm_head"]


def test_heads_are_recognised_by_name_in_other_networks() -> None:
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "classifier": nn.Linear(4, 2)})
    assert [layer.name for layer in prunable(model)] == ["body"]
    assert [layer.name for layer in prunable(model, include=["classifier"])] == ["body", "classifier"]


def test_skip_and_include_are_patterns() -> None:
    model = llama()
    names = [layer.name for layer in prunable(model, skip=["*"], include=["model.layers.1.mlp.*"])]
    assert names == [f"model.layers.1.mlp.{kind}_proj" for kind in ("gate", "up", "down")]
    found = survey(model, skip=["*.q_proj"])
    assert sum("skip pattern '*.q_proj'" in entry.reason for entry in found.skipped) == 2
    assert "lm_head" in [layer.name for layer in prunable(model, include=["lm_head"])]


@pytest.mark.parametrize("where", ["skip", "include"])
def test_a_pattern_that_matches_nothing_is_an_error(where: str) -> None:
    with pytest.raises(InvalidProblem, match="'layer7' matches no layer"):
        prunable(mlp(), **{where: ["layer7"]})


def test_shared_weights_are_one_layer_with_aliases(generator: torch.Generator) -> None:
    model = irregular()
    found = survey(model)
    assert found.tied == (("branches.2", "mirror"),)
    layer = next(layer for layer in found.layers if layer.aliases)
    layer.write(torch.randn(6, 6, generator=generator))
    assert model.mirror.weight is model.branches[2].weight
    assert torch.equal(model.mirror.weight, layer.weight_matrix())


def test_what_cannot_be_pruned_is_named_with_the_reason() -> None:
    shared = nn.Linear(4, 4)
    parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    model = nn.ModuleDict(
        {
            "depthwise": nn.Conv2d(4, 8, 3, groups=4),
            "attention": nn.MultiheadAttention(4, 2),
            "sound": nn.Conv1d(4, 4, 3),
            "normed": parametrised,
            "lazy": nn.LazyLinear(3),
            "meta": nn.Linear(3, 3, device="meta"),
            "good": shared,
        }
    )
    found = survey(model)
    assert [layer.name for layer in found.layers] == ["good"]
    reasons = {entry.name: entry.reason for entry in found.skipped}
    for name, words in {
        "depthwise": "depthwise",
        "attention": "MultiheadAttention",
        "attention.out_proj": "MultiheadAttention",
        "sound": "Conv1d layers are not supported",
        "normed": "parametrisation",
        "lazy": "no shape yet",
        "meta": "not in memory",
    }.items():
        assert words in reasons[name]
    with pytest.raises(InvalidProblem, match="asked for by name"):
        prunable(model, include=["depthwise"])


def test_blocks_of_the_usual_networks() -> None:
    assert [block.name for block in blocks(llama())] == ["model.layers.0", "model.layers.1"]
    assert [block.name for block in blocks(bert())] == ["encoder.layer.0", "encoder.layer.1", "pooler.dense"]
    assert [block.name for block in blocks(gpt2())] == ["transformer.h.0", "transformer.h.1"]
    assert [block.name for block in blocks(mlp())] == ["0", "2", "4"]
    assert [block.name for block in blocks(t5())] == [
        "encoder.block.0",
        "encoder.block.1",
        "decoder.block.0",
        "decoder.block.1",
    ]
    convolutional = ["stem", "first.0", "first.1", "second.0", "second.1.1", "linear"]
    assert [block.name for block in blocks(resnet())] == convolutional


def test_every_layer_is_in_exactly_one_block() -> None:
    for model in (llama(), bert(), gpt2(), t5(), mlp(), resnet(), irregular()):
        names = [layer.name for block in blocks(model) for layer in block.layers]
        assert sorted(names) == sorted(layer.name for layer in prunable(model))
