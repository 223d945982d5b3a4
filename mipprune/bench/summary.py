"""Tables over records: one line per solver, one line per run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from .faults import best_values, find_faults
from .metrics import gap_between, primal_integral, shifted_geometric_mean
from .records import Outcome, Record

__all__ = ["RUN_HEADERS", "SUMMARY_HEADERS", "Line", "run_row", "summarise"]

SUMMARY_HEADERS = (
    "solver",
    "runs",
    "solved",
    "proof",
    "time used, s",
    "time to solve, s",
    "median gap",
    "to best known",
    "primal integral, s",
    "faults",
)
"""Of the table with one line per solver."""

RUN_HEADERS = (
    "instance",
    "solver",
    "value",
    "bound",
    "proof",
    "gap",
    "status",
    "seconds",
    "nodes",
    "memory, MiB",
    "remark",
)
"""Of the table with one line per run."""


@dataclass(frozen=True)
class Line:
    """What one solver did on one family.

    Attributes
    ----------
    solver : str
    runs, solved, faults : int
        Runs that it took part in; those with the gap closed to the limit and nothing wrong; those with a wrong claim.
    proof : str
        The weakest ground of its bounds.
    used : float
        Seconds that its runs took, solved or not.
    seconds : float
        Seconds to a closed gap, unsolved runs at their limit. Both are shifted geometric means (shift 1 s).
    gap : float
        Median of the gaps, counting a missing one as infinite.
    distance : float
        Mean distance of its values to the best known ones, in [0, 1].
    integral : float
        Shifted geometric mean of the primal integrals over the time limit.
    skipped : str
        Why it did not take part, where it never did.
    """

    solver: str
    runs: int
    solved: int
    faults: int
    proof: str
    used: float
    seconds: float
    gap: float
    distance: float
    integral: float
    skipped: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the line as text, in the order of ``SUMMARY_HEADERS``."""
        if not self.runs:
            return (self.solver, "0", *["-"] * (len(SUMMARY_HEADERS) - 2))
        return (
            self.solver,
            str(self.runs),
            f"{100 * self.solved / self.runs:.0f} %",
            self.proof,
            shown(self.used, 3),
            shown(self.seconds, 3),
            per_cent(self.gap),
            per_cent(self.distance),
            shown(self.integral, 3),
            str(self.faults),
        )


def summarise(records: Sequence[Record], known: Mapping[str, float] | None = None) -> list[Line]:
    """Return one line per solver for the records of one family, in the order of their first appearance.

    Parameters
    ----------
    records : sequence of Record
    known : mapping of str to float, optional
        Optima by fingerprint.
    """
    best = best_values(records, known)
    wrong = {(fault.solver, fault.instance) for fault in find_faults(records, known)}
    by_solver: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_solver[record.solver].append(record)
    return [_line(solver, found, best, wrong) for solver, found in by_solver.items()]


def _line(
    solver: str,
    records: Sequence[Record],
    best: Mapping[tuple[str, str, str], float],
    wrong: Collection[tuple[str, str]],
) -> Line:
    runs = [record for record in records if record.outcome != Outcome.REJECTED]
    if not runs:
        nothing = math.nan
        return Line(solver, 0, 0, 0, "-", nothing, nothing, nothing, nothing, nothing, records[0].reason)
    proofs = [record.proof for record in runs]
    weakest = next((proof for proof in ("none", "claimed", "checked") if proof in proofs), "none")
    times = [time_to_solve(record, fallback=record.seconds_limit) for record in runs]
    distances, integrals = [], []
    for record in runs:
        reference = best.get((record.family, record.instance, record.fingerprint))
        distances.append(gap_between(record.value, reference))
        integrals.append(primal_integral(full_trace(record), reference, record.seconds_limit))
    return Line(
        solver=solver,
        runs=len(runs),
        solved=sum(record.solved and (solver, record.instance) not in wrong for record in runs),
        faults=sum((solver, record.instance) in wrong for record in runs),
        proof=weakest,
        used=shifted_geometric_mean([record.seconds for record in runs if record.seconds is not None]),
        seconds=shifted_geometric_mean(times),
        gap=median(math.inf if record.gap is None else record.gap for record in runs),
        distance=sum(distances) / len(distances),
        integral=shifted_geometric_mean(integrals),
    )


def time_to_solve(record: Record, fallback: float = math.inf) -> float:
    """Return the seconds of a solved run, else the fallback."""
    return record.seconds if record.solved and record.seconds is not None else fallback


def full_trace(record: Record) -> list[tuple[float, float | None, float | None]]:
    """Return the trace with the judged answer at its end; values before are the solver's own."""
    steps = list(record.trace)
    if record.seconds is not None and record.value is not None:
        steps.append((record.seconds, record.value, record.bound))
    return steps


def run_row(record: Record) -> tuple[str, ...]:
    """Return a run as text, in the order of ``RUN_HEADERS``."""
    remark = "; ".join(record.faults) or record.reason
    status = record.status if record.outcome == Outcome.FINISHED else record.outcome
    return (
        record.instance,
        record.solver,
        shown(record.value, 8),
        shown(record.bound, 8),
        record.proof if record.value is not None else "-",
        per_cent(record.gap),
        status,
        shown(record.seconds, 3),
        shown(record.nodes, 6),
        shown(None if record.peak_memory is None else record.peak_memory / 2**20, 4),
        remark,
    )


def shown(number: float | None, digits: int) -> str:
    """Return a number with so many digits, or a dash."""
    return "-" if number is None or not math.isfinite(number) else f"{number:.{digits}g}"


def per_cent(share: float | None) -> str:
    """Return a share as per cent, or a dash; tiny ones in powers of ten, and rounding errors as 0."""
    if share is None or not math.isfinite(share):
        return "-"
    return f"{100 * share:.2f} %" if share < 1e-12 or share >= 1e-4 else f"{100 * share:.0e} %"
