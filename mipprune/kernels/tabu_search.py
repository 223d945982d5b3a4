"""Tabu search over supports of least squares, every move valued with all kept entries refitted.

The objective is ``constant - <b, t> + 1/2 t'Gt + sum over kept of (l0 + l2 t^2)``. For a support S with
``A = G_SS + 2 diag(l2)``, the rows ``W = A^-1 G_S``, the correlations ``c = b - G t`` and the Schur complements ``s``
of all other entries give the exact change of every addition, removal and exchange: removing j, where
``a = 1 / (A^-1)_jj``, costs ``a t_j^2 / 2`` and leaves ``c_i + a t_j W_ji`` and ``s_i + a W_ji^2``. So all exchanges
are valued in one pass over W, and a move updates W in another. Tabu search: Glover, ORSA J. Computing 1 (1989); the
updates are block inversion.
"""

from __future__ import annotations

import math

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["tabu_search"]

_compiled = compiled_if_possible()
_fast = compiled_if_possible(fastmath={"contract", "reassoc"})
_SINGULAR = 1e-7  # Schur complement, relative to the curvature, below which an entry counts as dependent on the kept
_REBUILT = 100  # moves after which W is formed anew
_BETTER = 1e-12  # of the value: what counts as an improvement


@_fast
def _valued(c, s, pull, weight, row, l0, out):  # type: ignore[no-untyped-def]
    """Write what each entry gains when it joins, after another that stands on ``row`` has left (pull 0: none has)."""
    for i in range(c.size):
        slope = c[i] + pull * row[i]
        out[i] = 0.5 * slope * slope / (s[i] + weight * row[i] * row[i]) - l0[i]


@_fast
def _join(gram, i, inside, place, count, rows, inverse, t, c, s):  # type: ignore[no-untyped-def]
    """Take entry i into the support."""
    size = c.size
    schur = s[i]
    step = c[i] / schur
    new = rows[count]
    new[:] = gram[i, :size]
    for j in range(count):
        weight = rows[j, i]
        source = gram[inside[j]]
        for q in range(size):
            new[q] -= weight * source[q]
    for q in range(size):
        c[q] -= step * new[q]
        s[q] -= new[q] * new[q] / schur
        new[q] /= schur
    for j in range(count):
        weight = rows[j, i]
        inverse[count, j] = weight
        row = rows[j]
        for q in range(size):
            row[q] -= weight * new[q]
        t[j] -= weight * step
    for j in range(count):
        for h in range(count):
            inverse[j, h] += inverse[count, j] * inverse[count, h] / schur
    for j in range(count):
        inverse[count, j] /= -schur
        inverse[j, count] = inverse[count, j]
    inverse[count, count] = 1.0 / schur
    t[count] = step
    inside[count] = i
    place[i] = count


@_fast
def _leave(j, inside, place, count, rows, inverse, t, c, s, row):  # type: ignore[no-untyped-def]
    """Take the j-th entry out of the support; ``row`` is workspace."""
    size = c.size
    weight = 1.0 / inverse[j, j]
    row[:] = rows[j]
    for q in range(size):
        c[q] += weight * t[j] * row[q]
        s[q] += weight * row[q] * row[q]
    for h in range(count):
        if h != j:
            factor = inverse[h, j] * weight
            other = rows[h]
            for q in range(size):
                other[q] -= factor * row[q]
            t[h] -= factor * t[j]
            for q in range(count):
                if q != j:
                    inverse[h, q] -= factor * inverse[j, q]
    place[inside[j]] = -1
    last = count - 1
    if j != last:
        inside[j] = inside[last]
        place[inside[j]] = j
        rows[j] = rows[last]
        t[j] = t[last]
        for q in range(last):
            inverse[j, q] = inverse[last, q]
        for q in range(last):
            inverse[q, j] = inverse[q, last]
        inverse[j, j] = inverse[last, last]


@_compiled
def _form(gram, b, l2, wanted, inside, place, rows, inverse, t, c, s):  # type: ignore[no-untyped-def]
    """Set up a support, one entry after the other; leaves out what depends on those before it."""
    for i in range(b.size):
        c[i] = b[i]
        s[i] = gram[i, i] + 2.0 * l2[i]
        place[i] = -1
    count = 0
    for i in wanted:
        if s[i] > _SINGULAR * (gram[i, i] + 2.0 * l2[i]):
            _join(gram, i, inside, place, count, rows, inverse, t, c, s)
            count += 1
    return count


