"""Rigorous lower bounds of a graphical model's pseudo-likelihood with a price per edge, row by row.

For any vectors ``x_i`` and any diagonal ``0 <= D_i`` with ``S_-i - D_i`` positive semidefinite, a row is at least

    -log t + a_i t + sum_j (c^i_j v_j + D_ij v_j^2 / t),   a_i = S_ii - x_i'(S_-i - D_i) x_i,

and what stands in the sum is minimised over each ``v_j`` with its share of price and ridge, for every value of the
diagonal entry t: the gain ``[F_j(t)]_+``, where ``F_j`` is concave and grows with t. The minimum over all t > 0 is
bounded on a grid of intervals: the gains are replaced by linear functions of t above them, and ``-log t + g t`` is
minimised in closed form.

All quantities are defined as real numbers by the float64 data; everything computed carries its rounding error, so that
the result is a proof. The pair (i, j) gives the real share ``w = k_i / (k_i + k_j)`` of its slope, price and ridge to
row i, with ``k_i = ridge/2 + D_ij/theta_i``; the shares of the two rows add up to one exactly.
"""

from __future__ import annotations

import numpy as np

from .compiling import compiled_if_possible

__all__ = ["GRID", "appraise_rows"]

_BELOW = (0.0, 0.4, 0.6, 0.7, 0.8, 0.86, 0.92, 0.96, 1.0, 1.04, 1.08, 1.13, 1.18, 1.25, 1.35, 1.5, 1.75, 2.1, 2.5)
_ABOVE = (3.0, 4.0, 6.0, 8.0, 12.0, 18.0, 30.0, 60.0, 150.0, 500.0, 2000.0, np.inf)  # far ones for small ridges
GRID = np.array([*_BELOW, *_ABOVE])
"""Ends of the intervals, in units of the diagonal entry around which they lie."""

_compile = compiled_if_possible()
_U = 2.0**-53
_TINY = 1e-280  # curvature that stands for none


@_compile
def _gamma(n):  # type: ignore[no-untyped-def]
    return n * _U / (1.0 - n * _U)


@_compile
def _decrease(k, bend, low, high):  # type: ignore[no-untyped-def]
    """Return ``max k v - bend v^2`` over [low, high], and where it is attained."""
    if k == 0.0 and low <= 0.0 and high >= 0.0:
        return 0.0, 0.0
    if bend > 0.0:
        v = min(max(k / (2.0 * bend), low), high)
        return k * v - bend * v * v, v
    v = high if k > 0.0 else low
    return k * v, v


@_compile
def _gain(k, error, bend, low, high, price):  # type: ignore[no-untyped-def]
    """Return an upper bound of decrease minus price for every slope within the error, its allowance, the minimiser."""
    value, v = _decrease(k, bend, low, high)
    if not np.isfinite(value):
        return np.inf, 0.0, v
    slack = 32.0 * _U * (abs(k * v) + bend * v * v + price)
    if error > 0.0:
        slack += 1.01 * error * (abs(v) + error / (2.0 * bend) if bend > 0.0 else max(abs(low), abs(high)))
    return value - price + slack, slack, v


@_compile
def _place(i, j, nodes):  # type: ignore[no-untyped-def]
    """Flat index of the pair (i, j)."""
    low, high = min(i, j), max(i, j)
    return low * (2 * nodes - low - 1) // 2 + high - low - 1


@_compile
def _row_products(i, matrix, indptr, indices, value, column, across):  # type: ignore[no-untyped-def]
    """Fill ``column[j] = (S V)_ji`` and ``across[j] = (S V)_ij``."""
    nodes = len(indptr) - 1
    column[:] = 0.0
    for pos in range(indptr[i], indptr[i + 1]):
        v = value[pos]
        if v != 0.0:
            k = indices[pos]
            for j in range(nodes):
                column[j] += matrix[k, j] * v
    for j in range(nodes):
        total = 0.0
        for pos in range(indptr[j], indptr[j + 1]):
            total += matrix[i, indices[pos]] * value[pos]
        across[j] = total


@_compile
def _least(g, first, last):  # type: ignore[no-untyped-def]
    """Return a lower bound of ``-log t + g t`` on [first, last]."""
    if g <= 0.0:
        t = last
        if np.isinf(t):
            return -np.inf
    else:
        t = min(max(1.0 / g, first), last)
        if np.isinf(t):
            return -np.inf
        if first < t < last:
            log = np.log(g)
            return 1.0 + log - 16.0 * _U * (1.0 + abs(log))
    log = np.log(t)
    return -log + g * t - 16.0 * _U * (1.0 + abs(log) + abs(g * t))


