"""`mipprune check`: re-verify every certificate from the stored problems, without any solver."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from mipprune.cli.console import progress_bar, show_table
from mipprune.cli.options import debug_option
from mipprune.core.solution import Checked
from mipprune.core.solution import check as check_solution
from mipprune.errors import CertificateError, InvalidProblem
from mipprune.io import Entry, load
from mipprune.networks.budget_job import STATE_FILE
from mipprune.networks.job import CERTIFICATES
from mipprune.networks.report import LayerRow, Report
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
    folders = [_Folder(path) for path in paths]
    found = [(folder, file) for folder in folders for file in _files(folder.path)]
    rows: list[tuple[str, ...]] = []
    faults: list[str] = []
    with progress_bar("checked", len(found)) as advance:
        for number, (folder, file) in enumerate(found, start=1):
            rows += _check_file(file, exact, folder, faults)
            advance(number, file.name)
    faults += [fault for folder in folders for fault in folder.incomplete()]
    show_table(("solution", "value", "bound", "gap", "proof", "verdict"), rows, left=(0,))
    if faults:
        _shout(faults)
    count, proven = len(rows), sum(row[4] == "checked" for row in rows)
    click.echo(
        f"{count} solution{'s' * (count != 1)} hold, {proven} with a proven bound; recomputed from the stored problems "
        f"in {time.perf_counter() - started:.1f} s without any solver."
    )
    for folder in folders:
        if folder.compared:
            click.echo(
                f"The network saved in {str(folder.path)!r} has the certified weights in {folder.compared} layers."
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


def _check_file(file: Path, exact: bool, folder: _Folder, faults: list[str]) -> list[tuple[str, ...]]:
    """Rows of the table for one file; what does not hold is added to the faults."""
    try:
        loaded = load(file)
    except CertificateError as error:
        faults.append(str(error))
        return [(file.stem, "-", "-", "-", "-", "ALTERED")]
    rows = []
    for name, entry in loaded.items():
        try:
            rows.append(_row(name, check_solution(entry.problem, entry.solution, exact=exact), entry))
        except CertificateError as error:
            faults.append(f"{str(file)!r}, {name!r}: {error}")
            rows.append((name, "-", "-", "-", "-", "ALTERED"))
        faults += folder.compare(name, entry)
    return rows


def _row(name: str, checked: Checked, entry: Entry) -> tuple[str, ...]:
    bound = "-" if checked.bound is None else f"{checked.bound:.6g}"
    gap = "-" if checked.gap is None else f"{100 * checked.gap:.2f} %"
    return (name, f"{checked.value:.6g}", bound, gap, entry.solution.proof.value, "holds")


class _Folder:
    """What else the folder of a pruning job holds: its description, its report, the saved network."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.compared = 0
        self._faults: list[str] = []
        self._planned: set[str] | None = None
        self._rows: dict[str, LayerRow] = {}
        self._seen: set[str] = set()
        self._weights = StoredWeights(path) if (path / "job.json").is_file() else None
        if self._weights is None:
            return
        try:
            self._planned = set(json.loads((path / "job.json").read_text(encoding="utf-8"))["layers"])
            if (path / "report.json").is_file():
                report = Report.from_json((path / "report.json").read_text(encoding="utf-8"))
                self._rows = {row.layer: row for row in report.rows}
        except (ValueError, KeyError, TypeError) as error:
            self._faults.append(f"{str(path)!r}: job.json or report.json was altered ({error})")

    def compare(self, name: str, entry: Entry) -> Iterator[str]:
        """Yield what differs between a layer's certificate and the rest of the folder."""
        self._seen.add(name)
        if "parameters" in entry.info:
            yield from self._compare_network(entry)
            return
        if self._weights is None:
            return
        if self._planned is not None and name not in self._planned:
            yield f"{str(self.path)!r}: there is a certificate for {name!r}, which the job is not about"
        stored: dict[str, Any] = entry.info["row"]
        for key, value in self._rows[name].to_dict().items() if name in self._rows else ():
            if stored.get(key) != value:
                yield f"report.json: {key} of layer {name!r} is {value!r}, certified {stored.get(key)!r}"
                break
        equal = self._weights.holds(name, entry)
        if equal is False:
            yield f"{str(self.path)!r}: the saved network does not have the certified weights in layer {name!r}"
        self.compared += equal is True

    def _compare_network(self, entry: Entry) -> Iterator[str]:
        """Yield what differs between the certificate of a whole network and the rest of the folder."""
        if not (self.path / STATE_FILE).is_file():
            return
        equal = StoredWeights(self.path).holds_vector(entry)
        if equal is None:
            yield f"{str(self.path)!r}: the saved network does not have the certified weights"
        self.compared += equal or 0
        try:
            report = json.loads((self.path / "report.json").read_text(encoding="utf-8"))
            value = report["stages"][-1]["value"]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, IndexError) as error:
            yield f"{str(self.path)!r}: report.json was altered ({error})"
            return
        if value != entry.solution.value:
            yield f"report.json: the value of the last stage is {value!r}, certified {entry.solution.value!r}"

    def incomplete(self) -> list[str]:
        """Return what was wrong from the start, and the layers of the report that have no certificate."""
        missing = [name for name in self._rows if name not in self._seen]
        return [*self._faults, *(f"report.json: layer {name!r} has no intact certificate" for name in missing)]


def _shout(faults: Sequence[str]) -> None:
    bar = "!" * 72
    click.echo(bar, err=True)
    click.echo(f"{len(faults)} CHECK{'S' * (len(faults) != 1)} FAILED", err=True)
    for fault in faults:
        click.echo(f"  {fault}", err=True)
    click.echo(bar, err=True)
    raise click.exceptions.Exit(1)
