import itertools
import math

import numpy as np
import pytest

from mipprune.kernels.tabu_search import tabu_search


def _data(seed, n=12, p=8, l2=0.02, price=0.05):
    generator = np.random.default_rng(seed)
    common = generator.standard_normal((n, 1))
    x = generator.standard_normal((n, p)) + 1.5 * common
    y = x[:, :3].sum(axis=1) + generator.standard_normal(n)
    x, y = x / np.linalg.norm(x, axis=0), y / np.linalg.norm(y)
    return x, y, np.full(p, price) * generator.uniform(0.5, 1.5, p), np.full(p, l2)


def _refit(x, y, l0, l2, support):
    support = list(support)
    t = np.zeros(x.shape[1])
    if support:
        matrix = x[:, support].T @ x[:, support] + 2 * np.diag(l2[support])
        t[support] = np.linalg.lstsq(matrix, x[:, support].T @ y, rcond=None)[0]
    return t, 0.5 * np.sum((y - x @ t) ** 2) + l2 @ t**2 + l0[support].sum()


def _search(x, y, l0, l2, *, box=math.inf, lower=None, most=None, start=(), seed=3, work=1e6, patience=40):
    p = x.shape[1]
    t = np.zeros(p)
    t[list(start)] = 1.0
    low = np.full(p, -box if lower is None else lower)
    value, spent = tabu_search(
        x.T @ x, x.T @ y, 0.5 * float(y @ y), l0, l2, low, np.full(p, box), p if most is None else most, t, work, 4,
        patience, 3, seed,
    )  # fmt: skip
    return t, value, spent


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("most", [None, 2])
def test_finds_the_best_support_of_all(seed, most):
    x, y, l0, l2 = _data(seed)
    t, value, _ = _search(x, y, l0, l2, most=most, start=(6, 7))
    limit = 8 if most is None else most
    every = (s for k in range(limit + 1) for s in itertools.combinations(range(8), k))
    best = min(_refit(x, y, l0, l2, support)[1] for support in every)
    assert value == pytest.approx(best, rel=1e-10)
    again = _refit(x, y, l0, l2, np.flatnonzero(t))
    assert np.allclose(t, again[0], atol=1e-9) and again[1] == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_value_belongs_to_the_point_and_the_point_to_its_intervals(seed):
    x, y, l0, l2 = _data(seed, n=30, p=40, price=0.002)
    for box, lower in ((0.3, None), (math.inf, 0.0)):
        t, value, _ = _search(x, y, l0, l2, box=box, lower=lower, work=3e6)
        assert value < math.inf
        assert (t <= box).all() and (t >= (-box if lower is None else lower)).all()
        assert _refit(x, y, l0, l2, np.flatnonzero(t))[1] == pytest.approx(value, rel=1e-9)


def test_columns_that_depend_on_each_other_do_not_join_twice():
    x, y, l0, _ = _data(1, n=6, p=8)
    x = np.concatenate([x, x], axis=1)  # every column twice, no ridge, and fewer rows than columns
    price, ridge = np.concatenate([l0, l0]) * 1e-3, np.zeros(16)
    t, value, _ = _search(x, y, price, ridge, start=range(16))
    support = np.flatnonzero(t)
    assert np.isfinite(t).all() and len(support) <= 6 and len(set(support % 8)) == len(support)
    assert _refit(x, y, price, ridge, support)[1] == pytest.approx(value, rel=1e-6)


def test_a_column_of_zeros_never_joins():
    x, y, l0, l2 = _data(2)
    x[:, 0] = 0.0
    t, value, _ = _search(x, y, l0 * 0, l2 * 0)
    assert t[0] == 0.0 and math.isfinite(value)


def test_supports_outside_the_intervals_are_no_result():
    x, y, l0, l2 = _data(0)
    t, value, _ = _search(x, y, l0 * 1e-3, l2, box=1e-9, start=(0, 1))
    assert value == pytest.approx(0.5) and not t.any()  # only the empty support is within
    t, value, _ = _search(x, y, l0, l2, start=(0, 1), work=0.0)
    assert value == math.inf and np.flatnonzero(t).tolist() == [0, 1]


def test_same_seed_same_result_and_work_is_limited():
    x, y, l0, l2 = _data(5, n=40, p=60, price=0.001)
    first, second = (_search(x, y, l0, l2, work=2e6, seed=9) for _ in range(2))
    assert np.array_equal(first[0], second[0]) and first[1:] == second[1:]
    one_more = 60.0 * (60 + 2) * 62  # a move, or forming W again
    assert _search(x, y, l0, l2, work=1e4)[2] <= 1e4 + one_more
