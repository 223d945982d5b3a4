"""The quadratic loss of layer-wise compression, in the general form (H, G, c)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.arrays import UNIT_ROUNDOFF, accurate_sum, as_tensor, check_magnitude, exact, gamma, require_symmetric
from ..core.loss import Loss, open_entries
from ..core.rational import RationalModel, is_positive_semidefinite, rational, total
from ..core.separable import Separable
from ..errors import CertificateError, InvalidProblem
from ..kernels import diagonal_split, masked_solve, schur

__all__ = ["Quadratic"]


@dataclass(frozen=True, eq=False)
class Quadratic(Loss):
    r"""A quadratic with one Gram matrix for all rows, or one for each row.

    Parameters
    ----------
    gram : Tensor, shape (in, in) or (out, in, in)
        H, symmetric positive definite (after damping).
    center : Tensor, shape (out, in)
        C, the unconstrained minimiser: the dense weights of a layer.
    offset : float
        Value at the center.
    ridge : float
        Multiple of the identity that the diagonal of H already contains (damping), >= 0. No formula of the loss uses
        it; methods whose published form scores with the undamped inputs subtract it.

    Notes
    -----
    With row vectors :math:`w_r`,

    .. math:: F(W) = \sum_r (w_r - c_r) H (w_r - c_r)^\top + \text{offset}
              = \langle W H, W\rangle - 2\langle G, W\rangle + c,\qquad G = CH .

    There is no 1/2 in front, so the Hessian is 2H and a split s stands for the diagonal D = s/2 of the literature. The
    center rather than G is stored because the difference form keeps full relative accuracy near the center.

    For any V and any D with :math:`R = H - D \succeq 0`, convexity of the R-part gives
    :math:`F(W) \ge \text{offset} + \langle P, \Delta\rangle - 2\langle P, V\rangle + \langle D, C^2\rangle + \langle
    2P - 2DC, W\rangle + \langle D, W^2\rangle` with :math:`\Delta = V - C`, :math:`P = \Delta R`.

    References
    ----------
    arXiv 2406.07831 (the layer-wise problem).

    Examples
    --------
    >>> loss = Quadratic(gram=torch.eye(2), center=torch.tensor([[1.0, 2.0]]))
    >>> loss.value(torch.tensor([[1.0, 0.0]]))
    4.0
    """

    gram: Tensor
    center: Tensor
    offset: float = 0.0
    ridge: float = 0.0

    def __post_init__(self) -> None:
        center = as_tensor(self.center, "center", ndim=2)
        gram = require_symmetric(as_tensor(self.gram, "gram"), "gram")
        rows, width = center.shape
        if tuple(gram.shape) not in ((width, width), (rows, width, width)):
            raise InvalidProblem(
                f"gram has shape {tuple(gram.shape)}; for weights of shape (out, in) = {(rows, width)} it must be "
                f"{(width, width)} or {(rows, width, width)}"
            )
        if bool((torch.diagonal(gram, dim1=-2, dim2=-1) < 0).any()):
            raise InvalidProblem("gram has negative diagonal entries, so it is not X'X of any data")
        object.__setattr__(self, "gram", gram)
        object.__setattr__(self, "center", center.to(device=gram.device, dtype=gram.dtype))
        if not self.ridge >= 0:
            raise InvalidProblem(f"ridge is {self.ridge}; it is the damping contained in gram, so it must be >= 0")
        object.__setattr__(self, "offset", float(self.offset))
        object.__setattr__(self, "ridge", float(self.ridge))
        if center.numel():
            trace = torch.diagonal(gram, dim1=-2, dim2=-1).double().sum(dim=-1).max()
            check_magnitude("trace(H) |center|^2", trace * self.center.double().square().sum())

    @classmethod
    def from_linear(
        cls, gram: Tensor, linear: Tensor, constant: float | None = None, *, ridge: float = 0.0
    ) -> Quadratic:
        """Build the loss from (H, G, c): ``<W H, W> - 2 <G, W> + c``.

        Parameters
        ----------
        gram : Tensor, shape (in, in)
            H, positive definite.
        linear : Tensor, shape (out, in)
            G.
        constant : float, optional
            c; by default the one that makes the minimum 0.
        ridge : float
            Damping contained in H.

        Raises
        ------
        InvalidProblem
            If H is not positive definite.
        """
        gram = require_symmetric(as_tensor(gram, "gram", ndim=2), "gram")
        linear = as_tensor(linear, "linear", ndim=2)
        factor, info = torch.linalg.cholesky_ex(gram.double())
        if int(info) != 0:
            raise InvalidProblem("gram is not positive definite; add damping (a multiple of the identity) first")
        center = torch.cholesky_solve(linear.double().mT, factor).mT
        offset = 0.0 if constant is None else constant - float((center * linear.double()).sum())
        return cls(gram, center, offset, ridge)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of W: (out, in)."""
        return tuple(self.center.shape)

    @cached_property
    def scale(self) -> float:
        """``tr(C H C') + |offset|``, the value of pruning everything away."""
        value = accurate_sum(self._times(self.center.double()) * self.center.double())[0]
        return max(value + abs(self.offset), 1e-300)

    @cached_property
    def diagonal(self) -> Tensor:
        """Diagonal of H, shape (in,) or (out, in)."""
        return torch.diagonal(self.gram, dim1=-2, dim2=-1)

    @cached_property
    def _curvature_range(self) -> tuple[Tensor, Tensor]:
        """Extreme eigenvalues of the unit-diagonal H (per Gram matrix), in float64."""
        gram = self.gram.double()
        inverse_root = diagonal_split.inverse_root(torch.diagonal(gram, dim1=-2, dim2=-1))
        values = torch.linalg.eigvalsh(inverse_root.unsqueeze(-1) * gram * inverse_root.unsqueeze(-2))
        return values[..., 0], values[..., -1]

    def _times(self, rows: Tensor) -> Tensor:
        """``rows @ H`` in the precision of ``rows``."""
        gram = self.gram.to(rows)
        return rows @ gram if gram.ndim == 2 else (rows.unsqueeze(1) @ gram).squeeze(1)

    def value(self, w: Tensor) -> float:
        """See :meth:`Loss.value`; never below the offset."""
        delta = w.double() - self.center.double()
        return self.offset + max(accurate_sum(self._times(delta) * delta)[0], 0.0)

    def rounding(self, w: Tensor) -> float:
        """See :meth:`Loss.rounding`."""
        delta = (w.double() - self.center.double()).abs()
        magnitude = accurate_sum(Quadratic(self.gram.abs(), self.center)._times(delta) * delta)[0]
        return gamma(2 * self.shape[1] + 8) * magnitude + gamma(2) * abs(self.offset)

    def gradient(self, w: Tensor) -> Tensor:
        """See :meth:`Loss.gradient`."""
        return 2.0 * self._times(w - self.center.to(w))

    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """See :meth:`Loss.value_and_gradient`: one product gives both."""
        delta = w - self.center.to(w)
        gradient = 2.0 * self._times(delta)
        return self.offset + 0.5 * float((gradient * delta).sum()), gradient

    def majorant(self, v: Tensor) -> Separable:
        """See :meth:`Loss.majorant`: the diagonal of H times the largest eigenvalue of the unit-diagonal H."""
        gradient = self.gradient(v)
        curvature = (2.0 * (1 + 1e-6) * self._curvature_range[1].unsqueeze(-1) * self.diagonal.double()).to(v)
        constant = (
            self.value(v)
            - float((gradient.double() * v.double()).sum())
            + 0.5 * float((curvature * v * v).double().sum())
        )
        return Separable(constant=constant, linear=gradient - curvature * v, curvature=curvature)

    def resolvent(self, split: Tensor, strength: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """See :meth:`Loss.resolvent`: one inverse for all rows that share H."""
        split = split.to(self.gram)
        metric = 2.0 * strength * self.diagonal
        metric = torch.where(metric > 0, metric, 1.0)  # entries that a conditioned loss ignores
        system = 2.0 * self.gram + torch.diag_embed(metric - split)
        inverse = torch.linalg.inv(system)
        constant = 2.0 * self._times(self.center)

        def apply(anchor: Tensor) -> Tensor:
            right = constant + metric * anchor
            out: Tensor = right @ inverse if inverse.ndim == 2 else (right.unsqueeze(1) @ inverse).squeeze(1)
            return out

        return metric.expand(self.shape), apply

    def best_split(self, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.best_split`.

        Without weights: the smallest eigenvalue of the unit-diagonal H, times the diagonal. With weights (shape (out,
        in), summed over the rows that share H): a low-rank solution of the Max-Cut type dual, repaired.
        """
        gram = self.gram.double()
        if weights is None:
            split = self._curvature_range[0].clamp_min(0).unsqueeze(-1) * self.diagonal.double()
        elif gram.ndim == 2:
            split = diagonal_split.maximise(gram, weights.double().reshape(-1, self.shape[1]).sum(dim=0))
        else:
            split = torch.stack([diagonal_split.maximise(h, c) for h, c in zip(gram, weights.double(), strict=True)])
        return 2.0 * diagonal_split.shrink_until_valid(gram, split)

    def _as_split(self, split: Tensor) -> Tensor:
        """The split in float64 with the shape (in,) or (out, in), entries checked; whether it is valid is not."""
        split = split.double()
        if bool((split < 0).any()) or not bool(torch.isfinite(split).all()):
            raise CertificateError("split: it has negative or non-finite entries")
        if split.ndim < 2 or split.shape[0] == 1:  # the same for every row
            return split.reshape(split.shape[-1:]).expand(self.shape[1:])
        return split.expand(self.shape)

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        """See :meth:`Loss.minorant`; ``split`` has shape (in,) or (out, in)."""
        half = 0.5 * self._as_split(self.best_split() if split is None else split)
        if not diagonal_split.is_valid(self.gram.double(), half, open_entries(v, allowed)):
            raise CertificateError(
                "split: H - Diag(split)/2 is not positive semidefinite, so the tangent proves nothing"
            )
        v, center = v.double(), self.center.double()
        delta = v - center
        slope = self._times(delta) - delta * half
        # Rounding: |P| is off by at most gamma_{in+3} (|Delta||H| + |Delta| D), and Delta itself by one rounding.
        size = Quadratic(self.gram.double().abs(), center)._times(delta.abs()) + delta.abs() * half
        error = gamma(self.shape[1] + 4) * size
        slope_terms = slope * (v + center)
        base, base_error = accurate_sum(half * center * center - slope_terms)
        base_error += accurate_sum(error * (v.abs() + center.abs()))[0]
        base_error += gamma(6) * accurate_sum(half * center * center + slope_terms.abs())[0]
        linear = 2.0 * (slope - half * center)
        linear_error = 2.0 * error + gamma(4) * 2.0 * (slope.abs() + half * center.abs())
        constant = self.offset + base
        constant -= 1.01 * base_error + gamma(4) * (abs(self.offset) + abs(base))
        return Separable(
            constant=constant,
            linear=linear,
            curvature=(2.0 * half).expand(self.shape),
            linear_error=1.01 * linear_error,
        )

    def rational_minorant(self, v: Tensor, split: Tensor | None, allowed: Tensor | None) -> RationalModel:
        """See :meth:`Loss.rational_minorant`."""
        rows, width = self.shape
        half = rational(self._as_split(self.best_split() if split is None else split).expand(self.shape)) / 2
        gram, center, point = rational(self.gram), rational(self.center), rational(v)
        inside = open_entries(v, allowed)
        inside = torch.ones(self.shape, dtype=torch.bool) if inside is None else inside.cpu()
        shared = gram.ndim == 2 and bool(inside.all()) and bool((half == half[:1]).all())
        constant = rational(torch.tensor(self.offset, dtype=torch.float64))[()]
        linear = rational(torch.zeros(self.shape))
        for row in range(rows):
            matrix = gram if gram.ndim == 2 else gram[row]
            rest = matrix.copy()
            rest[range(width), range(width)] -= half[row]
            chosen = inside[row].nonzero().ravel().tolist()
            if (row == 0 or not shared) and not is_positive_semidefinite(rest[[[i] for i in chosen], chosen]):
                raise CertificateError(
                    f"split: H - Diag(split)/2 is not positive semidefinite (row {row}, exact arithmetic)"
                )
            slope = (point[row] - center[row]) @ rest
            constant += total(half[row] * center[row] ** 2 - slope * (point[row] + center[row]))
            linear[row] = 2 * (slope - half[row] * center[row])
        return RationalModel(constant, linear, 2 * half)

    def minimise_on(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.minimise_on`; direct for small layers, conjugate gradients to 1e-10 for large ones."""
        return masked_solve.minimise(self.gram, self.center, mask, start)

    def start(self) -> Tensor:
        """Return the center."""
        return self.center

    @cached_property
    def _inverse_diagonal(self) -> Tensor | None:
        factor, info = torch.linalg.cholesky_ex(self.gram.double())
        if bool((info != 0).any()):
            return None
        return torch.diagonal(torch.cholesky_inverse(factor), dim1=-2, dim2=-1)

    def level_box(self, value: float) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Loss.level_box`: ``|w_i - c_i| <= sqrt((value - offset) (H^-1)_ii)``."""
        if self._inverse_diagonal is None:
            return None
        least, largest = self._curvature_range  # the inverse loses as many digits as the condition number has
        safety = 1e-6 + 4.0 * self.shape[1] * UNIT_ROUNDOFF * largest / least.clamp_min(1e-300)
        if bool((safety > 0.1).any()):
            return None
        radius = (max(value - self.offset, 0.0) * self._inverse_diagonal).sqrt() * (1 + safety.unsqueeze(-1))
        center = self.center.double()
        return center - radius, center + radius

    def condition(self, on: Tensor, off: Tensor, split: Tensor) -> tuple[Loss, Tensor]:
        """See :meth:`Loss.condition`: Schur complements, one for each row."""
        reduced = schur.eliminate(self.gram.double(), self.center.double(), on, off)
        free = ~(on | off)
        half = torch.where(free, 0.5 * split.double().expand(self.shape), 0.0)
        growth = diagonal_split.largest_factor(reduced.gram, half)
        tight = diagonal_split.shrink_until_valid(reduced.gram, half * growth.unsqueeze(-1))
        return Quadratic(reduced.gram, reduced.center, self.offset + reduced.offset), 2.0 * tight

    def lift(self, v: Tensor, split: Tensor, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Loss.lift`; kept entries get a tiny curvature, which costs nothing since their slope vanishes."""
        gram, center = self.gram.double(), self.center.double()
        point = schur.recover(gram, center, v.double(), on, off)
        tiny = 1e-9 * self.diagonal.double().expand(self.shape)
        free = ~(on | off)
        half = torch.where(free, 0.5 * split.expand(self.shape), torch.where(on, tiny, 0.0))
        return point, 2.0 * diagonal_split.shrink_until_valid(gram, half, ~off)

    def expression(self, w: Any, split: Tensor | None, scale: float = 1.0) -> Any:
        """See :meth:`Loss.expression`: one square, and so one small cone, for each entry of ``(W - C) L``."""
        import cvxpy as cp

        center, gram = exact(self.center), exact(self.gram)
        half = torch.zeros(self.shape, dtype=torch.float64) if split is None else 0.5 * exact(split).expand(self.shape)
        shared = gram.ndim == 2 and bool((half == half[:1]).all())
        if shared:
            root = diagonal_split.factor(gram - torch.diag(half[0])).mT.numpy() / scale**0.5
            squares = cp.sum(cp.square((w - center.numpy()) @ root))
        else:
            roots = diagonal_split.factor(gram - torch.diag_embed(half)).mT.numpy() / scale**0.5
            rows = [(w[r] - center[r].numpy()) @ roots[r] for r in range(self.shape[0])]
            squares = cp.sum([cp.sum(cp.square(row)) for row in rows])
        linear = -2.0 * (half * center).numpy() / scale
        constant = (float((half * center * center).sum()) + self.offset) / scale
        return squares + cp.sum(cp.multiply(linear, w)) + constant

    def linked(self, allowed: Tensor | None = None) -> Tensor | None:
        """See :meth:`Loss.linked`: rows are independent."""
        rows, width = self.center.shape
        return torch.arange(rows)[:, None].expand(rows, width)

    def part(self, entries: Tensor, *, first: bool) -> Quadratic:
        """See :meth:`Loss.part`: some of the rows."""
        rows = entries.any(dim=1)
        gram = self.gram if self.gram.ndim == 2 else self.gram[rows]
        return Quadratic(gram, self.center[rows], self.offset if first else 0.0, self.ridge)

    def describe(self) -> str:
        """See :meth:`Loss.describe`."""
        rows, width = self.shape
        text = f"tr((W - C) H (W - C)'), W {rows} x {width}, H {'one' if self.gram.ndim == 2 else 'per row'}"
        return text if self.offset == 0 else f"{text}, + {self.offset:.6g}"
