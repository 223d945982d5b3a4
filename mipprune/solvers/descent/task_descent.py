"""Multi-task regression by block coordinate descent over the tasks and exchanges of columns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.adapters import Sparse
from ...core.arrays import as_tensor
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...core.structure import Supports
from ...errors import InvalidProblem
from ...losses.least_squares import LeastSquares
from ...structures.groups import Groups
from ...structures.n_of_m import NofM
from ...structures.shared import SharedSupports

__all__ = ["TaskDescent"]

_LARGEST = 8192  # coefficients whose Gram matrix is formed (512 MiB)
_STEPS = 200  # of hard thresholding in one block


@dataclass(frozen=True)
class TaskDescent:
    r"""Descend over tasks by hard thresholding, then exchange columns one by one, until nothing helps.

    Parameters
    ----------
    sweeps : int
        Most sweeps of the descent over all tasks.
    exchanges : int
        Most exchanges of the local search; 0 leaves the descent alone.
    tolerance : float
        Smallest decrease that counts, relative to the value of the empty model, > 0.

    Notes
    -----
    For the least-squares loss of :func:`~mipprune.formulations.multitask_regression`. With the other tasks fixed, task
    k minimises its part of the loss plus what its support changes in the price of the differences. Each step keeps, of
    :math:`\tilde\beta = \beta_k - \nabla_k/L_k`, the at most s entries with the largest positive
    :math:`\tfrac{L_k}{2}\tilde\beta_j^2 - \tfrac{\lambda_z}{2}(f(m_j+1) - f(m_j))`, where m_j other tasks use the
    column and :math:`f(m) = m - m^2/K`; then the task is refitted. A common support is one block.

    The local search drops an entry of one task (a column of all tasks, for a common support), or nothing where the
    budget is slack, and adds the one after which the refit of all tasks is best, or nothing: with the kept set T and
    the residual correlations r, adding the entries U gains

    .. math:: \tfrac12 r_U^\top (H_{UU} - H_{UT}H_{TT}^{-1}H_{TU})^{-1} r_U .

    Where differences have a price, a column is also dropped and another one added in all tasks that use it, and the
    search begins three times: from nothing, from the end of a search with a common support, and of one without the
    price. The value never rises.

    References
    ----------
    arXiv 2212.08697 (block coordinate descent and local search); the exchange with a full refit is derived here.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> generator = torch.Generator().manual_seed(0)
    >>> X = [torch.randn(40, 6, generator=generator, dtype=torch.float64) for _ in range(3)]
    >>> y = [x[:, 1] - (1 + task) * x[:, 4] for task, x in enumerate(X)]
    >>> problem = mp.formulations.multitask_regression(X, y, 2, ridge=0.01, support_sharing=0.1)
    >>> TaskDescent().solve(problem).mask.reshape(3, 6).int().tolist()
    [[0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 1, 0]]
    """

    sweeps: int = 100
    exchanges: int = 1000
    tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if self.sweeps < 1 or self.exchanges < 0 or not self.tolerance > 0:
            raise InvalidProblem("sweeps must be at least 1, exchanges at least 0, and the tolerance positive")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "TaskDescent"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`."""
        structure, loss = problem.structure, problem.loss
        if not isinstance(loss, LeastSquares):
            return f"its blocks are those of least squares, not of {type(loss).__name__}"
        known = isinstance(structure, SharedSupports)
        if isinstance(structure, Sparse):
            known = isinstance(structure.supports, NofM | Groups)
            if bool((torch.as_tensor(structure.price_per_entry) != 0).any()):
                return "it knows no price for each entry"
        if not known:
            return "it needs the supports of tasks: SharedSupports, Sparse(NofM(k, p)) or Sparse(Groups(labels, k))"
        assert isinstance(structure, Sparse | SharedSupports)
        family = structure.supports if isinstance(structure, Sparse) else structure
        assert isinstance(family, NofM | Groups | SharedSupports)
        if structure.box is not None:
            return "it keeps no box around the weights"
        if family.on is not None or family.off is not None:
            return "it takes no fixed entries"
        if problem.size > _LARGEST:
            return f"{problem.size} coefficients; the Gram matrix is formed up to {_LARGEST}"
        if not bool((torch.as_tensor(loss.ridge) > 0).all()):
            return "every column needs a ridge > 0, so that equal columns can be told apart"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :meth:`mipprune.Solver.solve`; the descent goes on from ``start``, which is repaired if need be."""
        accept(self, problem)
        watch = Watch(budget, progress)
        search = _Search(self, watch)
        try:
            stop = search.run(problem, start)
        except KeyboardInterrupt:
            stop = Stop.USER
        if search.current is not None:
            search.offer(search.current)
        point = torch.zeros(problem.shape, dtype=torch.float64) if search.point is None else search.point
        point = point.to(problem.loss.response)  # type: ignore[attr-defined]
        solution = Solution.of(problem, point, stop=stop, tolerance=watch.budget.gap, solver=self.name)
        return replace(solution, stats=watch.stats(iterations=search.steps, device="cpu"))


class _Search:
    """The runs from one or several first supports, and the best point of all."""

    def __init__(self, solver: TaskDescent, watch: Watch) -> None:
        self.solver, self.watch = solver, watch
        self.point: Tensor | None = None
        self.value, self.steps = math.inf, 0
        self.current: _Run | None = None

    def offer(self, run: _Run) -> None:
        """Keep the point of a run when it is the best one."""
        if run.value < self.value:
            self.point, self.value = run.w, run.value

    def run(self, problem: Problem, start: Tensor | None) -> Stop:
        """Run from the start, or else from the empty support and from where neighbouring problems end."""
        if start is not None:
            begin = as_tensor(start, "start", shape=problem.shape).detach().cpu().double()
            begin = begin if problem.violation(begin) == 0 else problem.reference.repair(begin)
            return self._descend(problem, begin != 0)
        stop = self._descend(problem, None)
        structure = problem.structure
        if not isinstance(structure, SharedSupports) or structure.weight == 0:
            return stop
        columns = problem.size // structure.tasks
        families: list[Supports] = [Groups(torch.arange(columns).repeat(structure.tasks), structure.count)]
        if structure.count:
            families.append(NofM(min(structure.count, columns), columns))
        for family in families:  # no price, or one that no difference can pay
            if stop is not Stop.CONVERGED:
                break
            other = _Run(replace(problem, structure=Sparse(family)), self.solver.tolerance)
            stop = self._phases(other, silent=True)
            if stop is Stop.CONVERGED:
                stop = self._descend(problem, other.w != 0)
        return stop

    def _descend(self, problem: Problem, mask: Tensor | None) -> Stop:
        self.current = _Run(problem, self.solver.tolerance)
        if mask is not None:
            self.current.move_to(mask)
        stop = self._phases(self.current)
        self.offer(self.current)
        return stop

    def _phases(self, run: _Run, silent: bool = False) -> Stop:
        """Descend, then exchange, until nothing improves or a limit is reached."""
        stop = Stop.CONVERGED
        self._report(run, silent)
        for phase, limit in ((run.sweep, self.solver.sweeps), (run.exchange, self.solver.exchanges)):
            for _ in range(limit):
                due = self.watch.due(iterations=self.steps or None)
                if due is not None:
                    return due
                improved = phase(self.watch)
                self.steps += 1
                self._report(run, silent)
                if not improved:
                    break
            else:
                stop = Stop.ITERATIONS if limit else stop
        return self.watch.due() or stop

    def _report(self, run: _Run, silent: bool) -> None:
        """Report the best value so far; a run on a neighbouring problem has none of its own."""
        value = self.value if silent else min(self.value, run.value)
        self.watch.report(value if math.isfinite(value) else None, None)


class _Run:
    """The current support with its refit; everything in terms of H = X'X + ridge and c = X'y."""

    def __init__(self, problem: Problem, tolerance: float) -> None:
        loss, structure = problem.reference.loss, problem.structure
        assert isinstance(loss, LeastSquares)
        self.hessian = loss.matrix.gram() + torch.diag(torch.as_tensor(loss.ridge))
        self.pull = loss.design.mT @ loss.response
        self.constant = 0.5 * float(loss.response.square().sum())
        self.least = tolerance * max(self.constant, 1e-300)
        size, entries = problem.size, torch.arange(problem.size)
        self.weight, self.tasks = 0.0, 1
        if isinstance(structure, SharedSupports):
            self.count, self.tasks, self.weight = structure.count, structure.tasks, structure.weight
            units = entries.reshape(-1, 1)
            pools = entries.reshape(structure.tasks, -1)
        elif isinstance(structure, Sparse) and isinstance(structure.supports, NofM):
            self.count = structure.supports.n
            units = entries.reshape(-1, 1)
            pools = entries.reshape(-1, structure.supports.m)
        else:
            assert isinstance(structure, Sparse) and isinstance(structure.supports, Groups)
            self.count = structure.supports.count
            labels = structure.supports._labels(torch.zeros(size))
            units = None
            self.unit_of = labels
            self.members = [(labels == label).nonzero().ravel() for label in range(int(labels.max()) + 1)]
            pools = torch.arange(len(self.members)).reshape(1, -1)
        if units is not None:  # what moves together: one entry, or a column of all tasks
            self.unit_of, self.members = entries, list(units)
        self.pools = pools
        self.chosen = torch.zeros(len(self.members), dtype=torch.bool)
        self.bend = [self._curvature(self._entries(pool)) for pool in pools]
        self._refit()

    def _curvature(self, entries: Tensor) -> float:
        return 1.000001 * float(torch.linalg.eigvalsh(self.hessian[entries][:, entries])[-1])

    def _entries(self, units: Tensor) -> Tensor:
        inside = torch.zeros(len(self.members), dtype=torch.bool)
        inside[units] = True
        return inside[self.unit_of].nonzero().ravel()

    def _price(self, chosen: Tensor) -> float:
        if self.weight == 0:
            return 0.0
        m = chosen.reshape(self.tasks, -1).sum(dim=0).double()
        return 0.5 * self.weight * float((m - m * m / self.tasks).sum())

    def _step(self, chosen: Tensor, units: Tensor) -> Tensor:
        """What adding each of these units alone adds to the price."""
        if self.weight == 0:
            return torch.zeros(len(units), dtype=torch.float64)
        m = chosen.reshape(self.tasks, -1).sum(dim=0).double()[units % (len(chosen) // self.tasks)]
        return 0.5 * self.weight * (1.0 - (2.0 * m + 1.0) / self.tasks)

    def _refit(self) -> None:
        kept = self.chosen[self.unit_of].nonzero().ravel()
        w = torch.zeros(len(self.unit_of), dtype=torch.float64)
        if len(kept):
            system, right = self.hessian[kept][:, kept], self.pull[kept].unsqueeze(1)
            factor, failed = torch.linalg.cholesky_ex(system)
            far = torch.linalg.lstsq(system, right, driver="gelsd").solution if int(failed) else None
            w[kept] = (torch.cholesky_solve(right, factor) if far is None else far).squeeze(1)
        value = self.constant - 0.5 * float(self.pull @ w) + self._price(self.chosen)
        self.w, self.value = w, value

    def move_to(self, mask: Tensor) -> None:
        """Go to the refit on the smallest support around a mask."""
        self.chosen = torch.zeros(len(self.members), dtype=torch.bool)
        self.chosen[self.unit_of[mask]] = True
        self._refit()

    def _try(self, chosen: Tensor) -> bool:
        """Take another support when its refit is better by more than the tolerance."""
        before = self.chosen, self.w, self.value
        self.chosen = chosen
        self._refit()
        if self.value < before[2] - self.least:
            return True
        self.chosen, self.w, self.value = before
        return False

    # ------------------------------------------------------------------------------------------ descent

    def sweep(self, watch: Watch) -> bool:
        """Choose the support of each task anew, given the others; tell whether the value fell."""
        improved = False
        for pool, bend in zip(self.pools, self.bend, strict=True):
            if watch.due() is not None:
                break
            improved |= self._try(self._thresholded(pool, bend))
        return improved

    def _thresholded(self, pool: Tensor, bend: float) -> Tensor:
        entries = self._entries(pool)
        w, chosen = self.w.clone(), self.chosen.clone()
        others = chosen.clone()
        others[pool] = False
        price = self._step(others, pool)
        block = self.hessian[entries][:, entries]
        pull = self.pull[entries] - self.hessian[entries] @ w + block @ w[entries]
        part = w[entries]
        places = self.unit_of[entries] if len(pool) == len(self.members) else torch.arange(len(entries))
        for _ in range(_STEPS):
            moved = part - (block @ part - pull) / bend
            score = torch.zeros(len(pool), dtype=torch.float64).index_add(0, places, 0.5 * bend * moved.square())
            score -= price
            keep = torch.zeros(len(pool), dtype=torch.bool)
            keep[score.argsort(descending=True, stable=True)[: self.count]] = True
            keep &= score > 0
            same = torch.equal(keep, chosen[pool])
            chosen[pool] = keep
            after = torch.where(keep[places], moved, 0.0)
            change = float((after - part).abs().max())
            part = after
            if same and change <= 1e-6 * float(part.abs().max()):
                break
        return chosen

    # ------------------------------------------------------------------------------------------ local search

    def exchange(self, watch: Watch) -> bool:
        """Make the first improving exchange, over all kept units in turn; tell whether there was one."""
        for pool in self.pools:
            kept = pool[self.chosen[pool]]
            drops = [kept[i : i + 1] for i in range(len(kept))]
            if len(kept) < self.count:
                drops.insert(0, kept[:0])
            for drop in drops:
                if watch.due() is not None:
                    return False
                if self._replace(drop, pool[~self.chosen[pool]].unsqueeze(1)):
                    return True
        return self.weight > 0 and self._exchange_columns(watch)

    def _exchange_columns(self, watch: Watch) -> bool:
        """Drop a column from all tasks that use it, and let the same tasks use another one."""
        table = self.chosen.reshape(self.tasks, -1)
        columns = table.shape[1]
        for column in table.any(dim=0).nonzero().ravel().tolist():
            if watch.due() is not None:
                return False
            users = table[:, column].nonzero().ravel()
            others = (~table[users].any(dim=0)).nonzero().ravel()
            if self._replace(users * columns + column, others.unsqueeze(1) + users * columns):
                return True
        return False

    def _by_size(self, candidates: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Rows of candidates with equally many entries, and those entries (rows, entries)."""
        if len(candidates) == 0:
            return []
        if len(self.members) == len(self.unit_of):
            return [(torch.arange(len(candidates)), candidates)]
        parts = [torch.cat([self.members[unit] for unit in row]) for row in candidates.tolist()]
        sizes = torch.tensor([len(part) for part in parts])
        chosen = [(sizes == size).nonzero().ravel() for size in sizes.unique().tolist() if size]
        return [(rows, torch.stack([parts[row] for row in rows.tolist()])) for rows in chosen]

    def _replace(self, drop: Tensor, candidates: Tensor) -> bool:
        """Drop units and add the best row of candidates (rows of units), or nothing, where that is better."""
        chosen = self.chosen.clone()
        chosen[drop] = False
        kept = chosen[self.unit_of].nonzero().ravel()
        residual, reached = self.pull, None
        loss = self.constant
        if len(kept):
            factor, failed = torch.linalg.cholesky_ex(self.hessian[kept][:, kept])
            if int(failed):  # next to no ridge
                return False
            reached = torch.linalg.solve_triangular(factor, self.hessian[kept], upper=False)
            half = torch.linalg.solve_triangular(factor, self.pull[kept].unsqueeze(1), upper=False).squeeze(1)
            residual = self.pull - reached.mT @ half
            loss -= 0.5 * float(half @ half)
        price = self._price(chosen)
        best, choice = loss + price, None
        for rows, entries in self._by_size(candidates):
            schur = self.hessian[entries.unsqueeze(2), entries.unsqueeze(1)]
            if reached is not None:
                columns = reached[:, entries].permute(1, 0, 2)
                schur = schur - columns.mT @ columns
            right = residual[entries]
            gain = 0.5 * (right * torch.linalg.solve_ex(schur, right).result).sum(dim=1)
            added = self._step(chosen, candidates[rows].reshape(-1)).reshape(len(rows), -1).sum(dim=1)
            values = loss + price - gain + added
            place = int(values.argmin())
            if float(values[place]) < best:
                best, choice = float(values[place]), candidates[rows[place]]
        if not best < self.value - self.least:
            return False
        if choice is not None:
            chosen[choice] = True
        return self._try(chosen)
