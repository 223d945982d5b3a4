"""Pruning channels: coupled channels found, widths chosen within budgets, the network made smaller."""

from __future__ import annotations

from mipprune.networks.channels.select import PrunedChannels, prune_channels
from mipprune.networks.channels.shrink import masked, shrink
from mipprune.networks.channels.traced import TracedLayer, Tracing
from mipprune.networks.channels.tracing import trace
from mipprune.networks.channels.units import ChannelGraph, Unit, channel_graph

__all__ = [
    "ChannelGraph",
    "PrunedChannels",
    "TracedLayer",
    "Tracing",
    "Unit",
    "channel_graph",
    "masked",
    "prune_channels",
    "shrink",
    "trace",
]
