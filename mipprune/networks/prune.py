"""Pruning a whole network: calibrate, solve each layer, certify, write back, report; resumable at any moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, as_completed
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mipprune.core.solver import Budget, Solver
from mipprune.core.structure import Supports
from mipprune.errors import InvalidProblem
from mipprune.networks.allocation import Allocation, allocate
from mipprune.networks.calibration import as_batches, calibrate
from mipprune.networks.gram import Gram
from mipprune.networks.job import Finished, Job, plan
from mipprune.networks.modules import PrunableLayer, survey
from mipprune.networks.report import LayerRow, Report
from mipprune.networks.sequential import BlockWalker, Stage
from mipprune.networks.task import Outcome, Task, run_task

__all__ = ["LayerProgress", "StructureChoice", "prune"]

logger = logging.getLogger("mipprune")

StructureChoice = Supports | Callable[[str, tuple[int, int]], Supports | None]
"""One structure for every layer, or a function of a layer's name and shape (out, in); None leaves it dense."""

LayerProgress = Callable[[LayerRow, int, int], bool | None]
"""Called with a finished layer and the numbers of finished and of all layers; returning ``True`` stops the job."""

_DEFAULT_CERTIFY = Budget(seconds=60.0)
_NEVER_CALLED = "the network never called it on the calibration data"
_ONLY_ZEROS = "all its inputs were zero on the calibration data"


def prune(
    model: nn.Module,
    batches: Iterable[object],
    structure: StructureChoice | None = None,
    solver: Solver | None = None,
    *,
    allocation: Allocation | None = None,
    certify: bool | Budget = False,
    sequential: bool = True,
    executor: Executor | None = None,
    skip: Sequence[str] = (),
    include: Sequence[str] = (),
    damping: float = 0.01,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: LayerProgress | None = None,
) -> Report:
    r"""Prune the layers of a network in place, each so that its outputs on calibration data change least.

    Parameters
    ----------
    model : torch.nn.Module
        The network. Its weights are replaced, in their dtype and on their device; biases and everything else stay.
    batches : iterable
        Calibration data, see `mipprune.networks.calibration_batches`; kept in memory.
    structure : Supports, or callable
        For example ``NofM(2, 4)``, or ``lambda name, shape: Cardinality(round(0.3 * shape[0] * shape[1]))``.
    solver : Solver, optional
        Default `mipprune.ADMM`.
    allocation : Allocation, optional
        Instead of a structure: a budget for the whole network, shared out over the layers by the errors that each has
        at several densities on the inputs of the dense network, see `mipprune.networks.allocate`.
    certify : bool or Budget
        Whether to search for a lower bound of each layer's error, and for how long per layer (True: 60 seconds).
    sequential : bool
        True: each layer sees what the already pruned layers before it produce. False: one pass through the dense
        network serves all layers, which then are independent of each other.
    executor : concurrent.futures.Executor, optional
        Where layers are solved that do not wait for each other: all of them, or in sequential mode those that read the
        same input. Processes, ``dask.distributed.Client.get_executor()``, ``mpi4py.futures.MPIPoolExecutor``, ...
    skip, include : sequence of str
        Layer patterns, see `mipprune.networks.survey`.
    damping : float
        Ridge as a fraction of the mean diagonal of X'X, >= 0. Where X'X is not positive definite with it, it is raised
        in steps of 10, which the report says.
    seed : int
        Given to a solver that has a seed. The same seed and data give the same masks.
    device : torch.device or str, optional
        Where to run the network and to solve; default: where the network is.
    out : path, optional
        A folder for the job: ``job.json`` and, in ``certificates``, a file for each finished layer with its problem,
        solution and certificate, which `mipprune.io.check_file` re-checks.
    resume : bool
        Go on with the job in `out`: finished layers are read, not repeated. Needs the same network, data and settings.
    progress : callable, optional
        See `LayerProgress`.

    Returns
    -------
    Report

    Raises
    ------
    InvalidProblem
        If nothing can be pruned, the structure does not fit some layers, there are no data, weights or activations are
        not finite, or the job in `out` is another one. The message names the layers.
    Unsupported
        If the solver does not take such problems.
    KeyboardInterrupt
        Passed on with a word on how to continue; everything finished is in `out`.

    Notes
    -----
    Values and bounds refer to the float64 solution of a layer's damped problem,

    .. math:: \min_W\; \mathrm{tr}\,(W - \hat W) (X^\top X + \lambda I) (W - \hat W)^\top ,

    for the inputs X that the layer saw. The support of the weights is verified again after their cast to the dtype of
    the network, and the report gives the error after the cast beside the other.

    References
    ----------
    arXiv 2406.07831 (ALPS), arXiv 2301.00774 (SparseGPT) for the sequential protocol.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    >>> data = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> report = prune(net, [data], mp.NofM(2, 4))
    >>> report.density, int((net[0].weight != 0).sum())
    (0.5, 64)
    """
    started = time.perf_counter()
    used = _seeded(solver, seed)
    if (structure is None) == (allocation is None):
        raise InvalidProblem(
            "give either a structure, such as NofM(2, 4), or an allocation, such as Allocation(nnz=0.5)"
        )
    if structure is not None:
        chosen, skipped = _choose(model, structure, skip, include)
    held = list(as_batches(batches))
    if not held:
        raise InvalidProblem(
            "the calibration data held no batch; give at least one (an exhausted iterator looks empty)"
        )
    if allocation is not None:
        shared = allocate(
            model,
            held,
            allocation,
            used,
            executor=executor,
            skip=skip,
            include=include,
            damping=damping,
            device=device,
            out=out,
            resume=resume,
        )
        chosen, skipped = _choose(model, shared.structure, skip, include)
    budget = _DEFAULT_CERTIFY if certify is True else certify or None
    by_name = {layer.name: layer for layer, _ in chosen}
    job: Job | None = None
    finished: dict[str, Finished] = {}
    if out is not None:
        description = plan(chosen, held, used, certify=budget, sequential=sequential, damping=damping, seed=seed)
        job = Job(out, description, resume=resume)
        finished = job.finished(chosen)
        logger.info("%d of %d layers are done", len(finished), len(chosen))
    elif resume:
        raise InvalidProblem("resume=True needs the folder of the job: give out=...")
    rows = {name: item.row for name, item in finished.items()}
    remaining = [layer for layer, _ in chosen if layer.name not in rows]
    supports = {layer.name: family for layer, family in chosen}
    run = _Run(supports, used, damping, budget, None if device is None else torch.device(device), executor)
    try:
        restore = _Restore(by_name, finished)
        stages = _stages(model, held, remaining, restore, sequential=sequential, device=device)
        with closing(run.outcomes(stages, skipped)) as outcomes:
            for outcome in outcomes:
                row = outcome.row
                if job is not None:
                    job.store(outcome)
                by_name[row.layer].write(outcome.weight)  # before the next stage is computed
                rows[row.layer] = row
                logger.info("pruned %s: relative error %.4g", row.layer, row.relative_error)
                if progress is not None and progress(row, len(rows), len(chosen)):
                    break
            else:
                seen = {name for name, _ in skipped} | set(rows)
                skipped += [(layer.name, _NEVER_CALLED) for layer in remaining if layer.name not in seen]
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(_how_to_continue(out, len(rows), len(chosen))) from interrupt
    left_alone = {name for name, _ in skipped}
    return Report(
        rows=tuple(rows[layer.name] for layer, _ in chosen if layer.name in rows),
        skipped=tuple(skipped),
        solver=repr(used),
        settings=_settings(budget, sequential, damping, seed, held, rows)
        | ({} if allocation is None else {"allocation": allocation.describe()}),
        seconds=time.perf_counter() - started,
        layers=sum(layer.name not in left_alone for layer, _ in chosen),
    )


