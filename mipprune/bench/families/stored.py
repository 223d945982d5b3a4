"""Real data under ``--data PATH``: which files there are, and what is in them. No file is unpickled or run."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ...errors import InvalidProblem

__all__ = ["digest", "files", "located", "read"]

Array = np.ndarray[Any, Any]


def files(data: Path | None, patterns: Sequence[str]) -> list[str]:
    """Return the files under ``data`` that match glob patterns, as paths relative to it, in order.

    Raises
    ------
    InvalidProblem
        If ``data`` is no folder.
    """
    if data is None:
        return []
    if not data.is_dir():
        raise InvalidProblem(f"--data {str(data)!r} is no folder")
    found = {path.relative_to(data).as_posix() for pattern in patterns for path in data.glob(pattern)}
    return sorted(found)


def located(data: Path | None, source: str) -> Path:
    """Return the path of one such file.

    Raises
    ------
    InvalidProblem
        If there is none.
    """
    if data is None:
        raise InvalidProblem(f"the instance is made of the file {source!r}; give the folder it lies in by --data")
    path = data / source
    if not path.is_file():
        raise InvalidProblem(f"there is no file {source!r} in the folder {str(data)!r} given by --data")
    return path


def digest(data: Path | None, source: str) -> str:
    """Return a digest of the file of an instance, empty where its source is no file of that folder."""
    path = None if data is None or not source else data / source
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:20]


def read(path: Path, *names: str) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` or ``.safetensors`` file, or of a ``.csv`` with one line of headings.

    Parameters
    ----------
    path : Path
        A CSV file becomes one array ``table`` (rows, columns) of the columns whose entries are all numbers.
    *names : str
        Read these only (those that are there).

    Raises
    ------
    InvalidProblem
        If the file cannot be read as arrays of numbers.
    """
    try:
        if path.suffix == ".csv":
            return {"table": _table(path)}
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            every: dict[str, Array] = load_file(path)
            return {key: array for key, array in every.items() if not names or key in names}
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files if not names or key in names}
    except (ValueError, OSError, BadZipFile, KeyError) as error:
        raise InvalidProblem(f"{str(path)!r} cannot be read as arrays of numbers: {error}") from error
    except Exception as error:  # safetensors has an exception of its own
        if type(error).__module__.startswith("safetensors"):
            raise InvalidProblem(f"{str(path)!r} cannot be read as arrays of numbers: {error}") from error
        raise


def _table(path: Path) -> Array:
    with path.open(newline="", encoding="utf-8") as lines:
        heading, *rows = [row for row in csv.reader(lines) if row]
    if not rows or any(len(row) != len(heading) for row in rows):
        raise ValueError("a table needs a line of headings and rows of the same length")
    columns = []
    for column in zip(*rows, strict=True):
        try:
            columns.append([float(entry) for entry in column])
        except ValueError:  # dates and names
            continue
    if not columns:
        raise ValueError("no column holds numbers only")
    return np.array(columns).T
