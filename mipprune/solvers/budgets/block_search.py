"""Block coordinate descent for whole networks: small blocks of weights chosen anew, each exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.adapters import Masks, Sparse
from ...core.arrays import as_tensor
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Solver, Watch, accept
from ...core.structure import Supports
from ...errors import CertificateError, InvalidProblem
from ...losses.low_rank import LowRank
from ...losses.quadratic import Quadratic
from ...structures.budgets import Budgets
from ...structures.cardinality import Cardinality
from ..branch_and_bound import BranchAndBound
from ..exact.scip import Scip
from ..layers.layer import finish
from .saliency import reason_against_low_rank

__all__ = ["BlockSearch"]


@dataclass(frozen=True)
class BlockSearch:
    r"""Take a block of weights whose choice is doubtful, choose it anew with all others fixed, exactly, and go on.

    Parameters
    ----------
    block : int
        Weights in a block, half of them kept and half pruned at the time; at least 2. The block's problem is a small
        mixed-integer quadratic program.
    rounds : int
        Blocks in all.
    patience : int
        Stop after so many blocks in a row that changed nothing.
    weights : bool
        Move the weights of the block too. Without it kept weights stay at their dense values and the block's problem is
        binary, which is the combinatorial brain surgeon by blocks (iCBS).
    refit : bool
        Solve for all kept weights at the end.
    solver : Solver, optional
        For the blocks; default :class:`~mipprune.BranchAndBound`, and :class:`~mipprune.Scip` for binary blocks, whose
        point alone is used.

    Notes
    -----
    With :math:`\rho` the part of :math:`X(w-\bar w)` that other weights make up, the block's loss is
    :math:`\tfrac12\|X_B(w_B-\bar w_B)+\rho\|^2` plus ridge and first-order term: a quadratic with the positive definite
    Hessian :math:`X_B^\top X_B + rI`, and the block may use what others leave of the budgets. Blocks are those with the
    smallest loss of pruning a kept weight alone, and the largest gain of keeping a pruned one; a block that was tried
    in vain is set aside until something has changed. The value never rises.

    References
    ----------
    arXiv 2411.17796 (iCBS); the blocks with weights are derived here.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> generator = torch.Generator().manual_seed(0)
    >>> weights, gradients = torch.randn(40, generator=generator), torch.randn(4, 40, generator=generator)
    >>> problem = mp.formulations.network_pruning(weights, gradients, nnz=16, ridge=0.5)
    >>> mp.BlockSearch(block=12, rounds=5).solve(problem).value <= mp.Saliency().solve(problem).value
    True
    """

    block: int = 16
    rounds: int = 50
    patience: int = 5
    weights: bool = True
    refit: bool = True
    solver: Solver | None = None

    def __post_init__(self) -> None:
        if self.block < 2 or self.rounds < 1 or self.patience < 1:
            raise InvalidProblem("block must be at least 2, rounds and patience at least 1")

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "BlockSearch" if self.weights else "BlockSearch[masks]"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        reason = reason_against_low_rank(problem)
        if reason is None and isinstance(problem.structure, Sparse):
            supports = problem.structure.supports
            if not isinstance(supports, (Budgets, Cardinality)):
                reason = f"blocks get their share of Budgets or of a Cardinality, not of {type(supports).__name__}"
        return reason

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; the support of the start is where the search begins, default that of magnitude."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss, structure = problem.loss, problem.structure
        assert isinstance(loss, LowRank) and isinstance(structure, Sparse)
        begin = loss.center if start is None else as_tensor(start, "start", shape=problem.shape).to(loss.center.device)
        mask = structure.supports.keep(begin.double().square()).to(begin.device)
        run = _Run(loss, structure.supports, mask, self.weights)
        chosen = self.solver or (BranchAndBound() if self.weights else Scip())
        stop, idle, rounds = Stop.ITERATIONS, 0, 0
        try:
            while rounds < self.rounds:
                due = watch.due(iterations=rounds or None)
                if due is not None:
                    stop = due
                    break
                block = run.next_block(self.block)
                if block.numel() < 2 or idle == self.patience:
                    stop = Stop.CONVERGED
                    break
                before = run.value
                run.choose(block, chosen, min(10.0, watch.remaining))
                rounds += 1
                idle = 0 if run.value < before - 1e-12 * abs(before) else idle + 1
                watch.report(run.value, None)
        except KeyboardInterrupt:
            stop = Stop.USER
        point = run.w
        if self.refit:
            refitted = torch.where(run.mask, loss.minimise_on(run.mask), 0.0)
            point = refitted if problem.value(refitted) < problem.value(point) else point
        return finish(self, problem, point, watch=watch, stop=stop, iterations=max(1, rounds))


class _Run:
    """The current point, and which entries were tried since it last changed."""

    def __init__(self, loss: LowRank, supports: Supports, mask: Tensor, weights: bool) -> None:
        self.loss, self.supports, self.weights, self.mask = loss, supports, weights, mask
        self.center = loss.center.double()
        self.slope = torch.zeros_like(self.center) if loss.slope is None else loss.slope.double()
        self.w = torch.where(mask, loss.minimise_on(mask) if weights else self.center, 0.0)
        self.tried = torch.zeros_like(mask)
        self._assess()

    def _assess(self) -> None:
        d = self.w - self.center
        self.image = self.loss.times(d)
        self.value = 0.5 * float(self.image @ self.image) + 0.5 * self.loss.ridge * float(d @ d) + float(self.slope @ d)

    def next_block(self, size: int) -> Tensor:
        """The untried entries, kept and pruned, whose change alone costs least or gains most; ascending."""
        gradient = self.loss.pull(self.image) + self.loss.ridge * (self.w - self.center) + self.slope
        bend = self.loss.diagonal
        if self.weights:
            change = torch.where(self.mask, 0.5 * bend * self.w.square(), -0.5 * gradient.square() / bend)
        else:
            step = torch.where(self.mask, -self.w, self.center)
            change = gradient * step + 0.5 * bend * step.square()
        usable = ~self.tried if self.weights else ~self.tried & (self.center != 0)
        parts = []
        for side, count in ((self.mask & usable, size // 2), (~self.mask & usable, size - size // 2)):
            order = torch.where(side, change, torch.inf).topk(min(count, int(side.sum())), largest=False)
            parts.append(order.indices)
        return torch.cat(parts).sort().values

    def choose(self, block: Tensor, solver: Solver, seconds: float) -> None:
        """Solve the block's problem and take its answer when it is better."""
        family = _left_over(self.supports, self.mask, block)
        columns = self.loss.gradients.index_select(1, block).double()
        center, ridge = self.center[block], self.loss.ridge
        hessian = columns.mT @ columns
        hessian.diagonal().add_(ridge)
        others = self.image - columns @ (self.w[block] - center)
        slope = columns.mT @ others + self.slope[block]
        step, failed = torch.linalg.solve_ex(hessian, slope)
        self.tried[block] = True
        if int(failed) or not bool(torch.isfinite(step).all()):  # next to no ridge
            return
        middle = center - step
        scale = torch.ones_like(center) if self.weights else center  # w = scale * z
        now = self.w[block] / scale
        away = self.w[block] - middle
        rest = self.value - 0.5 * float(away @ (hessian @ away))  # so that the block's value is that of the network
        loss = Quadratic((0.5 * scale.unsqueeze(1) * hessian * scale).cpu(), (middle / scale).unsqueeze(0).cpu(), rest)
        problem = Problem(loss, Sparse(family) if self.weights else Masks(family), "block")
        limit = Budget(seconds=max(seconds, 1e-3), gap=1e-6)
        try:
            found = solver.solve(problem, budget=limit, start=now.unsqueeze(0).cpu()).point
        except CertificateError:  # the block's Hessian is not positive definite in float64
            return
        if found is None or not problem.value(found) < problem.value(now.unsqueeze(0)) - 1e-12 * abs(self.value):
            return
        before = self.w, self.mask, self.value, self.image
        entries = found.squeeze(0).to(self.w) * scale
        self.w = self.w.index_copy(0, block, entries)
        self.mask = self.mask.index_copy(0, block, entries != 0)
        self._assess()
        if self.value < before[2] and self.supports.violation(self.mask) == 0:
            self.tried = torch.zeros_like(self.tried)
        else:
            self.w, self.mask, self.value, self.image = before


