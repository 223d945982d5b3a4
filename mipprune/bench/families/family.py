"""What a family of instances is: a seeded generator, named suites of it, and the solvers that are meant for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.problem import Problem
from ...core.solver import Solver

__all__ = ["Family", "label"]

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A family of benchmark instances.

    Parameters
    ----------
    name : str
        As on the command line.
    title : str
        One line for people.
    build : callable
        ``build(seed=..., **parameters) -> Problem``; the same arguments give the same problem, bit for bit. A family
        with real instances takes ``data`` (a folder or ``None``) too.
    suites : mapping of str to sequence of dict
        Parameters of the instances of each suite, without the seed. ``"quick"`` must be there.
    tiny : dict
        Parameters of an instance on which a solver is run once, unmeasured, so that nothing is compiled while the clock
        runs.
    solvers : mapping of str to callable
        Solvers by name, ours and others', in the order of reports.
    size : str
        The parameter that stands for the size in plots.
    takes_data : bool
        Whether ``build`` takes ``data``.
    """

    name: str
    title: str
    build: Callable[..., Problem]
    suites: Mapping[str, Sequence[Parameters]]
    tiny: Parameters
    solvers: Mapping[str, Callable[[], Solver]]
    size: str
    takes_data: bool = False

    def problem(self, parameters: Parameters, seed: int, data: Path | None = None) -> Problem:
        """Build an instance; ``data`` is the folder of real data, for a family that takes one."""
        extra = {"data": data} if self.takes_data else {}
        return self.build(seed=seed, **parameters, **extra)

    def tiny_problem(self, seed: int = 0) -> Problem:
        """Build the instance on which solvers warm up."""
        return self.problem(self.tiny, seed)


def label(parameters: Parameters, seed: int) -> str:
    """Return a short name of an instance.

    Examples
    --------
    >>> label({"inputs": 64, "structure": "2:4"}, 3)
    'inputs=64 structure=2:4 seed=3'
    """
    return " ".join(f"{key}={value}" for key, value in {**parameters, "seed": seed}.items())