@_compile
def _tabulate(count, points, slopes, errors, bends, own, lows, highs, prices, gains, slacks, where):  # type: ignore[no-untyped-def]
    """Fill in upper bounds of the gains at each point, their allowances, and the minimisers."""
    for k in range(len(points)):
        t = points[k]
        inverse = 1.0 / t if t > 0.0 else 0.0
        gain, slack, place = gains[k], slacks[k], where[k]
        for n in range(count):
            bend = max(bends[n] + own[n] * inverse, _TINY)
            v = min(max(slopes[n] / (2.0 * bend), lows[n]), highs[n])
            rise, fall = slopes[n] * v, bend * v * v
            error = errors[n] * min(abs(v) + errors[n] / (2.0 * bend), max(abs(lows[n]), abs(highs[n])))
            size = 32.0 * _U * (abs(rise) + fall + prices[n]) + 1.01 * error
            gain[n] = rise - fall - prices[n] + size
            slack[n] = size
            place[n] = v
        if t == 0.0:  # an infinite curvature leaves no decrease
            for n in range(count):
                if own[n] > 0.0:
                    gain[n], slack[n], place[n] = -prices[n], 0.0, 0.0


@_compile
def _line(count, first, last, center, before, after, early, late, own, sure, lost):  # type: ignore[no-untyped-def]
    """Return (intercept, slope, size) of a linear function above the sum of the gains on [first, last].

    Of free entries only what is positive counts; of ``sure`` ones, the kept entries, all of it. ``lost`` are the
    allowances at the first point. An error e of a slope moves the gain at t by at most e times the minimiser there,
    which grows with t by at most ``t / first``; so does that allowance on the way from the first point to the last.
    """
    intercept, slope, size = 0.0, 0.0, 0.0
    width = last - first
    bounded = last < np.inf
    inner, outer = 1.0 / first if first > 0.0 else 0.0, 1.0 / last if bounded else 0.0
    for n in range(count):
        top = after[n]
        if top <= 0.0 and not sure[n]:
            continue
        if own[n] == 0.0 or not bounded:
            intercept += top
            size += abs(top)
            continue
        bottom = before[n]
        whole = sure[n] or (first > 0.0 and bottom >= 0.0)  # the concave gain itself, not only its positive part
        if whole and first >= center:
            tangent = own[n] * (early[n] * inner) ** 2
            ahead = 1.01 * width * inner * lost[n]
            intercept += bottom - tangent * first + ahead
            slope += tangent
            size += abs(bottom) + tangent * last + ahead
            continue
        tangent = own[n] * (late[n] * outer) ** 2
        if whole or top - tangent * width >= 0.0:
            intercept += top - tangent * last
        else:  # a concave function that is negative first lies below this chord where it is positive
            tangent = top / width
            intercept -= tangent * first
        slope += tangent
        size += abs(top) + tangent * last
    return intercept, slope, size


