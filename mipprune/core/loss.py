"""The contract of a smooth convex loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from ..errors import CertificateError, Unsupported
from .dual import Dual
from .separable import Separable

if TYPE_CHECKING:
    from .rational import RationalModel

__all__ = ["Appraisal", "Cells", "Loss", "Models", "open_entries"]


class Cells(NamedTuple):
    """Parts of the search space, the nodes of a tree, B of them; what a loss may use in its minorants there."""

    on: Tensor
    """bool (B, size): entries that are kept"""
    off: Tensor
    """bool (B, size): entries that are zero"""
    splits: Tensor | None = None
    """(B, split_size): the split of each node's tangent, proven already; ``None`` means the loss's own curvature"""
    limits: Tensor | None = None
    """(B, m): proven upper bounds of quantities of the loss at each node, see :meth:`Loss.limits`"""


class Appraisal(NamedTuple):
    """Lower bounds of cells and of their parts, for losses that know better ones than a separable model gives."""

    bound: Tensor
    """(B,), rounding allowance subtracted"""
    if_on: Tensor
    """(B, size): of the part of the cell where a free entry is kept; at least ``bound``"""
    if_off: Tensor
    """(B, size): of the part where it is zero"""


class Models(NamedTuple):
    """Separable models, one for each node: ``constant + <linear, w> + 1/2 <curvature, w^2> <= F(w)`` in its cell."""

    constant: Tensor
    """(B,), rounding allowance subtracted"""
    linear: Tensor
    """(B, size)"""
    curvature: Tensor
    """broadcastable to (B, size), >= 0"""
    error: Tensor
    """broadcastable to (B, size): bound on the rounding error of ``linear``"""
    extra: Tensor | None = None
    """whatever :meth:`Loss.limit_gain` needs, one row for each node"""


def open_entries(v: Tensor, allowed: Tensor | None) -> Tensor | None:
    """Return where ``w - v`` may be non-zero for a ``w`` that vanishes outside ``allowed``; ``None`` for everywhere.

    A tangent at ``v`` lies below F only along such differences, so that is where a split has to be valid: ``allowed``
    alone would not do for a ``v`` that does not vanish outside it.
    """
    return None if allowed is None else allowed.to(v.device) | (v != 0)


class Loss(ABC):
    r"""A smooth convex function ``F`` of an array ``w``.

    Five methods must be written: :meth:`value`, :meth:`gradient`, :meth:`minorant`, :meth:`minimise_on` and, for the
    exact solvers, :meth:`expression`. The others have defaults that are valid for every convex loss and cost quality,
    not correctness.

    Attributes
    ----------
    shape : tuple of int
        Shape of ``w``.
    scale : float
        Magnitude of the terms that :meth:`value` adds up; tolerances are relative to it.

    Notes
    -----
    A *split* is a diagonal curvature :math:`s \ge 0` such that :math:`F - \tfrac12\langle s, w^2\rangle` is convex.
    It is what
    turns a tangent plane into a useful bound: the separable part is handed to the structure, where it meets the
    constraint, and the rest is replaced by its tangent. Every split that reaches :meth:`minorant` is verified there.
    """

    atoms: ClassVar[frozenset[str]] = frozenset()
    """Names of the atoms of :meth:`expression` beyond quadratics, such as ``"log"``: looked at where the expression
    itself would be too large to build for a mere question."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of ``w``."""

    @property
    @abstractmethod
    def scale(self) -> float:
        """Magnitude of the terms that ``value`` adds up, > 0."""

    @abstractmethod
    def value(self, w: Tensor) -> float:
        """Return ``F(w)``, accumulated in float64; ``+inf`` outside the domain."""

    @abstractmethod
    def gradient(self, w: Tensor) -> Tensor:
        """Return the gradient at ``w``, in the precision and on the device of ``w``; same shape."""

    @abstractmethod
    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        """Return a separable model that is <= F everywhere (for those w that vanish outside ``allowed``).

        Parameters
        ----------
        v : Tensor, shape ``shape``
            Any point; the better it solves the relaxation, the better the bound.
        split : Tensor broadcastable to ``shape``, optional
            Diagonal curvature, verified before use; default :meth:`best_split`.
        allowed : bool Tensor, shape ``shape``, optional
            Entries that may be non-zero; a split need only be valid on them and on the support of ``v``.

        Raises
        ------
        CertificateError
            If the split is not a valid one.
        """

    @abstractmethod
    def minimise_on(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the minimiser of F over the points that vanish outside ``mask`` (refit)."""

    @abstractmethod
    def expression(self, w: Any, split: Tensor | None, scale: float = 1.0) -> Any:
        """Return ``(F(w) - 1/2 <split, w^2>) / scale`` as a convex cvxpy expression of the cvxpy variable ``w``."""

    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """Return value and gradient together, in the precision of ``w``: for iterations, not for proofs."""
        return self.value(w), self.gradient(w)

    def rounding(self, w: Tensor) -> float:
        """Return a bound on the rounding error of ``value(w)``."""
        return 1e-12 * max(self.scale, abs(self.value(w)))

    def majorant(self, v: Tensor) -> Separable | None:
        """Return a separable model >= F everywhere and equal to F at ``v``, or ``None`` when none is known."""
        return None

    def resolvent(self, split: Tensor, strength: float) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        r"""Return a metric m and the proximal map of the remainder in it.

        The map is
        :math:`a \mapsto \arg\min_w F(w) - \tfrac12\langle s,w^2\rangle + \tfrac12\langle m,(w-a)^2\rangle`, and m is
        ``strength`` times the diagonal of the Hessian. ``None`` (the default) when there is no cheap way.
        """
        return None

    def dual(self, split: Tensor) -> Dual | None:
        """Return the view of the loss from few dual variables, where its remainder depends on few measurements of w.

        The bound is then maximised over those variables (a bundle method); ``None``, the default, leaves it to methods
        that work on w.
        """
        return None

    def best_split(self, weights: Tensor | None = None) -> Tensor | None:
        """Return a good valid split; with ``weights`` one that (nearly) maximises ``<weights, split>``.

        ``None`` means that only the zero split is known.
        """
        return None

    def start(self) -> Tensor:
        """Return a natural point to start from (the unconstrained minimiser where it is cheap)."""
        return torch.zeros(self.shape, dtype=torch.float64)

    def level_box(self, value: float) -> tuple[Tensor, Tensor] | None:
        """Return entrywise bounds (lower, upper) of the level set ``F(w) <= value``, or ``None`` if unknown."""
        return None

    def condition(self, on: Tensor, off: Tensor, split: Tensor) -> tuple[Loss, Tensor]:
        """Eliminate fixed entries: ``off`` ones are zero, ``on`` ones are minimised out.

        Returns
        -------
        loss : Loss
            A lower bound of F as a function of the free entries, of the same shape, that ignores the others (default: F
            itself). It serves to find a good tangent point; :meth:`lift` brings the point back.
        split : Tensor
            A valid split of it, not worse than ``split`` on the free entries.
        """
        return self, split

    def lift(self, v: Tensor, split: Tensor, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a point and split of the conditioned loss into those of this one."""
        return v.masked_fill(off, 0.0), split

    def linked(self, allowed: Tensor | None = None) -> Tensor | None:
        """Return labels such that F is a constant plus one function of the entries of each label, or ``None``.

        Parameters
        ----------
        allowed : bool Tensor, shape ``shape``, optional
            Entries that may be non-zero; F need only fall apart where the others are zero.

        Returns
        -------
        int64 Tensor, shape ``shape``, or None
            Entries with different labels never meet in one term. ``None`` (the default) when nothing is known to fall
            apart.
        """
        return None

    def part(self, entries: Tensor, *, first: bool) -> Loss:
        """Return the function of the entries of whole labels of :meth:`linked`, all others being zero.

        Parameters
        ----------
        entries : bool Tensor, shape ``shape``
        first : bool
            Whether this part carries the constant; exactly one does.
        """
        raise Unsupported(f"{type(self).__name__} does not fall apart")

    def rational_minorant(self, v: Tensor, split: Tensor | None, allowed: Tensor | None) -> RationalModel:
        """Return :meth:`minorant` in exact arithmetic, with the split verified exactly."""
        raise Unsupported(f"{type(self).__name__} has no rational evaluation; use check(..., exact=False)")

    @property
    def split_size(self) -> int:
        """Length of the row that describes a split in a :class:`Cells`; the number of entries unless a loss differs."""
        return math.prod(self.shape)

    def own_split(self) -> Tensor | None:
        """Return the split that needs no proof (a ridge), of the shape of ``w``; ``None`` when there is none."""
        return None

    def tangents(self, points: Tensor, cells: Cells) -> Models:
        """Return :meth:`minorant` at many points at once, entries flattened.

        Parameters
        ----------
        points : float64 Tensor, shape (B, size)
            Any; one with a split vanishes where that split's cell is off.
        cells : Cells
            Splits in it were proven by :meth:`proves_split` on a cell that contains the one here.
        """
        constants, linears, curvatures, errors = [], [], [], []
        for row, point in enumerate(points):
            split = self.own_split() if cells.splits is None else cells.splits[row].reshape(self.shape)
            model = self.minorant(point.reshape(self.shape), split, ~cells.off[row].reshape(self.shape))
            error = torch.zeros_like(model.linear) if model.linear_error is None else model.linear_error
            constants.append(model.constant)
            linears.append(model.linear.reshape(-1))
            curvatures.append(model.curvature.expand(self.shape).reshape(-1))
            errors.append(error.expand(self.shape).reshape(-1))
        if not constants:
            empty = torch.zeros((0, math.prod(self.shape)), dtype=torch.float64)
            return Models(torch.zeros(0, dtype=torch.float64), empty, empty, empty)
        constant = torch.tensor(constants, dtype=torch.float64)
        return Models(constant, torch.stack(linears), torch.stack(curvatures), torch.stack(errors))

    def appraise(
        self, points: Tensor, cells: Cells, price: Tensor, lower: Tensor, upper: Tensor, *, parts: bool = True
    ) -> Appraisal | None:
        """Return bounds of the loss plus price over cells, from a point for each; ``None``: use :meth:`tangents`.

        Parameters
        ----------
        points, cells
            As in :meth:`tangents`.
        price : float64 Tensor, shape (size,)
        lower, upper : float64 Tensor, shape (B, size)
            Intervals of kept entries.
        parts : bool
            Without it ``if_on`` and ``if_off`` may be empty, shape (B, 0).
        """
        return None

    def rational_appraise(
        self, point: Tensor, cells: Cells, price: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Fraction, list[Fraction], list[Fraction]] | None:
        """Return :meth:`appraise` for one cell (B = 1) in exact arithmetic: bound, if_on, if_off."""
        return None

    def proves_split(self, split: Tensor, allowed: Tensor) -> bool:
        """Tell whether a flat split is proven valid for points that vanish outside the flat mask ``allowed``."""
        try:
            zero = torch.zeros(self.shape, dtype=torch.float64)
            self.minorant(zero, split.reshape(self.shape), allowed.reshape(self.shape))
        except CertificateError:
            return False
        return True

    def narrow(self, entries: Tensor) -> Loss | None:
        """Return the loss as a function of some entries (flat int64, ascending), the others being zero.

        ``None`` (the default) when that saves nothing.
        """
        return None

    def limits(self) -> Tensor | None:
        """Return upper bounds (m,) of quantities of the minimiser that a tree can tighten on its way down, if any."""
        return None

    def limit_gain(self, models: Models, limits: Tensor) -> Tensor:
        """Return (B, m) lower bounds of what each model gains where its i-th quantity is above ``limits[:, i]``."""
        raise Unsupported(f"{type(self).__name__} has no quantities that a tree could limit")

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return the same loss with its tensors moved or converted."""
        from dataclasses import fields, is_dataclass, replace

        if not is_dataclass(self):
            return self
        moved = {
            field.name: getattr(self, field.name).to(device=device, dtype=dtype)
            for field in fields(self)
            if field.init
            and isinstance(getattr(self, field.name), Tensor)
            and getattr(self, field.name).is_floating_point()
        }
        if all(tensor is getattr(self, name) for name, tensor in moved.items()):
            return self  # with all that it has computed already
        return replace(self, **moved)

    def describe(self) -> str:
        """Return the loss as one line of mathematics."""
        return f"F(w), {type(self).__name__} of shape {self.shape}"
