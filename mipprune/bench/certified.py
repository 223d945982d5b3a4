"""How far heuristics are from optimal: their values against the best checked bound of each instance."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from .jobs import CERTIFIED
from .records import Record
from .summary import per_cent

__all__ = ["CERTIFY_HEADERS", "certify_rows", "distances"]

CERTIFY_HEADERS = ("solver", "size", "instances", "median distance", "worst", "proven optimal")
"""Of the table of :func:`certify_rows`."""


def distances(records: Sequence[Record]) -> dict[tuple[str, float], list[float]]:
    """Return the proven distances to the optimum by solver and size.

    Parameters
    ----------
    records : sequence of Record
        Of one family; the best checked bound of an instance counts for all its runs.

    Returns
    -------
    dict of (solver, size) to list of float
        ``(value - bound)/max(|value|, 1e-12)``; ``inf`` where there is no value or no checked bound.
    """
    bounds: dict[tuple[str, str], float] = {}
    for record in records:
        if record.checked_bound is not None and not record.faults:
            place = record.instance, record.fingerprint
            bounds[place] = max(bounds.get(place, -math.inf), record.checked_bound)
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for record in records:
        bound = bounds.get((record.instance, record.fingerprint))
        if record.value is None or bound is None:
            distance = math.inf
        else:
            distance = max(0.0, record.value - bound) / max(abs(record.value), 1e-12)
        found[record.solver.removeprefix(CERTIFIED), record.size].append(distance)
    return found


def certify_rows(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Return one line per solver and size, in the order of ``CERTIFY_HEADERS``."""
    limit = max((record.gap_limit for record in records), default=0.0)
    return [
        (
            solver,
            f"{size:g}",
            str(len(found)),
            per_cent(median(found)),
            per_cent(max(found)),
            str(sum(distance <= limit for distance in found)),
        )
        for (solver, size), found in sorted(distances(records).items())
    ]
