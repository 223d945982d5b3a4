"""The estimator of graphs with the data that people bring: frames, few samples, copies of columns, any units."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import mipprune as mp
from mipprune.estimators import L0GraphicalModel

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 5))
X[:, 1] += X[:, 0]
X[:, 4] -= X[:, 3]


def fitted(data: object, **settings: object) -> L0GraphicalModel:
    return L0GraphicalModel(**{"l0": 0.2, "time_limit": 10.0, **settings}).fit(data)


def test_frames_are_read_without_a_warning_and_name_the_nodes() -> None:
    pandas = pytest.importorskip("pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fitted(pandas.DataFrame(X, columns=list("abcde")))
    graph = model.to_networkx()
    assert list(graph.nodes) == list("abcde")
    assert {frozenset(edge) for edge in graph.edges} == {frozenset("ab"), frozenset("de")}


@pytest.mark.parametrize("scale", [1e-140, 1.0, 1e150])
def test_units_do_not_matter(scale: float) -> None:
    model = fitted(X * scale)
    assert model.edges_.tolist() == [[0, 1], [3, 4]]
    assert model.refitted_
    assert model.smallest_eigenvalue_ > 0


def test_a_copied_column_has_no_likelihood_fit_and_says_so() -> None:
    model = fitted(np.c_[X, X[:, 0]])
    assert [0, 5] in model.edges_.tolist()
    assert not model.refitted_
    assert np.isfinite(model.precision_).all()
    assert model.gap_in_edges_ is not None
    mp.check(model.problem_, model.solution_)


def test_fewer_samples_than_variables() -> None:
    model = fitted(X[:4], l0=0.5, l2=0.5)
    assert np.isfinite(model.precision_).all()
    mp.check(model.problem_, model.solution_)
    assert np.isfinite(model.score(X)) or model.smallest_eigenvalue_ <= 0


def test_the_refit_is_positive_definite_and_zero_off_the_graph() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        data = rng.standard_normal((40, 6)) @ (np.eye(6) + 0.5 * rng.standard_normal((6, 6)))
        model = fitted(data, l0=0.1)
        assert model.refitted_
        assert np.linalg.eigvalsh(model.precision_)[0] > 0
        kept = np.eye(6, dtype=bool)
        kept[tuple(model.edges_.T)] = True
        assert not model.precision_[~(kept | kept.T)].any()
