"""One layer, from weights and Gram matrix to a solution with its certificate: the unit of work of a pruning job."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mipprune.core.problem import Problem
from mipprune.core.solution import Solution, Stop
from mipprune.core.solver import Budget, Solver
from mipprune.core.structure import Supports
from mipprune.errors import InvalidProblem, MippruneError, SolverFailure, Unsupported
from mipprune.formulations.layerwise import layerwise
from mipprune.io import Entry, compact
from mipprune.kernels import diagonal_split
from mipprune.networks.report import LayerRow

__all__ = ["Outcome", "Task", "run_task", "written_weight"]

_LARGEST_DAMPING = 1e3


@dataclass(frozen=True, eq=False)
class Task:
    """Everything that is needed to prune one layer; it travels to other processes as it is.

    Parameters
    ----------
    layer, kind : str
        Qualified name; kind of module.
    weight : Tensor, shape (out, in)
        Dense weights, in the dtype of the network.
    gram : Tensor, shape (in, in), float64
        X'X of the calibration inputs, undamped.
    tokens : int
        Rows of X.
    supports : Supports
        The structure.
    solver : Solver
    damping : float
        As a fraction of the mean diagonal of X'X; raised in steps of 10 where X'X is not positive definite with it.
    certify : Budget or None
        For the search for a bound; None for no bound.
    """

    layer: str
    kind: str
    weight: Tensor
    gram: Tensor
    tokens: int
    supports: Supports
    solver: Solver
    damping: float
    certify: Budget | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a task.

    Parameters
    ----------
    entry : Entry
        The damped problem with its solution, for a file.
    weight : Tensor, shape (out, in)
        The pruned weights in the dtype of the network, their support verified.
    row : LayerRow
        For the report.
    """

    entry: Entry
    weight: Tensor
    row: LayerRow


def run_task(task: Task) -> Outcome:
    """Prune one layer.

    Parameters
    ----------
    task : Task

    Returns
    -------
    Outcome

    Raises
    ------
    MippruneError
        Of the type that the cause has, with the layer's name.
    KeyboardInterrupt
        If the solver was interrupted: half a search is not recorded as a result.
    """
    try:
        return _run(task)
    except MippruneError as error:
        raise type(error)(f"layer {task.layer!r}: {error}") from error


def _run(task: Task) -> Outcome:
    started = time.perf_counter()
    problem, damping = _problem(task)
    reason = task.solver.rejects(problem)
    if reason is not None:
        raise Unsupported(f"{task.solver.name} does not take this problem: {reason}")
    solution = _uninterrupted(task.solver.solve(problem))
    if solution.point is None:
        raise SolverFailure(f"{task.solver.name} found no admissible weights ({solution.stop.value})")
    stop, certify_seconds = solution.stop, None
    if task.certify is not None:
        from mipprune.solvers.bounds.relaxation import certify

        before = time.perf_counter()
        solution = compact(problem, _uninterrupted(certify(problem, solution, budget=task.certify)))
        certify_seconds = time.perf_counter() - before
    weight = written_weight(solution, task.supports, task.weight.dtype)
    row = _row(task, problem, solution, weight, damping=damping, stop=stop)
    row = replace(row, seconds=time.perf_counter() - started, certify_seconds=certify_seconds)
    return Outcome(Entry(problem, solution, {"row": row.to_dict()}), weight, row)


def _uninterrupted(solution: Solution) -> Solution:
    if solution.stop is Stop.USER:
        raise KeyboardInterrupt
    return solution


def _problem(task: Task) -> tuple[Problem, float]:
    """The layer's problem with the smallest tried damping that makes X'X positive definite."""
    damping = task.damping
    weight = task.weight.to(device=task.gram.device, dtype=torch.float64)
    while True:
        try:
            return layerwise(weight, task.gram, task.supports, damping=damping, name=task.layer), damping
        except InvalidProblem:
            if damping > _LARGEST_DAMPING or _positive_definite(task.gram, damping):
                raise  # for another reason
        damping = max(10.0 * damping, 1e-6)


def _positive_definite(gram: Tensor, damping: float) -> bool:
    diagonal = gram.diagonal()
    ridge = torch.where(diagonal == 0, 1.0, damping * float(diagonal.mean()))
    return diagonal_split.is_valid(gram + torch.diag(ridge), torch.zeros_like(diagonal))


def written_weight(solution: Solution, supports: Supports, dtype: torch.dtype) -> Tensor:
    """Cast a solution to the dtype of the network, where a support may only shrink, and verify its structure."""
    assert solution.point is not None and solution.mask is not None
    weight = solution.point.to(dtype)
    if not bool(torch.isfinite(weight).all()):
        raise InvalidProblem(
            f"the pruned weights do not fit into {dtype} (largest {float(solution.point.abs().max()):.3g}); load the "
            "network in float32 or bfloat16"
        )
    kept = weight != 0
    if bool((kept & ~solution.mask.to(kept.device)).any()) or supports.violation(kept) != 0:
        raise SolverFailure(f"after the cast to {dtype} the weights violate {supports.describe()}; please report this")
    return weight


def _row(task: Task, problem: Problem, solution: Solution, weight: Tensor, *, damping: float, stop: Stop) -> LayerRow:
    gram, dense = task.gram, task.weight.to(device=task.gram.device, dtype=torch.float64)
    difference = weight.to(device=gram.device, dtype=torch.float64) - dense
    dead = int((gram.diagonal() == 0).sum())
    notes = []
    if damping != task.damping:
        notes.append(f"X'X is not positive definite with damping {task.damping:g}; {damping:g} was used")
    if dead:
        notes.append(f"{dead} inputs were zero on all calibration tokens; their weights are pruned")
    if task.tokens < gram.shape[0]:
        notes.append(f"only {task.tokens} calibration tokens for {gram.shape[0]} inputs")
    return LayerRow(
        layer=task.layer,
        kind=task.kind,
        structure=task.supports.describe(),
        shape=(task.weight.shape[0], task.weight.shape[1]),
        kept=int((weight != 0).sum()),
        tokens=task.tokens,
        damping=damping,
        value=solution.value,
        bound=solution.bound,
        scale=problem.reference.loss.scale,
        undamped_value=_quadratic_form(difference, gram),
        undamped_scale=_quadratic_form(dense, gram),
        written_value=problem.value(weight),
        proof=solution.proof.value,
        stop=stop.value,
        seconds=0.0,
        notes=tuple(notes),
    )


def _quadratic_form(rows: Tensor, gram: Tensor) -> float:
    return float(((rows @ gram) * rows).sum())
