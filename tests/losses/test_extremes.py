"""Least squares where float64 ends: bounds against exact optima from 1e-320 to 1e150, and answers in every case."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

import mipprune as mp
from mipprune.core.loss import Cells
from mipprune.core.rational import exact_decrease, rational
from mipprune.core.replay import Totals, gain_bounds
from mipprune.core.separable import Separable
from mipprune.errors import InvalidProblem
from mipprune.losses import LeastSquares
from mipprune.losses.designs import SparseDesign, StoredDesign

INFINITE = torch.tensor(float("inf"), dtype=torch.float64)


def drawn(rng: np.random.Generator) -> mp.Problem:
    """A tiny problem of any magnitude in any form: alike and empty columns, no ridge, next to none, too much."""
    n, p = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    scales = [0.0, 0.0, rng.uniform(-324, -290), rng.uniform(-165, -150), rng.uniform(100, 145), rng.uniform(-310, 145)]
    design = np.round(rng.standard_normal((n, p)) * 4) / 4 * 10.0 ** rng.uniform(-8, 8, (1, p)) ** rng.integers(0, 2)
    design[:, rng.integers(0, p)] = design[:, rng.integers(0, p)] * rng.integers(0, 2)
    response = (design @ rng.standard_normal(p) + rng.standard_normal(n)) * 10.0 ** rng.choice(scales)
    design = design * 10.0 ** rng.choice(scales)
    form: Any = torch.from_numpy(design)
    sides = {
        "center": torch.from_numpy(rng.standard_normal(p) * abs(design).max()),
        "factor": torch.from_numpy(rng.choice([0.0, 1.0, 1e-150, 3.0], p)),
    }
    kind = int(rng.integers(0, 4))
    if kind == 1:
        form = SparseDesign.of(sp.csc_array(design), **sides)
    elif kind == 2:
        form = StoredDesign.of(np.clip(np.round(design), -9, 9).astype(np.int8), **sides)
    elif kind == 3:
        form = StoredDesign.of(design)
    ridge = rng.choice([0.0, 0.3, 5e-324 * rng.integers(1, 9), 10.0 ** rng.uniform(-320, 300)])
    price = rng.choice([0.0, 0.1, 10.0 ** rng.uniform(-320, 300)])
    supports = mp.AnySupport() if rng.random() < 0.5 else mp.Cardinality(int(rng.integers(0, p + 1)))
    box = (-INFINITE, INFINITE) if rng.random() < 0.2 else None
    loss = LeastSquares(form, torch.from_numpy(response), torch.full((p,), ridge, dtype=torch.float64))
    return mp.Problem(loss, mp.Sparse(supports, box, float(price)))


def solved(matrix: Any, right: Any) -> list[Fraction]:
    """A solution of a consistent system in exact numbers."""
    rows, size, done = [[*row, value] for row, value in zip(matrix, right, strict=True)], len(right), 0
    out, pivots = [Fraction(0)] * size, []
    for column in range(size):
        found = next((i for i in range(done, size) if rows[i][column] != 0), None)
        if found is None:
            continue
        rows[done], rows[found] = rows[found], rows[done]
        rows[done] = [value / rows[done][column] for value in rows[done]]
        for i in range(size):
            if i != done and rows[i][column] != 0:
                rows[i] = [a - rows[i][column] * b for a, b in zip(rows[i], rows[done], strict=True)]
        pivots.append(column)
        done += 1
    for i, column in enumerate(pivots):
        out[column] = rows[i][size]
    return out


def optima(problem: mp.Problem) -> dict[tuple[int, ...], Fraction]:
    """The exact least value on each support, all of its entries paid for."""
    loss, structure = problem.loss, problem.structure
    assert isinstance(loss, LeastSquares) and isinstance(structure, mp.Sparse)
    design, response, ridge = loss.matrix.exact(), rational(loss.response), rational(loss.ridge)  # type: ignore[arg-type]
    gram, pull = design.T @ design + np.diag(ridge), design.T @ response
    price, most = Fraction(structure.price_per_entry), structure.supports.largest_count(problem.size)
    assert most is not None
    found = {}
    for count in range(most + 1):
        for kept in map(list, itertools.combinations(range(problem.size), count)):
            point = solved(gram[np.ix_(kept, kept)], pull[kept])
            saved = sum((a * b for a, b in zip(point, pull[kept], strict=True)), Fraction(0))
            found[tuple(kept)] = sum(response * response, Fraction(0)) / 2 - saved / 2 + price * count
    return found


def points_for(problem: mp.Problem, rng: np.random.Generator) -> Tensor:
    """Good points of tangency and absurd ones."""
    best = problem.loss.start().numpy()
    rows = [np.zeros(problem.size), best, best * rng.uniform(0, 1.5, problem.size)]
    rows += [rng.standard_normal(problem.size) * 10.0 ** rng.uniform(-320, 150) for _ in range(3)]
    return torch.from_numpy(np.array(rows))


@pytest.mark.parametrize("seed", range(4))
def test_no_bound_is_above_the_exact_optimum_at_any_magnitude(seed: int) -> None:
    """Tangents with the ridge and with curvature of X'X, and the cells of trees."""
    rng = np.random.default_rng(seed)
    for _ in range(40):
        try:
            problem = drawn(rng)
        except InvalidProblem:
            continue
        values, size = optima(problem), problem.size
        points, loss = points_for(problem, rng), problem.loss
        for split in (loss.ridge, loss.best_split(), 0.9 * loss.best_split(torch.ones(size, dtype=torch.float64))):
            if not bool(torch.isfinite(split).all()):
                continue
            for point in points:
                try:
                    bound = problem.bound(point, split)
                except mp.CertificateError:
                    continue
                assert bound == -np.inf or Fraction(bound) <= min(values.values())
        on = torch.from_numpy(rng.random(points.shape) < 0.2)
        off = torch.from_numpy(rng.random(points.shape) < 0.3) & ~on
        models, sides = loss.tangents(points, Cells(on, off)), INFINITE.expand(points.shape)
        price = torch.full((size,), float(problem.structure.price_per_entry), dtype=torch.float64)
        gains = gain_bounds(problem.structure, models, -sides, sides, price)
        most = problem.structure.supports.largest_count(size)
        bounds = Totals.of(gains, on, off, most, models.constant).bound().tolist()
        for bound, kept, gone in zip(bounds, on, off, strict=True):
            inside = [
                value
                for support, value in values.items()
                if all(j in support for j in kept.nonzero()) and not any(j in support for j in gone.nonzero())
            ]
            assert bound == -np.inf or not inside or Fraction(bound) <= min(inside)


