"""Comparing two sets of records, run by run: what got slower, worse or wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .metrics import Comparison, compare_pairs
from .records import Outcome, Record

__all__ = ["Change", "compare"]

_LEAST = 1e-4  # seconds, gaps: below it there is nothing to compare


@dataclass(frozen=True)
class Change:
    """What changed for one solver on one family.

    Attributes
    ----------
    family, solver : str
    seconds, gaps, memory : Comparison
        Of the runs that both sets have; gaps are compared after adding 1e-4, so that closed ones do not decide.
    lost, gained : tuple of str
        Instances that were solved before and are not now, and the other way round.
    """

    family: str
    solver: str
    seconds: Comparison
    gaps: Comparison
    memory: Comparison
    lost: tuple[str, ...]
    gained: tuple[str, ...]

    @property
    def regression(self) -> bool:
        """Whether it got significantly slower or worse, or lost an instance."""
        slower = any(pair.significant and pair.ratio > 1.0 for pair in (self.seconds, self.gaps))
        return slower or bool(self.lost)


def compare(old: Sequence[Record], new: Sequence[Record]) -> list[Change]:
    """Compare two sets of records by the runs that both have.

    Parameters
    ----------
    old, new : sequence of Record
        Taken on the same machine; runs are matched by their key.

    Returns
    -------
    list of Change
        One for each solver and family, in the order of ``new``; empty when nothing matches.
    """
    before = {record.key: record for record in old if record.outcome != Outcome.REJECTED}
    pairs: dict[tuple[str, str], list[tuple[Record, Record]]] = defaultdict(list)
    for record in new:
        if record.key in before and record.outcome != Outcome.REJECTED:
            pairs[record.family, record.solver].append((before[record.key], record))
    return [_change(family, solver, found) for (family, solver), found in pairs.items()]


def _change(family: str, solver: str, pairs: Sequence[tuple[Record, Record]]) -> Change:
    def paired(attribute: str, floor: float) -> Comparison:
        values = [(getattr(a, attribute), getattr(b, attribute)) for a, b in pairs]
        present = [(a + floor, b + floor) for a, b in values if a is not None and b is not None]
        return compare_pairs([a for a, _ in present], [b for _, b in present])

    return Change(
        family,
        solver,
        paired("seconds", _LEAST),
        paired("gap", _LEAST),
        paired("peak_memory", 1.0),
        tuple(b.instance for a, b in pairs if a.solved and not b.solved),
        tuple(b.instance for a, b in pairs if b.solved and not a.solved),
    )
