"""The ladder by which ``solve`` chooses, where the size of a problem decides."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

import mipprune as mp
from mipprune.formulations import graphical_model, sparse_regression


def test_graphs_go_to_the_tree_and_large_ones_to_descent_over_edges(generator: torch.Generator) -> None:
    samples = torch.randn(600, 250, generator=generator, dtype=torch.float64)
    small, large = (graphical_model(samples[:, :count], l0=0.1, l2=0.1) for count in (30, 250))
    assert mp.choose(small).name == "branch and bound"
    assert mp.choose(large).name == "edge descent"


def test_a_wide_sparse_regression_is_proven_without_naming_a_solver() -> None:
    rng = np.random.default_rng(0)
    columns = sp.random_array((300, 30_000), density=0.02, rng=rng, format="csc")
    response = columns[:, [3, 20_000]] @ np.array([3.0, -2.0]) + 0.05 * rng.standard_normal(300)
    problem = sparse_regression(columns, response, l0=0.01, l2=0.05)
    solution = mp.solve(problem, budget=mp.Budget(gap=0.01, seconds=60))
    assert mp.choose(problem).name == "branch and bound"
    assert solution.mask.nonzero().ravel().tolist() == [3, 20_000]
    assert mp.check(problem, solution).gap <= 0.01
