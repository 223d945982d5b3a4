"""Long runs of the tree: states on files, kills, Ctrl-C at any moment, other processes and their loss."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mipprune as mp
from mipprune.bench.families.sparse_regression import correlated_regression
from mipprune.formulations import graphical_model, sparse_regression
from mipprune.solvers.tree import subtrees
from mipprune.solvers.tree.board import Board
from mipprune.solvers.tree.experience import Experience
from mipprune.solvers.tree.interrupts import Interrupts
from mipprune.solvers.tree.regression import RegressionBound
from mipprune.solvers.tree.search import Search
from tests.graphs import uniform_model


def regression(form: str = "price", n: int = 60, p: int = 40) -> mp.Problem:
    made = correlated_regression(n, p, 6, 0.7, 3.0, 2)
    limit: dict[str, Any] = {"l0": made.l0} if form == "price" else {"k": 6}
    return sparse_regression(made.x, made.y, l2=0.01, fit_intercept=False, standardize=False, **limit)


def graph(p: int = 11, seed: int = 2) -> mp.Problem:
    samples, theta = uniform_model(p, 10 * p, seed)
    return graphical_model(samples, l0=0.05, l2=0.05, box=float(np.abs(theta).max()), standardize=False)


PROBLEMS = {
    "price": lambda: (regression(), mp.Budget(gap=1e-5)),
    "count": lambda: (regression("count", 50, 40), mp.Budget(gap=1e-5)),
    "graph": lambda: (graph(), mp.Budget(gap=0.0, absolute_gap=1e-4)),
}


def assert_same(one: mp.Solution, other: mp.Solution) -> None:
    """Two runs are one and the same: value, bound and every number of the certificate."""
    assert (one.value, one.bound, one.stats.nodes) == (other.value, other.bound, other.stats.nodes)
    assert torch.equal(one.point, other.point)
    assert isinstance(one.certificate, mp.SparseTree) and isinstance(other.certificate, mp.SparseTree)
    assert one.certificate.leaves == other.certificate.leaves
    for name, part in vars(one.certificate).items():
        assert torch.equal(part, getattr(other.certificate, name)), name


# ------------------------------------------------------------------------------------------------- states on files


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_run_goes_on_from_its_file_as_if_nothing_had_happened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every state that a run writes leads to the very same certificate as the undisturbed run."""
    monkeypatch.setattr("mipprune.solvers.tree.search._RENEWAL", 4)
    problem, budget = PROBLEMS[kind]()
    whole = mp.BranchAndBound().solve(problem, budget=budget)
    total = whole.stats.nodes or 0
    assert total >= 25 and whole.status is mp.Status.OPTIMAL
    file = tmp_path / "run.state"
    for nodes in (6 * total // 10, 7 * total // 10, 9 * total // 10):
        solver = mp.BranchAndBound(checkpoint=file, checkpoint_seconds=0.0)
        cut = solver.solve(
            problem, budget=mp.Budget(gap=budget.gap, absolute_gap=budget.absolute_gap, nodes=nodes),
            resume=file if file.exists() else None,
        )  # fmt: skip
        assert cut.stop is mp.Stop.NODES and file.exists()
        assert mp.check(problem, cut).bound <= whole.value
    resumed = mp.BranchAndBound(checkpoint=file, checkpoint_seconds=0.0).solve(problem, budget=budget, resume=file)
    assert_same(whole, resumed)
    assert list(tmp_path.iterdir()) == [file]


def test_states_of_other_runs_and_damaged_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mipprune.solvers.tree.search._RENEWAL", 4)
    problem, file = regression(), tmp_path / "run.state"
    solver = mp.BranchAndBound(checkpoint=str(file), checkpoint_seconds=0.0)
    solver.solve(problem, budget=mp.Budget(gap=1e-5, nodes=40))
    with pytest.raises(mp.InvalidProblem, match="another problem"):
        solver.solve(regression("count"), resume=str(file))
    with pytest.raises(mp.InvalidProblem, match=r"gap was 1e-05 and is 0\.01"):
        solver.solve(problem, budget=mp.Budget(gap=1e-2), resume=file)
    with pytest.raises(mp.InvalidProblem, match="no checkpoint"):
        solver.solve(problem, resume=tmp_path / "none.state")
    whole = file.read_bytes()
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["point.value"] = arrays["point.value"] + 1.0
    np.savez(tmp_path / "altered.npz", **arrays)
    altered = (tmp_path / "altered.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 100, altered):
        file.write_bytes(damaged)
        with pytest.raises(mp.InvalidProblem, match="damaged"):
            solver.solve(problem, budget=mp.Budget(gap=1e-5), resume=file)
    generic = mp.Problem(problem.loss, mp.Sparse(mp.NofM(2, 4)))
    with pytest.raises(mp.InvalidProblem, match="resumed"):
        solver.solve(generic)


_RUN = """
import sys, torch
torch.set_num_threads(1)
import mipprune as mp
from mipprune.solvers.tree import search
from tests.solvers.tree.test_long_runs import PROBLEMS
problem, budget = PROBLEMS[sys.argv[1]]()
file = __import__("pathlib").Path(sys.argv[2])
search._RENEWAL = 4
print("begun", flush=True)
mp.BranchAndBound(checkpoint=file, checkpoint_seconds=0.0).solve(
    problem, budget=budget, resume=file if file.exists() else None)
print("done", flush=True)
"""


def child(code: str, *arguments: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], cwd=root, text=True, stdout=subprocess.PIPE
    )


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_same_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mipprune.solvers.tree.search._RENEWAL", 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        problem, budget = PROBLEMS["graph"]()
        begun = time.perf_counter()
        whole = mp.BranchAndBound().solve(problem, budget=budget)
        seconds = time.perf_counter() - begun
        file = tmp_path / "run.state"
        draw = random.Random(os.getpid())  # anywhere: what the file holds must not matter
        for _ in range(2):
            process = child(_RUN, "graph", str(file))
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            time.sleep(draw.uniform(0.0, seconds))
            process.send_signal(signal.SIGKILL)
            process.wait()
        resumed = mp.BranchAndBound().solve(problem, budget=budget, resume=file if file.exists() else None)
        assert_same(whole, resumed)
        mp.check(problem, resumed)
    finally:
        torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------------------------- interrupts


@pytest.fixture
def alarm() -> Iterator[Any]:
    """Sends a real SIGINT to this process after so many seconds."""
    timers: list[threading.Timer] = []

    def set_off(seconds: float) -> None:
        timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)))
        timers[-1].start()

    yield set_off
    for timer in timers:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize("kind", PROBLEMS)
