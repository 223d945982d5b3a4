"""What a family of instances is: a seeded generator, named suites of it, and the solvers that are meant for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.problem import Problem
from ...core.solver import Solver

__all__ = ["REAL", "Family", "label"]

REAL = "real"
"""The suite of instances made of real data."""

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
        ``build(seed=..., **parameters) -> Problem``; the same arguments give the same problem, bit for bit. With a
        ``source`` among the parameters it is given ``data`` (a folder or ``None``) too.
    suites : mapping of str to sequence of dict
        Parameters of the instances of each suite, without the seed. ``"quick"`` must be there.
    tiny : dict
        Parameters of an instance on which a solver is run once, unmeasured, so that nothing is compiled while the clock
        runs.
    solvers : mapping of str to callable
        Solvers by name, ours and others', in the order of reports.
    size : str
        The parameter that stands for the size in plots.
    real : callable, optional
        ``real(data)`` returns the parameters of the instances made of real data: of installed packages, and of files in
        the folder ``data`` where that is not ``None``. They are the suite ``"real"``, and name their ``source``.
    layout : str
        Which files in that folder are used, for people.
    """

    name: str
    title: str
    build: Callable[..., Problem]
    suites: Mapping[str, Sequence[Parameters]]
    tiny: Parameters
    solvers: Mapping[str, Callable[[], Solver]]
    size: str
    real: Callable[[Path | None], Sequence[Parameters]] | None = None
    layout: str = ""

    def problem(self, parameters: Parameters, seed: int, data: Path | None = None) -> Problem:
        """Build an instance; ``data`` is the folder of real data, for those that name a source."""
        extra = {"data": data} if "source" in parameters and self.real is not None else {}
        return self.build(seed=seed, **parameters, **extra)

    def instances(self, suite: str, data: Path | None = None) -> Sequence[Parameters]:
        """Return the parameters of the instances of a suite, of ``"real"`` too.

        Raises
        ------
        InvalidProblem
            If ``data`` is given and no folder.
        """
        if suite == REAL:
            return [] if self.real is None else self.real(data)
        return self.suites[suite]

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
