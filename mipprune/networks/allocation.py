"""Sharing a budget for the whole network out over its layers, from the errors of each at several densities."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mipprune.core.adapters import Masks
from mipprune.core.arrays import digest
from mipprune.core.problem import Problem
from mipprune.core.solution import Solution
from mipprune.core.solver import Solver
from mipprune.core.structure import Supports
from mipprune.errors import InvalidProblem
from mipprune.formulations.allocation import allocation as allocation_problem
from mipprune.io import Entry, save
from mipprune.networks.calibration import calibrate
from mipprune.networks.costs import weight_macs
from mipprune.networks.gram import Gram
from mipprune.networks.job import plain_data
from mipprune.networks.modules import PrunableLayer, prunable
from mipprune.networks.tables import LayerTable, TableFolder
from mipprune.networks.task import Task, run_task
from mipprune.structures import Cardinality, MultipleChoice

__all__ = ["DENSITIES", "Allocated", "Allocation", "allocate", "share_out"]

logger = logging.getLogger("mipprune")

DENSITIES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9, 1.0)
"""At which densities a layer is pruned for its table, unless told otherwise."""


def _unstructured(shape: tuple[int, int], density: float) -> Supports:
    """Return the weights kept anywhere in the layer."""
    return Cardinality(round(density * shape[0] * shape[1]))


@dataclass(frozen=True)
class Allocation:
    """A budget for the whole network.

    Parameters
    ----------
    nnz : float, optional
        Share of the weights of all pruned layers that may stay, in (0, 1].
    flops : float, optional
        Share of the multiply-adds of all pruned layers that may stay, in (0, 1], counted for weights that stay.
    densities : tuple of float
        Options of each layer, rising, in (0, 1].
    error : {"relative", "absolute"}
        What is summed over layers: the squared error relative to the layer's dense outputs, or as it is.
    family : callable
        From a layer's shape (out, in) and a density to its structure; default: anywhere in the layer.

    Examples
    --------
    >>> Allocation(nnz=0.5).family((4, 8), 0.25)
    Cardinality(count=8, on=None, off=None)
    """

    nnz: float | None = None
    flops: float | None = None
    densities: tuple[float, ...] = DENSITIES
    error: str = "relative"
    family: Callable[[tuple[int, int], float], Supports] = _unstructured

    def __post_init__(self) -> None:
        if self.nnz is None and self.flops is None:
            raise InvalidProblem("an allocation needs a budget: nnz=... or flops=..., shares that may stay")
        for name in ("nnz", "flops"):
            share = getattr(self, name)
            if share is not None and not 0 < share <= 1:
                raise InvalidProblem(f"{name} is {share}; it is the share that may stay, in (0, 1]")
        densities = tuple(float(density) for density in self.densities)
        if not densities or list(densities) != sorted(set(densities)) or not 0 < densities[0] <= densities[-1] <= 1:
            raise InvalidProblem(f"densities are {densities}; rising numbers in (0, 1] are needed")
        if self.error not in ("relative", "absolute"):
            raise InvalidProblem(f"error is {self.error!r}; choose 'relative' or 'absolute'")
        object.__setattr__(self, "densities", densities)

    def describe(self) -> str:
        """Return the budgets in words."""
        parts = [f"{share:g} of the {what}" for share, what in ((self.nnz, "weights"), (self.flops, "FLOPs")) if share]
        return f"{' and '.join(parts)} stay, shared out by {self.error} errors at {len(self.densities)} densities"


@dataclass(frozen=True, eq=False)
class Allocated:
    """The density of each layer, proven best for the tables.

    Parameters
    ----------
    densities : dict of str to float
        By layer.
    tables : tuple of LayerTable
    problem : Problem
    solution : Solution
    family : callable
        As in the allocation.
    """

    densities: dict[str, float]
    tables: tuple[LayerTable, ...]
    problem: Problem
    solution: Solution
    family: Callable[[tuple[int, int], float], Supports]

    def structure(self, name: str, shape: tuple[int, int]) -> Supports | None:
        """Return the structure of a layer, None where it stays dense; for `mipprune.networks.prune`."""
        density = self.densities.get(name, 1.0)
        return None if density >= 1.0 else self.family(shape, density)


def share_out(tables: Sequence[LayerTable], allocation: Allocation) -> Allocated:
    """Choose a density for each layer.

    Parameters
    ----------
    tables : sequence of LayerTable
    allocation : Allocation

    Raises
    ------
    InvalidProblem
        If there is no table, or the smallest densities exceed a budget.

    Examples
    --------
    >>> from mipprune.networks.tables import LayerTable
    >>> steep = LayerTable("a", (10, 10), 1.0, (0.1, 0.5, 1.0), (9.0, 4.0, 0.0), 10.0)
    >>> flat = LayerTable("b", (10, 10), 1.0, (0.1, 0.5, 1.0), (2.0, 1.0, 0.0), 10.0)
    >>> share_out([steep, flat], Allocation(nnz=0.55)).densities
    {'a': 1.0, 'b': 0.1}
    """
    from mipprune.solve import solve

    if not tables:
        raise InvalidProblem("there is no table of a layer; nothing can be shared out")
    shares = [(number, share) for number, share in enumerate((allocation.nnz, allocation.flops)) if share is not None]
    errors = [np.array(table.errors) / _unit(table, allocation) for table in tables]
    costs = [np.array(table.costs(allocation.family))[:, [number for number, _ in shares]] for table in tables]
    dense = np.sum([[table.shape[0] * table.shape[1] * m for m in (1.0, table.macs)] for table in tables], axis=0)
    budgets = np.array([np.floor(share * dense[number]) for number, share in shares])
    least = np.sum([cost.min(axis=0) for cost in costs], axis=0)
    if bool((least > budgets).any()):
        reached = ", ".join(f"{least[place] / dense[number]:.3g}" for place, (number, _) in enumerate(shares))
        raise InvalidProblem(
            f"the smallest densities keep {reached} of the dense costs, more than the budgets allow; give smaller "
            "densities or larger budgets"
        )
    problem = allocation_problem(errors, costs, budgets)
    solution = solve(problem)
    assert solution.mask is not None and isinstance(problem.structure, Masks)
    assert isinstance(problem.structure.supports, MultipleChoice)
    chosen = problem.structure.supports.options(solution.mask).tolist()
    densities = {table.layer: table.densities[option] for table, option in zip(tables, chosen)}
    return Allocated(densities, tuple(tables), problem, solution, allocation.family)


def _unit(table: LayerTable, allocation: Allocation) -> float:
    return max(table.scale, 1e-300) if allocation.error == "relative" else 1.0


def allocate(
    model: nn.Module,
    batches: Sequence[object],
    allocation: Allocation,
    solver: Solver,
    *,
    executor: Executor | None = None,
    skip: Sequence[str] = (),
    include: Sequence[str] = (),
    damping: float = 0.01,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
) -> Allocated:
    """Measure the error of each layer at each density on the dense network, and share the budget out.

    Parameters
    ----------
    model : torch.nn.Module
        The dense network; it is left as it is.
    batches : sequence
        Calibration data.
    allocation : Allocation
    solver : Solver
        Prunes each layer at each density.
    executor : concurrent.futures.Executor, optional
        Where the densities of a layer are solved.
    skip, include, damping, device
        As for `mipprune.networks.prune`.
    out : path, optional
        A folder: each layer's table is written to it as soon as it is complete, the choice at the end
        (``allocation.safetensors``, which `mipprune check` re-checks).
    resume : bool
        Read the tables that are already in `out`.

    Returns
    -------
    Allocated

    Raises
    ------
    InvalidProblem
        If the budgets cannot be met, or the folder holds tables of another network, other data or settings.
    KeyboardInterrupt
        Passed on; the tables that are complete are in `out`.
    """
    layers = prunable(model, skip, include)
    folder = (
        None if out is None else TableFolder(Path(out), _plan(layers, batches, allocation, solver, damping), resume)
    )
    tables = {} if folder is None else folder.complete()
    left = [layer for layer in layers if layer.name not in tables]
    if left:
        grams = calibrate(model, batches, left, device=device)
        macs = weight_macs(model, batches[0], missing=0.0)
        name_of = {id(parameter): name for name, parameter in model.named_parameters()}
        for number, layer in enumerate(left, start=1):
            gram = grams[layer.name]
            matrix = gram.matrix().to(layer.parameter.device if device is None else device)
            if not gram.tokens or not bool(matrix.diagonal().any()):
                continue
            each = macs.get(name_of.get(id(layer.parameter), ""), 0.0)
            try:
                tables[layer.name] = _table(layer, gram, matrix, each, allocation, solver, damping, executor)
            except KeyboardInterrupt as interrupt:
                kept = "nothing was kept" if out is None else "continue with the same call and resume=True"
                raise KeyboardInterrupt(f"interrupted after {number - 1} of {len(left)} tables; {kept}") from interrupt
            if folder is not None:
                folder.store(tables[layer.name])
            logger.info("measured %s (%d of %d)", layer.name, number, len(left))
    found = share_out([tables[layer.name] for layer in layers if layer.name in tables], allocation)
    if out is not None:
        info = {"densities": found.densities, "allocation": allocation.describe()}
        save(Path(out) / "allocation.safetensors", {"allocation": Entry(found.problem, found.solution, info)})
    return found


def _table(
    layer: PrunableLayer,
    gram: Gram,
    matrix: torch.Tensor,
    macs: float,
    allocation: Allocation,
    solver: Solver,
    damping: float,
    executor: Executor | None,
) -> LayerTable:
    """Prune one layer at every density."""
    weight = layer.weight_matrix().to(matrix.device)
    first = Task(
        layer=layer.name,
        kind=layer.kind,
        weight=weight,
        gram=matrix,
        tokens=gram.tokens,
        supports=Cardinality(0),
        solver=solver,
        damping=damping,
    )
    tasks = [replace(first, supports=allocation.family(layer.shape, d)) for d in allocation.densities if d < 1]
    outcomes: Iterator[Any] = (map if executor is None else executor.map)(run_task, tasks)
    rows = [outcome.row for outcome in outcomes]
    errors = [row.value for row in rows] + [0.0] * (len(allocation.densities) - len(rows))
    scale = rows[0].scale if rows else float(((weight.double() @ matrix) * weight.double()).sum())
    return LayerTable(layer.name, layer.shape, macs, allocation.densities, tuple(errors), scale)


def _plan(
    layers: Sequence[PrunableLayer],
    batches: Sequence[object],
    allocation: Allocation,
    solver: Solver,
    damping: float,
) -> dict[str, Any]:
    structures = {
        layer.name: [allocation.family(layer.shape, d).describe() for d in allocation.densities] for layer in layers
    }
    return {
        "format": 1,
        "densities": list(allocation.densities),
        "solver": repr(solver),
        "damping": damping,
        "calibration": digest(plain_data(list(batches))),
        "structures": digest(structures),
        "layers": {layer.name: digest(layer.weight_matrix()) for layer in layers},
    }
