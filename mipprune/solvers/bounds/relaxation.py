"""Maximising the bound B(v): the perspective relaxation, the search for a good split, and ``certify``."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.arrays import as_tensor, working_dtype
from ...core.certificate import Tangent
from ...core.dual import Dual
from ...core.problem import Problem
from ...core.separable import Separable
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch
from ...errors import CertificateError, InvalidProblem
from .bundle import maximise_dual, view

__all__ = ["Bounded", "Relaxed", "best_tangent", "certify", "relax"]


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What one run on the perspective relaxation found.

    Attributes
    ----------
    point : Tensor, shape of the problem
        The point with the largest bound.
    bound : float
        Its bound in working precision: a guide, not a proof.
    primal : Tensor
        The last primal iterate.
    shares : Tensor
        Its fractional mask.
    weights : Tensor
        Supergradient of the relaxation value in the split (without the factor 1/2).
    iterations : int
    dual : Tensor or None
        Scaled multipliers of the splitting, to go on from.
    """

    point: Tensor
    bound: float
    primal: Tensor
    shares: Tensor
    weights: Tensor
    iterations: int
    dual: Tensor | None = None


def _bound_at(problem: Problem, y: Tensor, split: Tensor, value: float, gradient: Tensor) -> float:
    """B(y) in working precision, from a value and gradient that are there already."""
    y64 = y.double()
    constant = value - float((gradient * y64).sum()) + 0.5 * float((split * y64 * y64).sum())
    model = Separable(constant=constant, linear=gradient - split * y, curvature=split)
    return problem.structure.argmin_bound(model, None)


def relax(
    problem: Problem,
    split: Tensor,
    start: Relaxed | Tensor,
    *,
    iterations: int = 30,
    every: int = 10,
    cutoff: float = math.inf,
    watch: Watch | None = None,
    strength: float = 0.1,
    extrapolation: float = 1.7,
) -> Relaxed:
    """Approach the maximum of B(v) for a fixed split, in the precision of ``start``.

    Parameters
    ----------
    problem : Problem
        In the precision and on the device of ``start``.
    split : Tensor broadcastable to the shape
        A valid split.
    start : Tensor or Relaxed
        Starting point, or an earlier result to go on from.
    iterations : int
        Each costs one product and one proximal step (or one oracle call).
    every : int
        Iterations between evaluations of B.
    cutoff : float
        Stop as soon as B exceeds it.
    watch : Watch, optional
        Stops the run when its time is up.
    strength, extrapolation : float
        Weight of the coupling relative to the diagonal of the Hessian, and over-relaxation in [1, 2).

    Notes
    -----
    Operator splitting (ADMM) on the perspective relaxation: one side solves with the smooth remainder exactly, the
    other takes the structure's proximal step. The smooth side's iterates are good points of tangency after 10 to 20
    iterations
    whatever the condition number; accelerated proximal gradient needs several hundred. Where loss or structure lack
    their part, the Frank-Wolfe method with exact line search needs the oracle alone. A loss that few dual
    variables decide is left to the bundle method of :mod:`mipprune.solvers.bounds.bundle`.
    """
    begin = (start.primal if isinstance(start, Relaxed) else start).nan_to_num(0.0, 0.0, 0.0)  # it may have overflowed
    few = view(problem, split)
    if few is not None:
        return _from_dual(problem, few, begin, iterations, cutoff, watch)
    resolvent = problem.loss.resolvent(split, strength)
    split = split.expand(problem.shape)
    step = None if resolvent is None else problem.structure.relaxed_step(begin, split, resolvent[0])
    if resolvent is None or step is None:
        return _conditional_gradient(problem, split, begin, iterations, cutoff, watch)
    metric, apply = resolvent
    x, z = (begin, step[1])
    dual = start.dual if isinstance(start, Relaxed) and start.dual is not None else torch.zeros_like(begin)
    dual = dual.nan_to_num(0.0, 0.0, 0.0)
    best_point, best, done = begin, -math.inf, 0
    for done in range(1, iterations + 1):
        w = apply(x - dual)
        mixed = extrapolation * w + (1.0 - extrapolation) * x
        step = problem.structure.relaxed_step(mixed + dual, split, metric)
        assert step is not None
        x, z = step
        dual = dual + mixed - x
        if done % every == 0 or done == iterations:
            bound = _bound_at(problem, w, split, *problem.loss.value_and_gradient(w))
            if bound > best:
                best_point, best = w, bound
            if best > cutoff or (watch is not None and watch.due() is not None):
                break
    ratio = torch.where(z > 0, x / z.clamp_min(torch.finfo(z.dtype).tiny), 0.0)
    return Relaxed(best_point, best, x, z, ratio.square() * z * (1.0 - z), done, dual)


