"""Peers in other interpreters: stand-in packages show start, time limit, crash, refusal and clean-up."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import mipprune as mp
from mipprune.bench import Job, Record, find_faults, judge
from mipprune.bench.machine import _with_children, memory_now
from mipprune.bench.peers import El0ps, L0bnb, choose_pythons, close_peers, versions_elsewhere
from mipprune.bench.peers.elsewhere import _started, missing
from mipprune.bench.supervisor import Worker
from mipprune.cli import entry
from mipprune.errors import InvalidProblem, SolverFailure

L0BNB = """
import time
from collections import namedtuple
import numpy as np

Solution = namedtuple("Solution", "cost beta sol_time lower_bound gap")


class _Queue:
    def qsize(self):
        return 1


class BNBTree:
    number_of_nodes = 7
    bfs_queue = dfs_queue = _Queue()

    def __init__(self, x, y):
        self.x, self.y = x, y

    def solve(self, l0, l2, m, gap_tol, verbose, time_limit, warm_start):
        {behaviour}
        chosen = np.argsort(-np.abs(self.x.T @ self.y))[:2]
        beta = np.zeros(self.x.shape[1])
        beta[chosen] = np.linalg.lstsq(self.x[:, chosen], self.y, rcond=None)[0]
        return Solution({cost}, beta, 0.0, {{}}, 0.25)
"""
HONEST = "0.5 * np.sum((self.y - self.x @ beta) ** 2) + 2 * l0 + l2 * beta @ beta"


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A script that runs this Python with a folder of stand-in packages on its path."""
    package = tmp_path / "packages" / "l0bnb"
    package.mkdir(parents=True)
    info = tmp_path / "packages" / "l0bnb-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: l0bnb\nVersion: 9.9\n")
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "packages"} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    for name in ("L0BNB", "EL0PS", "ABESS"):
        monkeypatch.delenv(f"MIPPRUNE_PYTHON_{name}", raising=False)
    monkeypatch.setenv("MIPPRUNE_PYTHON_L0BNB", str(script))
    close_peers()
    yield package
    close_peers()


def _write(package: Path, behaviour: str = "pass", cost: str = HONEST) -> None:
    (package / "__init__.py").write_text(L0BNB.format(behaviour=behaviour, cost=cost))


def _problem() -> mp.Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 12, generator=generator, dtype=torch.float64)
    y = x[:, 2] - x[:, 9] + 0.1 * torch.randn(50, generator=generator, dtype=torch.float64)
    return mp.formulations.sparse_regression(x, y, l0=0.02, l2=0.01, box=2.0)


def test_a_point_is_recomputed_and_a_bound_is_only_claimed(interpreter: Path) -> None:
    given = "abs(l2 - 0.01) < 1e-12 and m == 2.0 and warm_start is not None"
    _write(interpreter, f"assert len(self.y) == 60 or ({given}); time.sleep(0.3)")
    problem = _problem()
    assert L0bnb().rejects(problem) is None
    answer = L0bnb().solve(problem, budget=mp.Budget(seconds=5, gap=1e-3))
    assert judge(problem, answer).faults == ()
    assert answer.value == pytest.approx(mp.solve(problem, mp.BranchAndBound()).value, rel=1e-9)
    assert answer.proof is mp.Proof.CLAIMED and answer.bound == pytest.approx(0.75 * answer.value, rel=1e-2)
    assert answer.stats.nodes == 7 and versions_elsewhere() == {"l0bnb": "9.9"}
    assert 0.3 <= (answer.stats.seconds or 0.0) < 5.0, "its own clock"


def test_a_wrong_claim_is_found_by_the_judge_and_listed_by_name(interpreter: Path) -> None:
    _write(interpreter, cost="9.0")  # hence a bound of 6.75, far above its point
    problem = _problem()
    answer = L0bnb().solve(problem, budget=mp.Budget(seconds=5))
    assert answer.bound is None and answer.proof is mp.Proof.NONE
    verdict = judge(problem, answer)
    assert verdict.claimed_bound == 6.75 and "its claimed bound 6.75 is above" in verdict.faults[0]
    record = Record(key="k", family="f", instance="i", solver="l0bnb", value=verdict.value, faults=verdict.faults)
    assert [fault.solver for fault in find_faults([record])] == ["l0bnb"]


