"""Running compiled kernels that release the interpreter lock over rows, on as many threads as torch may use."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

__all__ = ["over_rows", "small_products"]

_SMALL = 256  # rows up to which a product of matrices is over before threads have begun


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
    begun, so that a task may use this function again. When it returns or raises, no call is under way.
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
    stopped, helping = False, 0
    changed = threading.Condition()
    errors: list[BaseException] = []

    def work() -> None:
        nonlocal stopped
        try:
            while not stopped and (number := next(numbers)) < len(starts):
                task(starts[number], min(starts[number] + starts.step, end))
        finally:  # where it was an interrupt, or the task's own error, what has not begun need not run
            stopped = True

    def assist() -> None:
        nonlocal helping
        with changed:
            if stopped:
                return
            helping += 1
        try:
            work()
        except BaseException as error:
            errors.append(error)
        with changed:
            helping -= 1
            changed.notify()

    try:
        for _ in range(min(helpers, len(starts) - 1)):
            try:
                _pool().submit(assist)
            except RuntimeError:  # the interpreter is about to end, or has no more threads to give
                break
        work()
    finally:
        stopped = True
        _await(changed, lambda: helping == 0)
    if errors:
        raise errors[0]


def _await(changed: threading.Condition, done: Callable[[], bool]) -> None:
    """Wait, and hold interrupts until then: tasks under way write into arrays that the caller will look at."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            with changed:
                changed.wait_for(done)
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


@contextmanager
def small_products(size: int) -> Iterator[None]:
    """Let numpy multiply matrices on one thread while these have few rows.

    Its other threads spin for a while after each product, at the cost of those that run compiled kernels next: the tree
    of a graph of 100 nodes took five times as long.
    """
    if size > _SMALL:
        yield
    else:
        with _blas().limit(limits=1, user_api="blas"):
            yield


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@cache
def _pool() -> ThreadPoolExecutor:
    """Threads that stay: starting them for each call takes longer than many calls do."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="mipprune")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has no threads but its own
