"""What the exact solvers share: from a problem to scaled canonical data, and from a back end's words to a solution."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.adapters import Masks, Sparse
from ...core.arrays import as_tensor
from ...core.canonical import LOGARITHMS, Canonical, complete
from ...core.certificate import Certificate, Claim, Tangent
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Watch
from ...errors import CertificateError, Unsupported
from ...losses.least_squares import LeastSquares
from ..bounds.relaxation import Bounded, best_tangent
from .repair import admissible_mask, curvature, on_mask

__all__ = [
    "Incumbent",
    "Instance",
    "Outcome",
    "conclude",
    "first_member",
    "mask_model",
    "mask_of_columns",
    "reason",
]


LARGEST = 20_000
"""0/1 entries beyond which neither back end gets anywhere."""

CONE_TOLERANCE = 1e-4
"""Relative error of a claimed bound of a model with cones, the objective scaled to 1 (measured: below 2e-5)."""

LINEAR_TOLERANCE = 1e-6
"""Relative error of a claimed bound of a model with linear rows only."""

_CHEAP = 4096  # entries up to which building the expression costs next to nothing
_LEAST_UNIT = 1e-6  # of the loss's scale: an optimum of about zero gives no unit of its own
_UNBOUNDED = 1e19  # from here on, a back end's bound means that it has none
_LOG = logging.getLogger("mipprune")
_TRANSCENDENTAL = frozenset({"exp", "logistic", "log_sum_exp", "log_det"})


def reason(problem: Problem, strength: str, *, logarithms: bool = False) -> str | None:
    """Return why an exact back end cannot take the problem, or ``None``; one that knows logarithms says so."""
    if strength not in ("perspective", "big-m"):
        return f"strength is {strength!r}; choose 'perspective' or 'big-m'"
    if problem.size > LARGEST:
        return (
            f"{problem.size} entries are beyond exact solvers (about {LARGEST} 0/1 entries); use a first-order solver "
            "such as ADMM or ProjectedGradient for a point and certify for a bound"
        )
    if isinstance(problem.loss, LeastSquares) and problem.loss.too_large is not None:
        return problem.loss.too_large
    return _unlowerable(problem, logarithms) or _without_links(problem, strength)


def _unlowerable(problem: Problem, logarithms: bool) -> str | None:
    """Look for atoms outside quadratics; the expression of a wide problem is too costly for a mere question."""
    import cvxpy as cp

    try:
        if problem.size > _CHEAP:
            atoms = problem.loss.atoms
        else:
            found = problem.reference.loss.expression(cp.Variable(problem.shape), None).atoms()
            atoms = frozenset(atom.__name__ for atom in found)
    except (Unsupported, NotImplementedError) as error:
        return f"{type(problem.loss).__name__} has no cvxpy expression ({error}); use a solver of gradients"
    unknown = _TRANSCENDENTAL if logarithms else _TRANSCENDENTAL | LOGARITHMS
    curved = sorted(atoms & unknown)
    if curved:
        other = "SCIP takes quadratics and logarithms only" if logarithms else "HiGHS takes quadratics only"
        return f"the loss contains {', '.join(curved)}, and {other}; use BranchAndBound"
    return None


def _without_links(problem: Problem, strength: str) -> str | None:
    """Weights need finite bounds or curvature to be tied to their mask."""
    structure = problem.structure
    if not isinstance(structure, Sparse) or structure.box is not None:
        return None
    loss = problem.reference.loss
    if loss.level_box(loss.scale) is not None:
        return None
    split = loss.best_split()
    if strength == "perspective" and split is not None and bool((split > 0).all()):
        return None
    return "weights have neither a box nor bounded level sets to tie them to the mask; give a box or a ridge"


@dataclass(frozen=True, eq=False)
class Instance:
    """A problem with a first member of S and its scaled canonical data."""

    problem: Problem
    canonical: Canonical
    start: Tensor
    value: float

    @classmethod
    def of(cls, problem: Problem, start: Tensor, strength: str, split: Tensor | None) -> Instance:
        """Lower a problem; the value of the member ``start`` proves the bounds of the weights and sets the scale."""
        value = problem.value(start)
        least = _LEAST_UNIT * problem.reference.loss.scale
        cutoff = value if abs(value) >= least else least  # a larger cutoff is as valid, and keeps the model well scaled
        model = problem.to_cvxpy(strength, split=split, cutoff=cutoff)
        unit = abs(cutoff)
        canonical = Canonical.from_cvxpy(model)
        return cls(problem, canonical.scaled(unit, _unit_curvature(problem, canonical, unit)), start, value)

    @property
    def tolerance(self) -> float:
        """Relative tolerance of claims about this model."""
        return LINEAR_TOLERANCE if self.canonical.is_linear else CONE_TOLERANCE

    def columns_of(self, point: Tensor) -> np.ndarray[Any, Any] | None:
        """Return a member of S as a value of every column, or ``None`` when that is not determined."""
        values = {"w": point.double().cpu().numpy()}
        if "z" in self.canonical.blocks:
            values["z"] = admissible_mask(self.problem, point).cpu().numpy().astype(np.float64)
        return complete(self.canonical, values)

    def relaxed_columns(self, bounded: Bounded) -> np.ndarray[Any, Any]:
        """Return the solution of the perspective relaxation in the columns of ``w`` and ``z``, zero elsewhere."""
        canonical, relaxed = self.canonical, bounded.relaxed
        x = np.zeros(canonical.columns)
        for name, values in (("w", relaxed.primal), ("z", relaxed.shares)):
            block = canonical.blocks[name]
            x[block] = values.double().cpu().numpy() * canonical.factor[block]
        return x

    def point_of(self, x: np.ndarray[Any, Any]) -> Tensor | None:
        """Return the repaired point of a column vector: its mask, refitted; ``None`` if the mask is not admissible."""
        problem = self.problem
        w = torch.from_numpy(np.ascontiguousarray(self.canonical.values(x, "w"))).double()
        if isinstance(problem.structure, Masks):
            point = (w > 0.5).double()
        elif "z" in self.canonical.blocks:
            mask = torch.from_numpy(self.canonical.values(x, "z") > 0.5)
            point = on_mask(problem, mask, torch.where(mask, w, 0.0))
        else:
            point = problem.reference.repair(w)
        return point if problem.violation(point) == 0 else None


def _unit_curvature(problem: Problem, canonical: Canonical, unit: float) -> Mapping[str, np.ndarray[Any, Any]]:
    """Factors that give weights a second derivative of about the objective's unit, where the loss offers a diagonal."""
    if "z" not in canonical.blocks or np.isin(canonical.blocks["w"], canonical.integer).any():
        return {}
    return {"w": np.sqrt(curvature(problem).numpy() / unit)}


