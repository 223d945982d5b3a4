"""The page, the tables and the comparison: what they say is what the records say."""

from __future__ import annotations

import csv as csv_module
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mipprune.bench import compare, csv, find_faults, frame, html, markdown
from mipprune.bench.certified import certify_rows, distances
from mipprune.bench.figures import figures
from mipprune.bench.summary import summarise
from mipprune.errors import InvalidProblem
from tests.bench.records import made


def test_the_summary_counts_what_the_records_say() -> None:
    lines = {line.solver: line for line in summarise([r for r in made() if r.family == "layerwise"])}
    tree, quick, liar, peer, crash = (lines[name] for name in ("tree", "quick", "liar", "peer", "crash"))
    assert (tree.runs, tree.solved, tree.proof) == (8, 6, "checked")
    assert (quick.solved, quick.proof, quick.distance) == (0, "none", pytest.approx(0.1 / 1.1))
    assert (liar.solved, liar.faults) == (0, 8), "a wrong claim solves nothing"
    assert (peer.runs, peer.skipped) == (0, "not here")
    assert (crash.runs, crash.distance, crash.integral) == (8, 1.0, pytest.approx(10.0))
    assert tree.integral < quick.integral < crash.integral


def test_figures_are_finite_plain_data_for_every_title() -> None:
    drawn = figures([record for record in made() if record.family == "layerwise"])
    assert len(drawn) == 7
    json.dumps(drawn, allow_nan=False)
    profile = drawn["Performance profile: time to close the gap"]["data"]
    ends = {trace["name"]: trace["y"][-1] for trace in profile}
    assert ends == {"tree": 0.75, "quick": 0.0, "liar": 1.0, "crash": 0.0}
    assert figures([record for record in made() if record.solver == "peer"]) == {}


def test_markdown_and_csv_have_a_line_for_each(tmp_path: Path) -> None:
    text = markdown(made())
    assert text.count("| tree |") == 2 and "| peer |" not in text
    assert text.count("Took no part: peer (not here).") == 2
    assert text.count("- wrong claim: liar") == len(find_faults(made()))
    with csv(made(), tmp_path / "runs.csv").open() as lines:
        rows = list(csv_module.DictReader(lines))
    assert len(rows) == len(made()) and rows[0]["solved"] == "True"
    assert set(frame(made()).columns) >= {"gap", "proof", "solved", "value"}


def test_the_comparison_finds_the_slowdown_and_the_lost_instances() -> None:
    assert not any(change.regression for change in compare(made(), made()))
    slower = {(c.family, c.solver): c for c in compare(made(), made(2.0))}
    tree = slower["layerwise", "tree"]
    assert tree.regression and tree.seconds.ratio == pytest.approx(2.0, rel=1e-3)
    assert ("layerwise", "peer") not in slower
    lost = [record for record in made() if not (record.solver == "tree" and record.checked_bound == 1.0)]
    from dataclasses import replace

    worse = [replace(r, checked_bound=0.5) if r.solver == "tree" else r for r in made()]
    change = next(c for c in compare(made(), worse) if c.solver == "tree")
    assert change.regression and len(change.lost) == 6 and change.gained == ()
    assert all(c.solver != "tree" or not c.lost for c in compare(lost, lost))


def test_distances_use_the_best_checked_bound_of_an_instance() -> None:
    records = [record for record in made() if record.family == "layerwise" and record.solver in ("tree", "quick")]
    found = distances(records)
    assert found["quick", 10.0] == [pytest.approx(0.1 / 1.1)]
    assert found["tree", 80.0] == [pytest.approx(0.1)]
    assert ("tree", "10", "1", "0.00 %", "0.00 %", "1") in certify_rows(records)
    unbounded = distances([record for record in records if record.solver == "quick"])
    assert unbounded["quick", 10.0] == [float("inf")]


def test_a_page_needs_records(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblem, match="no records"):
        html([], tmp_path / "page.html")


def test_the_page_is_whole_and_quotes_what_it_shows(tmp_path: Path) -> None:
    text = html(made(), tmp_path / "page.html", title="A <b> & c").read_text(encoding="utf-8")
    assert "A &lt;b&gt; &amp; c" in text
    assert "size=10 &lt;0&gt;" in text
    assert text.count('<select class="plots"') == 2
    assert "not here" in text and "liar" in text
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="http', text), "nothing is fetched"


_PROBE = """
<script>
window.problems = [];
window.addEventListener("error", event => problems.push("error: " + event.message));
window.addEventListener("unhandledrejection", event => problems.push("rejection: " + event.reason));
for (const kind of ["error", "warn"]) {
  const before = console[kind];
  console[kind] = (...words) => { problems.push(kind + ": " + words.join(" ")); before(...words); };
}
window.addEventListener("load", () => setTimeout(() => {
  const found = {};
  const tables = [...document.querySelectorAll("table")];
  const runs = tables.find(table => [...table.tHead.rows[0].cells].some(cell => cell.textContent === "seconds"));
  const column = [...runs.tHead.rows[0].cells].findIndex(cell => cell.textContent === "seconds");
  const read = () => [...runs.tBodies[0].rows].map(row => row.cells[column].textContent);
  found.before = read();
  runs.tHead.rows[0].cells[column].click();
  found.up = read();
  runs.tHead.rows[0].cells[column].click();
  found.down = read();
  found.plots = [];
  const choice = document.querySelector("select.plots");
  const target = document.getElementById(choice.dataset.target);
  for (const option of choice.options) {
    choice.value = option.value;
    choice.dispatchEvent(new Event("change"));
    found.plots.push([option.value, target.dataset.shown, target.querySelectorAll("svg.main-svg").length,
      (target.data || []).length]);
  }
  found.problems = window.problems;
  const result = document.createElement("pre");
  result.id = "probe";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
}, 300));
</script>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium or Chrome is installed; .ci/run installs one where it may")


def test_a_browser_sorts_a_table_and_switches_plots_without_an_error(browser: str, tmp_path: Path) -> None:
    page = html(made(), tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    probed.write_text(text.replace("<head>", "<head>" + _PROBE, 1), encoding="utf-8")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    words += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    words += ["--virtual-time-budget=20000", "--dump-dom", probed.as_uri()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert match, done.stderr[-2000:]
    found = json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["problems"] == []

    def numbers(cells: list[str]) -> list[float]:
        return [float("-inf") if cell == "-" else float(cell) for cell in cells]

    assert numbers(found["up"]) == sorted(numbers(found["before"]))
    assert numbers(found["down"]) == sorted(numbers(found["before"]), reverse=True)
    assert numbers(found["before"]) != numbers(found["up"]), "the table was sorted already: the test proved nothing"
    assert len(found["plots"]) == 7
    for title, shown, drawings, traces in found["plots"]:
        assert title == shown and drawings > 0 and traces > 0
