"""Scores of blocks as 27-bit integers with distinct low bits, the same on every device."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .compiling import has_numba

__all__ = ["BITS", "LOWEST", "Codes", "encode", "noise", "to_integers", "to_potentials"]

BITS = 27
"""scores of a block take values in [0, 2^27), so that sums of four of them fit into 32 bits"""
LOWEST = -148
"""scores of a block are told apart in steps of at least 2^(LOWEST + 1 - BITS), which is next to nothing"""
_WIDEST = 100  # exponent of a factor that is one number
_WIDEST_DOUBLE = 1000  # exponent of a scale that float64 can hold
_NOISE_BITS = 7


class Codes(NamedTuple):
    """Blocks in fixed point: ``score = base + code * 2^exponent`` up to rounding and the low bits."""

    values: Tensor
    """int32 (blocks, size, size)"""
    base: Tensor
    """float64 (blocks, 1)"""
    unit: Tensor
    """float64 (blocks, 1), powers of two; 0 where all scores are equal"""


@cache
def noise(size: int, device: torch.device) -> Tensor:
    """Return the low bits, int32 (size, size): a fixed hash of the position, which settles ties between scores."""
    index = torch.arange(size * size, dtype=torch.int64)
    mixed = (index * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return (mixed >> (32 - _NOISE_BITS)).to(torch.int32).reshape(size, size).to(device)


@cache
def _circulant(size: int, device: torch.device) -> Tensor:
    """Codes for constant blocks, int32 (size, size): whatever the count, one sweep ends at a circulant mask."""
    index = torch.arange(size)
    shifted = (index.unsqueeze(1) - index) % size
    return (shifted * ((1 << BITS) // size)).to(torch.int32).to(device)


def encode(scores: Tensor, at_most: bool) -> Codes:
    """Return blocks of scores (blocks, size, size) in fixed point.

    Where at most ``count`` entries are kept, zero stays zero and negative scores, which are never kept, become zero;
    otherwise the smallest score of a block becomes zero, since a constant changes nothing.
    """
    scale = 1.0
    if scores.dtype == torch.float64:
        largest = float(scores.abs().max()) if scores.numel() else 0.0
        power = torch.frexp(torch.tensor(largest, dtype=torch.float64)).exponent.item() if largest else 0
        scale = 2.0 ** min(-power, _WIDEST_DOUBLE)  # what is smaller still stays that much below one
        scores = (scores * scale).float()
    if scores.device.type == "cpu" and has_numba():
        return _encode_compiled(scores, at_most, scale)
    half = 0.5 * scores.flatten(1)  # differences of halves do not overflow
    top = half.amax(dim=1, keepdim=True)
    base = torch.zeros_like(top) if at_most else half.amin(dim=1, keepdim=True)
    reach = (top - base).clamp_min(0.0)
    exponent = torch.where(reach > 0.0, torch.frexp(reach).exponent.clamp_min(LOWEST), LOWEST)
    shift, one = BITS - exponent, torch.ones_like(base)
    factors = torch.ldexp(one, shift.clamp_max(_WIDEST)), torch.ldexp(one, (shift - _WIDEST).clamp_min(0))
    values = ((half - base) * factors[0] * factors[1]).to(torch.int32).reshape(scores.shape)
    low = (1 << _NOISE_BITS) - 1
    codes = (values & ~low) | noise(scores.shape[-1], scores.device)
    unit = torch.ldexp(torch.ones_like(base, dtype=torch.float64), exponent + 1 - BITS)
    if at_most:
        codes = torch.where(scores > 0, codes, 0)
    else:
        constant = top == base
        codes = torch.where(constant.unsqueeze(2), _circulant(scores.shape[-1], scores.device), codes)
        unit = torch.where(constant, 0.0, unit)
    return Codes(codes, 2.0 * base.double() / scale, unit / scale)


def _encode_compiled(scores: Tensor, at_most: bool, scale: float) -> Codes:
    """The same in one pass over each block."""
    from .transport_encoding import encode

    size = scores.shape[-1]
    codes, factors = torch.empty(scores.shape, dtype=torch.int32), torch.empty(2, len(scores), 1, dtype=torch.float64)
    tables = noise(size, scores.device).flatten().numpy(), _circulant(size, scores.device).flatten().numpy()
    arrays = scores.contiguous().flatten(1).numpy(), *tables, codes.flatten(1).numpy(), *factors.flatten(1).numpy()
    encode(*arrays[:3], at_most, BITS, LOWEST, _WIDEST, (1 << _NOISE_BITS) - 1, *arrays[3:])
    return Codes(codes, factors[0] / scale, factors[1] / scale)


def to_potentials(codes: Codes, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return integer potentials (blocks, size) in the units of the scores, float64."""
    return codes.base + rows * codes.unit, columns * codes.unit


def to_integers(codes: Codes, rows: Tensor, columns: Tensor, at_most: bool) -> tuple[Tensor, Tensor]:
    """Return potentials (blocks, size) of similar scores as int32, to start from."""
    limit, size = 1 << (BITS + 1), rows.shape[1]
    if rows.device.type == "cpu" and codes.values.device.type == "cpu" and has_numba():
        from .transport_encoding import start

        u, v = (torch.empty(rows.shape, dtype=torch.int32) for _ in "uv")
        given = [x.contiguous().double().numpy() for x in (rows, columns)]
        start(*given, *(x.flatten().numpy() for x in (codes.base, codes.unit)), at_most, limit, u.numpy(), v.numpy())
        return u, v
    both = torch.cat([rows.double() - codes.base, columns.double()], dim=1)
    both.mul_(torch.where(codes.unit > 0.0, 1.0 / codes.unit, 0.0)).nan_to_num_(0.0)
    whole = both.clamp_(-(2.0**40), 2.0**40).round_().to(torch.int64)
    if not at_most:  # what is added to all rows may be taken from all columns: centred, both fit
        sums = whole.unflatten(1, (2, size)).sum(dim=2)
        shift = (sums[:, :1] - sums[:, 1:]) // (2 * size)
        whole[:, :size] -= shift
        whole[:, size:] += shift
    u, v = whole.clamp_(-limit, limit).to(torch.int32).split(size, dim=1)
    return u.contiguous(), v.contiguous()