def _choose(
    model: nn.Module, structure: StructureChoice, skip: Sequence[str], include: Sequence[str]
) -> tuple[list[tuple[PrunableLayer, Supports]], list[tuple[str, str]]]:
    """The layers to prune with their structures, and those left alone; refuses what cannot work before any work."""
    found = survey(model, skip, include)
    skipped = [(entry.name, entry.reason) for entry in found.skipped]
    chosen: list[tuple[PrunableLayer, Supports]] = []
    unfit: list[str] = []
    for layer in found.layers:
        supports = structure if isinstance(structure, Supports) else structure(layer.name, layer.shape)
        if supports is None:
            skipped.append((layer.name, "left dense by the choice of structures"))
            continue
        if not isinstance(supports, Supports):
            raise InvalidProblem(
                f"the structure of layer {layer.name!r} is a {type(supports).__name__}; give a family of supports such "
                "as NofM(2, 4), or None to leave the layer dense"
            )
        try:
            supports.check_shape(layer.shape)
        except InvalidProblem as error:
            unfit.append(f"{layer.name} ({error})")
            continue
        if not bool(torch.isfinite(layer.parameter).all()):
            raise InvalidProblem(
                f"the weights of layer {layer.name!r} contain NaN or infinite values; repair the network"
            )
        chosen.append((layer, supports))
    if unfit:
        raise InvalidProblem(
            f"the structure does not fit {len(unfit)} of {len(found.layers)} layers: {'; '.join(unfit[:8])}"
            f"{'; ...' if len(unfit) > 8 else ''}. Skip these layers (skip=..., on the command line --skip), or choose "
            "another structure"
        )
    if not chosen:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        raise InvalidProblem(f"the network has no layer to prune{f' ({reasons})' if reasons else ''}")
    return chosen, skipped


