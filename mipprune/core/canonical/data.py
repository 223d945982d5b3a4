"""The canonical data of a mixed-integer cvxpy problem.

Facts about cvxpy's lowering that matter to a bound are handled here and nowhere else: the constant and the sense that
its solver interfaces drop, missing bounds, bounds of binaries, the order of cone rows and of matrix entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import InvalidProblem

if TYPE_CHECKING:
    import cvxpy

__all__ = ["LOGARITHMS", "Affine", "Array", "Canonical"]

Array = np.ndarray[Any, Any]

LOGARITHMS = frozenset({"log", "entr", "log1p", "kl_div", "rel_entr"})
"""cvxpy atoms that become exponential cones, which SCIP takes and HiGHS does not."""


@dataclass(frozen=True, eq=False)
class Affine:
    """Rows ``matrix @ x + constant``; the matrix is a scipy csr array of shape (rows, columns)."""

    matrix: Any
    constant: Array

    def at(self, x: Array) -> Array:
        """Return the values at ``x``, shape (rows,)."""
        values: Array = self.matrix @ x + self.constant
        return values

    def row(self, index: int) -> tuple[Array, Array, float]:
        """Return (columns, coefficients, constant) of one row."""
        start, end = self.matrix.indptr[index], self.matrix.indptr[index + 1]
        return self.matrix.indices[start:end], self.matrix.data[start:end], float(self.constant[index])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.constant)


@dataclass(frozen=True, eq=False)
class Canonical:
    r"""Minimise ``cost @ x + offset`` over linear rows, second-order and exponential cones, bounds and integer columns.

    Build it with :meth:`from_cvxpy`.

    Attributes
    ----------
    cost : array, shape (columns,)
    matrix : scipy csc array, shape (rows, columns)
    right : array, shape (rows,)
        ``right - matrix @ x`` is 0 in the first ``zero`` rows, >= 0 in the next ``nonneg``, and in second-order cones
        of the sizes ``soc`` after those (first row of each: the head), and in ``exponential`` cones of three rows
        ``y exp(x/y) <= z`` at the end.
    lower, upper : array, shape (columns,)
        Bounds, infinite where there are none; binaries are within [0, 1].
    integer : int array
        Sorted integer columns, binaries included.
    offset, sign, unit : float
        The value of the problem is ``sign * unit * (cost @ x + offset)``, see :meth:`restored`.
    factor : array, shape (columns,)
        ``x = factor * x_original`` after :meth:`scaled`.
    blocks : mapping from variable name to int array of the variable's shape
        The columns of each cvxpy variable.

    Notes
    -----
    A cone of three rows (h, a, b) says :math:`a^2 \le (h - b)(h + b)`. Where the two factors have no column in common,
    it is kept in that rotated form: squares (one factor constant) and perspectives (one factor a binary) are such.

    Examples
    --------
    >>> import cvxpy as cp
    >>> x = cp.Variable(2, boolean=True, name="x")
    >>> canonical = Canonical.from_cvxpy(cp.Problem(cp.Maximize(x[0] + x[1] + 5), [x[0] + x[1] <= 1]))
    >>> float(canonical.restored(canonical.cost @ [1, 0] + canonical.offset))
    6.0
    """

    cost: Array
    matrix: Any
    right: Array
    zero: int
    nonneg: int
    soc: tuple[int, ...]
    lower: Array
    upper: Array
    integer: Array
    offset: float
    blocks: Mapping[str, Array]
    factor: Array
    sign: float = 1.0
    unit: float = 1.0
    exponential: int = 0

    @classmethod
    def from_cvxpy(cls, problem: cvxpy.Problem) -> Canonical:
        """Lower a cvxpy problem whose convex part is linear, quadratic, second-order conic, or made of logarithms.

        Raises
        ------
        InvalidProblem
            If cvxpy cannot lower it: not convex, or with cones that SCIP and HiGHS do not know.
        """
        import cvxpy as cp

        try:
            with np.errstate(invalid="ignore"):  # cvxpy multiplies infinite bounds by zero on the way
                data, chain, _ = problem.get_problem_data(_interface(problem))
        except (cp.error.DCPError, cp.error.SolverError) as error:
            raise InvalidProblem(
                f"cvxpy cannot bring the model into linear and second-order cone form: {error}"
            ) from error
        parametric = data["param_prob"]
        columns = len(data["c"])
        matrix = data["A"].tocsc()
        matrix.eliminate_zeros()
        lower, upper = (
            np.full(columns, fill) if data[key] is None else np.array(data[key], dtype=np.float64)
            for key, fill in (("lower_bounds", -np.inf), ("upper_bounds", np.inf))
        )
        binary = np.array(sorted(data["bool_vars_idx"]), dtype=np.int64)
        lower[binary], upper[binary] = np.maximum(lower[binary], 0.0), np.minimum(upper[binary], 1.0)
        flipped = any(type(reduction).__name__ == "FlipObjective" for reduction in chain.reductions)
        dims = data["dims"]
        return cls(
            cost=np.asarray(data["c"], dtype=np.float64),
            matrix=matrix,
            right=np.asarray(data["b"], dtype=np.float64),
            zero=int(dims.zero),
            nonneg=int(dims.nonneg),
            soc=tuple(int(size) for size in dims.soc),
            lower=lower,
            upper=upper,
            integer=np.array(sorted({*binary.tolist(), *data["int_vars_idx"]}), dtype=np.int64),
            offset=float(parametric.apply_parameters()[1]),
            blocks=_blocks(problem, parametric.var_id_to_col),
            factor=np.ones(columns),
            sign=-1.0 if flipped else 1.0,
            exponential=int(dims.exp),
        )

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.cost)

    @property
    def is_linear(self) -> bool:
        """Whether there is no cone."""
        return not self.soc and not self.exponential

    @cached_property
    def names(self) -> list[str]:
        """One name for each column: the variable's with its indices, or a running one for auxiliary columns."""
        names = [f"aux_{column}" for column in range(self.columns)]
        for name, block in self.blocks.items():
            for index in np.ndindex(block.shape):
                names[block[index]] = "_".join([name, *map(str, index)])
        return names

    def restored(self, raw: float) -> float:
        """Return a raw value or bound (minimised, offset included) in the units and sense of the problem."""
        return self.sign * self.unit * raw

    def values(self, x: Array, name: str) -> Array:
        """Return the value of a variable in the problem's units, given all columns."""
        block = self.blocks[name]
        values: Array = x[block] / self.factor[block]
        return values

    def scaled(self, unit: float, factors: Mapping[str, Array] | None = None) -> Canonical:
        """Return the same model with its objective divided by ``unit`` and variables multiplied by factors.

        Parameters
        ----------
        unit : float
            > 0; about the value of a good point, so that a solver sees objective values of about 1.
        factors : mapping from variable name to array of its shape
            > 0; must be 1 on integer columns.
        """
        from scipy import sparse

        step = np.ones(self.columns)
        for name, values in (factors or {}).items():
            step[self.blocks[name]] = values
        if not unit > 0 or not bool((step > 0).all()) or bool((step[self.integer] != 1).any()):
            raise InvalidProblem("scales must be positive, and 1 on integer columns")
        return replace(
            self,
            cost=self.cost / step / unit,
            matrix=(self.matrix @ sparse.diags_array(1.0 / step)).tocsc(),
            lower=self.lower * step,
            upper=self.upper * step,
            offset=self.offset / unit,
            factor=self.factor * step,
            unit=self.unit * unit,
        )

    def _slack(self, rows: Array) -> Affine:
        """``right - matrix @ x`` on some rows."""
        matrix = (-self._by_rows[rows]).tocsr()
        matrix.eliminate_zeros()
        return Affine(matrix, self.right[rows])

    @cached_property
    def _by_rows(self) -> Any:
        return self.matrix.tocsr()

    @cached_property
    def linear(self) -> Affine:
        """Linear rows as slacks: the first ``zero`` vanish, the others are >= 0."""
        return self._slack(np.arange(self.zero + self.nonneg))

    @cached_property
    def _cones(self) -> tuple[tuple[Affine, Affine, Affine], list[Affine]]:
        starts = self.zero + self.nonneg + np.concatenate([[0], np.cumsum(self.soc)[:-1]]).astype(np.int64)
        small = np.array([size == 3 for size in self.soc], dtype=bool)
        three = starts[small] if len(small) else starts[:0]
        # Either row beside the head may be the one that makes two separate factors with it.
        pairs = [self._factors(three, three + step) for step in (2, 1)]
        last = np.where(pairs[0][2], 2, 1)
        low, high, separate = self._factors(three, three + last)
        whole = np.zeros(self.columns)
        whole[self.integer] = 1.0
        # When a point is lifted onto the cone, the factor that stays put is the constant or the integer one.
        put = np.diff(low.matrix.indptr) == _pattern(low.matrix) @ whole
        lifted, fixed = _choose(put, high, low), _choose(put, low, high)
        body = self._slack(three + 3 - last)
        rotated = [Affine(side.matrix[separate], side.constant[separate]) for side in (lifted, fixed, body)]
        done = set(three[separate].tolist())
        norms = [
            self._slack(np.arange(start, start + size))
            for start, size in zip(starts.tolist(), self.soc)
            if start not in done
        ]
        return (rotated[0], rotated[1], rotated[2]), norms

    def _factors(self, heads: Array, others: Array) -> tuple[Affine, Affine, Array]:
        """Head minus and head plus another row, and whether they have no column in common."""
        head, other = self._slack(heads), self._slack(others)
        low = Affine((head.matrix - other.matrix).tocsr(), head.constant - other.constant)
        high = Affine((head.matrix + other.matrix).tocsr(), head.constant + other.constant)
        for side in (low, high):
            side.matrix.eliminate_zeros()
        common = _pattern(low.matrix).multiply(_pattern(high.matrix)).sum(axis=1)
        return low, high, np.asarray(common).ravel() == 0

    @property
    def rotated(self) -> tuple[Affine, Affine, Affine]:
        """Cones ``body**2 <= lifted * fixed`` with both factors >= 0, as (lifted, fixed, body), a row for each cone."""
        return self._cones[0]

    @property
    def norms(self) -> list[Affine]:
        """Cones ``|rows[1:]| <= rows[0]``."""
        return self._cones[1]

    @cached_property
    def exponentials(self) -> tuple[Affine, Affine, Affine]:
        """Cones ``y exp(x/y) <= z`` with y > 0, as (x, y, z), a row for each cone."""
        first = self.zero + self.nonneg + sum(self.soc)
        rows = first + 3 * np.arange(self.exponential)
        return self._slack(rows), self._slack(rows + 1), self._slack(rows + 2)


