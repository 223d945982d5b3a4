"""Tiny networks with random weights, of the kinds that the package has to cope with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with fixed weights, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = build()
    return model.eval()


def llama(**changes: object) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings: dict[str, object] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return seeded(lambda: LlamaForCausalLM(LlamaConfig(**{**settings, **changes})))


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4)
    return seeded(lambda: BertModel(config))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2)
    return seeded(lambda: GPT2LMHeadModel(config))


def gemma3() -> nn.Module:
    """Its blocks get different masks and rotary embeddings, by kind of attention."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        sliding_window=3,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )
    return seeded(lambda: Gemma3ForCausalLM(config))


def t5() -> nn.Module:
    """Two stacks of blocks; the second reads the first one's result as a further argument."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4)
    return seeded(lambda: T5ForConditionalGeneration(config))


def mlp() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    )


class Residual(nn.Module):
    """A residual block that changes its input in place before anything reads it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=2)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.1).relu_()
        return self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x)


class ResNet(nn.Module):
    """Layers of its own around two lists of blocks, as in the usual convolutional networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Sequential(Residual(4, 4), Residual(4, 4))
        self.second = nn.Sequential(Residual(4, 6), nn.Sequential(nn.ReLU(), Residual(6, 6)))
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.linear(self.second(self.first(x)).mean(dim=(2, 3)))


class Irregular(nn.Module):
    """A list of blocks that are not called one on the output of the other, a shared weight, a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)])
        self.twice = nn.Linear(6, 6)
        self.mirror = nn.Linear(6, 6)
        self.mirror.weight = self.branches[2].weight
        self.unused = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branches[0](x) + self.branches[1](x)
        y = self.twice(torch.tanh(self.twice(y)))
        return self.mirror(torch.tanh(self.branches[2](y)))


def resnet() -> nn.Module:
    return seeded(ResNet)


def irregular() -> nn.Module:
    return seeded(Irregular)


def token_batches() -> list[dict[str, Tensor]]:
    """Two batches of token numbers, the first with padding on the left and on the right."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 50, (3, 9), generator=generator)
    mask = torch.ones(3, 9, dtype=torch.int64)
    mask[0, 5:] = 0
    mask[1, :2] = 0
    return [{"input_ids": ids, "attention_mask": mask}, {"input_ids": ids[:2, :4]}]


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
