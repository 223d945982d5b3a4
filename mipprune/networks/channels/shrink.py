"""Taking channels out of a network: a smaller module, and the large one with the same channels masked."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mipprune.networks.channels.traced import TracedLayer
from mipprune.networks.channels.units import ChannelGraph

__all__ = ["masked", "shrink"]


def shrink(found: ChannelGraph, kept: Sequence[Any]) -> fx.GraphModule:
    """Return the network without the channels that are given up: new shapes, BatchNorm included.

    Parameters
    ----------
    found : ChannelGraph
    kept : sequence of bool array, shape (channels,)
        For each unit which of its channels stay; at least one of each.

    Returns
    -------
    torch.fx.GraphModule
        With the layers' names of the original, in evaluation mode. Its outputs are those of :func:`masked` up to
        rounding.

    Raises
    ------
    InvalidProblem
        If the masks do not fit the units.

    Examples
    --------
    >>> import torch
    >>> from mipprune.networks.channels import channel_graph
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> small = shrink(channel_graph(net, torch.zeros(1, 3)), [[True, False, True, False]])
    >>> tuple(small.get_submodule("0").weight.shape), tuple(small.get_submodule("2").weight.shape)
    ((2, 3), (2, 2))
    """
    masks = found.check_kept(kept)
    module = copy.deepcopy(found.tracing.module)
    for layer in found.tracing.layers.values():
        inputs, outputs = found.kept_positions(layer.inputs, masks), found.kept_positions(layer.outputs, masks)
        _cut(module.get_submodule(layer.name), layer, inputs, outputs)
    for node in module.graph.nodes:
        if node.name in found.tracing.padded:
            place, before, after = found.tracing.padded[node.name]
            _cut_padding(node, place, [len(found.kept_positions(ids, masks)) for ids in (before, after)])
    module.graph.lint()
    module.recompile()
    return module


def _cut(module: nn.Module, layer: TracedLayer, inputs: Tensor, outputs: Tensor) -> None:
    """Keep some inputs and outputs of one layer, in place."""
    columns = inputs if layer.kind == "dense" else None
    for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
        if tensor is None or tensor.ndim == 0:
            continue
        part = tensor.detach().index_select(0, outputs.to(tensor.device))
        if columns is not None and tensor.ndim > 1:
            part = part.index_select(1, columns.to(tensor.device))
        part = part.clone()
        if name in module._parameters:
            module._parameters[name] = nn.Parameter(part, requires_grad=tensor.requires_grad)
        else:
            module._buffers[name] = part
    attributes: dict[str, int] = {"out_channels": len(outputs), "out_features": len(outputs)}
    attributes.update(in_channels=len(inputs), in_features=len(inputs), num_features=len(outputs))
    if layer.kind == "depthwise":
        attributes["groups"] = len(inputs)
    for name, value in attributes.items():
        if hasattr(module, name):
            setattr(module, name, value)


def _cut_padding(node: fx.Node, place: int, widths: list[int]) -> None:
    """Pad with fewer zero channels."""
    in_arguments = len(node.args) > 1
    given: Any = list(node.args[1] if in_arguments else node.kwargs["pad"])  # type: ignore[arg-type]
    given[place : place + 2] = widths
    if in_arguments:
        node.update_arg(1, tuple(given))
    else:
        node.update_kwarg("pad", tuple(given))


def masked(found: ChannelGraph, kept: Sequence[Any]) -> fx.GraphModule:
    """Return the network with all its shapes and the channels that are given up set to zero wherever they are read.

    Parameters
    ----------
    found : ChannelGraph
    kept : sequence of bool array, shape (channels,)
        For each unit which of its channels stay.
    """
    masks = found.check_kept(kept)
    module = copy.deepcopy(found.tracing.module)
    for layer in found.tracing.layers.values():
        part = module.get_submodule(layer.name)
        rows = torch.ones(len(layer.outputs), dtype=torch.bool)
        rows[found.kept_positions(layer.outputs, masks)] = False
        columns = torch.ones(len(layer.inputs), dtype=torch.bool)
        columns[found.kept_positions(layer.inputs, masks)] = False
        with torch.no_grad():
            for parameter in part.parameters(recurse=False):
                parameter[rows.to(parameter.device)] = 0.0
                if layer.kind == "dense" and parameter.ndim > 1:
                    parameter[:, columns.to(parameter.device)] = 0.0
    return module
