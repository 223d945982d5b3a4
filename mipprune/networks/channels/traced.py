"""What a trace of a network's channels holds: layers, couplings, and what must stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

__all__ = ["Ids", "TracedLayer", "Tracing"]

Ids = list[int]
"""Channel numbers, in the order of a tensor's channels."""


@dataclass(eq=False)
class TracedLayer:
    """A layer with weights and the channel numbers of its inputs and outputs."""

    name: str
    kind: str
    """"dense" (a convolution or a linear layer), "depthwise" or "norm"."""
    inputs: Ids
    outputs: Ids
    macs: int = 0
    """multiply-adds of each pair of an input and an output; of each output for "depthwise" """


@dataclass(eq=False)
class Tracing:
    """What :func:`trace` found.

    Parameters
    ----------
    module : torch.fx.GraphModule
        A copy of the network, in evaluation mode.
    layers : dict of str to TracedLayer
        By qualified name of the module.
    couplings : list of (int, int)
        Pairs of channel numbers that are one decision.
    fixed : set of int
        Channel numbers that must stay.
    padded : dict of str to (place, ids before, ids after)
        For each node that pads channels, where its list of widths says so, and the numbers of the zeros it adds.
    count : int
        How many channel numbers there are.
    notes : list of str
        What was not understood, so that its channels stay.
    """

    module: fx.GraphModule
    layers: dict[str, TracedLayer] = field(default_factory=dict)
    couplings: list[tuple[int, int]] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)
    padded: dict[str, tuple[int, Ids, Ids]] = field(default_factory=dict)
    count: int = 0
    notes: list[str] = field(default_factory=list)

    def fresh(self, number: int) -> Ids:
        """Return so many new channel numbers."""
        self.count += number
        return list(range(self.count - number, self.count))

    def couple(self, one: Sequence[int], other: Sequence[int]) -> None:
        """Make the channels of two lists the same decisions, one by one."""
        self.couplings += [(a, b) for a, b in zip(one, other, strict=True) if a != b]
