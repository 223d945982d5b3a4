"""The report of a benchmark: one self-contained page, Markdown tables, a CSV file."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from .. import page
from ..errors import InvalidProblem
from ..io import write_atomically
from . import families
from .faults import Fault, find_faults
from .figures import figures
from .records import Outcome, Record, frame
from .summary import RUN_HEADERS, SUMMARY_HEADERS, run_row, summarise

__all__ = ["csv", "html", "markdown"]

_NOTE = (
    "Values, violations and checked bounds are recomputed from the instance; a claimed bound is a solver's word. A run "
    "counts as solved when the gap between its value and its bound is within the limit. Times are those of the solver "
    "alone, after a run on a tiny instance that compiles what is compiled; means of times are shifted geometric ones "
    "(shift 1 s). To the time to solve an unsolved run adds its limit, so that a method without bounds always has the "
    "limit there. The primal integral uses the values that the solver reported while running."
)

_SCRIPT = """
<script>
const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
const rule = () => getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
const styled = layout => ({...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 440,
  font: {color: ink(), family: "system-ui, sans-serif", size: 13},
  xaxis: {...layout.xaxis, gridcolor: rule(), zerolinecolor: rule()},
  yaxis: {...layout.yaxis, gridcolor: rule(), zerolinecolor: rule()}});
for (const choice of document.querySelectorAll("select.plots")) {
  const figures = JSON.parse(document.getElementById(choice.dataset.figures).textContent);
  const target = document.getElementById(choice.dataset.target);
  const draw = () => {
    const figure = figures[choice.value];
    Plotly.react(target, figure.data, styled(figure.layout), {responsive: true, displaylogo: false});
    target.dataset.shown = choice.value;
  };
  choice.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
}
</script>
"""

_STYLE = """
<style>
select.plots { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line);
  border-radius: 6px; padding: 4px 8px; margin-bottom: 6px; max-width: 100%; }
.fault td { color: #c1504f; }
</style>
"""


def html(
    records: Sequence[Record], target: Path, *, title: str = "Benchmark", known: Mapping[str, float] | None = None
) -> Path:
    """Write one page that needs nothing but itself: summary tables, interactive plots, every run.

    Parameters
    ----------
    records : sequence of Record
    target : Path
    title : str
    known : mapping of str to float, optional
        Optima by fingerprint.

    Returns
    -------
    Path
        The page, about 5 MB, most of which is the plotting library.

    Raises
    ------
    InvalidProblem
        Without records, or without plotly.
    """
    if not records:
        raise InvalidProblem("there are no records to report")
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InvalidProblem("the page needs plotly: pip install 'mipprune[bench]'") from error
    faults = find_faults(records, known)
    sections = [_STYLE, _tiles(records, faults), _faults(faults)]
    for name, found in _by_family(records).items():
        sections += _family(name, found, known)
    sections += [_environment(records), f"<script>{get_plotlyjs()}</script>", _SCRIPT]
    write_atomically(target, page.document(title, sections).encode("utf-8"))
    return target


def _by_family(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record.family].append(record)
    return found


def _title(name: str) -> str:
    try:
        return families.find(name).title
    except InvalidProblem:  # records of a newer or older version
        return name


def _tiles(records: Sequence[Record], faults: Sequence[Fault]) -> str:
    runs = [record for record in records if record.outcome != Outcome.REJECTED]
    return page.tiles(
        [
            ("families", str(len({record.family for record in records}))),
            ("instances", str(len({(record.family, record.instance) for record in records}))),
            ("solvers", str(len({record.solver for record in runs}))),
            ("runs", str(len(runs))),
            ("solved", str(sum(record.solved for record in runs))),
            ("with a checked bound", str(sum(record.checked_bound is not None for record in runs))),
            ("wrong claims", str(len(faults))),
        ]
    )


def _faults(faults: Sequence[Fault]) -> str:
    if not faults:
        return page.section(
            "Wrong claims", '<p class="note">None: no answer contradicts its instance or another answer.</p>'
        )
    rows = [(fault.solver, fault.family, fault.instance, fault.what) for fault in faults]
    table = page.table(("solver", "family", "instance", "claim"), rows)
    return page.section("Wrong claims", f'<div class="fault">{table}</div>')


def _family(name: str, records: Sequence[Record], known: Mapping[str, float] | None) -> list[str]:
    lines = summarise(records, known)
    parts = [page.section(_title(name), page.table(SUMMARY_HEADERS, [line.cells() for line in lines]), _NOTE)]
    drawn = figures(records, known)
    if drawn:
        options = "".join(f"<option>{escape(title)}</option>" for title in drawn)
        data = json.dumps(drawn, allow_nan=False).replace("</", "<\\/")
        parts.append(
            f'<section><select class="plots" aria-label="Plot" data-figures="figures-{name}" '
            f'data-target="plot-{name}">{options}</select><div id="plot-{name}"></div>'
            f'<script type="application/json" id="figures-{name}">{data}</script></section>'
        )
    skipped = [(line.solver, line.skipped) for line in lines if line.skipped]
    if skipped:
        parts.append(
            page.section(f"{_title(name)}: solvers that took no part", page.table(("solver", "reason"), skipped))
        )
    rows = [run_row(record) for record in records if record.outcome != Outcome.REJECTED]
    parts.append(page.section(f"{_title(name)}: runs", page.table(RUN_HEADERS, rows)))
    return parts


def _environment(records: Sequence[Record]) -> str:
    rows = []
    for kind in ("machine", "versions"):
        for text in dict.fromkeys(getattr(record, kind) for record in records):
            described = ", ".join(f"{key} {value}" for key, value in json.loads(text).items())
            if described:
                rows.append((kind, described))
    return page.section("Machines and versions", page.table(("", "found"), rows))


def markdown(records: Sequence[Record], known: Mapping[str, float] | None = None) -> str:
    """Return the summary tables of all families as Markdown, and the wrong claims as a list.

    Parameters
    ----------
    records : sequence of Record
    known : mapping of str to float, optional
    """
    parts = []
    for name, found in _by_family(records).items():
        every = summarise(found, known)
        lines = [line for line in every if line.runs]
        parts += [f"### {_title(name)}", "", "| " + " | ".join(SUMMARY_HEADERS) + " |"]
        parts += ["| --- |" + " ---: |" * (len(SUMMARY_HEADERS) - 1)]
        parts += ["| " + " | ".join(line.cells()) + " |" for line in lines]
        parts.append("")
        absent = [f"{line.solver} ({line.skipped})" for line in every if not line.runs]
        parts += [f"Took no part: {'; '.join(absent)}.", ""] if absent else []
    faults = find_faults(records, known)
    parts += [f"- wrong claim: {fault}" for fault in faults]
    return "\n".join(parts).rstrip() + "\n"


def csv(records: Sequence[Record], target: Path) -> Path:
    """Write one line per run, without the traces, and return the file."""
    write_atomically(target, frame(records).to_csv(index=False).encode("utf-8"))
    return target
