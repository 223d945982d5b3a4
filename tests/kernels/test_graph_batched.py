"""Descent on many pairs at once: the compiled descent agrees, and nothing is created on another device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mipprune.formulations import graphical_model
from mipprune.kernels.graph_batched import descend_batched
from mipprune.kernels.graph_search import improve
from tests.graphs import uniform_model


def parts(dtype: torch.dtype, box: float) -> list[torch.Tensor]:
    return [torch.full((1, 1), value, dtype=dtype) for value in (0.02, 0.05, -box, box)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_compiled_descent_stops_where_the_batched_one_does(dtype: torch.dtype) -> None:
    pairs = torch.triu_indices(30, 30, 1)
    for seed in range(4):
        problem = graphical_model(uniform_model(30, 90, seed)[0], l0=0.02, l2=0.05, box=0.4)
        loss = problem.loss
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        found = descend_batched(loss.covariance.to(dtype), *parts(dtype, 0.4), steps=5000, tolerance=tolerance)
        flat = found[pairs[0], pairs[1]].double().clamp(-0.4, 0.4).numpy()
        entries = np.flatnonzero(flat)
        compiled, values = improve(loss.matrix, (entries, flat[entries]), loss.penalties(0.02, -0.4, 0.4), swaps=0)
        np.testing.assert_array_equal(compiled, entries)
        np.testing.assert_allclose(values, flat[entries], atol=1e-4 if dtype == torch.float64 else 5e-3)


def test_everything_stays_on_the_device_of_the_data() -> None:
    problem = graphical_model(uniform_model(12, 60)[0], l0=0.02, l2=0.05, box=0.4)
    matrix, penalties = problem.loss.covariance, parts(torch.float64, 0.4)
    usual = descend_batched(matrix, *penalties)
    with torch.device("meta"):  # what is created without naming a device cannot meet the data
        torch.testing.assert_close(descend_batched(matrix, *penalties), usual)
        with pytest.raises(RuntimeError):
            matrix + torch.zeros(12, 12)
