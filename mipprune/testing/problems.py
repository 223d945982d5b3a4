"""The contract of a problem: its readings agree with one another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Masks, Sparse
from ..core.certificate import Tangent
from ..core.loss import Loss
from ..core.problem import Problem
from ..core.solution import check
from ..errors import InvalidProblem, MippruneError, Unsupported
from ..solvers.bounds.relaxation import certify
from .enumeration import enumerate_optimum
from .require import random_mask, random_point, require, separable_size

__all__ = ["check_problem"]

_LARGEST = 12  # entries up to which the optimum is enumerated
_CVXPY = 200  # entries up to which the cvxpy model is built


def check_problem(problem: Problem, *, seed: int = 0, trials: int = 20) -> None:
    """Check that all readings of a problem say the same.

    Parameters
    ----------
    problem : Problem
        Enumerated when it has at most 12 entries, modelled in cvxpy when it has at most 200.
    seed : int
        Of the random points.
    trials : int
        How many of them.

    Raises
    ------
    AssertionError
        Naming the first disagreement: a bound above the optimum, a repaired point outside S or worse than it was, a
        cvxpy objective with another value, cvxpy constraints that hold where ``violation`` is not 0 or the other way
        round, a fingerprint that misses a change of the data.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    >>> mp.testing.check_problem(mp.formulations.layerwise(torch.ones(1, 4), x.T @ x, mp.NofM(1, 2)), trials=3)
    """
    generator = torch.Generator().manual_seed(seed)
    before = problem.fingerprint
    require(problem.name in problem.describe(), "describe() does not name the problem")
    optimum = math.nan
    if problem.size <= _LARGEST and isinstance(problem.structure, Sparse | Masks):
        optimum, mask = enumerate_optimum(problem)
        require(mask is not None, "no mask is admissible: the problem has no solution")
    members = []
    for _ in range(trials):
        member = _check_repair(problem, generator, optimum)
        members.append(member)
        _check_brackets(problem, member, generator)
        _check_bounds(problem, member, optimum, generator)
    _check_restrict(problem, members[-1], optimum, generator)
    _check_certify(problem, members[-1], optimum)
    if problem.size <= _CVXPY:
        for strength in ("perspective", "big-m"):
            _check_cvxpy(problem, members[:4], strength)
    _check_fingerprint(problem)
    require(replace(problem).fingerprint == before, "the problem was changed by looking at it")


def _check_repair(problem: Problem, generator: torch.Generator, optimum: float) -> Tensor:
    member = problem.repair(random_point(problem.loss.start(), generator))
    require(problem.violation(member) == 0, f"repair: its point violates S by {problem.violation(member)}")
    value = problem.value(member)
    expected = problem.reference.loss.value(member.double().cpu()) + problem.structure.price(member)
    require(value == expected, f"value: {value!r} is not loss plus price, {expected!r}")
    slack = problem.rounding(member) + 1e-9 * abs(value)
    require(not value < optimum - slack, f"value: a member has {value!r}, below the enumerated optimum {optimum!r}")
    again = problem.refit(member)
    require(problem.violation(again) == 0, "refit: it left S")
    require(problem.value(again) <= value + slack, "refit: it made a member worse")
    return member


def _check_brackets(problem: Problem, member: Tensor, generator: torch.Generator) -> None:
    v = random_point(problem.loss.start(), generator)
    point = member.double().cpu()
    value = problem.reference.loss.value(point)
    below, above = problem.minorant(v), problem.reference.loss.majorant(v)
    size = separable_size(below.linear, below.curvature.expand(problem.shape), point, below.constant)
    slack = problem.rounding(member) + 1e-13 * size
    error = 0.0 if below.linear_error is None else float((below.linear_error * point.abs()).sum())
    require(below.value(point) - error <= value + slack, "minorant: it is above the loss at a member of S")
    if above is not None:
        size = separable_size(above.linear, above.curvature.expand(problem.shape), point, above.constant)
        require(above.value(point) >= value - slack - 1e-12 * size, "majorant: it is below the loss at a member of S")


def _check_bounds(problem: Problem, member: Tensor, optimum: float, generator: torch.Generator) -> None:
    """B(v) at random points, at members, for random valid splits: never above the optimum nor any member."""
    loss = problem.reference.loss
    weights = torch.rand(problem.shape, generator=generator, dtype=torch.float64)
    value = problem.value(member)
    ceiling = value if math.isnan(optimum) else min(value, optimum)
    ceiling += problem.rounding(member)
    for split in (None, loss.best_split(), loss.best_split(weights)):
        for v in (member, random_point(loss.start(), generator), loss.start()):
            bound = problem.bound(v, split)
            require(not bound > ceiling, f"bound: {bound!r} is above {ceiling!r}, the optimum or a member of S")
            tangent = Tangent.at(problem, v, split)
            again = tangent.bound(problem)
            require(not again > ceiling, f"bound: with the oracle's witness {again!r} is above {ceiling!r}")
            _check_exact_bound(problem, tangent, again)


def _check_exact_bound(problem: Problem, tangent: Tangent, bound: float) -> None:
    if problem.size > _LARGEST or not math.isfinite(bound):
        return
    try:
        exact = tangent.rational_bound(problem)
    except Unsupported:
        return
    require(bound <= exact, f"bound: in float64 {bound!r}, more than the exact {float(exact)!r}")


def _check_restrict(problem: Problem, member: Tensor, optimum: float, generator: torch.Generator) -> None:
    """One entry fixed on and off: the two halves cover the problem, and every fixing is respected."""
    none = torch.zeros(problem.shape, dtype=torch.bool)
    for _ in range(5):
        flags = random_mask(problem.shape, generator, 0.3) & ~(none if problem.on is None else problem.on)
        point = problem.restrict(none, flags).repair(problem.loss.start())
        if problem.structure.violation(point) == 0:
            require(not bool((point[flags.to(point.device)] != 0).any()), "restrict: an entry that is off is not zero")
    free = ~none if problem.on is None or problem.off is None else ~(problem.on | problem.off)
    if math.isnan(optimum) or not bool(free.any()):
        return
    one = none.clone()
    choices = free.reshape(-1).nonzero().ravel()
    one.view(-1)[choices[int(torch.randint(len(choices), (), generator=generator))]] = True
    halves = [problem.restrict(one, none), problem.restrict(none, one)]
    values = [enumerate_optimum(half)[0] for half in halves]
    slack = 1e-9 * (abs(optimum) + 1e-3 * problem.loss.scale)
    close = abs(min(values) - optimum) <= slack
    require(close, f"restrict: the better half of a branching has {min(values)!r}, the problem {optimum!r}")
    for half, value in zip(halves, values, strict=True):
        bound = half.bound(member)
        require(bound <= value + slack, f"restrict: the bound {bound!r} of a half is above its optimum {value!r}")


def _check_certify(problem: Problem, member: Tensor, optimum: float) -> None:
    solution = certify(problem, member, splits=1, iterations=5)
    bound = check(problem, solution).bound
    require(bound is not None, "certify: it found no bound")
    if bound is not None and not math.isnan(optimum):
        require(bound <= optimum + solution.rounding, f"certify: its bound {bound!r} is above the optimum {optimum!r}")


# ------------------------------------------------------------------------------------------------- cvxpy


def _check_cvxpy(problem: Problem, members: list[Tensor], strength: str) -> None:
    """The best completion of a member has the member's value; points outside S have no completion."""
    cutoff = max(problem.value(member) for member in members)
    cutoff += 1e-6 * abs(cutoff) + 1e-9 * problem.loss.scale
    try:
        model = problem.to_cvxpy(strength, cutoff=cutoff)
    except MippruneError as error:
        require("box" in str(error) or "curvature" in str(error), f"to_cvxpy: {error}")
        return  # neither a box nor curvature: such a problem has no model
    require(model.is_dcp(), f"to_cvxpy({strength!r}): the problem is not convex by cvxpy's rules")
    for member in members:
        found, value = _completed(problem, model, member), problem.value(member)
        require(found is not None, f"to_cvxpy({strength!r}): a member of S satisfies no constraints")
        slack = 1e-6 * (abs(value) + 1e-3 * problem.loss.scale)
        if found is not None:
            require(abs(found - value) <= slack, f"to_cvxpy({strength!r}): objective {found!r} for the value {value!r}")
    for outside in _outside(problem, members[0]):
        found = _completed(problem, model, outside)
        require(found is None, f"to_cvxpy({strength!r}): a point that violates S satisfies the constraints")


