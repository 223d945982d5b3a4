"""Solutions: what is known, on what ground, and why the run ended."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace
from enum import Enum
from fractions import Fraction
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import CertificateError, MippruneError
from .arrays import exact as exact_tensor
from .certificate import Certificate, Claim
from .problem import Problem

__all__ = ["Checked", "Proof", "Solution", "Stats", "Status", "Stop", "check"]

_FLOOR = 1e-12


class Status(Enum):
    """What is known about the point."""

    OPTIMAL = "optimal"
    """the gap is closed within the tolerance asked for"""
    FEASIBLE = "feasible"
    """a point of S, gap open or unknown"""
    INFEASIBLE = "infeasible"
    """S is empty"""
    NO_POINT = "no point"
    """stopped with nothing"""


class Proof(Enum):
    """What the bound rests on."""

    CHECKED = "checked"
    """a certificate that :func:`check` accepts"""
    CLAIMED = "claimed"
    """an exact solver's word, within its tolerance"""
    NONE = "none"
    """no bound"""


class Stop(Enum):
    """Why the run ended."""

    GAP = "gap closed"
    CONVERGED = "converged"
    TIME = "time limit"
    NODES = "node limit"
    ITERATIONS = "iteration limit"
    USER = "interrupted"
    NUMERICAL = "numerical trouble"


@dataclass(frozen=True)
class Stats:
    """How a run went; what is unknown is ``None``, never 0.

    ``seconds`` includes ``setup_seconds``; ``trace`` holds (seconds, value, bound).
    """

    seconds: float | None = None
    setup_seconds: float | None = None
    iterations: int | None = None
    nodes: int | None = None
    oracle_calls: int | None = None
    trace: tuple[tuple[float, float | None, float | None], ...] = ()
    device: str | None = None
    seed: int | None = None