@pytest.mark.filterwarnings("error")
def test_every_problem_has_an_answer_at_any_magnitude() -> None:
    """Relaxations, refits and splits overflow there; what they find then is no reason to give up."""
    rng = np.random.default_rng(7)
    for number in range(80):
        try:
            problem = drawn(rng)
        except InvalidProblem:
            continue
        solver = None if number % 3 else mp.BranchAndBound()
        solution = mp.solve(problem, solver, budget=mp.Budget(nodes=20))
        mp.check(problem, solution)
        assert solution.bound == -np.inf or Fraction(solution.bound) <= min(optima(problem).values())


@pytest.mark.parametrize("boxed", [False, True])
def test_gains_are_bounds_where_they_underflow(boxed: bool) -> None:
    """Half of an odd subnormal number is rounded: of 3 by a third, and times a large number that is no trifle."""
    units, rng = 2.0**-1074, np.random.default_rng(0)
    side = 10.0 ** rng.uniform(-300, 300, 4000) if boxed else np.full(4000, np.inf)
    linear = np.where(rng.random(4000) < 0.5, units * rng.integers(0, 10, 4000), 10.0 ** rng.uniform(-320, 10, 4000))
    curvature = np.where(rng.random(4000) < 0.7, units * rng.integers(1, 10, 4000), 10.0 ** rng.uniform(-320, 10, 4000))
    model = Separable(constant=0.0, linear=torch.from_numpy(linear), curvature=torch.from_numpy(curvature))
    box = (torch.from_numpy(-side), torch.from_numpy(side)) if boxed else (-INFINITE, INFINITE)
    for structure in (mp.Sparse(mp.AnySupport(), box), *([] if boxed else [mp.Sparse(mp.AnySupport())])):
        gains = structure.gain_bound(model).tolist()
        for gain, slope, bend, reach in zip(gains, linear, curvature, side, strict=True):
            best = exact_decrease(Fraction(slope), Fraction(bend), -reach, reach)
            assert best is not None and (gain == np.inf or Fraction(gain) >= best)


