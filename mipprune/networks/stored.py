"""The weights of a saved network, compared with the certified ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mipprune.io import Entry

__all__ = ["StoredWeights"]


class StoredWeights:
    """The safetensors files of a saved network.

    Parameters
    ----------
    folder : Path
        Where the network was saved.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self._file_of: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                with safe_open(file, framework="pt") as stored:
                    self._file_of.update(dict.fromkeys(stored.keys(), file))
            except SafetensorError:
                continue  # reported through the layers that are missing

    def holds(self, layer: str, entry: Entry) -> bool | None:
        """Tell whether the stored weights of a layer are the certified ones, in the dtype of the network.

        Parameters
        ----------
        layer : str
            Name of the layer, as in the job.
        entry : Entry
            Its problem and solution, as a pruning job stores them.

        Returns
        -------
        bool or None
            None where the network was not saved here, or holds the layer under another name.
        """
        found = self._weight(layer, entry.info["row"]["kind"], entry.problem.shape)
        if found is None or entry.solution.point is None:
            return None
        return bool(torch.equal(found, entry.solution.point.to(found.dtype)))

    def holds_vector(self, entry: Entry) -> int | None:
        """Count the parameters whose stored values are the certified ones, for a problem over a whole network.

        Returns
        -------
        int or None
            None where one of those that are stored here differs.
        """
        from safetensors import safe_open

        if entry.solution.point is None:
            return 0
        parameters: dict[str, int] = entry.info["parameters"]
        pieces = entry.solution.point.split(list(parameters.values()))
        compared = 0
        for name, piece in zip(parameters, pieces, strict=True):
            file = self._file_of.get(name)
            if file is None:
                continue
            with safe_open(file, framework="pt") as stored:
                found: Tensor = stored.get_tensor(name)
            if not torch.equal(found.reshape(-1), piece.to(found.dtype)):
                return None
            compared += 1
        return compared

    def _weight(self, layer: str, kind: str, shape: Any) -> Tensor | None:
        from safetensors import safe_open

        group = re.fullmatch(r"(.*)\[(\d+)\]", layer)
        name = group[1] if group else layer
        file = self._file_of.get(f"{name}.weight")
        if file is None:
            return None
        with safe_open(file, framework="pt") as stored:
            weight: Tensor = stored.get_tensor(f"{name}.weight")
        if kind == "conv1d":
            weight = weight.T
        if group:
            weight = weight[int(group[2]) * shape[0] : (int(group[2]) + 1) * shape[0]]
        return weight.reshape(shape)