def first_member(problem: Problem, start: Tensor | None) -> Tensor | None:
    """Return the better of the user's start and the loss's own, both repaired; ``None`` if neither is a member of S."""
    reference = problem.reference
    starts = [reference.loss.start()]
    if start is not None:
        starts.append(as_tensor(start, "start", shape=problem.shape).detach().double().cpu())
    members = [member for member in map(reference.repair, starts) if problem.violation(member) == 0]
    return min(members, key=problem.value, default=None)


def mask_model(problem: Problem) -> Canonical | None:
    """Return the canonical data of "any admissible mask", or ``None`` for a structure without masks."""
    import cvxpy as cp

    structure = problem.structure
    if not isinstance(structure, Sparse | Masks):
        return None
    z = cp.Variable(problem.shape, name="z", boolean=True)
    return Canonical.from_cvxpy(cp.Problem(cp.Minimize(cp.sum(z)), structure.supports.constraints(z)))


def mask_of_columns(problem: Problem, canonical: Canonical, x: np.ndarray[Any, Any]) -> Tensor:
    """Return the best point on the mask that solves :func:`mask_model`."""
    mask = torch.from_numpy(canonical.values(x, "z") > 0.5)
    if isinstance(problem.structure, Masks):
        return mask.double()
    return on_mask(problem, mask, torch.zeros(problem.shape, dtype=torch.float64))


