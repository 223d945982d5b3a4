"""Least squares with a ridge: sparse regression, rule selection, low-rank pruning quadratics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import LOST, accurate_sum, as_tensor, exact, gamma
from ..core.loss import Cells, Loss, Models, open_entries
from ..core.rational import RationalModel, is_positive_semidefinite, rational, total
from ..core.separable import Separable
from ..errors import CertificateError, InvalidProblem
from ..kernels import diagonal_split
from .designs import UNDERFLOW, DenseDesign, Design, Shifted, as_design
from .designs.refit import by_factors, by_products, is_wide
from .designs.sizes import check_sizes

__all__ = ["LeastSquares"]

_DENSE = 4096  # widest problem for which X'X may be formed when n >= p


@dataclass(frozen=True, eq=False)
class LeastSquares(Loss):
    r"""The loss :math:`F(b) = \tfrac12\|y - Xb\|^2 + \tfrac12\sum_j r_j b_j^2`.

    Parameters
    ----------
    design : Tensor, scipy sparse array, numpy.memmap or Design, shape (n, p)
        X; sparse, large and mapped data are used where they are, on the CPU: :mod:`mipprune.losses.designs`.
    response : Tensor, shape (n,)
        y.
    ridge : float or Tensor, shape (p,)
        r >= 0; note the 1/2.

    Notes
    -----
    With the residual :math:`\alpha = y - Xv` as dual vector, for any v,
    :math:`F(b) \ge \alpha^\top y - \tfrac12\|\alpha\|^2 - \langle X^\top\alpha, b\rangle + \tfrac12\langle r,
    b^2\rangle`. When n >= p, curvature of X'X can be added to the ridge. X'X is never formed when p > n.

    Examples
    --------
    >>> loss = LeastSquares(torch.eye(2), torch.tensor([3.0, 4.0]), ridge=1.0)
    >>> loss.value(torch.zeros(2))
    12.5
    """

    design: Tensor | Shifted
    response: Tensor
    ridge: float | Tensor = 0.0

    def __post_init__(self) -> None:
        held = as_design(self.design)  # in float64 from here on, which is what bounds are about
        design = as_tensor(self.design, "design", ndim=2) if held is None else held.to(torch.float64)
        response = as_tensor(self.response, "response", shape=(design.shape[0],))
        ridge = as_tensor(self.ridge, "ridge")
        if ridge.numel() != 1 and tuple(ridge.shape) != (design.shape[1],):
            raise InvalidProblem(
                f"ridge has shape {tuple(ridge.shape)}; give one number or one per column ({design.shape[1]})"
            )
        if bool((ridge < 0).any()):
            raise InvalidProblem("ridge has negative entries; it must be >= 0")
        object.__setattr__(self, "design", design)
        response = response.to(device=design.device, dtype=design.dtype)
        object.__setattr__(self, "response", response)
        object.__setattr__(self, "ridge", ridge.to(response).expand(design.shape[1]).clone())
        check_sizes(design, response, self._penalty)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``b``: (p,)."""
        return (self.design.shape[1],)

    @cached_property
    def matrix(self) -> Design:
        """X in the form in which it is held, with what bounds the rounding of its products."""
        return self.design if isinstance(self.design, Shifted) else DenseDesign(self.design)

    @property
    def dense(self) -> Tensor:
        """X as one tensor, for methods that need it so; see :meth:`Design.dense` for what is too large."""
        return self.matrix.dense()

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> LeastSquares:
        """See :meth:`Loss.to`; a design that is not a tensor stays where it is, as it is."""
        return self if isinstance(self.design, Shifted) else super().to(device=device, dtype=dtype)

    @property
    def too_large(self) -> str | None:
        """Why :attr:`dense` is refused, for methods that need it; ``None`` where it is not."""
        return self.design.too_large if isinstance(self.design, Shifted) else None

    @cached_property
    def scale(self) -> float:
        """``1/2 ||y||^2``, the value at zero."""
        return max(0.5 * float(self.response.double().square().sum()), 1e-300)

    @property
    def _penalty(self) -> Tensor:
        assert isinstance(self.ridge, Tensor)
        return self.ridge

    def value(self, w: Tensor) -> float:
        """See :meth:`Loss.value`."""
        w = w.double()
        residual = self.response.double() - self.matrix @ w
        return 0.5 * accurate_sum(residual.square())[0] + 0.5 * accurate_sum(self._penalty.double() * w * w)[0]

    def rounding(self, w: Tensor) -> float:
        """See :meth:`Loss.rounding`."""
        n, p = self.design.shape
        w = w.double().abs()
        size = self.response.double().abs() + self.matrix.terms(w)
        terms = 0.5 * float(size.square().sum()) + 0.5 * float((self._penalty.double() * w * w).sum())
        return gamma(2 * p + n + 24) * terms

    def gradient(self, w: Tensor) -> Tensor:
        """See :meth:`Loss.gradient`."""
        design = self.design if isinstance(self.design, Shifted) else self.design.to(w)
        return (design.mT @ (design @ w - self.response.to(w))).to(w) + self._penalty.to(w) * w

    @cached_property
    def _gram(self) -> Tensor | None:
        n, p = self.design.shape
        formed = 0 < p <= min(n, _DENSE)
        return self.matrix.gram() + torch.diag(self._penalty.double()) if formed else None

    @cached_property
    def _safe_gram(self) -> Tensor | None:
        """``fl(X'X) + ridge`` lowered on the diagonal by the rounding of the product, gamma_n |X_i||X_j| an entry."""
        if self._gram is None:
            return None
        n, p = self.design.shape
        return self._gram - torch.diag(gamma(n + 18) * p * (self.matrix.magnitude.square() + self._penalty.double()))

    @cached_property
    def _norm(self) -> float:
        """See :meth:`Design.norm`."""
        return self.matrix.norm()

    def majorant(self, v: Tensor) -> Separable:
        """See :meth:`Loss.majorant`."""
        gradient = self.gradient(v)
        curvature = ((1 + 1e-6) * self._norm * self.matrix.safe_squares + self._penalty.double()).to(v)
        constant = self.value(v) - float((gradient.double() * v.double()).sum())
        constant += 0.5 * float((curvature * v * v).double().sum())
        return Separable(constant=constant, linear=gradient - curvature * v, curvature=curvature)

    def resolvent(self, split: Tensor, strength: float) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        """See :meth:`Loss.resolvent`: a p x p inverse, or an n x n one (Woodbury) when p > n; ``None`` if too large."""
        design, matrix, penalty = self.design, self.matrix, self._penalty
        n, p = design.shape
        if isinstance(design, Shifted) and min(n, p) > _DENSE:
            return None
        metric = strength * (matrix.safe_squares.to(penalty) + penalty)
        metric = torch.where(metric > 0, metric, 1.0)
        base = metric + penalty - split.to(penalty)
        constant = design.mT @ self.response
        if p <= n:
            inverse = torch.linalg.inv_ex(matrix.gram().to(penalty) + torch.diag(base)).inverse
            return metric, lambda anchor: inverse @ (constant + metric * anchor)
        small = torch.linalg.inv_ex(torch.eye(n).to(penalty) + matrix.outer(1.0 / base.double()).to(penalty)).inverse

        def apply(anchor: Tensor) -> Tensor:
            right = (constant + metric * anchor) / base
            out: Tensor = right - (design.mT @ (small @ (design @ right))) / base
            return out

        return metric, apply

    def best_split(self, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.best_split`: the ridge, and when n >= p also curvature of X'X."""
        ridge = self._penalty.double()
        if self._safe_gram is None:
            return ridge
        diagonal = self._safe_gram.diagonal()
        if weights is None:
            root = diagonal_split.inverse_root(diagonal)
            split = torch.linalg.eigvalsh(root.unsqueeze(1) * self._safe_gram * root)[0].clamp_min(0) * diagonal
        else:
            split = diagonal_split.maximise(self._safe_gram, weights.double())
        split = diagonal_split.shrink_until_valid(self._safe_gram, split)
        target = diagonal.clamp_min(1e-300).reciprocal() if weights is None else weights.double()
        return split if float(target @ split) > float(target @ ridge) else ridge

    def _as_split(self, split: Tensor | None) -> Tensor:
        """The split (default: the best) in float64 with the shape (p,), entries checked; whether it is valid is not."""
        chosen = (self.best_split() if split is None else split).double().expand(self.shape)
        if bool((chosen < 0).any()) or not bool(torch.isfinite(chosen).all()):
            raise CertificateError("split: it has negative or non-finite entries")
        return chosen

    def _extra(self, split: Tensor | None, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """The verified split and its part beyond the ridge."""
        chosen = self._as_split(split)
        extra = chosen - self._penalty.double()
        if not bool((extra > 0).any()):
            return chosen, extra
        if self._safe_gram is None:
            raise CertificateError(
                "split: it exceeds the ridge, and with more columns than rows X'X has no curvature to give"
            )
        if not diagonal_split.is_valid(self._safe_gram, chosen, None if allowed is None else allowed.reshape(1, -1)):
            raise CertificateError("split: X'X + ridge - Diag(split) is not positive semidefinite")
        return chosen, extra

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        """See :meth:`Loss.minorant`; ``split`` has shape (p,)."""
        chosen, extra = self._extra(split, open_entries(v, allowed))
        p = self.design.shape[1]
        v, design, response = v.double(), self.matrix, self.response.double()
        fitted = design @ v
        # With the ridge alone any vector may serve as residual, so its rounding costs nothing. With curvature of X'X
        # the tangent is taken at v itself, and then the rounding of X v counts.
        residual = response - fitted
        slope = design.mT @ residual
        error = design.slope_error_at(residual)
        fit_error = gamma(p + 10) * (design.terms(v) + response.abs()) + p * LOST
        base, base_error = accurate_sum(residual * response)
        square, square_error = accurate_sum(residual * residual)
        constant = base - 0.5 * square
        slack = base_error + square_error + gamma(4) * (float((residual * response).abs().sum()) + square)
        split_off = bool((extra != 0).any())
        slack += LOST * sum(self.design.shape) * (split_off or bool((residual != 0).any()))  # underflow
        linear = -slope
        if split_off:
            # F >= 1/2||y||^2 - 1/2||Xv||^2 + 1/2<e, v^2> + <-X'(y - Xv) - e v, b> + 1/2<s, b^2>.
            bend, bend_error = accurate_sum(extra * v * v)
            constant += 0.5 * bend
            linear = linear - extra * v
            error = error + design.spread(fit_error) + gamma(3) * (extra * v).abs() + LOST * (extra != 0).double()
            norm = float(response.abs() @ fit_error) + 2 * float((fitted.abs() + fit_error) @ fit_error)
            slack += bend_error + norm + gamma(4) * float((extra * v * v).abs().sum()) + LOST * float(v.abs().sum())
        error = error + gamma(2) * linear.abs() + gamma(2) * self._penalty.double() * v.abs()
        constant -= 1.01 * slack + gamma(4) * abs(constant)
        return Separable(constant=constant, linear=linear, curvature=chosen, linear_error=1.01 * error)

    def own_split(self) -> Tensor:
        """See :meth:`Loss.own_split`: the ridge."""
        return self._penalty.double()

    def proves_split(self, split: Tensor, allowed: Tensor) -> bool:
        """See :meth:`Loss.proves_split`: X'X of the allowed columns alone, as long as there are not too many."""
        inside = allowed.nonzero().ravel()
        split, ridge = split.double()[inside], self._penalty.double()[inside]
        if not bool((split > ridge).any()):
            return True
        n, count = self.design.shape[0], len(inside)
        if count > _DENSE:
            return False
        part = self.matrix.narrowed(inside)
        gram = part.gram() + torch.diag(ridge - gamma(n + 20) * count * (part.magnitude.square() + ridge))
        return diagonal_split.is_valid(gram, split)

    def narrow(self, entries: Tensor) -> LeastSquares:
        """See :meth:`Loss.narrow`."""
        design = self.design.narrowed(entries) if isinstance(self.design, Shifted) else self.design[:, entries]
        return LeastSquares(design, self.response, self._penalty[entries])

    def tangents(self, points: Tensor, cells: Cells) -> Models:
        """See :meth:`Loss.tangents`: one product with X and one with X'; the rounding is bounded by norms."""
        n = self.design.shape[0]
        design, response = self.matrix, self.response.double()
        used = (points != 0).any(dim=0).nonzero().ravel()
        fitted = points[:, used] @ design[:, used].mT
        residual = response - fitted
        linear = -(residual @ design)
        size = residual.square().sum(dim=1).sqrt() * (1 + gamma(n + 8)) + UNDERFLOW
        base, square = (residual * response).sum(dim=1), residual.square().sum(dim=1)
        slack = gamma(n + 6) * ((residual * response).abs().sum(dim=1) + square)
        slack += LOST * sum(self.design.shape) * (residual != 0).any(dim=1).double()  # underflow
        constant = base - 0.5 * square
        error, curvature = design.slope_error(size), self._penalty.double().unsqueeze(0)
        if cells.splits is not None:
            # The tangent is taken at the point itself, so that the rounding of X v counts; see :meth:`minorant`.
            curvature = cells.splits
            extra = curvature - self._penalty.double()
            bend = extra * points * points
            size = points[:, used].abs() @ design.magnitude[used] + response.norm() + UNDERFLOW
            fit = 1.01 * gamma(len(used) + 10) * size + LOST * sum(self.design.shape)
            fitted_size = fitted.norm(dim=1) * (1 + gamma(n + 8)) + fit
            constant = constant + 0.5 * bend.sum(dim=1)
            slack = slack + gamma(points.shape[1] + 6) * bend.abs().sum(dim=1) + 2 * fitted_size * fit
            slack += LOST * (sum(self.design.shape) + points.abs().sum(dim=1))
            linear = linear - extra * points
            error = error + fit.unsqueeze(1) * design.magnitude + gamma(4) * (extra * points).abs()
            error = error + LOST * (extra != 0).double()
        error = 1.01 * (error + gamma(4) * (linear.abs() + self._penalty.double() * points.abs()))
        constant = constant - 1.01 * slack - gamma(4) * constant.abs()
        return Models(constant, linear, curvature, error)

    def rational_minorant(self, v: Tensor, split: Tensor | None, allowed: Tensor | None) -> RationalModel:
        """See :meth:`Loss.rational_minorant`; with the ridge alone the float64 residual serves as dual vector."""
        chosen = rational(self._as_split(split))
        ridge, design = rational(self._penalty), self.matrix.exact()
        response, point = rational(self.response), rational(v)
        extra = chosen - ridge
        if any(value > 0 for value in extra):
            gram = design.T @ design
            gram[range(len(extra)), range(len(extra))] -= extra
            covered = open_entries(v, allowed)
            inside = list(range(len(extra))) if covered is None else covered.nonzero().ravel().tolist()
            if not is_positive_semidefinite(gram[[[i] for i in inside], inside]):
                raise CertificateError(
                    "split: X'X + ridge - Diag(split) is not positive semidefinite (exact arithmetic)"
                )
        if not any(value != 0 for value in extra):
            residual = rational(self.response.double() - self.matrix @ v.double())
            constant = total(residual * response) - total(residual * residual) / 2
            return RationalModel(constant, -(residual @ design), chosen)
        fitted = design @ point
        residual = response - fitted
        constant = (total(response * response) - total(fitted * fitted) + total(extra * point * point)) / 2
        return RationalModel(constant, -(residual @ design) - extra * point, chosen)

    def minimise_on(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.minimise_on`; an n x n system when the support is larger than n (Woodbury)."""
        inside = mask.to(self.design.device).nonzero().ravel()
        out = torch.zeros(self.shape, dtype=torch.float64, device=self.design.device)
        if inside.numel() == 0:
            return out.to(self.response)
        ridge, response = self._penalty.double()[inside], self.response.double()
        if isinstance(self.design, Shifted) and is_wide(len(response), ridge):
            out[inside] = by_products(self.design.narrowed(inside), response, ridge)
        else:
            out[inside] = by_factors(self.matrix[:, inside], response, ridge)
        return out.to(self.response).nan_to_num(0.0, 0.0, 0.0)  # a minimiser beyond all numbers

    def start(self) -> Tensor:
        """Return the ridge solution on all columns."""
        return self.minimise_on(torch.ones(self.shape, dtype=torch.bool))

    def level_box(self, value: float) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Loss.level_box`, from the inverse of X'X + ridge or from the ridge alone."""
        ridge = self._penalty.double()
        if self._gram is not None:
            factor, info = torch.linalg.cholesky_ex(self._gram)
            if int(info) == 0:
                pull = (self.response.double() @ self.matrix).unsqueeze(1)
                center = torch.cholesky_solve(pull, factor).squeeze(1)
                least = self.value(center)
                inverse = torch.cholesky_inverse(factor).diagonal()
                radius = (2 * max(value - least, 0.0) * inverse).sqrt() * (1 + 1e-6) + 1e-9 * center.abs()
                return center - radius, center + radius
        if not bool((ridge > 0).all()):
            return None
        radius = (2 * max(value, 0.0) / ridge).sqrt() * (1 + 1e-6)
        return -radius, radius

    def expression(self, w: Any, split: Tensor | None, scale: float = 1.0) -> Any:
        """See :meth:`Loss.expression`."""
        import cvxpy as cp

        root = np.sqrt(scale)
        design, response = exact(self.dense).numpy() / root, exact(self.response).numpy() / root
        used = torch.zeros_like(self._penalty.double()) if split is None else exact(split).expand(self.shape)
        rest = exact(self._penalty) - used
        if bool((rest >= 0).all()):
            out = 0.5 * cp.sum(cp.square(response - design @ w))
            return out + 0.5 * cp.sum(cp.multiply(rest.numpy() / scale, cp.square(w))) if bool(rest.any()) else out
        assert self._gram is not None
        factor = diagonal_split.factor(exact(self._gram) - torch.diag(used)).numpy() / root
        linear = exact(self.response.double() @ self.matrix).numpy() / scale
        constant = 0.5 * float(self.response.double().square().sum()) / scale
        return 0.5 * cp.sum(cp.square(factor @ w)) - linear @ w + constant

    def linked(self, allowed: Tensor | None = None) -> Tensor | None:
        """See :meth:`Loss.linked`: columns that share a row, or a chain of rows, belong together."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        n, p = self.design.shape
        if n == 0 or p < 2 or (pattern := self.matrix.pattern()) is None:
            return None
        row, column = pattern
        edges = coo_matrix((np.ones(len(row), dtype=np.int8), (row, n + column)), shape=(n + p, n + p))
        return torch.from_numpy(connected_components(edges, directed=False)[1][n:].astype(np.int64))

    def part(self, entries: Tensor, *, first: bool) -> LeastSquares:
        """See :meth:`Loss.part`: some of the columns with the rows that they touch; the first with the empty rows."""
        rows = self.matrix.touched(entries)
        if first:
            rows = rows | ~self.matrix.touched(torch.ones_like(entries))
        return LeastSquares(self.matrix.block(rows, entries), self.response[rows], self._penalty[entries])

    def describe(self) -> str:
        """See :meth:`Loss.describe`."""
        n, p = self.design.shape
        held = f" ({words})" if (words := self.matrix.describe()) else ""
        most = max(self._penalty.tolist(), default=0.0)
        return f"1/2 ||y - X b||^2 + 1/2 <ridge, b^2>, X {n} x {p}{held}, ridge up to {most:.4g}"