_NOTHING = type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("point", "mask"), (Tensor, _NOTHING)),
    **dict.fromkeys(("value", "violation", "tolerance", "rounding"), (Real,)),
    **dict.fromkeys(("fingerprint", "solver"), (str,)),
    **{"bound": (Real, _NOTHING), "certificate": (Certificate, _NOTHING), "claim": (Claim, _NOTHING)},
    **{"status": (Status,), "proof": (Proof,), "stop": (Stop,), "stats": (Stats,)},
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Solution:
    """A point with its value, and a bound with its ground. Build it with :meth:`of`; inconsistent ones are refused.

    Attributes
    ----------
    point : Tensor or None
        A member of S.
    value : float
        ``problem.value(point)``, never a solver's number; ``inf`` without a point.
    violation : float
        0 for a member of S.
    bound : float or None
        Lower bound of the problem.
    mask : bool Tensor or None
        The support of the point.
    certificate, claim
        The ground of the bound.
    fingerprint : str
        Digest of the problem's data.
    tolerance : float
        Relative gap at which the solution counts as optimal.
    """

    point: Tensor | None
    value: float
    violation: float
    bound: float | None
    mask: Tensor | None
    certificate: Certificate | None
    claim: Claim | None
    status: Status
    proof: Proof
    stop: Stop
    fingerprint: str
    tolerance: float = 1e-4
    rounding: float = 0.0
    stats: Stats = field(default_factory=Stats)
    solver: str = ""

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                raise CertificateError(f"inconsistent solution: {name} is a {type(getattr(self, name)).__name__}")
        problems = []
        if (self.point is None) != (self.mask is None) or (self.point is None) != (self.value == math.inf):
            problems.append("point, mask and value must be present or absent together")
        if self.violation != 0:
            problems.append(f"the point violates the structure by {self.violation}")
        if math.isnan(self.value) or (self.bound is not None and math.isnan(self.bound)):
            problems.append(f"value {self.value} or bound {self.bound} is not a number")
        if (self.proof is Proof.NONE) != (self.bound is None):
            problems.append(f"proof is {self.proof.value} with bound {self.bound}")
        if self.proof is Proof.CHECKED and self.certificate is None:
            problems.append("proof is checked without a certificate")
        if self.proof is Proof.CLAIMED and self.claim is None:
            problems.append("proof is claimed without a claim")
        if self.bound is not None and self.bound > self.value + self._slack():
            problems.append(f"the bound {self.bound!r} is above the value {self.value!r}")
        if self.status is Status.OPTIMAL and (self.bound is None or not self.gap_closed):
            problems.append(f"status is optimal with bound {self.bound}, value {self.value}")
        if self.status in (Status.NO_POINT, Status.INFEASIBLE) and self.point is not None:
            problems.append(f"status is {self.status.value} with a point")
        if self.status is Status.FEASIBLE and self.point is None:
            problems.append("status is feasible without a point")
        if problems:
            raise CertificateError("inconsistent solution: " + "; ".join(problems))

    def _slack(self) -> float:
        return self.rounding + 1e-12 * abs(self.value) if math.isfinite(self.value) else 0.0

    @property
    def gap(self) -> float | None:
        """Relative gap ``(value - bound)/max(|value|, 1e-12)``, at least 0; ``None`` without a bound or a point."""
        if self.bound is None or self.point is None:
            return None
        return max(0.0, self.value - self.bound) / max(abs(self.value), _FLOOR)

    @property
    def gap_closed(self) -> bool:
        """Whether the gap is within the tolerance, or within the rounding error of the value."""
        gap = self.gap
        return gap is not None and (gap <= self.tolerance or self.value - (self.bound or 0.0) <= self._slack())

    @classmethod
    def of(
        cls,
        problem: Problem,
        point: Tensor | None,
        *,
        stop: Stop,
        certificate: Certificate | None = None,
        bound: float | None = None,
        claim: Claim | None = None,
        tolerance: float = 1e-4,
        stats: Stats | None = None,
        solver: str = "",
        infeasible: bool = False,
    ) -> Solution:
        """Assess a point and the ground of a bound against the problem; every number is recomputed from the data.

        Parameters
        ----------
        problem : Problem
        point : Tensor or None
            A member of S, on any device; ``None`` when there is none. A point without a finite value counts as none.
        stop : Stop
        certificate : Certificate, optional
            Its bound is evaluated here unless ``bound`` (already evaluated by it) is given.
        claim : Claim, optional
            Used for the bound only when there is no certificate. A claimed bound that exceeds the value by no more than
            the back end's tolerance is clipped to the value.
        infeasible : bool
            S is known to be empty.

        Raises
        ------
        CertificateError
            If the pieces contradict each other.
        """
        value, violation, rounding = math.inf, 0.0, 0.0
        if point is not None:
            wide = exact_tensor(point)  # once: the three would convert it each for itself
            value, violation, rounding = problem.value(wide), problem.violation(wide), problem.rounding(wide)
            if not math.isfinite(value):  # the objective overflows there: that is no answer
                point, value, violation, rounding = None, math.inf, 0.0, 0.0
        proof = Proof.NONE
        if certificate is not None:
            bound, proof = (certificate.bound(problem) if bound is None else bound), Proof.CHECKED
        elif claim is not None:
            bound, proof = claim.bound, Proof.CLAIMED
            if value < bound <= value + claim.tolerance * max(abs(value), _FLOOR) + rounding:
                bound = value
        else:
            bound = None
        draft = cls(
            point=point,
            value=value,
            violation=violation,
            bound=bound,
            mask=None if point is None else problem.structure.mask_of(point),
            certificate=certificate,
            claim=claim,
            status=Status.FEASIBLE if point is not None else (Status.INFEASIBLE if infeasible else Status.NO_POINT),
            proof=proof,
            stop=stop,
            fingerprint=problem.fingerprint,
            tolerance=tolerance,
            rounding=rounding,
            stats=stats or Stats(),
            solver=solver,
        )
        return replace(draft, status=Status.OPTIMAL) if draft.gap_closed else draft

    def __str__(self) -> str:
        """Return a few lines: value, bound, gap, status, proof, stop, seconds."""

        def shown(number: float | None) -> str:
            return "-" if number is None else f"{number:.9g}"

        rows = [
            ("value", shown(self.value)),
            ("bound", shown(self.bound)),
            ("gap", "-" if self.gap is None else f"{100 * self.gap:.4g} %"),
            ("status", self.status.value),
            ("proof", self.proof.value),
            ("stop", self.stop.value),
            ("seconds", shown(self.stats.seconds)),
        ]
        return "\n".join(f"{key:8s}{text}" for key, text in rows)


class Checked(NamedTuple):
    """The recomputed quantities of an accepted solution."""

    value: float
    violation: float
    bound: float | None
    gap: float | None


