"""Walking block by block sees exactly what full forward passes of the partly pruned network would see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem
from mipprune.networks import BlockWalker, PrunableLayer, calibrate, prunable
from tests.networks.models import bert, gemma3, gpt2, hook_count, irregular, llama, mlp, resnet, t5, token_batches


def halved(layer: PrunableLayer) -> Tensor:
    """The weights with the smaller half of them set to zero."""
    matrix = layer.weight_matrix()
    return torch.where(matrix.abs() >= matrix.abs().float().median(), matrix, torch.zeros_like(matrix))


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(2)]


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(4, 6, generator=generator) for _ in range(3)]


def sequence_pairs() -> list[dict[str, Tensor]]:
    batches = token_batches()
    return [{**batch, "decoder_input_ids": batch["input_ids"][:, :3]} for batch in batches]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Any]]]] = {
    "llama": (llama, token_batches),
    "bert": (bert, token_batches),
    "gpt2": (gpt2, token_batches),
    "gemma3": (gemma3, token_batches),
    "t5": (t5, sequence_pairs),
    "mlp": (mlp, rows),
    "resnet": (resnet, images),
    "irregular": (irregular, rows),
}


def walk_and_compare(model: nn.Module, data: Callable[[], list[Any]], rtol: float = 1e-5, **options: Any) -> list[str]:
    """Prune while walking; a copy pruned in step is calibrated by full forward passes. Returns the visited names."""
    twin = copy.deepcopy(model)
    twins = {layer.name: layer for layer in prunable(twin)}
    visited: list[str] = []
    for stage in BlockWalker(model, data(), **options):
        expected = calibrate(twin, data(), [twins[layer.name] for layer in stage.layers])
        for layer in stage.layers:
            assert stage.grams[layer.name].tokens == expected[layer.name].tokens
            matrix = expected[layer.name].matrix()
            difference = float((stage.grams[layer.name].matrix() - matrix).abs().max())
            assert difference <= rtol * float(matrix.abs().max()), layer.name
        for layer in stage.layers:
            layer.write(halved(layer))
            twins[layer.name].write(layer.weight_matrix())
            visited.append(layer.name)
    assert hook_count(model) == 0
    return visited


@pytest.mark.parametrize("granularity", ["stage", "block"])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_full_forward_passes(name: str, granularity: str) -> None:
    build, data = NETWORKS[name]
    model = build()
    visited = walk_and_compare(model, data, granularity=granularity)
    reachable = [layer.name for layer in prunable(model) if layer.name != "unused"]
    assert sorted(visited) == sorted(reachable)


def test_hidden_states_on_disk_change_nothing(tmp_path: Path) -> None:
    visited = walk_and_compare(llama(), token_batches, offload=tmp_path)
    assert len(visited) == 14
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    walk_and_compare(llama().to(dtype), token_batches, offload=tmp_path)
    walk_and_compare(mlp().to(dtype), rows)


def test_on_another_device(device: torch.device) -> None:
    model = llama()
    walk_and_compare(model, token_batches, rtol=1e-4, device=device)
    assert next(model.parameters()).device.type == "cpu"


def test_stages_of_a_decoder_block() -> None:
    stages = [
        [layer.name.rpartition(".")[2] for layer in stage.layers] for stage in BlockWalker(llama(), token_batches())
    ]
    block = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    assert stages == block + block
    whole = list(BlockWalker(llama(), token_batches(), granularity="block"))
    assert [stage.block for stage in whole] == ["model.layers.0", "model.layers.1"]
    assert [len(stage.layers) for stage in whole] == [7, 7]


def test_layers_of_one_stage_share_their_matrix() -> None:
    first = next(iter(BlockWalker(llama(), token_batches())))
    assert len({id(gram) for gram in first.grams.values()}) == 1


def test_order_is_that_of_execution() -> None:
    visited = [layer.name for stage in BlockWalker(resnet(), images()) for layer in stage.layers]
    assert visited[:4] == ["stem", "first.0.conv1", "first.0.conv2[0]", "first.0.conv2[1]"]
    assert visited[-1] == "linear"
    assert visited.index("first.1.shortcut") < visited.index("second.0.conv1")


def test_a_walk_costs_few_passes_of_each_block_and_no_full_pass_per_layer() -> None:
    model = llama()
    calls = {"embedding": 0, "block": 0, "down": 0}

    def count(key: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[key] += 1

        return hook

    model.model.embed_tokens.register_forward_hook(count("embedding"))
    model.model.layers[1].register_forward_pre_hook(count("block"))
    model.model.layers[1].mlp.down_proj.register_forward_hook(count("down"))
    batches = token_batches()
    for _ in BlockWalker(model, batches):
        pass
    assert calls["embedding"] == 1 + len(batches)  # one look at the whole, one capture of each batch
    assert calls["block"] == 1 + 4 * len(batches)  # four stages, the last block's outputs are not needed
    assert calls["down"] == 1  # each pass ends at the layers of its stage


def test_masked_tokens_do_not_count() -> None:
    tokens = sum(
        int(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).sum()) for batch in token_batches()
    )
    for stage in BlockWalker(llama(), token_batches()):
        assert {gram.tokens for gram in stage.grams.values()} == {tokens}


def test_only_the_layers_asked_for() -> None:
    model = llama()
    some = prunable(model, skip=["*"], include=["model.layers.1.mlp.*"])
    stages = [[layer.name for layer in stage.layers] for stage in BlockWalker(model, token_batches(), some)]
    assert stages == [["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"], ["model.layers.1.mlp.down_proj"]]
    assert list(BlockWalker(model, token_batches(), [])) == []


def test_the_batches_of_the_caller_are_not_changed() -> None:
    """The network's first operation changes its input in place, which would add up over passes."""

    class Shift(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1)

    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    batch = x.clone()
    model = nn.Sequential(Shift(), nn.Linear(4, 4), Shift(), nn.Linear(4, 2))
    expected = (x + 1).double()
    for granularity in ("stage", "block"):
        stages = list(BlockWalker(model, [batch], granularity=granularity))
        torch.testing.assert_close(stages[0].grams["1"].matrix(), expected.T @ expected)
    torch.testing.assert_close(calibrate(model, [batch])["1"].matrix(), expected.T @ expected)
    assert torch.equal(batch, x)