def _interface(problem: cvxpy.Problem) -> Any:
    """Return the name of cvxpy's interface to SCIP, or that interface with exponential cones, for logarithms."""
    import cvxpy as cp

    if not {atom.__name__ for atom in problem.atoms()} & LOGARITHMS:
        return cp.SCIP
    from cvxpy.constraints import ExpCone
    from cvxpy.reductions.solvers.conic_solvers.scip_conif import SCIP

    class WithLogarithms(SCIP):
        SUPPORTED_CONSTRAINTS: ClassVar[list[Any]] = [*SCIP.SUPPORTED_CONSTRAINTS, ExpCone]
        MI_SUPPORTED_CONSTRAINTS = SUPPORTED_CONSTRAINTS

        def name(self) -> str:
            return "SCIP with logarithms"

        def format_constraints(self, problem: Any, exp_cone_order: Any) -> Any:
            return super().format_constraints(problem, [0, 1, 2])

    return WithLogarithms()


def _pattern(matrix: Any) -> Any:
    return (matrix != 0).astype(np.float64)


def _choose(first: Array, yes: Affine, no: Affine) -> Affine:
    """Rows of ``yes`` where ``first`` holds, of ``no`` elsewhere."""
    from scipy import sparse

    keep, drop = sparse.diags_array(first.astype(np.float64)), sparse.diags_array((~first).astype(np.float64))
    matrix = (keep @ yes.matrix + drop @ no.matrix).tocsr()
    matrix.eliminate_zeros()
    return Affine(matrix, np.where(first, yes.constant, no.constant))


def _blocks(problem: cvxpy.Problem, first_columns: Mapping[int, int]) -> dict[str, Array]:
    blocks: dict[str, Array] = {}
    for variable in problem.variables():
        if variable.id not in first_columns:
            continue
        name = variable.name() if variable.name() not in blocks else f"{variable.name()}_{variable.id}"
        columns = first_columns[variable.id] + np.arange(variable.size)
        blocks[name] = columns.reshape(variable.shape, order="F")
    return blocks
