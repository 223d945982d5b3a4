"""Box-constrained refits against scipy's exact bounded least squares, however badly scaled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from mipprune.kernels import bounded_descent


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e8])
def test_value_is_that_of_bounded_least_squares(rng, condition, unit):
    for _ in range(5):
        size = 8
        matrix = rng.standard_normal((20, size)) * np.geomspace(1.0, condition**0.5, size)
        matrix = matrix @ np.linalg.qr(rng.standard_normal((size, size)))[0] * unit**0.5
        target = matrix @ (2.0 * rng.standard_normal(size)) + 0.1 * unit**0.5 * rng.standard_normal(20)
        lower, upper = np.full(size, -0.5), np.full(size, 0.8)

        def value_and_gradient(x, matrix=matrix, target=target):
            residual = matrix @ x - target
            return float(residual @ residual), 2.0 * matrix.T @ residual

        scale = 1.0 / np.linalg.norm(matrix, axis=0)
        found = bounded_descent.minimise(value_and_gradient, np.zeros(size), lower, upper, scale)
        exact = lsq_linear(matrix, target, bounds=(lower, upper), method="bvls", tol=1e-14)
        assert (found >= lower).all() and (found <= upper).all()
        assert value_and_gradient(found)[0] == pytest.approx(2.0 * exact.cost, rel=1e-8)


def test_never_worse_than_the_clipped_start():
    def steep(x):
        return float(np.sum(x**2)), 2.0 * x

    start = np.array([0.0, 3.0])
    found = bounded_descent.minimise(steep, start, np.array([-1.0, 1.0]), np.array([1.0, 2.0]), np.ones(2))
    np.testing.assert_allclose(found, [0.0, 1.0], atol=1e-12)
    assert bounded_descent.minimise(steep, np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)).shape == (0,)
