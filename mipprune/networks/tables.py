"""Errors of layers at several densities, and the folder that keeps them while a job is measuring."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from mipprune.core.structure import Supports
from mipprune.errors import InvalidProblem
from mipprune.io import write_atomically
from mipprune.structures import Cardinality

__all__ = ["LayerTable", "TableFolder"]

_PLAN = "tables.json"
_FOLDER = "tables"


@dataclass(frozen=True)
class LayerTable:
    """What a layer's errors are at several densities.

    Parameters
    ----------
    layer : str
    shape : tuple of int
        (out, in).
    macs : float
        Multiply-adds of each weight that stays, for one input of the network.
    densities, errors : tuple of float
        Options, and squared errors of the damped problem on the inputs of the dense network.
    scale : float
        Squared norm of the dense outputs, which relative errors refer to.
    """

    layer: str
    shape: tuple[int, int]
    macs: float
    densities: tuple[float, ...]
    errors: tuple[float, ...]
    scale: float

    def costs(self, family: Callable[[tuple[int, int], float], Supports]) -> list[tuple[float, float]]:
        """Return for each option the weights that stay and their multiply-adds."""
        found = []
        for density in self.densities:
            kept = self.shape[0] * self.shape[1]
            if density < 1:
                supports = family(self.shape, density)
                if isinstance(supports, Cardinality):
                    kept = supports.count
                else:  # others are asked how many entries they keep
                    kept = int(supports.keep(torch.ones(self.shape)).sum())
            found.append((float(kept), kept * self.macs))
        return found


class TableFolder:
    """The tables in the folder of a job.

    Parameters
    ----------
    folder : Path
        Created where it does not exist.
    plan : dict
        Everything that decides the tables, with digests of the layers' weights under ``"layers"``.
    resume : bool
        Go on with the tables that are there.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], resume: bool) -> None:
        self.folder, self.plan = folder, plan
        file = folder / _PLAN
        if not file.is_file():
            write_atomically(file, json.dumps(plan, indent=1).encode("utf-8"))
            return
        if not resume:
            raise InvalidProblem(
                f"{str(folder)!r} already holds tables of a job; resume it (resume=True, on the command line "
                "--resume), or choose another folder"
            )
        stored = json.loads(file.read_text(encoding="utf-8"))
        for key, wanted in plan.items():
            if key != "layers" and stored.get(key) != wanted:
                raise InvalidProblem(
                    f"the tables in {str(folder)!r} were made with another setting of {key!r}; use the same settings, "
                    "network and data to resume, or another folder"
                )
        # A resumed job may be given the network with some layers already pruned: their tables are complete then.
        changed = [
            n for n in plan["layers"] if plan["layers"][n] != stored["layers"].get(n) and not self._file(n).is_file()
        ]
        if changed or set(plan["layers"]) != set(stored["layers"]):
            raise InvalidProblem(
                f"the tables in {str(folder)!r} are of another network (layers {', '.join(changed[:5]) or 'differ'}); "
                "load the same one to resume, or choose another folder"
            )

    def _file(self, layer: str) -> Path:
        return self.folder / _FOLDER / f"{quote(layer, safe='')}.json"

    def store(self, table: LayerTable) -> None:
        """Write one table, at once or not at all."""
        write_atomically(self._file(table.layer), json.dumps(asdict(table)).encode("utf-8"))

    def complete(self) -> dict[str, LayerTable]:
        """Read the tables that are there."""
        found = {}
        for layer in self.plan["layers"]:
            file = self._file(layer)
            if file.is_file():
                try:
                    data = json.loads(file.read_text(encoding="utf-8"))
                    lists = {key: tuple(data[key]) for key in ("shape", "densities", "errors")}
                    found[layer] = LayerTable(**{**data, **lists})
                except (ValueError, TypeError, KeyError) as error:
                    raise InvalidProblem(f"{str(file)!r} is no table of a layer ({error}); remove it") from error
        return found
