"""The hunt: thousands of random problems on which no bound of the package may be above the optimum, not even by an ulp.

The optimum is found by enumeration in float64; the best points found are then evaluated in exact arithmetic. They are
members of S, so a valid bound is not above their exact values, and comparing with those needs no tolerance.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mipprune import (
    BranchAndBound,
    Budget,
    Cardinality,
    CertificateError,
    Groups,
    LeastSquares,
    NofM,
    PerRow,
    Problem,
    Quadratic,
    Sparse,
    Supports,
    Tangent,
    TransposableNofM,
    certify,
    check,
)
from mipprune.core.rational import rational, total
from mipprune.structures import ALL, Antichain, AnySupport, Budgets, Rooted, Stable
from mipprune.structures.multiple_choice import MultipleChoice
from mipprune.testing import enumerate_masks

SCATTERED = Groups(torch.tensor([0, 1, 0, 2, 1, 0]), 2)  # groups that are no runs
UNEVEN = Groups(torch.tensor([0, 0, 1, 2, 2, 1, 0]), 1)
CHOICE = MultipleChoice([[1.0, 2.0, 0.0], [3.0, 0.5], [1.0, 2.0]], 4.0)
STABLE = Stable(3, torch.tensor([4, 0, 2, 7, 1, 1, 3]), 9)
FOREST = torch.tensor([-1, 0, 0, -1, 3, 4, 4])
BUDGETS = Budgets([3, 4, 1], [[1, 1, 1], [10, 1, 3]], [4, 21])
ROWS: dict[tuple[int, ...], list[Supports]] = {
    (2, 4): [
        *(Cardinality(3), Cardinality(5), PerRow(1), PerRow(2), NofM(1, 2), NofM(2, 4), Groups(2, 1), Groups(1, 2)),
        *(TransposableNofM(1, 2), TransposableNofM(1, 2, "at_most"), BUDGETS),
    ],
    (1, 6): [Cardinality(2), Cardinality(4), NofM(1, 3), NofM(2, 3), Groups(3, 1), SCATTERED],
}
COLUMNS: dict[tuple[int, ...], list[Supports]] = {
    (7,): [
        *(CHOICE, Cardinality(2), Cardinality(4), PerRow(3), NofM(3, 7), UNEVEN, STABLE),
        *(AnySupport(), Antichain(FOREST), Antichain(FOREST, 2), Rooted(FOREST)),
    ],
}
KINDS = ("random", "ill", "tiny", "huge", "scaled", "duplicated", "tied", "zeros", "float32", "offset")


@cache
def members(shape: tuple[int, ...], number: int) -> Tensor:
    """Admissible masks of a family, (members, *shape)."""
    supports = {**ROWS, **COLUMNS}[shape][number]
    masks = enumerate_masks(shape)
    return masks[torch.tensor([supports.contains(mask) for mask in masks])]


def spectrum(rng: np.random.Generator, size: int, condition: float) -> np.ndarray:
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return basis * np.geomspace(1.0, 1.0 / condition, size) @ basis.T


def draw_gram(rng: np.random.Generator, size: int, kind: str) -> np.ndarray:
    """A Gram matrix of a kind that has hurt somebody before."""
    if kind == "ill":
        return spectrum(rng, size, 1e10)
    if kind == "tied":
        return np.eye(size) * rng.integers(1, 4) + rng.integers(0, 2)
    inputs = rng.standard_normal((3 * size, size))
    if kind == "duplicated":
        inputs[:, size // 2 :] = inputs[:, : size - size // 2]
    gram = inputs.T @ inputs + (1e-6 if kind == "duplicated" else 0.01) * np.eye(size)
    if kind in ("tiny", "huge"):
        gram *= 10.0 ** ((-20 if kind == "tiny" else 20) * rng.random())
    if kind == "scaled":
        units = 10.0 ** rng.uniform(-6, 6, size)
        gram *= units[:, None] * units
    return gram


def draw_quadratic(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> Quadratic:
    rows, width = shape
    own = rng.random() < 0.2  # one Gram matrix for each row
    gram = np.stack([draw_gram(rng, width, kind) for _ in range(rows)]) if own else draw_gram(rng, width, kind)
    center = rng.standard_normal(shape) * 10.0 ** (rng.uniform(-20, 20) if kind in ("tiny", "huge") else 0)
    if kind == "tied":
        center = rng.integers(-2, 3, shape).astype(float)
    if kind == "zeros":
        center[rng.random(shape) < 0.5] = 0.0
    offset = 1e8 * rng.standard_normal() if kind == "offset" else 0.0
    dtype = torch.float32 if kind == "float32" else torch.float64
    return Quadratic(torch.as_tensor(gram).to(dtype), torch.as_tensor(center).to(dtype), offset)


def draw_least_squares(rng: np.random.Generator, shape: tuple[int], kind: str) -> LeastSquares:
    (width,) = shape
    n = int(rng.integers(4, 16))  # sometimes more columns than rows
    design = rng.standard_normal((n, width))
    if kind == "ill":
        design *= np.geomspace(1, 1e-5, width)
        design = design @ np.linalg.qr(rng.standard_normal((width, width)))[0]
    if kind == "duplicated":
        design[:, width // 2 :] = design[:, : width - width // 2]
    if kind == "scaled":
        design *= 10.0 ** rng.uniform(-5, 5, width)
    if kind in ("tiny", "huge"):
        design *= 10.0 ** ((-10 if kind == "tiny" else 10) * rng.random())
    if kind == "tied":
        design = rng.integers(-1, 2, (n, width)).astype(float)
    response = design @ rng.standard_normal(width) + 0.3 * rng.standard_normal(n)
    if kind == "zeros":
        response[:] = 0.0
    if kind == "offset":
        response *= 1e8
    ridge: Any = rng.random(width) + 0.01 if rng.random() < 0.5 else float(rng.choice([1e-8, 1e-2, 1.0]))
    dtype = torch.float32 if kind == "float32" else torch.float64
    return LeastSquares(torch.as_tensor(design).to(dtype), torch.as_tensor(response).to(dtype), torch.as_tensor(ridge))


# ------------------------------------------------------------------------------------------------ enumeration


def solve(hessian: Tensor, slope: Tensor, masks: Tensor) -> Tensor:
    """Minimisers on all masks: ``hessian`` (rows, n, n), ``slope`` (rows, n), masks (sets, n) -> (rows, sets, n)."""
    scale = torch.diagonal(hessian, dim1=-2, dim2=-1).clamp_min(1e-300).rsqrt()
    unit = scale.unsqueeze(-1) * hessian * scale.unsqueeze(-2)
    inside = masks.unsqueeze(-1) & masks.unsqueeze(-2)
    system = torch.where(inside, unit.unsqueeze(1), 0.0) + torch.diag_embed((~masks).double())
    right = torch.where(masks, (-slope * scale).unsqueeze(1), 0.0)
    system = system + 1e-15 * torch.eye(masks.shape[-1])  # exactly singular without a ridge: any member will do
    found = torch.linalg.solve(system, right.unsqueeze(-1)).squeeze(-1)
    return torch.where(masks, found * scale.unsqueeze(1), 0.0)


def into_box(hessian: Tensor, slope: Tensor, masks: Tensor, w: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Projected coordinate descent for all rows and masks together; any point it returns is a member."""
    low, high = (torch.where(masks, side.unsqueeze(1), 0.0) for side in (lower, upper))
    w = torch.maximum(torch.minimum(w, high), low)
    for _ in range(40):
        for i in range(w.shape[-1]):
            step = (slope[:, None, i] + (w * hessian[:, None, i]).sum(dim=-1)) / hessian[:, None, i, i].clamp_min(
                1e-300
            )
            w[..., i] = torch.maximum(torch.minimum(w[..., i] - step, high[..., i]), low[..., i])
    return w


