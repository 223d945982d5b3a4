"""From the words of the command line to the types of the package: structures, solvers, devices."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch

from mipprune.core.solver import Solver
from mipprune.core.structure import Supports
from mipprune.errors import InvalidProblem
from mipprune.structures import Cardinality, Groups, NofM, PerRow, TransposableNofM

__all__ = ["SOLVERS", "STRUCTURES", "StructureRule", "debug_option", "device_of", "parse_structure", "solver_of"]

STRUCTURES = {
    "2:4": "at most 2 of every 4 consecutive inputs are kept; any N:M",
    "transposable:16:32": "16 of every 32 along inputs and along outputs, for the transposed weights too; any N:M",
    "unstructured:0.7": "70 % of each layer are pruned, anywhere in it",
    "per-row:0.5": "50 % of each row (output) are pruned",
    "groups:8:0.5": "50 % of the groups of 8 consecutive inputs are pruned, the same for all rows",
}
"""Examples of what ``--structure`` takes, with their meaning."""

SOLVERS = ("alps", "alps+swap", "obc", "sparsegpt", "wanda", "magnitude")
"""What ``--solver`` takes."""

_Command = Callable[..., Any]


def debug_option(command: _Command) -> _Command:
    """Add ``--debug``; `main` looks for the word itself, so that it works before and after the command's name."""
    decorate: Callable[[_Command], _Command] = click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    )
    return decorate(command)


@dataclass(frozen=True)
class StructureRule:
    """A structure that depends on the shape of a layer.

    Parameters
    ----------
    text : str
        As written on the command line.
    kind : {"unstructured", "per-row", "groups"}
    sparsity : float
        Share of the weights, row entries or groups that is pruned, in [0, 1).
    size : int
        Consecutive inputs of a group.

    Examples
    --------
    >>> StructureRule("unstructured:0.7", "unstructured", 0.7)("layer", (10, 20))
    Cardinality(count=60, on=None, off=None)
    """

    text: str
    kind: str
    sparsity: float
    size: int = 1

    def __call__(self, name: str, shape: tuple[int, int]) -> Supports:
        """Return the structure of a layer of this shape (out, in)."""
        out, width = shape
        density = 1.0 - self.sparsity
        if self.kind == "unstructured":
            return Cardinality(round(density * out * width))
        if self.kind == "per-row":
            return PerRow(round(density * width))
        if width % self.size:
            raise InvalidProblem(
                f"layer {name!r} has {width} inputs, which do not fall into groups of {self.size}; skip it (--skip) or "
                "choose another group size"
            )
        return Groups(self.size, round(density * width / self.size))


def parse_structure(text: str) -> Supports | StructureRule:
    """Read a structure such as ``2:4`` or ``unstructured:0.7``.

    Raises
    ------
    InvalidProblem
        If the text means nothing; the message lists what would.

    Examples
    --------
    >>> parse_structure("2:4")
    NofM(n=2, m=4, on=None, off=None)
    """
    if found := re.fullmatch(r"(\d+):(\d+)", text):
        return NofM(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"transposable:(\d+):(\d+)", text):
        return TransposableNofM(int(found[1]), int(found[2]))
    if found := re.fullmatch(r"(unstructured|per-row):(\d*\.?\d+)", text):
        return StructureRule(text, found[1], _sparsity(found[2], text))
    if found := re.fullmatch(r"groups:(\d+):(\d*\.?\d+)", text):
        if int(found[1]) < 1:
            raise InvalidProblem(f"structure {text!r}: a group has at least one input")
        return StructureRule(text, "groups", _sparsity(found[2], text), int(found[1]))
    raise InvalidProblem(f"structure {text!r} is not known; write for example {', '.join(STRUCTURES)}")


def _sparsity(number: str, text: str) -> float:
    value = float(number)
    if not 0.0 <= value < 1.0:
        raise InvalidProblem(
            f"structure {text!r}: the last number is the pruned share and must be >= 0 and < 1 (0.7 prunes 70 %)"
        )
    return value


def solver_of(name: str) -> Solver:
    """Return the solver of a name in `SOLVERS`, with its default parameters."""
    from mipprune import solvers

    makers: dict[str, Callable[[], Solver]] = {
        "alps": solvers.ADMM,
        "alps+swap": solvers.LocalSearch,  # starts from ALPS
        "obc": solvers.OBC,
        "sparsegpt": solvers.SparseGPT,
        "wanda": solvers.Wanda,
        "magnitude": solvers.Magnitude,
    }
    return makers[name]()


def device_of(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``; raises `InvalidProblem` where there is no such device."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InvalidProblem(
            "no CUDA device is available to torch; use --device cpu, or install torch for your GPU and its driver"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")
