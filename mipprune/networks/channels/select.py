"""From a network and a budget to a smaller network: units, scores, widths, the cut, and FLOPs before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mipprune.core.adapters import Masks
from mipprune.core.problem import Problem
from mipprune.core.solution import Solution
from mipprune.core.solver import Budget, Solver
from mipprune.errors import InvalidProblem
from mipprune.formulations.channels import channel_widths, width_options
from mipprune.networks.channels.shrink import shrink
from mipprune.networks.channels.units import ChannelGraph, channel_graph
from mipprune.structures.multiple_choice import MultipleChoice

__all__ = ["PrunedChannels", "prune_channels"]


@dataclass(frozen=True, eq=False)
class PrunedChannels:
    """A network with fewer channels, and what it rests on.

    Parameters
    ----------
    module : torch.nn.Module
        The smaller network, in evaluation mode.
    graph : ChannelGraph
        The channels of the original.
    kept : tuple of bool Tensor, shape (channels,)
        For each unit which channels stayed.
    problem : Problem
        The choice of widths.
    solution : Solution
        Its solution, with bound and certificate.
    flops_before, flops_after : int
        Counted by torch on the two networks for the example.
    """

    module: nn.Module
    graph: ChannelGraph
    kept: tuple[Tensor, ...]
    problem: Problem
    solution: Solution
    flops_before: int
    flops_after: int

    def __repr__(self) -> str:
        return (
            f"PrunedChannels(widths={self.widths}, {self.flops_before:,} -> {self.flops_after:,} FLOPs, "
            f"{self.solution.status.value}, proof {self.solution.proof.value})"
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Kept channels of each unit."""
        return tuple(int(mask.sum()) for mask in self.kept)


def prune_channels(
    model: nn.Module,
    example: Tensor,
    *,
    flops: float | None = None,
    latency: Mapping[str, Any] | Callable[[str], Any] | None = None,
    latency_limit: float | None = None,
    scores: Sequence[Any] | None = None,
    multiple: int = 1,
    least: int = 1,
    solver: Solver | None = None,
    budget: Budget | None = None,
) -> PrunedChannels:
    """Give up the channels of a network that are worth least, so that what is left fits into budgets.

    Parameters
    ----------
    model : torch.nn.Module
        A network that torch.fx can trace. It is left as it is.
    example : Tensor
        An input with its batch dimension.
    flops : float, optional
        Share of the dense multiply-adds of convolutions and linear layers that may stay, in (0, 1].
    latency : mapping or callable from a layer's name to array, optional
        Measured times by numbers of inputs and outputs, shape (inputs + 1, outputs + 1).
    latency_limit : float, optional
        What the times of all layers may sum up to, in their unit; needs `latency`.
    scores : sequence of array, shape (channels,), optional
        What each channel of each unit is worth; default :meth:`ChannelGraph.magnitude`.
    multiple, least : int
        Widths are multiples of `multiple` not below `least`, or all channels.
    solver : Solver, optional
        Default: the exact one.
    budget : Budget, optional
        For the solver.

    Returns
    -------
    PrunedChannels

    Raises
    ------
    InvalidProblem
        If there is no budget, the budgets cannot be met, or nothing can be pruned.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
    >>> pruned = prune_channels(net, torch.zeros(1, 3, 8, 8), flops=0.5)
    >>> pruned.widths, pruned.flops_after / pruned.flops_before, pruned.solution.proof.value
    ((4,), 0.5, 'checked')
    """
    from mipprune.solve import solve

    graph = channel_graph(model, example)
    if not graph.units:
        reasons = "; ".join(graph.tracing.notes[:3])
        raise InvalidProblem(f"the network has no channel that could be given up{f' ({reasons})' if reasons else ''}")
    limits = _limits(graph, flops, latency, latency_limit)
    worth = [torch.as_tensor(score) for score in (graph.magnitude() if scores is None else scores)]
    if [tuple(score.shape) for score in worth] != [(len(unit),) for unit in graph.units]:
        raise InvalidProblem(
            f"scores have shapes {[tuple(score.shape) for score in worth][:8]}; the units have "
            f"{[len(unit) for unit in graph.units][:8]} channels"
        )
    layers = graph.coupled_layers(latency, macs=flops is not None)
    problem = channel_widths(worth, layers, limits, multiple=multiple, least=least)
    solution = solve(problem, solver, budget=budget)
    if solution.mask is None:
        raise InvalidProblem(
            f"no widths meet the budgets ({solution.status.value}); allow more, or smaller widths (multiple=1, least=1)"
        )
    assert isinstance(problem.structure, Masks) and isinstance(problem.structure.supports, MultipleChoice)
    chosen = problem.structure.supports.options(solution.mask).tolist()
    kept = []
    for score, option in zip(worth, chosen):
        width = int(width_options(len(score), multiple, least)[option])
        mask = torch.zeros(len(score), dtype=torch.bool)
        mask[score.double().argsort(descending=True, stable=True)[:width].cpu()] = True
        kept.append(mask)
    module = shrink(graph, kept)
    counted = (_flops(graph.tracing.module, example), _flops(module, example))
    return PrunedChannels(module, graph, tuple(kept), problem, solution, *counted)


def _limits(graph: ChannelGraph, flops: float | None, latency: Any, latency_limit: float | None) -> list[float]:
    if flops is None and latency_limit is None:
        raise InvalidProblem("there is no budget; give flops=... (a share) or latency=... with latency_limit=...")
    if (latency is None) != (latency_limit is None):
        raise InvalidProblem("latency tables and latency_limit belong together; give both or none")
    if flops is not None and not 0 < flops <= 1:
        raise InvalidProblem(f"flops is {flops}; it is the share of the dense multiply-adds that may stay, in (0, 1]")
    limits = [] if flops is None else [float(int(flops * graph.macs()))]
    return limits if latency_limit is None else [*limits, float(latency_limit)]


def _flops(module: nn.Module, example: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example)
    return int(counter.get_total_flops())