@dataclass
class Enumerated:
    """All admissible masks of a problem with estimates of their optima and the points that attain them."""

    problem: Problem
    masks: Tensor
    points: Tensor
    estimates: Tensor

    @classmethod
    def of(cls, problem: Problem, masks: Tensor) -> Enumerated:
        loss, shape = problem.reference.loss, problem.shape
        rows = torch.zeros(shape, dtype=torch.float64).reshape(-1, shape[-1])
        slope = loss.gradient(torch.zeros(shape, dtype=torch.float64)).reshape(rows.shape)
        if isinstance(loss, Quadratic):
            hessian = 2.0 * loss.gram.expand(rows.shape[0], *loss.gram.shape[-2:])
        else:
            hessian = (loss.design.mT @ loss.design + torch.diag(loss.ridge)).unsqueeze(0)
        every = enumerate_masks(shape[-1:])
        w = solve(hessian, slope, every)
        limits = problem.structure._limits(rows.reshape(shape))
        if limits is not None:
            lower, upper = (side.reshape(rows.shape) for side in limits)
            w = into_box(hessian, slope, every, w, lower, upper)
        values = (w * (0.5 * (w.unsqueeze(-2) @ hessian.unsqueeze(1)).squeeze(-2) + slope.unsqueeze(1))).sum(dim=-1)
        code = (masks.reshape(len(masks), *rows.shape).long() << torch.arange(shape[-1])).sum(dim=-1)
        index = torch.arange(rows.shape[0])
        prices = torch.as_tensor(problem.structure.price_per_entry, dtype=torch.float64).expand(shape)
        estimates = values[index, code].sum(dim=1) + torch.where(masks, prices, 0.0).flatten(1).sum(dim=1)
        return cls(problem, masks, w[index, code].reshape(masks.shape), estimates)

    def optimum(self, on: Tensor | None = None, off: Tensor | None = None) -> tuple[Fraction, Tensor] | None:
        """Smallest exact value among the most promising members (with fixings), and its point."""
        estimates = self.estimates
        if on is not None and off is not None:
            right = (self.masks | ~on).flatten(1).all(dim=1) & ~(self.masks & off).flatten(1).any(dim=1)
            estimates = torch.where(right, estimates, torch.inf)
        order = estimates.argsort()[:2].tolist()
        found = [
            (exact_value(self.problem, self.points[i], self.masks[i]), i) for i in order if estimates[i] < math.inf
        ]
        if not found:
            return None
        value, best = min(found)
        return value, self.points[best]


