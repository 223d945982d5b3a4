"""How good a network is before and after pruning: accuracy, perplexity, fidelity of its embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem
from mipprune.networks.calibration import Progress, as_batches
from mipprune.networks.feeding import attention_mask, device_of, evaluating, feed

__all__ = ["Fidelity", "accuracy", "embeddings", "fidelity", "perplexity"]


def perplexity(model: nn.Module, token_blocks: Tensor | Iterable[Tensor], *, progress: Progress | None = None) -> float:
    r"""Perplexity of a causal language model.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(input_ids=...)``; returns logits, alone or as ``.logits``.
    token_blocks : Tensor or iterable of Tensor, shape (count, length), or items of shape (length,) or (batch, length)
        Token numbers, see `mipprune.networks.token_blocks`. Each block is scored alone, without context from the one
        before.
    progress : callable, optional
        Called as ``progress(blocks done, blocks in all or None)``; returning True ends the evaluation early.

    Returns
    -------
    float
        :math:`\exp` of the mean, over all blocks and their tokens but the first of each, of the negative
        log-likelihood of a token given those before it in its block; infinite where that overflows.

    Raises
    ------
    InvalidProblem
        If there is no block with at least two tokens, or the model returns no logits.
    """
    total, count = 0.0, 0
    items = len(token_blocks) if isinstance(token_blocks, Sized) else None
    with evaluating(model):
        for done, block in enumerate(token_blocks, start=1):
            ids = torch.atleast_2d(block).to(device_of(model))
            logits = _logits(model(input_ids=ids))[:, :-1].float()
            total += float(nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
            count += ids[:, 1:].numel()
            if progress is not None and progress(done, items):
                break
    if not count:
        raise InvalidProblem("there is no token to score: give at least one block of two tokens or more")
    try:
        return math.exp(total / count)
    except OverflowError:
        return math.inf


def accuracy(model: nn.Module, batches: Iterable[object], *, progress: Progress | None = None) -> float:
    """Share of samples whose largest output is the one of their label.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier returning logits of shape (samples, classes), alone or as ``.logits``.
    batches : iterable
        Pairs (inputs, labels), or mappings with an entry ``labels``.
    progress : callable, optional
        Called as ``progress(batches done, batches in all or None)``; returning True ends the evaluation early.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InvalidProblem
        If there is no sample, or a batch has no labels.

    Examples
    --------
    >>> import torch
    >>> accuracy(torch.nn.Identity(), [(torch.eye(3), torch.tensor([0, 1, 1]))]) == 2 / 3
    True
    """
    right, count = 0, 0
    stream = as_batches(batches)
    items = len(stream) if isinstance(stream, Sized) else None
    with evaluating(model):
        for done, batch in enumerate(stream, start=1):
            inputs, labels = _labelled(batch)
            predicted = _logits(feed(model, inputs)).argmax(dim=-1).cpu()
            right += int((predicted == labels.cpu()).sum())
            count += labels.numel()
            if progress is not None and progress(done, items):
                break
    if not count:
        raise InvalidProblem("there is no sample to classify; give at least one batch of (inputs, labels)")
    return right / count


def _labelled(batch: object) -> tuple[object, Tensor]:
    if isinstance(batch, Mapping) and "labels" in batch:
        return {key: value for key, value in batch.items() if key != "labels"}, torch.as_tensor(batch["labels"])
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], torch.as_tensor(batch[1])
    raise InvalidProblem(
        f"accuracy needs labels, but a batch is a {type(batch).__name__} without any; give pairs (inputs, labels)"
    )


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
    if not isinstance(logits, Tensor):
        raise InvalidProblem(
            f"the model returned {type(output).__name__}, which has no logits; use a model with an output head"
        )
    return logits


@dataclass(frozen=True)
class Fidelity:
    """How close a pruned network's embeddings are to those of the dense one.

    Parameters
    ----------
    cosine : float
        Mean cosine between the two embeddings of a sample, in [-1, 1].
    relative_error : float
        Squared norm of all differences over the squared norm of all dense embeddings.
    samples : int
        Number of samples compared.
    """

    cosine: float
    relative_error: float
    samples: int


def fidelity(
    dense: nn.Module | Tensor,
    pruned: nn.Module | Tensor,
    batches: Iterable[object],
    *,
    progress: Progress | None = None,
) -> Fidelity:
    """Compare the embeddings of a dense and a pruned network.

    Parameters
    ----------
    dense, pruned : torch.nn.Module or Tensor, shape (samples, width)
        Networks, or what `embeddings` returned for them on the same batches (when a network is pruned in place,
        compute the dense one's beforehand).
    batches : iterable
        Samples, see `mipprune.networks.feeding.feed`; read twice when both arguments are networks.
    progress : callable, optional
        See `embeddings`.

    Returns
    -------
    Fidelity

    Raises
    ------
    InvalidProblem
        If there is no sample, or the embeddings differ in shape.

    Examples
    --------
    >>> import torch
    >>> fidelity(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 0.5]]), [])
    Fidelity(cosine=1.0, relative_error=0.125, samples=2)
    """
    held = batches if isinstance(dense, Tensor) or isinstance(pruned, Tensor) else list(as_batches(batches))
    one = dense if isinstance(dense, Tensor) else embeddings(dense, held, progress=progress)
    other = pruned if isinstance(pruned, Tensor) else embeddings(pruned, held, progress=progress)
    if one.shape != other.shape or one.dim() != 2 or not len(one):
        raise InvalidProblem(
            f"embeddings of shapes {tuple(one.shape)} and {tuple(other.shape)} cannot be compared; "
            "compute both on the same batches"
        )
    a, b = one.double(), other.double().to(one.device)
    cosine = float(nn.functional.cosine_similarity(a, b, dim=1).mean())
    return Fidelity(cosine, float((a - b).square().sum() / a.square().sum().clamp_min(1e-300)), len(a))


def embeddings(model: nn.Module, batches: Iterable[object], *, progress: Progress | None = None) -> Tensor:
    """One vector per sample: the last hidden states, averaged over the real tokens.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model (its base model is run, without output head), or any network that returns a tensor: of
        shape (samples, width) taken as it is, (samples, tokens, width) averaged over tokens, (samples, channels,
        height, width) over positions.
    batches : iterable
        Samples, see `mipprune.networks.feeding.feed`; padding is left out of the mean.
    progress : callable, optional
        Called as ``progress(batches done, batches in all or None)``; returning True ends the pass early.

    Returns
    -------
    Tensor, shape (samples, width), float32, on the CPU

    Raises
    ------
    InvalidProblem
        If there is no batch, or the network returns something else.
    """
    base = getattr(model, "base_model", model)
    network = base if isinstance(base, nn.Module) else model
    found = []
    stream = as_batches(batches)
    items = len(stream) if isinstance(stream, Sized) else None
    with evaluating(model):
        for done, batch in enumerate(stream, start=1):
            found.append(_pooled(feed(network, batch), attention_mask(batch)).float().cpu())
            if progress is not None and progress(done, items):
                break
    if not found:
        raise InvalidProblem("there is no sample to embed; give at least one batch")
    return torch.cat(found)


def _pooled(output: Any, mask: Tensor | None) -> Tensor:
    hidden = getattr(output, "last_hidden_state", output[0] if isinstance(output, tuple) else output)
    if not isinstance(hidden, Tensor) or hidden.dim() not in (2, 3, 4):
        raise InvalidProblem(
            f"the network returned {type(output).__name__}, in which there are no hidden states to compare"
        )
    if hidden.dim() == 4:
        return hidden.mean(dim=(2, 3))
    if hidden.dim() == 2:
        return hidden
    if mask is None or mask.shape != hidden.shape[:2]:
        return hidden.mean(dim=1)
    weights = mask.to(device=hidden.device, dtype=hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)