def _outside(problem: Problem, member: Tensor) -> Iterator[Tensor]:
    """Small points that are not in S: a member with further entries, and with its entries in other places."""
    member = member.double().cpu()
    toward = problem.reference.loss.start().double().cpu()
    small = 1e-2 * torch.where(toward == 0, float(member.abs().max()) or 1.0, toward)
    generator = torch.Generator().manual_seed(0)
    kept = (member != 0).reshape(-1)
    places = [kept | ((~kept).long().cumsum(0) <= extra) for extra in (1, 2, problem.size)]
    places += [kept[torch.randperm(problem.size, generator=generator)] for _ in range(5)]
    for flags in places:
        flags = flags.reshape(problem.shape)
        moved = torch.where(flags & (member == 0), small, torch.where(flags, member, 0.0))
        point = flags.double() if isinstance(problem.structure, Masks) else moved
        if problem.violation(point) >= 1:
            yield point


def _completed(problem: Problem, model: Any, point: Tensor) -> float | None:
    """Objective of the model at ``w = point`` with the best other variables; ``None`` when there are none.

    The mask and further variables of the family come from HiGHS, which sees the linear constraints; what a cone adds
    is the least ``q`` with ``q z >= s w^2/2``, known in closed form.
    """
    import cvxpy as cp

    variables = {variable.name(): variable for variable in model.variables()}
    w = variables["w"]
    fixed = point.double().cpu().numpy()
    linear = [c for c in model.constraints if not isinstance(c, cp.SOC)]
    if "z" in variables and not isinstance(problem.structure, Sparse):  # the price may be any function of the mask
        whole = cp.Problem(model.objective, [*model.constraints, w == fixed])
        whole.solve(solver=cp.SCIP)
        return None if whole.status not in cp.settings.SOLUTION_PRESENT else float(whole.value)
    if isinstance(problem.structure, Sparse):
        kept = problem.structure.supports.cover(point.cpu() != 0).double().numpy()
        goal = cp.Minimize(cp.sum(variables["z"]))
    else:
        kept, goal = None, cp.Minimize(0)
    relaxed = cp.Problem(goal, [*linear, w == fixed])
    relaxed.solve(solver=cp.HIGHS)
    if relaxed.status != cp.OPTIMAL:
        return None
    w.value = fixed
    if kept is not None:
        found = np.round(variables["z"].value)
        require(bool((found >= (fixed != 0)).all()), "to_cvxpy: the mask may be 0 where the weight is not")
        same = float(found.sum()) == float(kept.sum())
        require(same, f"to_cvxpy: its smallest mask keeps {found.sum():g} entries, cover() {kept.sum():g}")
        variables["z"].value = found
    if "q" in variables:
        cone = next(c for c in model.constraints if isinstance(c, cp.SOC))
        variables["q"].value = np.zeros(w.shape)
        scaled = np.asarray(cone.args[1].value)[0].reshape(w.shape)  # 2 sqrt(s/2) w, from the model itself
        variables["q"].value = np.where(found > 0, 0.25 * scaled**2, 0.0)
        over = np.linalg.norm(cone.args[1].value, axis=0) - cone.args[0].value
        require(float(np.max(over)) <= 1e-9 * (1 + np.abs(scaled).max()), "to_cvxpy: a cone is violated")
    return float(model.objective.value)


