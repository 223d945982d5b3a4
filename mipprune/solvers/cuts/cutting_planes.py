"""Cutting planes in the mask: outer approximation of the best value as a function of the support."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...core.certificate import Certificate
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from ..exact.model import LINEAR_TOLERANCE, Outcome, conclude
from ..exact.outer_approximation import configured, start_threads
from .cut import CutPool, cut_reason
from .master import Master
from .search import CutSearch

__all__ = ["CuttingPlaneRun", "CuttingPlanes"]

_LARGEST = 20_000


@dataclass(frozen=True)
class CuttingPlanes:
    r"""Exact selection of weights with a ridge by cutting planes in the mask.

    Parameters
    ----------
    master : {"highs", "scip", "own"}
        ``"highs"`` solves a master problem again and again and cuts at its masks; ``"scip"`` separates inside one tree;
        ``"own"`` branches itself, bounds each node by a tangent, and returns the tree as certificate.
    relaxation_cuts : int
        Cuts at fractional masks before integrality is asked for. Without them the bound starts at the weak one of
        integer cuts, and a run takes far longer.
    threads : int
        Threads of HiGHS (SCIP's tree is sequential).
    parameters : mapping or tuple of pairs, optional
        Further options of the back end; they override everything set here.
    seed : int
        Random seed of the back end.

    Notes
    -----
    With the mask z the best value :math:`c(z) = \min_w \ell(w) + \tfrac12\sum_j r_j w_j^2/z_j` is convex, and every
    dual vector gives a cut that holds for all z, also at fractional ones. For least squares,
    :math:`c(z) \ge \alpha^\top y - \tfrac12\|\alpha\|^2 - \tfrac12\sum_j z_j (m_j^\top\alpha)^2/r_j` with the residual
    :math:`\alpha`. The master minimises the largest cut over the family's own constraints.

    The bound of the master is a claim of the back end. Beside it stands the tangent at the combination of the cuts with
    the multipliers of the linear relaxation, which proves at least the relaxation's bound (for least squares; derived
    from the concavity of a cut in its dual vector). It becomes the certificate when it closes the gap or proves as
    much as is claimed.

    References
    ----------
    Duran and Grossmann, doi:10.1007/BF02592064; Bertsimas and Van Parys, arXiv 1709.10029; arXiv 2506.08030 (MOSS).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> problem = mp.Problem(mp.LeastSquares(x, x[:, 2] - x[:, 5], ridge=1.0), mp.Sparse(mp.Cardinality(2)))
    >>> solution = CuttingPlanes().solve(problem)
    >>> solution.status.value, solution.mask.nonzero().ravel().tolist()
    ('optimal', [2, 5])
    """

    master: str = "highs"
    relaxation_cuts: int = 150
    threads: int = 1
    parameters: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.master not in ("highs", "scip", "own"):
            raise InvalidProblem(
                f"master is {self.master!r}; choose 'highs' (many trees), 'scip' (one tree) or 'own' (a checked tree)"
            )
        if self.relaxation_cuts < 0 or int(self.threads) < 1:
            raise InvalidProblem("relaxation_cuts must not be negative, and threads must be at least 1")
        object.__setattr__(self, "parameters", tuple(sorted(dict(self.parameters).items())))

    @property
    def name(self) -> str:
        """See :meth:`Solver.name`."""
        return f"CuttingPlanes({self.master})"

    def rejects(self, problem: Problem) -> str | None:
        """See :meth:`Solver.rejects`."""
        if problem.size > _LARGEST:
            return f"{problem.size} entries are beyond a mixed-integer master (about {_LARGEST}); certify a heuristic"
        return cut_reason(problem)

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """Solve; see :meth:`Solver.solve`.

        Parameters
        ----------
        problem : Problem
        budget : Budget
            Iterations are masters; nodes those of all masters together.
        start : Tensor, shape of the problem, optional
            Repaired and used as incumbent.
        progress : callable, optional

        Raises
        ------
        Unsupported
            With the reason of :meth:`rejects`.
        SolverFailure
            If the back end breaks down.
        """
        return self.run(problem, budget=budget, start=start, progress=progress).solution

    def run(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
        earlier: CuttingPlaneRun | None = None,
    ) -> CuttingPlaneRun:
        """Solve and keep what a next problem with the same loss can use.

        Parameters
        ----------
        problem, budget, start, progress
            See :meth:`solve`.
        earlier : CuttingPlaneRun, optional
            Of a problem with the same loss and price: its cuts hold here too, and its master is turned to this family.
        """
        import highspy

        accept(self, problem)
        start_threads(self.threads)
        pool = None if earlier is None else earlier.pool
        if pool is not None and not pool.fits(problem):
            raise InvalidProblem("the earlier run is about another loss or price; its cuts do not hold here")
        master = None if earlier is None else earlier.master
        search = CutSearch(
            problem.reference,
            Watch(budget, progress),
            pool or CutPool(problem),
            master,
            self.back_end,
            relaxation_cuts=self.relaxation_cuts,
        )
        try:
            outcome = self._searched(search, start)
        except KeyboardInterrupt:
            outcome = search.outcome(Stop.USER)
        version = search.version or f"HiGHS {highspy.Highs().version()}"
        claimant = (*version.split(" ", 1), LINEAR_TOLERANCE)
        incumbent = search.incumbent
        claimed = incumbent.claimed
        if claimed is not None and search.proven_closes:  # then nobody's word is needed
            incumbent.claimed = min(claimed, incumbent.proven)
        solution = conclude(
            problem,
            incumbent,
            outcome,
            solver=self.name,
            claimant=claimant,  # type: ignore[arg-type]
            seed=self.seed,
        )
        return CuttingPlaneRun(
            solution, claimed, incumbent.tangent, incumbent.proven, len(search.pool.cuts), search.pool, search.master
        )

    def _searched(self, search: CutSearch, start: Tensor | None) -> Outcome:
        outcome = search.begin(start)
        if outcome is not None:
            return outcome
        if self.master == "highs":
            return search.masters()
        if self.master == "own":
            from .tree import search_own_tree

            return search_own_tree(search)
        from .lazy_scip import search_one_tree

        assert isinstance(self.parameters, tuple)
        return search_one_tree(search, self.parameters, self.seed)

    def back_end(self) -> Any:
        """Return a HiGHS instance with this solver's options."""
        assert isinstance(self.parameters, tuple)
        return configured(self.threads, self.seed, self.parameters if self.master == "highs" else ())


@dataclass(frozen=True, eq=False)
class CuttingPlaneRun:
    """A solution with both grounds of its bound, and the cuts and the master it leaves behind.

    Attributes
    ----------
    solution : Solution
    claimed : float or None
        Bound by the word of the back end.
    tangent : Tangent, Tree or None
    proven : float
        Bound of ``tangent``, recomputed from the data; ``-inf`` without one.
    cut_count : int
        Cuts so far, those of earlier problems included.
    pool, master
        To go on from.
    """

    solution: Solution
    claimed: float | None
    tangent: Certificate | None
    proven: float
    cut_count: int
    pool: CutPool = field(repr=False)
    master: Master | None = field(repr=False)