def _from_dual(
    problem: Problem, dual: Dual, start: Tensor, iterations: int, cutoff: float, watch: Watch | None
) -> Relaxed:
    """The bundle method, its dual vector as a point of tangency."""
    bundle = maximise_dual(problem, dual, start, iterations=iterations, cutoff=cutoff, watch=watch)
    assert bundle.point is not None
    point, model = dual.point(bundle.point), dual.model(bundle.point)
    z = torch.zeros_like(point) if bundle.shares is None else bundle.shares.to(point)
    ratio = -model.linear / model.curvature
    return Relaxed(point, bundle.bound, ratio * z, z, ratio.square() * z * (1.0 - z), bundle.iterations)


def _conditional_gradient(
    problem: Problem, split: Tensor, start: Tensor, iterations: int, cutoff: float, watch: Watch | None
) -> Relaxed:
    """Frank-Wolfe on min F(w) - 1/2<s,w^2> + 1/2<s,q> over the hull of (w, w^2), w in S; every step yields a bound."""
    model = problem.loss.majorant(start)
    model = model if model is not None and bool(model.linear.isfinite().all()) else None  # it may overflow
    first = problem.structure.argmin(
        Separable(constant=0.0, linear=-start, curvature=torch.ones_like(start)) if model is None else model
    ).point.to(start)
    first = first.nan_to_num(0.0, 0.0, 0.0)
    point, square, shares = first, first * first, (first != 0).to(start.dtype)
    best_point, best, done = point, -math.inf, 0
    while done < iterations:
        done += 1
        value, gradient = problem.loss.value_and_gradient(point)
        bound = _bound_at(problem, point, split, value, gradient)
        if bound > best:
            best_point, best = point, bound
        if best > cutoff or (watch is not None and watch.due() is not None):
            break
        linear = gradient - split * point
        if not bool(linear.isfinite().all()):
            break
        vertex = problem.structure.argmin(Separable(constant=0.0, linear=linear, curvature=split)).point.to(start)
        toward, toward_square = vertex - point, vertex * vertex - square
        slope = float((linear * toward).sum() + 0.5 * (split * toward_square).sum())
        if slope >= 0:
            break
        ahead, _ = problem.loss.value_and_gradient(vertex)
        # Along the segment the objective of a quadratic loss is a parabola: its bend follows from the two end values.
        bend = ahead - 0.5 * float((split * vertex * vertex).sum()) - value + 0.5 * float((split * point * point).sum())
        bend -= float((linear * toward).sum())
        size = min(1.0, -slope / (2.0 * bend)) if bend > 0 else 1.0
        point = point + size * toward
        square = square + size * toward_square
        shares = shares + size * ((vertex != 0).to(start.dtype) - shares)
    return Relaxed(best_point, best, point, shares, (square - point * point).clamp_min(0.0), done)


@dataclass(frozen=True, eq=False)
class Bounded:
    """The best tangent found, its bound in float64, the split that goes with it, and the last relaxation."""

    tangent: Tangent
    bound: float
    split: Tensor | None
    relaxed: Relaxed
    iterations: int


def best_tangent(
    problem: Problem,
    point: Tensor,
    *,
    splits: int,
    iterations: int,
    watch: Watch,
    target: float = math.inf,
    dtype: torch.dtype | None = None,
    strength: float = 0.1,
) -> Bounded:
    """Search for the tangent with the largest bound: relaxations for a fixed split, Frank-Wolfe steps between them.

    Parameters
    ----------
    problem : Problem
    point : Tensor
        Starting point.
    splits, iterations : int
        Frank-Wolfe steps on the split, and splitting steps for each.
    watch : Watch
        Reports each improved bound; its due time ends the search after at least one tangent.
    target : float
        Bound at which the search ends.
    dtype : torch.dtype, optional
        Precision of the search.
    strength : float
        See :func:`relax`.

    Notes
    -----
    The relaxation value is concave in the split, with the supergradient ``w^2 (1/z - 1)``. Step sizes are 0.9 and
    then 2/(t+2); a linear step's solution is never used alone, since it may have near-zero entries.
    """
    work_dtype = working_dtype(problem.size, dtype)
    work = problem.to(dtype=work_dtype)
    split = problem.loss.best_split()
    like = work.loss.start()
    start: Relaxed | Tensor = point.to(device=like.device, dtype=work_dtype)
    best: Bounded | None = None
    value, calls = problem.value(point), 0
    for number in range(splits + 1):
        used = torch.zeros((), dtype=torch.float64) if split is None else split
        relaxed = relax(
            work, used.to(like), start, iterations=iterations, cutoff=target, watch=watch, strength=strength
        )
        calls += relaxed.iterations
        reached = relaxed.point.nan_to_num(0.0, 0.0, 0.0)  # it may lie beyond all numbers, where the loss is flat
        try:
            tangent, bound = Tangent.bounded(problem, reached, split)
        except CertificateError:
            if best is not None:
                break  # two splits on the boundary, whose combination is rounded beyond it
            split = None if split is None else torch.zeros_like(split)  # the loss's own has no digits left
            tangent, bound = Tangent.bounded(problem, reached, split)
        if best is None or bound > best.bound:
            best = Bounded(tangent, bound, split, relaxed, calls)
        watch.report(value, best.bound)
        if best.bound >= target or watch.due() is not None or number == splits or split is None:
            break
        better = problem.loss.best_split(relaxed.weights)
        if better is None or torch.equal(better.to(split), split):  # mixing equal splits would only round them up
            break
        share = 0.9 if number == 0 else 2.0 / (number + 2.0)
        split, start = (1.0 - share) * split + share * better.to(split), relaxed
    assert best is not None
    return replace(best, iterations=calls)


