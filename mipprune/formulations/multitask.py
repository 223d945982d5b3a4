"""Sparse regression for several tasks that share their columns and their coefficients, as far as it pays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import as_tensor
from ..core.problem import Problem
from ..core.structure import Structure
from ..errors import InvalidProblem
from ..losses.least_squares import LeastSquares
from ..structures.groups import Groups
from ..structures.n_of_m import NofM
from ..structures.partition import check_count
from ..structures.shared import SharedSupports

__all__ = ["MultitaskData", "multitask_regression"]

_LARGEST = 200_000_000  # entries of the block-diagonal design


@dataclass(frozen=True, eq=False)
class MultitaskData:
    """The designs and responses of K tasks over the same p columns, centred as a problem sees them.

    Attributes
    ----------
    designs : tuple of float64 Tensor, shapes (n_k, p)
    responses : tuple of float64 Tensor, shapes (n_k,)
    centers : float64 Tensor, shape (K, p)
        What was subtracted from each column of each task.
    response_centers : float64 Tensor, shape (K,)

    Examples
    --------
    >>> data = MultitaskData.of([[[1.0], [3.0]], [[0.0], [2.0]]], [[3.0, 7.0], [0.0, 2.0]])
    >>> coefficients, intercepts = data.restore(torch.tensor([2.0, 1.0]))
    >>> coefficients.tolist(), intercepts.tolist()
    ([[2.0], [1.0]], [1.0, 0.0])
    """

    designs: tuple[Tensor, ...]
    responses: tuple[Tensor, ...]
    centers: Tensor
    response_centers: Tensor

    @classmethod
    def of(cls, designs: Sequence[Any], responses: Sequence[Any], *, fit_intercept: bool = True) -> MultitaskData:
        """Return the data of a multi-task problem.

        Parameters
        ----------
        designs : sequence of K arrays, shapes (n_k, p)
            Rows are samples; the columns mean the same in all tasks.
        responses : sequence of K arrays, shapes (n_k,)
        fit_intercept : bool
            Center the data of each task, so that each has an intercept that is not penalised.

        Raises
        ------
        InvalidProblem
            On wrong shapes, no task, no samples or columns, NaN or infinite entries.
        """
        if len(designs) == 0 or len(designs) != len(responses):
            raise InvalidProblem(
                f"{len(designs)} designs and {len(responses)} responses; give one of each for each task"
            )
        used: list[Tensor] = []
        answers, centers, response_centers = [], [], []
        for task, (design, response) in enumerate(zip(designs, responses, strict=True)):
            X = as_tensor(design, f"the design of task {task}", ndim=2).cpu().double()
            n, p = X.shape
            if n == 0 or p == 0 or (used and p != used[0].shape[1]):
                raise InvalidProblem(
                    f"the design of task {task} has shape {(n, p)}; at least one sample is needed, and the same "
                    "columns in all tasks"
                )
            y = as_tensor(response, f"the response of task {task}", shape=(n,)).cpu().double()
            center = X.mean(dim=0) if fit_intercept else torch.zeros(p, dtype=torch.float64)
            middle = float(y.mean()) if fit_intercept else 0.0
            # A constant column leaves only the rounding of its mean.
            varies = (X[:1] != X).any(dim=0) if fit_intercept else torch.ones(p, dtype=torch.bool)
            used.append(torch.where(varies, X - center, 0.0))
            answers.append(y - middle)
            centers.append(center)
            response_centers.append(middle)
        return cls(
            tuple(used), tuple(answers), torch.stack(centers), torch.tensor(response_centers, dtype=torch.float64)
        )

    def restore(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return coefficients (K, p) and intercepts (K,).

        Parameters
        ----------
        point : Tensor, shape (K * p,)
            A point of the problem.
        """
        coefficients = point.detach().cpu().double().reshape(self.centers.shape)
        return coefficients, self.response_centers - (coefficients * self.centers).sum(dim=1)

    def loss(self, ridge: float = 0.0, value_sharing: float = 0.0) -> LeastSquares:
        """Return the loss of :func:`multitask_regression` over the coefficients, task after task (K * p,)."""
        for name, weight in (("ridge", ridge), ("value_sharing", value_sharing)):
            if not (math.isfinite(weight) and weight >= 0):
                raise InvalidProblem(f"{name} is {weight}; it must be a finite number >= 0")
        tasks, p = self.centers.shape
        samples = sum(len(y) for y in self.responses)
        shared = (tasks - 1) * p if value_sharing > 0 else 0
        entries = (samples + shared) * tasks * p
        if entries > _LARGEST:
            raise InvalidProblem(
                f"{samples} samples, {tasks} tasks and {p} columns make a design of {entries:.1e} entries, beyond "
                f"{_LARGEST:.0e}; screen columns first"
            )
        if ridge == 0 and any(X.shape[0] < p for X in self.designs):
            raise InvalidProblem(
                "ridge = 0 with more columns than samples in a task: no bound can be proven; give ridge > 0"
            )
        scaled = [X / math.sqrt(len(X)) for X in self.designs]
        parts = [torch.block_diag(*scaled)]
        right = [y / math.sqrt(len(y)) for y in self.responses]
        if shared:
            parts.append(math.sqrt(value_sharing) * torch.kron(_contrasts(tasks), torch.eye(p, dtype=torch.float64)))
            right.append(torch.zeros(shared, dtype=torch.float64))
        return LeastSquares(torch.cat(parts), torch.cat(right), ridge=ridge)

    def problem(
        self,
        k: int,
        *,
        support_sharing: float = math.inf,
        value_sharing: float = 0.0,
        ridge: float = 0.0,
        box: float | None = None,
        name: str = "multi-task regression",
    ) -> Problem:
        """Return the problem on these data; see :func:`multitask_regression`."""
        tasks, p = self.centers.shape
        k = min(check_count(k, "k"), p)
        if math.isnan(support_sharing) or support_sharing < 0:
            raise InvalidProblem(f"support_sharing is {support_sharing}; it must be >= 0, or math.inf")
        loss = self.loss(ridge, value_sharing)
        structure: Structure
        if support_sharing == math.inf or k == 0:
            structure = Sparse(Groups(torch.arange(p).repeat(tasks), k), box=box)
        elif support_sharing == 0 or tasks == 1:
            structure = Sparse(NofM(k, p), box=box)
        else:
            structure = SharedSupports(tasks, k, support_sharing, box)
        return Problem(loss, structure, name)


