"""Per-sample gradients of a whole network, and the vector of all its prunable weights."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem
from mipprune.networks.calibration import Progress, as_batches
from mipprune.networks.feeding import batch_size, evaluating, feed
from mipprune.networks.modules import check_patterns, is_transposed_linear, matching

__all__ = ["FlatWeights", "SampleLoss", "first_sample", "sample_gradients"]

_IGNORED = -100  # what the cross-entropy of torch leaves out
_LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)

SampleLoss = Callable[[Any, Any], Tensor]
"""Loss of a mini-batch from what the network returned and the batch that it was given; a scalar tensor."""


@dataclass(frozen=True, eq=False)
class FlatWeights:
    """The weights of a network that compete for one global budget, as one vector.

    Parameters
    ----------
    names : tuple of str
        Qualified names of the parameters, in the order of the vector.
    parameters : tuple of Parameter
        The parameters themselves, shared with the network.

    Examples
    --------
    >>> import torch
    >>> weights = FlatWeights.of(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)))
    >>> weights.names, weights.size
    (('0.weight',), 6)
    >>> weights.write(torch.zeros(6))
    >>> weights.vector().tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]

    @classmethod
    def of(cls, model: nn.Module, skip: Sequence[str] = (), include: Sequence[str] = ()) -> FlatWeights:
        """Collect the weights of all linear layers and convolutions, grouped and depthwise ones included.

        Biases, norms and embeddings stay as they are, and so does a matrix tied to an embedding.

        Parameters
        ----------
        model : torch.nn.Module
        skip : sequence of str
            Patterns (as for file names) of layers to leave dense.
        include : sequence of str
            Patterns of layers to prune although they are tied to an embedding or match `skip`.

        Raises
        ------
        InvalidProblem
            If a pattern matches no layer, or nothing is left.
        """
        embedded = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
        found: dict[int, tuple[str, nn.Parameter]] = {}
        seen = []
        for name, module in model.named_modules():
            weight = module._parameters.get("weight")
            if not (isinstance(module, _LAYERS) or is_transposed_linear(module)) or weight is None:
                continue
            seen.append(name)
            if matching(name, include) is None and (matching(name, skip) is not None or id(weight) in embedded):
                continue
            if not weight.is_floating_point() or weight.device.type == "meta":
                raise InvalidProblem(
                    f"the weight of layer {name!r} is stored as {weight.dtype} on {weight.device}; load the network "
                    "in a floating-point format, or leave the layer out (skip)"
                )
            found.setdefault(id(weight), (f"{name}.weight" if name else "weight", weight))
        check_patterns((*skip, *include), seen)
        if not found:
            raise InvalidProblem("the network has no linear layer or convolution left to prune; check `skip`")
        names, parameters = zip(*found.values(), strict=True)
        return cls(tuple(names), tuple(parameters))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of weights of each parameter."""
        return tuple(parameter.numel() for parameter in self.parameters)

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(self.sizes)

    def vector(self) -> Tensor:
        """Return a copy of the weights, shape (size,), in the widest dtype that occurs."""
        return _joined(parameter.detach() for parameter in self.parameters)

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector of shape (size,) into arrays of the parameters' shapes, by name; they share its memory."""
        if tuple(vector.shape) != (self.size,):
            raise InvalidProblem(f"the vector has shape {tuple(vector.shape)}, the network {self.size} such weights")
        pieces = vector.split(list(self.sizes))
        return {
            name: piece.reshape(parameter.shape)
            for name, piece, parameter in zip(self.names, pieces, self.parameters, strict=True)
        }

    def write(self, vector: Tensor) -> None:
        """Replace the weights in place by a vector of shape (size,), rounded to the parameters' dtypes.

        Raises
        ------
        InvalidProblem
            If the shape is wrong or an entry is not finite, also after rounding.
        """
        rounded = []
        for (name, values), parameter in zip(self.split(vector.detach()).items(), self.parameters, strict=True):
            values = values.to(device=parameter.device, dtype=parameter.dtype)
            if not bool(torch.isfinite(values).all()):
                raise InvalidProblem(f"the new values of {name!r} are not all finite in {parameter.dtype}")
            rounded.append(values)
        with torch.no_grad():
            for values, parameter in zip(rounded, self.parameters, strict=True):
                parameter.copy_(values)

    def per_layer(self, values: Mapping[str, float]) -> list[float]:
        """Return one number for each parameter from a mapping by name of the parameter, or of its layer.

        Raises
        ------
        InvalidProblem
            If a parameter has no entry.
        """
        numbers = []
        for name in self.names:
            layer = name.removesuffix(".weight")
            if name not in values and layer not in values:
                known = ", ".join(list(values)[:5])
                raise InvalidProblem(f"there is no number for {name!r}; there are some for {known}")
            numbers.append(float(values[name] if name in values else values[layer]))
        return numbers


