"""Budgets on several resources (non-zeros, FLOPs, bytes, energy, latency) over the layers of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..core.structure import Selection, Supports, Witness
from ..errors import CertificateError, InvalidProblem
from .budget_oracle import Dual, choose, dual_bound, kept_sum
from .budget_plan import Plan, layer_counts, make_plan, units
from .partition import check_count, check_fixings, restricted

__all__ = ["Budgets"]

_PIECE = 1 << 22  # entries looked at once


def _numbers(data: Any, name: str) -> Tensor:
    """Return finite or infinite float64 numbers >= 0 on the CPU."""
    try:
        if isinstance(data, Tensor):
            tensor = data.detach().to(device="cpu", dtype=torch.float64)
        else:  # torch would read plain numbers in float32
            tensor = torch.from_numpy(np.array(data, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidProblem(f"{name} cannot be read as numbers ({error})") from error
    if bool(torch.isnan(tensor).any()) or bool((tensor < 0).any()):
        raise InvalidProblem(f"{name} has negative or NaN entries; what is used of a resource is a number >= 0")
    return tensor


def _counts(data: Any, name: str, layers: int | None = None) -> Tensor:
    """Return whole numbers >= 0, one for each layer (or one for all), int64 on the CPU."""
    listed = np.asarray(data.cpu() if isinstance(data, Tensor) else data).reshape(-1).tolist()
    counts = torch.tensor([check_count(value, name) for value in listed], dtype=torch.int64)
    if layers is not None and counts.numel() == 1:
        counts = counts.expand(layers).clone()
    if layers is not None and counts.numel() != layers:
        raise InvalidProblem(f"{name} has {counts.numel()} entries for {layers} layers")
    return counts


@dataclass(frozen=True, eq=False)
class Budgets(Supports):
    r"""Masks of the weights of all layers that stay within a budget of each resource.

    The weights of all layers form one vector, layer after layer; arrays of another shape are read in C order.

    Parameters
    ----------
    sizes : sequence of int, length L
        Weights of each layer.
    costs : array, shape (R, L) or, for one resource, (L,)
        What one kept weight of a layer uses of a resource, >= 0. A row of ones counts the non-zeros.
    limits : sequence of float, length R, or a number
        What may be used of each resource; ``inf`` for no limit.
    lower, upper : sequence of int, length L, or int, optional
        Fewest and most kept weights of a layer.
    grid : float, optional
        A power of two of which gains are meant to be multiples (strict mode): then so is every sum, and where the gains
        really are, bounds are rounded down to a multiple, which takes the rounding allowance away.

    Raises
    ------
    InvalidProblem
        On shapes that do not fit, negative or NaN numbers, or budgets below what ``lower`` needs.

    Notes
    -----
    With gains :math:`a_i`, :meth:`select` solves

    .. math:: \max_z \sum_i a_i z_i \quad\text{s.t.}\quad \sum_l c_{rl} k_l \le b_r,\; m_l \le k_l \le h_l,\;
              k_l = \sum_{i \in l} z_i

    exactly. Within layers of equal costs the best choice is a prefix of the falling gains, so that few counts are
    unknown. Multipliers :math:`\lambda \ge 0` of the budgets give a bound that no choice exceeds, and the amount by
    which a choice misses it is a sum of non-negative terms, one for each group of layers and each budget; that confines
    the counts of the optimum to short windows, which are searched. Where the search is too long (many groups of
    different costs, three and more budgets, masses of equal gains), the rest is a mixed-integer program for HiGHS,
    whose answer is taken as a choice and not as a proof.

    The witness (R + L + 1 numbers) holds the multipliers (for each unit of the resource: costs and limits that are
    whole numbers are their own units), a threshold for each layer, and the gap that the search closed.
    :meth:`select_bound` evaluates it in one pass over the gains, and searches again where a gap is said to be closed.

    Costs and limits are read as the decimals that denote them, so that 0.1 and 0.2 fit into 0.3.

    References
    ----------
    The selection problem of FALCON, arXiv 2403.07094; bound, gap identity and search are derived here.

    Examples
    --------
    Two layers; a weight of the first costs 10 FLOPs, one of the second 1. Three weights and 12 FLOPs:

    >>> import torch
    >>> family = Budgets(sizes=[3, 3], costs=[[1, 1, ], [10, 1]], limits=[3, 12])
    >>> found = family.select(torch.tensor([9.0, 8.0, 7.0, 3.0, 2.0, 1.0]))
    >>> found.mask.int().tolist(), found.value
    ([1, 0, 0, 1, 1, 0], 14.0)
    """

    sizes: Any
    costs: Any
    limits: Any
    lower: Any = None
    upper: Any = None
    grid: float | None = None
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        sizes = _counts(self.sizes, "sizes")
        layers = sizes.numel()
        if layers == 0:
            raise InvalidProblem("sizes is empty; at least one layer is needed")
        costs = _numbers(self.costs, "costs")
        costs = costs.reshape(1, -1) if costs.ndim <= 1 else costs
        if costs.ndim != 2 or costs.shape[1] != layers or costs.shape[0] == 0:
            raise InvalidProblem(
                f"costs have shape {tuple(costs.shape)}; one row for each resource and one column for each of the "
                f"{layers} layers are needed"
            )
        if not bool(torch.isfinite(costs).all()):
            raise InvalidProblem("costs has infinite entries; give such a layer the upper count 0 instead")
        limits = _numbers(self.limits, "limits").reshape(-1)
        if limits.numel() != costs.shape[0]:
            raise InvalidProblem(f"limits has {limits.numel()} entries for {costs.shape[0]} resources")
        lower = None if self.lower is None else _counts(self.lower, "lower", layers)
        upper = None if self.upper is None else _counts(self.upper, "upper", layers)
        for name, value in zip(
            ("sizes", "costs", "limits", "lower", "upper"), (sizes, costs, limits, lower, upper), strict=True
        ):
            object.__setattr__(self, name, value)
        if self.grid is not None and not (self.grid > 0 and math.frexp(self.grid)[0] == 0.5):
            raise InvalidProblem(f"grid is {self.grid}; it must be a power of two, on which sums of floats are exact")
        self._check_minimum()

    def _check_minimum(self) -> None:
        plan = replace(self, on=None, off=None)._plan if self.on is not None or self.off is not None else self._plan
        if plan.feasible:
            return
        for layer in np.flatnonzero(plan.low > np.minimum(plan.high, self.sizes.numpy())):
            raise InvalidProblem(
                f"layer {layer} must keep at least {plan.low[layer]} of its {int(self.sizes[layer])} weights and may "
                f"keep at most {plan.high[layer]}"
            )
        short = int(np.flatnonzero(plan.costs.T @ plan.low > plan.limits)[0])
        needed = float(self.costs[short] @ self.lower.double())
        raise InvalidProblem(
            f"the least counts use {needed:g} of resource {short}, whose budget is {float(self.limits[short]):g}"
        )

    @cached_property
    def whole(self) -> tuple[Any, Any]:
        """Costs (L, R) and limits (R,) in whole units of each resource, int64: what decides whether a mask fits."""
        return units(self.costs.numpy(), self.limits.numpy(), self.sizes.numpy())

    @property
    def _lower(self) -> Any:
        return np.zeros(self.sizes.numel(), np.int64) if self.lower is None else self.lower.numpy()

    @property
    def _upper(self) -> Any:
        sizes = self.sizes.numpy()
        return sizes if self.upper is None else np.minimum(self.upper.numpy(), sizes)

    @cached_property
    def _plan(self) -> Plan:
        on, off = (None if side is None else side.reshape(-1).cpu() for side in (self.on, self.off))
        if on is not None or off is not None:
            none = torch.zeros(self.entries, dtype=torch.bool)
            on, off = none if on is None else on, none if off is None else off
        return make_plan(self.sizes.numpy(), *self.whole, self._lower, self._upper, on, off)

    @property
    def entries(self) -> int:
        """Number of weights."""
        return int(self.sizes.sum())

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`."""
        if math.prod(shape) != self.entries:
            raise InvalidProblem(
                f"the {self.sizes.numel()} layers have {self.entries} weights, an array of shape {shape} has "
                f"{math.prod(shape)}"
            )
        check_fixings(self.on, self.off, shape)

    # ------------------------------------------------------------------------------------------ selection

    def _flat(self, gain: Tensor) -> Tensor:
        self.check_shape(tuple(gain.shape))
        gain = gain.detach().reshape(-1)
        return gain if gain.dtype in (torch.float32, torch.float64) else gain.double()

    def _none(self, gain: Tensor) -> Selection:
        return Selection(torch.zeros(gain.shape, dtype=torch.bool, device=gain.device), -math.inf, -math.inf)

    def keep(self, gain: Tensor) -> Tensor:
        """See :meth:`Supports.keep`."""
        flat = self._flat(gain)
        if not self._plan.feasible:
            return self._none(gain).mask
        mask = choose(self._plan, flat).mask
        return (mask if self._plan.on is None else mask | self._plan.on.to(mask.device)).reshape(gain.shape)

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`; exact, with the multipliers as witness."""
        flat, plan = self._flat(gain), self._plan
        if not plan.feasible:
            return self._none(gain)
        choice = choose(plan, flat)
        dual = choice.dual
        mask, fixed = choice.mask, kept_sum(flat, plan.on)[0]
        if plan.on is not None:
            mask = mask | plan.on.to(mask.device)
        witness = torch.from_numpy(np.concatenate([dual.lam, dual.theta, [dual.closed]]))
        bound = self._on_grid(dual_bound(plan, flat, dual), flat)
        value = math.inf if bound == math.inf else choice.value + fixed
        return Selection(mask.reshape(gain.shape), value, bound, witness)

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """See :meth:`Supports.select_bound`; valid for any multipliers >= 0 and any thresholds."""
        if witness is None:
            return self.select(gain).bound
        resources, layers = self.limits.numel(), self.sizes.numel()
        numbers = witness.detach().to(device="cpu", dtype=torch.float64)
        if tuple(numbers.shape) != (resources + layers + 1,) or not bool(torch.isfinite(numbers).all()):
            raise CertificateError(
                f"the witness has shape {tuple(witness.shape)}; {resources} multipliers, {layers} thresholds and the "
                "gap that was closed are needed, all finite"
            )
        lam, theta, closed = numbers[:resources].numpy(), numbers[resources:-1].numpy(), float(numbers[-1])
        if bool((lam < 0).any()) or closed < 0:
            raise CertificateError("the witness has a negative multiplier or a negative gap, which prove nothing")
        flat = self._flat(gain)
        if not self._plan.feasible:
            return -math.inf
        return self._on_grid(dual_bound(self._plan, flat, Dual(lam, theta, closed)), flat)

    def _on_grid(self, bound: float, gain: Tensor) -> float:
        """Round a bound down to a multiple of the grid when all gains are multiples: no sum lies between."""
        if self.grid is None or not math.isfinite(bound) or not abs(bound) < 2.0**52 * self.grid:
            return bound
        for part in gain.split(_PIECE):
            units = part.double() / self.grid  # exact: a power of two
            if not bool(((units == units.round()) & (units * self.grid == part)).all()):
                return bound
        return math.floor(bound / self.grid) * self.grid

    # ------------------------------------------------------------------------------------------ membership

    def usage(self, mask: Tensor) -> Tensor:
        """Return what a mask uses of each resource, float64 of shape (R,)."""
        self.check_shape(tuple(mask.shape))
        counts = torch.from_numpy(layer_counts(mask.reshape(-1), self._plan.layers))
        return torch.as_tensor(self.costs @ counts.double())

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`.

        Entries beyond the counts of layers and budgets, entries that contradict a fixing, and entries that layers lack
        for their least counts.
        """
        self.check_shape(tuple(mask.shape))
        layers = self._plan.layers
        whole = mask.reshape(-1)
        clash, barred = 0, np.zeros(layers.number, np.int64)
        if self._plan.on is not None and self.off is not None:
            off = self.off.reshape(-1).to(mask.device)
            whole = whole | self._plan.on.to(mask.device)
            clash, barred = int((whole & off).sum()), layer_counts(off & ~whole, layers)
        counts = layer_counts(whole, layers)
        needed = np.maximum(counts, self._lower)
        excess = clash + int(np.maximum(needed - self._upper, 0).sum())
        excess += int(np.maximum(self._lower - (self.sizes.numpy() - barred), 0).sum())
        costs, limits = self.whole
        for used, limit, column in zip(costs.T @ needed, limits, costs.T, strict=True):
            if used > limit:
                excess += -int((limit - used) // max(int(column.max()), 1))
        return excess

    def cover(self, mask: Tensor) -> Tensor:
        """See :meth:`Supports.cover`: what is fixed on, and the first open entries of layers that keep too few."""
        self.check_shape(tuple(mask.shape))
        whole = mask.reshape(-1)
        if self._plan.on is not None:
            whole = whole | self._plan.on.to(mask.device)
        lacking = self._lower - layer_counts(whole, self._plan.layers)
        if (lacking > 0).any():
            whole = whole.clone()
            barred = whole if self.off is None else whole | self.off.reshape(-1).to(mask.device)
            for layer in np.flatnonzero(lacking > 0):
                open_entries = torch.nonzero(~self._plan.layers.part(barred, int(layer))).ravel()
                self._plan.layers.part(whole, int(layer))[open_entries[: int(lacking[layer])]] = True
        return whole.reshape(mask.shape)

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`; rows are scaled by powers of two, which rounds nothing."""
        import cvxpy as cp
        from scipy import sparse

        self.check_shape(tuple(z.shape))
        flat = cp.vec(z, order="C")
        costs, limits = self.whole
        sizes = self.sizes.numpy()
        out: list[Any] = []
        for column, limit in zip(costs.T, limits, strict=True):
            scale = 2.0 ** math.floor(math.log2(max(int(column.max()), 1)))
            out.append(np.repeat(column / scale, sizes) @ flat <= limit / scale)
        if self.lower is not None or self.upper is not None:
            start = self._plan.layers.start
            ones = np.ones(self.entries)
            rows = sparse.csr_matrix((ones, np.arange(self.entries), start), shape=(sizes.size, self.entries))
            out += [rows @ flat >= self._lower, rows @ flat <= self._upper]
        if self.on is not None:
            out.append(z >= self.on.cpu().numpy().astype(float))
        if self.off is not None:
            out.append(z <= 1.0 - self.off.cpu().numpy().astype(float))
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: layers that are full, or too dear for what is left, or need all they have."""
        plan = self.restrict(on, off)._plan
        if not plan.feasible or plan.closed is None or plan.on is None:
            return on, off
        shape, device = on.shape, on.device
        kept, closed = plan.on.clone(), plan.closed.clone()
        barred = closed & ~kept
        for layer in range(plan.layers.number):
            rest = ~plan.layers.part(closed, layer)
            if plan.high[layer] == 0:
                plan.layers.part(barred, layer)[rest] = True
            elif plan.low[layer] == int(rest.sum()):
                plan.layers.part(kept, layer)[rest] = True
        return kept.reshape(shape).to(device), barred.reshape(shape).to(device)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        rows = [f"sum_l c_{r}l k_l <= {float(limit):.10g}" for r, limit in enumerate(self.limits.tolist())]
        bounds = "" if self.lower is None and self.upper is None else ", counts of layers bounded"
        return f"k_l non-zeros in layer l of {self.sizes.numel()}: {', '.join(rows)}{bounds}"
