"""Feeding batches of any usual form to a network, with its training flags and settings restored afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem

__all__ = ["attention_mask", "batch_size", "device_of", "evaluating", "feed", "map_tensors", "placed"]


def feed(model: nn.Module, batch: object) -> Any:
    """Run a network on one batch.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    batch : Tensor, numpy.ndarray, tuple, list or mapping
        An array is passed alone, a tuple or list as positional arguments (items beyond those that ``model.forward``
        takes, such as labels from a data loader, are dropped), a mapping as keyword arguments. Arrays move to the
        model's device, floating ones are cast to its dtype.

    Returns
    -------
    object
        Whatever the network returns.

    Raises
    ------
    InvalidProblem
        If the batch is of another type.

    Examples
    --------
    >>> import numpy as np, torch
    >>> feed(torch.nn.Linear(2, 1), (np.ones((3, 2)), np.zeros(3))).shape
    torch.Size([3, 1])
    """
    device, dtype = device_of(model), _dtype_of(model)

    def convert(value: Tensor) -> Tensor:
        # Always a copy: some networks change their input in place, and the caller may use the batch again.
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None, copy=True)

    if isinstance(batch, (Tensor, np.ndarray)):
        return model(map_tensors(batch, convert))
    if isinstance(batch, Mapping):
        return model(**{str(key): map_tensors(value, convert) for key, value in batch.items()})
    if isinstance(batch, (tuple, list)):
        return model(*(map_tensors(value, convert) for value in batch[: _positional_count(model)]))
    raise InvalidProblem(
        f"a batch must be a tensor, an array, a tuple of them or a mapping from argument names, found "
        f"{type(batch).__name__}; tokenise text first (mipprune.networks.calibration_batches does)"
    )


def _positional_count(model: nn.Module) -> int | None:
    """How many positional arguments ``forward`` takes; None means any number."""
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor (and array) inside nested tuples, lists and dictionaries.

    Parameters
    ----------
    value : object
        A tensor, an array, a container of such, or anything else, which is returned as it is.
    change : callable
        Applied to each tensor; arrays become tensors first.

    Returns
    -------
    object
        The same structure with the results in place of the tensors.
    """
    if isinstance(value, np.ndarray):
        return change(torch.from_numpy(np.ascontiguousarray(value)))
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(item, change) for item in value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    return value


def attention_mask(batch: object) -> Tensor | None:
    """Which tokens of a batch are real.

    Parameters
    ----------
    batch : object
        As for `feed`.

    Returns
    -------
    Tensor, shape (sequences, length), bool, or None
        False on padding; None when the batch has no two-dimensional entry ``attention_mask``, or no padding. In an
        encoder-decoder network the mask is the encoder's, yet it is applied to every tensor of its shape: give such
        networks decoder inputs of another length, or batches without padding.
    """
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if mask is None:
        return None
    real = torch.as_tensor(mask) != 0
    return None if real.dim() != 2 or bool(real.all()) else real


def batch_size(batch: object) -> int:
    """Number of samples in a batch: the length of its first array, 1 when there is none."""
    values: Any = batch
    if isinstance(batch, Mapping):
        values = tuple(batch.values())
    elif not isinstance(batch, (tuple, list)):
        values = (batch,)
    sizes = [len(value) for value in values if isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0]
    return sizes[0] if sizes else 1


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter or buffer; the CPU when it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _dtype_of(model: nn.Module) -> torch.dtype | None:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


@contextmanager
def placed(module: nn.Module, device: torch.device | str | None) -> Iterator[None]:
    """Move a module to a device for the duration of a block, then back; None leaves it where it is."""
    before = device_of(module)
    if device is None or torch.device(device) == before:
        yield
        return
    module.to(device)
    try:
        yield
    finally:
        module.to(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own training flag and the model's settings return at the end.

    Key/value caches of generating models are switched off (they would only take memory), and so is torch's fused
    transformer path, which computes with the weights of layers without calling them.
    """
    flags = [(module, module.training) for module in model.modules()]
    config = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    if cached:
        config.use_cache = False  # type: ignore[union-attr]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        if cached:
            config.use_cache = cached  # type: ignore[union-attr]
        for module, training in flags:
            module.training = training
