"""The whole state of a search on a file: a run that is taken up from it ends exactly as the undisturbed one would."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InvalidProblem
from .search import Search, Settings
from .strategy import Array

__all__ = ["load_state", "pack", "save_state", "unpack"]

_FORMAT = 1
_FREE = ("memory",)  # settings that may differ between the run that wrote a state and the one that goes on


def pack(search: Search) -> dict[str, Array]:
    """Return everything that decides how a search goes on, as arrays by name."""
    sums, counts, total, count = search.experience.arrays
    expected = search.expected
    columns = search.universes.columns
    return {
        **{f"ledger.{name}": column.data for name, column in vars(search.ledger).items()},
        "heap.bound": np.array([bound for bound, _ in search.heap], dtype=np.float64),
        "heap.node": np.array([node for _, node in search.heap], dtype=np.int64),
        "expected.node": np.array(list(expected), dtype=np.int64),
        "expected.branch": np.array([item[:2] for item in expected.values()], dtype=np.int64).reshape(-1, 2),
        "expected.number": np.array([item[2:] for item in expected.values()], dtype=np.float64).reshape(-1, 2),
        "experience.sums": sums,
        "experience.counts": counts,
        "experience.total": total,
        "experience.count": count,
        "universe.length": np.array([len(part) for part in columns], dtype=np.int64),
        "universe.column": np.concatenate(columns),
        "point.entry": np.asarray(search.point[0], dtype=np.int64),
        "point.value": np.asarray(search.point[1], dtype=np.float64),
        "number": np.array([search.value, search.closed]),
        "evaluated": np.array([search.evaluated, search.probed], dtype=np.int64),
    }


def unpack(search: Search, arrays: dict[str, Array]) -> None:
    """Put a fresh search into the state that :func:`pack` described."""
    for name, column in vars(search.ledger).items():
        column.size = 0
        column.extend(arrays[f"ledger.{name}"])
    search.heap = list(zip(arrays["heap.bound"].tolist(), arrays["heap.node"].tolist(), strict=True))
    search.expected = {
        node: (*branch, *number)
        for node, branch, number in zip(
            arrays["expected.node"].tolist(),
            arrays["expected.branch"].tolist(),
            arrays["expected.number"].tolist(),
            strict=True,
        )
    }
    search.experience.arrays = (
        arrays["experience.sums"],
        arrays["experience.counts"],
        arrays["experience.total"],
        arrays["experience.count"],
    )
    search.universes.columns = np.split(arrays["universe.column"], np.cumsum(arrays["universe.length"])[:-1])
    search.point = arrays["point.entry"], arrays["point.value"]
    search.value, search.closed = arrays["number"].tolist()
    search.evaluated, search.probed = arrays["evaluated"].tolist()
    search.renew()


def _digest(arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_state(path: Path, fingerprint: str, settings: Settings, arrays: dict[str, Array]) -> None:
    """Write a state beside the file and move it into place: a crash leaves the old file or the new one."""
    about = {"format": _FORMAT, "fingerprint": fingerprint, "settings": asdict(settings), "sha256": _digest(arrays)}
    header = json.dumps(about)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            np.savez(file, header=np.frombuffer(header.encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:  # an interrupt, or no room left: nothing half done stays behind
        part.unlink(missing_ok=True)
        raise


def load_state(path: Path, fingerprint: str, settings: Settings) -> dict[str, Array]:
    """Read the arrays of a state.

    Raises
    ------
    InvalidProblem
        If there is no such file, or it is damaged, or it was written for other data or settings.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays: dict[str, Array] = {name: stored[name] for name in stored.files}
        header: dict[str, Any] = json.loads(arrays.pop("header").tobytes())
    except FileNotFoundError as error:
        raise InvalidProblem(
            f"there is no checkpoint {str(path)!r} to resume; leave resume out to start anew"
        ) from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidProblem(f"{str(path)!r} is no checkpoint of a tree, or it is damaged ({error})") from error
    if header.get("format") != _FORMAT:
        raise InvalidProblem(f"{str(path)!r} was written by another version (format {header.get('format')})")
    if header.get("sha256") != _digest(arrays):
        raise InvalidProblem(f"{str(path)!r} is damaged: its SHA-256 differs")
    if header["fingerprint"] != fingerprint:
        raise InvalidProblem(f"{str(path)!r} was written for another problem: data or structure differ")
    differing = [
        f"{name} was {header['settings'].get(name)!r} and is {value!r}"
        for name, value in asdict(settings).items()
        if name not in _FREE and header["settings"].get(name) != value
    ]
    if differing:
        raise InvalidProblem(
            f"{str(path)!r} was written with other settings: {'; '.join(differing)}. Resume with the same ones, or "
            "start anew from the best point so far (start=)"
        )
    return arrays
