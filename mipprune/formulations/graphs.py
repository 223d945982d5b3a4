"""Sparse Gaussian graphical models by pseudo-likelihood with a price for each edge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import as_tensor, check_magnitude, require_symmetric
from ..core.problem import Problem
from ..errors import InvalidProblem, SolverFailure
from ..losses.pseudo_likelihood import PseudoLikelihood
from ..structures.any_support import AnySupport

__all__ = ["covariance_of", "graphical_model", "likelihood_refit"]

_BLOCK = 4096  # rows of data that are multiplied at a time
_STRIP = 1024  # columns of data that are multiplied with those before them at a time
_UNIT = 2.0**-53
_SINGULAR = 1e-10  # share of a variance that neighbours must leave unexplained


def covariance_of(data: Any, *, standardize: bool = True) -> tuple[Tensor, Tensor]:
    """Return the covariance of centred data, accumulated in float64, and the standard deviations.

    Parameters
    ----------
    data : Tensor, shape (n, p)
        Rows are samples, n >= 2; no column may be constant.
    standardize : bool
        Return the correlation matrix instead.

    Returns
    -------
    covariance : float64 Tensor, shape (p, p)
    deviations : float64 Tensor, shape (p,)
        With ``n`` in the denominator.
    """
    data = as_tensor(data, "data", ndim=2)
    n, p = data.shape
    if n < 2 or p < 2:
        raise InvalidProblem(f"data have shape {(n, p)}; at least two samples of two variables are needed")
    mean = torch.stack([part.double().sum(dim=0) for part in data.split(_BLOCK)]).sum(dim=0) / n
    total = torch.zeros((p, p), dtype=torch.float64, device=data.device)
    for part in data.split(_BLOCK):
        centred = part.to(torch.float64, copy=True).sub_(mean)
        for first in range(0, p, _STRIP):  # the part on and below the diagonal
            last = min(first + _STRIP, p)
            total[first:last, :last].addmm_(centred[:, first:last].mT, centred[:, :last])
    total /= n
    for first in range(0, p, _STRIP):
        last = min(first + _STRIP, p)
        square = total[first:last, first:last]
        square.copy_(0.5 * (square + square.mT))
        total[:first, first:last] = total[first:last, :first].mT
    variances = total.diagonal().clone()
    size = mean.square() + variances
    flat = ~(variances > 64 * n * _UNIT * size)
    if bool(flat.any()):
        raise InvalidProblem(
            f"{int(flat.sum())} column(s) of the data are constant (the first is {int(flat.nonzero()[0])}): "
            "a constant variable has no precision; leave it out"
        )
    deviations = variances.sqrt()
    if standardize:
        _scale(total, deviations)
    return total, deviations


def _scale(covariance: Tensor, deviations: Tensor) -> None:
    """Turn a covariance matrix into the correlation matrix, in place; what is symmetric stays exactly so."""
    inverse = deviations.reciprocal()
    for row, factor in zip(covariance.split(_STRIP), inverse.split(_STRIP), strict=True):
        row *= factor.unsqueeze(1) * inverse
    covariance.diagonal().fill_(1.0)


def graphical_model(
    data: Any,
    *,
    l0: float | Any,
    l2: float | Any = 0.0,
    box: Any = None,
    standardize: bool = True,
    covariance: bool = False,
    name: str = "graphical model",
) -> Problem:
    r"""Learn a sparse precision matrix: the pseudo-likelihood with a price for each edge and a ridge.

    Parameters
    ----------
    data : Tensor, shape (n, p), or (p, p) with ``covariance=True``
        Samples by rows (centred here), or a covariance matrix S.
    l0 : float or Tensor, shape (p (p - 1)/2,)
        Price of an edge, > 0 to have any effect. Pairs are in the order of ``torch.triu_indices(p, p, 1)``.
    l2 : float or Tensor, shape (p (p - 1)/2,)
        Ridge on the off-diagonal entries, >= 0, without 1/2. With 0 a box is needed, and bounds rest on it and on the
        curvature of S alone: expect weak ones.
    box : float, Tensor, or pair of these, optional
        Off-diagonal entries lie in [-box, box] (or [lower, upper]); the diagonal is free. Certificates speak of the
        problem with this box. Default: none.
    standardize : bool
        Scale all variables to unit variance first; prices and ridge are not scale invariant.
    covariance : bool
        ``data`` is S itself.
    name : str
        For reports.

    Returns
    -------
    Problem
        Its points hold the off-diagonal entries; ``problem.loss.precision(w)`` is the whole matrix, with the diagonal
        that belongs to it. It need not be positive definite: see :func:`likelihood_refit`.

    Raises
    ------
    InvalidProblem
        On NaN, wrong shapes, constant variables, a covariance that is not symmetric or not positive semidefinite,
        negative prices, or neither ridge nor box.

    Notes
    -----
    .. math:: \min_{\Theta = \Theta^\top}\; \sum_i \Bigl[-\log\theta_{ii} + \frac{\theta_i^\top S\theta_i}{\theta_{ii}}
              \Bigr] + \sum_{i<j} \bigl(l_0 1[\theta_{ij} \ne 0] + l_2\theta_{ij}^2\bigr),\qquad |\theta_{ij}| \le M

    The diagonal is minimised out in closed form. Certificates need S to be proven positive semidefinite in floating
    point; where it is singular, as for n <= p, its diagonal is raised by a relative amount of about
    :math:`4 (p+2)^2 2^{-53}` (1e-9 for a thousand variables), and the problem is stated with that S.

    The value contains a constant of the order of p and may have any sign, so a relative gap says little. Ask for a gap
    in edges: ``Budget(gap=0.0, absolute_gap=0.001 * l0)``.

    References
    ----------
    arXiv 2307.09366 (GraphL0BnB).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> x[:, 1] += x[:, 0]
    >>> problem = mp.formulations.graphical_model(x, l0=0.1, l2=0.05)
    >>> solution = mp.solve(problem, budget=mp.Budget(gap=0.0, absolute_gap=1e-4))
    >>> solution.mask.nonzero().ravel().tolist(), solution.proof.value
    ([0], 'checked')
    """
    if covariance:
        matrix = require_symmetric(as_tensor(data, "covariance", ndim=2).double(), "covariance")
        diagonal = matrix.diagonal()
        if matrix.shape[0] < 2 or not bool((diagonal > 0).all()):
            raise InvalidProblem(
                f"covariance has shape {tuple(matrix.shape)} and smallest diagonal entry "
                f"{float(diagonal.min()) if diagonal.numel() else 0.0:g}; at least two positive variances are needed"
            )
        if standardize:
            matrix = matrix.clone()
            _scale(matrix, diagonal.sqrt())
        singular = False
    else:
        matrix, _ = covariance_of(data, standardize=standardize)
        singular = len(data) <= matrix.shape[0]
    for what, sizes in (
        ("the largest variance", matrix.diagonal()),
        ("1 / the smallest variance", 1.0 / matrix.diagonal()),
    ):
        check_magnitude(f"the square of {what}", sizes.max().square())
    ridge = as_tensor(l2, "l2").double()
    price = as_tensor(l0, "l0").double()
    size = matrix.shape[0] * (matrix.shape[0] - 1) // 2
    for values, label in ((ridge, "l2"), (price, "l0")):
        if values.numel() != 1 and tuple(values.shape) != (size,):
            raise InvalidProblem(f"{label} has shape {tuple(values.shape)}; give one number or one per pair ({size})")
        if bool((values < 0).any()):
            raise InvalidProblem(f"{label} has negative entries; it must be >= 0")
    if box is None and not bool((ridge > 0).all()):
        raise InvalidProblem(
            "without a ridge (l2 > 0) nothing bounds the entries, so no certificate could exist; give l2 or a box"
        )
    structure = Sparse(AnySupport(), _box(box, size), float(price) if price.numel() == 1 else price.reshape(-1))
    loss = _convex(matrix, float(ridge) if ridge.numel() == 1 else ridge.reshape(-1), singular)
    return Problem(loss, structure, name)


def _box(box: Any, size: int) -> Any:
    """Return the box as Sparse takes it; a tensor stands for a symmetric one."""
    if box is None:
        return None
    sides = box if isinstance(box, tuple) else (-as_tensor(box, "box"), as_tensor(box, "box"))
    lower, upper = (as_tensor(side, "box").double() for side in sides)
    for side in (lower, upper):
        if side.numel() != 1 and tuple(side.shape) != (size,):
            raise InvalidProblem(f"box has shape {tuple(side.shape)}; give one number or one per pair ({size})")
    if bool((lower > 0).any()) or bool((upper < 0).any()) or not bool((upper > lower).any()):
        raise InvalidProblem("the box must contain 0 and some more: an edge may always be absent")
    return tuple(float(side) if side.numel() == 1 else side.reshape(-1) for side in (lower, upper))


def _convex(matrix: Tensor, ridge: float | Tensor, singular: bool) -> PseudoLikelihood:
    """Return the loss, with the diagonal raised as far as the proof of convexity needs."""
    p = matrix.shape[0]
    rise = 4.0 * (p + 2) ** 2 * _UNIT
    for factor in (0.0, 1.0, 4.0, 16.0, 64.0):
        if factor == 0.0 and singular:
            continue
        raised = matrix
        if factor > 0.0:
            raised = matrix.clone()
            raised.diagonal().mul_(1.0 + factor * rise)
        loss = PseudoLikelihood(raised, ridge)
        if loss.is_convex:
            return loss
    least = float(torch.linalg.eigvalsh(matrix)[0]) if p <= 4096 else float("nan")
    raise InvalidProblem(
        f"covariance is not positive semidefinite (smallest eigenvalue {least:.3g}), so it is no covariance of any data"
    )


def likelihood_refit(covariance: Any, graph: Any, *, tolerance: float = 1e-10, sweeps: int = 10_000) -> Tensor:
    r"""Return the positive definite precision matrix of largest Gaussian likelihood on a given graph.

    Parameters
    ----------
    covariance : Tensor, shape (p, p)
        S, symmetric with a positive diagonal.
    graph : bool Tensor, shape (p, p) or (p (p - 1)/2,)
        Which off-diagonal entries may be non-zero, such as ``solution.mask``.
    tolerance : float
        Largest change of the fitted covariance in a sweep, relative to the largest variance, at which to stop.
    sweeps : int
        At most so many.

    Returns
    -------
    float64 Tensor, shape (p, p)
        Theta with ``Theta_ij = 0`` off the graph; its inverse equals S on the graph and on the diagonal.

    Raises
    ------
    InvalidProblem
        On wrong shapes or a graph that is not symmetric.
    SolverFailure
        When no maximiser exists: S is singular on some clique. Shrink S towards its diagonal then.

    Notes
    -----
    .. math:: \max_{\Theta \succ 0}\; \log\det\Theta - \mathrm{tr}(S\Theta)\quad\text{s.t. } \Theta_{ij} = 0
              \text{ off the graph}

    Covariance selection (Dempster, 1972), row by row: each column of the fitted covariance is a regression on the
    neighbours (Hastie, Tibshirani, Friedman, *The Elements of Statistical Learning*, algorithm 17.1).

    Examples
    --------
    >>> import torch
    >>> s = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> likelihood_refit(s, torch.tensor([True])).inverse().round(decimals=6)
    tensor([[2., 1.],
            [1., 2.]], dtype=torch.float64)
    """
    matrix = require_symmetric(as_tensor(covariance, "covariance", ndim=2).double().cpu(), "covariance")
    p = matrix.shape[0]
    mask = torch.as_tensor(graph).cpu() != 0
    if tuple(mask.shape) == (p * (p - 1) // 2,):
        flat, mask = mask, torch.zeros((p, p), dtype=torch.bool)
        i, j = torch.triu_indices(p, p, 1)
        mask[i, j] = mask[j, i] = flat
    if tuple(mask.shape) != (p, p) or not bool((mask == mask.mT).all()):
        raise InvalidProblem(
            f"graph has shape {tuple(mask.shape)}; a symmetric (p, p) mask or one of all pairs is needed"
        )
    if not bool((matrix.diagonal() > 0).all()):
        raise InvalidProblem("covariance has diagonal entries that are not positive")
    mask = mask & ~torch.eye(p, dtype=torch.bool)
    neighbours = [row.nonzero().ravel() for row in mask]
    # From S itself every step is an ascent among positive definite matrices that equal S on the graph.
    definite = int(torch.linalg.cholesky_ex(matrix)[1]) == 0
    fitted = matrix.clone() if definite else torch.diag(matrix.diagonal())
    alone = ~mask.any(dim=1)
    fitted[alone | alone.unsqueeze(1)] = 0.0
    fitted.diagonal().copy_(matrix.diagonal())
    slopes = torch.zeros((p, p), dtype=torch.float64)
    change = float("inf")
    scale = float(matrix.diagonal().max())
    for _ in range(sweeps):
        change = 0.0
        for node, near in enumerate(neighbours):
            if not len(near):
                continue
            system = fitted[near][:, near]
            factor, info = torch.linalg.cholesky_ex(system)
            if int(info) != 0:
                raise SolverFailure("the likelihood has no maximiser on this graph: S is singular on a clique")
            slopes[node, near] = torch.cholesky_solve(matrix[near, node].unsqueeze(1), factor).squeeze(1)
            column = fitted[:, near] @ slopes[node, near]
            column[node] = fitted[node, node]
            change = max(change, float((column - fitted[node]).abs().max()))
            fitted[node] = column
            fitted[:, node] = column
        if change <= tolerance * scale:
            break
    rest = matrix.diagonal() - (fitted * slopes).sum(dim=1)
    if bool((rest <= _SINGULAR * matrix.diagonal()).any()):
        raise SolverFailure("the likelihood has no maximiser on this graph: S is singular on a clique")
    diagonal = 1.0 / rest
    precision = -slopes * diagonal.unsqueeze(1)
    precision = 0.5 * (precision + precision.mT) + torch.diag(diagonal)
    if change > tolerance * scale or int(torch.linalg.cholesky_ex(precision)[1]) != 0 or not bool((diagonal > 0).all()):
        raise SolverFailure(
            "the likelihood does not settle on this graph: S is close to singular on some of its cliques; "
            "shrink S towards its diagonal"
        )
    return precision
