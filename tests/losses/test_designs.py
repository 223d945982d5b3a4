"""Sparse columns and columns kept as stored: the numbers of a dense matrix, and rounding that is never too small."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

import mipprune as mp
from mipprune.core.loss import Cells
from mipprune.core.rational import rational
from mipprune.errors import InvalidProblem, Unsupported
from mipprune.formulations import RegressionData, sparse_regression
from mipprune.losses.designs import Shifted, SparseDesign, StoredDesign, as_design
from mipprune.losses.designs.refit import by_factors, by_products
from mipprune.testing import check_loss

Array = np.ndarray[Any, Any]


def _raw(n: int, p: int, seed: int, density: float = 0.4) -> Array:
    rng = np.random.default_rng(seed)
    made: Array = np.round(rng.standard_normal((n, p)) * 8) / 8 * (rng.random((n, p)) < density)
    return made


def _forms(n: int, p: int, seed: int) -> dict[str, Shifted]:
    raw, rng = _raw(n, p, seed), np.random.default_rng(seed + 1)
    center, factor = torch.from_numpy(raw.mean(axis=0)), torch.from_numpy(rng.uniform(0.5, 2.0, p))
    whole = rng.integers(-128, 127, (n, p)).astype(np.int8)
    return {
        "sparse": SparseDesign.of(sp.coo_array(raw)),
        "sparse, centred": SparseDesign.of(sp.csr_array(raw), center=center, factor=factor),
        "float32": StoredDesign.of(raw.astype(np.float32), center=center, factor=factor),
        "columns first": StoredDesign.of(np.asfortranarray(raw)),
        "genotypes": StoredDesign.of(whole, center=100 * center, factor=factor),
    }


def _explicit(design: Shifted) -> Tensor:
    """The matrix from its definition."""
    raw = design.by_column.toarray() if isinstance(design, SparseDesign) else design.columns.double().numpy().T  # type: ignore[attr-defined]
    return (torch.from_numpy(np.asarray(raw)) - design.center) * design.factor


@pytest.mark.parametrize("form", _forms(1, 1, 0))
def test_the_loss_keeps_its_promises(form: str) -> None:
    for n, p in ((9, 4), (3, 5), (1, 2)):
        response = torch.from_numpy(np.random.default_rng(n).standard_normal(n))
        check_loss(mp.LeastSquares(_forms(n, p, n + p)[form], response, 0.25), trials=3)


@pytest.mark.parametrize("form", _forms(1, 1, 0))
def test_products_are_those_of_the_dense_matrix(form: str) -> None:
    for n, p, seed in ((7, 5, 0), (4, 11, 1), (1, 3, 2)):
        design = _forms(n, p, seed)[form]
        dense, rng = _explicit(design), torch.Generator().manual_seed(seed)
        v, r = torch.randn(p, 2, generator=rng).double(), torch.randn(3, n, generator=rng).double()
        some, weights = torch.tensor([p - 1, 0]), torch.rand(p, generator=rng).double()
        close = {"rtol": 1e-12, "atol": 1e-12 * float(dense.abs().max() + 1)}
        for found, expected in (
            (design @ v, dense @ v),
            (design @ v[:, 0], dense @ v[:, 0]),
            (r @ design, r @ dense),
            (r[0] @ design, r[0] @ dense),
            (design.mT @ r[0], dense.mT @ r[0]),
            (design[:, some], dense[:, some]),
            (design.mT[some], dense[:, some].mT),
            (design.narrowed(some) @ v[:2, 0], dense[:, some] @ v[:2, 0]),
        ):
            assert torch.allclose(found, expected, **close)
        square = {"rtol": 1e-12, "atol": 1e-12 * float(dense.abs().max() + 1) ** 2 * n * p}
        for found, expected in (
            (design.gram(), dense.mT @ dense),
            (design.gram_rows(some), dense[:, some].mT @ dense),
            (design.outer(weights), dense * weights @ dense.mT),
            (design.squares, dense.square().sum(dim=0)),
        ):
            assert torch.allclose(found, expected, **square)
        assert bool((design.magnitude * (1 + 1e-12) >= dense.norm(dim=0)).all())
        assert bool((design.spread(r[0].abs()) >= dense.abs().mT @ r[0].abs() * (1 - 1e-12)).all())
        assert bool((design.terms(v[:, 0]) >= (dense.abs() @ v[:, 0].abs()) * (1 - 1e-12)).all())
        assert (design.to(torch.float32) @ v).dtype == torch.float32


@pytest.mark.parametrize("seed", range(6))
def test_the_rounding_of_slopes_is_never_above_its_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, p = 40, 6
    raw = rng.standard_normal((n, p)) * 10.0 ** rng.integers(-3, 4, (n, p)) * (rng.random((n, p)) < 0.7)
    raw[:, 0] = 1e9 + rng.standard_normal(n)  # nearly all of it cancels
    raw[:, 1] *= 1e-200  # whose squares underflow
    raw[:, 2] = 0.0
    center = torch.from_numpy(raw.mean(axis=0))
    factor = torch.tensor([1.0, 1e200, 3.0, 0.7, 1e-3, 0.0], dtype=torch.float64)
    r = torch.from_numpy(rng.standard_normal((2, n)) * 10.0 ** rng.integers(-8, 8, (2, n)))
    exactly = rational(r) @ ((rational(torch.from_numpy(raw)) - rational(center)) * rational(factor))
    for design in (
        SparseDesign.of(sp.csc_array(raw), center=center, factor=factor),
        StoredDesign.of(raw, center=center, factor=factor),
    ):
        found, allowed = rational(r @ design), rational(design.slope_error(r.norm(dim=1) * (1 + 1e-12)))
        worst = max((abs(a - b) - c for a, b, c in zip(found.flat, exactly.flat, allowed.flat, strict=True)))
        assert worst <= Fraction(0)
        assert float(design.slope_error(torch.ones(1).double())[0, 3]) < 1e-8  # and it says something


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "torch", "torch csr", "twice"])
def test_every_sparse_format_gives_the_same_design(form: str) -> None:
    raw = _raw(6, 5, 3)
    raw[:, 2] = 0.0
    if form == "twice":
        row, column = raw.nonzero()
        halves = np.concatenate([raw[row, column] / 2] * 2)
        given: Any = sp.coo_array((halves, (np.tile(row, 2), np.tile(column, 2))), shape=raw.shape)
    elif form.startswith("torch"):
        given = torch.from_numpy(raw).to_sparse()
        given = given.to_sparse_csr() if form.endswith("csr") else given
    else:
        given = sp.coo_array(raw).asformat(form)
    design = as_design(given)
    assert isinstance(design, SparseDesign) and np.array_equal(design.by_column.toarray(), raw)
    stored = sp.csc_array(raw)
    stored.data[0] = 0.0  # a stored zero is dropped
    assert SparseDesign.of(stored).entry.numel() == stored.nnz - 1
    assert SparseDesign.of(sp.csc_array(raw.astype(np.int32))).entry.dtype == torch.float64


def test_bad_data_are_named() -> None:
    raw = _raw(4, 3, 0)
    raw[1, 1] = np.nan
    for bad in (sp.csr_array(raw), torch.from_numpy(raw).to_sparse()):
        with pytest.raises(InvalidProblem, match="1 NaN or infinite"):
            sparse_regression(bad, np.zeros(4), k=1)
    with pytest.raises(InvalidProblem, match="1 NaN or infinite"):
        StoredDesign.of(raw)
    with pytest.raises(InvalidProblem, match="complex"):
        SparseDesign.of(sp.csr_array(raw.astype(complex)))
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(InvalidProblem, match="at least one"):
            sparse_regression(sp.csr_array(shape), np.zeros(shape[0]), k=1)
    with pytest.raises(InvalidProblem, match="shape"):
        sparse_regression(sp.csr_array((4, 3)), np.zeros(5), k=1)
    good = SparseDesign.of(sp.csr_array(np.eye(3)))
    parts = (good.center, good.factor, good.start, good.row, good.entry)
    for changed, message in (
        ((good.center[:2], *parts[1:]), "center must be"),
        ((good.center, -good.factor, *parts[2:]), "negative"),
        ((*parts[:2], good.start + 1, *parts[3:]), "starts"),
        ((*parts[:3], good.row + 1, good.entry), "outside"),
        ((*parts[:2], torch.tensor([0, 2, 2, 3]), torch.tensor([1, 0, 2]), good.entry), "ascend"),
        ((*parts[:2], torch.tensor([0, 2, 2, 3]), torch.tensor([1, 1, 2]), good.entry), "twice"),
        ((*parts[:4], good.entry.float()), "float64"),
    ):
        with pytest.raises(InvalidProblem, match=message):
            SparseDesign(*changed, 3)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("standardize", [True, False])
def test_centring_and_scaling_are_those_of_dense_data(intercept: bool, standardize: bool, tmp_path: Path) -> None:
    raw = _raw(20, 6, 5)
    raw[:, 2], raw[:, 3] = 0.0, 1.5  # empty, and constant
    y = np.random.default_rng(5).standard_normal(20)
    options: dict[str, bool] = {"fit_intercept": intercept, "standardize": standardize}
    mapped = np.memmap(tmp_path / "x.bin", dtype=np.float32, mode="w+", shape=raw.shape, order="F")
    mapped[:] = raw
    usual = RegressionData.of(raw, y, **options)
    for given in (sp.csr_array(raw), mapped):
        data = RegressionData.of(given, y, **options)
        assert isinstance(data.design, Shifted)
        assert torch.allclose(data.design.dense(), torch.as_tensor(usual.design), atol=1e-14)
        assert torch.allclose(data.scale, usual.scale) and torch.allclose(data.center, usual.center)
        point = torch.linspace(-1, 1, 6, dtype=torch.float64)
        assert torch.allclose(data.restore(point)[0], usual.restore(point)[0])
        assert data.restore(point)[1] == pytest.approx(usual.restore(point)[1])
    shared = RegressionData.of(mapped, y, **options).design
    assert isinstance(shared, StoredDesign) and shared.columns.data_ptr() == mapped.ctypes.data  # no copy


def test_methods_that_need_a_dense_matrix_say_so() -> None:
    empty = sp.csr_array((50_000, 900))
    loss = mp.LeastSquares(empty, torch.zeros(50_000), 0.1)
    problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(1)))
    for solver in (mp.Scip(), mp.CuttingPlanes(), mp.RuleSwaps()):
        reason = solver.rejects(problem)
        assert reason is not None and "BranchAndBound" in reason
    with pytest.raises(Unsupported, match="made dense"):
        problem.to_cvxpy()
    assert mp.solve(problem, mp.BranchAndBound()).value == 0.0


def test_a_refit_from_products_is_the_one_from_factors() -> None:
    design = _forms(12, 7, 4)["sparse, centred"]
    response = torch.from_numpy(np.random.default_rng(0).standard_normal(12))
    ridge = torch.linspace(0.0, 1.0, 7, dtype=torch.float64)
    expected = by_factors(design.dense(), response, ridge)
    assert torch.allclose(by_products(design, response, ridge), expected, atol=1e-9)
    assert not by_products(design, torch.zeros(12, dtype=torch.float64), ridge).any()


def test_the_estimate_of_the_norm_is_an_upper_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from mipprune.losses.designs import shifted

    design = {**_forms(9, 8, 1), **{f"{k} wide": v for k, v in _forms(5, 12, 2).items()}}
    exactly = {name: one.norm() for name, one in design.items()}
    monkeypatch.setattr(shifted, "_EIGEN", 0)
    for name, one in design.items():
        assert one.norm() >= exactly[name] * (1 - 1e-12)


@pytest.mark.parametrize("form", ["dense", "sparse", "stored"])
def test_curvature_that_underflowed_is_not_handed_out(form: str) -> None:
    """Squares of 1e-161 are subnormal: the computed X'X may be far above the true one."""
    for scale in np.geomspace(1e-163, 1e-159, 60):
        matrix = scale * np.array([[1.0], [1.0], [2.0]])
        as_given = {"dense": torch.from_numpy, "sparse": lambda x: SparseDesign.of(sp.csc_array(x))}
        loss = mp.losses.LeastSquares(as_given.get(form, StoredDesign.of)(matrix), torch.ones(3, dtype=torch.float64))
        gram = sum(Fraction(float(entry)) ** 2 for entry in matrix[:, 0])
        for factor in (1.0001, 1.01, 1.1, 1.3, 2.0):
            split = torch.tensor([factor * float(gram)], dtype=torch.float64)
            if Fraction(float(split)) > gram:
                assert not loss.proves_split(split, torch.ones(1, dtype=torch.bool)), (scale, factor)


