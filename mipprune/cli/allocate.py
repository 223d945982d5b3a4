"""The options of `mipprune prune` that share a budget for the whole network out over its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mipprune.errors import InvalidProblem
from mipprune.networks.allocation import Allocation

__all__ = ["allocation_of", "allocation_options"]

_Command = Callable[..., Any]
_SHARE = click.FloatRange(0, 1, min_open=True)


def allocation_options(command: _Command) -> _Command:
    """Add ``--allocate`` and ``--allocate-flops``."""
    words = "pruned, shared out over layers by their errors at several densities; instead of --structure."
    for option in (
        click.option("--allocate-flops", type=_SHARE, metavar="SHARE", help=f"FLOPs kept of all layers {words}"),
        click.option("--allocate", type=_SHARE, metavar="SHARE", help=f"Weights kept of all layers {words}"),
    ):
        command = option(command)
    return command


def allocation_of(nnz: float | None, flops: float | None) -> Allocation | None:
    """Return what the options ask for, None where they are not given.

    Raises
    ------
    InvalidProblem
        If ``--structure`` was given too.
    """
    if nnz is None and flops is None:
        return None
    source = click.get_current_context().get_parameter_source("structure")
    if source is not None and source.name == "COMMANDLINE":
        raise InvalidProblem(
            "--structure gives each layer its own budget and --allocate shares one out over all layers; give one of "
            "them"
        )
    return Allocation(nnz=nnz, flops=flops)
