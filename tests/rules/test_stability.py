"""Agreement of rule sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mipprune import InvalidProblem
from mipprune.rules import Condition, QuantileBinner, Rule
from mipprune.rules.stability import (
    binned_key,
    dice_sorensen,
    jaccard,
    mean_agreement,
    ochiai,
    percentage_of_overlap,
)

MEASURES = (dice_sorensen, jaccard, ochiai, percentage_of_overlap)
SETS = st.frozensets(st.integers(0, 9))


@given(first=SETS, second=SETS)
def test_agreement_is_one_for_equal_sets_and_zero_for_disjoint_ones(first: frozenset, second: frozenset) -> None:
    for measure in MEASURES:
        assert measure(first, first) == 1.0
        assert 0.0 <= measure(first, second) <= 1.0
        if first and not first & second:
            assert measure(first, second) == 0.0
    for measure in MEASURES[:3]:
        assert measure(first, second) == measure(second, first)
    # The three symmetric measures are ordered for every pair of sets.
    assert jaccard(first, second) <= dice_sorensen(first, second) + 1e-15
    if first and second:
        assert dice_sorensen(first, second) <= ochiai(first, second) + 1e-15


def test_order_and_repetition_do_not_matter() -> None:
    assert dice_sorensen(["a", "b", "b"], ["b", "a"]) == 1.0
    assert percentage_of_overlap(["a", "b", "c", "d"], ["a"]) == 0.25


def test_the_mean_runs_over_all_pairs() -> None:
    sets = [{1, 2}, {2, 3}, {3, 4}]
    assert mean_agreement(sets) == pytest.approx((0.5 + 0.0 + 0.5) / 3)
    assert mean_agreement([{1}, {1, 2}], percentage_of_overlap) == pytest.approx(0.75)
    with pytest.raises(InvalidProblem, match="at least two"):
        mean_agreement([{1}])


def test_rules_of_two_samples_agree_by_their_bins() -> None:
    rng = np.random.default_rng(0)
    keys = []
    for _ in range(2):
        binner = QuantileBinner(bins=4, distinct=4).fit(rng.standard_normal((200, 2)))
        edges = binner.edges_[1]
        assert edges is not None
        keys.append(binned_key(Rule((Condition(1, "<=", float(edges[2])), Condition(0, ">", -9.0))), binner))
    assert keys[0] == keys[1]
    assert (1, "<=", 2.0) in keys[0]
    plain = Rule((Condition(1, "<=", 0.5),))
    assert binned_key(plain, None) == frozenset({(1, "<=", 0.5)})


def test_a_feature_that_is_not_binned_keeps_its_threshold() -> None:
    binner = QuantileBinner(bins=4, distinct=10).fit([[0.0], [1.0]])
    assert binned_key(Rule((Condition(0, "<=", 0.5),)), binner) == frozenset({(0, "<=", 0.5)})
