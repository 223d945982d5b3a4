"""Which layers of a network can be pruned, and the (out, in) matrix behind each of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from mipprune.errors import InvalidProblem

__all__ = ["PrunableLayer", "Skipped", "Survey", "prunable", "survey"]

Kind = Literal["linear", "conv2d", "conv1d"]

# Names under which libraries keep the last layer of a network; its outputs are logits, which no later layer can repair.
_HEAD_NAMES = frozenset({"lm_head", "embed_out", "classifier", "score", "qa_outputs", "head"})


@dataclass(frozen=True, eq=False)
class PrunableLayer:
    """One weight matrix of a network that can be pruned.

    The layer maps each token (a row of `inputs`) to ``token @ weight_matrix().T``, plus a bias that pruning leaves
    alone.

    Parameters
    ----------
    name : str
        Qualified name in the model; the groups of a grouped convolution are told apart by a suffix such as ``conv[1]``.
    module : torch.nn.Module
        The module that owns the weight.
    kind : {"linear", "conv2d", "conv1d"}
        ``"conv1d"`` is the transposed linear layer of Hugging Face's GPT-2 family, not ``torch.nn.Conv1d``.
    group : int
        Which group of a grouped convolution this is, from 0; 0 for every other layer.
    aliases : tuple of str
        Further names in the model whose modules hold the very same parameter: writing here changes them too.
    shared : tuple of torch.nn.Module
        The modules behind `aliases`, in the same order.

    Examples
    --------
    >>> import torch
    >>> layer = prunable(torch.nn.Sequential(torch.nn.Linear(3, 2)))[0]
    >>> layer.name, layer.shape
    ('0', (2, 3))
    >>> layer.write(torch.zeros(2, 3))
    >>> float(layer.weight_matrix().abs().sum())
    0.0
    """

    name: str
    module: nn.Module
    kind: Kind
    group: int = 0
    aliases: tuple[str, ...] = ()
    shared: tuple[nn.Module, ...] = ()

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that holds the weights, in the module's own layout."""
        return cast(nn.Parameter, self.module.weight)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of outputs and inputs (out, in) of the matrix."""
        weight = self.parameter
        if self.kind == "conv1d":
            return int(weight.shape[1]), int(weight.shape[0])
        return int(weight.shape[0]) // self._groups, math.prod(weight.shape[1:])

    @property
    def _groups(self) -> int:
        return self.module.groups if isinstance(self.module, nn.Conv2d) else 1

    def _own_part(self) -> Tensor:
        """The slice of the parameter that belongs to this layer, sharing its memory."""
        weight = self.parameter.detach()
        out = weight.shape[0] // self._groups
        return weight[self.group * out : (self.group + 1) * out] if self._groups > 1 else weight

    def weight_matrix(self) -> Tensor:
        """The weights as a matrix.

        Returns
        -------
        Tensor, shape (out, in)
            A copy, in the dtype and on the device of the parameter. The inputs of a convolution are ordered as
            (channel, row, column), as `torch.nn.functional.unfold` orders them.
        """
        part = self._own_part()
        matrix = part.t() if self.kind == "conv1d" else part.reshape(self.shape)
        return matrix.clone(memory_format=torch.contiguous_format)

    def write(self, matrix: Tensor) -> None:
        """Replace the weights in place; tied parameters stay tied.

        Parameters
        ----------
        matrix : Tensor, shape (out, in)
            New weights of any floating dtype on any device; they are rounded to the parameter's dtype.

        Raises
        ------
        InvalidProblem
            If the shape is wrong, or an entry is not finite (also after rounding to the parameter's dtype).
        """
        if tuple(matrix.shape) != self.shape:
            raise InvalidProblem(
                f"layer {self.name!r} holds a matrix of shape {self.shape} but was given one of shape "
                f"{tuple(matrix.shape)}; pass weights as (out, in)"
            )
        part = self._own_part()
        values = matrix.detach().to(device=part.device, dtype=part.dtype)
        if not bool(torch.isfinite(values).all()):
            raise InvalidProblem(
                f"the new weights of layer {self.name!r} are not all finite in {part.dtype}; "
                "check the solver's result, or load the model in float32 if the values are too large for its dtype"
            )
        with torch.no_grad():
            part.copy_(values.t() if self.kind == "conv1d" else values.reshape(part.shape))

    def inputs(self, x: Tensor) -> Tensor:
        """Turn what the module receives into rows of inputs.

        Parameters
        ----------
        x : Tensor, shape (..., in), or (batch, channels, height, width) for a convolution
            The module's input.

        Returns
        -------
        Tensor, shape (tokens, in)
            A token is one position of a sequence, or one output position of a convolution; then
            ``inputs(x) @ weight_matrix().T`` are the module's outputs without bias.
        """
        if not isinstance(self.module, nn.Conv2d):
            return x.reshape(-1, x.shape[-1])
        module = self.module
        images = x.unsqueeze(0) if x.dim() == 3 else x
        if module.groups > 1:
            width = module.in_channels // module.groups
            images = images[:, self.group * width : (self.group + 1) * width]
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        padded = nn.functional.pad(images, _padding(module), mode=mode)
        patches = nn.functional.unfold(padded, module.kernel_size, dilation=module.dilation, stride=module.stride)
        return patches.transpose(1, 2).reshape(-1, patches.shape[1])

    def input_signature(self) -> tuple[object, ...]:
        """What decides how `inputs` reads a tensor: layers with equal signatures turn one tensor into the same rows."""
        module = self.module
        if not isinstance(module, nn.Conv2d):
            return ("rows",)
        reading = (module.kernel_size, module.stride, module.dilation, module.padding_mode, _padding(module))
        return ("patches", *reading, module.groups, self.group)

    def readers(self) -> Iterator[PrunableLayer]:
        """The layer itself and one copy for each further module that multiplies by the same parameter."""
        yield self
        for module in self.shared:
            yield replace(self, module=module, shared=(), aliases=())


def _padding(module: nn.Conv2d) -> tuple[int, ...]:
    """Padding (left, right, top, bottom) of a convolution, its string forms written out."""
    sides: list[int] = []
    for axis in (1, 0):
        if module.padding == "valid":
            before = after = 0
        elif module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            before, after = total // 2, total - total // 2
        else:
            before = after = int(module.padding[axis])
        sides += [before, after]
    return tuple(sides)


@dataclass(frozen=True)
class Skipped:
    """A layer with weights that will not be pruned, and why.

    Parameters
    ----------
    name : str
        Qualified name in the model.
    reason : str
        One sentence for a report.
    """

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Survey:
    """What can be pruned in a model and what cannot.

    Parameters
    ----------
    layers : tuple of PrunableLayer
        In the order of ``model.named_modules()``; a parameter shared by several modules occurs once.
    skipped : tuple of Skipped
        Every other layer with a weight matrix, with the reason.
    """

    layers: tuple[PrunableLayer, ...]
    skipped: tuple[Skipped, ...]

    @property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """The groups of names that hold one and the same parameter; the first of each is the one that is pruned."""
        return tuple((layer.name, *layer.aliases) for layer in self.layers if layer.aliases)


def prunable(model: nn.Module, skip: Sequence[str] = (), include: Sequence[str] = ()) -> list[PrunableLayer]:
    """The layers of a model that can be pruned.

    Parameters
    ----------
    model : torch.nn.Module
        Any network.
    skip, include : sequence of str
        See `survey`.

    Returns
    -------
    list of PrunableLayer
        ``survey(model, skip, include).layers``.

    Raises
    ------
    InvalidProblem
        If a pattern matches nothing.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [layer.name for layer in prunable(net, skip=["2"])]
    ['0']
    """
    return list(survey(model, skip, include).layers)


def survey(model: nn.Module, skip: Sequence[str] = (), include: Sequence[str] = ()) -> Survey:
    """Sort the layers of a model into those that can be pruned and those that are left alone, with reasons.

    Linear layers, convolutions in two dimensions (a grouped one as one matrix per group) and Hugging Face's
    ``Conv1D`` can be pruned. Left alone by default are embeddings, matrices tied to an embedding, the output head (what
    ``get_output_embeddings()`` returns, or a linear layer with a name such as ``lm_head``, ``classifier`` or
    ``score``) and whatever has no dense floating-point matrix of its own that its module multiplies by.

    Parameters
    ----------
    model : torch.nn.Module
        Any network.
    skip : sequence of str
        Patterns (as for file names: ``*``, ``?``, ``[...]``) of further layers to leave alone.
    include : sequence of str
        Patterns of layers to prune in spite of `skip` and of being an output head or tied to an embedding.

    Returns
    -------
    Survey

    Raises
    ------
    InvalidProblem
        If a pattern matches no layer, or `include` asks for a layer that cannot be pruned at all.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 2))
    >>> survey(net).skipped
    (Skipped(name='0', reason='a depthwise convolution: each channel has only its own kernel, nothing to select from'),)
    """
    embeddings = {id(m.weight): name for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    head = _output_head(model)
    attention = tuple(name for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention))
    layers: list[PrunableLayer] = []
    skipped: list[Skipped] = []
    seen: list[str] = []
    for name, module in model.named_modules():
        if not _has_weight_matrix(module):
            continue
        seen.append(name)
        wanted = matching(name, include)
        unable = _unable(name, module, attention)
        if unable is not None:
            if wanted is not None and wanted == name:
                raise InvalidProblem(f"layer {name!r} was asked for by name but cannot be pruned: {unable}")
            skipped.append(Skipped(name, unable))
            continue
        reason = None if wanted is not None else _unwanted(name, module, skip, head, embeddings)
        if reason is not None:
            skipped.append(Skipped(name, reason))
        else:
            layers += _layers_of(name, module)
    check_patterns((*skip, *include), seen)
    return Survey(tuple(_merge_tied(layers)), tuple(skipped))


def _has_weight_matrix(module: nn.Module) -> bool:
    known = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.MultiheadAttention, nn.modules.conv._ConvNd)
    return isinstance(module, known) or is_transposed_linear(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """Tell whether a module is the transposed linear layer of Hugging Face's GPT-2 family."""
    # Recognised by name: importing transformers for an isinstance test would cost seconds.
    weight = module._parameters.get("weight")
    return type(module).__name__ == "Conv1D" and weight is not None and weight.dim() == 2


