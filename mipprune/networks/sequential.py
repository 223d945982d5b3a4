"""Sequential calibration: each layer sees what the layers pruned before it produce, at the cost of single blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem
from mipprune.networks.blocks import Block, Call, Chain, Trace, chains, trace
from mipprune.networks.calibration import Collector, Progress, as_batches
from mipprune.networks.feeding import device_of, evaluating, feed, map_tensors, placed
from mipprune.networks.gram import Gram
from mipprune.networks.modules import PrunableLayer, prunable

__all__ = ["BlockWalker", "Stage"]

_LOGGER = logging.getLogger("mipprune")


@dataclass(frozen=True, eq=False)
class Stage:
    """Layers whose inputs are known and which are to be pruned now.

    Parameters
    ----------
    block : str
        Name of the block, or of the first layer where there is none.
    layers : tuple of PrunableLayer
        The layers, in the order in which they run.
    grams : dict of str to Gram
        The Gram matrix of each layer's inputs in the network as pruned so far.
    """

    block: str
    layers: tuple[PrunableLayer, ...]
    grams: dict[str, Gram]


class _Reached(Exception):
    """Ends a forward pass when everything that was to be seen has been seen."""


class BlockWalker:
    """Walks through a network in execution order, giving each layer's Gram matrix in the network as pruned so far.

    Iterate over it; when the loop body has written the pruned weights of a stage, the next stage is computed with
    them::

        for stage in BlockWalker(model, batches):
            for layer in stage.layers:
                layer.write(prune_somehow(layer.weight_matrix(), stage.grams[layer.name].matrix()))

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    batches : iterable
        Calibration data as for `mipprune.networks.calibrate`; kept in memory, because they are needed more than once.
    layers : sequence of PrunableLayer, optional
        Which layers to visit; default ``prunable(model, skip, include)``.
    granularity : {"stage", "block"}
        ``"stage"``: layers that read the same tensor together (query, key and value; then the attention output; then
        gate and up; then down), each stage with the earlier stages of its block already pruned, one forward pass of
        the block (cut off at the stage) each. ``"block"``: all layers of a block at once, one pass.
    device : torch.device or str, optional
        Where to run the blocks; each moves there for its turn and back. Default: where the model is.
    skip, include : sequence of str
        Layer patterns, see `mipprune.networks.survey`.
    offload : path, optional
        A folder for the hidden states between blocks; default: memory of the CPU.
    progress : callable, optional
        Called as ``progress(layers done, layers in all)`` after each stage; returning True ends the walk.

    Raises
    ------
    InvalidProblem
        If there is no batch, the granularity is unknown, or a layer receives NaN or infinite values.

    Notes
    -----
    The first batch is run once through the whole network to see which layers read the same tensor, in which order, and
    whether the blocks of a list are really called one on the output of the other. Where they are, the hidden states
    before the first block are captured once and then carried from block to block, so that the whole walk costs a few
    passes through each block. Layers outside of such chains (and whole networks without any) are visited by passes
    through the full network, cut off at the layers in question: correct for every network, but one such pass per stage.

    A block's further arguments (attention masks, rotary embeddings) are taken from the network when its chain begins,
    so they must not depend on the outputs of earlier blocks of that chain. A layer that the first batch does not
    reach is not visited; a warning in the log names it.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 2))
    >>> for stage in BlockWalker(net, [torch.ones(5, 3)]):
    ...     print(stage.block, float(stage.grams[stage.block].matrix().sum()))
    ...     stage.layers[0].write(torch.ones(stage.layers[0].shape))
    0 45.0
    1 720.0
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[object],
        layers: Sequence[PrunableLayer] | None = None,
        *,
        granularity: Literal["stage", "block"] = "stage",
        device: torch.device | str | None = None,
        skip: Sequence[str] = (),
        include: Sequence[str] = (),
        offload: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        if granularity not in ("stage", "block"):
            raise InvalidProblem(f"granularity must be 'stage' or 'block', found {granularity!r}")
        self.model = model
        self.layers = tuple(prunable(model, skip, include) if layers is None else layers)
        self._batches = list(as_batches(batches))
        if not self._batches:
            raise InvalidProblem(
                "the calibration data held no batch; give at least one (an exhausted iterator looks empty)"
            )
        self._whole_blocks = granularity == "block"
        self._device = None if device is None else torch.device(device)
        self._offload = None if offload is None else Path(offload)
        self._progress = progress
        self._done = 0

    def __iter__(self) -> Iterator[Stage]:
        self._done = 0
        if not self.layers:
            return
        candidates = chains(self.model, self.layers)
        seen = trace(self.model, self._batches[0], self.layers, candidates)
        reached = {name for names in seen.stages for name in names}
        absent = [layer.name for layer in self.layers if layer.name not in reached]
        if absent:
            _LOGGER.warning("%d layers are not called by the network and stay as they are: %s", len(absent), absent[:5])
        for stage in self._walk(candidates, seen):
            yield stage
            self._done += len(stage.layers)
            if self._progress is not None and self._progress(self._done, len(self.layers)):
                return

    def _walk(self, candidates: Sequence[Chain], seen: Trace) -> Iterator[Stage]:
        """Chains and the layers between them, in the order in which the network reaches them."""
        by_name = {layer.name: layer for layer in self.layers}
        home = {layer.name: index for index in seen.uniform for layer in candidates[index].layers}
        visited: set[int] = set()
        loose: list[tuple[str, ...]] = []
        for names in seen.stages:
            outside = tuple(name for name in names if name not in home)
            if outside:
                loose.append(outside)
            for index in dict.fromkeys(home[name] for name in names if name in home):
                if index not in visited:
                    visited.add(index)
                    yield from self._walk_loose(loose, by_name, seen)
                    loose = []
                    yield from self._walk_chain(candidates[index], seen, uniform=seen.uniform[index])
        yield from self._walk_loose(loose, by_name, seen)

    def _walk_loose(
        self, stages: Sequence[tuple[str, ...]], by_name: dict[str, PrunableLayer], seen: Trace
    ) -> Iterator[Stage]:
        for names in self._merged(stages):
            layers = tuple(by_name[name] for name in names)

            def run(index: int) -> None:
                feed(self.model, self._batches[index])

            with placed(self.model, self._device):
                grams = self._observe(layers, run, seen)
            yield Stage(names[0], layers, grams)

    def _walk_chain(self, chain: Chain, seen: Trace, *, uniform: bool) -> Iterator[Stage]:
        start = next(index for index, block in enumerate(chain.blocks) if block.layers)
        stop = max(index for index, block in enumerate(chain.blocks) if block.layers)
        blocks = chain.blocks[start : stop + 1]
        states = _States(None if self._offload is None else self._offload / "hidden")
        try:
            calls = self._capture(blocks, states, uniform=uniform)
            for number, block in enumerate(blocks):
                block_calls = calls[0 if uniform else number]
                for names in self._merged(_within(block, seen)):
                    yield self._stage(block, names, block_calls, states, seen)
                if number + 1 < len(blocks):
                    self._advance(block, block_calls, states)
        finally:
            states.clear()

    def _merged(self, stages: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        if self._whole_blocks and stages:
            return [tuple(name for names in stages for name in names)]
        return list(stages)

    def _stage(
        self, block: Block, names: tuple[str, ...], calls: Sequence[Call], states: _States, seen: Trace
    ) -> Stage:
        by_name = {layer.name: layer for layer in block.layers}
        layers = tuple(by_name[name] for name in names)
        with placed(block.module, self._device):
            grams = self._observe(layers, lambda index: self._run(block, calls[index], states.get(index)), seen)
        return Stage(block.name, layers, grams)

    def _observe(self, layers: tuple[PrunableLayer, ...], run: Callable[[int], object], seen: Trace) -> dict[str, Gram]:
        """Gram matrices of some layers over `run` of each batch; a run is cut off once all layers were reached."""
        collector = Collector(layers)
        waiting: set[str] = set()

        def reached(name: str) -> None:
            waiting.discard(name)
            if not waiting:
                raise _Reached

        cut = all(layer.name in seen.once for layer in layers)
        with evaluating(self.model), collector.attached(reached if cut else None):
            for index, batch in enumerate(self._batches):
                collector.begin(batch)
                waiting.update(layer.name for layer in layers)
                with suppress(_Reached):
                    run(index)
                collector.flush()
        return collector.result()

    def _run(self, block: Block, call: Call, hidden: Tensor) -> Tensor:
        target = self._device or device_of(
            block.module if next(block.module.parameters(), None) is not None else self.model
        )

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(target)

        moved = replace(call, args=map_tensors(call.args, move), kwargs=map_tensors(call.kwargs, move))
        # A copy, because a block may change its input in place and will be run again on the same one.
        return moved.run(block.module, hidden.to(target, copy=True))

    def _advance(self, block: Block, calls: Sequence[Call], states: _States) -> None:
        """Replace the stored inputs of a block by its outputs."""
        with evaluating(self.model), placed(block.module, self._device):
            for index in range(len(self._batches)):
                states.put(index, self._run(block, calls[index], states.get(index)))

    def _capture(self, blocks: Sequence[Block], states: _States, *, uniform: bool) -> list[list[Call]]:
        """Store the inputs of the first block for all batches; returns the further arguments, by block and batch."""
        captured: list[list[Call]] = [[] for _ in (blocks[:1] if uniform else blocks)]
        handles = []
        copies: dict[int, tuple[Tensor, Tensor]] = {}

        def to_memory(tensor: Tensor) -> Tensor:
            # Blocks mostly get the same masks: one copy of each. Keeping the original keeps its id from being reused.
            return copies.setdefault(id(tensor), (tensor, tensor.to("cpu", copy=True)))[1]

        def hook_for(number: int) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                hidden, call = Call.split(args, kwargs)
                if number == 0 and hidden is not None:
                    # A copy: when later blocks are watched too, this one runs on and may change its input in place.
                    states.put(len(captured[0]), hidden.clone())
                kept = replace(call, args=map_tensors(call.args, to_memory), kwargs=map_tensors(call.kwargs, to_memory))
                captured[number].append(kept)
                if number + 1 == len(captured):
                    raise _Reached

            return hook

        try:
            for number, block in enumerate(blocks[: len(captured)]):
                handles.append(block.module.register_forward_pre_hook(hook_for(number), with_kwargs=True))
            with evaluating(self.model):
                for batch in self._batches:
                    copies.clear()
                    with suppress(_Reached):
                        feed(self.model, batch)
        finally:
            for handle in handles:
                handle.remove()
        return captured


def _within(block: Block, seen: Trace) -> list[tuple[str, ...]]:
    """The stages of one block."""
    own = {layer.name for layer in block.layers}
    parts = (tuple(name for name in names if name in own) for names in seen.stages)
    return [names for names in parts if names]


class _States:
    """Hidden states of all batches, on the CPU or in files."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[int, Tensor] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def _path(self, index: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{index:06d}.pt"

    def put(self, index: int, hidden: Tensor) -> None:
        state = hidden.detach().cpu()
        if self._folder is None:
            self._held[index] = state
        else:
            torch.save(state.clone(), self._path(index))
            self._held[index] = torch.empty(0)

    def get(self, index: int) -> Tensor:
        if self._folder is None:
            return self._held[index]
        state: Tensor = torch.load(self._path(index), weights_only=True)
        return state

    def clear(self) -> None:
        if self._folder is not None:
            for index in self._held:
                self._path(index).unlink(missing_ok=True)
        self._held.clear()
