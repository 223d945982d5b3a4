"""Choices coupled too much for tables: costs of pairs replaced by sums of costs of single options, below or above.

A table is at least ``a_j + b_k`` and at most another such sum. With the sums below, every choice within the budgets
stays within them, so that a bound of the loosened choice is one of the original; with those above, what fits fits the
original.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .choice import Array, Choice, TooWide

__all__ = ["loosened"]


def loosened(model: Choice, *, above: bool) -> Choice:
    """Return a choice whose tables fit, with as many pairs replaced as that takes, those with most options first.

    Parameters
    ----------
    model : Choice
    above : bool
        Replace costs of pairs by sums that are nowhere smaller, instead of nowhere larger.
    """
    pairs = sorted(model.pairs, key=lambda pair: pair[2].size)
    costs = [np.array(cost) for cost in model.costs]
    while True:
        candidate = replace(model, costs=costs, pairs=pairs)
        try:
            _ = candidate.steps
        except TooWide:
            a, b, table = pairs[-1]
            pairs = pairs[:-1]
            first, second = _sum_above(table) if above else _sum_below(table)
            costs[a] = costs[a] + first
            costs[b] = costs[b] + second
        else:
            return candidate


def _sum_below(table: Array) -> tuple[Array, Array]:
    """Whole numbers >= 0 by options of both sides whose sum is nowhere above the table."""
    second = np.floor(0.5 * table.min(axis=0))
    return (table - second).min(axis=1), second


def _sum_above(table: Array) -> tuple[Array, Array]:
    """Whole numbers >= 0 by options of both sides whose sum is nowhere below the table."""
    second = np.ceil(0.5 * table.max(axis=0))
    return np.maximum((table - second).max(axis=1), 0.0), second
