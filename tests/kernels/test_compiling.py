"""Compiled kernels: kept from process to process, and not beyond a change of any kernel they may have inlined."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest

import mipprune as mp
from mipprune.core.solver import Watch
from mipprune.kernels import compiling

pytest.importorskip("numba")


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("kernel_for_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.double


def test_a_change_of_another_kernel_compiles_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kernel_for_test.py"
    path.write_text(
        "from mipprune.kernels.compiling import compiled_if_possible\n\n\n"
        "@compiled_if_possible()\ndef double(x):\n    return 2 * x\n"
    )
    hits = []
    for digest in ("one", "one", "two", "two"):
        monkeypatch.setattr(compiling, "_sources", lambda digest=digest: digest)
        double = load(path)
        assert double(3) == 6
        hits.append(sum(double.stats.cache_hits.values()))
    assert hits == [0, 1, 0, 1]


def test_compiling_does_not_count_towards_limits() -> None:
    from numba import njit

    compiling.compiled_if_possible()
    watch = Watch(mp.Budget(seconds=0.05))
    began, before = time.perf_counter(), compiling.compiling_seconds()
    for number in range(2, 6):
        assert njit(lambda x, number=number: x**number)(2) == 2**number
    took, compiled = time.perf_counter() - began, compiling.compiling_seconds() - before
    assert 0.05 < compiled <= took
    assert watch.seconds == pytest.approx(took - compiled, abs=0.05)
    assert watch.remaining > 0 or took - compiled > 0.05
