"""Outer approximation: second-order cones replaced by tangent cuts, for a back end that takes linear rows only.

Every cut is a tangent of a cone, so each relaxation contains the whole feasible set and its bound is a bound of the
problem. Cones are small (a square or a perspective each), so that cuts are disaggregated and few rounds are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.canonical import Affine, Canonical, to_highs_lp
from ...errors import InvalidProblem, SolverFailure

__all__ = ["OuterApproximation", "Run", "configured", "load", "set_option", "start_threads"]

Array = np.ndarray[Any, Any]

_FINE = 1e-9  # HiGHS's feasibility tolerances: cuts are accurate, so the default 1e-6 would be the largest error
_FLAT = 1e-7  # a factor below this counts as zero, and its cone has no tangent worth adding


def configured(threads: int, seed: int, parameters: tuple[tuple[str, Any], ...]) -> Any:
    """Return a silent HiGHS instance; every option is checked, because HiGHS refuses some with a return code only.

    Raises
    ------
    InvalidProblem
        If an option or its value is unknown.
    """
    import highspy

    highs = highspy.Highs()
    options = {
        "output_flag": False,
        "threads": threads,
        "random_seed": seed,
        "primal_feasibility_tolerance": _FINE,
        "dual_feasibility_tolerance": _FINE,
        "mip_feasibility_tolerance": _FINE,
        **dict(parameters),
    }
    for name, value in options.items():
        set_option(highs, name, value)
    return highs


def start_threads(threads: int) -> None:
    """Start HiGHS's thread pool anew: it is one for the process, and a run that asks for another size is an error."""
    import highspy

    highspy.Highs.resetGlobalScheduler(True)
    first = highspy.Highs()
    set_option(first, "output_flag", False)
    set_option(first, "threads", threads)
    first.run()


def set_option(highs: Any, name: str, value: Any) -> None:
    """Set one option or raise :class:`InvalidProblem`."""
    import highspy

    if highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
        raise InvalidProblem(f"HiGHS does not take the option {name} = {value!r}")


def load(highs: Any, model: Any) -> None:
    """Pass a model or raise :class:`SolverFailure`."""
    import highspy

    if highs.passModel(model) == highspy.HighsStatus.kError:
        raise SolverFailure("HiGHS refuses the model; its data must be finite and its bounds consistent")


@dataclass(frozen=True)
class Run:
    """The end of one linear program: HiGHS's model status, the objective, and the columns where there are any."""

    status: Any
    objective: float
    x: Array | None