def _left_over(supports: Supports, mask: Tensor, block: Tensor) -> Supports:
    """What a block may use while all other weights stay kept or pruned as they are."""
    outside = mask.clone()
    outside[block] = False
    fixed = {
        side: None if (flags := getattr(supports, side)) is None else flags.reshape(-1).to(block.device)[block].cpu()
        for side in ("on", "off")
    }
    if isinstance(supports, Cardinality):
        shaped = {side: None if flags is None else flags.unsqueeze(0) for side, flags in fixed.items()}
        return replace(supports, count=max(supports.count - int(outside.sum()), 0), **shaped)
    assert isinstance(supports, Budgets)
    ends = torch.as_tensor(supports.sizes).cumsum(0)
    layers = torch.bucketize(block.cpu(), ends, right=True)
    sizes = torch.bincount(layers, minlength=ends.numel())
    present = sizes > 0
    kept = torch.bincount(torch.bucketize(outside.nonzero().ravel().cpu(), ends, right=True), minlength=ends.numel())
    limits = (supports.limits - supports.usage(outside)).clamp_min(0)
    bounds = {
        side: None if (counts := getattr(supports, side)) is None else (counts - kept).clamp_min(0)[present]
        for side in ("lower", "upper")
    }
    return Budgets(sizes[present], supports.costs[:, present], limits, **bounds, **fixed)
