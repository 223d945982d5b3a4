"""Saving and loading solutions with their certificates, and re-checking them from the file alone."""

from __future__ import annotations

from .files import Entry, check_file, compact, load, save, write_atomically

__all__ = ["Entry", "check_file", "compact", "load", "save", "write_atomically"]
