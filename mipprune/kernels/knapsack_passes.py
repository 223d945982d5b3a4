"""Passes over the gains of many items in consecutive layers: counting, sums above thresholds, masks.

Each function has a torch form for any device and, on the CPU, a compiled one; both give the same masks and counts, and
sums within the stated error.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compiling import has_numba
from .threads import over_rows

__all__ = ["SUM_ERROR", "Layers", "excess", "mark", "survey"]

SUM_ERROR = 520.0 * 2.0**-53
"""Relative error of a sum of non-negative terms here: at most 512 roundings touch any term."""
_PIECE = 1 << 20  # entries of a layer that one task takes
_PARALLEL = 1 << 21  # entries from which waking the threads pays


class Layers(NamedTuple):
    """Consecutive layers of a flat array, and the pieces in which compiled passes take them."""

    start: NDArray[np.int64]
    owner: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, sizes: NDArray[np.int64]) -> Layers:
        """Cut layers of these sizes into pieces."""
        start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        pieces = -(-sizes // _PIECE)
        owner = np.repeat(np.arange(sizes.size), pieces)
        within = np.arange(owner.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        first = start[owner] + within * _PIECE
        return cls(start, owner, first, np.minimum(first + _PIECE, start[owner + 1]))

    @property
    def number(self) -> int:
        """Number of layers."""
        return int(self.start.size - 1)

    def part(self, array: Tensor, layer: int) -> Tensor:
        """Return one layer of a flat array."""
        return array[int(self.start[layer]) : int(self.start[layer + 1])]


def compiled(gain: Tensor) -> bool:
    """Tell whether the compiled form takes this array."""
    return gain.device.type == "cpu" and has_numba()


def over_pieces(task: Any, layers: Layers) -> None:
    """Call ``task(first, last)`` over the pieces, on several threads when there is enough to do."""
    pieces = layers.owner.size
    if int(layers.start[-1]) < _PARALLEL:
        task(0, pieces)
    else:
        over_rows(task, pieces, chunk=1)


class Survey(NamedTuple):
    """What one look at the gains tells, per layer."""

    positive: NDArray[np.int64]
    largest: NDArray[np.float64]
    infinite: NDArray[np.bool_]
    invalid: bool
    """whether NaN occurs, or -inf"""


def survey(gain: Tensor, layers: Layers) -> Survey:
    """Count the positive entries of each layer and find its largest; -inf and NaN are reported."""
    count = layers.number
    if compiled(gain):
        from .knapsack_compiled import survey_pieces

        array = gain.numpy()
        positive, largest = np.zeros(layers.owner.size, np.int64), np.zeros(layers.owner.size)
        invalid = np.zeros(layers.owner.size, np.int64)

        def task(first: int, last: int) -> None:
            survey_pieces(array, layers.first, layers.last, first, last, positive, largest, invalid)

        over_pieces(task, layers)
        totals = np.bincount(layers.owner, weights=positive, minlength=count).astype(np.int64)
        tops = np.full(count, -np.inf)
        np.maximum.at(tops, layers.owner, largest)
        return Survey(totals, tops, np.isposinf(tops), bool(invalid.any()))
    parts = [layers.part(gain, layer) for layer in range(count)]
    positive_t = torch.stack([(part > 0).sum() for part in parts]).cpu().numpy()
    tops_t = [part.max() if part.numel() else gain.new_full((), -math.inf) for part in parts]
    tops = torch.stack(tops_t).double().cpu().numpy()
    invalid_t = bool((torch.isnan(gain) | (gain == -math.inf)).any())
    return Survey(positive_t, np.where(np.isnan(tops), 0.0, tops), np.isposinf(tops), invalid_t)


class Excess(NamedTuple):
    """Sums above thresholds, per layer, and the entries near them."""

    sums: NDArray[np.float64]
    """sum of (gain - threshold) over the entries above it, with relative error SUM_ERROR"""
    near: list[NDArray[np.float64]] | None
    """entries within the width of the threshold, in any order; ``None`` when there are too many"""
    above: NDArray[np.int64]
    """entries beyond the width above the threshold"""


def excess(gain: Tensor, layers: Layers, theta: NDArray[np.float64], width: float, most: int = 1 << 62) -> Excess:
    """Sum what the gains exceed a threshold of their layer by.

    Parameters
    ----------
    gain : Tensor, shape (entries,)
        No NaN; -inf for entries that do not take part.
    layers : Layers
    theta : float64 array, shape (layers,)
        Thresholds, finite.
    width : float
        Entries with ``|gain - threshold| <= width`` are returned; negative for none.
    most : int
        No entries are returned when there are more.
    """
    count = layers.number
    if compiled(gain):
        from .knapsack_compiled import excess_pieces, near_pieces

        array = gain.numpy()
        pieces = layers.owner.size
        sums, near, above = np.zeros(pieces), np.zeros(pieces, np.int64), np.zeros(pieces, np.int64)

        def task(first: int, last: int) -> None:
            excess_pieces(array, layers.owner, layers.first, layers.last, first, last, theta, width, sums, near, above)

        over_pieces(task, layers)
        place = np.concatenate([[0], np.cumsum(near)]).astype(np.int64)
        totals: NDArray[Any] = np.bincount(layers.owner, weights=sums, minlength=count)
        beyond = np.bincount(layers.owner, weights=above, minlength=count).astype(np.int64)
        if place[-1] > most:
            return Excess(totals, None, beyond)
        values = np.empty(int(place[-1]))
        if values.size:
            near_pieces(array, layers.owner, layers.first, layers.last, theta, width, near, place, values)
        edges = place[np.searchsorted(layers.owner, np.arange(count + 1), side="left")]
        return Excess(totals, [values[edges[layer] : edges[layer + 1]] for layer in range(count)], beyond)
    found: list[NDArray[Any]] = []
    totals, over = np.zeros(count), np.zeros(count, np.int64)
    for layer in range(count):
        distance = layers.part(gain, layer).double() - float(theta[layer])
        totals[layer] = _sum(distance.clamp_min(0.0))
        close = distance.abs() <= width
        found.append(layers.part(gain, layer)[close].double().cpu().numpy())
        over[layer] = int((distance > width).sum()) if width >= 0 else 0
    return Excess(totals, found if sum(part.size for part in found) <= most else None, over)


def _sum(terms: Tensor) -> float:
    """Sum non-negative terms with at most 511 roundings of any: rows of 256 by torch, the row sums exactly."""
    if terms.numel() == 0:
        return 0.0
    whole = terms.numel() // 256 * 256
    rows = terms[:whole].reshape(-1, 256).sum(dim=1)
    return math.fsum([*rows.tolist(), float(terms[whole:].sum())])


def mark(
    gain: Tensor, layers: Layers, above: NDArray[np.float64], ties: list[tuple[list[int], float, int]]
) -> tuple[Tensor, float]:
    """Return the mask of the entries above a threshold of their layer, with the first of the tied ones, and its sum.

    Parameters
    ----------
    gain : Tensor, shape (entries,)
    layers : Layers
    above : float64 array, shape (layers,)
        An entry is kept when it is larger.
    ties : list of (layers, value, count)
        The first ``count`` entries of these layers that equal ``value`` are kept too.
    """
    mask = torch.empty(gain.shape, dtype=torch.bool, device=gain.device)
    if compiled(gain):
        from .knapsack_compiled import mark_pieces, tie_layer

        array, marked = gain.numpy(), mask.numpy()
        sums = np.zeros(layers.owner.size)

        def task(first: int, last: int) -> None:
            mark_pieces(array, layers.owner, layers.first, layers.last, first, last, above, marked, sums)

        over_pieces(task, layers)
        total = math.fsum(sums.tolist())
        for members, value, count in ties:
            left = count
            for layer in members:
                if left:
                    left = tie_layer(array, layers.start[layer], layers.start[layer + 1], value, left, marked)
            total += value * (count - left)
        return mask, total
    sums_t = []
    for layer in range(layers.number):
        part, kept = layers.part(gain, layer), layers.part(mask, layer)
        torch.gt(part, float(above[layer]), out=kept)
        picked = torch.where(kept, part, torch.zeros_like(part)).double()
        sums_t.append(_sum(picked))
    for members, value, count in ties:
        left = count
        for layer in members:
            if left:
                equal = torch.nonzero(layers.part(gain, layer) == value).ravel()[:left]
                layers.part(mask, layer)[equal] = True
                left -= int(equal.numel())
        sums_t.append(value * (count - left))
    return mask, math.fsum(sums_t)
