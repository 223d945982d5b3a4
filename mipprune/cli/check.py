"""`mipprune check`: re-verify every certificate from the stored problems, without any solver."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mipprune.cli.console import progress_bar, show_table
from mipprune.cli.options import debug_option
from mipprune.core.solution import Checked
from mipprune.core.solution import check as check_solution
from mipprune.errors import CertificateError, InvalidProblem
from mipprune.io import Entry, load
from mipprune.networks.job import CERTIFICATES
from mipprune.networks.report import Report
from mipprune.networks.stored import StoredWeights

__all__ = ["check"]

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("paths", nargs=-1, required=True, type=_PATH)
@click.option("--exact", is_flag=True, help="Evaluate in rational arithmetic (small problems only).")
@click.option("--import", "modules", multiple=True, metavar="MODULE", help="Import the module of your own structures.")
@debug_option
def check(paths: Sequence[Path], exact: bool, modules: Sequence[str]) -> None:
    """Re-check files of certificates, or folders that `mipprune prune` or `mipprune demo` wrote.

    Every value and bound is recomputed from the problem stored with it; no solver is involved. In the folder of a
    pruning job the report and the weights of the saved network are compared too. The exit code is 1 when anything
    differs.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InvalidProblem(f"--import {module}: {error}") from error
    started = time.perf_counter()
    found = [(path, file) for path in paths for file in _files(path)]
    rows: list[tuple[str, ...]] = []
    faults: list[str] = []
    entries: dict[Path, dict[str, Entry]] = {path: {} for path in paths}
    with progress_bar("checked", len(found)) as advance:
        for number, (path, file) in enumerate(found, start=1):
            rows += _check_file(file, exact, entries[path], faults)
            advance(number, file.name)
    for path in paths:
        faults += _check_job(path, entries[path])
    show_table(("solution", "value", "bound", "gap", "proof", "verdict"), rows, left=(0,))
    if faults:
        _shout(faults)
    count = len(rows)
    proven = sum(row[4] == "checked" for row in rows)
    click.echo(
        f"{count} solution{'s' * (count != 1)} hold, {proven} with a proven bound; recomputed from the stored problems "
        f"in {time.perf_counter() - started:.1f} s without any solver."
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidProblem(f"there is no file or folder {str(path)!r}; check the path")
    folder = path / CERTIFICATES if (path / CERTIFICATES).is_dir() else path
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InvalidProblem(f"{str(folder)!r} holds no certificates (*.safetensors); nothing was checked")
    return files


def _check_file(file: Path, exact: bool, entries: dict[str, Entry], faults: list[str]) -> list[tuple[str, ...]]:
    """Rows of the table for one file; what does not hold is added to the faults."""
    try:
        loaded = load(file)
    except CertificateError as error:
        faults.append(str(error))
        return [(file.stem, "-", "-", "-", "-", "ALTERED")]
    rows = []
    for name, entry in loaded.items():
        entries[name] = entry
        try:
            rows.append(_row(name, check_solution(entry.problem, entry.solution, exact=exact), entry))
        except CertificateError as error:
            faults.append(f"{str(file)!r}, {name!r}: {error}")
            rows.append((name, "-", "-", "-", "-", "ALTERED"))
    return rows


def _row(name: str, checked: Checked, entry: Entry) -> tuple[str, ...]:
    bound = "-" if checked.bound is None else f"{checked.bound:.6g}"
    gap = "-" if checked.gap is None else f"{100 * checked.gap:.2f} %"
    return (name, f"{checked.value:.6g}", bound, gap, entry.solution.proof.value, "holds")


def _check_job(path: Path, entries: dict[str, Entry]) -> list[str]:
    """What differs between the certificates of a job and its description, its report and its saved network."""
    if not (path / "job.json").is_file():
        return []
    faults = []
    try:
        planned = set(json.loads((path / "job.json").read_text(encoding="utf-8"))["layers"])
    except (ValueError, KeyError, TypeError) as error:
        return [f"{str(path / 'job.json')!r} was altered ({error})"]
    if foreign := sorted(set(entries) - planned):
        faults.append(f"{str(path)!r}: certificates of layers that the job is not about: {', '.join(foreign)}")
    if (path / "report.json").is_file():
        faults += _check_report(path / "report.json", entries)
    weights = StoredWeights(path)
    for name, entry in entries.items():
        if (fault := weights.fault(name, entry)) is not None:
            faults.append(fault)
    return faults


def _check_report(file: Path, entries: dict[str, Entry]) -> list[str]:
    try:
        report = Report.from_json(file.read_text(encoding="utf-8"))
    except InvalidProblem as error:
        return [f"{str(file)!r} was altered: {error}"]
    faults = []
    for row in report.rows:
        entry = entries.get(row.layer)
        if entry is None:
            faults.append(f"{str(file)!r}: layer {row.layer!r} has no intact certificate")
            continue
        stored: dict[str, Any] = entry.info["row"]
        for key, value in row.to_dict().items():
            if stored.get(key) != value:
                faults.append(
                    f"{str(file)!r}: {key} of layer {row.layer!r} is {value!r}, certified {stored.get(key)!r}"
                )
                break
    return faults


def _shout(faults: Sequence[str]) -> None:
    bar = "!" * 72
    click.echo(bar, err=True)
    click.echo(f"{len(faults)} CHECK{'S' * (len(faults) != 1)} FAILED", err=True)
    for fault in faults:
        click.echo(f"  {fault}", err=True)
    click.echo(bar, err=True)
    raise click.exceptions.Exit(1)
