"""The contract of a structured set with its oracle, and of a family of supports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor

from ..errors import Unsupported
from .separable import Separable

if TYPE_CHECKING:
    from .rational import RationalModel

__all__ = ["Argmin", "Selection", "Structure", "Supports", "Witness"]

Witness = Tensor | None


class Selection(NamedTuple):
    """What a family of supports answers to gains: the best mask found and an upper bound of the best possible."""

    mask: Tensor
    """bool, the shape of the gains"""
    value: float
    """sum of the gains of the kept entries"""
    bound: float
    """>= the largest attainable sum; ``-inf`` when no mask is admissible"""
    witness: Witness = None
    """what proves ``bound`` when the selection is itself a relaxation (potentials, multipliers); ``None`` if exact"""


class Argmin(NamedTuple):
    """What a structure answers to a separable model: a point, its value, and a lower bound of the minimum."""

    point: Tensor
    value: float
    bound: float
    witness: Witness = None


class Supports(ABC):
    """A family of 0/1 masks: what a user adds to the package, in five methods.

    ``select``, ``select_bound``, ``violation``, ``constraints`` and ``restrict`` make a family work with exact solvers,
    thresholding, operator splitting, certificates and branch and bound. ``contains``, ``cover``, ``keep``,
    ``propagate`` and ``spread`` have defaults that are right for every family whose ``select`` is exact, at worst slow.
    """

    @abstractmethod
    def select(self, gain: Tensor) -> Selection:
        """Return the mask with the largest sum of gains.

        Parameters
        ----------
        gain : Tensor, the shape of the weights
            What keeping each entry is worth; may be negative or ``+inf``.
        """

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """Return an upper bound of the largest sum of gains, computed from the witness alone."""
        return self.select(gain).bound

    @abstractmethod
    def violation(self, mask: Tensor) -> int:
        """Return by how many entries or rows ``mask`` fails to fit into an admissible mask; 0 exactly when it fits."""

    @abstractmethod
    def constraints(self, z: Any) -> list[Any]:
        """Return the cvxpy constraints on the 0/1 variable ``z`` of the shape of the weights."""

    @abstractmethod
    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """Return the masks that keep every entry of ``on`` and none of ``off`` (bool, the shape of the weights)."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise :class:`InvalidProblem` when the family is not defined on arrays of this shape."""
        return None

    def contains(self, mask: Tensor) -> bool:
        """Tell whether ``mask`` itself is admissible: it fits, and nothing has to be added to it."""
        return self.violation(mask) == 0 and bool((self.cover(mask) == mask).all())

    def cover(self, mask: Tensor) -> Tensor:
        """Return the smallest admissible mask around ``mask``, which is what a price is charged for.

        The default asks :meth:`select` for the mask with the fewest other entries.
        """
        gain = torch.full_like(mask, -1.0, dtype=torch.float64).masked_fill(mask, mask.numel() + 1.0)
        return self.keep(gain) | mask

    def keep(self, gain: Tensor) -> Tensor:
        """Return only the mask of :meth:`select`, for iterations that need no value."""
        return self.select(gain).mask

    def keeper(self) -> Callable[[Tensor], Tensor]:
        """Return a function like :meth:`keep` for a run of similar gains, which may start each call from the last."""
        return self.keep

    def largest_count(self, size: int) -> int | None:
        """Return k when the family is all masks of ``size`` entries with at most k kept, else ``None``.

        Trees and verifiers then need no further call of the family.
        """
        return None

    def window(self) -> int | None:
        """Return after how many inputs the choice starts anew, or ``None`` when all inputs are coupled.

        Families with a window can be asked for the mask of so many consecutive inputs alone.
        """
        return None

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fixings together with those they imply."""
        return on, off

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> Tensor | None:
        r"""Spread the budget over fractional masks.

        Minimise :math:`\sum \text{weight}^2/(z + \text{offset}) + \text{price}\sum z` over the convex hull of the
        masks. It is the proximal step of the perspective relaxation; an approximate answer will do, since no bound
        rests on it. ``None`` (the default) lets the relaxation use :meth:`select` alone, which is slower.
        """
        return None

    def linked(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return labels such that a mask belongs to the family when its piece on every label does, or ``None``.

        int64, of the shape given; ``None`` (the default) when the entries of the family all depend on one another.
        """
        return None

    def part(self, entries: Tensor, shape: tuple[int, ...]) -> Supports:
        """Return the family of the pieces on ``entries`` (bool; whole labels of :meth:`linked`), in a new shape."""
        raise Unsupported(f"{type(self).__name__} does not fall apart")

    def describe(self) -> str:
        """Return the family as one line of mathematics."""
        return f"supp(w) in {type(self).__name__}"


class Structure(ABC):
    """A structured set ``S`` with its oracle, optionally with a price on the support."""

    @abstractmethod
    def argmin(self, model: Separable) -> Argmin:
        """Return a minimiser of a separable model (plus price) over S, with a lower bound of the minimum."""

    @abstractmethod
    def argmin_bound(self, model: Separable, witness: Witness) -> float:
        """Return a lower bound of the minimum, computed from the witness alone; ``+inf`` when S is empty."""

    @abstractmethod
    def violation(self, point: Tensor) -> float:
        """Return 0 exactly when ``point`` is in S."""

    @abstractmethod
    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """Return S with entries fixed to be kept (``on``) or zero (``off``)."""

    @abstractmethod
    def variable(self, shape: tuple[int, ...], *, relax: bool = False) -> Any:
        """Return the cvxpy variable that stands for a point of S."""

    @abstractmethod
    def model(
        self,
        w: Any,
        split: Tensor | None,
        *,
        strength: str = "perspective",
        bounds: tuple[Tensor, Tensor] | None = None,
        relax: bool = False,
        scale: float = 1.0,
    ) -> tuple[Any, list[Any]]:
        """Return the cvxpy cost ``(1/2 <split, w^2> + price)/scale`` and the constraints that place ``w`` in S."""

    def price(self, point: Tensor) -> float:
        """Return the price of the support of ``point``."""
        return 0.0

    def mask_of(self, point: Tensor) -> Tensor:
        """Return the support of ``point`` (bool)."""
        return point != 0

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise :class:`InvalidProblem` when S is not defined on arrays of this shape."""
        return None

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fixings together with those they imply."""
        return on, off

    def relaxed_step(self, center: Tensor, split: Tensor, metric: Tensor) -> tuple[Tensor, Tensor] | None:
        r"""Take one proximal step of the perspective relaxation.

        Minimise :math:`\tfrac12\langle\text{metric}, (w-\text{center})^2\rangle + \tfrac12\langle\text{split},
        w^2/z\rangle`
        plus price over w and z in the convex hull of the masks: one proximal step of the perspective relaxation.
        Returns (w, z), or ``None`` when S has no closed form for it.
        """
        return None

    def rational_bound(self, model: RationalModel, witness: Witness) -> Fraction:
        """Return :meth:`argmin_bound` for a model with exact coefficients."""
        raise Unsupported(f"{type(self).__name__} has no rational evaluation; use check(..., exact=False)")

    def linked(self, shape: tuple[int, ...]) -> Tensor | None:
        """Return labels such that a point is in S when its piece on every label is; see :meth:`Supports.linked`."""
        return None

    def part(self, entries: Tensor, shape: tuple[int, ...]) -> Structure:
        """Return the set of the pieces on ``entries`` (bool; whole labels of :meth:`linked`), in a new shape."""
        raise Unsupported(f"{type(self).__name__} does not fall apart")

    def describe(self) -> str:
        """Return S as one line of mathematics."""
        return f"w in {type(self).__name__}"