def check(problem: Problem, solution: Solution, *, exact: bool = False) -> Checked:
    """Recompute value, violation and bound of a solution from the problem's data, without any solver.

    Parameters
    ----------
    problem : Problem
        The problem that the solution is said to solve.
    solution : Solution
        As returned by a solver or read from a file.
    exact : bool
        Evaluate the certificate in rational arithmetic (small data): no rounding allowance is needed then.

    Returns
    -------
    Checked
        The recomputed numbers.

    Raises
    ------
    CertificateError
        Naming the first quantity that differs from what is stored.

    Notes
    -----
    Agreement is asked for up to the rounding of a float64 evaluation: twice the loss's own bound for the value, and
    ``1e-10`` of the size of the terms and of the bound for the bound (another machine may sum in another order). The
    bound that is returned is the recomputed one; evaluated exactly it is above the stored one as a rule. With next to
    no ridge (1e-12 of X'X) it may be below, and the exact check refuses a sound bound: in float64 a tangent of least
    squares takes the rounded residual for its dual vector, which is as good as the exact one, and another.
    """
    if solution.fingerprint != problem.fingerprint:
        raise CertificateError(
            f"fingerprint: the solution was made for problem {solution.fingerprint[:12]}..., "
            f"the data at hand are {problem.fingerprint[:12]}...; weights, Gram matrix or structure differ"
        )
    value, violation = math.inf, 0.0
    tolerance = 1e-10 * max(problem.reference.loss.scale, abs(solution.value) if math.isfinite(solution.value) else 0.0)
    if solution.point is not None and solution.mask is not None:
        if not bool(torch.equal(problem.structure.mask_of(solution.point).cpu(), solution.mask.cpu())):
            raise CertificateError("mask: it is not the support of the stored point")
        wide = exact_tensor(solution.point)  # in float32 a box would be rounded, too
        violation = problem.violation(wide)
        if violation != 0:
            raise CertificateError(f"violation: the stored point violates the structure by {violation}")
        value, rounding = problem.value(wide), problem.rounding(wide)
        if not abs(value - solution.value) <= 2 * rounding + 1e-14 * abs(value):
            raise CertificateError(f"value: stored {solution.value!r}, recomputed {value!r}")
        if not solution.rounding <= 2 * rounding:
            raise CertificateError(f"rounding: stored {solution.rounding!r}, recomputed {rounding!r}")
    bound: float | None = solution.bound if solution.proof is Proof.CLAIMED else None
    if solution.certificate is not None:
        bound = _recomputed_bound(problem, solution.certificate, exact and math.isfinite(solution.bound or 0.0))
        nearly = tolerance + 1e-10 * abs(bound) if math.isfinite(bound) else 0.0
        if not _agrees(solution.bound, bound, nearly, below=exact):
            raise CertificateError(f"bound: stored {solution.bound!r}, the certificate proves {bound!r}")
        if not bound <= value + tolerance:
            raise CertificateError(
                f"bound: {bound!r} is above the value {value!r}; the package is wrong, please report"
            )
    elif solution.proof is Proof.CHECKED:
        raise CertificateError("certificate: the solution says 'checked' but holds none")
    claim = solution.claim
    if solution.proof is Proof.CLAIMED and claim is not None and solution.bound not in (claim.bound, solution.value):
        raise CertificateError(f"claim: the stored bound {solution.bound!r} is not that of {claim!r}")
    if (solution.status is Status.OPTIMAL) != solution.gap_closed:
        raise CertificateError(f"status: {solution.status.value!r} contradicts value, bound and tolerance")
    gap = None if bound is None or value == math.inf else max(0.0, value - bound) / max(abs(value), _FLOOR)
    return Checked(value, violation, bound, gap)


def _agrees(stored: float | None, proven: float, tolerance: float, *, below: bool) -> bool:
    """Tell whether a stored bound is within the tolerance of the proven one, or anywhere below it; NaN never agrees."""
    if stored is None or math.isnan(proven):
        return False
    return stored == proven or (below and stored <= proven) or abs(stored - proven) <= tolerance


def _recomputed_bound(problem: Problem, certificate: Certificate, exact: bool) -> float:
    """Evaluate a certificate; one whose arrays do not even fit the problem is refused like any other wrong one."""
    try:
        if not exact:
            return certificate.bound(problem)
        rational = certificate.rational_bound(problem)
    except MippruneError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CertificateError(
            f"certificate: it cannot be evaluated for this problem ({type(error).__name__}: {error})"
        ) from error
    try:
        bound = float(rational)  # correctly rounded; step down when that went up
    except OverflowError:
        return sys.float_info.max if rational > 0 else -math.inf
    return bound if Fraction(bound) <= rational else math.nextafter(bound, -math.inf)