class OuterApproximation:
    """A growing set of tangent cuts on canonical data.

    Bodies of cones that are not a single column get a column of their own, so that a cut has about three entries.

    Parameters
    ----------
    canonical : Canonical
        The model; its columns come first in every vector used here.
    highs : Highs
        A configured instance, which keeps the linear relaxation and its basis from round to round.
    """

    def __init__(self, canonical: Canonical, highs: Any) -> None:
        self.canonical = canonical
        self.model = to_highs_lp(canonical)
        self._highs = highs
        self._lifted, self._fixed, body = canonical.rotated
        self._norms = canonical.norms
        self._body = body
        self._define(body)
        self.kinds = list(self.model.lp_.integrality_)
        self.model.lp_.integrality_ = []
        load(highs, self.model)
        self.cuts = 0

    def _define(self, body: Affine) -> None:
        """Add a column and a row ``body(x) - column = -constant`` for each body with several terms."""
        import highspy
        from scipy import sparse

        several = (np.diff(body.matrix.indptr) > 1) | (body.constant != 0)
        many, columns = int(several.sum()), self.canonical.columns
        self.columns = columns + many
        selector = sparse.csr_array((np.ones(many), (np.flatnonzero(several), np.arange(many))), (len(body), many))
        single = sparse.diags_array((~several).astype(np.float64)) @ body.matrix
        self._named = Affine(sparse.hstack([single, selector]).tocsr(), np.zeros(len(body)))
        self._defined = Affine(body.matrix[several], body.constant[several])
        lp = self.model.lp_
        old = sparse.csr_array((lp.a_matrix_.value_, lp.a_matrix_.index_, lp.a_matrix_.start_), (lp.num_row_, columns))
        new = sparse.hstack([self._defined.matrix, -sparse.eye_array(many)])
        rows = sparse.vstack([sparse.hstack([old, sparse.csr_array((lp.num_row_, many))]), new]).tocsr()
        free = np.full(many, np.inf)
        lp.col_cost_ = np.concatenate([lp.col_cost_, np.zeros(many)])
        lp.col_lower_ = np.concatenate([lp.col_lower_, -free])
        lp.col_upper_ = np.concatenate([lp.col_upper_, free])
        lp.row_lower_ = np.concatenate([lp.row_lower_, -self._defined.constant])
        lp.row_upper_ = np.concatenate([lp.row_upper_, -self._defined.constant])
        lp.num_col_, lp.num_row_ = self.columns, rows.shape[0]
        lp.a_matrix_.num_col_, lp.a_matrix_.num_row_ = self.columns, rows.shape[0]
        lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = rows.indptr, rows.indices, rows.data
        if len(lp.integrality_):
            lp.integrality_ = list(lp.integrality_) + [highspy.HighsVarType.kContinuous] * many

    def extended(self, x: Array) -> Array:
        """Return canonical columns followed by those of the bodies."""
        return np.concatenate([x[: self.canonical.columns], self._defined.at(x[: self.canonical.columns])])

    def cut(self, x: Array, tolerance: float | None) -> int:
        """Add the tangents at ``x`` of the cones violated by more than ``tolerance``, or of all; return how many.

        A point outside a rotated cone is lifted straight onto it, which for a square is the tangent at the same
        abscissa and for a perspective ``w^2 <= q z`` the cut ``q >= 2 r w - r^2 z`` with ``r = w/z``.
        """
        from scipy import sparse

        x = x[: self.canonical.columns]
        lifted, fixed, body = self._lifted.at(x), self._fixed.at(x), self._body.at(x)
        ratio = np.divide(body, fixed, out=np.zeros_like(body), where=fixed > _FLAT)
        excess = ratio * body - lifted
        chosen = np.flatnonzero((fixed > _FLAT) & (True if tolerance is None else excess > tolerance))
        r = sparse.diags_array(ratio[chosen])
        pad = self.columns - self.canonical.columns
        outer = (self._lifted.matrix[chosen] + r @ r @ self._fixed.matrix[chosen]).tocsr()
        wide = sparse.hstack([outer, sparse.csr_array((len(chosen), pad))])
        blocks = [(wide - 2.0 * (r @ self._named.matrix[chosen])).tocsr()]
        low = [-(self._lifted.constant[chosen] + ratio[chosen] ** 2 * self._fixed.constant[chosen])]
        for cone in self._norms:
            values = cone.at(x)
            norm = float(np.linalg.norm(values[1:]))
            if norm > _FLAT and (tolerance is None or norm - values[0] > tolerance):
                weights = np.concatenate([[1.0], -values[1:] / norm])
                row = sparse.csr_array((weights @ cone.matrix).reshape(1, -1))
                blocks.append(sparse.hstack([row, sparse.csr_array((1, pad))]).tocsr())
                low.append(np.array([-float(weights @ cone.constant)]))
        return self._add(sparse.vstack(blocks).tocsr(), np.concatenate(low))

    def _add(self, rows: Any, low: Array) -> int:
        rows.eliminate_zeros()
        rows.sort_indices()
        count = len(low)
        if count:
            self._highs.addRows(count, low, np.full(count, np.inf), rows.nnz, rows.indptr[:-1], rows.indices, rows.data)
            self.cuts += count
        return count

    def relax(self, seconds: float) -> Run:
        """Solve the linear relaxation from the last basis."""
        import highspy

        # HiGHS counts the time of all runs of an instance together.
        set_option(self._highs, "time_limit", min(self._highs.getRunTime() + max(seconds, 1e-3), 1e20))
        self._highs.run()
        status = self._highs.getModelStatus()
        if status in (highspy.HighsModelStatus.kUnknown, highspy.HighsModelStatus.kSolveError):
            self._highs.clearSolver()  # an old basis can be the trouble
            self._highs.run()
            status = self._highs.getModelStatus()
        if status != highspy.HighsModelStatus.kOptimal:
            return Run(status, -np.inf, None)
        return Run(
            status, self._highs.getInfo().objective_function_value, np.array(self._highs.getSolution().col_value)
        )

    def integer_model(self) -> Any:
        """Return the present relaxation with its integer columns, as a ``HighsLp``."""
        lp = self._highs.getLp()
        lp.integrality_ = self.kinds
        return lp
