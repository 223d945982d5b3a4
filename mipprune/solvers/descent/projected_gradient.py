"""Projected gradient steps (iterative hard thresholding) for any smooth loss over any structure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.arrays import working_dtype
from ...core.loss import Loss
from ...core.problem import Problem
from ...core.separable import Separable
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...core.structure import Structure
from ...errors import InvalidProblem
from ...losses.least_squares import LeastSquares
from ...losses.quadratic import Quadratic
from ..layers.layer import finish
from ..layers.one_shot import Wanda

__all__ = ["ProjectedGradient"]

_PATIENCE = 5  # iterations without a decrease worth mentioning


@dataclass(frozen=True)
class ProjectedGradient:
    r"""Minimise a separable majorant of the loss over S, again and again: one oracle call for each gradient.

    Parameters
    ----------
    iterations : int
        Largest number of steps.
    accelerate : bool
        Extrapolate between steps, with a plain step whenever that would raise the value.
    debias : int
        Refit the current support after every so many steps; 0 means never.
    refit : bool
        Refit the support found at the end.
    tolerance : float
        Stop when the value falls by less than this, relatively, in five steps in a row.
    published : bool
        The step of AWP instead of the majorant's: undamped Gram matrix, length :math:`2/\|X^\top X\|_F`, Wanda's start.
    dtype : torch.dtype, optional
        Working precision; default float32 for large problems and float64 for small ones.

    Notes
    -----
    With a majorant :math:`m_v \ge F`, :math:`m_v(v) = F(v)`, the step

    .. math:: w \leftarrow \operatorname*{arg\,min}_{w \in S}\, m_v(w) + \text{price}(w)

    never raises the objective. A loss without a majorant gets a curvature found by backtracking. For a family of
    supports this is iterative hard thresholding; for grids, boxes, prices or budgets it is whatever their oracle does.

    References
    ----------
    Blumensath, Davies, "Iterative hard thresholding for compressed sensing", arXiv 0805.0510; arXiv 2506.10205 (AWP).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> loss = mp.LeastSquares(torch.eye(3), torch.tensor([3.0, 1.0, -2.0]))
    >>> problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(2)))
    >>> ProjectedGradient().solve(problem).point.tolist()
    [3.0, 0.0, -2.0]
    """

    iterations: int = 500
    accelerate: bool = True
    debias: int = 0
    refit: bool = True
    tolerance: float = 1e-6
    published: bool = False
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.debias < 0:
            raise InvalidProblem("iterations must be at least 1 and debias at least 0")
        if not self.tolerance >= 0:
            raise InvalidProblem(f"tolerance is {self.tolerance}; it must be >= 0")

    @classmethod
    def iht(cls, iterations: int = 200) -> ProjectedGradient:
        """Return plain iterative hard thresholding: no extrapolation, no refit."""
        return cls(iterations=iterations, accelerate=False, refit=False, tolerance=0.0)

    @classmethod
    def awp(cls, iterations: int = 200) -> ProjectedGradient:
        """Return activation-aware weight pruning with its published step, start and number of iterations.

        Its stopping test needs the number of tokens, which a Gram matrix does not tell; all iterations are run.

        References
        ----------
        arXiv 2506.10205.
        """
        return cls(iterations=iterations, accelerate=False, refit=False, tolerance=0.0, published=True)

    @property
    def name(self) -> str:
        """See :class:`Solver`."""
        return "AWP" if self.published else "ProjectedGradient"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`: AWP takes layers, the method itself takes any problem."""
        if self.published:
            return Wanda().rejects(problem)
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`Solver.solve`; the first step projects the start, so that any array of the right shape will do."""
        accept(self, problem)
        watch = Watch(budget, progress)
        precision = working_dtype(problem.size, self.dtype)
        if start is None:
            start = Wanda().solve(problem).point if self.published else problem.loss.start()
            assert start is not None
        begin = start.to(device=problem.loss.start().device, dtype=precision)
        run = _Run(self, problem, begin, watch)
        stop = run.iterate()
        point = run.best
        if self.refit:
            point = problem.refit(point.double())
        return finish(self, problem, point, watch=watch, stop=stop, iterations=run.iteration)


class _Step:
    """One projected step from a point, in the working precision."""

    def __init__(self, problem: Problem, published: bool, begin: Tensor) -> None:
        loss = problem.loss
        self.structure: Structure = problem.structure
        self.curvature: Tensor | None = None
        self.fixed = published or isinstance(loss, (Quadratic, LeastSquares))  # curvature does not depend on the point
        if published:
            assert isinstance(loss, Quadratic)
            identity = torch.eye(loss.shape[1], dtype=loss.gram.dtype, device=loss.gram.device)
            loss = replace(loss, gram=loss.gram - loss.ridge * identity, ridge=0.0)
            self.curvature = torch.linalg.matrix_norm(loss.gram).to(begin)
        elif self.fixed:
            model = loss.majorant(begin.to(loss.start().dtype))
            self.curvature = None if model is None else model.curvature.to(begin)
        self.loss: Loss = loss.to(dtype=begin.dtype)

    def objective(self, value: float, w: Tensor) -> float:
        """Add the price of the support of ``w``."""
        return value + self.structure.price(w)

    def project(self, linear: Tensor, curvature: Tensor) -> Tensor:
        """Return the minimiser over S of ``<linear, w> + 1/2 <curvature, w^2>``."""
        structure = self.structure
        model = Separable(constant=0.0, linear=linear, curvature=curvature)
        if isinstance(structure, Sparse) and structure.box is None and bool((curvature > 0).all()):
            free = -linear / curvature  # the oracle without its bound
            price = torch.as_tensor(structure.price_per_entry).to(linear)
            return torch.where(structure.supports.keep(-0.5 * linear * free - price), free, 0.0)
        return structure.argmin(model).point.to(linear)

    def __call__(self, v: Tensor, value: float, gradient: Tensor) -> Tensor:
        """Step from ``v``, where the loss has this value and gradient."""
        if not self.fixed:
            model = self.loss.majorant(v)
            if model is not None:
                return self.project(model.linear.to(v), model.curvature.to(v))
            return self._backtracked(v, value, gradient)
        assert self.curvature is not None
        return self.project(gradient - self.curvature * v, self.curvature)

    def _backtracked(self, v: Tensor, value: float, gradient: Tensor) -> Tensor:
        """Raise one curvature for all entries until the model lies above the loss where it is minimised."""
        curvature = torch.ones((), dtype=v.dtype, device=v.device) if self.curvature is None else 0.5 * self.curvature
        for _ in range(200):
            w = self.project(gradient - curvature * v, curvature)
            step = w - v
            bound = value + float((gradient * step).sum()) + 0.5 * float(curvature) * float(step.square().sum())
            if self.loss.value(w) <= bound + 1e-7 * abs(bound):
                break
            curvature = 2.0 * curvature
        self.curvature = curvature
        return w


class _Run:
    """The sequence of steps, the best point on the way, and the reasons to stop."""

    def __init__(self, solver: ProjectedGradient, problem: Problem, begin: Tensor, watch: Watch) -> None:
        self.solver, self.problem, self.watch = solver, problem, watch
        self.step = _Step(problem, solver.published, begin)
        self.iteration = 0
        self.point = self.step(begin, *self.step.loss.value_and_gradient(begin))
        self._assess()
        self.best, self.best_value = self.point, self.value

    def _assess(self) -> None:
        """Evaluate loss, gradient and objective at the current point."""
        self.loss, self.gradient = self.step.loss.value_and_gradient(self.point)
        self.value = self.step.objective(self.loss, self.point)

    def iterate(self) -> Stop:
        """Step until the value stands still or a limit is reached."""
        solver, idle, momentum = self.solver, 0, 1.0
        previous = self.point
        try:
            while self.iteration < solver.iterations:
                stop = self.watch.due(iterations=self.iteration)
                if stop is not None:
                    return stop
                grown = 0.5 * (1.0 + (1.0 + 4.0 * momentum * momentum) ** 0.5)
                share = (momentum - 1.0) / grown if solver.accelerate else 0.0
                previous, momentum = self.point, self._advance(previous, share, grown)
                self.iteration += 1
                if solver.debias and self.iteration % solver.debias == 0:
                    self._debias()
                decrease = self.best_value - self.value
                idle = 0 if decrease > solver.tolerance * abs(self.best_value) else idle + 1
                if decrease > 0:
                    self.best, self.best_value = self.point, self.value
                    if self.watch.progress is not None:
                        self.watch.report(self.value, None)
                if idle >= _PATIENCE and solver.tolerance > 0:
                    return Stop.CONVERGED
        except KeyboardInterrupt:
            return Stop.USER
        return Stop.ITERATIONS

    def _advance(self, previous: Tensor, share: float, grown: float) -> float:
        """Take one step, plain when the extrapolated one would raise the value; returns the next momentum."""
        before = self.point, self.loss, self.gradient, self.value
        if share > 0.0:
            ahead = self.point + share * (self.point - previous)
            self.point = self.step(ahead, *self.step.loss.value_and_gradient(ahead))
            self._assess()
            if self.value <= before[3]:
                return grown
            self.point, self.loss, self.gradient, self.value = before
        self.point = self.step(self.point, self.loss, self.gradient)
        self._assess()
        return grown if share == 0.0 else 1.0

    def _debias(self) -> None:
        """Refit the current support."""
        before = self.point, self.loss, self.gradient, self.value
        self.point = self.problem.refit(self.point.double()).to(self.point)
        self._assess()
        if not self.value < before[3]:
            self.point, self.loss, self.gradient, self.value = before
