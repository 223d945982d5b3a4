"""A problem: a loss over a structured set, a frozen value object with all its readings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InvalidProblem
from ..kernels import bounded_descent
from .adapters import Masks, Sparse
from .arrays import as_mask, as_tensor, digest, exact, gamma
from .loss import Loss
from .separable import Separable
from .structure import Structure

if TYPE_CHECKING:
    import cvxpy

__all__ = ["Problem"]

_SMALL = 4096  # entries up to which a refit inside a box is worth a quasi-Newton method on the CPU


@dataclass(frozen=True, eq=False)
class Problem:
    r"""Minimise ``F(w) + price(support of w)`` over ``w`` in ``S``.

    Parameters
    ----------
    loss : Loss
        The smooth convex function ``F``.
    structure : Structure
        The set ``S`` with its price.
    name : str, optional
        For reports.
    on, off : bool Tensor, shape ``shape``, optional
        Entries fixed to be kept or zero; set by :meth:`restrict`.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.formulations.layerwise(torch.tensor([[1.0, 2.0]]), torch.eye(2), mp.Cardinality(1), damping=0.0)
    >>> problem.value(torch.tensor([[0.0, 2.0]]))
    1.0
    >>> problem.violation(torch.tensor([[1.0, 2.0]]))
    1.0
    """

    loss: Loss
    structure: Structure
    name: str = ""
    on: Tensor | None = None
    off: Tensor | None = None

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Loss):
            raise InvalidProblem(f"loss is a {type(self.loss).__name__}, which is not a mipprune Loss")
        if not isinstance(self.structure, Structure):
            raise InvalidProblem(
                f"structure is a {type(self.structure).__name__}; "
                "wrap a family of supports as Sparse(...) or Masks(...)"
            )
        self.structure.check_shape(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``w``."""
        return self.loss.shape

    @property
    def size(self) -> int:
        """Number of entries of ``w``."""
        return int(np.prod(self.shape))

    @cached_property
    def reference(self) -> Problem:
        """The same problem in float64 on the CPU, where values and bounds are evaluated."""
        return replace(self, loss=self.loss.to(device="cpu", dtype=torch.float64))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all data that define the problem (not its name)."""
        return digest(self.loss, self.structure)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Problem:
        """Return the problem with its data moved or converted; rounding them changes the fingerprint."""
        return replace(self, loss=self.loss.to(device=device, dtype=dtype))

    def _point(self, w: Any) -> Tensor:
        return exact(as_tensor(w, "the point", shape=self.shape))

    def value(self, w: Any) -> float:
        """Return the objective at ``w`` (shape ``shape``) in float64, whether or not ``w`` is in S."""
        point = self._point(w)
        return self.reference.loss.value(point) + self.structure.price(point)

    def rounding(self, w: Any) -> float:
        """Return a bound on the rounding error of ``value(w)``."""
        point = self._point(w)
        return self.reference.loss.rounding(point) + gamma(self.size + 4) * self.structure.price(point)

    def violation(self, w: Any) -> float:
        """Return 0 exactly when ``w`` is in S."""
        return self.structure.violation(self._point(w))

    @property
    def allowed(self) -> Tensor | None:
        """Entries that may be non-zero, or ``None`` for all."""
        return None if self.off is None else ~self.off

    def minorant(self, v: Any, split: Tensor | None = None) -> Separable:
        """Return the separable model below ``F`` at ``v``, in float64, with its rounding allowance."""
        split = None if split is None else exact(split)
        return self.reference.loss.minorant(self._point(v), split, self.allowed)

    def bound(self, v: Any, split: Tensor | None = None, witness: Tensor | None = None) -> float:
        """Return a proven lower bound of the problem: one gradient and one oracle call at any point ``v``.

        Parameters
        ----------
        v : Tensor, shape ``shape``
            Point of tangency; the bound holds for every choice.
        split : Tensor broadcastable to ``shape``, optional
            Diagonal curvature, verified by the loss; default the loss's own.
        witness : Tensor, optional
            The oracle's witness; without it the oracle is called.

        Raises
        ------
        CertificateError
            If the split is not valid for the loss.
        """
        return self.structure.argmin_bound(self.minorant(v, split), witness)

    def refit(self, point: Tensor) -> Tensor:
        """Return the best point found on the support of ``point`` (a member of S); never worse than ``point``."""
        if isinstance(self.structure, Masks):
            return point
        refitted = self.loss.minimise_on(self.structure.mask_of(point), start=point)
        refitted = torch.where(self.structure.mask_of(point), refitted, torch.zeros_like(refitted))
        if self.structure.violation(refitted) == 0 and self.value(refitted) <= self.value(point):
            return refitted
        if isinstance(self.structure, Sparse) and self.structure.box is not None and self.size <= _SMALL:
            inside = self.reference.minimise_in_box(self.structure.mask_of(point), point).to(point)
            return inside if self.value(inside) <= self.value(point) else point
        return self._descend(point)

    def minimise_in_box(self, mask: Tensor, near: Tensor) -> Tensor:
        """Return the minimiser of the loss over the box on one mask, to the accuracy of a proof (small problems).

        Parameters
        ----------
        mask : bool Tensor, shape ``shape``
        near : Tensor, shape ``shape``
            Where to start.
        """
        assert isinstance(self.structure, Sparse) and self.structure.box is not None
        loss, mask = self.reference.loss, mask.cpu()
        sides = [torch.as_tensor(side, dtype=torch.float64).cpu() for side in self.structure.box]
        lower, upper = (side.expand(self.shape)[mask].numpy() for side in sides)
        majorant = loss.majorant(torch.zeros(self.shape, dtype=torch.float64))
        curvature = torch.ones(self.shape) if majorant is None else majorant.curvature.expand(self.shape)
        scale = curvature.double().clamp_min(1e-12 * float(curvature.max()) or 1.0).rsqrt()[mask].numpy()

        def whole(x: np.ndarray[Any, Any]) -> Tensor:
            return torch.zeros(self.shape, dtype=torch.float64).masked_scatter(mask, torch.from_numpy(x))

        def value_and_gradient(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
            point = whole(x)
            return loss.value(point), loss.gradient(point)[mask].numpy()

        start = near.detach().double().cpu()[mask].numpy()
        return whole(bounded_descent.minimise(value_and_gradient, start, lower, upper, scale))

    def _descend(self, point: Tensor, steps: int = 100) -> Tensor:
        """Proximal gradient steps on a fixed support, for a refit that left the box."""
        mask = self.structure.mask_of(point)
        inside = self.structure.restrict(mask, ~mask)
        best, best_value = point, self.value(point)
        for _ in range(steps):
            model = self.loss.majorant(best)
            if model is None:
                break
            candidate = inside.argmin(model).point.to(point)
            if not bool(candidate.isfinite().all()):  # curvature that underflowed
                break
            value = self.value(candidate)
            if not value < best_value:
                break
            best, best_value = candidate, value
        return best

    def repair(self, w: Any) -> Tensor:
        """Return a member of S near ``w``: the oracle's nearest point in the metric of the majorant, then a refit."""
        point = as_tensor(w, "the point", shape=self.shape)
        majorant = self.loss.majorant(point)
        curvature = torch.ones_like(point) if majorant is None else majorant.curvature.to(point).expand(self.shape)
        curvature = torch.where((curvature > 0) & curvature.isfinite(), curvature, torch.ones_like(curvature))
        nearest = self.structure.argmin(Separable(constant=0.0, linear=-curvature * point, curvature=curvature)).point
        return self.refit(nearest.to(point))

    def restrict(self, on: Any, off: Any) -> Problem:
        """Return the problem with entries fixed: ``on`` kept, ``off`` zero (bool), implied ones included."""
        on = as_mask(on, "on", shape=self.shape).cpu()
        off = as_mask(off, "off", shape=self.shape).cpu()
        on = on if self.on is None else on | self.on
        off = off if self.off is None else off | self.off
        if bool((on & off).any()):
            raise InvalidProblem("an entry is fixed both on and off; the restricted set would be empty")
        while True:  # until nothing more follows: the same fixings give the same problem, in whatever order they came
            implied_on, implied_off = self.structure.propagate(on, off)
            implied_on, implied_off = implied_on | on, implied_off | off
            contradictory = bool((implied_on & implied_off).any())
            if contradictory or (torch.equal(implied_on, on) and torch.equal(implied_off, off)):
                break
            on, off = implied_on, implied_off
        return replace(self, structure=self.structure.restrict(on, off), on=on, off=off)

    def to_cvxpy(
        self,
        strength: str = "perspective",
        relax: bool = False,
        *,
        split: Tensor | None = None,
        cutoff: float | None = None,
    ) -> cvxpy.Problem:
        """Return the problem as a cvxpy problem with the variable ``w`` (and, for weights, the mask ``z``).

        Parameters
        ----------
        strength : {"perspective", "big-m"}
            Perspective cones with linear links, or links alone.
        relax : bool
            Drop integrality of the mask.
        split : Tensor, optional
            Diagonal curvature for the perspective; default the loss's best.
        cutoff : float, optional
            A value that is attained by some member of S; it proves the bounds of the links. Default: the value of the
            repaired start of the loss.

        Notes
        -----
        The objective is in the units of :meth:`value`; inside it everything is divided by the cutoff, so that a solver
        sees numbers of order one.
        """
        import cvxpy as cp

        reference = self.reference
        loss = reference.loss
        if cutoff is None:
            cutoff = self.value(reference.repair(loss.start()))
        scale = max(abs(cutoff), 1e-12 * loss.scale)
        if strength == "perspective" and split is None:
            split = loss.best_split()
        used = None if strength != "perspective" or split is None else exact(split)
        box = loss.level_box(cutoff + 1e-6 * scale)
        w = self.structure.variable(self.shape, relax=relax)
        cost, constraints = self.structure.model(w, used, strength=strength, bounds=box, relax=relax, scale=scale)
        return cp.Problem(cp.Minimize(scale * (loss.expression(w, used, scale) + cost)), constraints)

    def box_validity(self, value: float) -> str:
        """Tell what a bound says of the same problem without its box.

        Parameters
        ----------
        value : float
            Of a feasible point, such as ``solution.value``.

        Returns
        -------
        {"none", "proven", "given"}
            ``"none"``: there is no box. ``"proven"``: no point outside the box, with the same structure, has at most
            this value, so that optima and bounds up to it are those of the problem without the box. ``"given"``: the
            box may exclude better points, and the certificate speaks of the problem with it.

        Examples
        --------
        >>> import torch, mipprune as mp
        >>> x, y = torch.eye(3, dtype=torch.float64), torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64)
        >>> options = {"l0": 0.1, "l2": 0.5, "fit_intercept": False, "standardize": False}
        >>> build = mp.formulations.sparse_regression
        >>> [build(x, y, box=box, **options).box_validity(0.645) for box in (None, 10.0, 0.1)]
        ['none', 'proven', 'given']
        """
        structure = self.structure
        if not isinstance(structure, Sparse) or structure.box is None:
            return "none"
        loss = self.reference.loss
        least = float(torch.as_tensor(structure.price_per_entry).min())  # what a point outside pays at least
        level = loss.level_box(value - least + 1e-9 * loss.scale)
        if level is None:
            return "given"
        lower, upper = (torch.as_tensor(side, dtype=torch.float64).cpu().expand(self.shape) for side in structure.box)
        inside = (torch.minimum(level[0], torch.zeros_like(lower)) >= lower) & (
            torch.maximum(level[1], torch.zeros_like(upper)) <= upper
        )
        return "proven" if bool(inside.all()) else "given"

    def write(self, path: str | Path, strength: str = "perspective") -> None:
        """Write the mixed-integer model for another solver; the suffix decides: ``.mps``, ``.lp`` or ``.cip``."""
        from .canonical import write_model

        write_model(self.to_cvxpy(strength), Path(path))

    def describe(self) -> str:
        """Return the model as mathematics, with sizes."""
        title = f"{self.name or 'problem'}: {self.size} entries, shape {self.shape}"
        lines = [title, f"  minimise    {self.loss.describe()}", f"  subject to  {self.structure.describe()}"]
        if self.on is not None and self.off is not None:
            lines.append(f"              {int(self.on.sum())} entries fixed on, {int(self.off.sum())} fixed off")
        return "\n".join(lines)