def _seeded(solver: Solver | None, seed: int) -> Solver:
    if solver is None:
        from mipprune.solvers.layers.admm import ADMM

        solver = ADMM()
    if is_dataclass(solver) and any(field.name == "seed" for field in fields(solver)):
        return cast(Solver, replace(cast(Any, solver), seed=seed))
    return solver


@dataclass(frozen=True)
class _Restore:
    """Writes the layers that earlier runs have finished into the network."""

    layers: dict[str, PrunableLayer]
    finished: dict[str, Finished]

    def pruned(self) -> None:
        for name, item in self.finished.items():
            self.layers[name].write(item.weight)

    def dense(self) -> None:
        for name, item in self.finished.items():
            self.layers[name].write(item.dense)


def _stages(
    model: nn.Module,
    batches: Sequence[object],
    layers: Sequence[PrunableLayer],
    restore: _Restore,
    *,
    sequential: bool,
    device: torch.device | str | None,
) -> Iterator[Stage]:
    """The layers that are left, with inputs from the network as it would be had the job never been interrupted."""
    if sequential or not layers:
        restore.pruned()
        if layers:
            yield from BlockWalker(model, batches, layers, device=device)
        return
    restore.dense()
    grams = calibrate(model, batches, layers, device=device)
    restore.pruned()
    yield Stage("", tuple(layers), grams)


class _Run:
    """Turns stages into outcomes, here or wherever the executor works."""

    def __init__(
        self,
        supports: dict[str, Supports],
        solver: Solver,
        damping: float,
        certify: Budget | None,
        device: torch.device | None,
        executor: Executor | None,
    ) -> None:
        self._supports, self._solver, self._damping, self._certify = supports, solver, damping, certify
        self._device, self._executor = device, executor

    def outcomes(self, stages: Iterable[Stage], skipped: list[tuple[str, str]]) -> Generator[Outcome, None, None]:
        """Solve the layers of all stages in turn; layers without any input are added to `skipped`."""
        for stage in stages:
            tasks = self._tasks(stage, skipped)
            yield from map(run_task, tasks) if self._executor is None else self._elsewhere(self._executor, tasks)

    def _elsewhere(self, executor: Executor, tasks: Iterable[Task]) -> Iterator[Outcome]:
        futures: list[Future[Outcome]] = [executor.submit(run_task, task) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()

    def _tasks(self, stage: Stage, skipped: list[tuple[str, str]]) -> Iterator[Task]:
        matrix, owner = None, None
        for layer in stage.layers:
            gram: Gram = stage.grams[layer.name]
            if gram is not owner or matrix is None:
                matrix, owner = self._placed(gram.matrix(), layer), gram
            if not bool(matrix.diagonal().any()):
                skipped.append((layer.name, _ONLY_ZEROS if gram.tokens else _NEVER_CALLED))
                continue
            yield Task(
                layer=layer.name,
                kind=layer.kind,
                weight=layer.weight_matrix().to(matrix.device),
                gram=matrix,
                tokens=gram.tokens,
                supports=self._supports[layer.name],
                solver=self._solver,
                damping=self._damping,
                certify=self._certify,
            )

    def _placed(self, matrix: Tensor, layer: PrunableLayer) -> Tensor:
        return matrix.to(self._device if self._device is not None else layer.parameter.device)


def _how_to_continue(out: str | Path | None, done: int, total: int) -> str:
    if out is None:
        return (
            f"interrupted after {done} of {total} layers; the network is partly pruned, and without out=... nothing "
            "was kept to resume from"
        )
    return (
        f"interrupted after {done} of {total} layers, which are kept in {str(out)!r}; continue with the same call and "
        "resume=True"
    )


def _settings(
    budget: Budget | None,
    sequential: bool,
    damping: float,
    seed: int,
    batches: Sequence[object],
    rows: dict[str, LayerRow],
) -> dict[str, str]:
    tokens = max((row.tokens for row in rows.values()), default=0)
    return {
        "certify": "no" if budget is None else repr(budget),
        "inputs": "of the layers pruned so far (sequential)" if sequential else "of the dense network",
        "damping": f"{damping:g} of the mean diagonal of X'X",
        "seed": str(seed),
        "calibration": f"{len(batches)} batches, up to {tokens:,} tokens for a layer",
        "torch": torch.__version__,
    }