def certify(
    problem: Problem,
    solution: Solution | Tensor | None = None,
    *,
    budget: Budget | None = None,
    splits: int = 5,
    iterations: int = 30,
    dtype: torch.dtype | None = None,
    strength: float = 0.1,
    progress: Progress | None = None,
) -> Solution:
    """Attach the best lower bound found to a solution: a point of tangency that anyone can check.

    Parameters
    ----------
    problem : Problem
    solution : Solution or Tensor, optional
        The point to certify (its value is the upper end of the gap); default a repaired start of the loss. An existing
        certificate is kept if it is better; of a solution of other data only the point is used.
    budget : Budget, optional
        ``seconds`` limits the search; ``gap`` stops it early and decides whether the answer counts as optimal.
    splits : int
        Frank-Wolfe steps on the diagonal split, >= 0.
    iterations : int
        Splitting steps for each split.
    dtype : torch.dtype, optional
        Precision of the search; the bound itself is always evaluated in float64 on the CPU.
    strength : float
        Weight of the coupling in the splitting method, > 0; about 1 suits rule selection and other problems with more
        columns than samples, with some hundred iterations.
    progress : callable, optional
        Receives (seconds, value, bound); returning ``True`` stops.

    Returns
    -------
    Solution
        With ``proof`` CHECKED; the point is unchanged.

    See Also
    --------
    best_tangent : the search itself.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.layerwise(torch.ones(2, 8), x.T @ x, mp.NofM(2, 4))
    >>> solution = mp.certify(problem)
    >>> solution.proof.value, solution.bound <= solution.value
    ('checked', True)
    """
    watch = Watch(budget, progress)
    if splits < 0 or iterations < 1 or not strength > 0:
        raise InvalidProblem(
            f"certify needs splits >= 0, iterations >= 1 and strength > 0; got {splits}, {iterations}, {strength}"
        )
    given = solution.point if isinstance(solution, Solution) else solution
    earlier = solution if isinstance(solution, Solution) and solution.fingerprint == problem.fingerprint else None
    point = (
        problem.repair(problem.loss.start()) if given is None else as_tensor(given, "the point", shape=problem.shape)
    )
    violation = problem.violation(point)
    if violation != 0:
        raise InvalidProblem(
            f"the point violates the structure by {violation:g}, so no bound can certify it; "
            "problem.repair(point) gives a member of S"
        )
    value = problem.value(point)
    target = value - watch.budget.tolerance(value) * abs(value)
    certificate = None if earlier is None else earlier.certificate
    bound = -math.inf if earlier is None or certificate is None or earlier.bound is None else earlier.bound
    calls, stop = 0, Stop.GAP if bound >= target else Stop.CONVERGED
    if stop is not Stop.GAP:
        try:
            found = best_tangent(
                problem,
                point,
                splits=splits,
                iterations=iterations,
                watch=watch,
                target=target,
                dtype=dtype,
                strength=strength,
            )
            calls = found.iterations
            if found.bound > bound:
                certificate, bound = found.tangent, found.bound
            stop = Stop.GAP if bound >= target else watch.due() or Stop.CONVERGED
        except KeyboardInterrupt:
            stop = Stop.USER
    stats = watch.stats(iterations=calls, oracle_calls=calls, device=str(point.device))
    if earlier is not None:
        seconds = (earlier.stats.seconds or 0.0) + (stats.seconds or 0.0)
        stats = replace(stats, seconds=seconds, seed=earlier.stats.seed, trace=earlier.stats.trace + stats.trace)
    return Solution.of(
        problem,
        point,
        stop=stop,
        certificate=certificate,
        bound=None if certificate is None else bound,
        claim=None if earlier is None else earlier.claim,
        tolerance=watch.budget.tolerance(value),
        stats=stats,
        solver=f"{earlier.solver} + certify" if earlier is not None and earlier.solver else "certify",
    )
