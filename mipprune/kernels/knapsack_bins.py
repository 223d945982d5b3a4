"""The part of many gains that a knapsack cannot decide at a glance, found without sorting them all.

The bits of non-negative floats are in the order of the numbers, so the leading bits (exponent and nine of the mantissa)
are bins of a relative width of 1/512. One pass counts the positive gains of each group in bins; the dual on the bins
tells within a bin or two where the thresholds lie; a second pass extracts the gains of the bins around them. These are
sorted, everything above counts as kept and everything below as pruned. Whether that was right shows afterwards: the
search reports when its windows leave what was extracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .knapsack import Groups
from .knapsack_passes import Layers, compiled, over_pieces

__all__ = ["BINS", "Bins", "core_groups", "count_bins"]

BINS = 1 << 17
"""Of one group: 256 powers of two below the largest gain, 512 bins each; what is smaller shares the lowest bin."""
_MANTISSA = 9
_BITS = {torch.float32: (torch.int32, np.int32, 23), torch.float64: (torch.int64, np.int64, 52)}


class Bins(NamedTuple):
    """How many positive gains of each group lie in each bin."""

    counts: NDArray[np.int64]
    """(groups, BINS)"""
    offset: int
    shift: int
    kind: torch.dtype

    def edge(self, number: NDArray[np.int64] | int) -> NDArray[np.float64]:
        """Return the smallest gain of a bin; 0 for the lowest, which also takes everything smaller."""
        number = np.asarray(number, np.int64)
        bits = (number + self.offset) << self.shift
        wide = bits.astype(_BITS[self.kind][1])
        values = wide.view(np.float32 if self.kind == torch.float32 else np.float64).astype(np.float64)
        return np.where(number <= 0, 0.0, values)

    def find(self, value: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the bin of each gain."""
        narrow = np.maximum(value, 0.0).astype(np.float32 if self.kind == torch.float32 else np.float64)
        keys = (narrow.view(_BITS[self.kind][1]).astype(np.int64) >> self.shift) - self.offset
        return np.asarray(np.clip(keys, 0, BINS - 1), dtype=np.int64)


