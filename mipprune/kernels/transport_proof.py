"""Whether masks are admissible and whether potentials prove them optimal, and potentials that do.

A mask is optimal when every kept entry has a reduced score >= 0, every other one <= 0, and lines that keep fewer than
they may have the potential zero. Potentials that fit a given mask are longest paths in the graph of its exchanges.

Compiled as this module is imported, like :mod:`.transport_repair`, whose functions call these.
"""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["ROUNDING", "admissible", "centred", "proved", "reprice", "settled"]

ROUNDING = 2.0**-50
"""of a reduced score, relative to the terms it is computed from"""


_compile = compiled_if_possible()


@_compile
def settled(scores, count, at_most, mask, rows, columns, lines, wrong):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Tell whether a mask without fixed entries is admissible and proved optimal by the potentials as they are.

    ``lines`` receives the counts of rows and columns, ``wrong`` the entries of each row that contradict the potentials.
    """
    size = mask.shape[0]
    below = lines[size:]
    for j in range(size):
        below[j] = 0
    for i in range(size):
        entries, kept, u = scores[i], mask[i], rows[i]
        number, bad = np.int32(0), np.int32(0)
        for j in range(size):
            reduced = entries[j] - u - columns[j]
            bad += np.int32(reduced < 0.0 if kept[j] else reduced > 0.0)
            number += np.int32(kept[j])
        lines[i], wrong[i] = number, bad
        for j in range(size):
            below[j] += np.int32(kept[j])
    found = 0
    for i in range(size):
        u, v = rows[i], columns[i]
        found += wrong[i] + (lines[i] > count) + (below[i] > count)
        if at_most:
            found += (lines[i] < count and u > 0.0) + (below[i] < count and v > 0.0) + (u < 0.0) + (v < 0.0)
        else:
            found += (lines[i] < count) + (below[i] < count)
    return found == 0


@_compile
def _centre(scores, mask, others, own, count, lines, at_most, line, across):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Middle of where the potential of one row or column (``across``) may be, given the others; as it is if nowhere."""
    low, high = -np.inf, np.inf
    for k in range(len(others)):
        i, j = (k, line) if across else (line, k)
        x = scores[i, j] - others[k]
        if mask[i, j]:
            high = min(high, x)
        else:
            low = max(low, x)
    if at_most:
        low, high = max(low, 0.0), 0.0 if lines[line] < count else high
    return 0.5 * (low + high) if -np.inf < low <= high < np.inf else own[line]


@_compile
def centred(scores, count, at_most, mask, rows, columns, lines, wrong):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Centre the potentials that contradict a mask, rows and then columns, and tell whether it is settled so.

    Scores and codes differ in the last places: hardly more is needed to carry a proof over from these to those.
    """
    size = mask.shape[0]
    for i in range(size):
        if wrong[i] > 0:
            rows[i] = _centre(scores, mask, columns, rows, count, lines[:size], at_most, i, False)
    if settled(scores, count, at_most, mask, rows, columns, lines, wrong):
        return True
    for j in range(size):
        wrong[size + j] = 0
    for i in range(size):
        if wrong[i] > 0:
            for j in range(size):
                reduced = scores[i, j] - rows[i] - columns[j]
                wrong[size + j] += reduced < 0.0 if mask[i, j] else reduced > 0.0
    for j in range(size):
        if wrong[size + j] > 0:
            columns[j] = _centre(scores, mask, rows, columns, count, lines[size:], at_most, j, True)
    return settled(scores, count, at_most, mask, rows, columns, lines, wrong)


@_compile
def admissible(fixed, count, at_most, mask, lines):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Tell whether a mask has the right counts and fixed entries; ``lines`` receives the counts."""
    size = mask.shape[0]
    for k in range(2 * size):
        lines[k] = 0
    wrong = False
    for i in range(size):
        row, signs = mask[i], fixed[i]
        kept = 0
        for j in range(size):
            kept += row[j]
            wrong |= (signs[j] != 0) & (row[j] != (signs[j] > 0))
        for j in range(size):
            lines[size + j] += row[j]
        lines[i] = kept
    for k in range(2 * size):
        wrong |= lines[k] > count or (not at_most and lines[k] < count)
    return not wrong


@_compile
def proved(scores, fixed, count, at_most, mask, u, v, lines):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Tell whether the potentials prove an admissible mask optimal as they are."""
    size = scores.shape[0]
    for i in range(size):
        row, kept, signs = scores[i], mask[i], fixed[i]
        wrong = False
        for j in range(size):
            reduced = row[j] - u[i] - v[j]
            wrong |= (signs[j] == 0) & ((kept[j] and reduced < 0.0) or (not kept[j] and reduced > 0.0))
        if wrong:
            return False
    if at_most:
        for k in range(size):
            if (u[k] > 0.0 and lines[k] < count) or (v[k] > 0.0 and lines[size + k] < count):
                return False
    return True


@_compile
def reprice(scores, fixed, count, at_most, mask, u, v, lines, top):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Raise u (longest paths, Bellman and Ford) until it proves a mask optimal; False when it does not."""
    size = scores.shape[0]
    largest = 0.0
    for i in range(size):
        for j in range(size):
            largest = max(largest, abs(scores[i, j]) + abs(u[i]) + abs(v[j]))
    tolerance = ROUNDING * largest
    hub = 0.0
    for _ in range(size + 2):
        settled = True
        for j in range(size):
            top[j] = np.inf
        for i in range(size):
            row, kept, signs, here = scores[i], mask[i], fixed[i], u[i]
            for j in range(size):
                slack = row[j] - here if kept[j] and signs[j] == 0 else np.inf
                top[j] = slack if slack < top[j] else top[j]
        for j in range(size):
            if at_most:
                if lines[size + j] < count:
                    top[j] = min(top[j], -hub)
                if -top[j] > hub + tolerance:
                    hub = -top[j]
                    settled = False
            if top[j] == np.inf:  # no kept entry limits v[j] from above
                top[j] = v[j]
                for i in range(size):
                    if not mask[i, j] and fixed[i, j] == 0:
                        top[j] = max(top[j], scores[i, j] - u[i])
            v[j] = top[j]
        for i in range(size):
            row, kept, signs, most = scores[i], mask[i], fixed[i], -np.inf
            for j in range(size):
                need = row[j] - top[j] if not kept[j] and signs[j] == 0 else -np.inf
                most = need if need > most else most
            if most > u[i] + tolerance:
                u[i] = most
                settled = False
        if at_most:
            for i in range(size):
                if lines[i] < count and u[i] > hub + tolerance:
                    hub = u[i]
                    settled = False
            for i in range(size):
                if u[i] < hub:
                    settled = settled and u[i] >= hub - tolerance
                    u[i] = hub
        if settled:
            for k in range(size):
                u[k] -= hub
                v[k] += hub
            return True
    return False
