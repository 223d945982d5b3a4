"""`mipprune bench` from end to end, as a user types it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mipprune.bench import Store
from mipprune.cli import entry
from tests.bench.records import made


def _call(*words: str) -> Result:
    return CliRunner().invoke(entry.cli, ["bench", *words], catch_exceptions=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench")
    done = _call("run", "layerwise", "--solvers", "tree,wanda,sparsegpt", "--seconds", "20", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "tree" in done.output and "100 %" in done.output
    return out


def test_run_leaves_records_and_a_page(folder: Path) -> None:
    assert len(Store(folder).read()) == 12
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h1>Benchmark layerwise</h1>" in page and "Plotly" in page


def test_report_writes_markdown_and_csv(folder: Path, tmp_path: Path) -> None:
    words = ["--html", tmp_path / "p.html", "--markdown", tmp_path / "t.md", "--csv", tmp_path / "runs.csv"]
    words += ["--parquet", tmp_path / "all.parquet"]
    done = _call("report", str(folder), *map(str, words), "--title", "Mine")
    assert done.exit_code == 0, done.output
    assert "Mine" in (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "### Layer-wise pruning" in (tmp_path / "t.md").read_text()
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 13
    assert Store(tmp_path / "all.parquet").read() == Store(folder).read()
    assert _call("report", str(tmp_path / "all.parquet")).exit_code == 0
    assert (tmp_path / "all.html").is_file()


def test_compare_says_what_got_worse_and_ends_with_1(tmp_path: Path) -> None:
    for name, factor in (("old", 1.0), ("new", 2.0)):
        for record in made(factor):
            Store(tmp_path / name).write(record)
    same = _call("compare", str(tmp_path / "old"), str(tmp_path / "old"))
    assert same.exit_code == 0 and "REGRESSION" not in same.output
    worse = _call("compare", str(tmp_path / "old"), str(tmp_path / "new"))
    assert worse.exit_code == 1 and "REGRESSION: tree on layerwise" in worse.output
    assert re.search(r"2 \[", worse.output)


def test_certify_answers_how_far_a_heuristic_is_from_the_optimum(tmp_path: Path) -> None:
    words = ["layerwise", "--solvers", "wanda", "--size", "16", "--seconds", "20", "--out", str(tmp_path)]
    done = _call("certify", *words)
    assert done.exit_code == 0, done.output
    assert re.search(r"wanda\s+16\s+2\s+\d", done.output)
    none = _call("certify", "layerwise", "--solvers", "wanda", "--size", "17", "--out", str(tmp_path))
    assert "has no instance with inputs" in str(none.exception)


@pytest.mark.exact
def test_verify_and_export_name_what_they_did(tmp_path: Path) -> None:
    done = _call("verify", "layerwise-inputs12-outputs1-structure0.5-s0")
    assert done.exit_code == 0 and "holds" in done.output
    done = _call("export", str(tmp_path), "layerwise", "--format", "cip")
    assert done.exit_code == 0
    assert len(list(tmp_path.glob("*.cip"))) == len((tmp_path / "library.solu").read_text().splitlines())


def test_mistakes_are_answered_in_a_sentence(tmp_path: Path) -> None:
    for words, message in (
        (("run", "nothing"), "there is no family 'nothing'"),
        (("run", "layerwise", "--solvers", "x"), "has a solver 'x'"),
        (("report", str(tmp_path)), "holds no records"),
        (("compare", str(tmp_path), str(tmp_path)), "holds no records"),
        (("verify", "nothing"), "nothing named nothing"),
    ):
        done = _call(*words)
        assert done.exit_code != 0
        assert message in str(done.exception), words
