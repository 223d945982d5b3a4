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

    def fault(self, layer: str, entry: Entry) -> str | None:
        """Return how the stored weights of a layer differ from the certified solution, or None.

        Parameters
        ----------
        layer : str
            Name of the layer, as in the job.
        entry : Entry
            Its problem and solution.

        Returns
        -------
        str or None
            None also where the network was not saved, or under other names.
        """
        found = self._weight(layer, entry.info["row"]["kind"], entry.problem.shape)
        if found is None or entry.solution.point is None:
            return None
        weight, file = found
        certified = entry.solution.point.to(weight.dtype)
        if torch.equal(weight, certified):
            return None
        count = int((weight != certified).sum())
        return f"{str(file)!r}: {count} weights of layer {layer!r} are not the certified ones"

    def _weight(self, layer: str, kind: str, shape: Any) -> tuple[Tensor, Path] | None:
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
        return weight.reshape(shape), file
