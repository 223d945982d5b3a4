r"""Masks with as many kept entries in each row as in each column of small square blocks: exact, with their proof.

For one block with scores A and potentials u, v

.. math:: \sum_{ij} A_{ij} S_{ij} \le n\sum_i u_i + n\sum_j v_j + \sum_{ij} \max(0, A_{ij} - u_i - v_j)

for every admissible mask S (with u, v >= 0 where at most n are kept). Sweeps of midpoint updates drive the potentials
to where the two sides meet; shortest paths close what they leave open.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .compiling import has_numba
from .threads import over_rows
from .transport_batched import sweep_batched
from .transport_codes import Codes, encode, noise, to_integers, to_potentials
from .transport_network import selection_network

__all__ = ["SWEEPS", "Rest", "Transport", "solve_blocks"]

Rest = Literal["repair", "complete", "round"]
"""what becomes of the blocks that the sweeps leave open"""

SWEEPS = 64
"""sweeps after which a block is left to the exact repair"""
_EAGER_AT = 6  # sweeps before the steps become longer; two fewer for large blocks
_BALANCE_AT = 5  # sweeps of the equality problem before the potentials are clamped (at most n)
_FEW = {4: 1, 16: 2, 32: 3}  # sweeps from the last potentials before shortest paths are quicker, up to each size
_MANY = 4  # the same for larger blocks
_ENTRIES = 1 << 22  # entries treated at once, which bounds the temporaries
_HUGE = 2.0**960  # scores beyond are divided by this, or sums along paths would overflow
_PARALLEL = 1 << 15  # entries below which waking threads costs more than it saves
_LARGEST_COMPILED = 128  # the compiled sweeps keep a block in the first-level cache


class Transport(NamedTuple):
    """Masks of blocks and the potentials that bound what any mask can reach."""

    mask: Tensor
    """bool (blocks, size, size)"""
    rows: Tensor
    """float64 (blocks, size)"""
    columns: Tensor
    """float64 (blocks, size)"""
    feasible: Tensor
    """bool (blocks,): whether the block has an admissible mask; always, without fixed entries"""
    sweeps: Tensor
    """float32 (blocks,): sweeps made"""


def solve_blocks(
    scores: Tensor,
    count: int,
    *,
    at_most: bool = False,
    fixed: Tensor | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    sweeps: int | None = None,
    rest: Rest = "repair",
) -> Transport:
    """Keep ``count`` entries in each row and column of every block such that the kept scores sum up to the most.

    Parameters
    ----------
    scores : Tensor, shape (blocks, size, size)
        Finite, float32 or float64, any sign.
    count : int
        0 <= count <= size.
    at_most : bool
        Allow fewer than ``count``.
    fixed : int8 Tensor like ``scores``, optional
        1 where an entry must be kept, -1 where it must not, 0 elsewhere.
    start : (Tensor, Tensor), optional
        Potentials (blocks, size) of similar scores, such as those of the last call.
    sweeps : int, optional
        Most sweeps of a block, >= 0; default ``SWEEPS``, or fewer where that is quicker.
    rest : {"repair", "complete", "round"}
        What the sweeps leave open is repaired, and potentials stay in the middle of where they may be. Or it is
        completed, with the same masks but quicker where there is a start: that takes few sweeps, and needs the CPU,
        exactly ``count`` and no fixed entries; all else is repaired. Or it is rounded to a good mask, and the
        potentials say how good; blocks with fixed entries are repaired all the same.

    Returns
    -------
    Transport

    Notes
    -----
    The sweeps are integer arithmetic, and a block's do not depend on the others: every device gives the same masks.
    """
    blocks, size, _ = scores.shape
    if scores.dtype == torch.float64 and scores.numel():
        least, most = torch.aminmax(scores)
        if float(torch.maximum(-least, most)) > _HUGE:
            huge = scores.abs().flatten(1).amax(dim=1, keepdim=True) > _HUGE  # others may be too small to be divided
            unit = torch.ones(blocks, 1, dtype=torch.float64, device=scores.device).masked_fill_(huge, _HUGE)
            smaller = None if start is None else (start[0] / unit, start[1] / unit)
            own = scores / unit.unsqueeze(2)
            found = solve_blocks(own, count, at_most=at_most, fixed=fixed, start=smaller, sweeps=sweeps, rest=rest)
            return found._replace(rows=found.rows * unit, columns=found.columns * unit)
    limit = max(1, _ENTRIES // (size * size))
    parts = []
    for first in range(0, max(blocks, 1), limit):
        part = slice(first, min(first + limit, blocks))
        own_start = None if start is None else (start[0][part], start[1][part])
        own_fixed = None if fixed is None else fixed[part]
        parts.append(_solve(scores[part], count, at_most, own_fixed, own_start, sweeps, rest))
    return parts[0] if len(parts) == 1 else Transport(*(torch.cat(column) for column in zip(*parts)))


def _solve(
    scores: Tensor,
    count: int,
    at_most: bool,
    fixed: Tensor | None,
    start: tuple[Tensor, Tensor] | None,
    sweeps: int | None,
    rest: Rest,
) -> Transport:
    size = scores.shape[1]
    codes = encode(scores, at_most) if 0 < count < size else None
    compiled = scores.device.type == "cpu" and has_numba()
    quick = rest == "complete" and compiled and codes is not None and fixed is None and not at_most
    if codes is not None:
        limit = sweeps if sweeps is not None else _few(size) if quick and start is not None else SWEEPS
        mask, integer_rows, integer_columns, used = _sweep(codes, count, at_most, start, limit)
        rows, columns = to_potentials(codes, integer_rows, integer_columns)
        used = used.float()
    else:
        mask, rows, columns = _extreme(scores, count, at_most)
        used = torch.zeros(len(scores), device=scores.device)
    feasible = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    if rest == "round" and fixed is None:
        open_ = _unbalanced(mask, count, at_most).nonzero().squeeze(1)
        if len(open_):
            from .transport_rounding import round_blocks

            mask[open_] = round_blocks(scores[open_], rows[open_], columns[open_], count, at_most)
        return Transport(mask, rows, columns, feasible, used)
    if compiled and not quick:
        _repair(scores, codes, fixed, count, at_most, mask, rows, columns, feasible)
        return Transport(mask, rows, columns, feasible, used)
    if quick:
        assert codes is not None
        open_ = ~_complete(scores, codes.unit, count, mask, rows, columns)
    else:
        open_ = _open(scores, fixed, count, at_most, mask, rows, columns)
    if bool(open_.any()):
        chosen = [x[open_].cpu() for x in (scores, mask, rows, columns, feasible)]
        few = None if fixed is None else fixed[open_].cpu()
        own = None if codes is None else Codes(*(x[open_].cpu() for x in codes))
        _repair(chosen[0], own, few, count, at_most, *chosen[1:])
        for whole, part in zip((mask, rows, columns, feasible), chosen[1:]):
            whole[open_] = part.to(whole.device)
    return Transport(mask, rows, columns, feasible, used)


def _few(size: int) -> int:
    return next((sweeps for largest, sweeps in _FEW.items() if size <= largest), _MANY)


def _extreme(scores: Tensor, count: int, at_most: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Potentials where all entries or none are kept: nothing to sweep."""
    columns = torch.zeros(scores.shape[:2], dtype=torch.float64, device=scores.device)
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool), scores.amax(dim=2).double().clamp_min(0.0), columns
    rows = columns.clone() if at_most else scores.amin(dim=2).double()
    return (scores > 0) if at_most else torch.ones_like(scores, dtype=torch.bool), rows, columns


