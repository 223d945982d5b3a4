"""Reading user data, exact sums, digests, and exact rational arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mipprune import Cardinality, Groups, InvalidProblem, Linear
from mipprune.core.arrays import accurate_sum, as_mask, as_tensor, digest, exact, require_symmetric, working_dtype
from mipprune.core.rational import is_positive_semidefinite, rational, total

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e150, max_value=1e150)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_exactly(dtype: torch.dtype) -> None:
    data = torch.tensor([0.1, 3.0, -2.5], dtype=dtype)
    found = as_tensor(data, "data")
    assert found.dtype == torch.float32
    assert torch.equal(found.to(dtype), data)


@pytest.mark.parametrize("data", [[1, 2], np.array([1, 2], dtype=np.int64), torch.tensor([True, False])])
def test_whole_numbers_become_float64(data: Any) -> None:
    assert as_tensor(data, "data").dtype == torch.float64


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (["a"], {}, "cannot be read"),
        ([1j], {}, "complex"),
        ([math.nan], {}, "1 NaN or infinite"),
        ([[math.inf, -math.inf]], {}, "2 NaN or infinite"),
        ([1.0], {"ndim": 2}, "2 dimension"),
        ([1.0], {"shape": (2,)}, r"expected \(2,\)"),
    ],
)
def test_unusable_data_are_refused_by_name(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidProblem, match=f"the weights.*{message}"):
        as_tensor(data, "the weights", **options)


def test_masks_are_zero_and_one() -> None:
    assert as_mask([[1, 0]], "mask", shape=(1, 2)).tolist() == [[True, False]]
    with pytest.raises(InvalidProblem, match="other than 0 and 1"):
        as_mask([0.5, 1.0], "mask")
    with pytest.raises(InvalidProblem, match="expected"):
        as_mask([True], "mask", shape=(2,))


def test_symmetry_is_restored_exactly_and_asked_for() -> None:
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 1] = 1e-13
    fixed = require_symmetric(matrix, "gram")
    assert torch.equal(fixed, fixed.T)
    matrix[0, 1] = 0.5
    with pytest.raises(InvalidProblem, match="not symmetric"):
        require_symmetric(matrix, "gram")
    with pytest.raises(InvalidProblem, match="must be equal"):
        require_symmetric(torch.ones(2, 3), "gram")


@given(st.lists(st.lists(NUMBERS, min_size=5, max_size=5), min_size=1, max_size=6))
def test_a_sum_states_its_error(rows: list[list[float]]) -> None:
    found, error = accurate_sum(torch.tensor(rows, dtype=torch.float64))
    true = sum((Fraction(number) for row in rows for number in row), Fraction(0))
    assert abs(Fraction(found) - true) <= Fraction(error)


def test_sums_of_nothing_and_of_numbers() -> None:
    assert accurate_sum(torch.zeros(0)) == (0.0, 0.0)
    assert accurate_sum(torch.tensor(2.5))[0] == 2.5


def test_cancellation_over_many_rows_costs_nothing() -> None:
    terms = torch.tensor([[1e16], [1.0], [-1e16]], dtype=torch.float64)
    assert accurate_sum(terms)[0] == 1.0


def test_working_precision() -> None:
    assert working_dtype(100, None) == torch.float64
    assert working_dtype(1 << 20, None) == torch.float32
    assert working_dtype(100, torch.float32) == torch.float32


# ------------------------------------------------------------------------------------------------ digests


def test_a_digest_sees_data_and_not_precision_or_container() -> None:
    base = digest(Linear([[1.0, 2.0]]))
    assert digest(Linear(torch.tensor([[1.0, 2.0]], dtype=torch.float32))) == base
    assert digest(Linear(np.array([[1.0, 2.0]]))) == base
    assert digest(Linear([[1.0, 2.0 + 1e-12]])) != base
    assert digest(Linear([[1.0], [2.0]])) != base
    assert digest(Linear([[1.0, 2.0]], 1e-300)) != base


def test_a_digest_sees_types_counts_and_order() -> None:
    assert digest(Cardinality(2)) != digest(Cardinality(3))
    assert digest(Groups(2, 1)) != digest(Groups(torch.tensor([0, 0]), 1))
    assert digest([1, [2]]) != digest([[1], 2])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(1) != digest(1.0) != digest("1.0")
    assert digest(None) != digest(False) != digest(0)


def test_numpy_numbers_and_plain_objects_can_be_digested() -> None:
    @dataclass
    class Data:
        count: Any

    class Plain:
        def __init__(self, count: int) -> None:
            self.count, self._cache = count, object()

    assert digest(Data(np.int64(3))) == digest(Data(3))
    assert digest(Data(np.array([1.0]))) == digest(Data(torch.tensor([1.0])))
    assert digest(Plain(1)) == digest(Plain(1)) != digest(Plain(2))


# ------------------------------------------------------------------------------------------------ rationals


@given(st.lists(NUMBERS, min_size=1, max_size=6))
def test_rationals_are_exact(numbers: list[float]) -> None:
    found = rational(torch.tensor(numbers, dtype=torch.float64))
    assert [float(value) for value in found] == numbers
    assert total(found) == sum(map(Fraction, numbers), Fraction(0))


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=n, max_size=n), min_size=1, max_size=n)
    ),
    st.integers(0, 1),
)
def test_semidefiniteness_is_decided_exactly(rows: list[list[int]], shift: int) -> None:
    """X'X is semidefinite however singular; minus a little of an identity, exactly when it was definite enough."""
    inputs = np.array([[Fraction(v) for v in row] for row in rows], dtype=object)
    gram = inputs.T @ inputs
    assert is_positive_semidefinite(gram)
    lowered = gram.copy()
    lowered[range(len(gram)), range(len(gram))] -= Fraction(shift, 2**40)
    smallest = np.linalg.eigvalsh(gram.astype(float))[0]
    if shift == 0 or abs(smallest) > 1e-9:
        assert is_positive_semidefinite(lowered) == (shift == 0 or smallest > 0)
    elif np.linalg.matrix_rank(gram.astype(float)) < len(gram):
        assert not is_positive_semidefinite(lowered)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[0, 0], [0, 0]], True),
        ([[0, 1], [1, 0]], False),
        ([[0, 0], [0, -1]], False),
        ([[1, 2, 3], [2, 4, 6], [3, 6, 9]], True),
        ([[1, 2, 3], [2, 4, 7], [3, 7, 9]], False),
        ([[0, 0, 0], [0, 1, 1], [0, 1, 1]], True),
        ([], True),
    ],
)
def test_singular_cases(matrix: list[list[int]], expected: bool) -> None:
    size = len(matrix)
    array = np.array([[Fraction(v) for v in row] for row in matrix], dtype=object).reshape(size, size)
    assert is_positive_semidefinite(array) is expected


def test_numbers_that_no_float_has_are_refused() -> None:
    with pytest.raises(ValueError, match="dyadic"):
        is_positive_semidefinite(
            np.array([[Fraction(1, 3), Fraction(1, 2)], [Fraction(1, 2), Fraction(1)]], dtype=object)
        )


def test_exact_copies_do_not_alias_another_precision() -> None:
    single = torch.tensor([0.1], dtype=torch.float32)
    assert exact(single).dtype == torch.float64
    assert float(exact(single)) == float(np.float32(0.1))
