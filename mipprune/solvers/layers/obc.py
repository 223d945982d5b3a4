"""Exact greedy pruning: optimal brain compression."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from ...kernels.greedy import Traces, removal_traces
from .layer import RowGroups, finish, layer_parts, reason_against_layer, row_groups

__all__ = ["OBC"]


@dataclass(frozen=True)
class OBC:
    r"""Remove one weight after another, each time the cheapest, refitting the rest exactly.

    Parameters
    ----------
    dtype : torch.dtype
        Precision of the traces; float64 by default, since the errors of in updates add up.

    Notes
    -----
    Every row is traced on its own, from dense to empty. A budget for the whole layer merges the traces: the cheapest
    next removal of any row is taken until the budget is met. N:M removes only from groups that are still too full.
    On small layers, where the optimum is known, this is the best of the classical heuristics. The work is
    :math:`\tfrac16\,\text{out}\cdot\text{in}^3` multiplications.

    References
    ----------
    Frantar, Singh, Alistarh, "Optimal brain compression", arXiv 2208.11580.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(2, 8), x.T @ x, mp.Cardinality(5))
    >>> int(OBC().solve(problem).mask.sum())
    5
    """

    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float32, torch.float64):
            raise InvalidProblem(f"dtype is {self.dtype}; the traces need float32 or float64")

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "OBC"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`: budgets per layer, per row or per group of inputs."""
        reason = reason_against_layer(problem)
        if reason is None and row_groups(problem) is None:
            supports = type(layer_parts(problem)[1]).__name__
            reason = f"single removals need a budget per layer, row or group of inputs, not {supports}; try ADMM"
        return reason

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; rows without time, or all after an interrupt, are ordered by first costs."""
        accept(self, problem)
        watch = Watch(budget, progress)
        groups = row_groups(problem)
        assert groups is not None
        loss, _ = layer_parts(problem)
        stops: list[Stop] = []

        def go_on() -> bool:
            if progress is not None:
                watch.report(None, None)
            stop = watch.due()
            stops.extend([] if stop is None else [stop])
            return stop is None

        inverse = torch.linalg.inv(loss.gram.double())
        trace = partial(
            removal_traces,
            (0.5 * (inverse + inverse.mT)).to(self.dtype),
            loss.center.to(self.dtype),
            size=groups.size,
            budget=0 if groups.whole else groups.budget,
            on=groups.on,
            off=groups.off,
        )
        try:
            traces = trace(go_on=go_on)
        except KeyboardInterrupt:
            stops.insert(0, Stop.USER)
            traces = trace(go_on=lambda: False)
        mask = _kept(traces, groups, problem.shape)
        point = torch.where(mask, loss.minimise_on(mask, torch.where(mask, loss.center, 0.0)), 0.0)
        stop = stops[0] if stops else Stop.CONVERGED
        return finish(self, problem, point, watch=watch, stop=stop)


def _kept(traces: Traces, groups: RowGroups, shape: tuple[int, ...]) -> Tensor:
    """Return what is left after the removals that the budget asks for."""
    rows, width = shape
    order, cost = traces
    if groups.whole:
        # The cheapest next removal of any row comes first: in each row the largest cost so far decides its turn.
        turn = cost.cummax(dim=1).values.reshape(-1)
        count = max(rows * width - groups.budget, 0)
        taken = torch.zeros_like(turn, dtype=torch.bool)
        taken[turn.argsort(stable=True)[:count]] = True
        taken = taken.reshape(order.shape) & (order >= 0)
    else:
        taken = order >= 0
    mask = torch.ones((rows, width + 1), dtype=torch.bool, device=order.device)
    mask.scatter_(1, torch.where(taken, order, width), False)
    return mask[:, :width]
