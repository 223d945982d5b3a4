"""Sparse Gaussian graphical models as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data

from ..core.solver import Budget, Solver
from ..errors import SolverFailure
from ..formulations.graphs import covariance_of, graphical_model, likelihood_refit
from ..losses.pseudo_likelihood import PseudoLikelihood
from ..solve import solve
from ..solvers.branch_and_bound import BranchAndBound
from .plotting import axes

__all__ = ["L0GraphicalModel"]

Array = np.ndarray[Any, Any]


class L0GraphicalModel(BaseEstimator):
    r"""A sparse precision matrix by pseudo-likelihood with a price for each edge.

    Parameters
    ----------
    l0 : float
        Price of an edge, >= 0, for variables of unit variance.
    l2 : float
        Ridge on the off-diagonal entries, > 0 unless there is a box.
    box : float, optional
        Bound on the off-diagonal entries of the standardised problem.
    refit : bool
        Replace the precision matrix by the one of largest likelihood on the graph found, which is positive definite.
        Where the likelihood has no maximiser (fewer samples than a clique needs), the pseudo-likelihood estimate stays,
        and ``refitted_`` says so.
    solver : Solver, optional
        Default :class:`~mipprune.BranchAndBound`.
    time_limit : float, optional
        Seconds; the best graph found by then is kept, with its gap.
    gap_in_edges : float
        The search ends when the objective is proven to be within this many prices of an edge of the best one, >= 0.

    Attributes
    ----------
    precision_ : ndarray, shape (p, p)
        In the units of the data.
    covariance_ : ndarray, shape (p, p)
        Inverse of ``precision_``; NaN where that is singular.
    location_ : ndarray, shape (p,)
        Means.
    edges_ : int ndarray, shape (n_edges, 2)
        Pairs i < j.
    smallest_eigenvalue_ : float
        Of ``precision_``; an estimate by pseudo-likelihood can have negative ones.
    refitted_ : bool
    gap_in_edges_ : float or None
        Proven distance of the objective from the best one, in prices of an edge.
    box_validity_ : {"none", "proven", "given"}
        Whether that holds without the box too, see :meth:`mipprune.Problem.box_validity`.
    solution_, problem_
        On standardised data, for :func:`mipprune.check`.
    n_features_in_, feature_names_in_

    References
    ----------
    arXiv 2307.09366 (GraphL0BnB).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((300, 5))
    >>> X[:, 1] += X[:, 0]
    >>> X[:, 4] -= X[:, 3]
    >>> model = L0GraphicalModel(l0=0.1).fit(X)
    >>> model.edges_.tolist(), model.gap_in_edges_ <= 1e-2
    ([[0, 1], [3, 4]], True)
    """

    def __init__(
        self,
        l0: float = 0.05,
        l2: float = 0.05,
        *,
        box: float | None = None,
        refit: bool = True,
        solver: Solver | None = None,
        time_limit: float | None = 60.0,
        gap_in_edges: float = 1e-2,
    ) -> None:
        self.l0 = l0
        self.l2 = l2
        self.box = box
        self.refit = refit
        self.solver = solver
        self.time_limit = time_limit
        self.gap_in_edges = gap_in_edges

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the graph.

        Parameters
        ----------
        X : array or DataFrame, shape (n, p)
            At least two samples of two variables, none of them constant.
        y : object
            Not used.

        Raises
        ------
        InvalidProblem
            On bad parameters or constant variables.
        """
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_min_features=2)
        X = np.require(X, requirements="W")  # torch warns about arrays of data frames, which are read-only
        correlation, deviations = covariance_of(X)
        self.location_ = X.mean(axis=0)
        self.problem_ = graphical_model(X, l0=self.l0, l2=self.l2, box=self.box)
        solver = BranchAndBound() if self.solver is None else self.solver
        budget = Budget(seconds=self.time_limit, gap=0.0, absolute_gap=self.gap_in_edges * self.l0)
        self.solution_ = solve(self.problem_, solver, budget=budget)
        point = self.solution_.point
        if point is None:
            raise SolverFailure("no graph was found in the time given; raise time_limit")
        bound = self.solution_.bound
        known = bound is not None and self.l0 > 0
        self.gap_in_edges_ = max(0.0, self.solution_.value - float(bound or 0.0)) / self.l0 if known else None
        self.box_validity_ = self.problem_.box_validity(self.solution_.value)
        p = X.shape[1]
        rows, columns = torch.triu_indices(p, p, 1)
        chosen = (point != 0).cpu()
        self.edges_ = torch.stack([rows[chosen], columns[chosen]], dim=1).numpy()
        scaled, self.refitted_ = self._precision(point, correlation, chosen)
        self.precision_ = (scaled / deviations / deviations.unsqueeze(1)).cpu().numpy()
        self.smallest_eigenvalue_ = float(np.linalg.eigvalsh(self.precision_)[0])
        try:
            self.covariance_ = np.linalg.inv(self.precision_)
        except np.linalg.LinAlgError:
            self.covariance_ = np.full((p, p), np.nan)
        return self

    def _precision(
        self, point: torch.Tensor, correlation: torch.Tensor, chosen: torch.Tensor
    ) -> tuple[torch.Tensor, bool]:
        if self.refit:
            try:
                return likelihood_refit(correlation, chosen), True
            except SolverFailure:
                pass  # the likelihood has no maximiser on this graph
        loss = self.problem_.loss
        assert isinstance(loss, PseudoLikelihood)
        return loss.precision(point), False

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean Gaussian log-likelihood of samples; ``-inf`` when the estimate is not positive definite.

        Parameters
        ----------
        X : array, shape (n, p)
        y : object
            Not used.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        sign, logarithm = np.linalg.slogdet(self.precision_)
        if sign <= 0 or self.smallest_eigenvalue_ <= 0:
            return float(-np.inf)
        centred = X - self.location_
        quadratic = float(np.einsum("ij,jk,ik->i", centred, self.precision_, centred).mean())
        return float(0.5 * (logarithm - quadratic - X.shape[1] * np.log(2 * np.pi)))

    def partial_correlations(self) -> Array:
        """Return the matrix (p, p) of partial correlations of the estimate, with ones on the diagonal."""
        check_is_fitted(self)
        root = 1.0 / np.sqrt(np.diag(self.precision_))
        partial: Array = -self.precision_ * root * root[:, None]
        np.fill_diagonal(partial, 1.0)
        return partial

    def to_networkx(self) -> Any:
        """Return the graph: a node for each variable, named when the data were, and partial correlations as weights."""
        import networkx as nx

        partial = self.partial_correlations()
        names = getattr(self, "feature_names_in_", np.arange(len(partial))).tolist()
        graph = nx.Graph()
        graph.add_nodes_from(names)
        for i, j in self.edges_:
            graph.add_edge(names[i], names[j], weight=float(partial[i, j]))
        return graph

    def plot(self, ax: Any = None) -> Any:
        """Draw the graph, edges as wide as their partial correlations; return matplotlib's axes.

        Parameters
        ----------
        ax : matplotlib axes, optional

        Raises
        ------
        InvalidProblem
            Without matplotlib.
        """
        import networkx as nx

        graph = self.to_networkx()
        ax = axes(ax)
        weights = [graph.edges[edge]["weight"] for edge in graph.edges]
        nx.draw_networkx(
            graph,
            nx.circular_layout(graph),
            ax=ax,
            width=[0.5 + 4 * abs(weight) for weight in weights],
            edge_color=["#2f6fb3" if weight > 0 else "#c1504f" for weight in weights],
            node_color="#e3e5e8",
            font_size=9,
        )
        ax.set_axis_off()
        return ax
