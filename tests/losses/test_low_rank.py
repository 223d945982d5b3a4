"""The low-rank quadratic: its bound against enumeration, its dual view, its refit, what it refuses."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from mipprune import (
    Cardinality,
    CertificateError,
    InvalidProblem,
    LowRank,
    Problem,
    Sparse,
    Supports,
    Tangent,
    check,
)
from mipprune.core.solution import Solution, Stop
from mipprune.structures import Budgets

TRIALS = 1000


def masks_of(width: int) -> Tensor:
    numbers = torch.arange(2**width)
    return (numbers.unsqueeze(1) >> torch.arange(width)) & 1


def least_values(loss: LowRank, masks: Tensor) -> Tensor:
    """The least value on each of many supports, by a dense system each: independent of the code under test."""
    x, center, ridge = loss.gradients.double(), loss.center.double(), loss.ridge
    slope = torch.zeros_like(center) if loss.slope is None else loss.slope.double()
    kept = masks.double()
    hessian = x.T @ x + ridge * torch.eye(len(center), dtype=torch.float64)
    right = hessian @ center - slope
    # Rows and columns that are pruned become those of the identity, with a zero on the right.
    systems = kept.unsqueeze(2) * hessian * kept.unsqueeze(1) + torch.diag_embed(1.0 - kept)
    w = torch.linalg.solve(systems, kept * right)
    d = w - center
    return 0.5 * (d @ x.T).square().sum(1) + 0.5 * ridge * d.square().sum(1) + d @ slope


def draw(generator: torch.Generator, *, linear: bool, largest: int = 14) -> LowRank:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    width = int(uniform(2, largest + 1))
    count = int(uniform(1, 5))
    x = torch.randn(count, width, generator=generator, dtype=torch.float64) * 10.0 ** uniform(-3, 2)
    center = torch.randn(width, generator=generator, dtype=torch.float64) * 10.0 ** uniform(-2, 2)
    kind = int(uniform(0, 6))
    if kind == 0:
        center = center.sign()  # ties
    elif kind == 1:
        x[:, : width // 2] = 0.0
    elif kind == 2:
        x = x[:1].repeat(count, 1)
    elif kind == 3:
        center[: width // 2] = 0.0
    slope = torch.randn(width, generator=generator, dtype=torch.float64) * 10.0 ** uniform(-2, 2) if linear else None
    return LowRank(x, center, 10.0 ** uniform(-4, 2), slope)


@pytest.mark.parametrize("linear", [False, True], ids=["no linear term", "linear term"])
def test_the_bound_is_never_above_the_enumerated_optimum(linear: bool) -> None:
    generator = torch.Generator().manual_seed(7 + linear)
    near = 0
    for trial in range(TRIALS // 2):
        loss = draw(generator, linear=linear, largest=14 if trial % 5 == 0 else 10)
        width = loss.shape[0]
        count = int(torch.randint(0, width + 1, (), generator=generator))
        masks = masks_of(width)
        masks = masks[masks.sum(1) <= count]
        family: Supports = Cardinality(count)
        if trial % 2:
            cut, limit = int(torch.randint(1, width, (), generator=generator)), 3 * count
            family = Budgets([cut, width - cut], [[1, 1], [5, 2]], [count, limit])
            masks = masks[5 * masks[:, :cut].sum(1) + 2 * masks[:, cut:].sum(1) <= limit]
        problem = Problem(loss, Sparse(family))
        values = least_values(loss, masks)
        optimum = float(values.min())
        best = torch.where(masks[int(values.argmin())] != 0, loss.minimise_on(masks[int(values.argmin())] != 0), 0.0)
        points = [
            loss.center,
            torch.zeros(width, dtype=torch.float64),
            best,
            best * 10.0 ** float(torch.randn((), generator=generator)),
            loss.center + torch.randn(width, generator=generator, dtype=torch.float64) * loss.center.norm(),
            1e6 * torch.randn(width, generator=generator, dtype=torch.float64),
        ]
        bounds = [problem.bound(point) for point in points]
        slack = loss.rounding(best) + 1e-12 * abs(optimum)
        assert max(bounds) <= optimum + slack, (trial, bounds, optimum)
        near += max(bounds) >= 0.5 * optimum
    assert near > TRIALS // 8  # a bound of -inf would pass everything above


def test_the_bound_holds_in_exact_arithmetic() -> None:
    generator = torch.Generator().manual_seed(3)
    for trial in range(20):
        loss = draw(generator, linear=trial % 2 == 0, largest=7)
        problem = Problem(loss, Sparse(Cardinality(loss.shape[0] // 2)))
        point = problem.repair(loss.start())
        tangent = Tangent.at(problem, point + 0.1 * torch.randn(point.shape, generator=generator, dtype=torch.float64))
        solution = Solution.of(problem, point, stop=Stop.CONVERGED, certificate=tangent)
        assert check(problem, solution, exact=True).bound >= solution.bound  # type: ignore[operator]
        assert Fraction(tangent.bound(problem)) <= tangent.rational_bound(problem)


@pytest.mark.parametrize("shape", [(3, 40), (12, 7)], ids=["wide", "tall"])
def test_the_refit_is_the_dense_solution(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    center = torch.randn(shape[1], generator=generator, dtype=torch.float64)
    loss = LowRank(x, center, 0.3, torch.randn(shape[1], generator=generator, dtype=torch.float64))
    for share in (0.0, 0.1, 0.5, 1.0):
        mask = torch.rand(shape[1], generator=generator) < share
        w = loss.minimise_on(mask)
        assert bool((w[~mask] == 0).all())
        assert loss.value(w) == pytest.approx(float(least_values(loss, mask.unsqueeze(0).long())[0]), rel=1e-10)
        assert float(loss.gradient(w)[mask].abs().sum()) < 1e-8


def test_the_dual_view_agrees_with_the_loss() -> None:
    generator = torch.Generator().manual_seed(5)
    for linear in (False, True):
        loss = draw(generator, linear=linear)
        while loss.gradients.shape[0] > loss.shape[0] or float(loss.gradients.abs().max()) < 1e-2:
            loss = draw(generator, linear=linear)
        dual = loss.dual(loss.best_split())
        assert dual is not None
        v = loss.center + torch.randn(loss.shape, generator=generator, dtype=torch.float64)
        u = dual.of(v)
        torch.testing.assert_close(dual.of(dual.point(u)), u, rtol=1e-6, atol=1e-9 * float(u.norm()))
        model, exact = dual.model(u), loss.minorant(v)
        torch.testing.assert_close(model.linear, exact.linear)
        assert model.constant == pytest.approx(exact.constant, rel=1e-9, abs=1e-9 * loss.scale)
        for mask in (torch.rand(loss.shape, generator=generator) < 0.5, torch.ones(loss.shape, dtype=torch.bool)):
            piece = dual.piece(mask)
            at_u = piece.constant + float(piece.linear @ u) - 0.5 * float(u @ piece.hessian @ u)
            kept = torch.where(mask, -model.linear / model.curvature, 0.0)
            assert at_u == pytest.approx(model.value(kept), rel=1e-8, abs=1e-9 * loss.scale)
            peak = piece.constant + 0.5 * float(piece.linear @ torch.linalg.solve(piece.hessian, piece.linear))
            assert peak == pytest.approx(loss.value(loss.minimise_on(mask)), rel=1e-8, abs=1e-10 * loss.scale)
        assert loss.dual(0.5 * loss.best_split()) is None


def test_float32_gradients_are_not_widened() -> None:
    loss = LowRank(torch.randn(4, 30), torch.randn(30), 0.5)
    assert loss.to(dtype=torch.float64).gradients.dtype == torch.float32
    assert loss.to(dtype=torch.float64).gradients.data_ptr() == loss.gradients.data_ptr()
    wide = LowRank(loss.gradients.double(), loss.center, 0.5)
    assert wide.to(dtype=torch.float32).gradients.dtype == torch.float32
    w = torch.randn(30, dtype=torch.float64)
    assert wide.value(w) == pytest.approx(loss.value(w), rel=1e-13)
    before = wide.gradients.clone()
    wide.rounding(w), wide.minorant(w)
    assert torch.equal(before, wide.gradients)


def test_blocks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    x, center = torch.randn(3, 50), torch.randn(50)
    loss = LowRank(x, center, 0.5, torch.randn(50))
    w, mask = torch.randn(50, dtype=torch.float64), torch.rand(50) < 0.4
    whole = loss.value(w), loss.gradient(w), loss.minimise_on(mask), loss.gram, loss.minorant(w).linear
    monkeypatch.setattr("mipprune.losses.low_rank._BLOCK", 3 * 7)
    cut = replace_cache(loss)
    for one, other in zip(
        whole, (cut.value(w), cut.gradient(w), cut.minimise_on(mask), cut.gram, cut.minorant(w).linear), strict=True
    ):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other))


def replace_cache(loss: LowRank) -> LowRank:
    return LowRank(loss.gradients, loss.center, loss.ridge, loss.slope)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3), torch.ones(3), 1.0), "dimension"),
        ((torch.ones(2, 3), torch.ones(2), 1.0), "center has shape"),
        ((torch.ones(2, 3), torch.ones(3), 0.0), "ridge is 0"),
        ((torch.ones(2, 3), torch.ones(3), -1.0), "ridge is -1"),
        ((torch.ones(2, 3), torch.ones(3), math.nan), "ridge contains"),
        ((torch.full((2, 3), math.inf), torch.ones(3), 1.0), "gradients contains"),
        ((torch.ones(0, 3), torch.ones(3), 1.0), "row and a column"),
        ((torch.ones(2, 3), torch.ones(3), 1.0, torch.ones(2)), "slope has shape"),
    ],
)
def test_bad_input_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        LowRank(*arguments)  # type: ignore[arg-type]


def test_a_split_beyond_the_ridge_is_refused() -> None:
    loss = LowRank(torch.eye(3), torch.ones(3), 1.0)
    with pytest.raises(CertificateError, match="split"):
        loss.minorant(torch.zeros(3), torch.full((3,), math.nextafter(1.0, 2.0), dtype=torch.float64))


def test_all_pairs_of_budgets() -> None:
    """The whole frontier of a tiny instance, with a price on the support."""
    loss = LowRank([[1.0, -2.0, 0.5]], [1.0, 2.0, -1.0], 0.5, [0.1, 0.0, -0.1])
    for count, price in itertools.product(range(4), (0.0, 0.3)):
        problem = Problem(loss, Sparse(Cardinality(count), price=price))
        masks = masks_of(3)
        masks = masks[masks.sum(1) <= count]
        optimum = float((least_values(loss, masks) + price * masks.sum(1)).min())
        bounds = [problem.bound(torch.tensor(v)) for v in itertools.product((-1.0, 0.0, 2.0), repeat=3)]
        assert -math.inf < max(bounds) <= optimum + 1e-12
