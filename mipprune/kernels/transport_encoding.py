"""Blocks of scores in fixed point, one pass over each: compiled twins of functions of :mod:`.transport_codes`."""

from __future__ import annotations

import math

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["encode", "start"]

_WIDEST = 2.0**40  # potentials to start from are cut here before they are centred


_compile = compiled_if_possible()


@_compile
def encode(scores, noise, circulant, at_most, bits, lowest, widest, low, codes, base, unit):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bring blocks (blocks, entries), float32, into fixed point; see :func:`.transport_codes.encode`."""
    half = np.float32(0.5)
    for b in range(scores.shape[0]):
        entries, out = scores[b], codes[b]
        top, bottom = half * entries[0], half * entries[0]
        for k in range(len(entries)):
            x = half * entries[k]
            top, bottom = x if x > top else top, x if x < bottom else bottom
        if at_most:
            bottom = np.float32(0.0)
        exponent = max(math.frexp(top - bottom)[1], lowest) if top > bottom else lowest
        shift = bits - exponent
        factor, more = np.float32(2.0 ** min(shift, widest)), np.float32(2.0 ** max(shift - widest, 0))
        base[b], unit[b] = 2.0 * np.float64(bottom), 2.0 ** (exponent + 1 - bits)
        if not at_most and top == bottom:
            unit[b] = 0.0
            for k in range(len(entries)):
                out[k] = circulant[k]
            continue
        for k in range(len(entries)):
            code = np.int32((half * entries[k] - bottom) * factor * more) & ~low | noise[k]
            out[k] = 0 if at_most and not entries[k] > np.float32(0.0) else code


@_compile
def start(rows, columns, base, unit, at_most, limit, u, v):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bring potentials (blocks, size) into fixed point; see :func:`.transport_codes.to_integers`."""
    size = rows.shape[1]
    whole = np.zeros(2 * size, np.int64)
    for b in range(rows.shape[0]):
        factor = 1.0 / unit[b] if unit[b] > 0.0 else 0.0
        total = 0
        for k in range(size):
            x, y = (rows[b, k] - base[b]) * factor, columns[b, k] * factor
            x, y = x if x == x else 0.0, y if y == y else 0.0
            whole[k] = np.int64(np.rint(min(max(x, -_WIDEST), _WIDEST)))
            whole[size + k] = np.int64(np.rint(min(max(y, -_WIDEST), _WIDEST)))
            total += whole[k] - whole[size + k]
        shift = 0 if at_most else total // (2 * size)
        for k in range(size):
            u[b, k] = min(max(whole[k] - shift, -limit), limit)
            v[b, k] = min(max(whole[size + k] + shift, -limit), limit)
