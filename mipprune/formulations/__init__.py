"""Builders: each turns the data of an application into one Problem."""

from __future__ import annotations

from .allocation import allocation
from .layerwise import layerwise
from .masks import transposable_mask
from .network import network_pruning

__all__ = ["allocation", "layerwise", "network_pruning", "transposable_mask"]
