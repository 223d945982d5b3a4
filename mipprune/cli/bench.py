"""`mipprune bench`: run solvers over families of instances, judge them, draw the picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mipprune import bench as suite
from mipprune.bench.certified import CERTIFY_HEADERS, certify_rows
from mipprune.bench.jobs import CERTIFIED
from mipprune.bench.runner import EXECUTORS
from mipprune.bench.summary import SUMMARY_HEADERS, summarise
from mipprune.cli.console import progress_bar, show_table
from mipprune.cli.options import debug_option
from mipprune.errors import CertificateError, InvalidProblem

__all__ = ["bench"]

_PATH = click.Path(path_type=Path)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_OUT = Path("bench-results")

_Command = Callable[..., Any]


@click.group()
def bench() -> None:
    """Compare solvers over families of instances; every answer is judged by the problem itself."""


def _running(command: _Command) -> _Command:
    """Add the options that say how runs are made."""
    for option in reversed(
        (
            click.option("--seconds", default=60.0, show_default=True, help="Limit of each run."),
            click.option("--gap", default=1e-4, show_default=True, help="Relative gap at which a run is solved."),
            click.option("--seeds", default=1, show_default=True, help="Seeds 0, 1, ... of each instance."),
            click.option("--threads", default=1, show_default=True, help="Threads of each run."),
            click.option("--memory", default=16.0, show_default=True, help="GiB at which a run is ended."),
            click.option("--jobs", default=1, show_default=True, help="Runs at a time; more disturb each other."),
            click.option("--executor", type=click.Choice(EXECUTORS), default="process", show_default=True),
            click.option("--scheduler", metavar="ADDRESS", help="A running dask scheduler, for --executor dask."),
            click.option(
                "--peer-python",
                "pythons",
                metavar="NAME=PYTHON",
                multiple=True,
                help="Interpreter of an environment that has the peer NAME (l0bnb, el0ps, abess, skglm, imodels).",
            ),
            click.option("--data", type=_FOLDER, help="Folder of real data for the suite `real` (or FAMILY:real)."),
            click.option("--out", type=_FOLDER, default=_OUT, show_default=True, help="Folder of the records."),
        )
    ):
        command = option(command)
    return command


@bench.command()
@click.argument("suite_name", metavar="SUITE", default="quick")
@click.option(
    "--solvers",
    default="",
    help="Names, separated by commas; default all of the family. `certified:NAME` certifies a heuristic's point.",
)
@_running
@click.option("--repeat-failed", is_flag=True, help="Also run again what failed or was ended.")
@debug_option
def run(suite_name: str, solvers: str, repeat_failed: bool, out: Path, **options: Any) -> None:
    """Run a SUITE: a family (layerwise, transposable_masks, ...), FAMILY:full, FAMILY:real, quick, full or real.

    The suite `real` is made of data sets that come with scikit-learn, and of the files in the folder given by --data.

    Finished runs are never repeated: the same command goes on after an interrupt, a crash or a kill.
    """
    jobs = _jobs(suite_name, _names(solvers), options)
    records = _perform(jobs, out, options, repeat_failed)
    _show(records)
    page = suite.html(records, out / "report.html", title=f"Benchmark {suite_name}", known=suite.known_optima())
    click.echo(f"records: {out / 'records'}   report: {page}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _jobs(suite_name: str, solvers: list[str], options: dict[str, Any]) -> list[suite.Job]:
    pythons = [text.partition("=") for text in options["pythons"]]
    for name, equals, python in pythons:
        if not (name and equals and python):
            raise InvalidProblem(f"--peer-python {name + equals + python!r}: write NAME=PYTHON")
    suite.choose_pythons({name: python for name, _, python in pythons})
    return suite.expand(
        suite_name,
        solvers=solvers,
        seeds=options["seeds"],
        seconds=options["seconds"],
        gap=options["gap"],
        threads=options["threads"],
        memory_gib=options["memory"],
        data=options["data"],
    )


def _perform(
    jobs: list[suite.Job], out: Path, options: dict[str, Any], repeat_failed: bool = False
) -> list[suite.Record]:
    with (
        suite.executor(options["executor"], options["jobs"], options["scheduler"]) as pool,
        progress_bar("runs", len(jobs)) as bar,
    ):

        def advance(done: int, _: int, record: suite.Record | None) -> None:
            bar(done, "" if record is None else f"{record.family} {record.instance}: {record.solver} {record.outcome}")

        return suite.run(jobs, out, pool, advance=advance, repeat_failed=repeat_failed)


def _show(records: list[suite.Record]) -> None:
    known = suite.known_optima()
    for name in dict.fromkeys(record.family for record in records):
        lines = summarise([record for record in records if record.family == name], known)
        show_table(SUMMARY_HEADERS, [line.cells() for line in lines], title=name)
        for line in lines:
            if line.skipped:
                click.echo(f"  {line.solver} took no part: {line.skipped}")
    for fault in suite.find_faults(records, known):
        click.echo(f"WRONG CLAIM: {fault}", err=True)


@bench.command()
@click.argument("folder", type=_PATH, default=_OUT)
@click.option("--html", "page", type=_PATH, help="The page; default FOLDER/report.html.")
@click.option("--markdown", type=_PATH, help="Also write the summary tables as Markdown.")
@click.option("--csv", "table", type=_PATH, help="Also write one line per run.")
@click.option("--parquet", "packed", type=_PATH, help="Also write all records into one file.")
@click.option("--title", default="Benchmark", show_default=True)
@debug_option
def report(
    folder: Path, page: Path | None, markdown: Path | None, table: Path | None, packed: Path | None, title: str
) -> None:
    """Draw the page of a FOLDER of records (or of one parquet file): tables that sort, plots, every wrong claim."""
    records = suite.Store(folder).read()
    known = suite.known_optima()
    beside = folder.with_suffix(".html") if folder.is_file() else folder / "report.html"
    written = [suite.html(records, page or beside, title=title, known=known)]
    if packed is not None:
        written.append(suite.pack(records, packed))
    if markdown is not None:
        markdown.write_text(suite.markdown(records, known), encoding="utf-8")
        written.append(markdown)
    if table is not None:
        written.append(suite.csv(records, table))
    click.echo("wrote " + ", ".join(str(file) for file in written))


@bench.command()
@click.argument("old", type=_PATH)
@click.argument("new", type=_PATH)
@debug_option
def compare(old: Path, new: Path) -> None:
    """Compare two folders (or files) of records run by run; the exit code is 1 when anything got slower, worse or lost.

    Ratios are new over old: geometric mean with its 95 % bootstrap interval; a star marks those that Wilcoxon's
    signed-rank test confirms at 5 %.
    """
    changes = suite.compare(suite.Store(old).read(), suite.Store(new).read())
    if not changes:
        raise InvalidProblem(
            f"{str(old)!r} and {str(new)!r} have no run in common; run the same suite with the same limits"
        )
    rows = [
        (
            change.family,
            change.solver,
            str(change.seconds.pairs),
            *(_ratio(pair) for pair in (change.seconds, change.gaps, change.memory)),
            str(len(change.gained)),
            str(len(change.lost)),
        )
        for change in changes
    ]
    headers = ("family", "solver", "runs", "time ratio", "gap ratio", "memory ratio", "newly solved", "lost")
    show_table(headers, rows, left=(0, 1))
    worse = [change for change in changes if change.regression]
    for change in worse:
        lost = f"; lost {', '.join(change.lost)}" if change.lost else ""
        click.echo(f"REGRESSION: {change.solver} on {change.family}{lost}", err=True)
    if worse:
        raise click.exceptions.Exit(1)


def _ratio(pair: Any) -> str:
    if not pair.pairs:
        return "-"
    return f"{pair.ratio:.3g} [{pair.low:.3g}, {pair.high:.3g}]{'*' if pair.significant else ''}"


@bench.command()
@click.argument("family")
@click.option("--solvers", required=True, help="Heuristics, separated by commas.")
@click.option("--suite", "suite_name", default="quick", show_default=True, help="Which suite of the family.")
@click.option("--size", "sizes", multiple=True, type=float, help="Only instances of this size; may be repeated.")
@_running
@debug_option
def certify(family: str, solvers: str, suite_name: str, sizes: tuple[float, ...], out: Path, **options: Any) -> None:
    """Say how far heuristics are from optimal on a FAMILY, with bounds that are checked.

    Each heuristic's point is certified in the time that is left; the best checked bound of an instance counts for all.
    """
    names = [name if name.startswith(CERTIFIED) else CERTIFIED + name for name in _names(solvers)]
    jobs = _jobs(f"{family}:{suite_name}", names, options)
    size = suite.families.find(family).size
    jobs = [job for job in jobs if not sizes or float(job.parameters.get(size, math.nan)) in sizes]
    if not jobs:
        raise InvalidProblem(f"{family}:{suite_name} has no instance with {size} in {', '.join(map(str, sizes))}")
    records = _perform(jobs, out, options)
    show_table(CERTIFY_HEADERS, certify_rows(records), left=(0,))
    page = suite.html(records, out / "report.html", title=f"How far from optimal: {family}")
    click.echo(f"report: {page} (plot: gap against size)")


@bench.command()
@click.argument("names", nargs=-1)
@click.option("--seconds", default=60.0, show_default=True, help="Limit of each proof.")
@debug_option
def verify(names: tuple[str, ...], seconds: float) -> None:
    """Prove the optima of the instance library again (all, or the named families and instances)."""
    wrong = []
    rows = []
    with progress_bar("proven", None) as bar:
        for number, (entry, fault) in enumerate(suite.verify(names, seconds=seconds), start=1):
            rows.append((entry.name, f"{entry.optimum:.10g}", "holds" if fault is None else "WRONG"))
            wrong += [] if fault is None else [f"{entry.name}: {fault}"]
            bar(number, entry.name)
    show_table(("instance", "optimum", "verdict"), rows)
    if wrong:
        raise CertificateError("; ".join(wrong))


@bench.command()
@click.argument("folder", type=_FOLDER)
@click.argument("names", nargs=-1)
@click.option("--format", "suffix", type=click.Choice(["mps", "lp", "cip"]), default="cip", show_default=True)
@debug_option
def export(folder: Path, names: tuple[str, ...], suffix: str) -> None:
    """Write the instance library into a FOLDER as models for other solvers, with a .solu file of the optima."""
    written = suite.export(folder, names, f".{suffix}")
    click.echo(f"wrote {len(written) - 1} models and {written[-1]}")
