"""The discrete first-order method for whole networks: gradient steps projected by the exact selection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.arrays import as_tensor
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...core.structure import Supports
from ...errors import InvalidProblem
from ...losses.low_rank import LowRank
from ..layers.layer import finish
from .saliency import reason_against_low_rank

__all__ = ["DiscreteFirstOrder"]

_PATIENCE = 5  # steps in a row that try new supports and gain nothing


@dataclass(frozen=True)
class DiscreteFirstOrder:
    r"""Step against the gradient, project on the budgets by their oracle, search the step length in an active set.

    Parameters
    ----------
    iterations : int
        Steps in all.
    growth : float
        Factor between the step lengths that are tried, > 1 (1.2 in FALCON, 2 in CHITA).
    tries : int
        How many of them, >= 1.
    active : float
        Size of the first active set over the number of kept weights, >= 1; 0 works on all weights from the start.
    rounds : int
        How often the active set is enlarged at most.
    refit : bool
        Solve for the kept weights exactly at the start and whenever the support has changed.
    tolerance : float
        Five steps in a row that try new supports and gain less than this, relatively, end a round.

    Notes
    -----
    The Euclidean projection of v on supports within budgets keeps the support with the largest sum of :math:`v_i^2`:
    one selection. With the step :math:`1/L`, :math:`L = \sigma_{\max}(X)^2 + r`, the value never rises, since the
    projection is exact. Each iteration first minimises exactly along the gradient on the current support, then tries
    longer and longer projected steps and takes the best; the shortest of them grows while no support changes. As L is
    large for gradients of networks, supports change slowly: the refit does most of the work, and
    :class:`~mipprune.DualBundle` finds better supports. It is here as the published method.

    References
    ----------
    arXiv 2403.07094 (FALCON), arXiv 2302.14623 (CHITA), whose step search and active set are restated here.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> generator = torch.Generator().manual_seed(0)
    >>> weights, gradients = torch.randn(50, generator=generator), torch.randn(4, 50, generator=generator)
    >>> problem = mp.formulations.network_pruning(weights, gradients, nnz=20, ridge=0.5)
    >>> mp.DiscreteFirstOrder().solve(problem).value <= mp.Saliency().solve(problem).value
    True
    """

    iterations: int = 60
    growth: float = 1.2
    tries: int = 5
    active: float = 2.0
    rounds: int = 10
    refit: bool = True
    tolerance: float = 1e-7

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.tries < 1 or self.rounds < 1:
            raise InvalidProblem("iterations, tries and rounds must be at least 1")
        if not self.growth > 1 or not (self.active == 0 or self.active >= 1) or not self.tolerance >= 0:
            raise InvalidProblem("growth must be above 1, active 0 or at least 1, and tolerance >= 0")

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "DiscreteFirstOrder"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        return reason_against_low_rank(problem)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; the start is projected first."""
        accept(self, problem)
        watch = Watch(budget, progress)
        loss, structure = problem.loss, problem.structure
        assert isinstance(loss, LowRank) and isinstance(structure, Sparse)
        begin = loss.center.double() if start is None else as_tensor(start, "start", shape=problem.shape)
        run = _Run(loss, structure.supports, begin.to(device=loss.center.device, dtype=torch.float64))
        stop = Stop.CONVERGED
        try:
            stop = self._iterate(run, watch)
        except KeyboardInterrupt:
            stop = Stop.USER
        mask = run.mask
        point = torch.where(mask, loss.minimise_on(mask) if self.refit else run.w, 0.0)
        return finish(self, problem, point, watch=watch, stop=stop, iterations=max(1, run.steps))

    def _iterate(self, run: _Run, watch: Watch) -> Stop:
        inside = run.first_active(self.active)
        if self.refit:
            run.refit()
        for _ in range(self.rounds):
            while run.steps < self.iterations:
                due = watch.due(iterations=run.steps or None)
                if due is not None:
                    return due
                before = run.value
                run.step(inside, self.growth, self.tries, self.refit)
                watch.report(run.value, None)
                run.idle = run.idle + 1 if before - run.value <= self.tolerance * abs(before) and run.changed else 0
                if run.idle == _PATIENCE:
                    break
            else:
                return Stop.ITERATIONS
            run.idle = 0
            if inside is None:
                break
            grown = run.enlarge(inside)
            if grown is None:
                break
            inside = grown
        return Stop.CONVERGED