@_compiled
def tabu_search(  # type: ignore[no-untyped-def]
    gram, b, constant, l0, l2, lower, upper, most, t, work, rounds, patience, tenure, seed
):
    """Search from a support; the best one met is written over it, refitted.

    Parameters
    ----------
    gram : array, shape (size, >= size)
    b, l0, l2, lower, upper : array, shape (size,)
        Intervals hold zero. Supports whose refit leaves an interval are passed through, and are no result.
    constant : float
    most : int
        Largest support.
    t : array, shape (size,)
        Its non-zeros are the start, ``most`` at most. Overwritten when something was found.
    work : float
        Numbers of W read at most, in the moves together.
    rounds, patience : int
        Ends after so many restarts in a row without success; a restart follows so many moves without.
    tenure : int
        A removed entry stays out for ``tenure`` to twice as many moves, one that came in stays for half of that.
    seed : int
        In [0, 2^31).

    Returns
    -------
    value : float
        ``inf`` when no support met was within the intervals.
    spent : float
        The work done.
    """
    size = b.size
    inside = np.empty(most + 1, np.int64)
    place = np.full(size, -1, np.int64)
    rows = np.empty((most + 1, size))
    inverse = np.zeros((most + 1, most + 1))
    coefficient = np.zeros(most + 1)
    c, s, spare, gain = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    nothing = np.zeros(size)
    held = np.zeros(size, np.int64)  # the move before which an entry may not change sides again
    count = _form(gram, b, l2, np.flatnonzero(t), inside, place, rows, inverse, coefficient, c, s)
    best = math.inf
    chosen = inside[:0].copy()
    fitted = coefficient[:0].copy()
    spent, waited, failed, moves = 0.0, 0, 0, 0
    state = seed
    while spent < work:
        moves += 1
        value = constant
        within = True
        for j in range(count):
            i = inside[j]
            value += l0[i] - 0.5 * coefficient[j] * b[i]
            within = within and lower[i] <= coefficient[j] <= upper[i]
        goal = best - _BETTER * abs(best) if best < math.inf else math.inf
        waited += 1
        if within and value < goal:
            best = value
            chosen, fitted = inside[:count].copy(), coefficient[:count].copy()
            waited = failed = 0
            goal = best - _BETTER * abs(best)
        if waited > patience:
            failed += 1
            if failed > rounds or best == math.inf:
                break
            waited = 0
            held[:] = 0
            count = _form(gram, b, l2, chosen, inside, place, rows, inverse, coefficient, c, s)
            spent += float(size) * count * (count + 1)
            state = (1103515245 * state + 12345) % 2147483648
            for _ in range(min(count, 2 + (state >> 8) % max(count // 2, 1))):
                state = (1103515245 * state + 12345) % 2147483648
                j = (state >> 8) % count
                held[inside[j]] = moves + 4 * tenure
                _leave(j, inside, place, count, rows, inverse, coefficient, c, s, spare)
                count -= 1
                spent += float(size) * count
            continue
        # The best of all moves, unless it takes back a late one without leading to something new.
        top = -math.inf
        leaving = joining = -1
        for j in range(-1, count):
            pull = weight = cost = 0.0
            row, bound = nothing, False
            if j >= 0:
                i = inside[j]
                weight, row, bound = 1.0 / inverse[j, j], rows[j], held[i] > moves
                pull = weight * coefficient[j]
                cost = 0.5 * pull * coefficient[j] - l0[i]
                if -cost > top and (not bound or value + cost < goal):
                    top, leaving, joining = -cost, j, -1
            elif count >= most:
                continue
            _valued(c, s, pull, weight, row, l0, gain)
            for i in range(size):
                if (
                    gain[i] - cost > top
                    and place[i] < 0
                    and ((not bound and held[i] <= moves) or value + cost - gain[i] < goal)
                ):
                    schur = s[i] + weight * row[i] * row[i]
                    independent = schur > _SINGULAR * (gram[i, i] + 2.0 * l2[i])
                    if independent and lower[i] <= (c[i] + pull * row[i]) / schur <= upper[i]:
                        top, leaving, joining = gain[i] - cost, j, i
        spent += float(size) * (count + 2)
        if leaving < 0 and joining < 0:
            waited = patience
            continue
        state = (1103515245 * state + 12345) % 2147483648
        stay = tenure + (state >> 8) % max(tenure, 1)
        if leaving >= 0:
            held[inside[leaving]] = moves + stay
            _leave(leaving, inside, place, count, rows, inverse, coefficient, c, s, spare)
            count -= 1
        if joining >= 0:
            held[joining] = moves + stay // 2
            _join(gram, joining, inside, place, count, rows, inverse, coefficient, c, s)
            count += 1
        spent += float(size) * 2.0 * count
        if moves % _REBUILT == 0:
            count = _form(gram, b, l2, inside[:count].copy(), inside, place, rows, inverse, coefficient, c, s)
            spent += float(size) * count * (count + 1)
    if best < math.inf:
        t[:] = 0.0
        for j in range(chosen.size):
            t[chosen[j]] = fitted[j]
    return best, spent