@pytest.mark.parametrize("which", ["y", "X", "ridge"])
def test_data_whose_squares_overflow_are_refused(which: str) -> None:
    numbers = {"X": 1.0, "y": 1.0, "ridge": 1.0, which: 1e308 if which == "ridge" else 1e160}
    for form in (torch.eye(2, dtype=torch.float64), sp.eye_array(2), np.eye(2)):
        with pytest.raises(InvalidProblem, match=rf"{which}.*larger units"):
            LeastSquares(
                torch.as_tensor(form) * numbers["X"] if isinstance(form, Tensor) else form * numbers["X"],
                torch.full((2,), numbers["y"], dtype=torch.float64),
                numbers["ridge"],
            )
    with pytest.raises(InvalidProblem, match="y"):  # beyond the type of the design
        LeastSquares(torch.eye(2), torch.full((2,), 1e60, dtype=torch.float64))


def test_norms_that_underflow_still_bound_the_rounding_of_slopes() -> None:
    """Columns near 1e-312 and residuals near 1e150: gamma times the first is nothing, the rounding is not."""
    rng = np.random.default_rng(0)
    for factor in (1e-150, 1.0):
        columns = rng.standard_normal((50, 3)) * 1e-312 / factor
        design = StoredDesign.of(columns, factor=torch.full((3,), factor, dtype=torch.float64))
        vector = torch.from_numpy(rng.standard_normal(50) * 1e150)
        exactly = rational(vector) @ design.exact()
        error = design.slope_error(vector.norm().reshape(1))[0]
        for j, slope in enumerate((vector @ design).tolist()):
            assert abs(Fraction(slope) - exactly[j]) <= Fraction(float(error[j]))


def test_a_relaxation_that_overflows_returns_the_point_it_was_given() -> None:
    """Its own memory of the best point is workspace, which holds anything at first."""
    from mipprune.kernels.node_descent import relax

    side, fixed, t = np.full(1, np.inf), np.zeros(1, dtype=np.int8), np.array([2.0])
    slope, gains, best = np.empty(1), np.empty(1), np.full(1, np.nan)
    bound = relax(
        np.ones((1, 1)), np.zeros(1, dtype=np.int64), np.full(1, 1e200), np.zeros(1), 1.0, fixed, np.zeros(1),
        np.full(1, 5e-324), -side, side, 1, 0.0, t, slope, gains, best, np.inf, 1e-6, 60,
    )[1]  # fmt: skip
    assert bound == -np.inf and t.tolist() == [2.0]


def test_two_splits_on_the_boundary_may_have_no_combination() -> None:
    """Curvature of X'X and a ridge of 1e179: the step between two valid splits is rounded beyond the ridge."""
    design = torch.tensor([[0.0, 0.0, 6.08e-3], [0.0, 0.0, -5.47e-3], [5.0336e4, 0.0, -2.76e-3]], dtype=torch.float64)
    response = torch.tensor([3.1179e7, 1.7418e8, 4.5539e7], dtype=torch.float64)
    for seed in range(20):
        ridge = torch.tensor([0.0, 9.7, 21.5], dtype=torch.float64) * 1e178 * (1 + seed / 7)
        problem = mp.Problem(LeastSquares(design, response, ridge), mp.Sparse(mp.Cardinality(1), price=1e-75))
        mp.check(problem, mp.solve(problem, mp.BranchAndBound(), budget=mp.Budget(nodes=30)))