def test_ctrl_c_at_any_moment_returns_the_best_so_far(kind: str, alarm: Any) -> None:
    problem, budget = PROBLEMS[kind]()
    begun = time.perf_counter()
    whole = mp.BranchAndBound().solve(problem, budget=budget)
    seconds = time.perf_counter() - begun
    draw, interrupted = random.Random(1), 0
    for _ in range(4):
        alarm(draw.uniform(0.01, 0.9) * seconds)
        solution = mp.BranchAndBound().solve(problem, budget=budget)
        if solution.stop is mp.Stop.USER:
            interrupted += 1
        else:  # faster than the clock; let the signal pass
            with pytest.raises(KeyboardInterrupt):
                time.sleep(seconds + 5.0)
        assert solution.point is not None and solution.value >= whole.bound
        if solution.certificate is not None:
            assert mp.check(problem, solution).bound <= whole.value
    assert interrupted >= 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_middle_of_every_step_leaves_a_whole_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal arrives while the arrays of the tree grow, between any two of their extensions."""
    from mipprune.solvers.tree import ledger

    problem, budget = regression(), mp.Budget(gap=1e-3)
    original, calls = ledger._Column.extend, [0, 0]

    def extend(self: Any, values: Any) -> None:
        calls[0] += 1
        if calls[0] == calls[1]:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, values)

    monkeypatch.setattr(ledger._Column, "extend", extend)
    for place in [*range(1, 40), *range(40, 400, 17)]:
        calls[:] = [0, place]
        solution = mp.BranchAndBound().solve(problem, budget=budget)
        assert solution.stop is mp.Stop.USER
        if solution.certificate is not None:
            mp.check(problem, solution)


def test_ctrl_c_that_is_lost_in_a_finaliser_still_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    from mipprune.solvers.tree.regression import RegressionBound

    original, calls = RegressionBound.scores, [0]

    def scores(self: Any, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        return original(self, *arguments)

    monkeypatch.setattr(RegressionBound, "scores", scores)
    solution = mp.BranchAndBound().solve(regression(), budget=mp.Budget(gap=1e-3))
    assert solution.stop is mp.Stop.USER
    assert calls[0] == 3


def test_ctrl_c_while_the_certificate_is_made_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, budget = regression(), mp.Budget(gap=1e-3)
    original = mp.SparseTree.sealed

    def sealed(self: Any, problem: mp.Problem) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, problem)

    monkeypatch.setattr(mp.SparseTree, "sealed", sealed)
    solution = mp.BranchAndBound().solve(problem, budget=budget)
    assert solution.stop is mp.Stop.USER and solution.status is mp.Status.OPTIMAL

    def sealed_twice(self: Any, problem: mp.Problem) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, problem)

    monkeypatch.setattr(mp.SparseTree, "sealed", sealed_twice)
    with pytest.raises(KeyboardInterrupt):  # whoever insists gets out
        mp.BranchAndBound().solve(problem, budget=budget)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupts_leave_other_handlers_alone() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with Interrupts() as interrupts:
            interrupts.release()
            os.kill(os.getpid(), signal.SIGINT)
            assert seen == [signal.SIGINT] and interrupts.held and not interrupts.noted
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.noted and len(seen) == 1
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            interrupts.release()
            assert interrupts.held and len(seen) == 2
        os.kill(os.getpid(), signal.SIGINT)
        assert len(seen) == 3
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.held and not interrupts.noted
    finally:
        signal.signal(signal.SIGINT, before)
    with ThreadPoolExecutor(1) as pool:  # signals reach the main thread only
        pool.submit(lambda: Interrupts().__enter__().__exit__(None, None, None)).result()


# ------------------------------------------------------------------------------------------------- other processes


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand work out at once and in small pieces, so that small problems are shared out too."""
    monkeypatch.setattr(subtrees, "_ALONE", 0.0)
    monkeypatch.setattr(subtrees, "_SECONDS", 0.02)


