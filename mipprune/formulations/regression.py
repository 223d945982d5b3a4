"""Sparse regression with a price for each column, or with at most k columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import as_tensor
from ..core.problem import Problem
from ..core.structure import Supports
from ..errors import InvalidProblem
from ..losses.designs import Shifted, as_design
from ..losses.least_squares import LeastSquares
from ..structures.any_support import AnySupport
from ..structures.cardinality import Cardinality

__all__ = ["RegressionData", "sparse_regression"]

_UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class RegressionData:
    """A design and a response, centred and scaled as a problem sees them, with the way back to the user's units.

    Attributes
    ----------
    design : Tensor, SparseDesign or StoredDesign, shape (n, p)
        Columns centred and of unit norm where that was asked for; a constant column is zero. Sparse data stay sparse,
        and dense data that are large or in a file mapped into memory are not copied: there centring and scaling are
        stored beside the data (:class:`~mipprune.losses.designs.SparseDesign`).
    response : Tensor, shape (n,)
    center : float64 Tensor, shape (p,)
        What was subtracted from each column.
    scale : float64 Tensor, shape (p,)
        What each column was divided by; 1 for a constant one.
    response_center, response_scale : float

    Examples
    --------
    >>> data = RegressionData.of([[1.0, 0.0], [2.0, 0.0], [3.0, 1.0]], [2.0, 4.0, 6.0])
    >>> coefficients, intercept = data.restore(torch.tensor([1.0, 0.0]))
    >>> [round(float(value), 12) for value in coefficients], round(intercept, 12)
    ([2.0, 0.0], 0.0)
    """

    design: Tensor | Shifted
    response: Tensor
    center: Tensor
    scale: Tensor
    response_center: float
    response_scale: float

    @classmethod
    def of(cls, X: Any, y: Any, *, fit_intercept: bool = True, standardize: bool = True) -> RegressionData:
        """Return the data of a regression problem.

        Parameters
        ----------
        X : array, numpy.memmap, or sparse array of scipy or torch, shape (n, p)
            Rows are samples. What is used without a dense float64 copy: :func:`~mipprune.losses.designs.as_design`.
        y : array, shape (n,)
        fit_intercept : bool
            Center X and y, so that the intercept is not penalised.
        standardize : bool
            Scale the columns and y to unit 2-norm, so that penalties mean the same for all columns and the value at
            zero is 1/2.

        Raises
        ------
        InvalidProblem
            On wrong shapes, no samples or columns, NaN or infinite entries.
        """
        held = as_design(X)
        if held is not None:
            return cls._held(held, y, fit_intercept=fit_intercept, standardize=standardize)
        design = as_tensor(X, "X", ndim=2)
        n, p = design.shape
        if n == 0 or p == 0:
            raise InvalidProblem(f"X has shape {(n, p)}; at least one sample and one column are needed")
        kind = design.dtype if design.dtype == torch.float32 else torch.float64
        response = as_tensor(y, "y", shape=(n,)).to(device=design.device, dtype=torch.float64)
        center = torch.zeros(p, dtype=torch.float64, device=design.device)
        scale = torch.ones_like(center)
        response_center, response_scale = 0.0, 1.0
        made = design.to(kind, copy=True)
        if fit_intercept:
            center = made.sum(dim=0, dtype=torch.float64) / n
            made -= center.to(kind)
            response_center = float(response.mean())
            response = response - response_center
        if standardize:
            norms = torch.linalg.vector_norm(made, dim=0, dtype=torch.float64)
            # What is left of a constant column after centring is rounding: of the mean, and of the type of the data.
            unit = _UNIT if kind == torch.float64 else 2.0**-24
            constant = norms <= 8 * unit * math.sqrt(n) * center.abs()
            scale = torch.where(constant | (norms == 0), torch.ones_like(norms), norms)
            made = torch.where(constant, torch.zeros((), dtype=kind, device=made.device), made / scale.to(kind))
            response_scale = float(response.norm()) or 1.0
            response = response / response_scale
        return cls(made, response.to(kind), center, scale, response_center, response_scale)

    @classmethod
    def _held(cls, design: Shifted, y: Any, *, fit_intercept: bool, standardize: bool) -> RegressionData:
        """The same for data that are used where they are."""
        n, p = design.shape
        if n == 0 or p == 0:
            raise InvalidProblem(f"X has shape {(n, p)}; at least one sample and one column are needed")
        response = as_tensor(y, "y", shape=(n,)).to(device="cpu", dtype=torch.float64)
        response_center, response_scale = 0.0, 1.0
        if fit_intercept:
            design = design.moved(center=design.sums / n)
            response_center = float(response.mean())
            response = response - response_center
        scale = torch.ones(p, dtype=torch.float64)
        if standardize:
            norms = design.lengths
            constant = norms <= 8 * _UNIT * math.sqrt(n) * design.center.abs()
            scale = torch.where(constant, 1.0, norms)
            design = design.moved(factor=torch.where(constant, 0.0, 1.0 / scale))
            response_scale = float(response.norm()) or 1.0
            response = response / response_scale
        return cls(design, response, design.center, scale, response_center, response_scale)

    def restore(self, point: Tensor) -> tuple[Tensor, float]:
        """Return coefficients (p,) and intercept in the units of the user's data.

        Parameters
        ----------
        point : Tensor, shape (p,)
            A point of the problem.
        """
        coefficients = point.detach().double().to(self.scale.device) * (self.response_scale / self.scale)
        return coefficients, self.response_center - float(coefficients @ self.center)

    def problem(
        self,
        *,
        l0: Any = None,
        l2: Any = 0.0,
        box: Any = None,
        k: int | None = None,
        name: str = "sparse regression",
    ) -> Problem:
        """Return the problem on these data; see :func:`sparse_regression`."""
        n, p = self.design.shape
        if (l0 is None) == (k is None):
            raise InvalidProblem("give either a price l0 for each column, or k, the number of columns at most")
        ridge = _per_column(l2, "l2", p)
        if ridge.ndim == 0 and float(ridge) == 0 and box is None and p > n:
            raise InvalidProblem(
                f"l2 = 0 without a box, for {p} columns and {n} samples: nothing bounds the coefficients, and no bound "
                "can be proven; give l2 > 0 or a box"
            )
        supports: Supports = AnySupport() if k is None else Cardinality(k)
        price = _per_column(0.0 if l0 is None else l0, "l0", p)
        structure = Sparse(supports, box=_box(box, p), price=float(price) if price.ndim == 0 else price)
        return Problem(LeastSquares(self.design, self.response, ridge=2.0 * ridge), structure, name)


def sparse_regression(
    X: Any,
    y: Any,
    *,
    l0: Any = None,
    l2: Any = 0.0,
    box: Any = None,
    k: int | None = None,
    fit_intercept: bool = True,
    standardize: bool = True,
    name: str = "sparse regression",
) -> Problem:
    r"""Fit a linear model with few columns.

    Parameters
    ----------
    X : array, numpy.memmap, or sparse array of scipy or torch, shape (n, p)
        Sparse data stay sparse, and dense data of more than 2^26 entries or in a file mapped into memory are used where
        they are and in their own type: the problem is about these very numbers, so leave them unchanged while it is in
        use.
    y : array, shape (n,)
    l0 : float or array (p,), optional
        Price of using a column, >= 0. Either this or ``k``.
    l2 : float or array (p,)
        Ridge, >= 0, without 1/2.
    box : float, array (p,), or pair of them, optional
        Bounds ``|b_j| <= box_j``, or (lower, upper), in the units of the standardised problem.
    k : int, optional
        Columns at most.
    fit_intercept, standardize : bool
        As in :meth:`RegressionData.of`; with both ``False`` the data are used as given.
    name : str
        For reports.

    Returns
    -------
    Problem
        Over the coefficients (p,) of the standardised data; :meth:`RegressionData.restore` turns them into those of the
        user's.

    Raises
    ------
    InvalidProblem
        On bad data; when neither or both of ``l0`` and ``k`` are given; when nothing bounds the coefficients.

    Notes
    -----
    .. math:: \min_b\; \tfrac12\|y - Xb\|^2 + \sum_{j:\,b_j \ne 0} \lambda_{0j} + \sum_j \lambda_{2j} b_j^2
              \quad\text{s.t. } |b_j| \le M_j \quad\text{or}\quad \|b\|_0 \le k

    References
    ----------
    arXiv 2004.06152 (L0BnB); arXiv 1803.01454 (L0Learn).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> X = torch.randn(60, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> problem = sparse_regression(X, X[:, 2] - X[:, 5], l0=0.01, l2=0.001)
    >>> solution = mp.solve(problem)
    >>> solution.mask.nonzero().flatten().tolist(), solution.status.value, solution.proof.value
    ([2, 5], 'optimal', 'checked')
    """
    data = RegressionData.of(X, y, fit_intercept=fit_intercept, standardize=standardize)
    return data.problem(l0=l0, l2=l2, box=box, k=k, name=name)


def _per_column(value: Any, name: str, p: int) -> Tensor:
    """A number, or one for each column, in float64; checked to be finite and >= 0."""
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.ndim > 0 and tuple(tensor.shape) != (p,):
        raise InvalidProblem(f"{name} has shape {tuple(tensor.shape)}; give one number or one per column ({p})")
    if not bool(torch.isfinite(tensor).all()) or bool((tensor < 0).any()):
        raise InvalidProblem(f"{name} has negative, infinite or missing entries; it must be >= 0")
    return tensor


def _box(box: Any, p: int) -> Any:
    """What :class:`Sparse` takes: a number, or a pair of bounds."""
    if box is None:
        return None
    if isinstance(box, tuple):
        if len(box) != 2:
            raise InvalidProblem(f"box has {len(box)} parts; give one bound, or a pair (lower, upper)")
        lower, upper = (torch.as_tensor(side, dtype=torch.float64) for side in box)
    else:
        upper = torch.as_tensor(box, dtype=torch.float64)
        lower = -upper
    for side in (lower, upper):
        if side.ndim > 0 and tuple(side.shape) != (p,):
            raise InvalidProblem(f"box has shape {tuple(side.shape)}; give one number or one per column ({p})")
    if bool(torch.isnan(lower).any() | torch.isnan(upper).any()) or bool((lower > 0).any() | (upper < 0).any()):
        raise InvalidProblem("box: the lower bound must be <= 0 and the upper bound >= 0, since a pruned column is 0")
    if not bool((upper > lower).all()):
        raise InvalidProblem("box: the upper bound must be above the lower bound")
    return lower, upper
