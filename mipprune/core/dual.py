"""A loss seen from a few dual variables: the bound as a concave function, one quadratic piece for each mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from .separable import Separable

__all__ = ["Dual", "Piece"]


class Piece(NamedTuple):
    r"""The bound for one mask as a function of the dual vector.

    .. math:: q(u) = \text{constant} + \langle \text{linear}, u\rangle - \tfrac12 \langle u, \text{hessian}\, u\rangle

    It lies above the bound of the problem everywhere, and its maximum is the least value of the loss on the mask.
    """

    hessian: Tensor
    """float64 (n, n), positive definite"""
    linear: Tensor
    """float64 (n,)"""
    constant: float


class Dual(ABC):
    r"""A loss whose remainder :math:`F - \tfrac12\langle s, w^2\rangle` depends on n linear functions of w only.

    A tangent of the remainder is then given by n numbers u, however many entries w has, and the bound

    .. math:: B(u) = \min_{w \in S}\; m_u(w) = \min_{\text{masks } z}\; q_z(u)

    is the least of concave quadratics, one for each mask. Everything here is in working precision: it guides a search,
    and what the search finds is evaluated again as a tangent at :meth:`point`.
    """

    @abstractmethod
    def of(self, w: Tensor) -> Tensor:
        """Return the dual vector of the tangent at ``w``, float64 (n,)."""

    @abstractmethod
    def point(self, u: Tensor) -> Tensor:
        """Return a point of tangency, of the shape of the loss, whose dual vector is ``u`` (or its projection)."""

    @abstractmethod
    def model(self, u: Tensor) -> Separable:
        """Return the separable minorant with dual vector ``u``."""

    @abstractmethod
    def piece(self, mask: Tensor) -> Piece:
        """Return the bound for one mask (bool, the shape of the loss)."""
