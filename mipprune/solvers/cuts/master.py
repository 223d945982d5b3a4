"""The master problem of cutting planes: masks, one column for the value, and the cuts, kept in HiGHS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.canonical import Canonical, to_highs_lp
from ...errors import SolverFailure
from ..exact.outer_approximation import load, set_option
from .cut import Cut

__all__ = ["Master", "MasterRun"]

Array = np.ndarray[Any, Any]
_LARGE = 200_000  # numbers in the cuts of a large master


@dataclass(frozen=True)
class MasterRun:
    """The end of one master: HiGHS's word, its bound, the masks found (best last), multipliers of the cuts, nodes."""

    status: str
    bound: float
    masks: tuple[Array, ...]
    multipliers: Array | None = None
    nodes: int = 0


class Master:
    """Minimise theta over the masks of a family and the cuts ``theta + <gain, z> >= constant``.

    Parameters
    ----------
    rows : Canonical
        The family's constraints (see ``mask_model``); other columns than the mask may occur.
    back_end : callable
        Returns a fresh HiGHS instance with the options of the solver.
    """

    def __init__(self, rows: Canonical, back_end: Callable[[], Any]) -> None:
        self._back_end = back_end
        self.cuts = 0
        self.rebuild(rows, ())

    def rebuild(self, rows: Canonical, cuts: Sequence[Cut]) -> None:
        """Load the constraints of a family and all cuts anew."""
        self.rows, self.mask_columns = rows, rows.blocks["z"].reshape(-1)
        model = to_highs_lp(rows)
        self._highs = self._back_end()
        model.lp_.integrality_ = []
        model.lp_.col_cost_ = np.zeros(rows.columns)
        load(self._highs, model)
        self.family_rows = int(model.lp_.num_row_)
        self._highs.addCol(1.0, -math.inf, math.inf, 0, np.empty(0, dtype=np.int32), np.empty(0))
        self.cuts = 0
        self.add(cuts)

    def replace_rows(self, rows: Canonical, cuts: Sequence[Cut]) -> None:
        """Turn to another family: when only right-hand sides and bounds differ, everything else stays as it is."""
        old = self.rows
        same = (
            rows.columns == old.columns
            and rows.zero == old.zero
            and rows.matrix.shape == old.matrix.shape
            and rows.matrix.nnz == old.matrix.nnz
            and not (abs(rows.matrix - old.matrix)).nnz
        )
        if not same:
            self.rebuild(rows, cuts)
            return
        lp = to_highs_lp(rows).lp_
        for row, (low, high) in enumerate(zip(lp.row_lower_, lp.row_upper_, strict=True)):
            self._highs.changeRowBounds(row, low, high)
        for column, (low, high) in enumerate(zip(lp.col_lower_, lp.col_upper_, strict=True)):
            self._highs.changeColBounds(column, low, high)
        self.rows = rows
        self.add(cuts[self.cuts :])

    def fix(self, on: Array, off: Array) -> None:
        """Fix entries of the mask in the linear relaxation (bool arrays), on top of the family's own bounds."""
        low = np.where(on, 1.0, self.rows.lower[self.mask_columns])
        high = np.where(off, 0.0, self.rows.upper[self.mask_columns])
        count = len(self.mask_columns)
        self._highs.changeColsBounds(count, self.mask_columns.astype(np.int32), low, high)

    @property
    def large(self) -> bool:
        """Whether the cuts are so many numbers that HiGHS should get as few as possible."""
        return self.cuts * len(self.mask_columns) > _LARGE

    def add(self, cuts: Sequence[Cut]) -> None:
        """Append cuts."""
        for cut in cuts:
            used = np.flatnonzero(cut.gain)
            index = np.append(self.mask_columns[used], self.rows.columns).astype(np.int32)
            value = np.append(cut.gain[used], 1.0)
            self._highs.addRow(cut.constant, math.inf, len(index), index, value)
            self.cuts += 1

    def relax(self, seconds: float) -> MasterRun:
        """Solve the linear relaxation from the last basis."""
        import highspy

        highs = self._highs
        set_option(highs, "time_limit", min(highs.getRunTime() + max(seconds, 1e-3), 1e20))
        highs.run()
        if highs.getModelStatus() in (highspy.HighsModelStatus.kUnknown, highspy.HighsModelStatus.kSolveError):
            highs.clearSolver()  # an old basis can be the trouble
            highs.run()
        status = highs.getModelStatus().name
        if status != "kOptimal":
            return MasterRun(status, -math.inf, ())
        solution = highs.getSolution()
        multipliers = np.array(solution.row_dual)[self.family_rows :]
        value = float(highs.getInfo().objective_function_value)
        return MasterRun(status, value, (np.array(solution.col_value)[self.mask_columns],), multipliers)

    def solve(
        self,
        *,
        gap: float,
        seconds: float,
        nodes: int | None,
        start: tuple[Array, float] | None,
        interrupt: Callable[[float], bool],
        idle: Sequence[int] = (),
    ) -> MasterRun:
        """Solve the mixed-integer master in a fresh instance; a large one without presolve.

        Cuts are dense rows of any numbers, from which presolve learns next to nothing: it took a minute, without a look
        at the time limit, for 190 cuts on 2,800 entries whose relaxation is solved in seconds.

        Parameters
        ----------
        gap : float
            Relative gap of the master.
        seconds : float
        nodes : int, optional
        start : (mask, value), optional
            A mask and its best value; ignored when the family has other columns than the mask.
        interrupt : callable
            Receives HiGHS's bound now and then; returning ``True`` stops.
        idle : sequence of int
            Cuts to leave out.

        Raises
        ------
        SolverFailure
            If HiGHS breaks down.
        """
        import highspy

        highs = self._back_end()
        lp = self._highs.getLp()
        kinds = [highspy.HighsVarType.kContinuous] * lp.num_col_
        for column in self.rows.integer.tolist():
            kinds[column] = highspy.HighsVarType.kInteger
        lp.integrality_ = kinds
        set_option(highs, "mip_rel_gap", gap)
        set_option(highs, "time_limit", max(min(seconds, 1e20), 1e-3))
        if nodes is not None:
            set_option(highs, "mip_max_nodes", nodes)
        if self.large:
            set_option(highs, "presolve", "off")
        load(highs, lp)
        if len(idle):
            rows = np.asarray(idle, dtype=np.int32) + self.family_rows
            highs.deleteRows(len(rows), rows)
        if start is not None and self.rows.columns == len(self.mask_columns):
            solution = highspy.HighsSolution()
            values = np.zeros(self.rows.columns + 1)
            values[self.mask_columns], values[-1] = start[0], start[1]
            solution.col_value = values
            highs.setSolution(solution)
        found, errors = self._listen(highs, interrupt)
        highs.run()
        if errors:
            raise errors[0]
        status, info = highs.getModelStatus().name, highs.getInfo()
        if status in ("kUnknown", "kSolveError", "kModelError", "kLoadError", "kPresolveError", "kPostsolveError"):
            raise SolverFailure(f"HiGHS ends with {status}: {highs.modelStatusToString(highs.getModelStatus())}")
        if highs.getSolution().value_valid and status != "kInfeasible":
            found.append(np.array(highs.getSolution().col_value)[self.mask_columns])
        bound = float(info.mip_dual_bound) if status != "kInfeasible" else -math.inf
        return MasterRun(status, bound, tuple(found), nodes=max(int(info.mip_node_count), 0))

    def _listen(self, highs: Any, interrupt: Callable[[float], bool]) -> tuple[list[Array], list[BaseException]]:
        """Collect improving masks and ask whether to stop; exceptions are kept for after the run."""
        found: list[Array] = []
        errors: list[BaseException] = []

        def improving(event: Any) -> None:
            found.append(np.array(event.data_out.mip_solution)[self.mask_columns])

        def asked(event: Any) -> None:
            try:
                stop = interrupt(float(event.data_out.mip_dual_bound))
            except BaseException as error:  # nothing may pass through HiGHS's C++ code; raised again after the run
                errors.append(error)
                stop = True
            if stop:
                event.data_in.user_interrupt = True

        highs.cbMipImprovingSolution.subscribe(improving)
        highs.cbMipInterrupt.subscribe(asked)
        return found, errors