def exact_value(problem: Problem, point: Tensor, mask: Tensor) -> Fraction:
    """Loss at a point plus the price of a mask around it, without rounding."""
    loss, w = problem.reference.loss, rational(point)
    prices = rational(torch.as_tensor(problem.structure.price_per_entry, dtype=torch.float64).expand(problem.shape))
    price = total(prices[mask.numpy()]) if bool(mask.any()) else Fraction(0)
    if isinstance(loss, LeastSquares):
        residual = rational(loss.response) - rational(loss.design) @ w
        return (total(residual * residual) + total(rational(loss.ridge) * w * w)) / 2 + price
    delta, gram = w - rational(loss.center), rational(loss.gram)
    rows = [delta[r] @ (gram if gram.ndim == 2 else gram[r]) for r in range(len(delta))]
    return Fraction(loss.offset) + total(np.stack(rows) * delta) + price


# ------------------------------------------------------------------------------------------------ the hunt


def draw_structure(rng: np.random.Generator, supports: Supports, loss: Any) -> Sparse:
    center = loss.start().double().abs()
    size = float(center.mean()) or 1.0
    worth = loss.scale / loss.start().numel()
    price: Any = rng.choice([0.0, 0.0, 0.05]) * worth
    if rng.random() < 0.2:
        price = torch.as_tensor(rng.random(loss.shape)) * 0.1 * worth
    box: Any = None
    if rng.random() < 0.3:
        box = float(size * rng.choice([0.1, 0.5, 1.0]))
        if rng.random() < 0.5:
            box = (-box * torch.as_tensor(rng.random(loss.shape)), box * torch.as_tensor(rng.random(loss.shape)))
    return Sparse(supports, box=box, price=price)


def draw_split(rng: np.random.Generator, loss: Any) -> Tensor | None:
    """A valid split: the default, one for random weights, or a random fraction of one of them."""
    if rng.random() < 0.2:
        return None
    weights = torch.as_tensor(rng.random(loss.shape)) if rng.random() < 0.5 else None
    split = loss.best_split(weights).double()
    return split * torch.as_tensor(rng.random(split.shape) if rng.random() < 0.3 else 1.0)


