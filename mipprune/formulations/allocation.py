"""One option for each layer of a network, so that the sum of errors is least within budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..core.adapters import Masks
from ..core.arrays import as_tensor, exact
from ..core.problem import Problem
from ..errors import InvalidProblem
from ..losses.linear import Linear
from ..structures.multiple_choice import MultipleChoice

__all__ = ["allocation"]


def allocation(
    errors: Sequence[Any], costs: Sequence[Any], budgets: Any, *, pairs: Sequence[Any] = (), name: str = "allocation"
) -> Problem:
    r"""Choose one option (a sparsity, a bit width, a rank, a number of channels) for each layer.

    Parameters
    ----------
    errors : sequence of array, shape (options,)
        For each layer the error that each option causes, in one unit for all layers. Any finite numbers; they need not
        be convex or monotone. Layers may have different numbers of options.
    costs : sequence of array, shape (options,) or (options, resources)
        What each option costs: FLOPs, weights, bytes, seconds from a table of measurements, ...; >= 0.
    budgets : float or array, shape (resources,)
        What all layers may cost together, >= 0.
    pairs : sequence of (int, int, array of shape (options, options[, resources])), optional
        Costs of pairs of options of two layers, see :class:`~mipprune.structures.MultipleChoice`.
    name : str
        For reports.

    Returns
    -------
    Problem
        Its point is one flat 0/1 vector: the options of the first layer, then those of the second, and so on.
        ``problem.structure.supports.options(solution.mask)`` gives the option of each layer.

    Raises
    ------
    InvalidProblem
        On NaN or infinite numbers, negative costs or budgets, empty tables, or tables that do not fit together. Budgets
        below the cheapest options are no error: the solution's status is then ``INFEASIBLE``.

    Notes
    -----
    .. math:: \min_x\; \sum_{lj} E_{lj} x_{lj} \quad\text{s.t. } \sum_j x_{lj} = 1 \;\forall l,\quad
        \sum_{lj} C^r_{lj} x_{lj} \le B_r \;\forall r,\quad x \in \{0,1\}

    ``mp.solve(problem)`` is exact for tables of the size of real networks (54 layers with 101 options each and two
    budgets take about a second), and proves it by its own search; see :class:`~mipprune.structures.MultipleChoice`.

    References
    ----------
    SPDY, arXiv 2201.13096; layer-adaptive allocation by dynamic programming, arXiv 2308.10438; HALP, arXiv 2110.10811.

    Examples
    --------
    >>> import mipprune as mp
    >>> errors = [[9.0, 4.0, 1.0, 0.0], [5.0, 0.0]]
    >>> costs = [[0.0, 1.0, 2.0, 3.0], [0.0, 2.0]]
    >>> problem = allocation(errors, costs, 3.0)
    >>> solution = mp.solve(problem)
    >>> solution.value, problem.structure.supports.options(solution.mask).tolist(), solution.status.value
    (4.0, [1, 1], 'optimal')
    """
    tables = [as_tensor(table, f"errors of layer {number}", ndim=1) for number, table in enumerate(errors)]
    family = MultipleChoice(costs, budgets, pairs)
    sizes = [len(table) for table in tables]
    if sizes != [len(table) for table in family.costs]:
        raise InvalidProblem(
            f"errors are given for {sizes[:8]} options of {len(sizes)} layers, costs for "
            f"{[len(table) for table in family.costs][:8]} of {len(family.costs)}; both need the same options"
        )
    return Problem(Linear(exact(torch.cat(tables))), Masks(family), name)