def sample_gradients(
    model: nn.Module,
    batches: Iterable[object],
    weights: FlatWeights | None = None,
    *,
    samples: int | None = None,
    group: int = 1,
    loss: SampleLoss | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""Gradients of the loss of single samples with respect to the prunable weights: the rows of a low-rank Hessian.

    Parameters
    ----------
    model : torch.nn.Module
        Run in evaluation mode, so that the statistics of norm layers are fixed and samples do not mix.
    batches : iterable
        Pairs (inputs, labels), or mappings with an entry ``labels``; see Notes for batches without labels.
    weights : FlatWeights, optional
        Default ``FlatWeights.of(model)``.
    samples : int, optional
        Largest number of rows; default all of the data.
    group : int
        Consecutive samples of a batch whose mean loss makes one row (a mini-batch gradient), >= 1.
    loss : callable, optional
        ``loss(output, batch)`` instead of the cross-entropy.
    seed : int
        For drawn labels.
    dtype : torch.dtype
        Of the result; float32 is what the values are worth.
    device : torch.device or str, optional
        Where the result lies; default that of the weights.
    progress : callable, optional
        Called as ``progress(rows done, rows in all or None)``; returning True ends early with the rows so far.

    Returns
    -------
    Tensor, shape (rows, weights)
        Only one row at a time is held twice; the p x p Hessian :math:`X^\top X` never exists.

    Raises
    ------
    InvalidProblem
        If there are no data, a gradient is not finite, or the result would not fit into memory.

    Notes
    -----
    Where the batch has ``input_ids`` and the outputs are logits for each token, the loss is that of the next token,
    padding left out (``labels`` in such a batch are not shifted yet). Else, without labels, it is the cross-entropy
    with a label drawn from the network's own output, and :math:`X^\top X` estimates the true instead of the
    empirical Fisher matrix.

    References
    ----------
    arXiv 2302.14623 (CHITA), section 2; Singh, Alistarh, arXiv 2004.14340 (WoodFisher), section 3.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Linear(2, 3)
    >>> sample_gradients(net, [(torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))]).shape
    torch.Size([4, 6])
    """
    weights = FlatWeights.of(model) if weights is None else weights
    if group < 1 or (samples is not None and samples < 1):
        raise InvalidProblem(f"group is {group} and samples {samples}; both must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    place = weights.parameters[0].device if device is None else torch.device(device)
    stream = as_batches(batches)
    expected = samples if samples is not None else _count(stream, group)
    if place.type == "cpu":
        _require_memory((expected or 1) * weights.size * torch.finfo(dtype).bits // 8)
    rows: Tensor | None = None if expected is None else torch.empty(expected, weights.size, dtype=dtype, device=place)
    loose: list[Tensor] = []
    done = 0
    with evaluating(model), torch.enable_grad(), _requiring_gradients(weights.parameters):
        for part in _parts(stream, group):
            if samples is not None and done == samples:
                break
            row = _gradient(model, part, weights.parameters, loss or _Default(generator))
            if not bool(torch.isfinite(row).all()):
                raise InvalidProblem(f"the gradient of sample {done} is not finite; check the data and the network")
            if rows is None:
                loose.append(row.to(device=place, dtype=dtype))
            else:
                rows[done].copy_(row)
            done += 1
            if progress is not None and progress(done, expected):
                break
    if not done:
        raise InvalidProblem("there is no sample to take a gradient at; give at least one batch")
    return torch.stack(loose) if rows is None else rows[:done]


def first_sample(batch: object) -> object:
    """Return the inputs of the first sample of a batch, labels dropped."""
    return _inputs(_rows_of(batch, 0, 1))


def _joined(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def _gradient(model: nn.Module, part: object, parameters: Sequence[nn.Parameter], loss: SampleLoss) -> Tensor:
    value = loss(feed(model, _inputs(part)), part)
    found = torch.autograd.grad(value, parameters, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return _joined(torch.zeros_like(parameter) if one is None else one for one, parameter in pairs)


@dataclass(frozen=True)
class _Default:
    """The cross-entropy with given labels, the next tokens, or drawn labels."""

    generator: torch.Generator

    def __call__(self, output: Any, part: Any) -> Tensor:
        logits = getattr(output, "logits", output[0] if isinstance(output, tuple) else output)
        if not isinstance(logits, Tensor) or logits.ndim < 2:
            raise InvalidProblem(
                f"the network returned {type(output).__name__}, which has no logits; give a `loss` of your own"
            )
        labels = _labels(part)
        if isinstance(part, Mapping) and "input_ids" in part:
            tokens = torch.as_tensor(part["input_ids"]) if labels is None else labels
            if logits.ndim == 3 and tuple(logits.shape[:2]) == tuple(tokens.shape) and tokens.shape[1] > 1:
                padding = torch.as_tensor(part.get("attention_mask", torch.ones_like(tokens))) == 0
                labels = tokens.masked_fill(padding, _IGNORED)[:, 1:]
                logits = logits[:, :-1]
        flat = logits.flatten(0, -2).float()
        if labels is not None and (labels.is_floating_point() or labels.numel() != flat.shape[0]):
            raise InvalidProblem(
                f"the labels are {labels.dtype} of shape {tuple(labels.shape)} for outputs of shape "
                f"{tuple(logits.shape)}; give one class number for each sample, or a `loss` of your own"
            )
        if labels is None:
            shares = flat.detach().softmax(dim=-1).cpu()
            labels = torch.multinomial(shares, 1, generator=self.generator)
        return nn.functional.cross_entropy(flat, labels.flatten().to(flat.device))


def _labels(part: Any) -> Tensor | None:
    if isinstance(part, Mapping):
        return torch.as_tensor(part["labels"]) if "labels" in part else None
    return torch.as_tensor(part[1]) if isinstance(part, (tuple, list)) and len(part) == 2 else None


def _inputs(part: Any) -> object:
    if isinstance(part, Mapping):
        return {key: value for key, value in part.items() if key != "labels"}
    return part[0] if isinstance(part, (tuple, list)) and len(part) == 2 else part


def _count(stream: Any, group: int) -> int | None:
    """How many rows the data make, where that is known beforehand."""
    return sum(math.ceil(batch_size(batch) / group) for batch in stream) if isinstance(stream, (list, tuple)) else None


def _parts(stream: Iterable[object], group: int) -> Iterator[object]:
    """Cut every batch into groups of samples."""
    for batch in stream:
        for first in range(0, batch_size(batch), group):
            yield _rows_of(batch, first, first + group)


def _rows_of(batch: Any, first: int, last: int) -> object:
    if isinstance(batch, Mapping):
        return {key: _rows_of(value, first, last) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(_rows_of(value, first, last) for value in batch)
    return batch[first:last] if isinstance(batch, (Tensor, np.ndarray)) and batch.ndim else batch


@contextmanager
def _requiring_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let frozen parameters require gradients for the duration of a block."""
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _require_memory(needed: int) -> None:
    try:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return
    if needed > max(free, 0.8 * whole):
        raise InvalidProblem(
            f"the gradients need {needed / 2**30:.1f} GiB, and this machine has {whole / 2**30:.1f} GiB; take fewer "
            "samples, or leave layers dense (skip)"
        )