def draw_points(rng: np.random.Generator, loss: Any, best: Tensor) -> list[Tensor]:
    """Points of tangency: the optimum, the start, something around it, something far away."""
    start = loss.start().double()
    size = float(start.abs().max()) or 1.0
    noise = torch.as_tensor(rng.standard_normal(loss.shape)) * size
    return [best, start, start + noise * 10.0 ** rng.uniform(-8, 0), noise * 10.0 ** rng.uniform(0, 6)]


def hunt(loss_type: type, seed: int, trials: int) -> tuple[int, int]:
    """Try to find a bound above an optimum; return how many finite bounds were compared and how many were refused."""
    rng = np.random.default_rng(seed)
    families = ROWS if loss_type is Quadratic else COLUMNS
    cases = [(shape, number) for shape, listed in families.items() for number in range(len(listed))]
    compared = refused = 0
    for trial in range(trials):
        shape, number = cases[int(rng.integers(len(cases)))]
        kind = KINDS[int(rng.integers(len(KINDS)))]
        draw: Any = draw_quadratic if loss_type is Quadratic else draw_least_squares
        loss = draw(rng, shape, kind)
        problem = Problem(loss, draw_structure(rng, families[shape][number], loss))
        every = Enumerated.of(problem, members(shape, number))
        found = every.optimum()
        assert found is not None
        optimum, best = found
        for v in draw_points(rng, loss.to(dtype=torch.float64), best):
            fixed = rng.random() < 0.4
            flags = torch.as_tensor(rng.random(shape))
            on, off = (flags < 0.1, flags > 0.75) if fixed else (None, None)
            part = problem.restrict(on, off) if fixed else problem
            least = every.optimum(on, off) if fixed else found
            try:
                tangent = Tangent.at(part, v, draw_split(rng, loss.to(dtype=torch.float64)))
                bound = tangent.bound(part)
            except CertificateError:
                refused += 1  # the data are too close to singular for a rigorous split
                continue
            assert not math.isnan(bound), (seed, trial, kind)
            if least is None:
                assert bound == math.inf, (seed, trial, kind)
            elif bound > -math.inf:
                compared += 1
                assert Fraction(bound) <= least[0], (seed, trial, kind, bound, float(least[0]))
                if trial % 10 == 0:
                    exact = tangent.rational_bound(part)
                    assert Fraction(bound) <= exact <= least[0], (seed, trial, kind, bound, float(exact))
        if trial % 5 == 0:
            compared += hunt_searches(problem, best, optimum, trial, (seed, trial, kind))
    return compared, refused


def hunt_searches(problem: Problem, best: Tensor, optimum: Fraction, trial: int, where: tuple[Any, ...]) -> int:
    """``certify`` with few iterations and, now and then, a tree: their bounds are held to the same standard."""
    try:
        solutions = [certify(problem, best, splits=1, iterations=3)]
        if trial % 25 == 0:
            solutions.append(BranchAndBound(iterations=10, splits=1).solve(problem, budget=Budget(nodes=25)))
    except CertificateError as error:
        assert "positive semidefinite" in str(error), where
        return 0
    for solution in solutions:
        if solution.bound == -math.inf:
            continue
        assert Fraction(solution.bound) <= optimum, (*where, solution.solver, solution.bound, float(optimum))
        check(problem, solution)
        check(problem, solution, exact=True)
    return len(solutions)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("loss", [Quadratic, LeastSquares], ids=["quadratic", "least squares"])
def test_no_bound_is_above_an_optimum(loss: type, seed: int) -> None:
    trials = 160 if loss is Quadratic else 100  # 2,080 in all
    compared, refused = hunt(loss, 100 * seed + (0 if loss is Quadratic else 50), trials)
    assert compared > 3 * trials  # most of the four bounds of a trial are finite
    assert refused < 0.2 * trials


def test_the_hunt_covers_every_family() -> None:
    hunted = {type(supports) for listed in itertools.chain(ROWS.values(), COLUMNS.values()) for supports in listed}
    assert hunted == set(ALL)
    assert sum((160, 100)) * 8 >= 2000
