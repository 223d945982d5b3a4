"""The exits of canonical data: a SCIP model, a HiGHS model, a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InvalidProblem
from .data import Affine, Array, Canonical

if TYPE_CHECKING:
    import cvxpy

__all__ = ["complete", "to_highs_lp", "to_scip", "write_model"]

SUFFIXES = (".mps", ".lp", ".cip")


def to_highs_lp(canonical: Canonical, extra: tuple[Any, Array] | None = None) -> Any:
    """Return the linear rows, bounds and integrality as a ``HighsModel``; cones are left to the caller.

    Parameters
    ----------
    canonical : Canonical
    extra : (csr array, array), optional
        Further rows ``matrix @ x >= right``.
    """
    import highspy
    from scipy import sparse

    rows = canonical.linear
    matrix, low = rows.matrix, -rows.constant
    high = np.where(np.arange(len(rows)) < canonical.zero, low, np.inf)
    if extra is not None:
        matrix = sparse.vstack([matrix, extra[0]])
        low, high = np.concatenate([low, extra[1]]), np.concatenate([high, np.full(len(extra[1]), np.inf)])
    by_rows = matrix.tocsr()
    model = highspy.HighsModel()
    lp = model.lp_
    lp.num_col_, lp.num_row_ = canonical.columns, by_rows.shape[0]
    lp.col_cost_, lp.offset_ = canonical.cost, canonical.offset
    lp.col_lower_, lp.col_upper_ = canonical.lower, canonical.upper
    lp.row_lower_, lp.row_upper_ = low, high
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.num_col_, lp.a_matrix_.num_row_ = canonical.columns, by_rows.shape[0]
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = by_rows.indptr, by_rows.indices, by_rows.data
    kinds = [highspy.HighsVarType.kContinuous] * canonical.columns
    for column in canonical.integer.tolist():
        kinds[column] = highspy.HighsVarType.kInteger
    lp.integrality_ = kinds if len(canonical.integer) else []
    return model


def to_scip(canonical: Canonical) -> tuple[Any, list[Any]]:
    """Return a PySCIPOpt model with constant and sense of the problem, and its variables, one for each column."""
    import pyscipopt

    model = pyscipopt.Model("mipprune")
    model.hideOutput()
    whole = np.zeros(canonical.columns, dtype=bool)
    whole[canonical.integer] = True
    variables = []
    for column, name in enumerate(canonical.names):
        low, high = float(canonical.lower[column]), float(canonical.upper[column])
        kind = "C" if not whole[column] else ("B" if (low, high) == (0.0, 1.0) else "I")
        variables.append(
            model.addVar(
                name,
                vtype=kind,
                lb=None if low == -np.inf else low,
                ub=None if high == np.inf else high,
                obj=canonical.sign * float(canonical.cost[column]),
            )
        )
    if canonical.sign < 0:
        model.setMaximize()
    model.addObjoffset(canonical.sign * canonical.offset)
    _add_rows(model, variables, canonical)
    return model, variables


def _add_rows(model: Any, variables: list[Any], canonical: Canonical) -> None:
    import pyscipopt

    def expression(columns: Array, coefficients: Array, constant: float) -> Any:
        terms = (value * variables[column] for column, value in zip(columns.tolist(), coefficients.tolist()))
        return pyscipopt.quicksum(terms) + constant

    def term(rows: Affine, index: int, name: str, low: float | None) -> Any:
        """A row as a multiple of one variable, or as a new variable: products are then small."""
        columns, coefficients, constant = rows.row(index)
        if len(columns) == 0:
            return constant
        if len(columns) == 1 and constant == 0:
            column, coefficient = int(columns[0]), float(coefficients[0])
            if low == 0 and (coefficient < 0 or canonical.lower[column] < 0):
                model.addCons(coefficient * variables[column] >= 0, name=f"sign_{name}")
            return coefficient * variables[column]
        new = model.addVar(name, lb=low, ub=None)
        model.addCons(expression(columns, coefficients, constant) == new, name=f"is_{name}")
        return new

    for index in range(len(canonical.linear)):
        columns, coefficients, constant = canonical.linear.row(index)
        left = pyscipopt.quicksum(v * variables[c] for c, v in zip(columns.tolist(), coefficients.tolist()))
        if len(columns):
            model.addCons(left == -constant if index < canonical.zero else left >= -constant, name=f"row_{index}")
        elif constant < -1e-9 or (index < canonical.zero and constant > 1e-9):
            model.addCons(0 * variables[0] >= 1, name=f"row_{index}")
    lifted, fixed, body = canonical.rotated
    for index in range(len(body)):
        square = term(body, index, f"body_{index}", None)
        left, right = term(lifted, index, f"lifted_{index}", 0.0), term(fixed, index, f"fixed_{index}", 0.0)
        model.addCons(square * square <= left * right, name=f"cone_{index}")
    for number, cone in enumerate(canonical.norms):
        head = term(cone, 0, f"head_{number}", 0.0)
        entries = [term(cone, row, f"entry_{number}_{row}", None) for row in range(1, len(cone))]
        model.addCons(pyscipopt.quicksum(e * e for e in entries) <= head * head, name=f"norm_{number}")
    below, share, above = canonical.exponentials
    for index in range(len(below)):
        x, z = term(below, index, f"exponent_{index}", None), term(above, index, f"argument_{index}", 0.0)
        columns, _, constant = share.row(index)
        if len(columns) == 0 and constant > 0:  # x <= y log(z/y) with a constant y: a plain logarithm
            model.addCons(x + constant * math.log(constant) <= constant * pyscipopt.log(z), name=f"log_{index}")
        else:
            y = term(share, index, f"share_{index}", 0.0)
            model.addCons(y * pyscipopt.exp(x / y) <= z, name=f"exp_{index}")


def complete(canonical: Canonical, values: Mapping[str, Array]) -> Array | None:
    """Return all columns, given some variables: the best continuation, so that a start reaches a back end whole.

    Parameters
    ----------
    canonical : Canonical
    values : mapping from variable name to array of its shape
        In the problem's units.

    Returns
    -------
    x : array, shape (columns,), or None
        ``None`` when the values are not feasible, or when they leave a cone undetermined.

    Notes
    -----
    With the given columns fixed, cones become linear rows in their heads, and a linear program finds the rest.
    """
    from scipy import sparse

    x, known = np.zeros(canonical.columns), np.zeros(canonical.columns, dtype=bool)
    for name, value in values.items():
        block = canonical.blocks[name]
        x[block], known[block] = np.asarray(value) * canonical.factor[block], True
    free = (~known).astype(np.float64)

    def is_known(rows: Affine) -> Array:
        untouched: Array = np.asarray(abs(rows.matrix) @ free).ravel() == 0
        return untouched

    lifted, fixed, body = canonical.rotated
    determined = [is_known(fixed), is_known(body), *(is_known(cone)[1:] for cone in canonical.norms)]
    if not all(part.all() for part in determined):
        return None
    factor, square = np.maximum(fixed.at(x), 0.0), body.at(x) ** 2
    least = np.divide(square, factor, out=np.zeros_like(square), where=factor > 0)
    blocks, needs = [lifted.matrix], [least - lifted.constant]
    for cone in canonical.norms:
        blocks.append(cone.matrix[[0]])
        needs.append(np.array([np.linalg.norm(cone.at(x)[1:]) - cone.constant[0]]))
    model = to_highs_lp(canonical, extra=(sparse.vstack(blocks).tocsr(), np.concatenate(needs)))
    model.lp_.col_lower_ = np.where(known, x, canonical.lower)
    model.lp_.col_upper_ = np.where(known, x, canonical.upper)
    return _solve_linear(model)


def _solve_linear(model: Any) -> Array | None:
    import highspy

    highs = highspy.Highs()
    highs.setOptionValue("output_flag", False)
    highs.passModel(model)
    highs.run()
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return np.array(highs.getSolution().col_value)


def write_model(problem: cvxpy.Problem, path: Path) -> None:
    """Write a cvxpy problem as a model file; the suffix decides: ``.mps``, ``.lp`` or ``.cip``.

    Raises
    ------
    InvalidProblem
        For another suffix, or a problem that has no such form.
    """
    if path.suffix not in SUFFIXES:
        raise InvalidProblem(f"cannot write {path.name}: the suffix must be one of {', '.join(SUFFIXES)}")
    model, _ = to_scip(Canonical.from_cvxpy(problem))
    model.writeProblem(str(path), verbose=False)
