"""A few records made by hand, with a winner, a liar, a solver that was not there and one that crashed."""

from __future__ import annotations

from typing import Any

from mipprune.bench import Record

__all__ = ["made"]


def made(factor: float = 1.0) -> list[Record]:
    """Return records of two families; times are multiplied by ``factor``."""
    found = []
    for family in ("layerwise", "transposable_masks"):
        for number in range(8):
            common: dict[str, Any] = {
                "family": family,
                "instance": f"size={10 * (number + 1)} <{number}>",
                "fingerprint": f"{family}{number}",
                "size": 10.0 * (number + 1),
                "seconds_limit": 10.0,
                "gap_limit": 1e-4,
            }
            exact, quick = 0.5 + 0.3 * number, 0.01 * (number + 1)
            found += [
                Record(
                    key=f"tree{family}{number}",
                    solver="tree",
                    value=1.0,
                    checked_bound=1.0 if number < 6 else 0.9,
                    status="optimal" if number < 6 else "feasible",
                    seconds=factor * exact,
                    peak_memory=1e8,
                    nodes=7,
                    trace=((0.1, 1.2, 0.5), (0.4, 1.0, 0.9)),
                    machine='{"cores": 2}',
                    **common,
                ),
                Record(
                    key=f"quick{family}{number}",
                    solver="quick",
                    value=1.1,
                    status="feasible",
                    seconds=factor * quick,
                    **common,
                ),
                Record(
                    key=f"liar{family}{number}",
                    solver="liar",
                    value=1.3,
                    claimed_bound=1.3,
                    status="optimal",
                    seconds=factor * 0.2,
                    **common,
                ),
                Record(key=f"peer{family}{number}", solver="peer", outcome="rejected", reason="not here", **common),
                Record(key=f"crash{family}{number}", solver="crash", outcome="ended", reason="code -11", **common),
            ]
    return found
