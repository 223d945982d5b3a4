"""Units of coupled channels: what can be given up together, what it costs, and what it is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mipprune.errors import InvalidProblem
from mipprune.formulations.channels import CoupledLayer
from mipprune.networks.channels.traced import TracedLayer, Tracing
from mipprune.networks.channels.tracing import trace

if TYPE_CHECKING:
    import networkx

__all__ = ["ChannelGraph", "Unit", "channel_graph"]


@dataclass(frozen=True)
class Unit:
    """Channels that occur in the same layers, so that only their number matters for the costs.

    Parameters
    ----------
    channels : tuple of int
        One number for each channel: the smallest of those that are the same decision.
    places : tuple of (str, str, int)
        Layer, ``"inputs"`` or ``"outputs"``, and how many inputs or outputs there each channel makes.
    """

    channels: tuple[int, ...]
    places: tuple[tuple[str, str, int], ...]

    def __len__(self) -> int:
        return len(self.channels)


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The channels of a network with their couplings.

    Parameters
    ----------
    tracing : Tracing
        As :func:`mipprune.networks.channels.trace` returns it.
    """

    tracing: Tracing

    @cached_property
    def graph(self) -> networkx.Graph:
        """The graph of channels: nodes are numbers of channels, edges couplings, components single decisions."""
        import networkx

        graph: networkx.Graph = networkx.Graph()
        graph.add_nodes_from(range(self.tracing.count))
        graph.add_edges_from(self.tracing.couplings)
        return graph

    @cached_property
    def decision(self) -> list[int]:
        """For each channel the smallest number that is the same decision."""
        import networkx

        found = list(range(self.tracing.count))
        for component in networkx.connected_components(self.graph):
            smallest = min(component)
            for number in component:
                found[number] = smallest
        return found

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """All decisions that may be pruned, those with the same places together, in the order of the network."""
        places: dict[int, Counter[tuple[str, str]]] = {}
        for layer in self.tracing.layers.values():
            for side, ids in (("inputs", layer.inputs), ("outputs", layer.outputs)):
                for number in ids:
                    places.setdefault(self.decision[number], Counter())[layer.name, side] += 1
        fixed = {self.decision[number] for number in self.tracing.fixed}
        together: dict[tuple[tuple[str, str, int], ...], list[int]] = {}
        for number, counted in sorted(places.items()):
            if number not in fixed:
                key = tuple((name, side, times) for (name, side), times in counted.items())
                together.setdefault(key, []).append(number)
        return tuple(Unit(tuple(numbers), key) for key, numbers in together.items())

    @cached_property
    def unit_of(self) -> dict[int, tuple[int, int]]:
        """For each decision that may be pruned its unit and its place in it."""
        return {number: (u, place) for u, unit in enumerate(self.units) for place, number in enumerate(unit.channels)}

    def kept_positions(self, ids: Sequence[int], kept: Sequence[Tensor]) -> Tensor:
        """Return which of the channels in a list stay, int64; ``kept`` holds a bool mask for each unit."""
        stays = []
        for position, number in enumerate(ids):
            found = self.unit_of.get(self.decision[number])
            if found is None or bool(kept[found[0]][found[1]]):
                stays.append(position)
        return torch.tensor(stays, dtype=torch.int64)

    def check_kept(self, kept: Sequence[Any]) -> list[Tensor]:
        """Return the masks as bool tensors, or raise :class:`InvalidProblem` where they do not fit the units."""
        masks = [torch.as_tensor(mask).bool().cpu() for mask in kept]
        if [tuple(mask.shape) for mask in masks] != [(len(unit),) for unit in self.units]:
            raise InvalidProblem(
                f"masks have shapes {[tuple(mask.shape) for mask in masks]}; the units have "
                f"{[len(unit) for unit in self.units]} channels"
            )
        if any(not bool(mask.any()) for mask in masks):
            raise InvalidProblem("a unit without any channel would cut the network; keep at least one")
        return masks

    # ------------------------------------------------------------------------------------------ costs

    def coupled_layers(
        self, latency: Mapping[str, Any] | Callable[[str], Any] | None = None, *, macs: bool = True
    ) -> list[CoupledLayer]:
        """Return what the layers cost by numbers of inputs and outputs, for `mipprune.formulations.channel_widths`.

        Parameters
        ----------
        latency : mapping or callable from a layer's name to array, optional
            Tables of shape (inputs + 1, outputs + 1); a layer without one (None) costs nothing of this resource.
        macs : bool
            Whether multiply-adds are a resource (the first one).
        """
        found = []
        for layer in self.tracing.layers.values():
            if layer.kind == "norm":
                continue
            costs: list[Any] = [float(layer.macs)] if macs else []
            if latency is not None:
                table = latency(layer.name) if callable(latency) else latency.get(layer.name)
                costs.append(0.0 if table is None else table)
            inputs, fixed_inputs = self._side(layer.inputs)
            outputs, fixed_outputs = self._side(layer.outputs)
            if layer.kind == "depthwise":  # each output reads one input
                inputs, fixed_inputs = {}, 1
            found.append(CoupledLayer(tuple(costs), inputs, outputs, fixed_inputs, fixed_outputs))
        return found

    def _side(self, ids: Sequence[int]) -> tuple[dict[int, int], int]:
        counted = Counter(self.unit_of.get(self.decision[number], (-1, 0))[0] for number in ids)
        fixed = counted.pop(-1, 0)
        return {u: times // len(self.units[u]) for u, times in counted.items()}, fixed

    def macs(self, kept: Sequence[Any] | None = None) -> int:
        """Return the multiply-adds of all convolutions and linear layers for one input, dense or with masks applied."""
        masks = [torch.ones(len(unit)) for unit in self.units] if kept is None else kept
        checked = self.check_kept(masks)
        total = 0
        for layer in self.tracing.layers.values():
            outputs = len(self.kept_positions(layer.outputs, checked))
            inputs = 1 if layer.kind == "depthwise" else len(self.kept_positions(layer.inputs, checked))
            total += 0 if layer.kind == "norm" else layer.macs * inputs * outputs
        return total

    # ------------------------------------------------------------------------------------------ scores

    def magnitude(self) -> list[Tensor]:
        """Return a score for each channel of each unit: its share of the squared weights of the layers it goes through.

        Returns
        -------
        list of Tensor, shape (channels,), float64
            The sum over the layers that make the channel, and those that read it, of the squared norm of the channel's
            weights divided by that of the layer.
        """
        scores = [torch.zeros(len(unit), dtype=torch.float64) for unit in self.units]
        for layer in self.tracing.layers.values():
            module = self.tracing.module.get_submodule(layer.name)
            if layer.kind == "norm":
                continue
            weight = module.weight.detach().double().square()  # type: ignore[operator]
            total = float(weight.sum()) or 1.0
            self._spread(scores, layer.outputs, weight.flatten(1).sum(dim=1) / total)
            if layer.kind == "dense":
                self._spread(scores, layer.inputs, weight.transpose(0, 1).flatten(1).sum(dim=1) / total)
        return scores

    def taylor(self, loss: Callable[[nn.Module, Any], Tensor], batches: Iterable[Any]) -> list[Tensor]:
        """Return a score for each channel: the squared first-order change of a loss when the channel vanishes.

        Parameters
        ----------
        loss : callable
            ``loss(module, batch)`` returns a scalar with gradients.
        batches : iterable
            Data; each batch adds its squared change, so many small ones tell more.

        Returns
        -------
        list of Tensor, shape (channels,), float64

        Notes
        -----
        A channel that a norm layer makes vanishes when its scale and shift do, one that a layer without norm makes when
        its weights and bias do; the change is summed over all that make the channel before it is squared.

        References
        ----------
        Molchanov et al., arXiv 1906.10771.
        """
        module = self.tracing.module
        totals = [torch.zeros(len(unit), dtype=torch.float64) for unit in self.units]
        makers = self._makers()
        wanted = [p for layer in makers for p in module.get_submodule(layer.name).parameters(recurse=False)]
        count = 0
        for batch in batches:
            gradients = torch.autograd.grad(loss(module, batch), wanted, allow_unused=True)
            of = {id(p): g for p, g in zip(wanted, gradients) if g is not None}
            change = [torch.zeros(len(unit), dtype=torch.float64) for unit in self.units]
            for layer in makers:
                for parameter in module.get_submodule(layer.name).parameters(recurse=False):
                    if id(parameter) in of:
                        terms = (
                            (parameter.detach() * of[id(parameter)]).double().cpu().flatten(1 - (parameter.ndim < 2))
                        )
                        self._spread(change, layer.outputs, terms if terms.ndim == 1 else terms.sum(dim=1))
            for total, part in zip(totals, change):
                total += part.square()
            count += 1
        if count == 0:
            raise InvalidProblem("there is no batch to take gradients on; give at least one")
        return [total / count for total in totals]

    def _makers(self) -> list[TracedLayer]:
        """Layers whose parameters make channels: norms, and others whose output no norm reads."""
        layers = list(self.tracing.layers.values())
        normed = {number for layer in layers if layer.kind == "norm" for number in layer.inputs}
        return [layer for layer in layers if layer.kind == "norm" or not set(layer.outputs) & normed]

    def _spread(self, scores: list[Tensor], ids: Sequence[int], values: Tensor) -> None:
        """Add values of single positions of a layer to the channels that they belong to."""
        for number, value in zip(ids, values.tolist(), strict=True):
            found = self.unit_of.get(self.decision[number])
            if found is not None:
                scores[found[0]][found[1]] += value


def channel_graph(model: nn.Module, example: Tensor, *, groups: Iterable[Any] = ()) -> ChannelGraph:
    """Return the coupled channels of a network.

    Parameters
    ----------
    model : torch.nn.Module
        A network that torch.fx can trace; it is copied.
    example : Tensor
        An input with its batch dimension.
    groups : iterable of torch_pruning.Group, optional
        Couplings that Torch-Pruning has found in the same model (``DependencyGraph().get_all_groups()``); they are
        added to the own ones.

    Returns
    -------
    ChannelGraph

    Raises
    ------
    InvalidProblem
        If the network cannot be traced.

    References
    ----------
    DepGraph, arXiv 2301.12900, for the idea of coupled channels.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> found = channel_graph(net, torch.zeros(1, 3, 8, 8))
    >>> [(len(unit), unit.places) for unit in found.units]
    [(8, (('0', 'outputs', 1), ('2', 'inputs', 1)))]
    """
    tracing = trace(model, example)
    names = {module: name for name, module in model.named_modules()}
    for group in groups:
        _add_group(tracing, group, names)
    return ChannelGraph(tracing)


def _add_group(tracing: Tracing, group: Any, names: dict[nn.Module, str]) -> None:
    """Couple what one group of Torch-Pruning prunes together: (dependency, indices) pairs, root first."""
    first: dict[int, int] = {}
    for dependency, indices in group:
        layer = tracing.layers.get(names.get(dependency.target.module, ""))
        if layer is None:
            continue
        ids = layer.inputs if "in_channels" in dependency.handler.__name__ else layer.outputs
        for place, index in enumerate(indices):
            number = ids[int(getattr(index, "idx", index))]
            root = int(getattr(index, "root_idx", place))
            if root in first:
                tracing.couple([first[root]], [number])
            else:
                first[root] = number
