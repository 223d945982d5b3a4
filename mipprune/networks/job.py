"""The folder of a pruning job: what it is about, and each finished layer, so that it can be resumed at any moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from mipprune.core.arrays import digest
from mipprune.core.solver import Budget, Solver
from mipprune.core.structure import Supports
from mipprune.errors import CertificateError, InvalidProblem
from mipprune.io import load, save, write_atomically
from mipprune.networks.modules import PrunableLayer
from mipprune.networks.report import LayerRow
from mipprune.networks.task import Outcome, written_weight

__all__ = ["CERTIFICATES", "Finished", "Job", "plain_data", "plan"]

CERTIFICATES = "certificates"
"""Name of the folder inside a job's folder that holds a file for each finished layer."""

_JOB = "job.json"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Finished:
    """A layer that an earlier run has pruned.

    Parameters
    ----------
    weight : Tensor, shape (out, in)
        Its pruned weights, in the dtype of the network.
    dense : Tensor, shape (out, in)
        Its weights before; those of inputs that were always zero are zero.
    row : LayerRow
        Its row of the report.
    """

    weight: Tensor
    dense: Tensor
    row: LayerRow


def plan(
    chosen: Sequence[tuple[PrunableLayer, Supports]],
    batches: Sequence[object],
    solver: Solver,
    *,
    certify: Budget | None,
    sequential: bool,
    damping: float,
    seed: int,
) -> dict[str, Any]:
    """Describe everything that decides the result of a job, as JSON.

    Parameters
    ----------
    chosen : sequence of (PrunableLayer, Supports)
        The layers, still dense, with their structures.
    batches : sequence
        Calibration data; a digest is kept.
    solver, certify, sequential, damping, seed
        As for `mipprune.networks.prune`.
    """
    layers = {
        layer.name: {
            "kind": layer.kind,
            "shape": list(layer.shape),
            "dtype": str(layer.parameter.dtype),
            "weights": digest(layer.weight_matrix()),
            "structure": supports.describe(),
            "structure_digest": digest(supports),
        }
        for layer, supports in chosen
    }
    return {
        "format": _FORMAT,
        "solver": repr(solver),
        "certify": None if certify is None else repr(certify),
        "sequential": sequential,
        "damping": damping,
        "seed": seed,
        "calibration": digest(plain_data(list(batches))),
        "layers": layers,
    }


def plain_data(value: object) -> Any:
    """Batches as nested lists and dictionaries of tensors, whatever mapping types a data loader uses."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


class Job:
    """A folder with ``job.json`` and one file for each finished layer.

    Parameters
    ----------
    folder : path
        Created where it does not exist.
    description : dict
        As `plan` returns it.
    resume : bool
        Go on with the job that the folder holds; without one, start.

    Raises
    ------
    InvalidProblem
        If the folder holds a job and `resume` is False, or the job in it differs in a setting.
    """

    def __init__(self, folder: str | Path, description: dict[str, Any], *, resume: bool) -> None:
        self.folder = Path(folder)
        self.description = description
        if self.folder.is_file():
            raise InvalidProblem(f"{str(folder)!r} is a file, but a job needs a folder; choose another name")
        stored = self._stored()
        if stored is None:
            self._require_no_leftovers()
            text = json.dumps(description, indent=1)
            write_atomically(self.folder / _JOB, text.encode("utf-8"))
        elif not resume:
            raise InvalidProblem(
                f"{str(folder)!r} already holds a pruning job; resume it (resume=True, on the command line --resume), "
                "or choose another folder"
            )
        else:
            self._compare(stored)
        for leftover in (self.folder / CERTIFICATES).glob("**/.*.tmp"):
            leftover.unlink(missing_ok=True)  # of a run that was killed while it wrote

    def _stored(self) -> dict[str, Any] | None:
        file = self.folder / _JOB
        if not file.is_file():
            return None
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidProblem(f"{str(file)!r} is no job description ({error}); choose another folder") from error
        if not isinstance(stored, dict) or stored.get("format") != _FORMAT:
            raise InvalidProblem(f"{str(file)!r} was not written by this version of mipprune; choose another folder")
        return stored

    def _require_no_leftovers(self) -> None:
        if any((self.folder / CERTIFICATES).glob("*.safetensors")):
            raise InvalidProblem(
                f"{str(self.folder)!r} holds certificates but no {_JOB}, so it is unknown what they belong to; "
                "choose another folder"
            )

    def _compare(self, stored: dict[str, Any]) -> None:
        """Refuse to mix two jobs; the weights are compared later, since a finished layer may be pruned already."""
        for key, wanted in self.description.items():
            if key == "layers" or stored.get(key) == wanted:
                continue
            what = "the calibration data differ" if key == "calibration" else f"{stored.get(key)} there, {wanted} here"
            raise InvalidProblem(
                f"the job in {str(self.folder)!r} was started with another setting of {key!r} ({what}); use the same "
                "settings to resume, or another folder"
            )
        theirs, ours = stored["layers"], self.description["layers"]
        if different := sorted(set(theirs) ^ set(ours)):
            raise InvalidProblem(
                f"the job in {str(self.folder)!r} is about other layers: {', '.join(different[:5])} "
                f"({len(different)} differ); use the same network and skip patterns, or another folder"
            )
        for name, layer in ours.items():
            for key, wanted in layer.items():
                if key != "weights" and theirs[name].get(key) != wanted:
                    raise InvalidProblem(
                        f"layer {name!r}: the job in {str(self.folder)!r} has {key} {theirs[name].get(key)}, this one "
                        f"{wanted}; use the same settings to resume, or another folder"
                    )
        self.description = stored

    def file(self, layer: str) -> Path:
        """Return the file of a layer; names are quoted so that each layer has its own."""
        return self.folder / CERTIFICATES / f"{quote(layer, safe='')}.safetensors"

    def store(self, outcome: Outcome) -> None:
        """Record a finished layer, at once or not at all."""
        name = outcome.row.layer
        save(self.file(name), {name: outcome.entry}, share=True)

    def finished(self, chosen: Sequence[tuple[PrunableLayer, Supports]]) -> dict[str, Finished]:
        """Return the layers that are done, after comparing every layer's weights with those of the job.

        Raises
        ------
        InvalidProblem
            If the network's weights are neither the dense ones of the job nor, for a finished layer, its pruned ones.
        CertificateError
            If a file was altered.
        """
        done: dict[str, Finished] = {}
        for layer, supports in chosen:
            file = self.file(layer.name)
            if file.is_file():
                entry = load(file).get(layer.name)
                if entry is None or entry.problem.shape != layer.shape:
                    raise CertificateError(f"{str(file)!r} is not about layer {layer.name!r}")
                dtype = layer.parameter.dtype
                weight = written_weight(entry.solution, supports, dtype)
                dense = entry.problem.loss.start().to(dtype)  # the minimiser of a layer's loss are the dense weights
                done[layer.name] = Finished(weight, dense, LayerRow.from_dict(entry.info["row"]))
            current = layer.weight_matrix()
            same = digest(current) == self.description["layers"][layer.name]["weights"]
            if not same and not (layer.name in done and torch.equal(current.cpu(), done[layer.name].weight)):
                raise InvalidProblem(
                    f"layer {layer.name!r} has other weights than when the job in {str(self.folder)!r} was started; "
                    "load the same network to resume, or choose another folder"
                )
        return done