def _output_head(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if callable(getter) else None
    return head if isinstance(head, nn.Module) else None


def _unable(name: str, module: nn.Module, attention: Sequence[str]) -> str | None:
    """Why this module cannot be pruned whatever the user asks for."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "an embedding: rows are looked up, not multiplied by inputs"
    if isinstance(module, nn.MultiheadAttention) or any(name.startswith(owner + ".") for owner in attention):
        return "part of torch.nn.MultiheadAttention, which reads its weights without calling the layer"
    if not isinstance(module, (nn.Linear, nn.Conv2d)) and not is_transposed_linear(module):
        return f"{type(module).__name__} layers are not supported"
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed from other parameters (a parametrisation); remove the parametrisation first"
    if isinstance(weight, UninitializedParameter):
        return "its weight has no shape yet; run the model once first"
    if not weight.is_floating_point() or weight.dim() not in (2, 4):
        return f"its weight is stored as {weight.dtype} of shape {tuple(weight.shape)}, not as a floating-point matrix"
    if weight.device.type == "meta":
        return "its weight is not in memory (device 'meta'); load the model fully first"
    if isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels:
        return "a depthwise convolution: each channel has only its own kernel, nothing to select from"
    return None


def _unwanted(
    name: str, module: nn.Module, skip: Sequence[str], head: nn.Module | None, embeddings: dict[int, str]
) -> str | None:
    """Why this module is left alone by default."""
    pattern = matching(name, skip)
    if pattern is not None:
        return f"matches the skip pattern {pattern!r}"
    tied_to = embeddings.get(id(module._parameters["weight"]))
    if tied_to is not None:
        return f"tied to the embedding {tied_to!r}: pruning it would prune the embedding"
    if module is head or name.rpartition(".")[2] in _HEAD_NAMES:
        return "the output head: no later layer can make up for its errors"
    return None


def _layers_of(name: str, module: nn.Module) -> list[PrunableLayer]:
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:
            return [PrunableLayer(f"{name}[{g}]", module, "conv2d", group=g) for g in range(module.groups)]
        return [PrunableLayer(name, module, "conv2d")]
    return [PrunableLayer(name, module, "linear" if isinstance(module, nn.Linear) else "conv1d")]


def _merge_tied(layers: Sequence[PrunableLayer]) -> list[PrunableLayer]:
    """One layer per parameter: modules that share it become aliases of the first."""
    merged: dict[tuple[int, str, int], PrunableLayer] = {}
    for layer in layers:
        key = (id(layer.parameter), layer.kind, layer.group)
        first = merged.setdefault(key, layer)
        if first is not layer:
            aliases, shared = (*first.aliases, layer.name), (*first.shared, layer.module)
            merged[key] = replace(first, aliases=aliases, shared=shared)
    return list(merged.values())


def matching(name: str, patterns: Sequence[str]) -> str | None:
    """Return the first pattern that a name matches, or None."""
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def check_patterns(patterns: Sequence[str], names: Sequence[str]) -> None:
    """Raise `InvalidProblem` when a pattern matches none of the names."""
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise InvalidProblem(
                f"the layer pattern {pattern!r} matches no layer of the model, which is probably a typing error; "
                f"layers are named {some or '(there are none)'}"
            )