# ------------------------------------------------------------------------------------------------- fingerprint


def _check_fingerprint(problem: Problem) -> None:
    mark = problem.fingerprint
    require(replace(problem, name="another name").fingerprint == mark, "fingerprint: it depends on the name")
    require(problem.reference.fingerprint == mark, "fingerprint: it depends on an exact change of precision or device")
    for name, changed in _changed(problem.loss):
        other = replace(problem, loss=changed)
        require(other.fingerprint != mark, f"fingerprint: a change of the loss's {name} goes unnoticed")
    none = torch.zeros(problem.shape, dtype=torch.bool)
    one = none.clone()
    one.view(-1)[0] = True
    if problem.off is None:
        other = replace(problem, structure=problem.structure.restrict(none, one))
        require(other.fingerprint != mark, "fingerprint: fixings of the structure go unnoticed")
    if isinstance(problem.structure, Sparse):
        supports, box, price = problem.structure.supports, problem.structure.box, problem.structure.price_per_entry
        other = replace(problem, structure=Sparse(supports, box, torch.as_tensor(price, dtype=torch.float64) + 1.0))
        require(other.fingerprint != mark, "fingerprint: a change of the price goes unnoticed")
        other = replace(problem, structure=Sparse(supports, 1.25 if box is None else None, price))
        require(other.fingerprint != mark, "fingerprint: a change of the box goes unnoticed")


def _changed(loss: Loss) -> Iterator[tuple[str, Loss]]:
    """The loss with one number of each of its fields changed (a diagonal entry, so that symmetry is kept)."""
    if not is_dataclass(loss):
        return
    for field in fields(loss):
        for changed in _neighbours(getattr(loss, field.name)) if field.init else ():
            try:
                yield field.name, replace(loss, **{field.name: changed})
            except InvalidProblem:  # a field that takes certain numbers only, such as labels
                continue
            break


def _neighbours(value: Any) -> Iterator[Any]:
    """Other values of a field, the first one close to it."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
        first = float(value.reshape(-1)[0])
        for other in (first * 1.001 if first != 0 else 1.0, -first):
            changed = value.clone(memory_format=torch.contiguous_format)
            changed.view(-1)[0] = other
            yield changed
    elif isinstance(value, float):
        yield value * 1.001 + 1.0
