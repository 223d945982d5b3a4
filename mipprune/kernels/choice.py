"""One option for each variable within budgets: elimination order, completion bounds and the Lagrangian dual.

A *choice* takes one option of each variable. Its gain is the sum of the gains of the options; its costs are sums of
costs of options and, where two variables are coupled, of a cost that depends on the pair of their options. Variables
are processed one after another; the options of those that still have coupled partners ahead are the *state*. Without
couplings there is one state and everything is the multiple-choice knapsack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Choice", "Dual", "Step", "TooWide", "minimise_dual"]

Array = np.ndarray[Any, Any]

_LARGEST = 1 << 20  # entries of a table over states and options
_ROUNDOFF = 2.0**-53


class TooWide(Exception):
    """The variables are coupled so much that the tables over states would not fit."""


class Step(NamedTuple):
    """What processing one variable does."""

    variable: int
    cost: Array
    """(states, options, resources): what an option adds"""
    following: Array
    """int64 (states, options): the state afterwards"""
    states: int
    """number of states afterwards"""


@dataclass(frozen=True, eq=False)
class Choice:
    """Gains, costs and budgets of options.

    Parameters
    ----------
    gains : sequence of array, shape (options,)
        Finite, float64.
    costs : sequence of array, shape (options, resources)
        Whole numbers in float64, so small that no sum rounds.
    budgets : array, shape (resources,)
        Whole numbers in float64.
    pairs : sequence of (int, int, array of shape (options, options, resources))
        Costs of pairs of options of two different variables, whole numbers.
    """

    gains: Sequence[Array]
    costs: Sequence[Array]
    budgets: Array
    pairs: Sequence[tuple[int, int, Array]] = ()

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The variables in the order in which they are processed.

        Raises
        ------
        TooWide
            If some table would have more than a million entries.
        """
        partners: dict[int, dict[int, Array]] = {v: {} for v in range(len(self.gains))}
        for a, b, table in self.pairs:
            for one, other, cost in ((a, b, table.swapaxes(0, 1)), (b, a, table)):  # by (option of other, of one)
                partners[one][other] = partners[one][other] + cost if other in partners[one] else cost
        steps, state = list[Step](), list[int]()
        for variable in self._order(partners):
            sizes = [len(self.gains[v]) for v in state]
            states, options = int(np.prod(sizes, dtype=np.int64)), len(self.gains[variable])
            if states * options > _LARGEST:
                raise TooWide(f"{states} states times {options} options")
            index = np.unravel_index(np.arange(states), sizes) if state else ()
            cost = np.broadcast_to(self.costs[variable], (states, *self.costs[variable].shape)).copy()
            for position, other in enumerate(state):
                if other in partners[variable]:
                    cost += partners[variable][other][index[position]]
            done = {*(s.variable for s in steps), variable}
            after = [v for v in [*state, variable] if not partners[v].keys() <= done]
            following = np.zeros((states, options), dtype=np.int64)
            for v in after:
                where = np.arange(options)[None, :] if v == variable else index[state.index(v)][:, None]
                following = following * len(self.gains[v]) + where
            steps.append(Step(variable, cost, following, int(np.prod([len(self.gains[v]) for v in after], initial=1))))
            state = after
        return tuple(steps)

    def _order(self, partners: dict[int, dict[int, Array]]) -> list[int]:
        """Greedy order: next comes the variable after which there are fewest states, among those the costliest.

        Costly variables come first because the bounds on what is left are the sharper the finer its costs are.
        """
        scale = np.maximum(self.budgets, 1.0)
        weight = [float((cost.max(axis=0) / scale).max()) for cost in self.costs]
        for a, b, table in self.pairs:
            for v in (a, b):
                weight[v] += float((table.max(axis=(0, 1)) / scale).max())
        order, done, state = list[int](), set[int](), list[int]()
        left = set(range(len(self.gains)))
        while left:
            keys = []
            touched = {w for v in state for w in partners[v]} & left
            for v in touched or left:
                after = [w for w in [*state, v] if not partners[w].keys() <= done | {v}]
                keys.append((float(np.prod([len(self.gains[w]) for w in after], initial=1.0)), -weight[v], v))
            order.append(min(keys)[2])
            done.add(order[-1])
            left.discard(order[-1])
            state = [w for w in [*state, order[-1]] if not partners[w].keys() <= done]
        return order

    @cached_property
    def largest(self) -> Array:
        """An upper bound of the cost of any choice, (resources,)."""
        total: Array = sum((step.cost.max(axis=(0, 1)) for step in self.steps), np.zeros_like(self.budgets))
        return total

    @cached_property
    def gain_size(self) -> float:
        """An upper bound of the sum of the absolute gains of any choice."""
        return float(sum(np.abs(gain).max() for gain in self.gains)) * (1.0 + 1e-12)

    @cached_property
    def least_gain(self) -> float:
        """A lower bound of the gain of any choice."""
        return float(sum(gain.min() for gain in self.gains)) - 2.0 * self.rounding

    @cached_property
    def rounding(self) -> float:
        """A bound on the rounding error of the gain of a choice, summed in any order."""
        return (len(self.gains) + 4) * _ROUNDOFF * self.gain_size

    def allowance(self, multipliers: Array) -> Array:
        """Bound the rounding error of a Lagrangian bound, for each row of multipliers (rows, resources)."""
        terms = (len(self.gains) + 2) * (len(self.budgets) + 4) + 20
        allowed: Array = terms * _ROUNDOFF * (self.gain_size + multipliers @ (self.budgets + self.largest))
        return allowed

    def completions(self, multipliers: Array, gains: Sequence[Array] | None = None) -> list[Array]:
        """Return the largest reduced gain of the variables from each step on, for rows of multipliers.

        Parameters
        ----------
        multipliers : array, shape (rows, resources)
        gains : sequence of array, optional
            Other gains than the choice's own.

        Returns
        -------
        list of array, shape (rows, states)
            Entry t belongs to the states before step t; the last one is 0.
        """
        gains = self.gains if gains is None else gains
        rows = len(multipliers)
        out = [np.zeros((rows, 1))]
        for step in reversed(self.steps):
            table = np.empty((rows, len(step.cost)))
            chunk = max(1, _LARGEST // step.following.size)
            for first in range(0, rows, chunk):
                part = slice(first, first + chunk)
                reduced = gains[step.variable] - np.moveaxis(step.cost @ multipliers[part].T, -1, 0)
                table[part] = (reduced + out[-1][part][:, step.following]).max(axis=2)
            out.append(table)
        return out[::-1]

    def best(self, multiplier: Array, gains: Sequence[Array] | None = None) -> Array:
        """Return the choice with the largest reduced gain, as an option for each variable (int64)."""
        gains = self.gains if gains is None else gains
        after = self.completions(multiplier[None], gains)
        choice, state = np.zeros(len(self.gains), dtype=np.int64), 0
        for number, step in enumerate(self.steps):
            reduced = gains[step.variable] - step.cost[state] @ multiplier + after[number + 1][0, step.following[state]]
            option = int(reduced.argmax())
            choice[step.variable], state = option, int(step.following[state, option])
        return choice

    def cost(self, choice: Array) -> Array:
        """Return the exact cost of a choice, (resources,)."""
        total: Array = sum((self.costs[v][j] for v, j in enumerate(choice)), np.zeros_like(self.budgets))
        return sum((table[choice[a], choice[b]] for a, b, table in self.pairs), total)

    def fits(self, choice: Array) -> bool:
        """Tell whether a choice is within the budgets."""
        return bool((self.cost(choice) <= self.budgets).all())

    def gain(self, choice: Array) -> float:
        """Return the gain of a choice."""
        return float(sum(gain[j] for gain, j in zip(self.gains, choice, strict=True)))

    def least_costs(self) -> list[Array]:
        """Return the least cost of each single resource from each step on, [(resources, states)]."""
        nothing = [np.zeros_like(gain) for gain in self.gains]
        return [0.0 - table for table in self.completions(np.eye(len(self.budgets)), nothing)]

    def bounds(self, multipliers: Array) -> Array:
        """Return what each row of multipliers proves: no choice within the budgets has a larger gain."""
        with np.errstate(over="ignore", invalid="ignore"):
            values: Array = self.completions(multipliers)[0][:, 0] + multipliers @ self.budgets
            values += self.allowance(multipliers)
        return np.where(np.isnan(values), np.inf, values)  # multipliers so large that sums overflow prove nothing


class Dual(NamedTuple):
    """The answer of :func:`minimise_dual`."""

    multipliers: Array
    """(rows, resources), >= 0; the first row is the best one found, the others were met on the way"""
    choice: Array | None
    """the best choice within the budgets that was met, if any"""


def minimise_dual(model: Choice) -> Dual:
    """Minimise the Lagrangian bound over the multipliers; every row of the answer proves a bound by itself."""
    search = _Search(model)
    rows = search.single() if len(model.budgets) == 1 else search.cutting_planes()
    return Dual(rows, search.choice)


class _Search:
    """Keeps the best choice within the budgets that the dual search meets."""

    def __init__(self, model: Choice) -> None:
        self.model, self.value = model, -np.inf
        self.choice: Array | None = None

    def meet(self, choice: Array) -> tuple[float, Array]:
        """Return gain and cost of a choice, after taking it as the best one where it is."""
        gain, cost = self.model.gain(choice), self.model.cost(choice)
        if gain > self.value and bool((cost <= self.model.budgets).all()):
            self.value, self.choice = gain, choice
        return gain, cost

    def single(self) -> Array:
        """One budget: intersect the lines of a choice above the budget and of one within it until none is better."""
        budget = float(self.model.budgets[0])
        high = self.meet(self.model.best(np.zeros(1)))
        if high[1][0] <= budget:
            return np.zeros((1, 1))
        cheapest = self.model.best(np.ones(1), [np.zeros_like(gain) for gain in self.model.gains])
        low = self.meet(cheapest)
        rows: list[float] = []
        if low[1][0] > budget:  # nothing fits: a large multiplier proves it
            return np.array([[4.0 * (self.model.gain_size + 1.0)]])
        while not rows or len(rows) < 200:
            rows.append(max((high[0] - low[0]) / float(high[1][0] - low[1][0]), 0.0))
            found = self.meet(self.model.best(np.array(rows[-1:])))
            line = high[0] - rows[-1] * high[1][0]
            if found[0] - rows[-1] * found[1][0] <= line + 1e-14 * (abs(line) + self.model.gain_size):
                break
            high, low = (found, low) if found[1][0] > budget else (high, found)
        return np.array(rows[::-1])[:, None]

    def cutting_planes(self) -> Array:
        """Several budgets: Kelley's method, with a box that grows while it binds."""
        from scipy.optimize import linprog

        model, resources = self.model, len(self.model.budgets)
        scale = np.maximum(model.budgets, 1.0)
        nothing = [np.zeros_like(gain) for gain in model.gains]
        first = [model.best(np.zeros(resources))] + [model.best(row, nothing) for row in np.eye(resources)]
        cuts = [self.meet(choice) for choice in first]
        box, best, rows = np.full(resources, 4.0 * model.gain_size + 1.0), np.inf, list[tuple[float, Array]]()
        for _ in range(60 * resources):
            left = np.array([[*((model.budgets - cost) / scale), -1.0] for _, cost in cuts])
            right = np.array([-gain for gain, _ in cuts])
            bounds = [*((0.0, side) for side in box), (None, None)]
            found = linprog([0.0] * resources + [1.0], A_ub=left, b_ub=right, bounds=bounds, method="highs")
            if found.x is None:
                break
            multiplier = np.maximum(found.x[:-1], 0.0) / scale
            gain, cost = self.meet(model.best(multiplier))
            value = gain + float(multiplier @ (model.budgets - cost))
            rows.append((value, multiplier))
            best = min(best, value)
            if value < model.least_gain - 1e-9 * model.gain_size:
                break  # nothing fits
            if best - found.fun <= 1e-10 * model.gain_size:
                if not bool((found.x[:-1] >= box).any()):
                    break
                box = np.where(found.x[:-1] >= box, 8.0 * box, box)
            cuts.append((gain, cost))
        rows.sort(key=lambda row: row[0])
        return np.array([row for _, row in rows[:12]]) if rows else np.zeros((1, resources))
