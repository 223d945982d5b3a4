"""What a solver is: a frozen set of parameters with ``solve``; its budget; the watch that keeps time and trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..errors import InvalidProblem, Unsupported
from ..kernels.compiling import compiling_seconds
from .problem import Problem
from .solution import Solution, Stats, Stop

__all__ = ["Budget", "Progress", "Solver", "Watch", "accept"]

Progress = Callable[[float, float | None, float | None], bool | None]
"""Called with (seconds, value, bound); returning ``True`` stops the run."""


@dataclass(frozen=True)
class Budget:
    """When to stop.

    Parameters
    ----------
    seconds : float, optional
        Wall-clock limit, > 0. Compiling kernels, which the first runs after an installation do, does not count.
    gap : float
        Relative gap at which a point counts as optimal, >= 0.
    nodes, iterations : int, optional
        Limits on branch-and-bound nodes and on iterations, >= 1.
    absolute_gap : float
        Gap in the units of the objective that counts as closed too, >= 0. For objectives of any sign, such as
        likelihoods, where a relative gap says little: a thousandth of the price of an edge, say.
    """

    seconds: float | None = None
    gap: float = 1e-4
    nodes: int | None = None
    iterations: int | None = None
    absolute_gap: float = 0.0

    def __post_init__(self) -> None:
        for name in ("seconds", "nodes", "iterations"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise InvalidProblem(f"Budget.{name} is {limit}; a limit must be positive, or None for no limit")
        if not self.gap >= 0:
            raise InvalidProblem(f"Budget.gap is {self.gap}; it must be >= 0")
        if not 0 <= self.absolute_gap < float("inf"):
            raise InvalidProblem(f"Budget.absolute_gap is {self.absolute_gap}; it must be finite and >= 0")

    def tolerance(self, value: float) -> float:
        """Return the relative gap at which a point of this value counts as optimal."""
        return max(self.gap, self.absolute_gap / max(abs(value), 1e-12))


@runtime_checkable
class Solver(Protocol):
    """The protocol of a solver: a frozen dataclass of its parameters."""

    @property
    def name(self) -> str:
        """How reports call it."""

    def rejects(self, problem: Problem) -> str | None:
        """Return why the problem is not for this solver, or ``None``."""

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Solve; ``budget=None`` is ``Budget()``; solving twice gives the same answer."""


def accept(solver: Solver, problem: Problem) -> None:
    """Raise :class:`Unsupported` with the solver's own reason when it rejects the problem."""
    reason = solver.rejects(problem)
    if reason is not None:
        raise Unsupported(f"{solver.name} does not take this problem: {reason}")


@dataclass
class Watch:
    """Keeps the time, the trace and the reasons to stop of one run; no budget given is ``Budget()``."""

    given: InitVar[Budget | None] = None
    progress: Progress | None = None
    budget: Budget = field(init=False)
    started: float = field(default_factory=time.perf_counter)
    compiled: float = field(default_factory=compiling_seconds)
    trace: list[tuple[float, float | None, float | None]] = field(default_factory=list)
    stopped: Stop | None = None

    def __post_init__(self, given: Budget | None) -> None:
        self.budget = given or Budget()

    @property
    def seconds(self) -> float:
        """Seconds since the start, without those in which kernels were compiled."""
        return time.perf_counter() - self.started - (compiling_seconds() - self.compiled)

    @property
    def remaining(self) -> float:
        """Seconds left, ``inf`` without a limit."""
        return float("inf") if self.budget.seconds is None else self.budget.seconds - self.seconds

    def left(self) -> Budget:
        """Return the budget with the seconds that are left, or next to none."""
        return self.budget if self.budget.seconds is None else replace(self.budget, seconds=max(self.remaining, 1e-3))

    def report(self, value: float | None, bound: float | None) -> None:
        """Record a new value or bound, and let the user see it and stop."""
        self.trace.append((self.seconds, value, bound))
        if self.progress is not None and self.progress(self.seconds, value, bound):
            self.stopped = Stop.USER

    def due(self, *, iterations: int | None = None, nodes: int | None = None) -> Stop | None:
        """Return the reason to stop now, or ``None``."""
        if self.stopped is not None:
            return self.stopped
        if self.remaining <= 0:
            return Stop.TIME
        if iterations is not None and self.budget.iterations is not None and iterations >= self.budget.iterations:
            return Stop.ITERATIONS
        if nodes is not None and self.budget.nodes is not None and nodes >= self.budget.nodes:
            return Stop.NODES
        return None

    def stats(
        self,
        *,
        setup_seconds: float | None = None,
        iterations: int | None = None,
        nodes: int | None = None,
        oracle_calls: int | None = None,
        device: str | None = None,
        seed: int | None = None,
    ) -> Stats:
        """Return the statistics of the run so far."""
        return Stats(
            seconds=self.seconds,
            setup_seconds=setup_seconds,
            iterations=iterations,
            nodes=nodes,
            oracle_calls=oracle_calls,
            trace=tuple(self.trace),
            device=device,
            seed=seed,
        )
