"""Every loss through the suite, on ordinary and on nasty data; and what each refuses."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import mipprune.losses
from mipprune import CertificateError, InvalidProblem, LeastSquares, Linear, Loss, LowRank, Quadratic
from mipprune.core.loss import open_entries
from mipprune.losses import ALL, Logistic, PseudoLikelihood
from mipprune.testing import check_loss

GENERATOR = torch.Generator().manual_seed(3)
INPUTS = torch.randn(30, 5, generator=GENERATOR, dtype=torch.float64)
GRAM = INPUTS.T @ INPUTS + 0.1 * torch.eye(5, dtype=torch.float64)
CENTER = torch.randn(2, 5, generator=GENERATOR, dtype=torch.float64)
RESPONSE = torch.randn(30, generator=GENERATOR, dtype=torch.float64)
RIDGES = torch.rand(5, generator=GENERATOR, dtype=torch.float64)
UNITS = torch.tensor([1e-3, 1.0, 1e3, 10.0, 0.1], dtype=torch.float64)


def ill_conditioned() -> torch.Tensor:
    basis = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    return basis @ torch.diag(torch.logspace(0, -6, 5, dtype=torch.float64)) @ basis.T


LOSSES: dict[str, Any] = {
    "quadratic": lambda: Quadratic(GRAM, CENTER, offset=2.5, ridge=0.1),
    "quadratic, a Gram matrix for each row": lambda: Quadratic(torch.stack([GRAM, 3 * GRAM]), CENTER),
    "quadratic, float32": lambda: Quadratic(GRAM.float(), CENTER.float()),
    "quadratic, units": lambda: Quadratic(GRAM * UNITS * UNITS.unsqueeze(1), CENTER / UNITS),
    "quadratic, tiny": lambda: Quadratic(1e-18 * GRAM, 1e-3 * CENTER),
    "quadratic, huge": lambda: Quadratic(1e18 * GRAM, 1e3 * CENTER),
    "quadratic, ill-conditioned": lambda: Quadratic(ill_conditioned(), CENTER),
    "quadratic, from its linear term": lambda: Quadratic.from_linear(GRAM, CENTER, 4.0),
    "quadratic, one entry": lambda: Quadratic([[2.0]], [[3.0]]),
    "least squares": lambda: LeastSquares(INPUTS, RESPONSE, 0.3),
    "least squares, no ridge": lambda: LeastSquares(INPUTS, RESPONSE),
    "least squares, ridges": lambda: LeastSquares(INPUTS, RESPONSE, RIDGES),
    "least squares, wide": lambda: LeastSquares(INPUTS[:4].T[:3].repeat(1, 3), RESPONSE[:3], 0.5),
    "least squares, float32": lambda: LeastSquares(INPUTS.float(), RESPONSE.float(), 0.5),
    "low rank": lambda: LowRank(INPUTS[:3], CENTER[0], 0.7),
    "low rank, first-order term": lambda: LowRank(INPUTS[:3], CENTER[0], 0.7, RIDGES),
    "low rank, more gradients than weights": lambda: LowRank(INPUTS, CENTER[1], 2.0, -RIDGES),
    "low rank, float32": lambda: LowRank(INPUTS[:2].float(), CENTER[0].float(), 0.3, RIDGES.float()),
    "low rank, units": lambda: LowRank(INPUTS[:3] * UNITS, CENTER[0] / UNITS, 1e-3),
    "low rank, dependent gradients": lambda: LowRank(INPUTS[:2].repeat(3, 2), CENTER.ravel(), 1.0),
    "low rank, no gradients to speak of": lambda: LowRank(torch.zeros(2, 5), CENTER[0], 1e-8),
    "low rank, one weight": lambda: LowRank([[2.0]], [3.0], 1.0),
    "pseudo-likelihood": lambda: PseudoLikelihood(GRAM / 30, 0.1),
    "pseudo-likelihood, no ridge": lambda: PseudoLikelihood(GRAM / 30),
    "pseudo-likelihood, ridges": lambda: PseudoLikelihood(GRAM / 30, torch.cat([RIDGES, RIDGES])),
    "pseudo-likelihood, units": lambda: PseudoLikelihood(GRAM * UNITS * UNITS.unsqueeze(1), 1.0),
    "pseudo-likelihood, float32": lambda: PseudoLikelihood(GRAM.float() / 30, 0.1),
    "pseudo-likelihood, ill-conditioned": lambda: PseudoLikelihood(ill_conditioned(), 0.01),
    "pseudo-likelihood, two nodes": lambda: PseudoLikelihood([[2.0, 1.0], [1.0, 3.0]], 0.1),
    "logistic": lambda: Logistic(INPUTS, RESPONSE.sign(), 0.4),
    "logistic, weights and offset": lambda: Logistic(
        INPUTS, RESPONSE.sign(), RIDGES + 0.1, weights=RESPONSE.abs(), offset=0.3
    ),
    "linear": lambda: Linear(CENTER, 1.5),
    "linear, vector": lambda: Linear(RESPONSE),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_keeps_its_promises(name: str) -> None:
    check_loss(LOSSES[name](), trials=6)


def test_the_tuple_of_all_losses_is_complete() -> None:
    found = set()
    for module in pkgutil.iter_modules(mipprune.losses.__path__, "mipprune.losses."):
        for value in vars(importlib.import_module(module.name)).values():
            own = inspect.isclass(value) and value.__module__ == module.name
            own = own and not value.__name__.startswith("_")  # a part of another, for its own module alone
            if own and issubclass(value, Loss) and not inspect.isabstract(value):
                found.add(value)
    assert found == set(ALL)
    assert {kind.__name__ for kind in ALL} == set(mipprune.losses.__all__)
    assert {type(build()) for build in LOSSES.values()} == set(ALL)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Quadratic(GRAM[:4, :4], CENTER), "must be"),
        (lambda: Quadratic(-GRAM, CENTER), "negative diagonal"),
        (lambda: Quadratic(GRAM + torch.triu(GRAM), CENTER), "not symmetric"),
        (lambda: Quadratic(GRAM * math.nan, CENTER), "NaN"),
        (lambda: Quadratic(GRAM, CENTER, ridge=-1.0), "ridge"),
        (lambda: Quadratic.from_linear(0 * GRAM, CENTER), "positive definite"),
        (lambda: LeastSquares(INPUTS, RESPONSE[:4]), "expected"),
        (lambda: LeastSquares(INPUTS, RESPONSE, -1.0), "negative"),
        (lambda: LeastSquares(INPUTS, RESPONSE, torch.ones(3)), "one per column"),
        (lambda: Linear([math.inf]), "infinite"),
    ],
)
def test_what_is_no_loss_is_refused(build: Any, message: str) -> None:
    with pytest.raises(InvalidProblem, match=message):
        build()


# ------------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5), (2, 1), (2, 5)])
def test_a_split_means_the_same_in_every_shape_that_broadcasts(shape: tuple[int, ...]) -> None:
    """A split of one column once broadcast to a full matrix: ``H - s 11'`` instead of ``H - s I`` was factorised."""
    dense = torch.full((5, 5), 10.0, dtype=torch.float64) + 0.1 * torch.eye(5, dtype=torch.float64)
    loss = Quadratic(dense, CENTER)
    valid, invalid = torch.full(shape, 0.19, dtype=torch.float64), torch.full(shape, 2.0, dtype=torch.float64)
    model = loss.minorant(CENTER, valid)
    assert model.curvature.shape == (2, 5)
    assert model.value(CENTER) == pytest.approx(0.0, abs=1e-9)
    for method in (loss.minorant, loss.rational_minorant):
        with pytest.raises(CertificateError, match="semidefinite"):
            method(CENTER, invalid, None)


