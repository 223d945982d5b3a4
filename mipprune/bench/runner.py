"""Running a suite on any executor: what is finished is never repeated, what is in flight is all that can be lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InvalidProblem
from .jobs import Job
from .records import Record, Store
from .supervisor import close_all, execute

__all__ = ["EXECUTORS", "executor", "run"]

EXECUTORS = ("process", "dask", "mpi")
"""What ``--executor`` takes."""

Advance = Callable[[int, int, Record | None], None]
"""Receives the number of finished jobs, the number of all jobs, and the last record."""


@contextmanager
def executor(kind: str, jobs: int, scheduler: str | None = None) -> Iterator[Executor]:
    """Open an executor.

    Parameters
    ----------
    kind : {"process", "dask", "mpi"}
        Worker processes of this machine; those of a dask cluster; those of ``mpiexec -n N python -m mpi4py.futures``.
    jobs : int
        Runs at a time on this machine (ignored by dask with a scheduler and by MPI).
    scheduler : str, optional
        Address of a running dask scheduler; without it a cluster is started on this machine.

    Raises
    ------
    InvalidProblem
        If the kind is not known, or its package is missing.
    """
    if jobs < 1:
        raise InvalidProblem(f"jobs is {jobs}; at least one run at a time is needed")
    if kind == "process":
        # The threads only wait; each has a worker process of its own.
        pool = ThreadPoolExecutor(jobs)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            close_all()
    elif kind == "dask":
        with _dask(jobs, scheduler) as made:
            yield made
    elif kind == "mpi":
        try:
            from mpi4py.futures import MPIPoolExecutor
        except ImportError as error:
            raise InvalidProblem(f"--executor mpi needs mpi4py and an MPI library ({error})") from error
        with MPIPoolExecutor() as pool:
            yield pool
    else:
        raise InvalidProblem(f"executor {kind!r} is not known; choose one of {', '.join(EXECUTORS)}")


@contextmanager
def _dask(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InvalidProblem("--executor dask needs mipprune[distributed]") from error
    if scheduler is not None:
        with Client(scheduler) as client:
            yield client.get_executor(pure=False, retries=2)
        return
    options: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": None, "threads_per_worker": 1}
    with LocalCluster(n_workers=jobs, processes=True, **options) as cluster, Client(cluster) as client:
        yield client.get_executor(pure=False, retries=2)


def run(
    jobs: Sequence[Job],
    folder: Path,
    pool: Executor,
    *,
    in_flight: int | None = None,
    advance: Advance | None = None,
    repeat_failed: bool = False,
) -> list[Record]:
    """Run the jobs that have no record yet and return the records of all of them.

    Parameters
    ----------
    jobs : sequence of Job
    folder : Path
        Where the records are; every run is written as soon as it ends.
    pool : Executor
        Of :func:`executor`, or any other whose workers can import this package.
    in_flight : int, optional
        Jobs handed to the executor at a time; default 64, so that a million jobs do not queue up in memory.
    advance : callable, optional
        Called at the start and after every run.
    repeat_failed : bool
        Also run again what failed or was ended.

    Returns
    -------
    list of Record

    Notes
    -----
    An interrupt leaves the finished records in place; the same call goes on where it stopped.
    """
    store = Store(folder)
    wanted = {job.key: job for job in jobs}
    stored = {record.key: record for record in store.read()} if any(job in store for job in jobs) else {}
    again = {"failed", "ended"} if repeat_failed else set()
    records = {key: stored[key] for key in wanted if key in stored and stored[key].outcome not in again}
    pending = iter([job for key, job in wanted.items() if key not in records])
    running: set[Future[Record]] = set()
    if advance is not None:
        advance(len(records), len(wanted), None)
    limit = in_flight or 64
    try:
        while True:
            while len(running) < limit and (job := next(pending, None)) is not None:
                running.add(pool.submit(execute, job))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                record = future.result()
                store.write(record)
                records[record.key] = record
                if advance is not None:
                    advance(len(records), len(wanted), record)
    finally:
        for future in running:
            future.cancel()
    return [records[key] for key in wanted]
