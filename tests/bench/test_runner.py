"""Runs, limits, resuming, kills: what is finished is never repeated, and a kill loses the run in flight at most."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mipprune.bench import Job, Record, Store, executor, expand, run
from mipprune.bench.records import Outcome
from mipprune.bench.supervisor import Worker
from mipprune.errors import InvalidProblem, MippruneError

SOLVERS = ["wanda", "tree", "admm"]


def _jobs(seconds: float = 20.0) -> list[Job]:
    return expand("layerwise:quick", solvers=SOLVERS, seconds=seconds)[:6]


def _timeless(record: Record) -> dict[str, object]:
    """A record without what differs from run to run."""
    data = record.to_dict()
    for name in ("seconds", "setup_seconds", "build_seconds", "judge_seconds", "peak_memory", "trace"):
        del data[name]
    return data


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with executor("process", 2) as pool:
        return folder, run(_jobs(), folder, pool)


def test_a_suite_is_run_and_its_records_come_back_from_disk(undisturbed: tuple[Path, list[Record]]) -> None:
    folder, records = undisturbed
    assert [record.solver for record in records] == SOLVERS * 2
    assert all(record.outcome == Outcome.FINISHED and record.faults == () for record in records)
    assert all(record.seconds is not None and record.peak_memory is not None for record in records)
    tree = records[1]
    assert tree.solved and tree.proof == "checked" and tree.trace
    stored = {record.key: record for record in Store(folder).read()}
    assert stored == {record.key: record for record in records}


def test_finished_runs_are_not_repeated(undisturbed: tuple[Path, list[Record]]) -> None:
    folder, records = undisturbed
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}
    with executor("process", 1) as pool:
        assert run(_jobs(), folder, pool) == records
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")} == before


def test_other_limits_are_another_run(undisturbed: tuple[Path, list[Record]]) -> None:
    folder, _ = undisturbed
    store = Store(folder)
    assert all(job in store for job in _jobs())
    assert not any(job in store for job in _jobs(seconds=21.0))
    moved = replace(_jobs()[0], data="/somewhere/else")
    assert moved.key == _jobs()[0].key, "where the data lie does not matter"


def test_a_killed_runner_loses_no_finished_run_and_resumes_to_the_same_records(
    undisturbed: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    words = ["bench", "run", "layerwise", "--solvers", ",".join(SOLVERS), "--seconds", "20", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mipprune", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = {file.name: file.read_bytes() for file in tmp_path.rglob("*.parquet")}
    assert len(finished) >= 2
    with executor("process", 1) as pool:
        records = run(_jobs(), tmp_path, pool)
    for name, content in finished.items():
        assert (tmp_path / "records" / name).read_bytes() == content, "a finished run was repeated"
    assert [_timeless(record) for record in records] == [_timeless(record) for record in undisturbed[1]]


def test_a_run_over_its_time_is_ended_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mipprune.bench.supervisor._GRACE", -19.9)  # 2 x 10 s - 19.9 s: no time even to start
    worker = Worker()
    job = replace(_jobs()[0], seconds=10.0)
    record = worker.run(job)
    assert record.outcome == Outcome.ENDED and "over the time limit" in record.reason
    monkeypatch.setattr("mipprune.bench.supervisor._GRACE", 60.0)
    assert worker.run(job).outcome == Outcome.FINISHED
    worker.close()


def test_a_run_over_its_memory_is_ended() -> None:
    worker = Worker()
    record = worker.run(replace(_jobs()[0], memory_gib=0.01))
    worker.close()
    assert record.outcome == Outcome.ENDED and "memory limit" in record.reason


def test_a_worker_that_dies_is_a_record_and_not_an_error() -> None:
    worker = Worker()
    worker.run(_jobs()[0])
    process = worker._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)  # it will not answer, and is gone while we wait
    from threading import Timer

    Timer(0.5, process.kill).start()
    record = worker.run(_jobs()[1])
    assert record.outcome == Outcome.ENDED and "ended by itself" in record.reason
    assert worker.run(_jobs()[1]).outcome == Outcome.FINISHED
    worker.close()


def test_rejections_and_failures_are_recorded_with_their_reason(tmp_path: Path) -> None:
    jobs = [
        Job("layerwise", {"inputs": 8, "outputs": 1, "structure": "2:4"}, 0, "sparsegpt"),
        Job("layerwise", {"inputs": 9, "outputs": 1, "structure": "2:4"}, 0, "wanda"),
        Job("layerwise", {"inputs": 8, "outputs": 1, "structure": "2:4"}, 0, "highs"),
    ]
    with executor("process", 1) as pool:
        records = run(jobs, tmp_path, pool)
    assert records[0].outcome == Outcome.FINISHED
    assert records[1].outcome == Outcome.FAILED and "InvalidProblem" in records[1].reason
    with executor("process", 1) as pool:
        again = run(jobs, tmp_path, pool, repeat_failed=True)
    assert [record.outcome for record in again] == [record.outcome for record in records]


def test_a_heuristic_can_be_certified(tmp_path: Path) -> None:
    job = Job("layerwise", {"inputs": 16, "outputs": 1, "structure": "2:4"}, 0, "certified:admm", seconds=20.0)
    with executor("process", 1) as pool:
        (record,) = run([job], tmp_path, pool)
    assert record.proof == "checked" and record.gap is not None and record.gap < 0.3


def test_the_same_runs_on_a_dask_cluster_even_when_a_worker_is_killed(
    undisturbed: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed", reason="install mipprune[distributed]")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, processes=True
        ) as cluster,
        executor("dask", 1, cluster.scheduler_address) as pool,
    ):
        killed: list[int] = []

        def kill_one(done: int, _: int, record: Record | None) -> None:
            if done == 1 and not killed:
                worker = next(iter(cluster.workers.values()))
                killed.append(worker.process.pid)
                os.kill(worker.process.pid, signal.SIGKILL)

        records = run(_jobs(), tmp_path, pool, advance=kill_one)
    assert killed, "no worker was killed: the test proved nothing"
    assert [_timeless(record) for record in records] == [_timeless(record) for record in undisturbed[1]]


def test_records_survive_the_way_to_disk_and_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(InvalidProblem, match="no records"):
        store.read()
    record = Record(
        key="k",
        family="f",
        instance="i",
        solver="s",
        value=1.5,
        trace=((0.1, None, None), (0.2, 2.0, None), (0.3, 1.5, 1.0)),
        faults=("a", "b"),
        machine=json.dumps({"cores": 2}),
        size=1.0,
        seconds_limit=1.0,
        gap_limit=0.0,
    )
    store.write(record)
    assert store.read() == [record]
    (tmp_path / "records" / "k.parquet").write_bytes(b"half a file")
    with pytest.raises(MippruneError, match="remove it and run again"):
        store.read()


def test_unknown_names_are_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidProblem, match="there are layerwise"):
        expand("nothing")
    with pytest.raises(InvalidProblem, match="no suite 'huge'"):
        expand("layerwise:huge")
    with pytest.raises(InvalidProblem, match="no family of 'layerwise' has a solver 'x'"):
        expand("layerwise", solvers=["x"])
    with pytest.raises(InvalidProblem, match="seeds"):
        expand("layerwise", seeds=0)
    with pytest.raises(InvalidProblem, match="executor"), executor("magic", 1):
        pass