def test_what_breaks_hangs_or_is_absent_says_so(interpreter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, peer = _problem(), L0bnb(warm=False)
    _write(interpreter, "raise RuntimeError('no good')")
    with pytest.raises(SolverFailure, match="l0bnb broke down: RuntimeError: no good"):
        peer.solve(problem, budget=mp.Budget(seconds=5))
    close_peers()
    _write(interpreter, "import os; os._exit(3)")
    with pytest.raises(SolverFailure, match="ended by itself with code 3"):
        peer.solve(problem, budget=mp.Budget(seconds=5))
    for name in ("_LATE", "_FIRST"):
        monkeypatch.setattr(f"mipprune.bench.peers.elsewhere.{name}", 0.5)
    _write(interpreter, "time.sleep(0 if len(self.y) == 60 else 600)")
    answer = peer.solve(problem, budget=mp.Budget(seconds=0.1))
    assert answer.point is None and answer.stop is mp.Stop.TIME
    (interpreter / "__init__.py").write_text("raise ImportError('needs numpy 1')")
    close_peers()
    assert peer.rejects(problem) == "the package l0bnb cannot be used: ImportError: needs numpy 1"
    monkeypatch.setenv("MIPPRUNE_PYTHON_L0BNB", "/no/such/python")
    assert "/no/such/python cannot be started" in str(peer.rejects(problem))
    monkeypatch.delenv("MIPPRUNE_PYTHON_L0BNB")
    if find_spec("l0bnb") is None:
        assert "--peer-python l0bnb=PYTHON" in str(peer.rejects(problem))


def test_an_interrupt_ends_the_process_and_the_next_call_starts_another(
    interpreter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(interpreter)
    problem, peer = _problem(), L0bnb()
    peer.solve(problem)
    (process,) = [one.process for one in _started.values()]
    assert process is not None

    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mipprune.bench.peers.elsewhere._Peer.read", interrupted)
        answer = peer.solve(problem)
    assert answer.point is None and answer.stop is mp.Stop.USER
    assert process.poll() is not None
    assert peer.solve(problem).point is not None


def test_peers_refuse_what_they_would_solve_wrongly(interpreter: Path) -> None:
    x, y = torch.eye(4, dtype=torch.float64), torch.arange(4.0, dtype=torch.float64)
    count = mp.formulations.sparse_regression(x, y, k=2, l2=0.1)
    prices = mp.formulations.sparse_regression(x, y, l0=torch.arange(1.0, 5.0), l2=0.1, box=1.0)
    ridges = mp.formulations.sparse_regression(x, y, l0=0.1, l2=torch.arange(1.0, 5.0), box=1.0)
    lopsided = mp.formulations.sparse_regression(x, y, l0=0.1, l2=0.1, box=(torch.tensor(-1.0), torch.tensor(2.0)))
    for problem in (count, prices, ridges, lopsided):
        for peer in (L0bnb(), El0ps()):
            assert "it takes least squares with one price" in str(peer.rejects(problem))
    unboxed = mp.formulations.sparse_regression(x, y, l0=0.1, l2=0.1)
    assert "a symmetric box" in str(L0bnb().rejects(unboxed))


def test_a_worker_measures_by_the_clock_of_the_peer_and_takes_it_along(interpreter: Path) -> None:
    _write(interpreter, "time.sleep(0.2 if len(self.y) == 60 else 600 if self.x.shape[1] == 7 else 0)")
    shape = {"samples": 30, "support": 2, "rho": 0.1, "snr": 5.0}
    worker = Worker()
    try:
        record = worker.run(Job("sparse_regression", {**shape, "columns": 8}, 0, "l0bnb", seconds=20.0))
        assert record.outcome == "finished" and record.proof == "claimed", record.reason
        assert record.seconds is not None and record.seconds < 0.2
        assert '"l0bnb": "9.9"' in record.versions
        assert worker._process is not None
        peer = next(one for one in _children(worker._process.pid))
        assert (memory_now(worker._process.pid) or 0.0) > (memory_now(peer) or 0.0) > 1e6
    finally:
        worker.close()
    for _ in range(50):
        if not (Path("/proc") / str(peer)).exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the peer outlived the worker")


def _children(process: int) -> list[int]:
    return [child for child in _with_children(process) if child != process]


def test_choices_of_interpreters_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIPPRUNE_PYTHON_ABESS", "")
    with pytest.raises(InvalidProblem, match="there is no peer 'nothing'"):
        choose_pythons({"nothing": sys.executable})
    with pytest.raises(InvalidProblem, match="is not there or cannot be run"):
        choose_pythons({"abess": str(tmp_path / "python")})
    choose_pythons({"abess": sys.executable})
    assert os.environ["MIPPRUNE_PYTHON_ABESS"] == sys.executable
    if find_spec("abess") is None:
        assert "No module named 'abess'" in str(missing("abess"))
    done = CliRunner().invoke(entry.cli, ["bench", "run", "layerwise", "--peer-python", "abess"])
    assert "write NAME=PYTHON" in str(done.exception)