@pytest.mark.parametrize("kind", PROBLEMS)
@pytest.mark.parametrize("workers", [1, 3])
def test_parts_are_searched_elsewhere_and_grafted(kind: str, workers: int) -> None:
    problem, budget = PROBLEMS[kind]()
    whole = mp.BranchAndBound().solve(problem, budget=budget)
    with ThreadPoolExecutor(workers) as pool:
        shared = mp.BranchAndBound(executor=pool, workers=workers).solve(problem, budget=budget)
    assert shared.status is mp.Status.OPTIMAL and shared.stop is mp.Stop.GAP
    assert shared.value == pytest.approx(whole.value, rel=1e-6)
    assert mp.check(problem, shared).bound <= whole.value


class _Forgetful(Executor):
    """Runs tasks at once, as if on a machine that cannot read the coordinator's folder; fails after some of them."""

    def __init__(self, tasks: int, error: BaseException) -> None:
        self.left, self.error, self.refused = tasks, error, 0

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.left == 0:
            future.set_exception(self.error)
            return future
        self.left -= 1
        task = arguments[0]._replace(folder="/nowhere")
        subtrees._HERE.__dict__.pop("key", None)
        answer = function(task)
        self.refused += answer is None
        future.set_result(answer)
        return future


def test_processes_on_other_machines_get_the_data_when_they_ask() -> None:
    problem, budget = PROBLEMS["price"]()
    executor = _Forgetful(-1, RuntimeError())
    solution = mp.BranchAndBound(executor=executor, workers=1).solve(problem, budget=budget)
    assert executor.refused > 0 and solution.status is mp.Status.OPTIMAL
    mp.check(problem, solution)


def test_a_process_that_dies_costs_its_part_of_the_work_alone(caplog: pytest.LogCaptureFixture) -> None:
    problem, budget = PROBLEMS["price"]()
    executor = _Forgetful(3, BrokenProcessPool("killed"))
    solution = mp.BranchAndBound(executor=executor, workers=1).solve(problem, budget=budget)
    assert solution.status is mp.Status.OPTIMAL and "goes on without it" in caplog.text
    mp.check(problem, solution)
    with pytest.raises(ZeroDivisionError):  # a fault of the package is not hidden
        mp.BranchAndBound(executor=_Forgetful(3, ZeroDivisionError()), workers=1).solve(problem, budget=budget)


