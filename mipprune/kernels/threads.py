"""Running compiled kernels that release the interpreter lock over rows, on as many threads as torch may use."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import torch

__all__ = ["over_rows"]


def over_rows(
    task: Callable[[int, int], None], rows: int, *, chunk: int = 8, go_on: Callable[[], bool] = lambda: True
) -> int:
    """Call ``task(first, last)`` for consecutive ranges of rows and return how many rows were done, from the first on.

    Parameters
    ----------
    task : callable
        Must be safe for disjoint ranges at the same time; results must not depend on the order of the calls.
    rows, chunk : int
        Number of rows, and of rows in one call.
    go_on : callable
        Asked before each round of calls; ``False`` ends the work early.

    Notes
    -----
    Own threads rather than numba's parallel loops: two of those at once, from two threads of the caller, abort the
    process under some of numba's threading layers. The caller works as well, and waits for no helper that has not
    begun, so that a task may use this function again.
    """
    threads = max(1, min(torch.get_num_threads(), -(-rows // chunk)))
    done = 0
    while done < rows and go_on():
        end = min(done + 4 * threads * chunk, rows)
        _round(task, range(done, end, chunk), end, threads - 1)
        done = end
    return done


def _round(task: Callable[[int, int], None], starts: range, end: int, helpers: int) -> None:
    """Do one round of calls, with so many helpers."""
    numbers = itertools.count()  # next() is atomic
    stopped = False

    def work() -> None:
        nonlocal stopped
        try:
            while not stopped and (number := next(numbers)) < len(starts):
                task(starts[number], min(starts[number] + starts.step, end))
        finally:  # where it was an interrupt, or the task's own error, what has not begun need not run
            stopped = True

    futures: list[Future[None]] = []
    try:
        for _ in range(min(helpers, len(starts) - 1)):
            futures.append(_pool().submit(work))
        work()
    finally:
        stopped = True
        errors = [future.exception() for future in futures if not future.cancel()]
    for error in errors:
        if error is not None:
            raise error


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay: starting them for each call takes longer than many calls do."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="mipprune")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has no threads but its own
