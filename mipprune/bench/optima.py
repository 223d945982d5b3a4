"""The library of small instances with proven optima: reading, re-proving, writing for other solvers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..core.problem import Problem
from ..core.solution import Proof
from ..core.solver import Budget
from ..errors import InvalidProblem, MippruneError
from ..io import write_atomically
from ..solve import solve
from ..solvers import Scip
from . import families

__all__ = ["Known", "export", "known_optima", "library", "verify"]

_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Known:
    """A small instance with its optimum.

    Attributes
    ----------
    name : str
        Unique; the name of files and of the line in the ``.solu`` file.
    family : str
    parameters : dict
    seed : int
    fingerprint : str
        Of the instance's data.
    optimum : float
    proof : str
        How it was proven.
    """

    name: str
    family: str
    parameters: dict[str, Any]
    seed: int
    fingerprint: str
    optimum: float
    proof: str

    def problem(self) -> Problem:
        """Build the instance and make sure that it is the one the optimum belongs to.

        Raises
        ------
        InvalidProblem
            If its data differ from those of the stored fingerprint.
        """
        problem = families.find(self.family).problem(self.parameters, self.seed)
        if problem.fingerprint != self.fingerprint:
            raise InvalidProblem(
                f"{self.name}: the generator gives other data than those the optimum was proven for; its random "
                "numbers or the formulation changed"
            )
        return problem


@cache
def library() -> tuple[Known, ...]:
    """Return all instances of the library."""
    text = files("mipprune.bench").joinpath("library.json").read_text(encoding="utf-8")
    return tuple(Known(**entry) for entry in json.loads(text))


def known_optima() -> dict[str, float]:
    """Return the stored optima by fingerprint."""
    return {entry.fingerprint: entry.optimum for entry in library()}


def verify(
    names: Sequence[str] = (), *, seconds: float = 60.0, advance: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Known, str | None]]:
    """Prove the optima again, and yield each instance with what is wrong, or ``None``.

    Parameters
    ----------
    names : sequence of str
        Families or names of instances; default all.
    seconds : float
        Limit for each proof.
    advance : callable, optional
        Receives the number of finished and of all instances.

    Yields
    ------
    (Known, str or None)

    Notes
    -----
    The package's own solver for the problem must close the gap to 1e-6 with a certificate that is evaluated again, or,
    where it cannot in time, SCIP must claim the optimum; in both cases the value must agree with the stored one.
    """
    chosen = [entry for entry in library() if not names or entry.name in names or entry.family in names]
    if not chosen:
        raise InvalidProblem(f"the library has nothing named {', '.join(names)}")
    for number, entry in enumerate(chosen, start=1):
        yield entry, _prove(entry, seconds)
        if advance is not None:
            advance(number, len(chosen))


def _prove(entry: Known, seconds: float) -> str | None:
    try:
        problem = entry.problem()
        budget = Budget(seconds=seconds, gap=_TOLERANCE)
        solution = solve(problem, budget=budget)
        if solution.proof is Proof.CHECKED and solution.certificate is not None:
            bound: float | None = solution.certificate.bound(problem)
        else:
            bound = None
        if bound is None or solution.value - bound > _allowed(entry):
            solution = solve(problem, Scip(), budget=budget)
            bound = solution.bound
    except MippruneError as error:
        return str(error)
    allowed = _allowed(entry)
    if bound is None or solution.value - bound > 2 * allowed:
        return f"not proven in {seconds:g} s: value {solution.value!r}, bound {bound!r}"
    if bound > entry.optimum + 2 * allowed:
        return f"the bound {bound!r} is above the stored optimum {entry.optimum!r}"
    if abs(solution.value - entry.optimum) > 2 * allowed:
        return f"the value found is {solution.value!r}, the stored optimum {entry.optimum!r}"
    return None


def _allowed(entry: Known) -> float:
    return _TOLERANCE * max(abs(entry.optimum), 1e-9)


def export(folder: Path, names: Sequence[str] = (), suffix: str = ".mps") -> list[Path]:
    """Write instances as models for other solvers, with a ``.solu`` file of their optima.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        Families or names of instances; default all.
    suffix : {".mps", ".lp", ".cip"}
        Models with cones need ``.cip``.

    Returns
    -------
    list of Path
        The files, the ``.solu`` file last. A model that the format cannot hold is left out.
    """
    chosen = [entry for entry in library() if not names or entry.name in names or entry.family in names]
    if not chosen:
        raise InvalidProblem(f"the library has nothing named {', '.join(names)}")
    folder.mkdir(parents=True, exist_ok=True)
    written, lines = [], []
    for entry in chosen:
        target = folder / f"{entry.name}{suffix}"
        try:
            entry.problem().write(target)
        except MippruneError:
            continue
        written.append(target)
        lines.append(f"=opt= {entry.name} {entry.optimum!r}\n")
    solu = folder / "library.solu"
    write_atomically(solu, "".join(lines).encode("ascii"))
    return [*written, solu]
