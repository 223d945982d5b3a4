"""Accuracy, perplexity and fidelity against values worked out another way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem
from mipprune.networks import accuracy, embeddings, fidelity, perplexity
from tests.networks.models import bert, llama, mlp, resnet, token_batches


class Uniform(nn.Module):
    """A language model that knows nothing."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return torch.zeros(*input_ids.shape, 7)


def test_perplexity_of_ignorance_is_the_size_of_the_vocabulary() -> None:
    assert perplexity(Uniform(), torch.zeros(3, 5, dtype=torch.int64)) == pytest.approx(7)


def test_perplexity_is_the_mean_over_tokens_of_blocks_scored_alone(generator: torch.Generator) -> None:
    model = llama().train()
    blocks = torch.randint(3, 50, (4, 6), generator=generator)
    total = 0.0
    with torch.no_grad():
        for block in blocks:
            chances = torch.log_softmax(model.eval()(input_ids=block[None]).logits[0].double(), dim=-1)
            total -= sum(float(chances[place, token]) for place, token in enumerate(block[1:].tolist()))
    model.train()
    value = perplexity(model, blocks)
    assert value == pytest.approx(math.exp(total / 20), rel=1e-5)
    assert perplexity(model, [blocks[:3], blocks[3]]) == pytest.approx(value, rel=1e-5)
    assert model.training


def test_perplexity_of_half_precision_is_close(generator: torch.Generator) -> None:
    blocks = torch.randint(3, 50, (2, 6), generator=generator)
    assert perplexity(llama().to(torch.bfloat16), blocks) == pytest.approx(perplexity(llama(), blocks), rel=0.05)


def test_perplexity_overflows_to_infinity() -> None:
    class Wrong(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            return torch.tensor([0.0, 1e6]).expand(*input_ids.shape, 2)

    assert perplexity(Wrong(), torch.zeros(1, 3, dtype=torch.int64)) == math.inf


def test_perplexity_needs_tokens_and_logits() -> None:
    for nothing in (torch.zeros(0, 5, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)):
        with pytest.raises(InvalidProblem, match="no token to score"):
            perplexity(Uniform(), nothing)


def test_accuracy_counts_samples_not_batches() -> None:
    scores = torch.eye(4)
    batches: list[Any] = [(scores, torch.tensor([0, 1, 0, 0])), (scores[:1], torch.tensor([0]))]
    assert accuracy(nn.Identity(), batches) == 3 / 5

    class Classifier(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels

    assert accuracy(Classifier(), [{"pixels": scores, "labels": torch.tensor([0, 1, 2, 0])}]) == 3 / 4


def test_accuracy_needs_labels_and_samples() -> None:
    with pytest.raises(InvalidProblem, match="needs labels"):
        accuracy(mlp(), [torch.ones(2, 6)])
    with pytest.raises(InvalidProblem, match="no sample"):
        accuracy(mlp(), [])


def test_progress_can_end_an_evaluation() -> None:
    seen: list[tuple[int, int | None]] = []

    def stop(done: int, total: int | None) -> bool:
        seen.append((done, total))
        return True

    assert (
        accuracy(nn.Identity(), [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2), torch.ones(2))], progress=stop)
        == 1
    )
    perplexity(Uniform(), torch.zeros(3, 5, dtype=torch.int64), progress=stop)
    assert len(embeddings(mlp(), [torch.ones(2, 6)] * 3, progress=stop)) == 2
    assert seen == [(1, 2), (1, 3), (1, 3)]


def test_embeddings_leave_padding_out() -> None:
    model = bert()
    batch = token_batches()[0]
    found = embeddings(model, [batch])
    assert found.shape == (3, 16)
    with torch.no_grad():
        alone = model(input_ids=batch["input_ids"][:1, :5]).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(found[:1], alone, rtol=1e-4, atol=1e-5)


def test_embeddings_of_language_models_and_of_images(generator: torch.Generator) -> None:
    assert embeddings(llama(), token_batches()[1:]).shape == (2, 16)  # hidden states, not logits
    images = torch.randn(2, 3, 8, 8, generator=generator)
    assert embeddings(resnet(), [images]).shape == (2, 5)
    assert embeddings(resnet().stem, [images]).shape == (2, 4)


def test_fidelity_of_a_network_to_itself_and_to_a_pruned_one() -> None:
    dense, pruned = bert(), bert()
    same = fidelity(dense, pruned, token_batches())
    assert same.cosine == pytest.approx(1)
    assert same.relative_error == 0
    assert same.samples == 5
    with torch.no_grad():
        pruned.encoder.layer[1].output.dense.weight.mul_(100)
    before = embeddings(dense, token_batches())
    changed = fidelity(dense, pruned, iter(token_batches()))
    assert changed.cosine < 0.999
    assert changed.relative_error > 1e-4
    assert fidelity(before, pruned, token_batches()) == changed
    difference = before.double() - embeddings(pruned, token_batches()).double()
    assert changed.relative_error == pytest.approx(float(difference.square().sum() / before.double().square().sum()))


def test_fidelity_needs_embeddings_of_one_shape() -> None:
    with pytest.raises(InvalidProblem, match="cannot be compared"):
        fidelity(torch.ones(2, 3), torch.ones(2, 4), [])
    with pytest.raises(InvalidProblem, match="no sample to embed"):
        fidelity(mlp(), mlp(), [])
