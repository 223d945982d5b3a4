"""Jobs: one instance, one solver, one set of limits. A job has a key, and a finished key is never run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core.problem import Problem
from ..core.solver import Budget, Solver
from ..errors import InvalidProblem
from ..solvers import certify
from . import families

__all__ = ["CERTIFIED", "Job", "expand"]

CERTIFIED = "certified:"
"""Before the name of a solver: its point is then certified with the time that is left."""


@dataclass(frozen=True)
class Job:
    """One run of a benchmark.

    Parameters
    ----------
    family : str
        Name of a family.
    parameters : dict
        Of the instance, without the seed; plain data.
    seed : int
    solver : str
        A name of the family's list, or ``certified:NAME``.
    seconds, gap : float
        Limits handed to the solver.
    threads : int
        For torch and for BLAS, >= 1.
    memory_gib : float
        Resident memory at which the run is ended.
    data : str, optional
        Folder of real data. It is not part of the key, which has a digest of the file instead.
    digest : str
        Of the file that the instance is made of, empty for any other instance.
    """

    family: str
    parameters: dict[str, Any]
    seed: int
    solver: str
    seconds: float = 60.0
    gap: float = 1e-4
    threads: int = 1
    memory_gib: float = 16.0
    data: str | None = field(default=None, compare=False)
    digest: str = ""

    @property
    def key(self) -> str:
        """Digest of everything that decides what is run."""
        described = {name: value for name, value in asdict(self).items() if name != "data"}
        if not self.digest:  # keys of other instances stay what they were
            del described["digest"]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def instance(self) -> str:
        """Name of the instance."""
        return families.label(self.parameters, self.seed)

    def problem(self) -> Problem:
        """Build the instance."""
        data = None if self.data is None else Path(self.data)
        return families.find(self.family).problem(self.parameters, self.seed, data)

    def make_solver(self) -> Solver:
        """Return the solver, certifying when the name asks for it.

        Raises
        ------
        InvalidProblem
            If the family has no solver of this name.
        """
        name = self.solver.removeprefix(CERTIFIED)
        known = families.find(self.family).solvers
        if name not in known:
            raise InvalidProblem(f"family {self.family!r} has no solver {name!r}; it has {', '.join(known)}")
        made = known[name]()
        return _Certified(made) if self.solver.startswith(CERTIFIED) else made

    @property
    def budget(self) -> Budget:
        """What the solver is given."""
        return Budget(seconds=self.seconds, gap=self.gap)


@dataclass(frozen=True)
class _Certified:
    """A solver whose point is certified in the time that it leaves."""

    heuristic: Solver

    @property
    def name(self) -> str:
        return f"{self.heuristic.name}, certified"

    def rejects(self, problem: Problem) -> str | None:
        return self.heuristic.rejects(problem)

    def solve(self, problem: Problem, *, budget: Budget | None = None, start: Any = None, progress: Any = None) -> Any:
        budget = budget or Budget()
        solution = self.heuristic.solve(problem, budget=budget, start=start, progress=progress)
        if solution.point is None or solution.certificate is not None:
            return solution
        spent = solution.stats.seconds or 0.0
        left = None if budget.seconds is None else max(budget.seconds - spent, 0.1)
        return certify(problem, solution, budget=Budget(seconds=left, gap=budget.gap), progress=progress)


def _instances(
    chosen: Sequence[tuple[families.Family, str]], data: Path | None
) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Parameters of the instances by family; what a user asks for and does not get is an error."""
    found = {family.name: family.instances(suite, data) for family, suite in chosen}
    wanted = "; ".join(f"for {family.name} {family.layout}" for family, _ in chosen if family.layout)
    if data is not None and any(suite != families.REAL for _, suite in chosen):
        raise InvalidProblem(f"--data is for the suite {families.REAL!r} (or FAMILY:{families.REAL})")
    if data is not None and not any("." in str(each.get("source", "")) for every in found.values() for each in every):
        raise InvalidProblem(f"the folder {str(data)!r} holds no data for these families; it may hold {wanted}")
    if not any(found.values()):
        raise InvalidProblem(f"no real data come with packages here; give a folder by --data that holds {wanted}")
    return found


def expand(
    suite: str,
    *,
    solvers: Sequence[str] = (),
    seeds: int = 1,
    seconds: float = 60.0,
    gap: float = 1e-4,
    threads: int = 1,
    memory_gib: float = 16.0,
    data: Path | None = None,
) -> list[Job]:
    """Return the jobs of a suite: instances x seeds x solvers, solvers innermost so that rivals run close in time.

    Parameters
    ----------
    suite : str
        See :func:`mipprune.bench.families.suite`.
    solvers : sequence of str
        Names; default all of each family. A name must be known to at least one family.
    seeds : int
        Seeds 0 .. seeds - 1 of each instance, >= 1.
    seconds, gap, threads, memory_gib, data
        See :class:`Job`.

    Raises
    ------
    InvalidProblem
        On an unknown suite or solver.

    Examples
    --------
    >>> [job.solver for job in expand("layerwise:quick", solvers=["admm", "tree"])][:3]
    ['admm', 'tree', 'admm']
    """
    if seeds < 1:
        raise InvalidProblem(f"seeds is {seeds}; at least one is needed")
    chosen = families.suite(suite)
    known = {name for family, _ in chosen for name in family.solvers}
    for name in solvers:
        if name.removeprefix(CERTIFIED) not in known:
            raise InvalidProblem(f"no family of {suite!r} has a solver {name!r}; there are {', '.join(sorted(known))}")
    instances = _instances(chosen, data)
    jobs = []
    for family, _ in chosen:
        names = [name for name in solvers if name.removeprefix(CERTIFIED) in family.solvers] or (
            [] if solvers else list(family.solvers)
        )
        for parameters in instances[family.name]:
            digest = families.digest(data, str(parameters.get("source", "")))
            for seed in range(seeds):
                jobs += [
                    Job(
                        family=family.name,
                        parameters=dict(parameters),
                        seed=seed,
                        solver=name,
                        seconds=seconds,
                        gap=gap,
                        threads=threads,
                        memory_gib=memory_gib,
                        data=None if data is None else str(data),
                        digest=digest,
                    )
                    for name in names
                ]
    return jobs