def _owners(layers: Layers, members: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Group of each layer, -1 for none."""
    owner = np.full(layers.number, -1, np.int64)
    for g, group in enumerate(members):
        owner[list(group)] = g
    return owner


def count_bins(gain: Tensor, layers: Layers, members: Sequence[Sequence[int]], largest: float) -> Bins:
    """Count the positive gains of groups of layers in bins.

    Parameters
    ----------
    gain : Tensor, shape (entries,), float32 or float64
        No NaN and no +inf.
    layers : Layers
    members : sequence of sequences of int
        The layers of each group.
    largest : float
        No gain is larger.
    """
    torch_bits, numpy_bits, mantissa = _BITS[gain.dtype]
    shift = mantissa - _MANTISSA
    top = np.array(largest, np.float32 if gain.dtype == torch.float32 else np.float64).view(numpy_bits)
    offset = max((int(top) >> shift) - BINS + 1, 0)
    counts = np.zeros((len(members), BINS), np.int64)
    group = _owners(layers, members)
    if compiled(gain):
        from .knapsack_compiled import histogram_piece

        bits, lock = gain.numpy().view(numpy_bits), Lock()

        def task(first: int, last: int) -> None:
            for piece in range(first, last):
                g = group[layers.owner[piece]]
                if g < 0:
                    continue
                local = np.zeros(BINS, np.int64)
                histogram_piece(bits, layers.first[piece], layers.last[piece], offset, shift, local)
                with lock:
                    counts[g] += local

        over_pieces(task, layers)
    else:
        for g, layer in ((g, layer) for g, part in enumerate(members) for layer in part):
            values = layers.part(gain, layer)
            keys = (values[values > 0].view(torch_bits) >> shift) - offset
            found = torch.bincount(keys.clamp_min(0).long(), minlength=BINS)
            counts[g] += found.cpu().numpy()
    return Bins(counts, offset, shift, gain.dtype)


def core_groups(
    gain: Tensor,
    layers: Layers,
    members: Sequence[Sequence[int]],
    bins: Bins,
    low: NDArray[np.int64],
    high: NDArray[np.int64],
    costs: NDArray[np.int64],
    limits: NDArray[np.int64],
    width: int,
) -> Groups | None:
    """Return the knapsack over the gains within ``width`` bins of the thresholds; ``None`` when the rest is too dear.

    Parameters
    ----------
    gain, layers, members, bins
        As of :func:`count_bins`.
    low, high : int64 arrays, shape (groups,)
        Fewest and most kept entries of each group.
    costs : int64 array, shape (groups, budgets)
    limits : int64 array, shape (budgets,)
    width : int
        At least :data:`BINS` to extract everything.
    """
    from .knapsack_dual import multipliers, thresholds_at

    falling = bins.counts[:, ::-1]
    rows, columns = np.nonzero(falling)
    lengths = np.bincount(rows, minlength=len(members))
    start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    cum = np.cumsum(falling, axis=1)[rows, columns]
    number = BINS - 1 - columns
    values = 0.5 * (bins.edge(number) + bins.edge(number + 1))
    none = np.zeros(len(members), np.int64)
    unseen = np.full(len(members), np.inf)
    coarse = Groups(values, cum, start, none, low, high, -unseen, unseen, costs, limits)
    place = bins.find(thresholds_at(coarse, multipliers(coarse)))
    first, beyond = np.maximum(place - width, 0), np.minimum(place + width + 1, BINS)
    above = np.array([bins.counts[g, beyond[g] :].sum() for g in range(len(members))], np.int64)
    below = np.array([bins.counts[g, : first[g]].sum() for g in range(len(members))], np.int64)
    if (costs.T @ np.maximum(above, low) > limits).any():
        return None
    floor, ceiling = bins.edge(first), np.where(beyond < BINS, bins.edge(beyond), np.inf)
    parts = _extract(gain, layers, members, floor, ceiling)
    sizes = np.array([part.size for part in parts], np.int64)
    return Groups(
        values=np.concatenate([np.empty(0), *parts]),
        cum=np.concatenate([np.empty(0, np.int64), *(above[g] + np.arange(1, n + 1) for g, n in enumerate(sizes))]),
        start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        base=above,
        low=low,
        high=high,
        floor=np.where(below > 0, floor, -np.inf),
        ceiling=np.where(above > 0, ceiling, np.inf),
        costs=costs,
        limits=limits,
    )


def _extract(
    gain: Tensor,
    layers: Layers,
    members: Sequence[Sequence[int]],
    floor: NDArray[np.float64],
    ceiling: NDArray[np.float64],
) -> list[NDArray[np.float64]]:
    """Return the positive gains of each group in [floor, ceiling), falling, in float64."""
    if compiled(gain):
        from .knapsack_compiled import count_between, take_between

        array, group = gain.numpy(), _owners(layers, members)
        pieces = layers.owner.size
        owner = group[layers.owner]
        found = np.zeros(pieces, np.int64)

        def count(first: int, last: int) -> None:
            count_between(array, owner, layers.first, layers.last, first, last, floor, ceiling, found)

        over_pieces(count, layers)
        order = np.argsort(owner, kind="stable")
        place = np.zeros(pieces, np.int64)
        place[order] = np.cumsum(found[order]) - found[order]
        taken = np.empty(int(found.sum()), array.dtype)

        def take(first: int, last: int) -> None:
            take_between(array, owner, layers.first, layers.last, first, last, floor, ceiling, found, place, taken)

        over_pieces(take, layers)
        sizes = np.bincount(owner[owner >= 0], weights=found[owner >= 0], minlength=len(members)).astype(np.int64)
        ends = np.cumsum(sizes)
        return [np.sort(taken[e - n : e])[::-1].astype(np.float64) for e, n in zip(ends, sizes, strict=True)]
    parts = []
    for g, group_layers in enumerate(members):
        rows = [layers.part(gain, layer) for layer in group_layers]
        inside = [row[(row > 0) & (row >= float(floor[g])) & (row < float(ceiling[g]))] for row in rows]
        parts.append(np.asarray(torch.cat(inside).sort(descending=True).values.double().cpu().numpy()))
    return parts
