"""The process that runs jobs: ``python -m mipprune.bench.worker`` reads jobs as lines of JSON and answers with records.

It is a process of its own so that a solver that hangs, takes all memory or crashes ends nothing but itself.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

import torch

from ..core.problem import Problem
from ..core.solver import Budget, Solver
from ..errors import Unsupported
from . import families
from .jobs import Job
from .machine import machine, peak_memory, reset_peak, versions
from .peers import Elsewhere, memory_elsewhere, versions_elsewhere
from .records import Outcome, Record
from .verdict import judge
from .warm import warm_up

__all__ = ["main", "perform"]

_warm: set[tuple[str, str]] = set()


def perform(job: Job) -> Record:
    """Run one job in this process and return its record; it never raises on what a solver does.

    Parameters
    ----------
    job : Job

    Returns
    -------
    Record
    """
    size = families.find(job.family).size
    about: dict[str, Any] = {"machine": json.dumps(machine()), "versions": json.dumps(versions())}
    try:
        solver = job.make_solver()
        started = time.perf_counter()
        problem = job.problem()
        about |= {"fingerprint": problem.fingerprint, "entries": problem.size}
        about["build_seconds"] = time.perf_counter() - started
        about["solver_parameters"] = repr(solver) if is_dataclass(solver) else solver.name
        reason = solver.rejects(problem)
        if reason is not None:
            return Record.of(job, size, outcome=Outcome.REJECTED, reason=reason, **about)
        if (job.family, job.solver) not in _warm:
            _warm.add((job.family, job.solver))
            warm_up(families.find(job.family), solver)
        answer, seconds, memory = _measure(problem, solver, job.budget)
        about["versions"] = json.dumps(versions() | versions_elsewhere())
        started = time.perf_counter()
        verdict = judge(problem, answer)
        about["judge_seconds"] = time.perf_counter() - started
    except Unsupported as error:  # some limits of a solver show only when it has begun, such as those of a licence
        return Record.of(job, size, outcome=Outcome.REJECTED, reason=str(error), **about)
    except Exception as error:  # what a solver raises is a result of the benchmark
        last = traceback.format_exception_only(error)[-1].strip()
        return Record.of(job, size, outcome=Outcome.FAILED, reason=last, **about)
    stats = getattr(answer, "stats", None)
    return Record.of(
        job,
        size,
        **about,
        **asdict(verdict),
        status=_word(answer, "status"),
        stop=_word(answer, "stop"),
        seconds=seconds,
        setup_seconds=getattr(stats, "setup_seconds", None),
        nodes=getattr(stats, "nodes", None),
        iterations=getattr(stats, "iterations", None),
        trace=tuple(_finite(getattr(stats, "trace", ()))),
        peak_memory=memory,
    )


def _measure(problem: Problem, solver: Solver, budget: Budget) -> tuple[Any, float, float | None]:
    reset_peak()
    _synchronise()
    started = time.perf_counter()
    answer = solver.solve(problem, budget=budget)
    _synchronise()
    seconds = time.perf_counter() - started
    if isinstance(solver, Elsewhere) and answer.stats.seconds is not None:  # of the process that solved
        return answer, answer.stats.seconds, memory_elsewhere(solver.program)
    return answer, seconds, peak_memory()


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _word(answer: Any, name: str) -> str:
    value = getattr(answer, name, "")
    return str(getattr(value, "value", value))


def _finite(trace: Any) -> Iterator[tuple[float, float | None, float | None]]:
    """Infinite values and bounds of a trace mean that there was none yet."""
    for seconds, value, bound in trace:
        yield seconds, _known(value), _known(bound)


def _known(number: float | None) -> float | None:
    return number if number is not None and abs(number) < float("inf") else None


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, even in the middle of a run."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    """Answer jobs until the input ends."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what solvers print must not mix with the answers
    for line in sys.stdin:
        job = Job(**json.loads(line))
        torch.set_num_threads(job.threads)
        answers.write(json.dumps(perform(job).to_dict()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
