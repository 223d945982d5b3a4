"""Builders: each turns the data of an application into one Problem."""

from __future__ import annotations

from .layerwise import layerwise
from .masks import transposable_mask

__all__ = ["layerwise", "transposable_mask"]
