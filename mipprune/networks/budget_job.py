"""The folder of a job that prunes a whole network: its settings, the finished stages, the certificate of the last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mipprune.core.arrays import digest
from mipprune.core.problem import Problem
from mipprune.core.solution import Solution
from mipprune.errors import InvalidProblem
from mipprune.io import Entry, save, write_atomically
from mipprune.networks.budget_report import StageRow
from mipprune.networks.gradients import FlatWeights
from mipprune.networks.job import CERTIFICATES

__all__ = ["NETWORK_FILE", "STATE_FILE", "BudgetJob"]

NETWORK_FILE = "network.safetensors"
"""Name of the file of a whole network's certificate."""

STATE_FILE = "budgets.json"
"""Name of the file that says how far a job is."""

_FORMAT = 1


class BudgetJob:
    """The stages that are finished, on disk.

    Parameters
    ----------
    folder : Path
        Created where it does not exist.
    settings : dict
        Everything that decides the result, as plain data; a job is resumed with the same only.
    weights : FlatWeights
        Of the network; when a job is resumed they receive what its last stage left.
    resume : bool
        Go on with the job that the folder holds; without one, start.

    Raises
    ------
    InvalidProblem
        If the folder holds a job and `resume` is False, or the job in it differs.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], weights: FlatWeights, *, resume: bool) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.rows: list[StageRow] = []
        if folder.is_file():
            raise InvalidProblem(f"{str(folder)!r} is a file, but a job needs a folder; choose another name")
        file = folder / STATE_FILE
        if not file.is_file():
            self.dense = digest(weights.vector())
            return
        if not resume:
            raise InvalidProblem(
                f"{str(folder)!r} already holds a pruning job; resume it (resume=True, on the command line --resume), "
                "or choose another folder"
            )
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            self.rows = [StageRow(**row) for row in stored["rows"]]
            self.dense, theirs, written = stored["dense"], stored["settings"], stored["digest"]
            name = str(stored["file"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidProblem(f"{str(file)!r} was not written by this version of mipprune ({error})") from error
        different = sorted(key for key in self.settings if theirs.get(key) != self.settings[key])
        if different:
            raise InvalidProblem(
                f"the job in {str(folder)!r} was started with other settings ({', '.join(different)}); use the same "
                "ones to resume, or another folder"
            )
        if digest(weights.vector()) not in (self.dense, written):
            raise InvalidProblem(f"the job in {str(folder)!r} is about a network with other weights")
        weights.write(self._read(name, written))

    def _read(self, name: str, expected: str) -> Tensor:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.folder / name
        try:
            vector: Tensor = load_file(file)["weights"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InvalidProblem(f"{str(file)!r} is missing or was altered ({error}); start the job anew") from error
        if digest(vector) != expected:
            raise InvalidProblem(f"{str(file)!r} was altered; start the job anew")
        return vector

    def finish(self, rows: Sequence[StageRow], weights: FlatWeights, problem: Problem, solution: Solution) -> None:
        """Record a finished stage; a crash in between leaves the one before, or this one."""
        from safetensors.torch import save as serialise

        if len(rows) == self.settings["stages"]:
            info = {"parameters": dict(zip(weights.names, weights.sizes, strict=True))}
            save(self.folder / CERTIFICATES / NETWORK_FILE, {"network": Entry(problem, solution, info)})
        vector, name = weights.vector().cpu(), f"stage-{len(rows)}.weights"
        write_atomically(self.folder / name, serialise({"weights": vector}))
        state = {
            "format": _FORMAT,
            "settings": self.settings,
            "dense": self.dense,
            "digest": digest(vector),
            "file": name,
            "rows": [row.to_dict() for row in rows],
        }
        write_atomically(self.folder / STATE_FILE, json.dumps(state, indent=1).encode("utf-8"))
        for old in self.folder.glob("stage-*.weights"):
            if old.name != name:
                old.unlink(missing_ok=True)