def test_a_split_must_be_valid_wherever_the_tangent_point_is() -> None:
    """With the split checked on the allowed entries alone, a point outside them could prove any bound."""
    allowed = torch.tensor([[True, True, True, True, False]])
    split = torch.tensor([0.1, 0.1, 0.1, 0.1, 1e6], dtype=torch.float64)
    loss = Quadratic(GRAM, CENTER[:1])
    inside, outside = CENTER[:1].clone(), CENTER[:1].clone()
    inside[0, 4], outside[0, 4] = 0.0, 5.0
    for method in (loss.minorant, loss.rational_minorant):
        method(inside, split, allowed)
        with pytest.raises(CertificateError):
            method(outside, split, allowed)
    columns = LeastSquares(INPUTS, RESPONSE, 0.1)
    for method in (columns.minorant, columns.rational_minorant):
        method(inside[0], split, allowed[0])
        with pytest.raises(CertificateError):
            method(outside[0], split, allowed[0])
    assert open_entries(inside, None) is None
    assert open_entries(outside, allowed).all()


@pytest.mark.parametrize("number", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("loss", [Quadratic(GRAM, CENTER), LeastSquares(INPUTS, RESPONSE, 0.1)], ids=["H", "X"])
def test_a_split_that_is_no_curvature_is_refused_in_both_arithmetics(loss: Any, number: float) -> None:
    split = torch.zeros(5, dtype=torch.float64)
    split[2] = number
    for method in (loss.minorant, loss.rational_minorant):
        with pytest.raises(CertificateError, match="split"):
            method(loss.start(), split, None)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_split_lies_on_the_boundary_and_not_beyond(seed: int) -> None:
    """Valid in exact arithmetic, invalid when multiplied by a little more than one."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    loss = Quadratic(GRAM, CENTER)
    for split in (loss.best_split(), loss.best_split(weights)):
        loss.rational_minorant(CENTER, split, None)
        with pytest.raises(CertificateError):
            loss.rational_minorant(CENTER, split * (1 + 1e-4), None)


def test_the_best_split_for_weights_is_better_than_the_uniform_one() -> None:
    loss = Quadratic(GRAM * UNITS * UNITS.unsqueeze(1), CENTER)
    weights = torch.rand(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / UNITS.square()
    total = weights.sum(dim=0)
    assert float(total @ loss.best_split(weights)) >= float(total @ loss.best_split())


def test_a_wide_design_has_no_curvature_beyond_the_ridge() -> None:
    loss = LeastSquares(INPUTS.T, RESPONSE[:5], 0.5)
    assert torch.equal(loss.best_split(), torch.full((30,), 0.5, dtype=torch.float64))
    with pytest.raises(CertificateError, match="exceeds the ridge"):
        loss.minorant(torch.zeros(30), torch.full((30,), 0.51, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------ values


def test_the_value_near_the_center_keeps_its_digits() -> None:
    """The form (H, G, c) would lose all of them to cancellation."""
    loss = Quadratic(GRAM, 1e6 * CENTER)
    step = torch.zeros_like(CENTER)
    step[0, 0] = 2.0**-10
    value = loss.value(loss.center + step)
    expected = float(Fraction(2.0**-20) * Fraction(float(GRAM[0, 0])))
    assert value == pytest.approx(expected, rel=1e-6)


def test_the_linear_form_gives_the_same_function() -> None:
    loss = Quadratic.from_linear(GRAM, CENTER @ GRAM, 7.0)
    w = torch.randn(2, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = float((w @ GRAM * w).sum() - 2 * (CENTER @ GRAM * w).sum()) + 7.0
    assert loss.value(w) == pytest.approx(expected, rel=1e-12)
    assert Quadratic.from_linear(GRAM, CENTER @ GRAM).value(CENTER) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("density", [0.0, 0.4, 1.0])
def test_refits_agree_with_dense_solves(density: float) -> None:
    mask = torch.rand(2, 5, generator=torch.Generator().manual_seed(6)) < density
    found = Quadratic(GRAM, CENTER).minimise_on(mask)
    for row in range(2):
        kept = mask[row].nonzero().ravel()
        expected = np.linalg.solve(GRAM[kept][:, kept].numpy(), (GRAM[kept] @ CENTER[row]).numpy())
        np.testing.assert_allclose(found[row, kept].numpy(), expected, rtol=1e-10)


def test_the_level_box_gives_up_when_the_inverse_has_no_digits_left() -> None:
    singular = torch.ones(2, 2, dtype=torch.float64) + 1e-15 * torch.eye(2, dtype=torch.float64)
    assert Quadratic(singular, [[1.0, 1.0]]).level_box(1.0) is None
    assert Quadratic(GRAM, CENTER).level_box(1.0) is not None
