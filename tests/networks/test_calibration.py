"""One pass of calibration: right matrices, shared work, and nothing left behind in the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem
from mipprune.networks import calibrate, prunable
from tests.networks.models import bert, gpt2, hook_count, irregular, llama, mlp, resnet, t5, token_batches


def watched(model: nn.Module, batches: list[Any], run: Any) -> dict[str, tuple[Tensor, int]]:
    """Gram matrices by the plainest road: keep all inputs of every layer, multiply in float64 at the end."""
    seen: dict[str, list[Tensor]] = {}
    handles = []
    masks: list[Tensor | None] = [None]
    for layer in prunable(model):
        for reader in layer.readers():

            def hook(module: nn.Module, args: tuple[Tensor, ...], reader: Any = reader) -> None:
                x = args[0].detach().clone()
                if masks[0] is not None and x.shape[:2] == masks[0].shape:
                    x = x[masks[0]]
                seen.setdefault(reader.name, []).append(reader.inputs(x.float()).double())

            handles.append(reader.module.register_forward_pre_hook(hook))
    with torch.no_grad():
        for batch in batches:
            masks[0] = batch["attention_mask"].bool() if isinstance(batch, dict) and "attention_mask" in batch else None
            run(model, batch)
    for handle in handles:
        handle.remove()
    joined = {name: torch.cat(parts) for name, parts in seen.items()}
    return {name: (x.T @ x, len(x)) for name, x in joined.items()}


def call_with_keywords(model: nn.Module, batch: dict[str, Tensor]) -> object:
    return model(**batch)


def call_with_one(model: nn.Module, batch: Tensor) -> object:
    return model(batch)


def assert_same(grams: dict[str, Any], expected: dict[str, tuple[Tensor, int]], rtol: float = 1e-5) -> None:
    assert set(expected) <= set(grams)
    for name, (matrix, tokens) in expected.items():
        assert grams[name].tokens == tokens, name
        difference = float((grams[name].matrix() - matrix).abs().max())
        assert difference <= rtol * float(matrix.abs().max()), name


@pytest.mark.parametrize("build", [llama, bert, gpt2])
def test_transformers_with_padding(build: Any) -> None:
    model = build()
    grams = calibrate(model, token_batches())
    assert list(grams) == [layer.name for layer in prunable(model)]
    assert_same(grams, watched(model, token_batches(), call_with_keywords))


@pytest.mark.parametrize(("build", "shape"), [(mlp, (5, 6)), (irregular, (5, 6)), (resnet, (3, 3, 8, 8))])
def test_plain_networks(build: Any, shape: tuple[int, ...], generator: torch.Generator) -> None:
    model = build()
    batches = [torch.randn(shape, generator=generator) for _ in range(3)]
    grams = calibrate(model, [batch.clone() for batch in batches])
    assert_same(grams, watched(model, batches, call_with_one))


def test_encoder_and_decoder() -> None:
    ids = token_batches()[1]["input_ids"]
    batches = [{"input_ids": ids, "decoder_input_ids": ids[:, :3]}]
    model = t5()
    assert_same(calibrate(model, batches), watched(model, batches, call_with_keywords))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models(dtype: torch.dtype, generator: torch.Generator) -> None:
    model = llama().to(dtype)
    assert_same(calibrate(model, token_batches()), watched(model, token_batches(), call_with_keywords))
    convolutional = resnet().to(dtype)
    images = [torch.randn(3, 3, 8, 8, generator=generator).to(dtype)]
    grams = calibrate(convolutional, [images[0].clone()])
    assert_same(grams, watched(convolutional, images, call_with_one))


def test_layers_that_read_one_tensor_share_one_matrix() -> None:
    grams = calibrate(llama(), token_batches())
    attention, feed_forward = "model.layers.0.self_attn", "model.layers.0.mlp"
    assert grams[f"{attention}.q_proj"] is grams[f"{attention}.k_proj"] is grams[f"{attention}.v_proj"]
    assert grams[f"{feed_forward}.gate_proj"] is grams[f"{feed_forward}.up_proj"]
    assert grams[f"{attention}.q_proj"] is not grams[f"{attention}.o_proj"]
    assert grams[f"{attention}.q_proj"] is not grams["model.layers.1.self_attn.q_proj"]


class Changing(nn.Module):
    """Two layers that read one tensor in some batches only, and once changed in place in between."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 2)
        self.b = nn.Linear(3, 2)
        self.batch = 0

    def forward(self, x: Tensor) -> Tensor:
        self.batch += 1
        first = self.a(x)
        if self.batch == 2:
            x = x + 1
        elif self.batch == 3:
            x.mul_(2)
        return first + self.b(x)


def test_sharing_is_observed_in_every_batch_not_assumed(generator: torch.Generator) -> None:
    xs = [torch.randn(4, 3, generator=generator) for _ in range(3)]
    grams = calibrate(Changing(), [x.clone() for x in xs])
    for name, seen in {"a": xs, "b": [xs[0], xs[1] + 1, 2 * xs[2]]}.items():
        rows = torch.cat(seen).double()
        assert grams[name].tokens == 12
        torch.testing.assert_close(grams[name].matrix(), rows.T @ rows, rtol=1e-5, atol=1e-5)


def test_one_layer_called_twice_on_one_tensor_counts_it_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.a(x)

    assert calibrate(Twice(), [torch.ones(3, 2)])["a"].matrix()[0, 0] == 6


