"""Starting, feeding and ending worker processes: a run over its limits is ended and recorded as such."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

from . import families
from .jobs import Job
from .machine import memory_now
from .records import Outcome, Record

__all__ = ["Worker", "close_all", "execute"]

_GRACE = 120.0  # seconds beyond twice the limit: starting, building the instance, warming up, judging
_POLL = 0.25


class Worker:
    """One worker process; a dead one is started anew with the next job.

    Parameters
    ----------
    threads : int
        For BLAS and OpenMP, fixed when the process starts.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, job: Job) -> Record:
        """Run a job and return its record, whatever happens to the process."""
        process = self._alive()
        assert process.stdin is not None
        started = time.monotonic()
        try:
            process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
            process.stdin.flush()
            answer, reason = self._answer(process, job, started + 2.0 * job.seconds + _GRACE)
        except BaseException:
            self.close()
            raise
        if answer is None:
            self.close()
            size = families.find(job.family).size
            return Record.of(job, size, outcome=Outcome.ENDED, reason=reason, seconds=time.monotonic() - started)
        return Record.from_dict(json.loads(answer))

    def _answer(self, process: subprocess.Popen[bytes], job: Job, deadline: float) -> tuple[bytes | None, str]:
        """Wait for one line; ``None`` with the reason when it does not come."""
        assert process.stdout is not None
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if selector.select(_POLL):
                    part = os.read(process.stdout.fileno(), 1 << 20)
                    if not part:
                        code = process.wait()
                        return None, f"the process ended by itself with code {code}"
                    received += part
                    if received.endswith(b"\n"):
                        return bytes(received), ""
                resident = memory_now(process.pid)
                if resident is not None and resident > job.memory_gib * 2**30:
                    return None, f"over the memory limit: {resident / 2**30:.1f} GiB of {job.memory_gib:g} GiB"
        allowed = 2.0 * job.seconds + _GRACE
        return None, f"over the time limit: no answer after {allowed:.0f} s, when the limit was {job.seconds:g} s"

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mipprune.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **limits},
                start_new_session=True,  # Ctrl-C is for the supervisor, which then ends the worker
            )
            _alive.add(self)
        return self._process

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        _alive.discard(self)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started, such as the processes of peers
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


_local = threading.local()
_alive: set[Worker] = set()


@atexit.register
def close_all() -> None:
    """End every worker process of this process; runs in flight are lost."""
    for worker in list(_alive):
        worker.close()


def execute(job: Job) -> Record:
    """Run a job in the worker process of this thread; the function that executors call.

    Parameters
    ----------
    job : Job

    Returns
    -------
    Record
    """
    worker: Worker | None = getattr(_local, "worker", None)
    if worker is None or worker.threads != job.threads:
        if worker is not None:
            worker.close()
        worker = _local.worker = Worker(job.threads)
    return worker.run(job)
