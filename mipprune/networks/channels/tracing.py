"""Which channels of which layers are the same decision: a network traced by torch.fx, channel by channel.

Every channel that a layer makes gets a number. Additions and products make two numbers one decision; concatenation,
padding and flattening move them; what is not understood keeps all its channels.
"""

from __future__ import annotations

import copy
import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from mipprune.errors import InvalidProblem
from mipprune.networks.channels.traced import Ids, TracedLayer, Tracing

__all__ = ["trace"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ELEMENTWISE_MODULES = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish),
    *(nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout),
)
_POOLING_MODULES = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.Upsample),
)
_ELEMENTWISE = {
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardswish", "dropout"),
    *("hardsigmoid", "hardtanh", "softplus", "contiguous", "clone", "detach", "neg", "abs", "exp", "sigmoid_", "tanh_"),
    *("clamp", "float", "dropout2d"),
}
_POOLING = {
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d"),
    *("adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "interpolate"),
}
_BINARY = {"add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "truediv", "div"}


@dataclass(frozen=True)
class _Flow:
    """Channel numbers along one dimension of a tensor."""

    ids: Ids
    dim: int


def trace(model: nn.Module, example: Tensor) -> Tracing:
    """Find out which channels of a network are coupled.

    Parameters
    ----------
    model : torch.nn.Module
        A network that `torch.fx` can trace; it is copied and put in evaluation mode.
    example : Tensor
        An input; a batch of one or two will do.

    Returns
    -------
    Tracing

    Raises
    ------
    InvalidProblem
        If torch.fx cannot follow the network's code.
    """
    copied = copy.deepcopy(model).eval()
    try:
        graph_module = fx.symbolic_trace(copied)
        with torch.no_grad():
            shapes = _Shapes(graph_module)
            shapes.run(example)
    except (fx.proxy.TraceError, RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        raise InvalidProblem(
            f"torch.fx cannot trace the network ({type(error).__name__}: {error}); its code must not depend on "
            "values of tensors"
        ) from error
    follower = _Follower(Tracing(graph_module), shapes.shapes)
    for node in graph_module.graph.nodes:
        follower.visit(node)
    return follower.found


class _Shapes(fx.Interpreter):
    """Runs the network and notes the shapes of all tensors."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        return result


class _Follower:
    """Follows channel numbers from node to node."""

    def __init__(self, found: Tracing, shapes: dict[fx.Node, tuple[int, ...]]) -> None:
        self.found, self.shapes = found, shapes
        self.flows: dict[fx.Node, _Flow | None] = {}
        self.modules = dict(found.module.named_modules())
        owners: dict[int, int] = {}
        for module in self.modules.values():
            for parameter in module.parameters(recurse=False):
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        self.shared = {key for key, number in owners.items() if number > 1}

    def visit(self, node: fx.Node) -> None:
        """Give a node its channel numbers."""
        if node.op == "output" or node not in self.shapes:
            flow = None
            if node.op == "output" or not self._asks_for_shape(node):
                self._fix(node)
        elif node.op in ("placeholder", "get_attr"):
            flow = None
        elif node.op == "call_module":
            flow = self._module(node, self.modules[str(node.target)])
        else:
            flow = self._function(node)
        self.flows[node] = flow

    @staticmethod
    def _asks_for_shape(node: fx.Node) -> bool:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        return name in ("size", "dim", "getattr", "getitem", "floordiv", "mul", "add", "numel", "int")

    def _fix(self, node: fx.Node, reason: str = "") -> None:
        """Keep all channels that flow into a node."""
        touched = False
        for source in node.all_input_nodes:
            flow = self.flows.get(source)
            if flow is not None:
                self.found.fixed.update(flow.ids)
                touched = True
        if reason and touched:
            self.found.notes.append(f"{node.name}: {reason}; the channels that reach it stay")

    def _source(self, node: fx.Node) -> tuple[fx.Node, _Flow | None]:
        source = node.args[0] if node.args else node.kwargs["input"]
        assert isinstance(source, fx.Node)
        return source, self.flows[source]

    # ------------------------------------------------------------------------------------------ modules

    def _module(self, node: fx.Node, module: nn.Module) -> _Flow | None:
        if any(id(parameter) in self.shared for parameter in module.parameters(recurse=False)):
            self._fix(node, "its weights are shared with another module")
            return None
        if isinstance(module, _CONVOLUTIONS):
            return self._convolution(node, module)
        if isinstance(module, nn.Linear):
            return self._linear(node, module)
        source, flow = self._source(node)
        if isinstance(module, _ELEMENTWISE_MODULES):
            return flow
        if isinstance(module, _NORMS):
            if flow is None or flow.dim != 1:
                self._fix(node)
                return None
            self._add(node, "norm", flow.ids, flow.ids)
            return flow
        if isinstance(module, _POOLING_MODULES) and (flow is None or self._is_spatial(source, flow)):
            return flow
        if isinstance(module, nn.Flatten):
            return self._reshaped(node, source, flow)
        self._fix(node, f"{type(module).__name__} is not understood")
        return None

    def _is_spatial(self, source: fx.Node, flow: _Flow) -> bool:
        return flow.dim == 1 and len(self.shapes[source]) >= 3

    def _add(self, node: fx.Node, kind: str, inputs: Ids, outputs: Ids, macs: int = 0) -> TracedLayer:
        name = str(node.target)
        layer = self.found.layers.get(name)
        if layer is None:
            layer = self.found.layers[name] = TracedLayer(name, kind, list(inputs), list(outputs), macs)
        else:  # called again: the same channels each time
            self.found.couple(layer.inputs, inputs)
            self.found.couple(layer.outputs, outputs)
            layer.macs += macs
        return layer

    def _incoming(self, flow: _Flow | None, dim: int, number: int) -> Ids:
        """The channel numbers of a layer's inputs; new ones that stay where nothing is known."""
        if flow is not None and flow.dim == dim and len(flow.ids) == number:
            return flow.ids
        if flow is not None:
            self.found.fixed.update(flow.ids)
        ids = self.found.fresh(number)
        self.found.fixed.update(ids)
        return ids

    def _outgoing(self, node: fx.Node, number: int) -> Ids:
        known = self.found.layers.get(str(node.target))
        return known.outputs if known is not None else self.found.fresh(number)

    def _convolution(self, node: fx.Node, module: nn.Module) -> _Flow | None:
        assert isinstance(module, _CONVOLUTIONS)
        _, flow = self._source(node)
        shape = self.shapes[node]
        dim = len(shape) - len(module.kernel_size) - 1
        positions = math.prod(shape[dim + 1 :]) * math.prod(module.kernel_size)
        if module.groups == 1:
            inputs = self._incoming(flow, dim, module.in_channels)
            outputs = self._outgoing(node, module.out_channels)
            self._add(node, "dense", inputs, outputs, positions)
            return _Flow(outputs, dim)
        if module.groups == module.in_channels and module.padding_mode == "zeros" and flow is not None:
            each = module.out_channels // module.in_channels
            outputs = [channel for channel in flow.ids for _ in range(each)]
            self._add(node, "depthwise", flow.ids, outputs, positions)
            return _Flow(outputs, dim)
        self._fix(node, f"a convolution in {module.groups} groups")
        return None

    def _linear(self, node: fx.Node, module: nn.Linear) -> _Flow:
        source, flow = self._source(node)
        dim = len(self.shapes[source]) - 1
        inputs = self._incoming(flow, dim, module.in_features)
        outputs = self._outgoing(node, module.out_features)
        positions = math.prod(self.shapes[source][1:-1])
        self._add(node, "dense", inputs, outputs, positions)
        return _Flow(outputs, dim)

    # ------------------------------------------------------------------------------------------ functions

    def _function(self, node: fx.Node) -> _Flow | None:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if name in _BINARY:
            return self._binary(node)
        if name in ("cat", "concat", "concatenate"):
            return self._concatenation(node)
        source, flow = self._source(node) if node.all_input_nodes else (None, None)
        if source is None or flow is None:
            self._fix(node)
            return None
        if name in _ELEMENTWISE or (name in _POOLING and self._is_spatial(source, flow)):
            return flow
        if name == "pad":
            return self._pad(node, source, flow)
        if name == "mean":
            return self._mean(node, source, flow)
        if name == "getitem" and node.target is operator.getitem:
            return self._slice(node, flow)
        if name in ("flatten", "view", "reshape"):
            return self._reshaped(node, source, flow)
        self._fix(node, f"{name} is not understood")
        return None

    def _binary(self, node: fx.Node) -> _Flow | None:
        sources = [argument for argument in node.args if isinstance(argument, fx.Node) and argument in self.shapes]
        flows = [self.flows[source] for source in sources]
        known = [flow for flow in flows if flow is not None]
        if not known:
            return None
        dims = len(self.shapes[node])
        # Counted from the end, since shapes broadcast from there.
        places = {flow.dim - len(self.shapes[source]) for source, flow in zip(sources, flows) if flow is not None}
        first = known[0]
        if len(places) > 1 or any(len(flow.ids) != len(first.ids) for flow in known):
            self._fix(node, "tensors of different channels are combined")
            return None
        place = places.pop()
        for source, flow in zip(sources, flows):
            shape = self.shapes[source]
            if flow is None and len(shape) >= -place and shape[place] != 1:
                self._fix(node, "channels are combined with something whose channels are not known")
                return None
        for flow in known[1:]:
            self.found.couple(first.ids, flow.ids)
        return _Flow(first.ids, dims + place)

    def _concatenation(self, node: fx.Node) -> _Flow | None:
        parts: Any = node.args[0] if node.args else node.kwargs["tensors"]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        flows = [self.flows[part] for part in parts]
        known = [flow for flow in flows if flow is not None]
        if not known or not isinstance(dim, int):
            self._fix(node)
            return None
        dim = dim % len(self.shapes[node])
        if any(flow.dim != known[0].dim for flow in known):
            self._fix(node, "channels of different dimensions are concatenated")
            return None
        if dim != known[0].dim:
            if len(known) < len(flows):
                self._fix(node, "concatenated with something whose channels are not known")
                return None
            for flow in known[1:]:
                self.found.couple(known[0].ids, flow.ids)
            return known[0]
        ids: Ids = []
        for part, own in zip(parts, flows):
            ids += self._incoming(None, dim, self.shapes[part][dim]) if own is None else own.ids
        return _Flow(ids, dim)

    def _pad(self, node: fx.Node, source: fx.Node, flow: _Flow) -> _Flow | None:
        widths: Any = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
        mode = node.args[2] if len(node.args) > 2 else node.kwargs.get("mode", "constant")
        place = 2 * (len(self.shapes[source]) - 1 - flow.dim)
        if len(widths) <= place or not (widths[place] or widths[place + 1]):
            return flow
        value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value", None)
        whole = all(isinstance(width, int) and width >= 0 for width in widths)
        if mode != "constant" or value not in (None, 0, 0.0) or not whole or node.target is not functional.pad:
            self._fix(node, "channels are padded with something else than zeros")
            return None
        before, after = self.found.fresh(widths[place]), self.found.fresh(widths[place + 1])
        self.found.padded[node.name] = (place, before, after)
        return _Flow([*before, *flow.ids, *after], flow.dim)

    def _mean(self, node: fx.Node, source: fx.Node, flow: _Flow) -> _Flow | None:
        dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        size = len(self.shapes[source])
        listed = [dims] if isinstance(dims, int) else list(dims or range(size))
        gone = {dim % size for dim in listed}
        if flow.dim in gone:
            self._fix(node, "a mean over channels")
            return None
        keeps = len(self.shapes[node]) == size
        return _Flow(flow.ids, flow.dim if keeps else flow.dim - sum(dim < flow.dim for dim in gone))

    def _slice(self, node: fx.Node, flow: _Flow) -> _Flow | None:
        index: Any = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        plain = all(isinstance(part, slice) for part in index)
        if not plain or (len(index) > flow.dim and index[flow.dim] != slice(None)):
            self._fix(node, "channels are picked by an index")
            return None
        return flow

    def _reshaped(self, node: fx.Node, source: fx.Node, flow: _Flow | None) -> _Flow | None:
        """(batch, channels, ...) to (batch, channels * ...), with the length left to torch."""
        if flow is None:
            return None
        before, after = self.shapes[source], self.shapes[node]
        flat = len(after) == 2 and after[0] == before[0] and after[1] == math.prod(before[1:])
        literal = node.op != "call_module" and any(argument == after[1] for argument in _flat(node.args[1:]))
        if not flat or flow.dim != 1 or literal:
            self._fix(node, "reshaped in another way than flattened to (batch, -1)")
            return None
        return _Flow([channel for channel in flow.ids for _ in range(after[1] // before[1])], 1)


def _flat(arguments: Any) -> list[Any]:
    if isinstance(arguments, (tuple, list)):
        return [item for part in arguments for item in _flat(part)]
    return [arguments]
