"""Records of runs: one parquet file per run in one folder, which together are one data set."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidProblem, MippruneError
from .jobs import Job

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Outcome", "Record", "Store", "frame", "pack"]

Trace = tuple[tuple[float, float | None, float | None], ...]


class Outcome:
    """How a run ended; the values of ``Record.outcome``."""

    FINISHED = "finished"
    REJECTED = "rejected"
    """the solver does not take the instance, or is not installed; ``reason`` says why"""
    FAILED = "failed"
    """it raised; ``reason`` is the message"""
    ENDED = "ended"
    """it went over its limits and was ended, or its process died"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run: what was asked, what came back, what it cost, on what it ran.

    Attributes
    ----------
    key : str
        Of the job.
    family, instance, solver : str
    parameters : str
        Of the instance, as JSON.
    size : float
        The family's size parameter.
    seed, threads : int
    seconds_limit, gap_limit : float
    outcome, reason : str
        See :class:`Outcome`.
    fingerprint : str
        Of the instance's data.
    entries : int
        Number of variables.
    value, violation, checked_bound, claimed_bound : float or None
        As :func:`~mipprune.bench.judge` finds them.
    status, stop : str
        What the solver says.
    seconds, setup_seconds : float or None
        Wall-clock time of ``solve`` alone: no building, no judging, no compilation, device synchronised.
    build_seconds, judge_seconds : float or None
        What the suite itself cost around it.
    nodes, iterations : int or None
    peak_memory : float or None
        Resident bytes at their highest during the run.
    trace : tuple of (seconds, value, bound)
        As the solver reported it while running.
    faults : tuple of str
        What the judge found wrong.
    solver_parameters, machine, versions : str
        JSON.
    """

    key: str
    family: str
    instance: str
    solver: str
    parameters: str = "{}"
    size: float = math.nan
    seed: int = 0
    threads: int = 1
    seconds_limit: float = math.nan
    gap_limit: float = math.nan
    outcome: str = Outcome.FINISHED
    reason: str = ""
    fingerprint: str = ""
    entries: int | None = None
    value: float | None = None
    violation: float | None = None
    checked_bound: float | None = None
    claimed_bound: float | None = None
    status: str = ""
    stop: str = ""
    seconds: float | None = None
    setup_seconds: float | None = None
    build_seconds: float | None = None
    judge_seconds: float | None = None
    nodes: int | None = None
    iterations: int | None = None
    peak_memory: float | None = None
    trace: Trace = ()
    faults: tuple[str, ...] = field(default=())
    solver_parameters: str = ""
    machine: str = "{}"
    versions: str = "{}"

    @classmethod
    def of(cls, job: Job, size_parameter: str, **results: Any) -> Record:
        """Return the record of a job with its results."""
        return cls(
            key=job.key,
            family=job.family,
            instance=job.instance,
            solver=job.solver,
            parameters=json.dumps(job.parameters, sort_keys=True),
            size=float(job.parameters.get(size_parameter, math.nan)),
            seed=job.seed,
            threads=job.threads,
            seconds_limit=job.seconds,
            gap_limit=job.gap,
            **results,
        )

    @property
    def bound(self) -> float | None:
        """The checked bound, else the claimed one."""
        return self.claimed_bound if self.checked_bound is None else self.checked_bound

    @property
    def gap(self) -> float | None:
        """``(value - bound)/max(|value|, 1e-12)``, at least 0; ``None`` without both."""
        if self.value is None or self.bound is None:
            return None
        return max(0.0, self.value - self.bound) / max(abs(self.value), 1e-12)

    @property
    def proof(self) -> str:
        """``"checked"``, ``"claimed"`` or ``"none"``."""
        if self.checked_bound is not None:
            return "checked"
        return "none" if self.claimed_bound is None else "claimed"

    @property
    def solved(self) -> bool:
        """Whether the gap is within the limit and nothing was wrong."""
        gap = self.gap
        return gap is not None and gap <= self.gap_limit * (1 + 1e-9) + 1e-12 and not self.faults

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """Return the record of plain data, as from JSON or from a row of the data set."""
        known = {entry.name for entry in fields(cls)}
        plain = {name: value for name, value in data.items() if name in known}
        plain["trace"] = tuple(_step(step) for step in plain.get("trace", ()))
        plain["faults"] = tuple(str(fault) for fault in plain.get("faults", ()))
        return cls(**plain)


def _step(step: Any) -> tuple[float, float | None, float | None]:
    if isinstance(step, dict):
        return float(step["seconds"]), step["value"], step["bound"]
    seconds, value, bound = step
    return float(seconds), value, bound


class Store:
    """A folder of records. Writing is atomic; what is written is never lost and never run again.

    Parameters
    ----------
    folder : Path
        Made when the first record is written. A single parquet file, as :func:`pack` makes it, can be read too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def __contains__(self, job: Job) -> bool:
        return self._path(job.key).is_file()

    def _path(self, key: str) -> Path:
        return self.folder / "records" / f"{key}.parquet"

    def write(self, record: Record) -> None:
        """Write one record; a crash leaves the old file or the new one, never half of one."""
        _write([record], self._path(record.key))

    def read(self) -> list[Record]:
        """Return all records, in the order of family, instance and solver.

        Raises
        ------
        InvalidProblem
            If there are none.
        MippruneError
            If a file cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        single = self.folder.is_file()
        files = [self.folder] if single else sorted((self.folder / "records").glob("*.parquet"))
        if not files:
            raise InvalidProblem(f"{str(self.folder)!r} holds no records; run `mipprune bench run` first")
        found = []
        for file in files:
            try:
                found += [Record.from_dict(row) for row in pq.read_table(file).to_pylist()]
            except (pa.ArrowException, OSError, TypeError, KeyError) as error:
                raise MippruneError(f"{str(file)!r} is no record: {error}; remove it and run again") from error
        return sorted(found, key=_place)


def _place(record: Record) -> tuple[str, float, str, str]:
    size = record.size if math.isfinite(record.size) else math.inf  # NaN has no place in an order
    return record.family, size, record.instance, record.solver


def _schema() -> Any:
    import pyarrow as pa

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "int | None": pa.int64()}
    kinds |= {"float | None": pa.float64(), "tuple[str, ...]": pa.list_(pa.string())}
    kinds["Trace"] = pa.list_(pa.struct([("seconds", pa.float64()), ("value", pa.float64()), ("bound", pa.float64())]))
    return pa.schema([(entry.name, kinds[str(entry.type)]) for entry in fields(Record)])


def _write(records: Iterable[Record], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for record in records:
        trace = [{"seconds": t, "value": v, "bound": b} for t, v, b in record.trace]
        rows.append({**record.to_dict(), "trace": trace, "faults": list(record.faults)})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), part)
    part.replace(path)


def pack(records: Iterable[Record], target: Path) -> Path:
    """Write all records into one parquet file, to keep or to send, and return it."""
    _write(records, target)
    return target


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return the records as a table, with the derived columns and without the traces."""
    import pandas as pd

    rows: Sequence[dict[str, Any]] = [
        {**record.to_dict(), "gap": record.gap, "proof": record.proof, "solved": record.solved} for record in records
    ]
    made = pd.DataFrame(rows)
    return made.drop(columns=["trace"]) if len(made) else made
