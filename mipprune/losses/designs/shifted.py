"""Matrices that are centred and scaled without a copy: what sparse and stored columns have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ...core.arrays import UNIT_ROUNDOFF, gamma
from ...core.rational import ExactArray, rational
from ...errors import InvalidProblem, Unsupported
from ...kernels.diagonal_split import inverse_root
from .base import LARGEST, UNDERFLOW, Design

__all__ = ["Shifted"]

_BLOCK = 1 << 20  # entries of columns that are looked at together
_EIGEN = 4096  # largest matrix whose eigenvalues are computed
_TINY = 2.0**-1074


@dataclass(frozen=True, eq=False)
class Shifted(Design):
    r"""A matrix :math:`X = (B - 1 c^\top)\,\mathrm{Diag}(f)` of which only ``B``, ``c`` and ``f`` are held.

    Centring and scaling need no copy of B, and a centred sparse matrix stays sparse. X means these very numbers without
    any rounding: values, bounds and digests are about B, c and f as they are stored.

    Attributes
    ----------
    center, factor : float64 Tensor, shape (p,)
        c and f.

    Notes
    -----
    ``X @ v``, ``r @ X``, ``X.mT @ r`` and ``X[:, columns]`` work as for tensors; the results are tensors on the CPU,
    computed in float64. :attr:`slope_error` and :attr:`magnitude` bound their rounding: with the Euclidean norm of
    column j of B as :math:`\|B_j\|`, and n rows of which :math:`n_j` are stored in that column,

    .. math:: |\mathrm{fl}(X_j^\top r) - X_j^\top r| \le f_j\,(\gamma_{n_j+8} \|B_j\| + \gamma_{n+8} \sqrt n\,|c_j|)
              \,\|r\|,

    since both parts are inner products, whatever the order of their sums (derived here).
    """

    center: Tensor
    factor: Tensor

    coarse = False
    """Whether results are float32 (:meth:`to`)."""

    @property
    @abstractmethod
    def stored(self) -> Tensor:
        """int64 (p,): numbers that column j of B is made of."""

    @abstractmethod
    def _times(self, weights: Tensor) -> Tensor:
        """``B weights`` for weights (p, k)."""

    @abstractmethod
    def _against(self, vectors: Tensor) -> Tensor:
        """``vectors B`` for vectors (k, n)."""

    @abstractmethod
    def _raw(self, columns: Tensor) -> Tensor:
        """Columns of B, float64 (n, k)."""

    @abstractmethod
    def _narrowed(self, columns: Tensor) -> dict[str, Any]:
        """The other fields for some of the columns."""

    def narrowed(self, columns: Tensor) -> Self:
        """See :meth:`Design.narrowed`; what is known of the columns stays known."""
        out = object.__new__(type(self))
        sides = {"center": self.center[columns], "factor": self.factor[columns], "coarse": self.coarse}
        vars(out).update(sides, **self._narrowed(columns))
        if "_measures" in vars(self):
            vars(out)["_measures"] = tuple(part[columns] for part in self._measures)
        return out

    def moved(self, *, center: Tensor | None = None, factor: Tensor | None = None) -> Self:
        """Return the matrix with another center or factor on the same B."""
        out = object.__new__(type(self))
        fields = {name: value for name, value in vars(self).items() if name in self.__dataclass_fields__}
        vars(out).update(fields)
        if center is not None:
            vars(out)["center"] = center
        elif "_measures" in vars(self):
            vars(out)["_measures"] = self._measures
        if factor is not None:
            vars(out)["factor"] = factor
        out._check_sides(self.shape[1])
        return out

    @abstractmethod
    def _measured(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each column the sum, the norm, and the norm after the center was subtracted; without underflow."""

    def _check_sides(self, columns: int) -> None:
        for name in ("center", "factor"):
            side = getattr(self, name)
            if not isinstance(side, Tensor) or side.dtype != torch.float64 or tuple(side.shape) != (columns,):
                raise InvalidProblem(f"{name} must be a float64 tensor with one number for each of {columns} columns")
            if not bool(torch.isfinite(side).all()):
                raise InvalidProblem(f"{name} contains NaN or infinite values")
        if bool((self.factor < 0).any()):
            raise InvalidProblem("factor has negative entries; columns are scaled by numbers >= 0")

    # ------------------------------------------------------------------------------------------ as a tensor would be

    @property
    def dtype(self) -> torch.dtype:
        """Type of the results."""
        return torch.float32 if self.coarse else torch.float64

    @property
    def device(self) -> torch.device:
        """Where the data are: on the CPU."""
        return torch.device("cpu")

    def to(self, dtype: torch.dtype) -> Self:
        """Return the matrix with results in this type; float32 is for points, never for bounds."""
        if dtype == self.dtype:
            return self
        out = object.__new__(type(self))
        vars(out).update(vars(self), coarse=dtype == torch.float32)
        return out

    def __matmul__(self, weights: Tensor) -> Tensor:
        """Return ``X w`` for w of shape (p,) or (p, k), from the columns in use."""
        flat = weights.double().reshape(self.shape[1], math.prod(weights.shape[1:]))
        used = (flat != 0).any(dim=1).nonzero().ravel()
        scaled = self.factor[used].unsqueeze(1) * flat[used]
        part = (
            self._raw(used) @ scaled
            if len(used) * self.shape[0] <= LARGEST
            else self._times(torch.zeros_like(flat).index_copy_(0, used, scaled))
        )
        out: Tensor = (part - self.center[used] @ scaled).to(self.dtype)
        return out.reshape((self.shape[0], *weights.shape[1:]))

    def __rmatmul__(self, vectors: Tensor) -> Tensor:
        """Return ``r X`` for r of shape (n,) or (k, n)."""
        rows = vectors.double().reshape(math.prod(vectors.shape[:-1]), self.shape[0])
        out = self._against(rows)
        if bool(self.center.any()):
            out -= rows.sum(dim=1, keepdim=True) * self.center
        out *= self.factor
        return out.to(self.dtype).reshape((*vectors.shape[:-1], self.shape[1]))

    def __getitem__(self, place: tuple[slice, Tensor]) -> Tensor:
        """Return ``X[:, columns]`` as a dense matrix."""
        rows, columns = place
        if rows != slice(None):
            raise Unsupported("only whole columns can be taken out of a design")
        return ((self._raw(columns) - self.center[columns]) * self.factor[columns]).to(self.dtype)

    # -------------------------------------------------------------------------------------------------- sizes, rounding

    @cached_property
    def sums(self) -> Tensor:
        """Sums of the columns of B."""
        return self._measures[0]

    @cached_property
    def _measures(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._measured()

    @property
    def lengths(self) -> Tensor:
        """Norms of the columns of B - 1 c'."""
        return self._measures[2]

    @cached_property
    def squares(self) -> Tensor:
        """Squared norms of the columns of X."""
        return (self.lengths * self.factor).square()

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor]:
        """Norms of the columns of B and of 1 c', scaled, rounded up."""
        n = self.shape[0]
        up = 1 + gamma(n + 16)
        return up * self.factor * self._measures[1], up * math.sqrt(n) * self.factor * self.center.abs()

    @cached_property
    def magnitude(self) -> Tensor:
        """Upper bounds of the norms of the columns of X, with B and c counted apart."""
        empty = ((self._measures[1] == 0) & (self.center == 0)) | (self.factor == 0)  # products with zeros are exact
        lost = torch.where(empty, 0.0, UNDERFLOW * (1 + self.factor))
        return (self._parts[0] + self._parts[1]) * (1 + gamma(4)) + lost

    @cached_property
    def _relative(self) -> Tensor:
        count = (self.stored + 8).double() * UNIT_ROUNDOFF
        own = count / (1 - count)
        lost = 16 * _TINY * (self.magnitude > 0).double()  # the products here, too, may underflow
        return (1 + gamma(8)) * (own * self._parts[0] + gamma(self.shape[0] + 8) * self._parts[1]) + lost

    def slope_error(self, sizes: Tensor) -> Tensor:
        """Return bounds (k, p) of the rounding of ``r X`` for k vectors r of these norms (k,), rounded up.

        Products that underflow are counted too: a factor may be large.
        """
        tiny = (2 * self.shape[0] + 4) * _TINY * (1 + self.factor)
        return sizes.unsqueeze(-1) * self._relative + tiny

    def terms(self, weights: Tensor) -> Tensor:
        """Return (n,) sums of the absolute terms of ``X w``, which bound its rounding."""
        used = weights.nonzero().ravel()
        scaled = self.factor[used] * weights.double()[used].abs() + 2.0**-1020  # the product may have underflowed
        total = torch.zeros(self.shape[0], dtype=torch.float64)
        for some in torch.arange(len(used)).split(max(1, _BLOCK // max(self.shape[0], 1))):
            total += self._raw(used[some]).abs() @ scaled[some]
        return total + self.center[used].abs() @ scaled

    @property
    def too_large(self) -> str | None:
        """Why :meth:`dense` is refused; ``None`` where it is not."""
        n, p = self.shape
        if n * p <= LARGEST:
            return None
        return (
            f"X with shape {(n, p)} is {self.describe()} and would have to be made dense, which is done up to "
            f"{LARGEST} entries; use BranchAndBound, which needs no dense X, or screen columns first"
        )

    def dense(self) -> Tensor:
        """Return X as one float64 matrix.

        Raises
        ------
        Unsupported
            If it would have more than 2^25 entries (256 MiB).
        """
        if self.too_large is not None:
            raise Unsupported(self.too_large)
        return self[:, torch.arange(self.shape[1])].double()

    def exact(self) -> ExactArray:
        """Return X in exact numbers, for small matrices."""
        raw = rational(self._raw(torch.arange(self.shape[1])))
        return (raw - rational(self.center)) * rational(self.factor)

    def norm(self) -> float:
        """Return an upper bound of the largest eigenvalue of X'X with columns of length 1.

        From the smaller Gram matrix; where both are large, from the absolute entries: for any positive v,
        ``|A||A|'v <= t v`` proves it below t, and a few power steps find a good v (Collatz and Wielandt).
        """
        n, p = self.shape
        if min(n, p) <= _EIGEN:
            return super().norm()
        inverse = inverse_root(self.safe_squares)
        sizes = self._absolute()
        v, bound = torch.ones(n, dtype=torch.float64), math.inf
        for _ in range(20):
            back = inverse.square() * self.factor.square() * (sizes._against(v[None])[0] + v.sum() * self.center.abs())
            new = sizes._times(back[:, None])[:, 0] + self.center.abs() @ back
            bound = min(bound, float((new / v).max()))
            v = new.clamp_min(1e-6 * float(new.max()) + 1e-300)
        return bound

    @abstractmethod
    def _absolute(self) -> Shifted:
        """The same form with the absolute entries of B."""
