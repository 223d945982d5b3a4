"""The low-rank quadratic model of a network's loss around its weights: CHITA, FALCON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from ..core.arrays import LOST, accurate_sum, as_tensor, check_magnitude, exact, gamma
from ..core.dual import Dual
from ..core.loss import Loss
from ..core.rational import RationalModel, rational, total
from ..core.separable import Separable
from ..errors import CertificateError, InvalidProblem
from .low_rank_dual import LowRankDual

__all__ = ["LowRank"]

_BLOCK = 1 << 22  # entries of the gradients that are widened to float64 at a time


@dataclass(frozen=True, eq=False)
class LowRank(Loss):
    r"""The loss :math:`F(w) = \tfrac12\|X(w-c)\|^2 + \tfrac r2\|w-c\|^2 + \langle a, w-c\rangle`.

    Parameters
    ----------
    gradients : Tensor, shape (n, p)
        X, usually n per-sample gradients of p weights with n much smaller than p. Float32 ones stay float32 and are
        widened block by block, so that the memory is that of X; :math:`X^\top X` is never formed.
    center : Tensor, shape (p,)
        c, the dense weights.
    ridge : float
        r > 0; note the 1/2.
    slope : Tensor, shape (p,), optional
        a, the first-order term at c; default 0.

    Notes
    -----
    For any v, with :math:`u = X(v - c)` as dual vector, :math:`\tfrac12\|X(w-c)\|^2 \ge \langle u, X(w-c)\rangle -
    \tfrac12\|u\|^2` (derived here from Fenchel's inequality), so that the whole of F but the ridge is replaced by its
    tangent and the ridge is the split. X has fewer rows than columns: no diagonal beyond the ridge can be split off on
    average. A minorant is decided by the n numbers u, which is what :meth:`dual` exploits.

    On the support S the minimiser solves :math:`(X_S^\top X_S + rI)\,d_S = -X_S^\top X_{\bar S} d_{\bar S} - a_S` with
    :math:`d_{\bar S} = -c_{\bar S}`: a system of n or of :math:`|S|` unknowns, whichever is smaller (Woodbury).

    References
    ----------
    arXiv 2302.14623 (CHITA), section 3; arXiv 2403.07094 (FALCON).

    Examples
    --------
    >>> loss = LowRank(torch.tensor([[1.0, 1.0]]), torch.tensor([3.0, 1.0]), ridge=1.0)
    >>> loss.value(torch.zeros(2)), loss.value(torch.tensor([3.0, 1.0]))
    (13.0, 0.0)
    """

    gradients: Tensor
    center: Tensor
    ridge: float
    slope: Tensor | None = None

    def __post_init__(self) -> None:
        gradients = as_tensor(self.gradients, "gradients", ndim=2)
        width = gradients.shape[1]
        if gradients.numel() == 0:
            raise InvalidProblem(f"gradients have shape {tuple(gradients.shape)}; they need a row and a column")
        center = as_tensor(self.center, "center", shape=(width,)).to(gradients.device)
        ridge = float(as_tensor(self.ridge, "ridge", shape=()))
        if not ridge > 0:
            raise InvalidProblem(
                f"ridge is {ridge}; it must be > 0, for n gradients say nothing about most directions of p weights"
            )
        object.__setattr__(self, "gradients", gradients)
        object.__setattr__(self, "center", center)
        object.__setattr__(self, "ridge", ridge)
        if self.slope is not None:
            slope = as_tensor(self.slope, "slope", shape=(width,)).to(gradients.device)
            object.__setattr__(self, "slope", slope)
        # float32 gradients need no look: their squares are below 1e78
        size = float(torch.linalg.vector_norm(gradients)) if gradients.dtype == torch.float64 else 1e39
        length = float(torch.linalg.vector_norm(center.double()))
        check_magnitude("the sum of squares of the gradients", size * size)
        check_magnitude("the ridge", ridge)
        check_magnitude("the value at zero", max(size, ridge**0.5) * length * max(size, ridge**0.5) * length)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``w``: (p,)."""
        return (self.gradients.shape[1],)

    @cached_property
    def scale(self) -> float:
        """Size of the terms of the value at zero."""
        center = self._center
        fitted = self.times(center)
        parts = 0.5 * float(fitted.square().sum()) + 0.5 * float((self.ridge * center * center).sum())
        return max(parts + float((self._slope * center).abs().sum()), 1e-300)

    @property
    def _center(self) -> Tensor:
        return self.center.double()

    @property
    def _slope(self) -> Tensor:
        return torch.zeros_like(self._center) if self.slope is None else self.slope.double()

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The columns of X in float64, a few at a time."""
        count, width = self.gradients.shape
        size = max(1, _BLOCK // count)
        for first in range(0, width, size):
            part = slice(first, min(first + size, width))
            yield part, self.gradients[:, part].double()

    def times(self, d: Tensor) -> Tensor:
        """Return ``X d`` in float64, shape (n,), for ``d`` of shape (p,)."""
        d = d.double()
        out = torch.zeros(self.gradients.shape[0], dtype=torch.float64, device=self.gradients.device)
        for part, block in self._blocks():
            out += block @ d[part]
        return out

    def pull(self, u: Tensor) -> Tensor:
        """Return ``X' u`` in float64, shape (p,), for ``u`` of shape (n,)."""
        out = torch.empty(self.shape, dtype=torch.float64, device=self.gradients.device)
        for part, block in self._blocks():
            torch.mv(block.mT, u, out=out[part])
        return out

    def partly(self, entries: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``X_S X_S'`` (n, n) and ``X_S d`` (n,) in float64, for column numbers S and as many numbers d."""
        count = self.gradients.shape[0]
        gram = torch.zeros(count, count, dtype=torch.float64, device=self.gradients.device)
        image = torch.zeros(count, dtype=torch.float64, device=self.gradients.device)
        size = max(1, _BLOCK // count)
        for part, step in zip(entries.split(size), d.split(size), strict=True):
            block = self.gradients.index_select(1, part).double()
            gram.addmm_(block, block.mT)
            image.addmv_(block, step)
        return gram, image

    @cached_property
    def gram(self) -> Tensor:
        """``X X'`` in float64, shape (n, n)."""
        count = self.gradients.shape[0]
        out = torch.zeros(count, count, dtype=torch.float64, device=self.gradients.device)
        for _, block in self._blocks():
            out.addmm_(block, block.mT)
        return out

    @cached_property
    def diagonal(self) -> Tensor:
        """Diagonal of the Hessian ``X'X + r I``, float64 (p,)."""
        out = torch.empty(self.shape, dtype=torch.float64, device=self.gradients.device)
        for part, block in self._blocks():
            out[part] = block.square().sum(dim=0)
        return out.add_(self.ridge)

    def inverse_diagonal(self, mask: Tensor) -> Tensor:
        """Return the diagonal of the inverse of the Hessian on a support, float64 (p,); 0 where ``mask`` is not.

        By Woodbury ``(X_S'X_S + r I)^-1 = (I - X_S'(r I + X_S X_S')^-1 X_S)/r``: n^2 operations for each entry.
        """
        mask = mask.to(self.gradients.device)
        inside = mask.nonzero().ravel()
        gram, _ = self.partly(inside, torch.zeros(inside.numel(), dtype=torch.float64, device=inside.device))
        gram.diagonal().add_(self.ridge)
        factor = torch.linalg.cholesky(gram)
        out = torch.zeros(self.shape, dtype=torch.float64, device=mask.device)
        for part in inside.split(max(1, _BLOCK // self.gradients.shape[0])):
            block = self.gradients.index_select(1, part).double()
            # 1 - x'(rI + G)^-1 x is in (0, 1], and loses digits where the gradients dominate the ridge
            used = torch.linalg.solve_triangular(factor, block, upper=False).square().sum(dim=0)
            out[part] = (1.0 - used).clamp_min(1e-15) / self.ridge
        return out

    def value(self, w: Tensor) -> float:
        """See :meth:`Loss.value`."""
        d = w.double() - self._center
        # the square of a small step underflows where the ridge times it may not
        bend = 0.5 * accurate_sum(self.times(d).square())[0] + 0.5 * accurate_sum(self.ridge * d * d)[0]
        return bend if self.slope is None else bend + accurate_sum(self._slope * d)[0]

    def rounding(self, w: Tensor) -> float:
        """See :meth:`Loss.rounding`."""
        count, width = self.gradients.shape
        d = w.double() - self._center
        size = d.abs() + gamma(1) * (w.double().abs() + self._center.abs())  # the difference itself is rounded
        fitted = torch.zeros(2, count, dtype=torch.float64, device=d.device)
        for part, block in self._blocks():
            fitted[0] += block @ d[part]
            fitted[1] += block.abs() @ size[part]
        error = gamma(width + 4) * fitted[1]
        # |y^2 - fl(y)^2| <= 2 |y| e + e^2 for a computed y within e of the exact one
        bend = float(((fitted[0].abs() + error) * error).sum())
        rest = 0.5 * float((self.ridge * size * size).sum()) + float((self._slope.abs() * size).sum())
        square = 0.5 * float(fitted[0].square().sum())
        return 1.01 * bend + gamma(width + 8) * rest + gamma(count + 8) * square

    def gradient(self, w: Tensor) -> Tensor:
        """See :meth:`Loss.gradient`; products are accumulated in float64."""
        d = w.double() - self._center
        return (self.pull(self.times(d)) + self.ridge * d + self._slope).to(w)

    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """See :meth:`Loss.value_and_gradient`: two passes over X."""
        d = w.double() - self._center
        u = self.times(d)
        value = 0.5 * float(u.square().sum()) + 0.5 * float((self.ridge * d * d).sum())
        gradient = self.pull(u) + self.ridge * d + self._slope
        return value + float((self._slope * d).sum()), gradient.to(w)

    @cached_property
    def norm(self) -> float:
        """Squared spectral norm of X."""
        return float(torch.linalg.eigvalsh(self.gram)[-1])

    def majorant(self, v: Tensor) -> Separable:
        """See :meth:`Loss.majorant`: one curvature for all entries, the largest eigenvalue of the Hessian."""
        value, gradient = self.value_and_gradient(v.double())
        curvature = torch.full_like(gradient, (1.0 + 1e-6) * self.norm + self.ridge)
        v64 = v.double()
        constant = value - float((gradient * v64).sum()) + 0.5 * float((curvature * v64 * v64).sum())
        return Separable(constant=constant, linear=(gradient - curvature * v64).to(v), curvature=curvature.to(v))

    def best_split(self, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.best_split`: the ridge."""
        return torch.full(self.shape, self.ridge, dtype=torch.float64, device=self.gradients.device)

    def _as_split(self, split: Tensor | None) -> Tensor:
        chosen = self.best_split() if split is None else split.double().to(self.gradients.device).expand(self.shape)
        if not bool(((chosen >= 0) & (chosen <= self.ridge)).all()):
            raise CertificateError(
                f"split: an entry is not in [0, {self.ridge!r}]; beyond the ridge the low-rank Hessian has no "
                "curvature that could be split off"
            )
        return chosen

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        """See :meth:`Loss.minorant`; ``split`` has shape (p,) and at most the ridge in each entry."""
        chosen = self._as_split(split)
        count = self.gradients.shape[0]
        center, slope, v = self._center, self._slope, v.double()
        u = self.times(v - center)  # any vector may serve as dual vector, so its rounding costs nothing
        linear, size = torch.empty_like(center), torch.empty_like(center)
        for part, block in self._blocks():
            linear[part] = block.mT @ u
            size[part] = block.abs().mT @ u.abs()
        return self._expanded(u, linear + slope, gamma(count + 3) * (size + slope.abs()) + count * LOST, chosen, v)

    def _expanded(self, u: Tensor, g: Tensor, g_error: Tensor, split: Tensor, v: Tensor) -> Separable:
        """Multiply out ``-|u|^2/2 + <g, w - c> + r |w - c|^2/2``, with g known up to an error.

        What the split leaves of the ridge is linear at v: with ``e = split - ridge <= 0`` it is
        ``-e w^2/2 >= -e v w + e v^2/2``.
        """
        center, width = self._center, self.shape[0]
        rest = split - self.ridge
        terms = 0.5 * self.ridge * center * center - g * center + 0.5 * rest * v * v
        total_terms, sum_error = accurate_sum(terms)
        square, square_error = accurate_sum(u * u)
        linear = g - self.ridge * center - rest * v
        error = g_error + gamma(6) * (g.abs() + self.ridge * center.abs() + (rest * v).abs())
        sizes = 0.5 * self.ridge * center * center + (g * center).abs() + 0.5 * (rest * v * v).abs()
        slack = sum_error + square_error + gamma(8) * (float(sizes.sum()) + square)
        slack += float((g_error * center.abs()).sum())
        slack += LOST * (width + u.numel())
        constant = total_terms - 0.5 * square
        constant -= 1.01 * (1.0 + gamma(width)) * slack + gamma(4) * abs(constant)
        return Separable(constant=constant, linear=linear, curvature=split, linear_error=1.01 * error)

    def rational_minorant(self, v: Tensor, split: Tensor | None, allowed: Tensor | None) -> RationalModel:
        """See :meth:`Loss.rational_minorant`; the float64 dual vector is taken as it is."""
        chosen = rational(self._as_split(split))
        u, center, point = rational(self.times(v.double() - self._center)), rational(self._center), rational(v)
        g = u @ rational(self.gradients) + rational(self._slope)
        ridge = rational(torch.tensor(self.ridge, dtype=torch.float64))[()]
        rest = chosen - ridge
        constant = total(ridge * center * center + rest * point * point) / 2 - total(g * center) - total(u * u) / 2
        return RationalModel(constant, g - ridge * center - rest * point, chosen)

    def minimise_on(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.minimise_on`; exact, through a system of n or of as many unknowns as are kept."""
        mask = mask.to(self.gradients.device)
        inside = mask.nonzero().ravel()
        d = torch.where(mask, 0.0, -self._center)
        rest, slope = self.times(d), self._slope[inside]
        if inside.numel() > self.gradients.shape[0]:
            gram, spread = self.partly(inside, slope)
            system = gram / self.ridge
            system.diagonal().add_(1.0)
            u = torch.linalg.solve_ex(system, rest - spread / self.ridge).result
            found = -(self.pull(u)[inside] + slope) / self.ridge
        else:
            columns = self.gradients.index_select(1, inside).double()
            system = columns.mT @ columns
            system.diagonal().add_(self.ridge)
            found = torch.linalg.solve_ex(system, -(columns.mT @ rest + slope)).result
        found = found.nan_to_num(0.0, 0.0, 0.0)  # next to no ridge leaves a singular system
        return (self._center + d).index_copy(0, inside, self._center[inside] + found)

    def start(self) -> Tensor:
        """Return the center."""
        return self.center

    def level_box(self, value: float) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Loss.level_box`: the Hessian is at least the ridge."""
        lowest = self._center if self.slope is None else self.minimise_on(torch.ones(self.shape, dtype=torch.bool))
        room = max(value - self.value(lowest), 0.0) + self.rounding(lowest)
        radius = (2.0 * room / self.ridge) ** 0.5 * (1.0 + 1e-6)
        return lowest - radius, lowest + radius

    def dual(self, split: Tensor) -> Dual | None:
        """See :meth:`Loss.dual`; for the whole ridge as split."""
        return LowRankDual(self) if bool((split == split.new_tensor(self.ridge)).all()) else None

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """See :meth:`Loss.to`; float32 gradients are not widened, since products widen them block by block."""
        wider = dtype is not None and torch.finfo(dtype).bits >= torch.finfo(self.gradients.dtype).bits
        slope = None if self.slope is None else self.slope.to(device=device, dtype=dtype)
        gradients = self.gradients.to(device=device, dtype=None if wider else dtype)
        return replace(self, gradients=gradients, center=self.center.to(device=device, dtype=dtype), slope=slope)

    def expression(self, w: Any, split: Tensor | None, scale: float = 1.0) -> Any:
        """See :meth:`Loss.expression`."""
        import cvxpy as cp

        center, used = exact(self._center), exact(self._as_split(split)) if split is not None else None
        rest = self.ridge - (torch.zeros_like(center) if used is None else used)
        design = exact(self.gradients).numpy() / scale**0.5
        linear = (exact(self._slope) - self.ridge * center).numpy() / scale
        constant = 0.5 * self.ridge * float((center * center).sum()) - float((exact(self._slope) * center).sum())
        out = 0.5 * cp.sum(cp.square(design @ w - design @ center.numpy())) + linear @ w + constant / scale
        return out + 0.5 * cp.sum(cp.multiply(rest.numpy() / scale, cp.square(w))) if bool(rest.any()) else out

    def describe(self) -> str:
        """See :meth:`Loss.describe`."""
        count, width = self.gradients.shape
        slope = "" if self.slope is None else " + <a, w - c>"
        return f"1/2 ||X (w - c)||^2 + {0.5 * self.ridge:.4g} ||w - c||^2{slope}, X {count} x {width}"
