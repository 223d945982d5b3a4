"""The command line: prune a network, re-check certificates, see a demonstration."""

from __future__ import annotations

from mipprune.cli.entry import cli, main

__all__ = ["cli", "main"]
