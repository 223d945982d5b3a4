"""Wrong claims that only show when the answers of several solvers to one instance are laid side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .records import Record

__all__ = ["Fault", "best_values", "find_faults"]

_SLACK = 1e-6  # relative; solvers work to tolerances of this order


@dataclass(frozen=True)
class Fault:
    """A wrong claim, by name.

    Attributes
    ----------
    solver, family, instance : str
    what : str
        The claim and what contradicts it.
    """

    solver: str
    family: str
    instance: str
    what: str

    def __str__(self) -> str:
        return f"{self.solver} on {self.family} ({self.instance}): {self.what}"


def _instance(record: Record) -> tuple[str, str, str]:
    return record.family, record.instance, record.fingerprint


def best_values(
    records: Iterable[Record], known: Mapping[str, float] | None = None
) -> dict[tuple[str, str, str], float]:
    """Return the best value of each instance over all solvers and over stored optima.

    Parameters
    ----------
    records : iterable of Record
    known : mapping of str to float, optional
        Optima by fingerprint.

    Returns
    -------
    dict of (family, instance, fingerprint) to float
    """
    best: dict[tuple[str, str, str], float] = {}
    for record in records:
        candidates = [record.value, (known or {}).get(record.fingerprint), best.get(_instance(record))]
        present = [value for value in candidates if value is not None]
        if present:
            best[_instance(record)] = min(present)
    return best


def find_faults(records: Sequence[Record], known: Mapping[str, float] | None = None) -> list[Fault]:
    """Return every wrong claim: of the answers by themselves, and of answers that contradict each other.

    Parameters
    ----------
    records : sequence of Record
    known : mapping of str to float, optional
        Proven optima by fingerprint.

    Returns
    -------
    list of Fault
        In the order of the records.

    Notes
    -----
    A checked bound above a feasible value of another solver is a fault of the certificate; a feasible value below a
    checked bound is reported at the bound, since values are recomputed by the problem and cannot be wrong.

    Examples
    --------
    >>> good = Record(key="1", family="f", instance="i", solver="a", value=1.0)
    >>> liar = Record(key="2", family="f", instance="i", solver="b", value=2.0, claimed_bound=1.5)
    >>> [fault.solver for fault in find_faults([good, liar])]
    ['b']
    """
    best = best_values(records, known)
    holder: dict[tuple[str, str, str], str] = defaultdict(lambda: "a stored optimum")
    for record in records:
        if record.value is not None and record.value == best.get(_instance(record)):
            holder[_instance(record)] = record.solver
    found = []
    for record in records:
        claims = list(record.faults)
        reference = best.get(_instance(record))
        if reference is not None:
            claims += _contradictions(record, reference, holder[_instance(record)])
        optimum = (known or {}).get(record.fingerprint)
        if optimum is not None and record.value is not None and record.value < optimum - _slack(optimum, 0.0):
            claims.append(f"its value {record.value!r} is below the stored optimum {optimum!r}, which is then wrong")
        found += [Fault(record.solver, record.family, record.instance, what) for what in claims]
    return found


def _contradictions(record: Record, best: float, holder: str) -> list[str]:
    claims = []
    for kind, bound in (("proven", record.checked_bound), ("claimed", record.claimed_bound)):
        own = record.value is not None and bound is not None and bound > record.value
        slack = _slack(best, record.gap_limit if kind == "claimed" else 0.0)
        if bound is not None and bound > best + slack and not (own and record.faults):
            claims.append(f"its {kind} bound {bound!r} is above the value {best!r} of {holder}")
    if record.status == "optimal" and record.value is not None and not record.faults:
        allowed = _slack(best, record.gap_limit)
        if record.value > best + allowed:
            claims.append(f"it says optimal at {record.value!r}, but {holder} has {best!r}")
    return claims


def _slack(value: float, gap: float) -> float:
    gap = gap if gap == gap else 0.0  # an unknown limit is none
    return (_SLACK + gap) * max(abs(value), 1e-9)
