"""Spreading rows over threads: every row once, errors passed on, early ends told."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch

from mipprune.kernels import threads
from mipprune.kernels.threads import over_rows


@pytest.mark.parametrize("rows", [0, 1, 7, 100])
@pytest.mark.parametrize("chunk", [1, 3, 200])
def test_every_row_is_visited_once(rows, chunk):
    visits = torch.zeros(rows)

    def task(first, last):
        visits[first:last] += 1

    assert over_rows(task, rows, chunk=chunk) == rows
    assert bool((visits == 1).all())


def test_the_work_ends_early_after_whole_rounds():
    visits, rounds = torch.zeros(1000), []

    def task(first, last):
        visits[first:last] += 1

    done = over_rows(task, 1000, chunk=2, go_on=lambda: len(rounds) < 2 and not rounds.append(1))
    assert 0 < done < 1000
    assert bool((visits[:done] == 1).all()) and not visits[done:].any()


def test_errors_of_a_task_reach_the_caller():
    def task(first, last):
        if first >= 4:
            raise ValueError("row 4")

    with pytest.raises(ValueError, match="row 4"):
        over_rows(task, 50, chunk=2)


def test_a_task_may_use_threads_again_and_so_may_several_callers():
    visits = torch.zeros(6, 40, 20)

    def outer(caller, first, last):
        for own in visits[caller, first:last]:
            over_rows(lambda start, end, own=own: own[start:end].add_(1), 20, chunk=1)

    def call(number):
        over_rows(lambda first, last: outer(number, first, last), 40, chunk=1)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert bool((visits == 1).all())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    over_rows(lambda first, last: None, 100, chunk=1)
    pid = os.fork()
    if pid == 0:
        visits = torch.zeros(100)
        over_rows(lambda first, last: visits[first:last].add_(1), 100, chunk=1)
        os._exit(0 if bool((visits == 1).all()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_interrupt_of_the_caller_ends_the_work():
    seen = []

    def task(first, last):
        seen.append(first)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        over_rows(task, 10_000, chunk=1)
    assert len(seen) < 10_000


@pytest.mark.skipif(not hasattr(signal, "raise_signal") or os.name == "nt", reason="signals are sent otherwise here")
def test_an_interrupt_while_helpers_work_waits_for_them(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    begun, ended = threading.Event(), []
    main = threading.main_thread()

    def task(first, last):
        if threading.current_thread() is main:
            assert begun.wait(timeout=60)
            return
        begun.set()
        time.sleep(0.05)  # by now the caller waits
        signal.pthread_kill(main.ident, signal.SIGINT)
        time.sleep(0.1)
        ended.append(first)

    with pytest.raises(KeyboardInterrupt):
        over_rows(task, 2, chunk=1)
    assert len(ended) == 1


def test_the_caller_works_alone_where_threads_cannot_be_had(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    pool = threads.ThreadPoolExecutor(max_workers=1)
    pool.shutdown()  # as when the interpreter ends
    monkeypatch.setattr(threads, "_pool", lambda: pool)
    visits = torch.zeros(100)
    assert over_rows(lambda first, last: visits[first:last].add_(1), 100, chunk=1) == 100
    assert bool((visits == 1).all())


def test_small_products_take_one_thread_of_the_linear_algebra():
    info = pytest.importorskip("threadpoolctl").threadpool_info

    def blas():
        return [library["num_threads"] for library in info() if library["user_api"] == "blas"]

    before = blas()
    with threads.small_products(100):
        assert set(blas()) <= {1}
    assert blas() == before
    with threads.small_products(10_000):
        assert blas() == before
