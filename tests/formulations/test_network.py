"""Building network pruning problems: layers, budgets, the first-order term, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mipprune as mp
from mipprune.formulations import network_pruning
from mipprune.testing import check_problem
from tests.losses.test_low_rank import least_values, masks_of

GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = {"a": torch.randn(4, 3, generator=GENERATOR), "b": torch.randn(2, 4, generator=GENERATOR)}
GRADIENTS = {name: torch.randn(3, *w.shape, generator=GENERATOR) for name, w in WEIGHTS.items()}
COSTS = {"a": 9.0, "b": 1.0}


def flat(arrays: dict[str, Tensor], start: int = 0) -> Tensor:
    return torch.cat([array.flatten(start) for array in arrays.values()], dim=start)


def test_names_sequences_and_vectors_mean_the_same() -> None:
    settings: dict[str, Any] = {"nnz": 0.5, "flops": 0.4, "ridge": 0.1, "first_order": 0.5}
    named = network_pruning(WEIGHTS, GRADIENTS, costs=COSTS, **settings)
    listed = network_pruning(list(WEIGHTS.values()), list(GRADIENTS.values()), costs=[9, 1], **settings)
    each = torch.cat([torch.full((12,), 9.0), torch.ones(8)])
    vector = network_pruning(flat(WEIGHTS), flat(GRADIENTS, 1), costs=each, **settings)
    reversed_names = network_pruning(WEIGHTS, dict(reversed(GRADIENTS.items())), costs=COSTS, **settings)
    arrays = network_pruning(flat(WEIGHTS).numpy(), flat(GRADIENTS, 1).numpy(), costs=each.numpy(), **settings)
    for other in (listed, vector, reversed_names, arrays):
        assert other.fingerprint == named.fingerprint
    assert named.structure.supports.limits.tolist() == [10.0, 46.0]  # type: ignore[attr-defined]


def test_the_value_is_the_model_of_the_mean_loss() -> None:
    problem = network_pruning(WEIGHTS, GRADIENTS, nnz=5, ridge=0.2, first_order=1.0)
    x, dense = flat(GRADIENTS, 1).double(), flat(WEIGHTS).double()
    w = torch.randn(20, generator=GENERATOR, dtype=torch.float64)
    d, n = w - dense, 3
    expected = n * (x.mean(0) @ d + 0.5 * d @ (x.T @ x / n) @ d + 0.5 * 0.2 * d @ d)
    assert problem.value(w) == pytest.approx(float(expected), rel=1e-12)
    assert problem.value(dense) == 0.0


@pytest.mark.parametrize("first_order", [0.0, 1.0])
def test_both_budgets_against_enumeration(first_order: float) -> None:
    generator = torch.Generator().manual_seed(4)
    for _ in range(25):
        weights = [torch.randn(5, generator=generator), torch.randn(4, generator=generator)]
        gradients = torch.randn(2, 9, generator=generator)
        count, cost = (
            int(torch.randint(1, 9, (), generator=generator)),
            int(torch.randint(0, 25, (), generator=generator)),
        )
        problem = network_pruning(
            weights, gradients, nnz=count, flops=cost, costs=[4, 1], ridge=0.5, first_order=first_order
        )
        masks = masks_of(9)
        used = 4 * masks[:, :5].sum(1) + masks[:, 5:].sum(1)
        masks = masks[(masks.sum(1) <= count) & (used <= cost)]
        assert isinstance(problem.loss, mp.LowRank)
        optimum = float(least_values(problem.loss, masks).min())
        solution = mp.DualBundle().solve(problem)
        assert solution.bound is not None
        assert solution.bound <= optimum + 1e-12 * problem.loss.scale <= solution.value + 2e-12 * problem.loss.scale
        mp.check(problem, solution)


def test_the_readings_agree() -> None:
    check_problem(network_pruning(WEIGHTS, GRADIENTS, nnz=6, flops=0.4, costs=COSTS, ridge=1.0), trials=3)


def test_flops_alone_and_another_structure() -> None:
    alone = network_pruning(WEIGHTS, GRADIENTS, flops=0.5, costs=COSTS)
    assert alone.structure.supports.usage(mp.solve(alone).mask).tolist()[0] <= 58.0  # type: ignore[attr-defined]
    groups = network_pruning(flat(WEIGHTS), flat(GRADIENTS, 1), structure=mp.NofM(2, 4), ridge=0.5)
    assert mp.DualBundle().solve(groups).bound is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nnz": None}, "give a budget"),
        ({"nnz": 1.5}, "share of the dense network"),
        ({"nnz": -1}, ">= 0"),
        ({"nnz": True}, "whole number"),
        ({"nnz": "half"}, "whole number"),
        ({"flops": 0.5}, "needs costs"),
        ({"flops": 0.5, "costs": [1.0]}, "1 numbers for 2 layers"),
        ({"flops": 0.5, "costs": [1.0, -1.0]}, "negative"),
        ({"flops": 0.5, "costs": {"a": 1.0}}, "each with a cost"),
        ({"ridge": 0.0}, "ridge is 0"),
        ({"ridge": float("nan")}, "ridge is nan"),
        ({"first_order": -1.0}, "first_order is -1"),
        ({"structure": mp.Cardinality(3)}, "not both"),
        ({"gradients": {"a": GRADIENTS["a"]}}, "same names"),
        ({"gradients": [GRADIENTS["a"]]}, "for 1 layers"),
        ({"gradients": [GRADIENTS["a"], GRADIENTS["a"]]}, "is needed"),
        ({"gradients": torch.ones(3, 7)}, "7 columns for 20 weights"),
        ({"weights": torch.nn.Linear(2, 2)}, "torch module"),
        ({"weights": []}, "nothing to prune"),
        ({"weights": {"a": torch.full((4, 3), float("nan")), "b": WEIGHTS["b"]}}, "weights of 'a' contains"),
    ],
)
def test_bad_input_is_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"weights": WEIGHTS, "gradients": GRADIENTS, "nnz": 5, **changes}
    with pytest.raises(mp.InvalidProblem, match=message):
        network_pruning(arguments.pop("weights"), arguments.pop("gradients"), **arguments)


def test_shares_are_rounded_down_but_not_by_floating_point() -> None:
    weights, gradients = np.ones(10), np.ones((1, 10))
    for share, kept in ((0.3, 3), (0.35, 3), (0.0, 0), (1.0, 10), (0.7, 7)):
        assert network_pruning(weights, gradients, nnz=share).structure.supports.count == kept  # type: ignore[attr-defined]