def _contrasts(tasks: int) -> Tensor:
    """A (K-1, K) matrix C with C'C = I - 11'/K (Helmert): ||C b||^2 is the squared distance of b from its mean."""
    out = np.zeros((tasks - 1, tasks))
    for row in range(1, tasks):
        out[row - 1, :row] = 1.0
        out[row - 1, row] = -row
        out[row - 1] /= math.sqrt(row * (row + 1))
    return torch.from_numpy(out)


def multitask_regression(
    designs: Sequence[Any],
    responses: Sequence[Any],
    k: int,
    *,
    support_sharing: float = math.inf,
    value_sharing: float = 0.0,
    ridge: float = 0.0,
    box: float | None = None,
    fit_intercept: bool = True,
    name: str = "multi-task regression",
) -> Problem:
    r"""Fit linear models of K tasks with few columns each (sparse multi-task regression with an l0 constraint).

    Parameters
    ----------
    designs : sequence of K arrays, shapes (n_k, p)
        Rows are samples; the columns mean the same in all tasks. Columns are used in the units given: bring them to
        one scale first.
    responses : sequence of K arrays, shapes (n_k,)
    k : int
        Columns of each task, at most.
    support_sharing : float
        :math:`\lambda_z \ge 0`, the price of supports that differ. ``math.inf`` (the default) demands one support for
        all tasks; 0 lets each task choose for itself.
    value_sharing : float
        :math:`\lambda_\beta \ge 0`, shrinks the coefficients of a column towards their mean over the tasks.
    ridge : float
        :math:`\lambda_2 \ge 0`; must be positive when a task has more columns than samples.
    box : float, optional
        Bound :math:`|\beta_{kj}| \le B`.
    fit_intercept : bool
        Center the data of each task.
    name : str
        For reports.

    Returns
    -------
    Problem
        Over the coefficients (K * p,), task after task: ``point.reshape(K, p)``, or :meth:`MultitaskData.restore`.

    Raises
    ------
    InvalidProblem
        On bad data or negative parameters; when nothing bounds the coefficients.

    Notes
    -----
    .. math:: \min_{\beta, z}\; \sum_k \frac{1}{2n_k}\|y_k - X_k\beta_k\|^2 + \frac{\lambda_2}{2}\sum_k\|\beta_k\|^2
              + \frac{\lambda_\beta}{2}\sum_k\|\beta_k - \bar\beta\|^2 + \frac{\lambda_z}{2}\sum_k\|z_k - \bar z\|^2
              \quad\text{s.t. } \beta_{kj}(1 - z_{kj}) = 0,\; \sum_j z_{kj} \le k

    The shared values are rows of the design: :math:`\sum_k\|\beta_k-\bar\beta\|^2 = \|(C\otimes I)\beta\|^2` for
    contrasts C with :math:`C^\top C = I - 11^\top/K`, so that the loss is one least-squares loss.

    References
    ----------
    arXiv 2212.08697 (sparse multi-task learning with l0).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> generator = torch.Generator().manual_seed(0)
    >>> X = [torch.randn(40, 6, generator=generator, dtype=torch.float64) for _ in range(3)]
    >>> y = [x[:, 1] - (1 + task) * x[:, 4] for task, x in enumerate(X)]
    >>> solution = mp.solve(multitask_regression(X, y, 2, ridge=0.01))
    >>> solution.mask.reshape(3, 6)[0].nonzero().ravel().tolist(), solution.status.value, solution.proof.value
    ([1, 4], 'optimal', 'checked')
    """
    data = MultitaskData.of(designs, responses, fit_intercept=fit_intercept)
    return data.problem(
        k, support_sharing=support_sharing, value_sharing=value_sharing, ridge=ridge, box=box, name=name
    )