def test_the_board_and_the_experience_travel(tmp_path: Path) -> None:
    import pickle

    board = Board(tmp_path / "board", fresh=True)
    other = Board(tmp_path / "board")
    other.post(3.0)
    other.post(4.0)
    assert board.value == 3.0 and not board.stopped
    other.stop()
    assert board.stopped
    experience = Experience(5)
    experience.learn(2, 1, 1.0, 0.5)
    copied = pickle.loads(pickle.dumps(experience))
    assert all(np.array_equal(a, b) for a, b in zip(copied.arrays, experience.arrays, strict=True))
    copied.learn(0, 0, 1.0, 2.0)
    experience.absorb(copied.news)
    assert all(np.array_equal(a, b) for a, b in zip(copied.arrays, experience.arrays, strict=True))
    assert experience.arrays[1].sum() == 2


class _Late(Executor):
    """Runs tasks some time after they were submitted, as processes do that have to be started first."""

    def __init__(self, seconds: float, look: Callable[[], int]) -> None:
        self.seconds, self.look = seconds, look
        self.sent: list[int] = []
        self.begun: list[int] = []

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            self.begun.append(self.look())
            future.set_result(function(*arguments))

        self.sent.append(self.look())
        threading.Timer(0.0 if self.begun else self.seconds, run).start()
        return future


def test_the_coordinator_goes_on_while_processes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the first answer it searches itself, and parts are no roots: the long first local search is made once."""
    problem, budget = PROBLEMS["price"]()
    own, efforts = [0], []
    process, incumbents = Search.process, RegressionBound.incumbents

    def counted(self: Any, *arguments: Any) -> Any:
        own[0] += threading.current_thread() is threading.main_thread()
        return process(self, *arguments)

    def noted(self: Any, node: Any, relaxed: Any, effort: int) -> Any:
        efforts.append(effort)
        return incumbents(self, node, relaxed, effort)

    monkeypatch.setattr(Search, "process", counted)
    monkeypatch.setattr(RegressionBound, "incumbents", noted)
    executor = _Late(0.2, lambda: own[0])
    solution = mp.BranchAndBound(executor=executor, workers=1).solve(problem, budget=budget)
    assert executor.begun[0] >= executor.sent[0] + 8
    assert efforts.count(2) == 1 and solution.status is mp.Status.OPTIMAL
    assert solution.stats.nodes == len(efforts)
    mp.check(problem, solution)


_TOGETHER = """
import multiprocessing, os, sys, time, torch
from concurrent.futures import ProcessPoolExecutor
import mipprune as mp
from tests.solvers.tree.test_long_runs import graph
problem = graph(20, 0)
def said(seconds, value, bound):
    print("searching", flush=True)
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
    solution = mp.BranchAndBound(executor=pool, workers=2).solve(
        problem, budget=mp.Budget(gap=0.0, absolute_gap=1e-6, seconds=40), progress=said)
checked = mp.check(problem, solution)
print("ended", solution.stop.name, checked.bound <= solution.value, flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_reaches_the_processes_too() -> None:
    """As from a terminal: the signal goes to all processes at once."""
    process = subprocess.Popen(
        [sys.executable, "-c", _TOGETHER], cwd=Path(__file__).parents[3], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for _ in range(6):
            assert process.stdout.readline() == "searching\n"
        time.sleep(random.uniform(0.0, 1.0))
        os.killpg(process.pid, signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
        assert "ended USER True" in rest, errors
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.slow
def test_two_processes_find_the_same_optimum() -> None:
    problem, budget = PROBLEMS["graph"]()
    whole = mp.BranchAndBound().solve(problem, budget=budget)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        shared = mp.BranchAndBound(executor=pool, workers=2).solve(problem, budget=budget)
    assert shared.status is mp.Status.OPTIMAL and whole.status is mp.Status.OPTIMAL
    assert shared.value == pytest.approx(whole.value, abs=2e-4)
    mp.check(problem, shared)
