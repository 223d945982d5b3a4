"""Exactly one option of each layer (a sparsity, a bit width, a number of channels) within budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import accurate_sum, as_tensor, exact
from ..core.structure import Selection, Supports, Witness
from ..errors import CertificateError, InvalidProblem, SolverFailure
from ..kernels import choice_search
from ..kernels.choice import Choice
from ..kernels.choice_loosening import loosened
from ..kernels.whole_numbers import whole_numbers
from .partition import restricted

__all__ = ["MultipleChoice"]

Array = np.ndarray[Any, Any]
Pair = tuple[int, int, Tensor]


@dataclass(frozen=True, eq=False)
class MultipleChoice(Supports):
    r"""Masks that keep exactly one option of each layer, with sums of costs within budgets.

    The weights are one flat vector: the options of the first layer, then those of the second, and so on.

    Parameters
    ----------
    costs : sequence of array, shape (options,) or (options, resources)
        For each layer what each option costs, >= 0. Layers may have different numbers of options.
    budgets : array, shape (resources,), or float
        What a choice may cost in all, >= 0.
    pairs : sequence of (int, int, array of shape (options, options, resources)), optional
        Two different layers and what each pair of their options costs in addition, >= 0; the last axis may be left out
        when there is one resource. Widths of consecutive layers cost their product, for example.
    labels : int
        Most partial choices that the search may keep at a time.

    Notes
    -----
    Sums of costs are compared in whole numbers. Costs and budgets that are whole, or decimals with few digits, are
    taken as they are written; others are rounded to about 2^-52 of the largest attainable cost, and what exceeds a
    budget by no more than this rounding counts as within.

    Multipliers :math:`u \ge 0` bound the gain of every member,

    .. math:: \sum_l g_{l,j_l} \le \langle u, b\rangle + \max_j \sum_l (g_{l,j_l} - \langle u, c_{l,j_l}\rangle),

    which leaves the gap of the knapsack's integrality. A search over partial choices closes it: it drops those whose
    Lagrangian bounds do not exceed a level, and those that others dominate. The witness of a selection holds the
    multipliers and the level, float64 of shape (rows, resources + 1); the bound is proven by running the search again,
    in float64 with a stated rounding allowance. Where ``labels`` do not suffice, the bound is that of the multipliers
    (level ``inf``). Where layers are coupled so much that the tables over what is still coupled ahead would not fit,
    costs of pairs are replaced by sums below (for the bound) and above (for the point); both stay valid, and a
    mixed-integer solver may find better points.

    References
    ----------
    Multiple-choice knapsacks: Kellerer, Pferschy, Pisinger, "Knapsack problems" (2004), chapter 11,
    doi:10.1007/978-3-540-24777-7. The bound and the search are derived here.

    Examples
    --------
    >>> import torch
    >>> family = MultipleChoice([[0.0, 1.0, 2.0], [0.0, 2.0, 3.0]], 3.0)
    >>> found = family.select(torch.tensor([0.0, 4.0, 5.0, 0.0, 3.0, 6.0]))
    >>> family.options(found.mask).tolist(), found.value
    ([1, 1], 7.0)
    """

    costs: Sequence[Any]
    budgets: Any
    pairs: Sequence[Any] = ()
    labels: int = 1 << 20
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        budgets = exact(as_tensor(self.budgets, "budgets")).reshape(-1)
        if budgets.numel() == 0 or bool((budgets < 0).any()):
            raise InvalidProblem(f"budgets are {budgets.tolist()}; give at least one, all >= 0")
        if isinstance(self.costs, (str, bytes)) or len(self.costs) == 0:
            raise InvalidProblem("costs hold no layer; give one table of costs for each layer")
        costs = tuple(_table(table, f"costs of layer {number}", budgets) for number, table in enumerate(self.costs))
        pairs = tuple(_pair(pair, costs, budgets) for pair in self.pairs)
        if int(self.labels) < 1:
            raise InvalidProblem(f"labels is {self.labels}; the search needs room for at least one partial choice")
        for name, value in (("costs", costs), ("budgets", budgets), ("pairs", pairs), ("labels", int(self.labels))):
            object.__setattr__(self, name, value)

    @property
    def size(self) -> int:
        """Number of options of all layers together."""
        return sum(len(table) for table in self.costs)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`."""
        if shape != (self.size,):
            raise InvalidProblem(
                f"the array has shape {shape}; the options of all {len(self.costs)} layers make a vector of "
                f"{self.size} entries"
            )

    @cached_property
    def _starts(self) -> Array:
        return np.concatenate([[0], np.cumsum([len(table) for table in self.costs])])

    @cached_property
    def whole(self) -> tuple[list[Array], list[Array], Array]:
        """Costs, costs of pairs and budgets in whole numbers of one unit for each resource, as float64 arrays."""
        tables = [table.numpy() for table in self.costs]
        coupled = [table.numpy() for _, _, table in self.pairs]
        columns = [
            whole_numbers([table[..., r] for table in (*tables, *coupled)], float(self.budgets[r]))
            for r in range(len(self.budgets))
        ]
        whole = [np.stack([column[0][i] for column in columns], axis=-1) for i in range(len(tables) + len(coupled))]
        return whole[: len(tables)], whole[len(tables) :], np.array([column[1] for column in columns])

    # ------------------------------------------------------------------------------------------ selection

    def _allowed(self, mask: Tensor | None = None) -> Array | None:
        """The options that the fixings (and ``mask``, kept) leave, or ``None`` when some layer has none."""
        allowed = np.ones(self.size, dtype=bool) if self.off is None else ~self.off.cpu().numpy().reshape(-1)
        kept = np.zeros(self.size, dtype=bool) if self.on is None else self.on.cpu().numpy().reshape(-1).copy()
        if mask is not None:
            kept |= mask.cpu().numpy().reshape(-1)
        counts = np.add.reduceat(kept.astype(np.int64), self._starts[:-1])
        allowed &= kept | (np.repeat(counts, np.diff(self._starts)) == 0)
        if bool((counts > 1).any()) or bool((kept & ~allowed).any()):
            return None
        return None if bool((np.add.reduceat(allowed.astype(np.int64), self._starts[:-1]) == 0).any()) else allowed

    def _model(self, gain: Array, allowed: Array) -> tuple[Choice, list[Array]]:
        costs, coupled, budgets = self.whole
        options = [np.flatnonzero(part) for part in np.split(allowed, self._starts[1:-1])]
        gains = [gain[start + part] for start, part in zip(self._starts, options)]
        tables = [table[part] for table, part in zip(costs, options)]
        pairs = [(a, b, t[np.ix_(options[a], options[b])]) for (a, b, _), t in zip(self.pairs, coupled)]
        return Choice(gains, tables, budgets, pairs), options

    def _mask(self, choice: Array, options: list[Array]) -> Tensor:
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[[int(start + part[j]) for start, part, j in zip(self._starts, options, choice)]] = True
        return mask

    def _completion(self, allowed: Array) -> Tensor | None:
        """Some member within the allowed options, or ``None`` when there is none."""
        whole, options = self._model(np.zeros(self.size), allowed)
        below, model = loosened(whole, above=False), loosened(whole, above=True)
        if bool((below.least_costs()[0][:, 0] > below.budgets).any()):
            return None
        scale = 1.0 / np.maximum(model.budgets, 1.0)
        multipliers = np.vstack([np.diag(scale), scale[None]])
        found = choice_search.search(model, multipliers, -1e-300, self.labels, beam=True)
        if found.choice is None and not (found.complete and len(model.pairs) == len(whole.pairs)):
            raise SolverFailure(
                f"whether the budgets can be met could not be decided with {self.labels} labels; raise labels=..., or "
                "take fewer options of layers that are coupled with many others"
            )
        return None if found.choice is None else self._mask(found.choice, options)

    def _prepared(self, gain: Tensor) -> tuple[Array, Array] | Tensor | None:
        """Finite gains with the allowed options; a member with an infinite gain; ``None`` when nothing is allowed."""
        self.check_shape(tuple(gain.shape))
        values = exact(gain).numpy()
        if bool((np.isnan(values) | (values == -np.inf)).any()):
            raise InvalidProblem("the gains contain NaN or -inf; clean the scores before choosing")
        allowed = self._allowed()
        if allowed is None:
            return None
        infinite = np.isinf(values)
        for entry in np.flatnonzero(infinite & allowed):
            kept = torch.zeros(self.size, dtype=torch.bool)
            kept[entry] = True
            within = self._allowed(kept)
            member = None if within is None else self._completion(within)
            if member is not None:
                return member
        allowed &= ~infinite  # infinite gains that no member can have
        if bool((np.add.reduceat(allowed.astype(np.int64), self._starts[:-1]) == 0).any()):
            return None
        return np.where(infinite, 0.0, values), allowed

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`."""
        prepared = self._prepared(gain)
        nothing = Selection(torch.zeros(self.size, dtype=torch.bool, device=gain.device), -math.inf, -math.inf)
        if prepared is None:
            return nothing
        if isinstance(prepared, Tensor):
            return Selection(prepared.to(gain.device), math.inf, math.inf)
        model, options = self._model(*prepared)
        best = choice_search.maximise(loosened(model, above=False), self.labels)
        if best.choice is None and best.bound == -math.inf:
            return nothing
        choice = best.choice
        if choice is None or not model.fits(choice):  # of costs that are too small
            choice = choice_search.maximise(loosened(model, above=True), self.labels).choice
        if choice is None:
            raise SolverFailure(
                f"no choice within the budgets was found with {self.labels} labels, and none was ruled out; "
                "raise labels=..., or loosen the budgets"
            )
        mask = self._mask(choice, options)
        level = np.full((len(best.multipliers), 1), best.level)
        witness = torch.from_numpy(np.hstack([best.multipliers, level]))
        return Selection(mask.to(gain.device), accurate_sum(exact(gain)[mask])[0], best.bound, witness)

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """See :meth:`Supports.select_bound`: the search runs again, from the multipliers and the level alone."""
        if witness is None:
            return self.select(gain).bound
        rows = exact(witness).numpy()
        if rows.ndim != 2 or rows.shape[1] != len(self.budgets) + 1 or len(rows) == 0 or np.isnan(rows).any():
            raise CertificateError(
                f"the witness has shape {tuple(witness.shape)}; rows of {len(self.budgets)} multipliers and a level "
                "are needed, without NaN"
            )
        if not bool((np.isfinite(rows[:, :-1]) & (rows[:, :-1] >= 0)).all()):
            raise CertificateError("the witness holds multipliers that are negative or infinite; they prove nothing")
        prepared = self._prepared(gain)
        if prepared is None:
            return -math.inf
        if isinstance(prepared, Tensor):
            return math.inf
        model, _ = self._model(*prepared)
        multipliers = np.ascontiguousarray(rows[:, :-1])
        below = loosened(model, above=False)
        with np.errstate(over="ignore", invalid="ignore"):  # of multipliers that are too large to prove anything
            return choice_search.bound(below, multipliers, float(rows[0, -1]), self.labels)[0]

    # ------------------------------------------------------------------------------------------ membership

    def options(self, mask: Tensor) -> Tensor:
        """Return which option of each layer a member keeps, int64 (layers,)."""
        self.check_shape(tuple(mask.shape))
        kept = mask.cpu().numpy() != 0
        if not bool((self._counts(kept) == 1).all()):
            raise InvalidProblem("the mask does not keep exactly one option of each layer")
        return torch.from_numpy(np.flatnonzero(kept) - self._starts[:-1])

    def usage(self, mask: Tensor) -> Tensor:
        """Return what a member costs, float64 (resources,)."""
        chosen = self.options(mask).tolist()
        terms = [table[j] for table, j in zip(self.costs, chosen)]
        terms += [table[chosen[a], chosen[b]] for a, b, table in self.pairs]
        sums = [math.fsum(column) for column in zip(*(term.tolist() for term in terms))]
        return torch.tensor(sums, dtype=torch.float64)

    def _counts(self, kept: Array) -> Array:
        counts: Array = np.add.reduceat(kept.astype(np.int64), self._starts[:-1])
        return counts

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`: options beyond one of a layer, contradicted fixings, 1 for the budgets."""
        self.check_shape(tuple(mask.shape))
        whole = mask.cpu() if self.on is None else mask.cpu() | self.on.cpu()
        clash = 0 if self.off is None else int((whole & self.off.cpu()).sum())
        counts = self._counts(whole.numpy())
        excess = int(np.maximum(counts - 1, 0).sum()) + clash
        if excess:
            return excess
        allowed = self._allowed(whole)
        if allowed is None:
            return 1
        if bool((counts == 1).all()):
            return int(not self._within(whole))
        return int(self._completion(allowed) is None)

    def _within(self, mask: Tensor) -> bool:
        costs, coupled, budgets = self.whole
        chosen = self.options(mask).tolist()
        total = sum((table[j] for table, j in zip(costs, chosen)), np.zeros(len(budgets)))
        total = sum((table[chosen[a], chosen[b]] for (a, b, _), table in zip(self.pairs, coupled)), total)
        return bool((total <= budgets).all())

    def contains(self, mask: Tensor) -> bool:
        """See :meth:`Supports.contains`."""
        self.check_shape(tuple(mask.shape))
        kept = mask.cpu()
        if not bool((self._counts(kept.numpy()) == 1).all()):
            return False
        if self.on is not None and bool((self.on.cpu() & ~kept).any()):
            return False
        if self.off is not None and bool((self.off.cpu() & kept).any()):
            return False
        return self._within(kept)

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`; pairs get a variable each, whose margins are those of their layers."""
        import cvxpy as cp
        from scipy.sparse import csr_array

        self.check_shape(tuple(z.shape))
        costs, coupled, budgets = self.whole
        layer = np.repeat(np.arange(len(costs)), np.diff(self._starts))
        once = csr_array((np.ones(self.size), (layer, np.arange(self.size))))
        out: list[Any] = [once @ z == 1]
        scale = 1e3 / np.maximum(budgets, 1.0)  # a solver's tolerance is then a billionth of a budget
        used = (np.concatenate(costs) * scale).T @ z
        for (a, b, _), table in zip(self.pairs, coupled):
            both = cp.Variable(table.shape[:2], nonneg=True)
            out += [
                cp.sum(both, axis=1) == z[int(self._starts[a]) : int(self._starts[a + 1])],
                cp.sum(both, axis=0) == z[int(self._starts[b]) : int(self._starts[b + 1])],
            ]
            used = used + cp.hstack([cp.sum(cp.multiply(table[..., r] * scale[r], both)) for r in range(len(budgets))])
        out.append(used <= budgets * scale)
        if self.on is not None and self.off is not None:
            out += [z >= self.on.cpu().numpy().astype(float), z <= 1.0 - self.off.cpu().numpy().astype(float)]
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: one option of a layer, the last one left, and options too costly to fit."""
        allowed = replace(self, on=on, off=off)._allowed()
        if allowed is None:
            return on, off
        costs, _, budgets = self.whole
        parts = np.split(allowed, self._starts[1:-1])
        least = [np.where(part[:, None], cost, np.inf).min(axis=0) for part, cost in zip(parts, costs)]
        room = budgets - sum(least)
        fits = np.concatenate([((cost - low) <= room).all(axis=1) for cost, low in zip(costs, least)])
        allowed &= fits
        single = np.repeat(self._counts(allowed) == 1, np.diff(self._starts))
        implied = torch.from_numpy(allowed & single).to(on.device)
        return on | implied, off | torch.from_numpy(~allowed).to(off.device)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        coupled = f" and of {len(self.pairs)} pairs of layers" if self.pairs else ""
        limits = ", ".join(f"{budget:.6g}" for budget in self.budgets.tolist())
        return f"one option in each of {len(self.costs)} layers, costs of options{coupled} <= ({limits})"


def _table(table: Any, name: str, budgets: Tensor) -> Tensor:
    found = exact(as_tensor(table, name))
    found = found.unsqueeze(1) if found.ndim == 1 else found
    if found.ndim != 2 or found.shape[1] != len(budgets):
        raise InvalidProblem(
            f"{name} have shape {tuple(found.shape)}; (options, resources) with {len(budgets)} resource(s), one for "
            "each budget, are needed"
        )
    if len(found) == 0:
        raise InvalidProblem(f"{name}: the layer has no option; give at least one, such as leaving it dense")
    if bool((found < 0).any()):
        raise InvalidProblem(f"{name} are negative somewhere; costs are >= 0")
    return found


def _pair(pair: Any, costs: tuple[Tensor, ...], budgets: Tensor) -> Pair:
    a, b, table = pair
    if not (0 <= int(a) < len(costs) and 0 <= int(b) < len(costs) and int(a) != int(b)):
        raise InvalidProblem(f"a pair couples layers {a} and {b}; two different ones of {len(costs)} are needed")
    found = exact(as_tensor(table, f"costs of the pair {a}, {b}"))
    found = found.unsqueeze(2) if found.ndim == 2 else found
    if tuple(found.shape) != (len(costs[a]), len(costs[b]), len(budgets)):
        raise InvalidProblem(
            f"costs of the pair {a}, {b} have shape {tuple(found.shape)}, expected "
            f"{(len(costs[a]), len(costs[b]), len(budgets))}"
        )
    if bool((found < 0).any()):
        raise InvalidProblem(f"costs of the pair {a}, {b} are negative somewhere; costs are >= 0")
    return int(a), int(b), found
