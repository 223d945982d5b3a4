"""Records of benchmark runs: what was computed, on what, with which versions, in how many seconds.

A record is one JSON file. It is written after every result, so that an interrupted run loses at most the one in
progress, and a run that finds its record goes on where it stopped. Machines are described, never named.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mipprune.bench.machine import machine, versions

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
"""What is committed."""
OUTPUTS = ROOT / "outputs"
"""What quick runs leave behind; ignored by git."""


class Unavailable(Exception):
    """Data or a package that a benchmark needs are absent; the message says how to get them."""


def command(module: str, options: Mapping[str, object]) -> str:
    """Return the command that repeats a run; options that are paths must be given as placeholders."""
    words = [f"--{name} {value}" for name, value in options.items() if value is not None]
    return " ".join(["python -m", module, *words])


@dataclass
class Record:
    """Results of one benchmark on one instance.

    Parameters
    ----------
    name : str
        Name of the benchmark.
    title : str
        One line for people.
    instance : dict
        Everything that decides the results: data, sizes, seeds, settings. Plain data.
    columns : sequence of (key, heading, format)
        What the table of results shows; a key with dots reaches into nested results, the format is Python's.
    command : str
        What to type to repeat it.
    notes : sequence of str
        What a reader must know to read the table.
    results : list of dict
        One entry per run. Each carries the machine and the versions that it was computed with.
    """

    name: str
    title: str
    instance: dict[str, Any]
    columns: Sequence[tuple[str, str, str]]
    command: str
    notes: Sequence[str] = ()
    results: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, fresh: Record) -> Record:
        """Return what is stored under `path` if it is about the same instance, else the fresh record.

        Raises
        ------
        ValueError
            If the file holds results of another instance, which must not be mixed with new ones.
        """
        if not path.is_file():
            return fresh
        stored = json.loads(path.read_text())
        wanted = json.loads(json.dumps(fresh.instance))
        if stored["instance"] != wanted:
            keys = {*stored["instance"], *wanted}
            differing = sorted(key for key in keys if stored["instance"].get(key) != wanted.get(key))
            raise ValueError(
                f"{path.name} holds results of another instance (they differ in {', '.join(differing)}); "
                "choose another --out, or remove the file"
            )
        fresh.results = stored["results"]
        return fresh

    def has(self, **keys: object) -> bool:
        """Whether there is a result with these entries."""
        return any(all(result.get(key) == value for key, value in keys.items()) for result in self.results)

    def add(self, path: Path, result: Mapping[str, Any]) -> None:
        """Append a result with the machine and the versions, and write the file."""
        self.results.append({**result, "machine": machine(), "versions": versions()})
        self.write(path)

    def write(self, path: Path) -> None:
        """Write the record; a crash leaves the old file or the new one, never half of one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {
            "benchmark": self.name,
            "title": self.title,
            "instance": self.instance,
            "command": self.command,
            "notes": list(self.notes),
            "columns": [list(column) for column in self.columns],
            "results": self.results,
        }
        part = path.with_suffix(".part")
        part.write_text(_dumps(data) + "\n")
        part.replace(path)


def _dumps(data: Any) -> str:
    """Indent the outer levels only: what holds no further list or object stays on one line."""
    return "\n".join(_lines(data, 0))


def _lines(data: Any, level: int) -> Iterator[str]:
    flat = json.dumps(data)
    if len(flat) + 2 * level <= 118 or not isinstance(data, (dict, list)) or _is_flat(data):
        yield flat
        return
    brackets = "{}" if isinstance(data, dict) else "[]"
    items = [(f"{json.dumps(key)}: ", value) for key, value in data.items()] if isinstance(data, dict) else None
    items = [("", value) for value in data] if items is None else items
    yield brackets[0]
    for number, (prefix, value) in enumerate(items):
        inner = list(_lines(value, level + 1))
        inner[0] = prefix + inner[0]
        inner[-1] += "," if number + 1 < len(items) else ""
        yield from ("  " + line for line in inner)
    yield brackets[1]


def _is_flat(data: dict[str, Any] | list[Any]) -> bool:
    values = data.values() if isinstance(data, dict) else data
    return not any(isinstance(item, (dict, list)) or (isinstance(item, str) and len(item) > 60) for item in values)


def rounded(value: float, digits: int = 5) -> float:
    """Round to significant digits, so that a record does not pretend to more than it knows."""
    return float(f"{value:.{digits}g}")


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, file=sys.stdout, flush=True)