@dataclass
class Incumbent:
    """The best member of S seen by a run; every value in it was computed by the problem."""

    problem: Problem
    watch: Watch
    point: Tensor | None = None
    value: float = math.inf
    claimed: float | None = None
    """the back end's bound, in the problem's units"""
    tangent: Certificate | None = None
    proven: float = -math.inf
    """bound of ``tangent``: recomputed from the data"""
    _seen: set[bytes] = field(default_factory=set)

    def offer(self, instance: Instance, x: np.ndarray[Any, Any]) -> Tensor | None:
        """Repair a back end's solution and keep it if it is better; return it unless its mask was seen before."""
        name = "z" if "z" in instance.canonical.blocks else "w"
        key = np.round(instance.canonical.values(x, name), 6 if name == "w" else 0).tobytes()
        if key in self._seen:
            return None
        self._seen.add(key)
        point = instance.point_of(x)
        if point is not None:
            self.take(point)
        return point

    def take(self, point: Tensor) -> None:
        """Keep a member of S if it is better."""
        value = self.problem.value(point)
        if value < self.value:
            self.point, self.value = point, value

    @property
    def bound(self) -> float | None:
        """The better of the two bounds."""
        best = max(self.proven, -math.inf if self.claimed is None else self.claimed)
        return best if math.isfinite(best) else None

    @property
    def gap(self) -> float:
        """Relative gap so far, ``inf`` without a bound."""
        if self.bound is None:
            return math.inf
        return max(0.0, self.value - self.bound) / max(abs(self.value), 1e-12)

    @property
    def closed(self) -> bool:
        """Whether the gap is within the budget's, or within the rounding of the value."""
        if self.point is None or self.bound is None:
            return False
        return self.gap <= self.watch.budget.tolerance(self.value) or self.value - self.bound <= self.problem.rounding(
            self.point
        )

    def prove(self, splits: int) -> Bounded | None:
        """Find a good tangent at once: a checked bound however short the run, and the split that the cones will use.

        ``None`` when no relaxation was solved for it.
        """
        assert self.point is not None
        try:
            if splits and isinstance(self.problem.structure, Sparse) and self.problem.loss.best_split() is not None:
                found = best_tangent(self.problem, self.point, splits=splits, iterations=30, watch=self.watch)
                self.tangent, self.proven = found.tangent, found.bound
            else:
                found = None
                self.tangent, self.proven = Tangent.bounded(self.problem, self.point)
        except (CertificateError, Unsupported) as error:
            _LOG.info("no tangent bound for this problem: %s", error)
            return None
        self.report(None)
        return found

    def report(self, claimed: float | None) -> bool:
        """Raise the claimed bound, show the user the state, return whether to stop; only changes enter the trace."""
        if claimed is not None and math.isfinite(claimed) and abs(claimed) < _UNBOUNDED:
            self.claimed = claimed if self.claimed is None else max(self.claimed, claimed)
        value = None if self.point is None else self.value
        trace = self.watch.trace
        if not trace or trace[-1][1:] != (value, self.bound):
            self.watch.report(value, self.bound)
        elif self.watch.progress is not None and self.watch.progress(self.watch.seconds, value, self.bound):
            self.watch.stopped = Stop.USER
        return self.watch.stopped is not None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: why it stopped, whether S is empty, what it took."""

    stop: Stop
    infeasible: bool = False
    nodes: int | None = None
    iterations: int | None = None
    setup_seconds: float | None = None


def _claim(incumbent: Incumbent, back_end: str, version: str, tolerance: float) -> Claim | None:
    """The back end's bound; one above a known value by more than its tolerance is wrong, and dropped."""
    assert incumbent.claimed is not None
    problem, bound = incumbent.problem, incumbent.claimed
    if incumbent.point is not None and bound > incumbent.value:
        size = max(abs(incumbent.value), _LEAST_UNIT * problem.reference.loss.scale)
        if bound > incumbent.value + tolerance * size + problem.rounding(incumbent.point):
            _LOG.warning("%s claims the bound %r above the value %r; dropped", back_end, bound, incumbent.value)
            return None
        if bound > incumbent.value + tolerance * abs(incumbent.value):
            bound = incumbent.value
    return Claim(back_end, version, bound, tolerance)


def conclude(
    problem: Problem,
    incumbent: Incumbent,
    outcome: Outcome,
    *,
    solver: str,
    claimant: tuple[str, str, float],
    seed: int | None = None,
) -> Solution:
    """Turn the end of a run into a solution whose numbers are the problem's own.

    ``claimant`` is the back end's name and version, and the relative tolerance of its bound. The claimed bound is kept
    unless the tangent found at the beginning proves as much: then the bound needs no one's word.
    """
    point, stop = incumbent.point, outcome.stop
    watch = incumbent.watch
    claim = None
    if incumbent.claimed is not None:
        claim = _claim(incumbent, *claimant)
        stop = stop if claim is not None else Stop.NUMERICAL
    certificate, proven = incumbent.tangent, incumbent.proven
    if not math.isfinite(proven) or (claim is not None and proven < claim.bound):
        certificate = None
    solution = Solution.of(
        problem,
        point if point is None else point.to(device=_device(problem)),
        stop=stop,
        certificate=certificate,
        bound=proven if certificate is not None else None,
        claim=claim,
        tolerance=watch.budget.tolerance(incumbent.value) if incumbent.point is not None else watch.budget.gap,
        stats=watch.stats(
            setup_seconds=outcome.setup_seconds,
            iterations=outcome.iterations,
            nodes=outcome.nodes,
            device="cpu",
            seed=seed,
        ),
        solver=solver,
        infeasible=outcome.infeasible and point is None,
    )
    if stop is Stop.GAP and not solution.gap_closed and solution.point is not None:
        return replace(solution, stop=Stop.NUMERICAL)  # the back end's tolerance is coarser than the gap asked for
    return solution


def _device(problem: Problem) -> torch.device:
    return problem.loss.start().device
