"""The judge: value, violation and bounds of an answer, recomputed from the problem. No solver grades itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from ..core.problem import Problem
from ..errors import CertificateError, MippruneError

__all__ = ["Verdict", "judge"]

_SLACK = 1e-9  # relative; far above rounding, far below any gap that matters


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth.

    Attributes
    ----------
    value : float or None
        The objective at the point, recomputed; ``None`` without a point or with an inadmissible one.
    violation : float or None
        Of the point.
    checked_bound : float or None
        Lower bound that the certificate proves, recomputed.
    claimed_bound : float or None
        Lower bound that the solver states without proof.
    faults : tuple of str
        What is wrong with the answer, one sentence each.
    """

    value: float | None = None
    violation: float | None = None
    checked_bound: float | None = None
    claimed_bound: float | None = None
    faults: tuple[str, ...] = field(default=())

    @property
    def bound(self) -> float | None:
        """The bound that counts: the checked one if there is one."""
        return self.claimed_bound if self.checked_bound is None else self.checked_bound


def judge(problem: Problem, answer: Any) -> Verdict:
    """Assess an answer against the problem.

    Parameters
    ----------
    problem : Problem
    answer : Solution, or any object with some of its attributes
        ``point``, ``value``, ``bound``, ``certificate`` and ``claim`` are looked at; any may be missing.

    Returns
    -------
    Verdict

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.formulations.transposable_mask(torch.ones(2, 2), mp.TransposableNofM(1, 2))
    >>> judge(problem, mp.solve(problem)).value
    -2.0
    >>> from types import SimpleNamespace
    >>> judge(problem, SimpleNamespace(point=torch.ones(2, 2), value=-4.0)).faults
    ('the point violates the structure by 4',)
    """
    faults: list[str] = []
    value, violation = _assess_point(problem, answer, faults)
    checked = _assess_certificate(problem, answer, faults)
    claim = getattr(answer, "claim", None)
    claimed = _number(claim.bound if claim is not None else None)
    if checked is None and claimed is None:
        claimed = _number(getattr(answer, "bound", None))
    slack = _slack(problem, getattr(answer, "point", None), value)
    for kind, bound, allowance in (("proven", checked, slack), ("claimed", claimed, _claim_slack(claim, value, slack))):
        if bound is not None and value is not None and bound > value + allowance:
            faults.append(f"its {kind} bound {bound!r} is above the value {value!r} of its own point")
    return Verdict(value, violation, checked, claimed, tuple(faults))


def _assess_point(problem: Problem, answer: Any, faults: list[str]) -> tuple[float | None, float | None]:
    point = getattr(answer, "point", None)
    if point is None:
        return None, None
    try:
        violation = float(problem.violation(point))
        value = float(problem.value(point))
    except MippruneError as error:
        faults.append(f"the point cannot be read: {error}")
        return None, None
    if violation != 0:
        faults.append(f"the point violates the structure by {violation:g}")
        return None, violation
    stated = _number(getattr(answer, "value", None))
    if stated is not None and abs(stated - value) > _slack(problem, point, value):
        faults.append(f"it states the value {stated!r}, the problem says {value!r}")
    return value, violation


def _assess_certificate(problem: Problem, answer: Any, faults: list[str]) -> float | None:
    certificate = getattr(answer, "certificate", None)
    if certificate is None:
        return None
    try:
        checked = _number(certificate.bound(problem))
    except CertificateError as error:
        faults.append(f"its certificate does not hold: {error}")
        return None
    stated = _number(getattr(answer, "bound", None))
    if checked is not None and stated is not None and stated > checked + _SLACK * max(1e-12, abs(checked)):
        faults.append(f"it states the bound {stated!r}, its certificate proves {checked!r}")
    return checked


def _slack(problem: Problem, point: Any, value: float | None) -> float:
    if point is None or value is None:
        return 0.0
    return problem.rounding(point) + _SLACK * abs(value)


def _claim_slack(claim: Any, value: float | None, slack: float) -> float:
    """A claim is good to the back end's tolerance, which the claim states."""
    tolerance = float(getattr(claim, "tolerance", 0.0) or 0.0)
    return slack + tolerance * max(1.0, abs(value or 0.0))


def _number(value: Any) -> float | None:
    """A finite number, or ``None``: a bound of minus infinity says nothing."""
    return float(value) if value is not None and math.isfinite(value) else None
