"""What budgets leave open: whole-number costs, and counts of each layer after fixings."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..kernels.knapsack_passes import Layers

__all__ = ["Plan", "make_plan", "units"]

_BITS = 60  # of the cost of everything, so that no sum of costs leaves int64
_DECIMALS = 10**12


def units(
    costs: NDArray[np.float64], limits: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return costs (layers, resources) and limits (resources,) in whole units of each resource.

    Parameters
    ----------
    costs : float64 array, shape (resources, layers)
        >= 0. Whole numbers are their own units; decimals such as 0.1 are read as what they denote, in units of their
        last common decimal place. Where that takes more than 60 bits for the cost of everything, costs are rounded up
        and the limit down to a 2^-60 part of it, so that what fits here fits.
    limits : float64 array, shape (resources,)
        >= 0, possibly infinite.
    sizes : int64 array, shape (layers,)
    """
    whole_costs = np.zeros(costs.shape, np.int64)
    whole_limits = np.zeros(limits.shape, np.int64)
    for r, row in enumerate(costs):
        exact = [Fraction(repr(float(cost))) for cost in row]
        everything = sum((cost * int(size) for cost, size in zip(exact, sizes, strict=True)), Fraction(0))
        scale = Fraction(math.lcm(*(cost.denominator for cost in exact)) if exact else 1)
        if scale > _DECIMALS or everything * scale >= 2**_BITS:
            size = everything.numerator.bit_length() - everything.denominator.bit_length() + 1
            usual = abs(size) < 900  # else float64 has no room for the ratio
            shift = math.floor(math.log2(2**_BITS / max(float(everything), 1e-300))) if usual else _BITS - size
            scale = Fraction(2) ** min(shift, 1000)
        whole_costs[r] = [math.ceil(cost * scale) for cost in exact]
        total = int(whole_costs[r] @ sizes)
        limit = float(limits[r])
        whole_limits[r] = total if math.isinf(limit) else min(total, math.floor(Fraction(repr(limit)) * scale))
    return np.ascontiguousarray(whole_costs.T), whole_limits


class Plan(NamedTuple):
    """What the oracle works on: budgets, counts and entries that are still open."""

    layers: Layers
    costs: NDArray[np.int64]
    """(layers, resources)"""
    limits: NDArray[np.int64]
    """(resources,), without what is fixed on"""
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    """(layers,), fewest and most kept entries besides those fixed on"""
    own: NDArray[np.bool_]
    """layers whose counts are bounded by more than their size, which no group can absorb"""
    feasible: bool
    on: Tensor | None
    closed: Tensor | None
    """entries fixed either way, flat"""


def make_plan(
    sizes: NDArray[np.int64],
    costs: NDArray[np.int64],
    limits: NDArray[np.int64],
    lower: NDArray[np.int64],
    upper: NDArray[np.int64],
    on: Tensor | None,
    off: Tensor | None,
) -> Plan:
    """Reduce budgets and counts by fixed entries.

    Parameters
    ----------
    sizes, lower, upper : int64 arrays, shape (layers,)
    costs : int64 array, shape (layers, resources)
    limits : int64 array, shape (resources,)
    on, off : flat bool Tensor, optional
    """
    layers = Layers.of(sizes)
    kept = np.zeros(sizes.size, np.int64)
    open_entries = sizes.copy()
    contradictory = False
    closed = None
    if on is not None and off is not None:
        kept, barred = layer_counts(on, layers), layer_counts(off, layers)
        contradictory = bool((on & off).any())
        open_entries = sizes - kept - barred
        closed = on | off
    low = np.maximum(lower - kept, 0)
    high = np.minimum(open_entries, upper - kept)
    left = limits - costs.T @ kept
    spare = left - costs.T @ low
    feasible = not contradictory and bool((spare >= 0).all() and (low <= high).all())
    crowded = (costs > spare).any(axis=1)  # not one entry beyond the least count fits
    high = np.where(crowded, np.minimum(low, high), high)
    own = (low > 0) | (high < open_entries)
    return Plan(layers, costs, left, low, high, own, feasible, on, closed)


def layer_counts(mask: Tensor, layers: Layers) -> NDArray[np.int64]:
    """Return the kept entries of each layer of a flat mask."""
    if mask.device.type == "cpu":
        array = mask.numpy()
        edges = layers.start.tolist()
        return np.array([np.count_nonzero(array[a:b]) for a, b in itertools.pairwise(edges)], np.int64)
    ends = torch.from_numpy(layers.start).to(mask.device)
    if layers.number > 64:
        running = torch.cat([torch.zeros(1, dtype=torch.int64, device=mask.device), mask.cumsum(0)])
        counts = running[ends[1:]] - running[ends[:-1]]
    else:
        counts = torch.stack([layers.part(mask, layer).sum() for layer in range(layers.number)])
    return np.asarray(counts.cpu().numpy(), dtype=np.int64)
