"""Compiled kernels: kept from process to process, and not beyond a change of any kernel they may have inlined."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

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
