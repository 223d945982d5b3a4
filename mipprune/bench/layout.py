"""The three parts of a benchopt benchmark, for any family: ``benchmarks/FAMILY/`` derives its classes from these.

They do not import benchopt; a file such as ``benchmarks/layerwise/objective.py`` says
``class Objective(ObjectiveParts, BaseObjective)`` and sets ``family``.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, ClassVar

from ..core.problem import Problem
from ..core.solver import Budget
from . import families
from .verdict import judge
from .warm import warm_up

__all__ = ["DatasetParts", "ObjectiveParts", "SolverParts", "instances"]


def instances(family: str, suite: str = "quick") -> list[str]:
    """Return the instances of a suite as JSON, as values of benchopt's parameter ``instance``.

    Those of the suite ``"real"`` are made of packages, and of the files in the folder that the environment variable
    ``MIPPRUNE_BENCH_DATA`` names.

    Examples
    --------
    >>> instances("layerwise")[0]
    '{"inputs": 16, "outputs": 1, "structure": "0.5"}'
    """
    stored = os.environ.get("MIPPRUNE_BENCH_DATA") if suite == families.REAL else None
    found = families.find(family).instances(suite, None if stored is None else Path(stored))
    return [json.dumps(dict(parameters), sort_keys=True) for parameters in found]


class ObjectiveParts:
    """Judges answers: value, violation and bounds are recomputed from the problem."""

    problem: Problem

    def set_data(self, problem: Problem) -> None:
        """Take the instance."""
        self.problem = problem

    def get_objective(self) -> dict[str, Any]:
        """Return what a solver is given."""
        return {"problem": self.problem}

    def get_one_result(self) -> dict[str, Any]:
        """Return an admissible answer, for benchopt's own tests."""
        return {"answer": _Point(self.problem.repair(self.problem.loss.start()))}

    def evaluate_result(self, answer: Any) -> dict[str, Any]:
        """Return the metrics of an answer; an inadmissible point has an infinite value."""
        verdict = judge(self.problem, answer)
        value, bound = verdict.value, verdict.bound
        gap = math.nan if value is None or bound is None else max(0.0, value - bound) / max(abs(value), 1e-12)
        return {
            "value": math.inf if value is None else value,
            "violation": math.nan if verdict.violation is None else verdict.violation,
            "checked_bound": math.nan if verdict.checked_bound is None else verdict.checked_bound,
            "claimed_bound": math.nan if verdict.claimed_bound is None else verdict.claimed_bound,
            "gap": gap,
            "faults": len(verdict.faults),
        }


class _Point:
    def __init__(self, point: Any) -> None:
        self.point = point


class DatasetParts:
    """Builds instances from benchopt's parameters ``instance`` (JSON), ``seed`` and ``data``."""

    family: ClassVar[str]
    instance: str
    seed: int
    data: str | None = None

    def get_data(self) -> dict[str, Any]:
        """Return the problem."""
        stored = self.data or os.environ.get("MIPPRUNE_BENCH_DATA")
        data = None if stored is None else Path(stored)
        return {"problem": families.find(self.family).problem(json.loads(self.instance), self.seed, data)}


class SolverParts:
    """Runs one of the family's solvers; what it does not take is skipped with its own reason."""

    family: ClassVar[str]
    solver: str
    seconds: float
    problem: Problem

    def skip(self, problem: Problem) -> tuple[bool, str | None]:
        """Tell whether the solver rejects the instance, and why."""
        reason = self._made().rejects(problem)
        return reason is not None, reason

    def _made(self) -> Any:
        return families.find(self.family).solvers[self.solver]()

    def set_objective(self, problem: Problem) -> None:
        """Take the instance."""
        self.problem = problem

    def warm_up(self) -> None:
        """Let nothing be compiled while the clock runs."""
        warm_up(families.find(self.family), self._made())

    def run(self, _: Any) -> None:
        """Solve once."""
        self.answer = self._made().solve(self.problem, budget=Budget(seconds=self.seconds))

    def get_result(self) -> dict[str, Any]:
        """Return the answer for the objective to judge."""
        return {"answer": self.answer}
