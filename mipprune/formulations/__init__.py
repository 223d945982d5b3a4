"""Builders: each turns the data of an application into one Problem."""

from __future__ import annotations

from .layerwise import layerwise

__all__ = ["layerwise"]