def test_layers_behind_torchs_fused_encoder_are_seen(generator: torch.Generator) -> None:
    """In evaluation mode torch computes encoder blocks in one kernel that calls no layer, unless told not to."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    grams = calibrate(model, [torch.randn(2, 5, 8, generator=generator)])
    assert {name: gram.tokens for name, gram in grams.items()} == {
        f"layers.{block}.linear{number}": 10 for block in (0, 1) for number in (1, 2)
    }
    assert torch.backends.mha.get_fastpath_enabled()


def test_batches_of_every_form_give_the_same(generator: torch.Generator) -> None:
    model = mlp()
    x = torch.randn(4, 6, generator=generator)
    labels = torch.zeros(4, dtype=torch.int64)
    expected = calibrate(model, [x])["0"].matrix()
    forms: list[Any] = [x, [(x, labels)], [[x]], [x.double().numpy()], [{"input": x}], iter([x[:1], x[1:]])]
    for form in forms:
        torch.testing.assert_close(calibrate(model, form)["0"].matrix(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", ["text", 3, ["text"]])
def test_things_that_are_no_batches_are_refused(form: Any) -> None:
    with pytest.raises(InvalidProblem, match=r"iterable of batches|a batch must be"):
        calibrate(mlp(), form)


def test_no_batch_and_no_token_are_errors() -> None:
    with pytest.raises(InvalidProblem, match="no batch"):
        calibrate(mlp(), [])
    with pytest.raises(InvalidProblem, match="no token"):
        calibrate(mlp(), [torch.zeros(0, 6)])
    ids = torch.ones(2, 4, dtype=torch.int64)
    with pytest.raises(InvalidProblem, match="no token"):
        calibrate(llama(), [{"input_ids": ids, "attention_mask": torch.zeros_like(ids)}])


def test_padding_may_hold_anything() -> None:
    """What stands under the padding changes nothing, as the tokens there do not count."""
    batch = token_batches()[0]
    other = {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 7)}
    model = bert()
    one, two = calibrate(model, [batch]), calibrate(model, [other])
    tokens = int(batch["attention_mask"].sum())
    for name in one:
        if "pooler" in name:  # it reads the first token of each sequence, which is padding in one of them
            continue
        assert one[name].tokens == tokens
        torch.testing.assert_close(one[name].matrix(), two[name].matrix(), rtol=1e-5, atol=1e-5)


def test_bad_inputs_name_the_layer() -> None:
    x = torch.ones(3, 6)
    x[1, 2] = float("nan")
    with pytest.raises(InvalidProblem, match="layer '0' received NaN"):
        calibrate(mlp(), [x])


def test_a_layer_that_is_never_called_has_no_tokens() -> None:
    grams = calibrate(irregular(), [torch.ones(2, 6)])
    assert grams["unused"].tokens == 0
    assert grams["branches.2"].tokens == 4  # its weight is read by two modules
    assert grams["twice"].tokens == 4


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_when_the_pass_is_broken_off(error: type[BaseException]) -> None:
    model = llama()
    model.train()
    model.model.layers[0].mlp.eval()
    flags = [module.training for module in model.modules()]

    def broken() -> Iterator[object]:
        yield token_batches()[0]
        assert hook_count(model) > 0
        assert not model.training
        raise error("broken off")

    with pytest.raises(error, match="broken off"):
        calibrate(model, broken())
    assert hook_count(model) == 0
    assert [module.training for module in model.modules()] == flags
    assert model.config.use_cache
    assert torch.is_grad_enabled()


def test_flags_return_and_nothing_is_written_into_the_model() -> None:
    model = resnet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibrate(model, [torch.ones(2, 3, 8, 8)])
    assert model.training
    assert hook_count(model) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_counts_and_stops() -> None:
    seen: list[tuple[int, int | None]] = []

    def stop_after_two(done: int, total: int | None) -> bool:
        seen.append((done, total))
        return done == 2

    grams = calibrate(mlp(), [torch.ones(1, 6)] * 5, progress=stop_after_two)
    assert seen == [(1, 5), (2, 5)]
    assert grams["0"].tokens == 2
    calibrate(mlp(), iter([torch.ones(1, 6)]), progress=stop_after_two)
    assert seen[-1] == (1, None)


def test_matrices_on_disk_equal_those_in_memory(tmp_path: Path) -> None:
    model = llama()
    held, stored = calibrate(model, token_batches()), calibrate(model, token_batches(), offload=tmp_path)
    files = sorted(tmp_path.glob("*.npy"))
    assert len(files) == 8  # four distinct inputs in each of two blocks
    assert {gram.path for gram in stored.values()} == set(files)
    for name, gram in held.items():
        assert torch.equal(gram.matrix(), stored[name].matrix())
        assert stored[name].path is not None
        np.testing.assert_array_equal(np.load(stored[name].path), gram.matrix().numpy())


def test_a_network_can_be_run_elsewhere(device: torch.device) -> None:
    model = llama()
    grams = calibrate(model, token_batches(), device=device)
    assert next(model.parameters()).device.type == "cpu"
    for name, gram in calibrate(model, token_batches()).items():
        torch.testing.assert_close(grams[name].matrix().cpu(), gram.matrix(), rtol=1e-4, atol=1e-4)
