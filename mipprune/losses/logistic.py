"""The logistic loss with a ridge: binary classification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import accurate_sum, as_tensor, exact, gamma
from ..core.loss import Loss
from ..core.separable import Separable
from ..errors import CertificateError, InvalidProblem
from ..kernels import diagonal_split
from .designs.sizes import check_sizes

__all__ = ["Logistic"]

_NEWTON = 100  # steps at most; about 6 are usual


@dataclass(frozen=True, eq=False)
class Logistic(Loss):
    r"""The loss :math:`F(b) = \sum_i \omega_i \log(1 + e^{-s_i(x_i^\top b + o_i)}) + \tfrac12\sum_j r_j b_j^2`.

    Parameters
    ----------
    design : Tensor, shape (n, p)
        X.
    labels : Tensor, shape (n,)
        s, -1 or 1; 0/1 and booleans are taken as -1/1.
    ridge : float or Tensor, shape (p,)
        r >= 0; note the 1/2. With r = 0 separable data have no minimiser.
    weights : Tensor, shape (n,), optional
        :math:`\omega \ge 0`, default 1.
    offset : Tensor, shape (n,) or float, optional
        o, a fixed part of the log-odds, for instance those of the whole sample; default 0.

    Notes
    -----
    With the conjugate of the logistic function, for any :math:`0\le\pi\le 1` and :math:`g_i = -s_i\omega_i\pi_i`,

    .. math:: F(b) \ge \sum_i \bigl(g_i o_i - \omega_i[\pi_i\log\pi_i + (1-\pi_i)\log(1-\pi_i)]\bigr)
              + \langle X^\top g, b\rangle + \tfrac12\langle r, b^2\rangle .

    A tangent at v takes :math:`\pi` = the probabilities of error at v; since any :math:`\pi` will do, only the sums
    round. The second derivative is at most :math:`\omega_i/4`, which gives the majorant. Derived here; as a function of
    the selection it is the bound of ridge regression with the residual replaced by -g (arXiv 2506.08030, supplement).

    Examples
    --------
    >>> loss = Logistic(torch.eye(2), torch.tensor([0, 1]), ridge=1.0)
    >>> round(loss.value(torch.zeros(2)), 6)
    1.386294
    """

    atoms = frozenset({"logistic"})
    design: Tensor
    labels: Tensor
    ridge: float | Tensor = 0.0
    weights: Tensor | None = None
    offset: float | Tensor | None = None

    def __post_init__(self) -> None:
        design = as_tensor(self.design, "design", ndim=2)
        n, p = design.shape
        labels = as_tensor(self.labels, "labels", shape=(n,)).to(design)
        if bool((labels.abs() != 1).any()):
            if bool(((labels != 0) & (labels != 1)).any()):
                raise InvalidProblem("labels hold values other than -1 and 1 (or 0 and 1); encode two classes so")
            labels = 2.0 * labels - 1.0
        ridge = as_tensor(self.ridge, "ridge")
        if ridge.numel() != 1 and tuple(ridge.shape) != (p,):
            raise InvalidProblem(f"ridge has shape {tuple(ridge.shape)}; give one number or one per column ({p})")
        weights = torch.ones(n) if self.weights is None else as_tensor(self.weights, "weights", shape=(n,))
        if bool((ridge < 0).any()) or bool((weights < 0).any()):
            raise InvalidProblem("ridge and weights must be >= 0")
        offset = as_tensor(0.0 if self.offset is None else self.offset, "offset")
        if offset.numel() != 1 and tuple(offset.shape) != (n,):
            raise InvalidProblem(f"offset has shape {tuple(offset.shape)}; give one number or one per sample ({n})")
        object.__setattr__(self, "design", design)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "ridge", ridge.to(design).expand(p).clone())
        object.__setattr__(self, "weights", weights.to(design))
        object.__setattr__(self, "offset", offset.to(design).expand(n).clone())
        check_sizes(design, labels, ridge)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``b``: (p,)."""
        return (self.design.shape[1],)

    def _double(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        assert isinstance(self.ridge, Tensor) and self.weights is not None and isinstance(self.offset, Tensor)
        parts = (self.design, self.labels, self.ridge, self.weights, self.offset)
        design, labels, ridge, weights, offset = (part.double() for part in parts)
        return design, labels, ridge, weights, offset

    @cached_property
    def scale(self) -> float:
        """Value at zero."""
        return max(self.value(torch.zeros(self.shape, dtype=torch.float64)), 1e-300)

    def value(self, w: Tensor) -> float:
        """See :meth:`Loss.value`."""
        design, labels, ridge, weights, offset = self._double()
        w = w.to(design)
        terms = weights * torch.logaddexp(torch.zeros_like(labels), -labels * (design @ w + offset))
        return accurate_sum(terms)[0] + 0.5 * accurate_sum(ridge * w * w)[0]

    def rounding(self, w: Tensor) -> float:
        """See :meth:`Loss.rounding`."""
        design, _, ridge, weights, offset = self._double()
        n, p = design.shape
        w = w.to(design)
        reach = weights * (design.abs() @ w.abs() + offset.abs())  # a margin's error enters with a slope of at most 1
        terms = float((weights + reach).sum()) + 0.5 * float((ridge * w * w).sum())
        return gamma(2 * p + n + 24) * terms

    def gradient(self, w: Tensor) -> Tensor:
        """See :meth:`Loss.gradient`."""
        design, labels, ridge = self.design.to(w), self.labels.to(w), torch.as_tensor(self.ridge).to(w)
        weights, offset = torch.as_tensor(self.weights).to(w), torch.as_tensor(self.offset).to(w)
        pull = -labels * weights * torch.sigmoid(-labels * (design @ w + offset))
        return design.mT @ pull + ridge * w

    def best_split(self, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.best_split`: the ridge; the data term becomes flat far away."""
        return self._double()[2]

    def _as_split(self, split: Tensor | None) -> Tensor:
        ridge = self._double()[2]
        chosen = ridge if split is None else split.to(ridge).expand(self.shape)
        if bool((chosen < 0).any()) or not bool(torch.isfinite(chosen).all()):
            raise CertificateError("split: it has negative or non-finite entries")
        if bool((chosen > ridge).any()):
            raise CertificateError("split: it exceeds the ridge, and the logistic loss itself has no curvature to give")
        return chosen

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        """See :meth:`Loss.minorant`; ``split`` is at most the ridge."""
        design, labels, ridge, weights, offset = self._double()
        chosen, v = self._as_split(split), v.to(design)
        error_share = torch.sigmoid(-labels * (design @ v + offset)).clamp(0.0, 1.0)
        pull = -labels * weights * error_share
        entropy = weights * (
            torch.xlogy(error_share, error_share) + torch.special.xlog1py(1.0 - error_share, -error_share)
        )
        constant, slack = accurate_sum(pull * offset - entropy)
        size = weights * (1.0 + offset.abs()) + entropy.abs()
        # The share that belongs to ``pull`` is off by its rounding u; share |log(1 - share)| is at most 37 in float64.
        slack += gamma(64) * float(size.sum())
        linear = design.mT @ pull
        error = gamma(design.shape[0] + 2) * (design.abs().mT @ pull.abs())
        rest = ridge - chosen
        if bool((rest > 0).any()):
            bend, bend_error = accurate_sum(rest * v * v)
            constant -= 0.5 * bend
            slack += bend_error + gamma(4) * bend
            linear = linear + rest * v
            error = error + gamma(3) * (rest * v).abs()
        error = error + gamma(2) * linear.abs()
        constant -= 1.01 * slack + gamma(4) * abs(constant)
        return Separable(constant=constant, linear=linear, curvature=chosen, linear_error=1.01 * error)

    @cached_property
    def _norm(self) -> float:
        """Squared spectral norm of the weighted X with unit columns, from the smaller of the two Gram matrices."""
        design, _, _, weights, _ = self._double()
        rooted = design * (0.5 * weights.sqrt())[:, None]
        scaled = rooted * diagonal_split.inverse_root(rooted.square().sum(dim=0))
        small = scaled.mT @ scaled if scaled.shape[1] <= scaled.shape[0] else scaled @ scaled.mT
        return float(torch.linalg.eigvalsh(small)[-1])

    def majorant(self, v: Tensor) -> Separable:
        """See :meth:`Loss.majorant`."""
        design, _, ridge, weights, _ = self._double()
        v64 = v.to(design)
        columns = 0.25 * (weights[:, None] * design.square()).sum(dim=0)
        curvature = (1 + 1e-6) * self._norm * columns + ridge
        gradient = self.gradient(v64)
        constant = self.value(v64) - float((gradient * v64).sum()) + 0.5 * float((curvature * v64 * v64).sum())
        return Separable(constant=constant, linear=(gradient - curvature * v64).to(v), curvature=curvature.to(v))

    def resolvent(self, split: Tensor, strength: float) -> tuple[Tensor, Callable[[Tensor], Tensor]] | None:
        """See :meth:`Loss.resolvent`: Newton's method on the smaller of n and p unknowns."""
        design, _, ridge, weights, _ = self._double()
        metric = strength * (0.25 * (weights[:, None] * design.square()).sum(dim=0) + ridge)
        metric = torch.where(metric > 0, metric, 1.0)
        newton = _Newton(self, torch.arange(design.shape[1], device=design.device), metric + ridge - split.to(design))
        last: list[Tensor] = []

        def apply(anchor: Tensor) -> Tensor:
            begin = last[0] if last else anchor.to(design)
            last[:] = [newton.minimise(metric * anchor.to(design), begin)]
            return last[0].to(anchor)

        return metric.to(self.design), apply

    def minimise_on(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.minimise_on`; Newton's method with a line search."""
        design, _, ridge, _, _ = self._double()
        inside = mask.to(design.device).nonzero().ravel()
        out = torch.zeros(self.shape, dtype=torch.float64, device=design.device)
        if inside.numel():
            begin = torch.zeros_like(ridge[inside]) if start is None else start.to(out)[inside]
            out[inside] = _Newton(self, inside, ridge[inside]).minimise(torch.zeros_like(ridge[inside]), begin)
        return out.to(self.design).nan_to_num(0.0, 0.0, 0.0)  # a minimiser beyond all numbers

    def level_box(self, value: float) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Loss.level_box`, from the ridge."""
        ridge = self._double()[2]
        if not bool((ridge > 0).all()):
            return None
        radius = (2 * max(value, 0.0) / ridge).sqrt() * (1 + 1e-6)
        return -radius, radius

    def narrow(self, entries: Tensor) -> Logistic:
        """See :meth:`Loss.narrow`."""
        entries = entries.to(self.design.device)
        return replace(self, design=self.design[:, entries], ridge=torch.as_tensor(self.ridge)[entries])

    def expression(self, w: Any, split: Tensor | None, scale: float = 1.0) -> Any:
        """See :meth:`Loss.expression`; an exponential cone for each sample."""
        import cvxpy as cp

        design, labels, ridge, weights, offset = (exact(part).numpy() for part in self._double())
        used = np.zeros_like(ridge) if split is None else np.broadcast_to(exact(split).numpy(), ridge.shape)
        margins = -cp.multiply(labels, design @ w + offset)
        out = cp.sum(cp.multiply(weights / scale, cp.logistic(margins)))
        rest = np.maximum(ridge - used, 0.0) / scale
        return out + 0.5 * cp.sum(cp.multiply(rest, cp.square(w))) if rest.any() else out

    def describe(self) -> str:
        """See :meth:`Loss.describe`."""
        n, p = self.design.shape
        top = float(torch.as_tensor(self.ridge).max()) if p else 0.0
        return f"sum log(1 + exp(-s (X b + o))) + 1/2 <ridge, b^2>, X {n} x {p}, ridge up to {top:.4g}"


class _Newton:
    """Minimise the data term on some columns + 1/2 <base, b^2> - <pull, b>."""

    def __init__(self, loss: Logistic, inside: Tensor, base: Tensor) -> None:
        design, self.labels, _, self.weights, self.offset = loss._double()
        self.design, self.base = design[:, inside], base
        wide = self.design.shape[1] > self.design.shape[0] and bool((base > 0).all())
        kernel = (self.design / base) @ self.design.mT if wide else None
        self.kernel = None if kernel is None or not bool(torch.isfinite(kernel).all()) else kernel

    def objective(self, b: Tensor, pull: Tensor) -> float:
        """Return the value at ``b``."""
        margin = -self.labels * (self.design @ b + self.offset)
        data = (self.weights * torch.logaddexp(torch.zeros_like(margin), margin)).sum()
        return float(data + (0.5 * self.base * b * b - pull * b).sum())

    def _solve(self, bend: Tensor, slope: Tensor) -> Tensor:
        if self.kernel is not None:
            root = bend.sqrt()
            small = torch.eye(len(root)).to(root) + root[:, None] * self.kernel * root
            factor, info = torch.linalg.cholesky_ex(small)
            if int(info) == 0:  # else the ridge is next to nothing
                direct = slope / self.base
                inner = torch.cholesky_solve((root * (self.design @ direct))[:, None], factor)[:, 0]
                return direct - (self.design.mT @ (root * inner)) / self.base
        system = self.design.mT @ (bend[:, None] * self.design) + torch.diag(self.base)
        system.diagonal().add_(1e-14 * float(system.diagonal().max().clamp_min(1e-300)))
        factor, info = torch.linalg.cholesky_ex(system)
        if int(info) != 0:
            out: Tensor = torch.linalg.lstsq(system.cpu(), slope[:, None].cpu(), driver="gelsd").solution[:, 0]
            return out.to(slope)
        return torch.cholesky_solve(slope[:, None], factor)[:, 0]

    def minimise(self, pull: Tensor, start: Tensor) -> Tensor:
        """Return the minimiser, to the accuracy of float64 where there is one."""
        b = start.clone()
        value = self.objective(b, pull)
        if not np.isfinite(value):
            b = torch.zeros_like(b)
            value = self.objective(b, pull)
        for _ in range(_NEWTON):
            margin = -self.labels * (self.design @ b + self.offset)
            share = torch.sigmoid(margin)
            slope = self.design.mT @ (-self.labels * self.weights * share) + self.base * b - pull
            step = self._solve(self.weights * share * (1.0 - share), slope)
            decrement = float(slope @ step)
            if not decrement > 0:
                break
            size = 1.0
            while size > 1e-10:
                ahead = b - size * step
                there = self.objective(ahead, pull)
                if there <= value - 1e-4 * size * decrement or decrement <= 1e-12 * (1.0 + abs(value)):
                    break
                size *= 0.5
            else:
                break
            b, value = ahead, there
            if decrement <= 1e-22 * (1.0 + abs(value)):
                break
        return b
