"""The sequential blocks of a network, and the order in which its layers run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mipprune.networks.feeding import evaluating, feed
from mipprune.networks.modules import PrunableLayer, prunable

__all__ = ["Block", "Call", "Chain", "Trace", "blocks", "chains", "trace"]


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a network with the prunable layers in it.

    Parameters
    ----------
    name : str
        Qualified name in the model.
    module : torch.nn.Module
        The part itself.
    layers : tuple of PrunableLayer
        Its layers, in the order of ``named_modules()``; may be empty.
    """

    name: str
    module: nn.Module
    layers: tuple[PrunableLayer, ...]


@dataclass(frozen=True, eq=False)
class Chain:
    """Blocks of which each one is meant to read what the one before it returns.

    Parameters
    ----------
    blocks : tuple of Block
        In order. That they really are called so is seen by `trace`, which watches a run.
    """

    blocks: tuple[Block, ...]

    @property
    def layers(self) -> tuple[PrunableLayer, ...]:
        """All prunable layers of the blocks."""
        return tuple(layer for block in self.blocks for layer in block.layers)


def chains(model: nn.Module, layers: Sequence[PrunableLayer] | None = None) -> list[Chain]:
    """The candidates for sequences of blocks: every outermost ``ModuleList`` and ``Sequential``.

    Parameters
    ----------
    model : torch.nn.Module
        Any network.
    layers : sequence of PrunableLayer, optional
        The layers that count; default ``prunable(model)``. One whose parameter is also used outside its block belongs
        to none.

    Returns
    -------
    list of Chain
        Those with at least one prunable layer, in the order of ``named_modules()``.
    """
    wanted = prunable(model) if layers is None else layers
    found = []
    for members in _containers(model, ""):
        if len({id(module) for _, module in members}) < len(members):
            continue  # a module that occurs twice would be pruned before its second use was seen
        chain = Chain(tuple(Block(name, module, _layers_in(name, wanted)) for name, module in members))
        if chain.layers:
            found.append(chain)
    return found


def _containers(module: nn.Module, name: str) -> Iterator[list[tuple[str, nn.Module]]]:
    if _is_sequential(module):
        yield list(_flattened(module, name))
        return
    if isinstance(module, nn.ModuleList):
        yield list(_children(module, name))
        return
    for child_name, child in _children(module, name):
        yield from _containers(child, child_name)


def _flattened(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The members of a Sequential, those of nested ones in their place."""
    for child_name, child in _children(module, name):
        if _is_sequential(child):
            yield from _flattened(child, child_name)
        else:
            yield child_name, child


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _children(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    # Not named_children(), which hides repetitions.
    for child_name, child in module._modules.items():
        if child is not None:
            yield (f"{name}.{child_name}" if name else child_name), child


def _layers_in(block: str, layers: Sequence[PrunableLayer]) -> tuple[PrunableLayer, ...]:
    def inside(name: str) -> bool:
        return name.partition("[")[0] == block or name.startswith(block + ".")

    return tuple(layer for layer in layers if all(inside(name) for name in (layer.name, *layer.aliases)))


def blocks(model: nn.Module, layers: Sequence[PrunableLayer] | None = None) -> list[Block]:
    """The parts of a network that can be pruned one after the other.

    Parameters
    ----------
    model : torch.nn.Module
        Any network.
    layers : sequence of PrunableLayer, optional
        The layers that count; default ``prunable(model)``.

    Returns
    -------
    list of Block
        The members of every outermost ``ModuleList`` or ``Sequential`` (the decoder or encoder blocks of a
        transformer, the stages of a convolutional network) that have prunable layers; each layer outside of these is
        a block of its own.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [block.name for block in blocks(net)]
    ['0', '2']
    """
    wanted = prunable(model) if layers is None else list(layers)
    home = {layer.name: block for chain in chains(model, wanted) for block in chain.blocks for layer in block.layers}
    result: dict[str, Block] = {}
    for layer in wanted:
        block = home.get(layer.name) or Block(layer.name, layer.module, (layer,))
        result.setdefault(block.name, block)
    return list(result.values())


@dataclass(eq=False)
class Call:
    """How one block of a chain was called in a run.

    Parameters
    ----------
    args : tuple
        Positional arguments, the hidden states left out when they were one of them.
    kwargs : dict
        Keyword arguments, the hidden states left out when they were one of them.
    keyword : str, optional
        The name under which the hidden states were passed; None when they were the first positional argument.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: str | None

    @classmethod
    def split(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor | None, Call]:
        """Take the hidden states out of a block's arguments; None when there are none."""
        # A cache of keys and values would grow with every replay.
        kwargs = {key: None if key.startswith("past_key_value") else value for key, value in kwargs.items()}
        if args:
            return (args[0] if isinstance(args[0], Tensor) else None), cls(args[1:], kwargs, None)
        keyword = next((key for key, value in kwargs.items() if isinstance(value, Tensor)), None)
        hidden = kwargs.pop(keyword) if keyword is not None else None
        return hidden, cls(args, kwargs, keyword)

    def run(self, module: nn.Module, hidden: Tensor) -> Tensor:
        """Call a block with these arguments and the given hidden states; returns the next hidden states."""
        if self.keyword is not None:
            result = module(*self.args, **{self.keyword: hidden}, **self.kwargs)
        else:
            result = module(hidden, *self.args, **self.kwargs)
        output = hidden_of(result)
        assert output is not None, "a chain is only replayed when its outputs were seen to be tensors"
        return output

    def agrees_with(self, other: Call) -> bool:
        """Whether all arguments are the same objects or equal plain values."""
        return self.keyword == other.keyword and _same((self.args, self.kwargs), (other.args, other.kwargs))


def hidden_of(result: Any) -> Tensor | None:
    """The hidden states in what a block returned: the tensor itself, or the first item of a tuple."""
    if isinstance(result, (tuple, list)) and result:
        result = result[0]
    return result if isinstance(result, Tensor) else None


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, (tuple, list)) and type(one) is type(other):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return isinstance(one, (bool, int, float, str)) and type(one) is type(other) and one == other


