"""What pruning a network to budgets did: stage by stage, and how the budgets were spent over the layers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

__all__ = ["BudgetReport", "LayerShare", "StageRow"]


@dataclass(frozen=True)
class LayerShare:
    """How much of a layer was kept.

    Parameters
    ----------
    name : str
        Of the parameter.
    size, kept : int
        Weights, and those that are not zero.
    cost : float or None
        Multiply-adds of one kept weight in a forward pass of one sample.
    """

    name: str
    size: int
    kept: int
    cost: float | None


@dataclass(frozen=True)
class StageRow:
    """One stage.

    Parameters
    ----------
    stage : int
        From 1.
    kept, size : int
        Non-zero weights of the network, and all of them.
    cost, dense_cost : float or None
        Multiply-adds of the non-zero weights, and of all.
    value, bound, gap : float
        Of the stage's problem; the bound is None without one.
    proof, solver : str
    gradient_seconds, seconds : float
        For the gradients, and in all.
    """

    stage: int
    kept: int
    size: int
    cost: float | None
    dense_cost: float | None
    value: float
    bound: float | None
    gap: float | None
    proof: str
    solver: str
    gradient_seconds: float
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return the fields as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class BudgetReport:
    """The whole job.

    Parameters
    ----------
    stages : tuple of StageRow
    layers : tuple of LayerShare
    nnz, flops : float or None
        The budgets, as shares of the dense network.
    seconds : float
        Of this run; stages of an earlier one are not counted.
    """

    stages: tuple[StageRow, ...]
    layers: tuple[LayerShare, ...]
    nnz: float | None
    flops: float | None
    seconds: float

    @property
    def density(self) -> float:
        """Kept weights over all that compete, in [0, 1]."""
        return sum(layer.kept for layer in self.layers) / sum(layer.size for layer in self.layers)

    @property
    def flops_kept(self) -> float | None:
        """Multiply-adds of the kept weights over those of all; None without costs."""
        if any(layer.cost is None for layer in self.layers):
            return None
        dense = sum(layer.size * (layer.cost or 0.0) for layer in self.layers)
        return sum(layer.kept * (layer.cost or 0.0) for layer in self.layers) / dense if dense else None

    @property
    def gap(self) -> float | None:
        """Certified gap of the last stage."""
        return self.stages[-1].gap if self.stages else None

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(
            {
                "stages": [asdict(row) for row in self.stages],
                "layers": [asdict(layer) for layer in self.layers],
                "nnz": self.nnz,
                "flops": self.flops,
                "seconds": self.seconds,
            },
            indent=1,
        )

    def stage_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of the table of stages, as text."""
        head = ["stage", "weights kept", "FLOPs kept", "value", "bound", "gap", "proof", "s"]
        return head, [
            [
                str(row.stage),
                f"{row.kept / row.size:.4f}",
                "-" if row.cost is None or not row.dense_cost else f"{row.cost / row.dense_cost:.4f}",
                f"{row.value:.6g}",
                "-" if row.bound is None else f"{row.bound:.6g}",
                "-" if row.gap is None else f"{100 * row.gap:.4g} %",
                row.proof,
                f"{row.seconds:.1f}",
            ]
            for row in self.stages
        ]

    def layer_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of the table of layers, as text."""
        head = ["layer", "weights", "kept", "density", "multiply-adds per weight"]
        return head, [
            [
                layer.name.removesuffix(".weight"),
                str(layer.size),
                str(layer.kept),
                f"{layer.kept / layer.size:.3f}" if layer.size else "-",
                "-" if layer.cost is None else f"{layer.cost:g}",
            ]
            for layer in self.layers
        ]
