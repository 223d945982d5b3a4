"""Pruning a whole network within global budgets on its non-zeros and FLOPs, in one shot or in stages."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mipprune.core.arrays import digest
from mipprune.core.problem import Problem
from mipprune.core.solution import Solution, Stop
from mipprune.core.solver import Budget, Solver
from mipprune.errors import InvalidProblem
from mipprune.formulations.network import network_pruning
from mipprune.networks.budget_job import BudgetJob
from mipprune.networks.budget_report import BudgetReport, LayerShare, StageRow
from mipprune.networks.calibration import as_batches
from mipprune.networks.costs import weight_macs
from mipprune.networks.gradients import FlatWeights, SampleLoss, first_sample, sample_gradients
from mipprune.networks.job import plain_data
from mipprune.solve import solve

__all__ = ["kept_shares", "prune_to_budgets", "pruning_problem"]

logger = logging.getLogger("mipprune")

StageProgress = Callable[[StageRow, int], bool | None]
"""Called with a finished stage and the number of all stages; returning ``True`` stops the job."""


def kept_shares(final: float, stages: int, first: float = 0.8) -> list[float]:
    r"""Shares kept after each stage of gradual pruning.

    The share pruned after stage t is :math:`r_T + (r_0 - r_T)(1 - t/(T-1))^3`, t = 0, ..., T-1.

    Parameters
    ----------
    final : float
        Kept in the end, in [0, 1].
    stages : int
        T >= 1; one stage is one-shot pruning.
    first : float
        Kept after the first of several stages (:math:`1 - r_0`), raised to ``final`` where that is more.

    References
    ----------
    Zhu, Gupta, arXiv 1710.01878; as used in arXiv 2302.14623 and 2403.07094.

    Examples
    --------
    >>> [round(share, 3) for share in kept_shares(0.2, 4)]
    [0.8, 0.378, 0.222, 0.2]
    """
    if stages < 1 or not 0.0 <= final <= 1.0 or not 0.0 <= first <= 1.0:
        raise InvalidProblem(f"stages is {stages} and shares {final}, {first}; at least 1, and shares within [0, 1]")
    if stages == 1:
        return [final]
    begin = max(first, final)
    return [final + (begin - final) * (1.0 - t / (stages - 1)) ** 3 for t in range(stages)]


def pruning_problem(
    model: nn.Module,
    batches: Iterable[object],
    *,
    nnz: int | float | None = None,
    flops: int | float | None = None,
    costs: Mapping[str, float] | None = None,
    samples: int | None = None,
    group: int = 1,
    ridge: float = 1e-3,
    first_order: float = 0.0,
    skip: Sequence[str] = (),
    include: Sequence[str] = (),
    loss: SampleLoss | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    name: str = "network pruning",
) -> tuple[Problem, FlatWeights]:
    """Take gradients of a network and state the problem of pruning it within global budgets.

    Parameters
    ----------
    model : torch.nn.Module
    batches : iterable
        Data, see :func:`sample_gradients`.
    nnz, flops, ridge, first_order, name
        See :func:`mipprune.formulations.network_pruning`; a whole number of ``flops`` counts multiply-adds.
    costs : mapping, optional
        Multiply-adds of one kept weight in a forward pass of one sample, by name of the parameter or its layer; default
        counted on the first batch.
    samples, group, loss, seed, device
        See :func:`sample_gradients`.
    skip, include : sequence of str
        See :meth:`FlatWeights.of`.

    Returns
    -------
    problem : Problem
    weights : FlatWeights
        ``weights.write(solution.point)`` prunes the network.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> data = [(torch.randn(20, 8), torch.randint(0, 3, (20,)))]
    >>> problem, weights = pruning_problem(net, data, nnz=0.5, flops=0.4)
    >>> weights.write(mp.solve(problem).point)
    >>> int(weights.vector().count_nonzero()) <= 88
    True
    """
    data = list(as_batches(batches))
    weights = FlatWeights.of(model, skip, include)
    layer_costs = None if flops is None else _layer_costs(model, data, weights, costs)
    rows = sample_gradients(model, data, weights, samples=samples, group=group, loss=loss, seed=seed, device=device)
    layers = list(weights.split(weights.vector().to(rows.device)).values())
    problem = network_pruning(
        layers, rows, nnz=nnz, flops=flops, costs=layer_costs, ridge=ridge, first_order=first_order, name=name
    )
    return problem, weights


def _layer_costs(
    model: nn.Module, data: Sequence[object], weights: FlatWeights, costs: Mapping[str, float] | None
) -> list[float]:
    if costs is None:
        if not data:
            raise InvalidProblem("there is no batch to count FLOPs on; give data, or costs")
        costs = weight_macs(model, first_sample(data[0]), missing=0.0)
    return weights.per_layer(costs)


def prune_to_budgets(
    model: nn.Module,
    batches: Iterable[object],
    *,
    nnz: float | None = None,
    flops: float | None = None,
    costs: Mapping[str, float] | None = None,
    solver: Solver | None = None,
    budget: Budget | None = None,
    stages: int = 1,
    first: float = 0.8,
    regrow: bool = False,
    samples: int | None = None,
    group: int = 1,
    ridge: float = 1e-3,
    first_order: float = 0.0,
    skip: Sequence[str] = (),
    include: Sequence[str] = (),
    loss: SampleLoss | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: StageProgress | None = None,
) -> BudgetReport:
    r"""Prune a network in place within budgets on non-zeros and FLOPs, with a certificate of the last stage.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place. Norm layers keep their statistics; estimate them again on data afterwards where that helps.
    batches : iterable
        Data for gradients, see :func:`sample_gradients`.
    nnz, flops : float, optional
        Shares of the weights and of the dense FLOPs that are kept at most, in [0, 1]; at least one of the two.
    costs : mapping, optional
        See :func:`pruning_problem`.
    solver : Solver, optional
        Default :func:`mipprune.solve`'s own choice, which certifies its answer.
    budget : Budget, optional
        For each stage; default a relative gap of 1e-4.
    stages : int
        1 prunes in one shot (CHITA, FALCON); more take gradients again after each stage and prune on by the cubic
        schedule of :func:`kept_shares` (CHITA++, FALCON++; 16 to 20 stages are usual).
    first : float
        Share kept after the first of several stages.
    regrow : bool
        Let later stages take up weights that earlier ones have pruned.
    samples, group, ridge, first_order, skip, include, loss, seed, device
        See :func:`pruning_problem`. Every stage draws labels, where it does, from its own stream.
    out : path, optional
        Folder that receives every finished stage and, at the end, ``certificates/network.safetensors``, which
        ``mipprune check`` re-checks.
    resume : bool
        Go on after the last stage stored in ``out``.
    progress : callable, optional
        Receives each finished stage; returning ``True`` stops.

    Returns
    -------
    BudgetReport

    Raises
    ------
    InvalidProblem
        On wrong input, or an ``out`` that holds another job.
    KeyboardInterrupt
        When interrupted; the network then is as the last finished stage left it.

    References
    ----------
    arXiv 2302.14623 (CHITA), arXiv 2403.07094 (FALCON).
    """
    data = list(as_batches(batches))
    weights = FlatWeights.of(model, skip, include)
    per_layer = None if flops is None and costs is None else _layer_costs(model, data, weights, costs)
    if nnz is None and flops is None:
        raise InvalidProblem("give a budget: nnz (share of the weights), flops (share of the dense FLOPs), or both")
    plans = {
        key: None if share is None else kept_shares(_share(share, key), stages, first)
        for key, share in (("nnz", nnz), ("flops", flops))
    }
    settings = {
        "nnz": nnz,
        "flops": flops,
        "costs": per_layer,
        "solver": repr(solver),
        "budget": repr(budget),
        "stages": stages,
        "first": first,
        "regrow": regrow,
        "samples": samples,
        "group": group,
        "ridge": ridge,
        "first_order": first_order,
        "seed": seed,
        "data": digest(plain_data(data)),
        "weights": dict(zip(weights.names, weights.sizes, strict=True)),
    }
    store = None if out is None else BudgetJob(Path(out), settings, weights, resume=resume)
    rows = [] if store is None else store.rows
    started = time.perf_counter()
    for stage in range(len(rows), stages):
        begun = time.perf_counter()
        shares = {key: None if plan is None else float(plan[stage]) for key, plan in plans.items()}
        problem, _ = pruning_problem(
            model,
            data,
            nnz=shares["nnz"],
            flops=shares["flops"],
            costs=None if flops is None or per_layer is None else dict(zip(weights.names, per_layer, strict=True)),
            samples=samples,
            group=group,
            ridge=ridge,
            first_order=first_order,
            skip=skip,
            include=include,
            loss=loss,
            seed=seed + stage,
            device=device,
            name="network pruning" if stages == 1 else f"network pruning, stage {stage + 1} of {stages}",
        )
        if not regrow and stage > 0:
            gone = problem.loss.start() == 0
            problem = problem.restrict(torch.zeros_like(gone), gone)
        taken = time.perf_counter() - begun
        solution = solve(problem, solver, budget=budget)
        if solution.stop is Stop.USER or solution.point is None:
            raise KeyboardInterrupt(f"interrupted in stage {stage + 1} of {stages}; {stage} are finished")
        weights.write(solution.point)
        row = _row(stage, solution, weights, per_layer, taken, time.perf_counter() - begun)
        rows = [*rows, row]
        logger.info("stage %d of %d: %s", stage + 1, stages, row)
        if store is not None:
            store.finish(rows, weights, problem, solution)
        if progress is not None and progress(row, stages) and stage + 1 < stages:
            break
    return BudgetReport(
        stages=tuple(rows),
        layers=_layer_rows(weights, per_layer),
        nnz=nnz,
        flops=flops,
        seconds=time.perf_counter() - started,
    )


def _share(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise InvalidProblem(f"{name} is {value!r}; give the share that is kept, a number in [0, 1]")
    return float(value)


def _row(
    stage: int, solution: Solution, weights: FlatWeights, costs: list[float] | None, taken: float, seconds: float
) -> StageRow:
    layers = _layer_rows(weights, costs)
    dense = sum(layer.size * (layer.cost or 0.0) for layer in layers)
    return StageRow(
        stage=stage + 1,
        kept=sum(layer.kept for layer in layers),
        size=weights.size,
        cost=None if costs is None else sum(layer.kept * (layer.cost or 0.0) for layer in layers),
        dense_cost=None if costs is None else dense,
        value=solution.value,
        bound=solution.bound,
        gap=solution.gap,
        proof=solution.proof.value,
        solver=solution.solver,
        gradient_seconds=taken,
        seconds=seconds,
    )


def _layer_rows(weights: FlatWeights, costs: list[float] | None) -> tuple[LayerShare, ...]:
    numbers: Sequence[float | None] = [None] * len(weights.names) if costs is None else costs
    return tuple(
        LayerShare(name, parameter.numel(), int(parameter.detach().count_nonzero()), cost)
        for name, parameter, cost in zip(weights.names, weights.parameters, numbers, strict=True)
    )
