"""Good masks without a proof: greedy choice, completion along exchanges, exchanges of two entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .compiling import compiled_if_possible
from .transport_patterns import LARGEST_LISTED, best_pattern

__all__ = ["complete", "exchange", "greedy", "greedy_prune", "round_blocks"]


_compile = compiled_if_possible()


@_compile
def _greedy(order, count, prune, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Visit entries in the given order; keep while both lines have room, or prune while one has too many."""
    size = mask.shape[1]
    most = size - count if prune else count
    for b in range(mask.shape[0]):
        rows, columns = np.zeros(size, np.int64), np.zeros(size, np.int64)
        for i in range(size):
            for j in range(size):
                rows[i] += mask[b, i, j] != prune
                columns[j] += mask[b, i, j] != prune
        for k in range(size * size):
            i, j = order[b, k] // size, order[b, k] % size
            if mask[b, i, j] != prune:
                continue
            if (rows[i] < most or columns[j] < most) if prune else (rows[i] < most and columns[j] < most):
                mask[b, i, j] = not prune
                rows[i] += 1
                columns[j] += 1


@_compile
def _complete(scores, count, gated, steps, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Give one unit to a short row and a short column: directly, or by the best exchange through another row."""
    size = mask.shape[1]
    for b in range(mask.shape[0]):
        a, s = scores[b], mask[b]
        for _ in range(steps):
            i, j = -1, -1
            for k in range(size):
                if i < 0 and s[k].sum() < count:
                    i = k
                if j < 0 and s[:, k].sum() < count:
                    j = k
            if i < 0 or j < 0:
                break
            best, other, entry = -np.inf, -1, -1
            if not s[i, j]:
                best = np.inf
            for k in range(size):
                if best == np.inf:
                    break
                if k == i or s[k, j]:
                    continue
                for c in range(size):
                    if s[k, c] and not s[i, c] and a[i, c] + a[k, j] - a[k, c] > best:
                        best, other, entry = a[i, c] + a[k, j] - a[k, c], k, c
            if best == np.inf:
                s[i, j] = True
                continue
            if other < 0 or (gated and best <= 0.0):
                break
            s[i, entry] = True
            s[other, j] = True
            s[other, entry] = False


@_compile
def _moves(a, s, i, gain, where):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Best change of value when row i hands a column to row k, and that column, for every k."""
    size = s.shape[0]
    for k in range(size):
        best, column = -np.inf, -1
        for j in range(size):
            if s[i, j] and not s[k, j] and a[k, j] - a[i, j] > best:
                best, column = a[k, j] - a[i, j], j
        gain[i, k], where[i, k] = best, column
        best, column = -np.inf, -1
        for j in range(size):
            if s[k, j] and not s[i, j] and a[i, j] - a[k, j] > best:
                best, column = a[i, j] - a[k, j], j
        gain[k, i], where[k, i] = best, column


@_compile
def _exchange(scores, steps, mask):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Best exchange of one column each between two rows, until none helps."""
    size = mask.shape[1]
    gain, where = np.zeros((size, size)), np.zeros((size, size), np.int64)
    for b in range(mask.shape[0]):
        a, s = scores[b], mask[b]
        tiny = 1e-12 * np.abs(a).max()
        for i in range(size):
            _moves(a, s, i, gain, where)
        for _ in range(steps):
            best, first, second = tiny, -1, -1
            for i in range(size):
                for k in range(i):
                    if gain[i, k] + gain[k, i] > best:
                        best, first, second = gain[i, k] + gain[k, i], i, k
            if first < 0:
                break
            out, into = where[first, second], where[second, first]
            s[first, out], s[second, out] = False, True
            s[second, into], s[first, into] = False, True
            _moves(a, s, first, gain, where)
            _moves(a, s, second, gain, where)


def _arrays(scores: Tensor, mask: Tensor) -> tuple[Any, Any]:
    return scores.detach().cpu().double().contiguous().numpy(), mask.cpu().clone().contiguous().numpy()


def greedy(keys: Tensor, count: int) -> Tensor:
    """Return masks that keep by decreasing key while row and column both have room; at most ``count`` in each line.

    Parameters
    ----------
    keys : Tensor, shape (blocks, size, size)
    count : int

    Examples
    --------
    >>> greedy(torch.tensor([[[3.0, 2.0], [2.0, 0.0]]]), 1)
    tensor([[[ True, False],
             [False,  True]]])
    """
    order = torch.argsort(keys.flatten(1), dim=1, descending=True, stable=True).cpu().numpy()
    mask = np.zeros(tuple(keys.shape), dtype=np.bool_)
    _greedy(order, count, False, mask)
    return torch.from_numpy(mask).to(keys.device)


def greedy_prune(keys: Tensor, count: int) -> Tensor:
    """Return masks that prune by increasing key while a row or a column has more than ``count`` left.

    The pruned sum is less than twice the least possible one for keys >= 0; at most ``count`` remain in each line.

    References
    ----------
    Hubara et al., "Accelerated sparse neural training", arXiv 2102.08124, section 4.
    """
    order = torch.argsort(keys.flatten(1), dim=1, stable=True).cpu().numpy()
    mask = np.ones(tuple(keys.shape), dtype=np.bool_)
    _greedy(order, count, True, mask)
    return torch.from_numpy(mask).to(keys.device)


def complete(scores: Tensor, mask: Tensor, count: int, *, steps: int | None = None, gated: bool = False) -> Tensor:
    """Return masks in which short rows and columns have been filled: greedily, and then each step by the best exchange.

    Parameters
    ----------
    scores : Tensor, shape (blocks, size, size)
    mask : bool Tensor like ``scores``
        With at most ``count`` entries in each line.
    count : int
    steps : int, optional
        Most units given to a block; default as many as are missing.
    gated : bool
        Stop at exchanges that lose value; lines may stay short then.

    References
    ----------
    arXiv 2505.23949 (the rounding step of TSENOR).
    """
    entries, kept = _arrays(scores, mask)
    order = np.argsort(-entries.reshape(len(entries), -1), axis=1, kind="stable")
    _greedy(order, count, False, kept)  # exchanges can always finish once nothing fits any more
    _complete(entries, count, gated, scores.shape[1] * count + 1 if steps is None else steps, kept)
    return torch.from_numpy(kept).to(scores.device)


def exchange(scores: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Return masks after at most ``steps`` best exchanges of one column each between two rows of a block."""
    entries, kept = _arrays(scores, mask)
    _exchange(entries, steps, kept)
    return torch.from_numpy(kept).to(scores.device)


def round_blocks(scores: Tensor, rows: Tensor, columns: Tensor, count: int, at_most: bool) -> Tensor:
    """Return good admissible masks near potentials: greedy on reduced scores, completed, then exchanges.

    Blocks of at most 4 x 4 with exactly ``count`` in each line have so few masks that the best of them is taken.

    Parameters
    ----------
    scores : Tensor, shape (blocks, size, size)
    rows, columns : Tensor, shape (blocks, size)
    count : int
    at_most : bool
    """
    if scores.shape[1] <= LARGEST_LISTED and not at_most:
        return best_pattern(scores, count)
    reduced = scores.double() - rows.unsqueeze(2) - columns.unsqueeze(1)
    mask = complete(scores, greedy(reduced, count), count, gated=at_most)
    mask = exchange(scores, mask, 4 * scores.shape[1])
    return mask & (scores > 0) if at_most else mask