def test_flags_hooks_and_gradients_are_as_before_between_stages() -> None:
    model = llama().train()
    walker = iter(BlockWalker(model, token_batches()))
    next(walker)
    assert model.training
    assert all(module.training for module in model.modules())
    assert torch.is_grad_enabled()
    assert hook_count(model) == 0
    assert model.config.use_cache
    walker.close()  # type: ignore[attr-defined]
    assert hook_count(model) == 0


def test_broken_data_leave_no_hooks() -> None:
    model = mlp()
    bad = torch.ones(2, 6)
    bad[0, 0] = float("nan")
    with pytest.raises(InvalidProblem, match="layer '0' received NaN"):
        list(BlockWalker(model, [torch.ones(2, 6), bad]))
    assert hook_count(model) == 0


def test_progress_counts_layers_and_stops() -> None:
    seen: list[tuple[int, int | None]] = []

    def stop_at_four(done: int, total: int | None) -> bool:
        seen.append((done, total))
        return done >= 4

    stages = list(BlockWalker(llama(), token_batches(), progress=stop_at_four))
    assert seen == [(3, 14), (4, 14)]
    assert len(stages) == 2


def test_layers_that_are_never_called_are_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    visited = [layer.name for stage in BlockWalker(irregular(), rows()) for layer in stage.layers]
    assert "unused" not in visited
    assert "1 layers are not called by the network and stay as they are: ['unused']" in caplog.text


def test_bad_arguments() -> None:
    with pytest.raises(InvalidProblem, match="no batch"):
        BlockWalker(mlp(), [])
    with pytest.raises(InvalidProblem, match="granularity"):
        BlockWalker(mlp(), rows(), granularity="layer")  # type: ignore[arg-type]
