"""The state of a node of a stored tree, collected on the way up to the root."""

from __future__ import annotations

from .compiling import compiled_if_possible

__all__ = ["collect"]

_compiled = compiled_if_possible()


@_compiled
def collect(  # type: ignore[no-untyped-def]
    node, parent, entry, side, step_start, step_end, step_entry, step_kind, step_value, local,
    fixed, lower, upper, limits,
):  # fmt: skip
    """Apply everything fixed and narrowed above a node (its own steps excluded) to the state of the root.

    Parameters
    ----------
    node : int
    parent, entry, side : int arrays, shape (nodes,)
        Where a node hangs; the entry its parent branches on (-1 if none) and the kind of the fixing, 0 off or 1 on.
    step_start, step_end : int arrays, shape (nodes,)
    step_entry, step_kind, step_value : arrays
        Kinds are 0 off, 1 on, 2 lower side, 3 upper side, 4 limit.
    local : int64 array
        Number of an entry in the arrays below, -1 for one that is no longer there.
    fixed, lower, upper, limits : arrays
        Overwritten. Fixings are unique on a path and intervals only shrink, so that the order does not matter.
    """
    while True:
        j = entry[node]
        if j >= 0 and local[j] >= 0:
            fixed[local[j]] = 1 if side[node] == 1 else -1
        node = parent[node]
        if node < 0:
            return
        for place in range(step_start[node], step_end[node]):
            j = step_entry[place]
            kind = step_kind[place]
            if kind == 4:
                limits[j] = min(limits[j], step_value[place])
                continue
            i = local[j]
            if i < 0:
                continue
            if kind == 0:
                fixed[i] = -1
            elif kind == 1:
                fixed[i] = 1
            elif kind == 2:
                lower[i] = max(lower[i], step_value[place])
            else:
                upper[i] = min(upper[i], step_value[place])