@_compile
def appraise_rows(  # type: ignore[no-untyped-def]
    begin,
    end,
    matrix,
    largest,
    indptr,
    indices,
    value,
    theta,
    common,
    extra,
    fixed,
    price,
    ridge,
    lower,
    upper,
    grid,
    base,
    if_on,
    if_off,
    known,
    parts,
):
    """Bound the rows ``begin <= i < end``.

    Parameters
    ----------
    matrix : (p, p) array
        S, symmetric.
    largest : (p,) array
        ``max_k |S_jk|`` of each row.
    indptr, indices, value : arrays
        The off-diagonal entries V, sparse and symmetric.
    theta : (p,) array
        Any positive numbers; the vectors of the bound are ``x_i = v_i / theta_i``.
    common, extra : (p,) and (p, p) or (0, 0) arrays
        ``D_ij = common_j + extra_ij``; V vanishes on pairs for which it is not proven.
    fixed : (size,) int8 array, by pair
        -1 for a pair that is off, 1 for one that is on, 0 for a free one.
    price, ridge, lower, upper : (size,) or (1,) arrays, by pair
        ``ridge`` without 1/2.
    grid : (K + 1,) array
        Ends of the intervals in units of theta, from 0 to infinity.
    parts : bool
        Whether ``if_on`` and ``if_off`` are wanted, which may be empty otherwise.

    Returns
    -------
    In place: ``base`` (p,) the bound of each row; ``if_on`` and ``if_off`` (end - begin, p) what it grows by when a
    free pair is kept, or zero; ``known`` (p,) what the row's bound would be with its diagonal entry known to be theta:
    a guide, no proof.
    """
    nodes, cells = len(theta), len(grid) - 1
    column, across, own_v = np.empty(nodes), np.empty(nodes), np.zeros(nodes)
    slopes, errors, bends = np.zeros(nodes), np.zeros(nodes), np.zeros(nodes)
    lows, highs, prices, own = np.zeros(nodes), np.zeros(nodes), np.zeros(nodes), np.zeros(nodes)
    open_pairs = np.empty(nodes, dtype=np.int64)
    gains, slacks, where = (np.empty((cells + 1, nodes)), np.empty((cells + 1, nodes)), np.empty((cells + 1, nodes)))
    points, bounds = np.empty(cells + 1), np.empty(cells)
    kept, dropped = np.empty(nodes), np.empty(nodes)
    sure = np.empty(nodes, dtype=np.bool_)
    norms = np.zeros(nodes)
    by_row = extra.shape[0] > 0
    steps = (min(len(price) - 1, 1), min(len(ridge) - 1, 1), min(len(lower) - 1, 1), min(len(upper) - 1, 1))
    for j in range(nodes):
        for pos in range(indptr[j], indptr[j + 1]):
            norms[j] += abs(value[pos])
    for i in range(begin, end):
        _row_products(i, matrix, indptr, indices, value, column, across)
        scale = 1.0 / theta[i]
        length = indptr[i + 1] - indptr[i]
        square, square_error, square_size = 0.0, 0.0, 0.0
        for pos in range(indptr[i], indptr[i + 1]):
            j, v = indices[pos], value[pos]
            own_v[j] = v
            taken = (common[j] + extra[i, j] if by_row else common[j]) * v
            y = column[j] - taken
            square += v * y
            square_size += abs(v * y)
            y_error = _gamma(length + 2) * largest[j] * norms[i] + 2.0 * _U * (abs(column[j]) + abs(taken))
            square_error += abs(v) * y_error
        square_error += _gamma(length + 4) * square_size
        a = matrix[i, i] - square * scale * scale
        a_error = 1.01 * square_error * scale * scale + 8.0 * _U * (matrix[i, i] + abs(square) * scale * scale)
        count, known[i] = 0, a * theta[i] - np.log(theta[i])
        unbounded = False
        for j in range(nodes):
            if parts:
                if_on[i - begin, j] = 0.0
                if_off[i - begin, j] = 0.0
            if j == i:
                continue
            q = _place(i, j, nodes)
            if fixed[q] < 0:
                continue
            v = own_v[j]
            mine = common[j] + extra[i, j] if by_row else common[j]
            theirs = common[i] + extra[j, i] if by_row else common[i]
            cost, pull, low, high = price[q * steps[0]], ridge[q * steps[1]], lower[q * steps[2]], upper[q * steps[3]]
            other = 1.0 / theta[j]
            y, y_other = column[j] - mine * v, across[j] - theirs * v
            c = 4.0 * matrix[i, j] + 2.0 * scale * y + 2.0 * other * y_other
            size = 4.0 * abs(matrix[i, j]) + 2.0 * scale * (abs(column[j]) + abs(mine * v))
            size += 2.0 * other * (abs(across[j]) + abs(theirs * v))
            error = 2.0 * scale * _gamma(length + 2) * largest[j] * norms[i]
            error += 2.0 * other * _gamma(indptr[j + 1] - indptr[j] + 2) * largest[i] * norms[j]
            error = 1.01 * error + 12.0 * _U * size
            half = 0.5 * pull
            part, rest = half + mine * scale, half + theirs * other
            share = part / (part + rest) if part + rest > 0.0 else 0.5
            n = count
            open_pairs[n] = j
            sure[n] = fixed[q] > 0
            count += 1
            slopes[n] = -c * share
            errors[n] = share * error + 16.0 * _U * abs(c) * share
            prices[n] = cost * share * (1.0 - 16.0 * _U)
            bends[n], own[n], lows[n], highs[n] = half, mine, low, high
            if mine == 0.0 and half == 0.0 and (np.isinf(low) or np.isinf(high)):
                unbounded = True
            if not (parts or sure[n]):  # the gain grows with t: what it is worth at no t need not be looked at
                gain, _, _ = _gain(slopes[n], errors[n], max(half, _TINY), low, high, prices[n])
                if gain <= 0.0:
                    count -= 1
                    continue
            if i < j:
                gain, _, _ = _gain(-c, 0.0, part + rest, low, high, cost)
                known[i] -= gain if fixed[q] > 0 else max(gain, 0.0)
        for k in range(cells + 1):
            points[k] = grid[k] * theta[i]
        _tabulate(count, points, slopes, errors, bends, own, lows, highs, prices, gains, slacks, where)
        least = np.inf
        slack = _gamma(count + 64)
        for k in range(cells):
            intercept, slope, size = _line(
                count, points[k], points[k + 1], theta[i], gains[k], gains[k + 1], where[k], where[k + 1], own, sure,
                slacks[k],
            )  # fmt: skip
            bounds[k] = -np.inf
            if np.isfinite(intercept) and not unbounded:
                g = a - slope - (a_error + slack * slope + 4.0 * _U * (abs(a) + slope))
                low = _least(g, points[k], points[k + 1])
                bounds[k] = low - intercept - 2.0 * slack * size - 4.0 * _U * (abs(low) + abs(intercept))
            least = min(least, bounds[k])
        base[i] = least
        if parts and not np.isinf(least):
            for n in range(count):
                kept[n], dropped[n] = np.inf, np.inf
            for k in range(cells):
                here, after, before, lost = bounds[k], gains[k + 1], gains[k], slacks[k]
                for n in range(count):
                    kept[n] = min(kept[n], here + max(-after[n], 0.0))
                    dropped[n] = min(dropped[n], here + max(before[n] - 2.0 * lost[n], 0.0))
            for n in range(count):
                if sure[n]:
                    continue
                j = open_pairs[n]
                if_on[i - begin, j] = max(kept[n] - least - 4.0 * _U * (abs(kept[n]) + abs(least)), 0.0)
                if_off[i - begin, j] = max(dropped[n] - least - 4.0 * _U * (abs(dropped[n]) + abs(least)), 0.0)
        for pos in range(indptr[i], indptr[i + 1]):
            own_v[indices[pos]] = 0.0
