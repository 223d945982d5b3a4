"""Gram matrices of all layers from one pass of calibration data, through forward hooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem
from mipprune.networks.feeding import attention_mask, evaluating, feed, placed
from mipprune.networks.gram import Gram, gram_of
from mipprune.networks.modules import PrunableLayer, prunable

__all__ = ["Collector", "Progress", "as_batches", "calibrate"]

Progress = Callable[[int, int | None], bool | None]
"""Receives the numbers of finished and of all steps (None where unknown); returning True stops."""

# Rows of patches unfolded at a time from the input of a convolution.
_PATCH_ROWS = 16384


def calibrate(
    model: nn.Module,
    batches: Iterable[object],
    layers: Sequence[PrunableLayer] | None = None,
    *,
    device: torch.device | str | None = None,
    skip: Sequence[str] = (),
    include: Sequence[str] = (),
    offload: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Gram]:
    """Accumulate the Gram matrix of every layer's inputs in one pass over the calibration data.

    Layers that receive the same tensor, such as the query, key and value projections of an attention block, share one
    `Gram` object, computed once. Padding (where a batch's ``attention_mask`` is 0) does not count as tokens.

    Parameters
    ----------
    model : torch.nn.Module
        The network. It is run in evaluation mode without gradients; its training flags return afterwards.
    batches : iterable
        Calibration data, streamed once. Each batch is what `mipprune.networks.feeding.feed` takes: a tensor, a tuple,
        a mapping.
    layers : sequence of PrunableLayer, optional
        Which layers to observe; default ``prunable(model, skip, include)``.
    device : torch.device or str, optional
        Where to run the network; it moves there for the pass and back. Default: where it is.
    skip, include : sequence of str
        Layer patterns, see `mipprune.networks.survey`.
    offload : path, optional
        A folder for the matrices, memory-mapped ``.npy`` files; default: memory, one (in, in) float64 matrix per
        distinct input.
    progress : callable, optional
        Called as ``progress(batches done, batches in all or None)`` after each batch; returning True ends the pass
        early.

    Returns
    -------
    dict of str to Gram
        By layer name, in the order of `layers`. A layer that the network never called has a `Gram` with 0 tokens.

    Raises
    ------
    InvalidProblem
        If there is no batch or no token at all, or a layer receives NaN or infinite values.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> grams = calibrate(net, [torch.ones(5, 3), torch.ones(2, 3)])
    >>> grams["0"].tokens, grams["0"].matrix()[0].tolist()
    (7, [7.0, 7.0, 7.0])
    """
    observed = list(prunable(model, skip, include) if layers is None else layers)
    stream = as_batches(batches)
    total = len(stream) if isinstance(stream, Sized) else None
    collector = Collector(observed, offload)
    with placed(model, device), evaluating(model), collector.attached():
        for count, batch in enumerate(stream, start=1):
            collector.begin(batch)
            feed(model, batch)
            collector.flush()
            if progress is not None and progress(count, total):
                break
    return collector.result()


def as_batches(batches: object) -> Iterable[object]:
    """Read the argument `batches`: a single tensor, array or mapping stands for one batch.

    Raises
    ------
    InvalidProblem
        If the argument cannot be iterated over, or is a string.
    """
    if isinstance(batches, (Tensor, np.ndarray, Mapping)):
        return [batches]
    if isinstance(batches, (str, bytes)) or not isinstance(batches, Iterable):
        raise InvalidProblem(
            f"calibration data must be an iterable of batches, found {type(batches).__name__}; "
            "see mipprune.networks.calibration_batches for text and files"
        )
    return batches


@dataclass
class _Pending:
    """A product whose consumers are still being counted."""

    x: Tensor
    version: int
    signature: tuple[object, ...]
    product: Tensor
    tokens: int
    names: list[str] = field(default_factory=list)


class Collector:
    """Turns the calls of layers into Gram matrices, one product per distinct input.

    Parameters
    ----------
    layers : sequence of PrunableLayer
        The layers to observe.
    offload : path, optional
        A folder for the matrices.

    Notes
    -----
    A product is formed when the first layer reads a tensor and is booked when another tensor comes, under the names
    of all layers that read the first one meanwhile. A tensor changed in place in between counts as another tensor. So
    sharing is observed in every batch, never assumed.
    """

    def __init__(self, layers: Sequence[PrunableLayer], offload: str | Path | None = None) -> None:
        self.layers = tuple(layers)
        self.calls: list[str] = []
        self._folder = None if offload is None else Path(offload)
        self._grams: dict[tuple[str, ...], Gram] = {}
        self._pending: _Pending | None = None
        self._mask: Tensor | None = None
        self._batches = 0

    @contextmanager
    def attached(self, after: Callable[[str], None] | None = None) -> Iterator[None]:
        """Observe the layers' modules inside the block; the hooks go whatever happens.

        Parameters
        ----------
        after : callable, optional
            Called with the layer's name after each observed call.
        """
        handles = []
        try:
            for layer in self.layers:
                for reader in layer.readers():

                    def hook(
                        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], reader: PrunableLayer = reader
                    ) -> None:
                        self._see(reader, args[0] if args else next(iter(kwargs.values())))
                        if after is not None:
                            after(reader.name)

                    handles.append(reader.module.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, batch: object) -> None:
        """Announce the batch that is about to be run, for its attention mask."""
        self._batches += 1
        self._mask = attention_mask(batch)

    def _see(self, layer: PrunableLayer, x: Tensor) -> None:
        pending, signature = self._pending, layer.input_signature()
        same = pending is not None and pending.x is x and pending.version == x._version
        if pending is None or not same or pending.signature != signature or layer.name in pending.names:
            self.flush()
            product, tokens = self._product(layer, x)
            pending = self._pending = _Pending(x, x._version, signature, product, tokens)
        pending.names.append(layer.name)
        self.calls.append(layer.name)

    def _product(self, layer: PrunableLayer, x: Tensor) -> tuple[Tensor, int]:
        total: Tensor | None = None
        tokens = 0
        for part in self._parts(layer, x):
            rows = layer.inputs(part)
            product = gram_of(rows, name=layer.name)
            total = product if total is None else total.add_(product)
            tokens += rows.shape[0]
        if total is None:
            total = torch.zeros(layer.shape[1], layer.shape[1], dtype=torch.float64)
        return total, tokens

    def _parts(self, layer: PrunableLayer, x: Tensor) -> Iterator[Tensor]:
        """The real tokens of a layer's input; the images of a convolution in portions, as patches take much memory."""
        if layer.kind == "conv2d":
            images = x.unsqueeze(0) if x.dim() == 3 else x
            # Unfolding has no half-precision kernel on every device, and float32 holds those values exactly.
            images = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
            yield from images.split(max(1, _PATCH_ROWS // (images.shape[-1] * images.shape[-2])))
            return
        mask = self._mask
        if mask is not None and x.dim() == 3 and x.shape[:2] == mask.shape:
            x = x[mask.to(x.device)]
        elif mask is not None and x.dim() == 2 and x.shape[0] == mask.numel():
            x = x[mask.flatten().to(x.device)]
        if x.numel():
            yield x

    def flush(self) -> None:
        """Book the product whose consumers are now known."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        names = tuple(pending.names)
        if names not in self._grams:
            self._grams[names] = self._new_gram(names, pending.product.shape[0], pending.product.device)
        self._grams[names].add_product(pending.product, pending.tokens)

    def _new_gram(self, names: tuple[str, ...], size: int, device: torch.device) -> Gram:
        path = None
        if self._folder is not None:
            stem = re.sub(r"[^A-Za-z0-9._-]", "_", names[0])
            path = self._folder / f"{len(self._grams):05d}_{stem}.npy"
        return Gram(size, name=names[0], device=device, path=path)

    def result(self) -> dict[str, Gram]:
        """The Gram matrix of each layer.

        Returns
        -------
        dict of str to Gram
            By name, in the order of the layers. Layers that always read the same tensor have the same object.

        Raises
        ------
        InvalidProblem
            If no batch was announced, or no token reached any layer.
        """
        if not self._batches:
            raise InvalidProblem(
                "the calibration data held no batch, so there are no inputs to measure errors on; "
                "give at least one batch (an exhausted iterator also looks empty: pass a list)"
            )
        self.flush()
        if self.layers and not any(gram.tokens for gram in self._grams.values()):
            raise InvalidProblem(
                f"no token reached any of the {len(self.layers)} layers: the batches are empty or masked out entirely, "
                "or the network does not call these layers; check the data and the attention mask"
            )
        return {layer.name: self._of(layer) for layer in self.layers}

    def _of(self, layer: PrunableLayer) -> Gram:
        found = [gram for names, gram in self._grams.items() if layer.name in names]
        if len(found) == 1:
            return found[0]
        total = Gram(layer.shape[1], name=layer.name, device=found[0].device if found else None)
        for gram in found:
            total.add_product(gram.matrix(), gram.tokens)
        return total