def _sweep(
    codes: Codes, count: int, at_most: bool, start: tuple[Tensor, Tensor] | None, sweeps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    blocks, size, _ = codes.values.shape
    if start is None:
        first = 0
        rows, columns = (torch.zeros(blocks, size, dtype=torch.int32, device=codes.values.device) for _ in range(2))
    else:
        first = _BALANCE_AT + 1 if at_most else 1
        rows, columns = to_integers(codes, *start, at_most)
    last = first + sweeps if start is not None else sweeps + (_BALANCE_AT if at_most and sweeps > _BALANCE_AT else 0)
    balance_at = min(_BALANCE_AT, last) if first == 0 else _BALANCE_AT
    settings = {
        "first_sweep": first,
        "eager_at": first + (_EAGER_AT if size <= 16 else _EAGER_AT - 2),
        "sweeps": last,
        "balance_at": balance_at,
    }
    if codes.values.device.type == "cpu" and has_numba() and size <= _LARGEST_COMPILED:
        return _sweep_compiled(codes.values, count, rows, columns, at_most=at_most, **settings)
    if codes.values.is_cuda:
        from .transport_triton import available, sweep_fused

        if available(size):
            return sweep_fused(codes.values, count, rows, columns, at_most=at_most, **settings)
    return sweep_batched(codes.values, count, rows, columns, at_most=at_most, **settings)


def _sweep_compiled(
    codes: Tensor,
    count: int,
    rows: Tensor,
    columns: Tensor,
    *,
    at_most: bool,
    first_sweep: int,
    eager_at: int,
    sweeps: int,
    balance_at: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from .transport_sweeps import compiled

    kernel, together = compiled(codes.shape[1])
    mask = torch.empty(codes.shape, dtype=torch.bool)
    used = torch.empty(len(codes), dtype=torch.int32)
    comparators = selection_network(codes.shape[1], count)
    arrays = [x.contiguous().numpy() for x in (codes, rows, columns, mask, used)]

    def task(first: int, last: int) -> None:
        own, u, v, kept, number = (array[first:last] for array in arrays)
        kernel(own, count, comparators, first_sweep, eager_at, sweeps, at_most, balance_at, u, v, kept, number)

    _over_blocks(task, codes, together)
    return mask, rows, columns, used


def _complete(scores: Tensor, unit: Tensor, count: int, mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Complete tensors on the CPU in place, and return for which blocks that was done."""
    from .transport_paths import complete

    found = torch.empty(len(scores), dtype=torch.bool)
    low = noise(scores.shape[1], scores.device).numpy()
    given = scores.contiguous().numpy(), unit.flatten().numpy()
    arrays = [x.numpy() for x in (mask, rows, columns, found)]

    def task(first: int, last: int) -> None:
        own, units = (array[first:last] for array in given)
        complete(own, low, units, count, *(array[first:last] for array in arrays))

    _over_blocks(task, scores, 1)
    return found


def _repair(
    scores: Tensor,
    codes: Codes | None,
    fixed: Tensor | None,
    count: int,
    at_most: bool,
    mask: Tensor,
    rows: Tensor,
    columns: Tensor,
    feasible: Tensor,
) -> None:
    """Repair tensors on the CPU in place."""
    from .transport_repair import repair

    none = torch.empty(0, *scores.shape[1:], dtype=torch.int8)
    entries, signs = scores.contiguous().numpy(), (none if fixed is None else fixed.contiguous()).numpy()
    arrays = [x.numpy() for x in (mask, rows, columns, feasible)]
    plain = None if codes is None else [x.contiguous().numpy() for x in codes]

    def task(first: int, last: int) -> None:
        own = signs if fixed is None else signs[first:last]
        fine = None if plain is None else (plain[0][first:last], plain[1][first:last], plain[2][first:last])
        repair(entries[first:last], fine, own, count, at_most, *(array[first:last] for array in arrays))

    _over_blocks(task, scores, 1)
    if at_most:
        mask &= (scores > 0) if fixed is None else (scores > 0) | (fixed > 0)  # ties with zero gain nothing


def _over_blocks(task: object, blocks: Tensor, together: int) -> None:
    size = blocks.shape[1] * blocks.shape[2]
    if blocks.numel() < _PARALLEL or torch.get_num_threads() == 1:
        task(0, len(blocks))  # type: ignore[operator]
    else:
        chunk = max(1, _PARALLEL // (2 * size * together)) * together
        over_rows(task, len(blocks), chunk=chunk)  # type: ignore[arg-type]


def _unbalanced(mask: Tensor, count: int, at_most: bool) -> Tensor:
    """Blocks whose mask is not admissible."""
    lines = torch.cat([mask.sum(dim=dim, dtype=torch.int32) for dim in (1, 2)], dim=1)
    return ((lines > count) if at_most else (lines != count)).any(dim=1)


def _open(
    scores: Tensor, fixed: Tensor | None, count: int, at_most: bool, mask: Tensor, rows: Tensor, columns: Tensor
) -> Tensor:
    """Blocks whose mask the potentials do not prove optimal in float64."""
    reduced = scores - rows.unsqueeze(2) - columns.unsqueeze(1)
    wrong = torch.where(mask, reduced < 0, reduced > 0)
    if fixed is not None:
        wrong = (wrong & (fixed == 0)) | (mask & (fixed < 0)) | (~mask & (fixed > 0))
    found = wrong.flatten(1).any(dim=1) | _unbalanced(mask, count, at_most)
    if at_most:
        short = (mask.sum(dim=2) < count) & (rows > 0), (mask.sum(dim=1) < count) & (columns > 0)
        found |= short[0].any(dim=1) | short[1].any(dim=1) | (rows < 0).any(dim=1) | (columns < 0).any(dim=1)
    return found