@dataclass(frozen=True, eq=False)
class Trace:
    """What one run of a network showed.

    Parameters
    ----------
    stages : tuple of tuple of str
        Names of the layers in the order of their first calls; layers that read one tensor in a row stand together.
    once : frozenset of str
        Names of the layers that were called exactly once.
    uniform : dict of int to bool
        For each chain (its index) that was run as a chain, whether all its blocks got the same further arguments.
    """

    stages: tuple[tuple[str, ...], ...]
    once: frozenset[str]
    uniform: dict[int, bool]


class _ChainWatch:
    """Observes whether the blocks of a chain are called once each, each on what the one before it returned."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.position = 0
        self.linked = True
        self.uniform = True
        self.first: Call | None = None
        self.output: Tensor | None = None

    def enter(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, call = Call.split(args, kwargs)
        if index != self.position or hidden is None or (index > 0 and hidden is not self.output):
            self.linked = False
        if self.first is None:
            self.first = call
        self.uniform = self.uniform and call.agrees_with(self.first)
        self.position += 1
        self.output = None

    def leave(self, result: Any) -> None:
        self.output = hidden_of(result)
        self.linked = self.linked and self.output is not None

    @property
    def complete(self) -> bool:
        return self.linked and self.position == self.length


def trace(model: nn.Module, batch: object, layers: Sequence[PrunableLayer], candidates: Sequence[Chain]) -> Trace:
    """Run a network on one batch and watch the order of its layers and the links between its blocks.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    batch : object
        See `mipprune.networks.feeding.feed`.
    layers : sequence of PrunableLayer
        The layers to watch.
    candidates : sequence of Chain
        The chains to watch.

    Returns
    -------
    Trace
    """
    calls: list[tuple[str, int]] = []
    last: list[Any] = [None, -1, 0]  # the tensor read last, its version, its number
    watches = [_ChainWatch(len(chain.blocks)) for chain in candidates]
    handles = []

    def watch_layer(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        if x is not last[0] or x._version != last[1]:
            last[:] = [x, x._version, last[2] + 1]
        calls.append((name, last[2]))

    def layer_hook(name: str) -> Any:
        return lambda module, args, kwargs: watch_layer(name, args, kwargs)

    def enter_hook(watch: _ChainWatch, index: int) -> Any:
        return lambda module, args, kwargs: watch.enter(index, args, kwargs)

    def leave_hook(watch: _ChainWatch) -> Any:
        return lambda module, args, result: watch.leave(result)

    try:
        for watch, chain in zip(watches, candidates):
            for index, block in enumerate(chain.blocks):
                handles.append(block.module.register_forward_pre_hook(enter_hook(watch, index), with_kwargs=True))
                handles.append(block.module.register_forward_hook(leave_hook(watch)))
        for layer in layers:
            for reader in layer.readers():
                handles.append(reader.module.register_forward_pre_hook(layer_hook(layer.name), with_kwargs=True))
        with evaluating(model):
            feed(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    uniform = {index: watch.uniform for index, watch in enumerate(watches) if watch.complete}
    counts: dict[str, int] = {}
    for name, _ in calls:
        counts[name] = counts.get(name, 0) + 1
    return Trace(_stages(calls), frozenset(name for name, count in counts.items() if count == 1), uniform)


def _stages(calls: Sequence[tuple[str, int]]) -> tuple[tuple[str, ...], ...]:
    stages: dict[int, list[str]] = {}
    seen: set[str] = set()
    for name, number in calls:
        if name not in seen:
            stages.setdefault(number, []).append(name)
            seen.add(name)
    return tuple(tuple(names) for names in stages.values())
