"""Widths of coupled channels: how many channels each group of layers keeps, within budgets on products of widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import as_tensor, exact
from ..core.problem import Problem
from ..errors import InvalidProblem, Unsupported
from .allocation import allocation

__all__ = ["CoupledLayer", "channel_widths", "width_options"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class CoupledLayer:
    """What a layer costs for each number of its inputs and outputs.

    Parameters
    ----------
    costs : tuple of float or array
        One entry for each resource: a number is the cost of each pair of an input and an output (multiply-adds of a
        convolution: kernel area times output positions); an array of shape (inputs + 1, outputs + 1) is a table of
        measurements, by the numbers of inputs and outputs.
    inputs, outputs : mapping of int to int
        Units whose channels the inputs (outputs) are, with the number of inputs that a channel of the unit makes: 1 for
        a convolution, the number of positions where channels are flattened.
    fixed_inputs, fixed_outputs : int
        Inputs and outputs that belong to no unit and always stay.
    """

    costs: tuple[Any, ...]
    inputs: Mapping[int, int] = field(default_factory=dict)
    outputs: Mapping[int, int] = field(default_factory=dict)
    fixed_inputs: int = 0
    fixed_outputs: int = 0


def width_options(channels: int, multiple: int = 1, least: int = 1) -> Tensor:
    """Return the widths that a unit may have: multiples of ``multiple`` from ``least`` on, and all its channels.

    Parameters
    ----------
    channels : int
        Channels of the unit, >= 1.
    multiple, least : int
        >= 1.

    Returns
    -------
    Tensor, shape (options,), int64
        Rising.

    Examples
    --------
    >>> width_options(20, 8).tolist()
    [8, 16, 20]
    """
    if channels < 1 or multiple < 1 or least < 1:
        raise InvalidProblem(f"{channels} channels in multiples of {multiple}, at least {least}: all must be >= 1")
    steps = [width for width in range(multiple, channels, multiple) if width >= least]
    return torch.tensor([*steps, channels])


def channel_widths(
    scores: Sequence[Any],
    layers: Sequence[CoupledLayer],
    budgets: Any,
    *,
    multiple: int = 1,
    least: int = 1,
    name: str = "channel widths",
) -> Problem:
    r"""Choose how many channels each unit keeps: those with the largest scores.

    Parameters
    ----------
    scores : sequence of array, shape (channels,)
        For each unit what keeping each of its channels is worth, >= 0. A unit is a set of channels that exist or vanish
        together in several layers, one decision for each channel.
    layers : sequence of CoupledLayer
    budgets : float or array, shape (resources,)
        What all layers may cost.
    multiple, least : int
        Widths are multiples of ``multiple`` not below ``least``, or all channels.
    name : str
        For reports.

    Returns
    -------
    Problem
        An :func:`~mipprune.formulations.allocation` over the widths of each unit (:func:`width_options`). Its value is
        the sum of the scores of the channels that are given up.

    Raises
    ------
    InvalidProblem
        On negative or NaN scores, units that do not exist, tables of wrong shape.
    Unsupported
        If a table of measurements belongs to a layer whose inputs (or outputs) come from several units: its cost is no
        function of pairs of widths then.

    Notes
    -----
    .. math:: \min_k \sum_u \sum_{i > k_u} s_{u,(i)} \quad\text{s.t. } \sum_l A_l
        \Bigl(f_l + \sum_{u \in \text{in}(l)} m_{lu} k_u\Bigr)\Bigl(g_l + \sum_{v \in \text{out}(l)} m_{lv} k_v\Bigr)
        \le B, \qquad s_{u,(1)} \ge s_{u,(2)} \ge \dots

    The product of widths is a cost of pairs of options. For fixed multipliers of the budgets a chain of layers is a
    dynamic program over the widths of one layer after another (a min-plus product of tables), and any other network one
    over the widths that are still coupled to what follows; it gives the Lagrangian bound. ``mp.solve`` closes the
    remaining gap by its search over partial choices, see :class:`~mipprune.structures.MultipleChoice`.

    References
    ----------
    HALP, arXiv 2110.10811, for latency tables; the exact method is derived here.

    Examples
    --------
    Two layers of a chain, 3 inputs, 4 outputs, two hidden units.

    >>> import mipprune as mp
    >>> scores = [[5.0, 1.0, 4.0], [2.0, 3.0]]
    >>> first = CoupledLayer((1.0,), outputs={0: 1}, fixed_inputs=3)
    >>> second = CoupledLayer((1.0,), inputs={0: 1}, outputs={1: 1})
    >>> last = CoupledLayer((1.0,), inputs={1: 1}, fixed_outputs=4)
    >>> solution = mp.solve(channel_widths(scores, [first, second, last], 14.0))
    >>> solution.value, solution.proof.value
    (3.0, 'checked')
    """
    tables = [exact(as_tensor(score, f"scores of unit {u}", ndim=1)) for u, score in enumerate(scores)]
    for u, table in enumerate(tables):
        if len(table) == 0 or bool((table < 0).any()):
            raise InvalidProblem(f"scores of unit {u}: at least one channel and no negative score are needed")
    limits = exact(as_tensor(budgets, "budgets")).reshape(-1).clone()
    options = [width_options(len(table), multiple, least).numpy() for table in tables]
    errors = []
    for table, widths in zip(tables, options):
        falling = table.sort(descending=True).values
        errors.append(torch.stack([falling[width:].sum() for width in widths.tolist()]))
    costs = [np.zeros((len(widths), len(limits))) for widths in options]
    pairs: dict[tuple[int, int], Array] = {}
    for number, layer in enumerate(layers):
        if len(layer.costs) != len(limits):
            raise InvalidProblem(f"layer {number} has {len(layer.costs)} costs for {len(limits)} budget(s)")
        if unknown := [u for u in (*layer.inputs, *layer.outputs) if not 0 <= u < len(tables)]:
            raise InvalidProblem(f"layer {number} names unit {unknown[0]}, but there are {len(tables)}")
        for r, cost in enumerate(layer.costs):
            if np.ndim(cost) == 0:
                limits[r] -= _add_product(float(cost), layer, r, options, costs, pairs)
            else:
                limits[r] -= _add_table(np.asarray(cost, dtype=float), layer, number, r, options, costs, pairs)
    if bool((limits < 0).any()):
        raise InvalidProblem(
            f"the budgets are exceeded by {(-limits).max():.6g} before any channel is kept: layers that belong to no "
            "unit cost more; raise the budgets"
        )
    coupled = [(a, b, table) for (a, b), table in pairs.items()]
    return allocation(errors, costs, limits, pairs=coupled, name=name)


def _pair(pairs: dict[tuple[int, int], Array], a: int, b: int, options: list[Array], resources: int) -> Array:
    """The table of a pair of units, by (option of a, option of b); a view where it is kept the other way round."""
    if (b, a) in pairs:
        return pairs[b, a].swapaxes(0, 1)
    return pairs.setdefault((a, b), np.zeros((len(options[a]), len(options[b]), resources)))


def _add_product(
    cost: float, layer: CoupledLayer, r: int, options: list[Array], costs: list[Array], pairs: dict[Any, Array]
) -> float:
    """Add ``cost * inputs * outputs`` as costs of options and of pairs; return what does not depend on them."""
    for u, m in layer.inputs.items():
        costs[u][:, r] += cost * m * options[u] * layer.fixed_outputs
        for v, n in layer.outputs.items():
            if u == v:
                costs[u][:, r] += cost * m * n * options[u] ** 2
            else:
                _pair(pairs, u, v, options, costs[u].shape[1])[..., r] += (
                    cost * m * n * np.outer(options[u], options[v])
                )
    for v, n in layer.outputs.items():
        costs[v][:, r] += cost * n * options[v] * layer.fixed_inputs
    return cost * layer.fixed_inputs * layer.fixed_outputs


def _add_table(
    table: Array,
    layer: CoupledLayer,
    number: int,
    r: int,
    options: list[Array],
    costs: list[Array],
    pairs: dict[Any, Array],
) -> float:
    """Add a table of measurements; return it where the layer belongs to no unit."""
    if len(layer.inputs) > 1 or len(layer.outputs) > 1:
        raise Unsupported(
            f"layer {number} has a table of measurements, but its inputs or outputs come from several units; give it a "
            "cost for each pair of an input and an output instead"
        )
    if not bool(np.isfinite(table).all()) or table.ndim != 2:
        raise InvalidProblem(f"the table of layer {number} must be a matrix of finite numbers")
    sides = []
    for units, more in ((layer.inputs, layer.fixed_inputs), (layer.outputs, layer.fixed_outputs)):
        width = np.array([more]) if not units else more + next(iter(units.values())) * options[next(iter(units))]
        sides.append(width)
    if table.shape[0] <= sides[0].max() or table.shape[1] <= sides[1].max():
        raise InvalidProblem(
            f"the table of layer {number} has shape {table.shape}; ({sides[0].max() + 1}, {sides[1].max() + 1}) is "
            "needed, for all numbers of inputs and outputs from 0 on"
        )
    chosen = table[np.ix_(*sides)]
    u, v = next(iter(layer.inputs), None), next(iter(layer.outputs), None)
    if u is None and v is None:
        return float(chosen[0, 0])
    if u is not None and v is not None and u != v:
        _pair(pairs, u, v, options, costs[u].shape[1])[..., r] += chosen
    elif u is not None and u == v:
        costs[u][:, r] += np.diagonal(chosen)
    elif u is not None:
        costs[u][:, r] += chosen[:, 0]
    elif v is not None:
        costs[v][:, r] += chosen[0]
    return 0.0
