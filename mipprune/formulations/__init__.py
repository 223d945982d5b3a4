"""Builders: each turns the data of an application into one Problem."""

from __future__ import annotations

from .allocation import allocation
from .channels import CoupledLayer, channel_widths, width_options
from .layerwise import layerwise
from .masks import transposable_mask
from .network import network_pruning
from .rules import rule_selection

__all__ = [
    "CoupledLayer",
    "allocation",
    "channel_widths",
    "layerwise",
    "network_pruning",
    "rule_selection",
    "transposable_mask",
    "width_options",
]