def test_bounds_hold_where_squares_underflow() -> None:
    """Residuals below 1e-162, whose squares are zero, of columns whose center takes away fifteen digits."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        raw = 1e100 * (rng.standard_normal((5, 3)) + 1e15)
        X = StoredDesign.of(raw, center=torch.from_numpy(raw.mean(axis=0)))
        weights = 1e-251 * rng.standard_normal(3)
        response = X[:, torch.arange(3)] @ torch.from_numpy(weights)
        loss = mp.losses.LeastSquares(X, response)
        none = torch.zeros((1, 3), dtype=torch.bool)
        model = loss.tangents(torch.from_numpy(weights * (1 + 1e-15))[None], Cells(none, none))
        design, target = X.exact(), rational(response)
        for point in (weights, 0 * weights, 2 * weights, 1e-251 * rng.standard_normal(3)):
            b = rational(torch.from_numpy(point))
            fit = [t - sum(x * w for x, w in zip(row, b, strict=True)) for t, row in zip(target, design, strict=True)]
            claim = Fraction(float(model.constant[0])) + sum(
                Fraction(float(slope)) * w - Fraction(float(error)) * abs(w)
                for slope, error, w in zip(model.linear[0], model.error[0], b, strict=True)
            )
            assert claim <= sum(part * part for part in fit) / 2


def test_designs_without_rows_or_with_unusual_strides() -> None:
    raw = _raw(6, 3, 0)
    assert torch.equal(StoredDesign.of(raw[::-1, ::-1]).dense(), torch.from_numpy(raw[::-1, ::-1].copy()))
    packed = np.zeros(6, dtype=[("a", "i1"), ("b", "f8")])
    packed["b"] = raw[:, 0]
    assert torch.equal(StoredDesign.of(packed["b"][:, None]).dense(), torch.from_numpy(raw[:, :1]))
    for empty in (sp.csr_array((0, 2)), StoredDesign.of(np.zeros((0, 2)))):
        loss = mp.losses.LeastSquares(empty, torch.zeros(0), 1.0)
        assert loss.value(torch.ones(2)) == 1.0 and loss.minorant(torch.ones(2)).constant <= 0.0
    with pytest.raises(InvalidProblem, match="2 dimensions"):
        SparseDesign.of(sp.coo_array(np.ones(3)))


def test_a_design_with_coarse_results_is_used_in_float64() -> None:
    design = StoredDesign.of(_raw(6, 3, 0)).to(torch.float32)
    loss = mp.losses.LeastSquares(design, torch.ones(6, dtype=torch.float64))
    assert loss.response.dtype == (design.to(torch.float64) @ torch.ones(3)).dtype == torch.float64
    assert loss.matrix[:, torch.arange(3)].dtype == torch.float64


def test_columns_of_zeros_cost_no_allowance() -> None:
    """Without a ridge any slope on such a column would leave the loss without a bound."""
    loss = mp.losses.LeastSquares(torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double(), torch.ones(2).double())
    none = torch.zeros((1, 2), dtype=torch.bool)
    error = loss.tangents(torch.zeros((1, 2), dtype=torch.float64), Cells(none, none)).error
    assert error[0, 1] == 0 < error[0, 0] and loss.matrix.magnitude[1] == 0


@pytest.mark.parametrize("form", ["dense", "sparse", "stored"])
def test_a_loss_without_columns_is_a_constant(form: str) -> None:
    """Splits, descriptions and bounds asked for the largest of no numbers."""
    design: Any = {"dense": torch.zeros, "sparse": lambda n, p: sp.csc_array((n, p)), "stored": _nothing}[form](3, 0)
    loss = mp.losses.LeastSquares(design, torch.tensor([1.0, 2.0, 2.0]))
    problem = mp.Problem(loss, mp.Sparse(mp.Cardinality(0)))
    assert loss.best_split().shape == loss.best_split(torch.ones(0)).shape == (0,) and "3 x 0" in problem.describe()
    assert problem.bound(torch.zeros(0)) == pytest.approx(4.5) and problem.value(torch.zeros(0)) == 4.5
    solution = mp.solve(problem)
    assert mp.check(problem, solution).gap < 1e-12 and mp.check(problem, solution, exact=True).gap == 0.0


def _nothing(n: int, p: int) -> StoredDesign:
    return StoredDesign.of(np.zeros((n, p), dtype=np.int8))