class _Run:
    """The current point with its image under X, its value and its gradient."""

    def __init__(self, loss: LowRank, supports: Supports, begin: Tensor) -> None:
        self.loss, self.supports = loss, supports
        self.center = loss.center.double()
        self.slope = torch.zeros_like(self.center) if loss.slope is None else loss.slope.double()
        self.bound = (1.0 + 1e-6) * loss.norm + loss.ridge
        self.steps = 0
        self.length = 1.0 / self.bound
        self.idle, self.changed = 0, False
        self.mask = supports.keep(begin.square()).to(begin.device)
        self.w = torch.where(self.mask, begin, 0.0)
        self.image = self._times(self.w - self.center)
        self.value = self._value(self.w, self.image)

    def _times(self, d: Tensor) -> Tensor:
        """``X d`` in the precision of X: it steers the search only."""
        x = self.loss.gradients
        return (x @ d.to(x.dtype)).double()

    def _value(self, w: Tensor, image: Tensor) -> float:
        d = w - self.center
        return 0.5 * float(image @ image) + 0.5 * self.loss.ridge * float(d @ d) + float(self.slope @ d)

    def gradient(self) -> Tensor:
        x = self.loss.gradients
        pulled = (x.mT @ self.image.to(x.dtype)).double()
        return pulled + self.loss.ridge * (self.w - self.center) + self.slope

    def first_active(self, factor: float) -> Tensor | None:
        """The entries with the largest gradient step, ``factor`` times as many as are kept; None for all of them."""
        kept = int(self.mask.sum())
        if factor == 0 or factor * kept >= self.mask.numel():
            return None
        step = (self.w - self.gradient() / self.bound).abs()
        step = torch.where(self.mask, torch.inf, step)
        inside = torch.zeros_like(self.mask)
        inside[step.topk(max(1, int(factor * kept))).indices] = True
        return inside

    def _projected(self, v: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor, Tensor, float]:
        scores = v.square() if inside is None else torch.where(inside, v.square(), 0.0)
        mask = self.supports.keep(scores).to(v.device)
        w = torch.where(mask, v, 0.0)
        image = self._times(w - self.center)
        return mask, w, image, self._value(w, image)

    def step(self, inside: Tensor | None, growth: float, tries: int, refit: bool) -> None:
        """One iteration inside the active set; the value never rises."""
        self.steps += 1
        gradient = self.gradient()
        best = self.mask, self.w, self.image, self.value
        along = torch.where(self.mask, gradient, 0.0)
        bent = self._times(along)
        curvature = float(bent @ bent) + self.loss.ridge * float(along @ along)
        if curvature > 0:
            length = float(along @ along) / curvature
            w, image = self.w - length * along, self.image - length * bent
            value = self._value(w, image)
            best = (self.mask, w, image, value) if value < best[3] else best
        self.changed = False
        for number in range(tries):
            found = self._projected(self.w - self.length * growth**number * gradient, inside)
            self.changed = self.changed or not torch.equal(found[0], self.mask)
            best = found if found[3] < best[3] else best
        if not self.changed:
            self.length *= growth**tries
        elif torch.equal(best[0], self.mask):  # too far: every new support was worse
            self.length = max(self.length / growth**tries, 1.0 / self.bound)
        moved = not torch.equal(best[0], self.mask)
        self.mask, self.w, self.image, self.value = best
        if moved and refit:
            self.refit()

    def refit(self) -> None:
        """Minimise over the weights on the current support."""
        w = torch.where(self.mask, self.loss.minimise_on(self.mask), 0.0)
        image = self._times(w - self.center)
        if (value := self._value(w, image)) < self.value:
            self.w, self.image, self.value = w, image, value

    def enlarge(self, inside: Tensor) -> Tensor | None:
        """Add the entries that a step with all weights brings in, if it lowers the value; None when it does not."""
        gradient = self.gradient()
        for length in (0.5 / self.bound, 1.0 / self.bound):
            found = self._projected(self.w - length * gradient, None)
            if found[3] < self.value and bool((found[0] & ~inside).any()):
                self.mask, self.w, self.image, self.value = found
                return inside | found[0]
        return None
