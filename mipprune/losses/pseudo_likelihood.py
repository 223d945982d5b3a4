"""The pseudo-likelihood of a Gaussian graphical model as a function of the off-diagonal entries of its precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.arrays import accurate_sum, as_tensor, exact, gamma, require_symmetric
from ..core.loss import Appraisal, Cells, Loss
from ..core.rational import RationalModel, is_positive_semidefinite, rational
from ..core.separable import Separable
from ..errors import CertificateError, InvalidProblem
from ..kernels import diagonal_split
from ..kernels.graph_appraisal import Penalties, Places, Shift, places_of, products_at
from ..kernels.graph_local import Inverse
from ..kernels.pairs import split_pairs
from .graph_cells import appraise_cells, proves_shift, rational_cell
from .graph_rational import exact_minorant

__all__ = ["PseudoLikelihood"]

_SWEEPS = 20_000
_TIGHT = 1e-13
_EXACT = 64  # nodes up to which semidefiniteness is decided in rational arithmetic


@dataclass(frozen=True, eq=False)
class PseudoLikelihood(Loss):
    r"""The negative log pseudo-likelihood of a Gaussian graphical model, with a ridge.

    Parameters
    ----------
    covariance : Tensor, shape (p, p)
        S, symmetric positive definite with a positive diagonal: X'X/n of centred data.
    ridge : float or Tensor, shape (p (p - 1)/2,)
        r >= 0; note that there is no 1/2.

    Notes
    -----
    .. math:: F(w) = \min_{\theta_{ii} > 0} \sum_i \Bigl[-\log\theta_{ii} +
              \frac{\theta_i^\top S\,\theta_i}{\theta_{ii}}\Bigr] + \sum_{i<j} r_{ij} w_{ij}^2

    ``w`` holds the off-diagonal entries :math:`\theta_{ij}`, i < j, row after row (``torch.triu_indices(p, p, 1)``);
    :math:`\theta_i` is column i of the symmetric matrix. The diagonal is minimised out in closed form,

    .. math:: \theta_{ii} = \frac{1 + \sqrt{1 + 4 S_{ii} q_i}}{2 S_{ii}},\qquad q_i = v_i^\top S v_i,

    with the off-diagonal column :math:`v_i`. The sum is jointly convex, hence so is F. Any vectors :math:`x_i` give

    .. math:: F(w) \ge \sum_i (1 + \log a_i) + \sum_{i<j} (c_{ij} w_{ij} + r_{ij} w_{ij}^2),\qquad
              a_i = S_{ii} - x_i^\top S x_i,\quad c_{ij} = 4 S_{ij} + 2 (S x_i)_j + 2 (S x_j)_i,

    and :math:`x_i = v_i/\theta_{ii}` gives the tangent. This is twice the negative log pseudo-likelihood per sample, up
    to constants.

    References
    ----------
    arXiv 2307.09366 (GraphL0BnB) for the problem and the bound at a relaxation's solution.

    Examples
    --------
    >>> import torch
    >>> loss = PseudoLikelihood(torch.eye(3, dtype=torch.float64))
    >>> loss.value(torch.zeros(3))
    3.0
    """

    atoms = frozenset({"log"})
    covariance: Tensor
    ridge: float | Tensor = 0.0

    def __post_init__(self) -> None:
        covariance = require_symmetric(as_tensor(self.covariance, "covariance", ndim=2), "covariance").contiguous()
        p = covariance.shape[0]
        if p < 2:
            raise InvalidProblem(f"covariance has shape {tuple(covariance.shape)}; a graph needs at least two nodes")
        diagonal = covariance.diagonal()
        if not bool((diagonal > 0).all()):
            raise InvalidProblem(
                f"covariance has {int((diagonal <= 0).sum())} diagonal entries that are not positive: a constant "
                "variable has no precision; leave it out"
            )
        ridge = as_tensor(self.ridge, "ridge")
        if ridge.numel() != 1 and tuple(ridge.shape) != (p * (p - 1) // 2,):
            raise InvalidProblem(
                f"ridge has shape {tuple(ridge.shape)}; give one number or one for each pair ({p * (p - 1) // 2})"
            )
        if bool((ridge < 0).any()):
            raise InvalidProblem("ridge has negative entries; it must be >= 0")
        object.__setattr__(self, "covariance", covariance)
        object.__setattr__(self, "ridge", ridge.to(covariance).reshape(-1))

    @property
    def nodes(self) -> int:
        """Number of variables p."""
        return int(self.covariance.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``w``: (p (p - 1)/2,)."""
        return (self.nodes * (self.nodes - 1) // 2,)

    @cached_property
    def scale(self) -> float:
        """``p + sum |log S_ii|``, the size of the terms at the empty graph."""
        return self.nodes + float(self.covariance.diagonal().double().log().abs().sum())

    # ------------------------------------------------------------------------------------------- views of the data

    @cached_property
    def matrix(self) -> np.ndarray[Any, Any]:
        """S as a float64 array on the CPU."""
        return np.ascontiguousarray(exact(self.covariance).numpy())

    @cached_property
    def largest(self) -> np.ndarray[Any, Any]:
        """Largest absolute entry of each row of S."""
        found: np.ndarray[Any, Any] = np.maximum(self.matrix.max(axis=1), -self.matrix.min(axis=1))
        return found

    @cached_property
    def frame(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """S of the graph with which curvature is proven, and where the nodes stand in it: here the graph itself."""
        return self.matrix, np.arange(self.nodes)

    @cached_property
    def inverse(self) -> Inverse | None:
        """The inverse of the frame's S with its accuracy; ``None`` where S is nearly singular."""
        return Inverse.of(self.frame[0])

    @property
    def _ridges(self) -> Tensor:
        assert isinstance(self.ridge, Tensor)
        return self.ridge

    def penalties(self, price: Any = 0.0, lower: Any = -np.inf, upper: Any = np.inf) -> Penalties:
        """Return price, ridge and box by pair; numbers, or tensors of shape (size,)."""

        def flat(values: Any) -> np.ndarray[Any, Any]:
            given = exact(torch.as_tensor(values, dtype=torch.float64))
            if given.numel() > 1 and not any(given.stride()):  # one number, repeated
                given = given.flatten()[:1]
            return np.ascontiguousarray(given.reshape(-1).numpy())

        return Penalties(flat(price), flat(self._ridges), flat(lower), flat(upper))

    @cached_property
    def is_convex(self) -> bool:
        """Whether S is positive semidefinite, proven by a shifted Cholesky factorisation."""
        return diagonal_split.is_valid(exact(self.covariance), torch.zeros(self.nodes, dtype=torch.float64))

    def _require_convex(self) -> None:
        if not self.is_convex:
            raise CertificateError(
                "covariance: S is not proven positive semidefinite, so that tangents of the loss prove nothing; "
                "raise its diagonal by about 1e-9 (formulations.graphical_model does)"
            )

    def _places(self, w: Tensor) -> tuple[Places, np.ndarray[Any, Any]]:
        """The support of w as a pattern, and the entries by place."""
        point = exact(w).numpy()
        flat = np.flatnonzero(point)
        places = places_of(flat, self.nodes, None, Shift.none(self.nodes), self.penalties())
        return places, point[flat][places.pair]

    def _columns(self, w: Tensor) -> tuple[Places, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """The support, its entries by place, and ``(S v_i)_j`` at each place (i, j)."""
        places, value = self._places(w)
        return places, value, products_at(self.matrix, places, value)

    def _squares(self, w: Tensor) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """``q_i`` and a bound on its rounding error."""
        places, value, product = self._columns(w)
        rows = np.repeat(np.arange(self.nodes), np.diff(places.indptr))
        degree = np.diff(places.indptr)
        squares = np.bincount(rows, value * product, self.nodes)
        norms = np.bincount(rows, np.abs(value), self.nodes)
        size = np.bincount(rows, np.abs(value) * self.largest[places.indices], self.nodes) * norms
        return np.maximum(squares, 0.0), gamma(2 * int(degree.max(initial=0)) + 8) * size

    def diagonal(self, w: Tensor) -> Tensor:
        """Return the diagonal of the precision matrix that goes with ``w``, float64, shape (p,)."""
        squares, own = self._squares(w)[0], self.matrix.diagonal()
        return torch.from_numpy((1.0 + np.sqrt(1.0 + 4.0 * own * squares)) / (2.0 * own))

    def precision(self, w: Tensor) -> Tensor:
        """Return the symmetric matrix with the off-diagonal entries ``w`` and the diagonal that goes with them.

        It need not be positive definite: the pseudo-likelihood does not ask for it.
        """
        out = torch.diag(self.diagonal(w))
        i, j = (part.to(out.device) for part in torch.triu_indices(self.nodes, self.nodes, 1))
        out[i, j] = exact(w)
        out[j, i] = exact(w)
        return out

    # -------------------------------------------------------------------------------------------- value and slopes

    def _linear_and_square(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """``4 S_ij w_ij`` and ``r w^2`` on the support of w."""
        point, ridge = exact(w).numpy(), exact(self._ridges).numpy()
        flat = np.flatnonzero(point)
        values, (i, j) = point[flat], split_pairs(flat, self.nodes)
        bent = (ridge[flat] if len(ridge) > 1 else ridge) * values * values
        return torch.from_numpy(4.0 * self.matrix[i, j] * values), torch.from_numpy(bent)

    def value(self, w: Tensor) -> float:
        """See :meth:`Loss.value`."""
        own, theta = torch.from_numpy(self.matrix.diagonal().copy()), self.diagonal(w)
        terms = 2.0 * own * theta - 1.0 - theta.log()
        return sum(accurate_sum(part)[0] for part in (terms, *self._linear_and_square(w)))

    def rounding(self, w: Tensor) -> float:
        """See :meth:`Loss.rounding`; the derivative of a row in ``q_i`` is ``1/theta_ii``."""
        theta, error = self.diagonal(w), torch.from_numpy(self._squares(w)[1])
        own = torch.from_numpy(self.matrix.diagonal().copy())
        terms = float((2.0 * own * theta + 1.0 + theta.log().abs()).sum())
        size = terms + sum(float(part.abs().sum()) for part in self._linear_and_square(w))
        return 1.01 * float((error / theta).sum()) + gamma(self.nodes + int((w != 0).sum()) + 16) * size

    def gradient(self, w: Tensor) -> Tensor:
        """See :meth:`Loss.gradient`; dense, on the device of ``w``."""
        matrix, p = self.covariance.to(w), self.nodes
        i, j = torch.triu_indices(p, p, 1, device=w.device)
        full = w.new_zeros(p, p)
        full[i, j] = w
        full = full + full.mT
        product = matrix @ full
        own = matrix.diagonal()
        theta = (1 + (1 + 4 * own * (full * product).sum(dim=0).clamp_min(0)).sqrt()) / (2 * own)
        slope = product / theta  # column i over theta_i
        return 4 * matrix[i, j] + 2 * (slope + slope.mT)[i, j] + 2 * self._ridges.to(w) * w

    def majorant(self, v: Tensor) -> Separable:
        r"""See :meth:`Loss.majorant`: F grows at most as fast in :math:`q_i` as at v, and S is at most its norm."""
        inverse = self.diagonal(v).reciprocal()
        i, j = torch.triu_indices(self.nodes, self.nodes, 1)
        curvature = 2 * (1 + 1e-6) * self._norm * (inverse[i] + inverse[j]) + 2 * exact(self._ridges)
        gradient, point = self.gradient(exact(v).to(self.covariance.device)).double().cpu(), exact(v)
        constant = self.value(v) - float(gradient @ point) + 0.5 * float((curvature * point * point).sum())
        model = Separable(constant=constant, linear=gradient - curvature * point, curvature=curvature)
        return replace(model, linear=model.linear.to(v), curvature=curvature.to(v))

    @cached_property
    def _norm(self) -> float:
        """An upper bound of the largest eigenvalue of S: exact for small matrices, the largest row sum for others."""
        if self.nodes <= 2048:
            return float(torch.linalg.eigvalsh(self.covariance.double())[-1])
        return float(self.covariance.double().abs().sum(dim=1).max())

    # ------------------------------------------------------------------------------------------------------ bounds

    def best_split(self, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.best_split`: the ridge; the data term has no curvature that holds everywhere."""
        return (2.0 * exact(self._ridges)).expand(self.shape)

    def _checked_split(self, split: Tensor | None) -> Tensor:
        chosen = self.best_split() if split is None else exact(split).expand(self.shape)
        if bool((chosen < 0).any()) or not bool(torch.isfinite(chosen).all()):
            raise CertificateError("split: it has negative or non-finite entries")
        if bool((chosen > 2.0 * exact(self._ridges)).any()):
            raise CertificateError("split: it exceeds the curvature of the ridge, and the data term has none to give")
        return chosen

    def minorant(self, v: Tensor, split: Tensor | None = None, allowed: Tensor | None = None) -> Separable:
        """See :meth:`Loss.minorant`."""
        chosen = self._checked_split(split)
        self._require_convex()
        v = exact(v)
        theta = self.diagonal(v).numpy()
        inverse = torch.from_numpy(1.0 / theta)  # these numbers define the vectors x_i; their rounding is irrelevant
        squares, square_error = (torch.from_numpy(part) for part in self._squares(v))
        own = torch.from_numpy(self.matrix.diagonal().copy())
        a = own - squares * inverse.square()
        a_error = 1.01 * square_error * inverse.square() + gamma(6) * (own + squares * inverse.square())
        low = a - a_error
        if not bool((low > 0).all()):
            raise CertificateError("point: rounding leaves no positive a_i; the point is too large for float64")
        logs = low.log()
        constant, error = accurate_sum(1.0 + logs)
        error += gamma(8) * float((1.0 + logs.abs()).sum())
        linear, linear_error = self._slopes(v, inverse)
        extra = 2.0 * exact(self._ridges) - chosen
        if bool((extra > 0).any()):
            bend, bend_error = accurate_sum(extra * v * v)
            constant, error = constant - 0.5 * bend, error + bend_error + gamma(6) * abs(bend)
            linear_error = linear_error + gamma(4) * (linear.abs() + (extra * v).abs())
            linear = linear + extra * v
        constant -= 1.01 * error + gamma(4) * abs(constant)
        return Separable(constant=constant, linear=linear, curvature=chosen, linear_error=linear_error)

    def _slopes(self, v: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """``c_ij`` of all pairs, and a bound on its rounding error."""
        from scipy import sparse

        places, value = self._places(v)
        p, degree = self.nodes, int(np.diff(places.indptr).max(initial=0))
        columns = sparse.csr_array((value, places.indices, places.indptr), shape=(p, p)) @ self.matrix
        matrix = torch.from_numpy(self.matrix)
        scaled = torch.from_numpy(columns) * inverse.unsqueeze(1)  # row i: (S v_i)' / theta_i
        norms = torch.from_numpy(np.bincount(np.repeat(np.arange(p), np.diff(places.indptr)), np.abs(value), p))
        reach, largest = norms * inverse, torch.from_numpy(self.largest)
        i, j = torch.triu_indices(p, p, 1)
        linear = 4.0 * matrix[i, j] + 2.0 * (scaled[i, j] + scaled[j, i])
        size = 4.0 * matrix[i, j].abs() + 2.0 * (reach[i] * largest[j] + reach[j] * largest[i])
        return linear, 1.01 * gamma(degree + 12) * size

    def rational_minorant(self, v: Tensor, split: Tensor | None, allowed: Tensor | None) -> RationalModel:
        """See :meth:`Loss.rational_minorant`; the only transcendental, a logarithm per row, is rounded outwards."""
        chosen = self._checked_split(split)
        matrix = rational(torch.from_numpy(self.matrix))
        if not (is_positive_semidefinite(matrix) if self.nodes <= _EXACT else self.is_convex):
            raise CertificateError("covariance: S is not positive semidefinite (exact arithmetic)")
        ridge = np.broadcast_to(rational(self._ridges), self.shape)
        return exact_minorant(matrix, ridge, rational(chosen), rational(exact(v)), self.diagonal(v).tolist())

    @property
    def split_size(self) -> int:
        """See :meth:`Loss.split_size`: ``D_ij = common_j + extra_ij``, p numbers and then p x p, by rows."""
        return self.nodes * (self.nodes + 1)

    def own_split(self) -> Tensor:
        """See :meth:`Loss.own_split`."""
        return self.best_split()

    def proves_split(self, split: Tensor, allowed: Tensor) -> bool:
        """See :meth:`Loss.proves_split`; curvature that row i of S hands to the penalty of (i, j)."""
        return proves_shift(self, split, allowed)

    def appraise(
        self, points: Tensor, cells: Cells, price: Tensor, lower: Tensor, upper: Tensor, *, parts: bool = True
    ) -> Appraisal:
        """See :meth:`Loss.appraise`; each diagonal entry is minimised over exactly, see ``kernels.graph_bound``."""
        self._require_convex()
        return appraise_cells(self, points, cells, price, lower, upper, parts)

    def rational_appraise(
        self, point: Tensor, cells: Cells, price: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Fraction, list[Fraction], list[Fraction]]:
        """See :meth:`Loss.rational_appraise`."""
        self._require_convex()
        return rational_cell(self, point, cells, price, lower, upper)

    # ------------------------------------------------------------------------------------------------------ points

    def minimise_on(self, mask: Tensor, start: Tensor | None = None) -> Tensor:
        """See :meth:`Loss.minimise_on`: coordinate descent to the accuracy of float64."""
        from ..kernels.graph_descent import descend

        flat = np.flatnonzero(mask.cpu().numpy())
        places = places_of(flat, self.nodes, None, Shift.none(self.nodes), self.penalties())
        first = np.zeros(len(flat)) if start is None else exact(start).numpy()[flat]
        value, theta = first[places.pair], 1.0 / self.matrix.diagonal()
        kept = np.ones(len(value), dtype=bool)
        descend(
            self.matrix, *places[:3], value, theta, places.shift, kept, *places.penalties, False, _TIGHT, _SWEEPS
        )  # fmt: skip
        out = np.zeros(self.shape)
        out[flat[places.pair]] = value
        return torch.from_numpy(out).to(self.covariance)

    def start(self) -> Tensor:
        """Return the minimiser without ridge where S can be inverted, else the empty graph."""
        factor, info = torch.linalg.cholesky_ex(self.covariance.double())
        if int(info) != 0 or float(factor.diagonal().min()) < 1e-4 * float(factor.diagonal().max()):
            return torch.zeros(self.shape, dtype=self.covariance.dtype, device=self.covariance.device)
        i, j = torch.triu_indices(self.nodes, self.nodes, 1)
        return torch.cholesky_inverse(factor)[i, j].to(self.covariance)

    def level_box(self, value: float) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Loss.level_box`: the ball in which the tangent at the minimiser stays below the value."""
        ridge = exact(self._ridges).expand(self.shape)
        if not bool((ridge > 0).all()):
            return None
        center = self.minimise_on(torch.ones(self.shape, dtype=torch.bool)) if self.nodes <= 64 else self.start()
        model = self.minorant(exact(center))
        middle = -0.5 * model.linear / ridge
        least = model.constant - float((ridge * middle * middle).sum())
        radius = (max(value - least, 0.0) / ridge).sqrt() * (1 + 1e-6) + 1e-9 * middle.abs()
        return middle - radius, middle + radius

    def expression(self, w: Any, split: Tensor | None, scale: float = 1.0) -> Any:
        """See :meth:`Loss.expression`; the diagonal is a further variable ``theta``."""
        from .graph_expression import pseudo_likelihood_expression

        used = torch.zeros(self.shape, dtype=torch.float64) if split is None else exact(split).expand(self.shape)
        rest = exact(self._ridges) - 0.5 * used
        return pseudo_likelihood_expression(w, self.matrix, rest.clamp_min(0.0).numpy(), scale)

    def describe(self) -> str:
        """See :meth:`Loss.describe`."""
        ridge = float(self._ridges.max())
        return f"sum_i [-log t_ii + t_i'S t_i / t_ii] + <ridge, w^2>, {self.nodes} nodes, ridge up to {ridge:.4g}"
