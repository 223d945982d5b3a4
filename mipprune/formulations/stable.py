"""Stable rule sets: accurate, small, and made of rules that the ensemble selects often (MOSS)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import as_tensor
from ..core.problem import Problem
from ..errors import InvalidProblem
from ..rules import RuleMatrix
from ..structures import Stable
from ..structures.partition import check_count
from .rules import rule_selection

__all__ = ["most_frequent", "stability_levels", "stable_rules"]


def stable_rules(
    rules: Any,
    response: Any,
    *,
    count: int,
    least: int = 0,
    frequencies: Any = None,
    gamma: float = 0.01,
    loss: str = "squared",
    sample_weight: Any = None,
    name: str = "stable rules",
) -> Problem:
    r"""Choose at most ``count`` rules whose selection frequencies add up to ``least``, as accurate as possible.

    Parameters
    ----------
    rules : RuleMatrix, or array (n, p)
        Columns of the rules over the training samples; of a RuleMatrix the counts are the frequencies.
    response : array (n,)
        Standardised response, or labels 0/1 for the logistic loss. There is no intercept: center the response first.
    count : int
        Largest number of rules (15 in the published experiments).
    least : int
        Least sum of the frequencies of the chosen rules, counted in trees: the stability of the set.
    frequencies : whole numbers (p,), optional
        How often each rule was selected.
    gamma : float
        Weight of the data against the ridge, > 0: the penalty is ``1/(2 gamma) ||w||^2``.
    loss : {"squared", "logistic"}
    sample_weight : array (n,), optional
        Weights of the samples, >= 0.
    name : str
        For reports.

    Returns
    -------
    Problem

    Raises
    ------
    InvalidProblem
        On wrong shapes, frequencies that are no counts, or when no set of ``count`` rules is as stable as ``least``.

    Notes
    -----
    .. math:: \min_{w, z}\; \tfrac12\|y - Mw\|^2 + \tfrac1{2\gamma}\|w\|^2 \quad\text{s.t. } w_j(1 - z_j) = 0,\;
        \sum_j z_j \le k,\; \sum_j f_j z_j \ge \varepsilon,\; z \in \{0,1\}^p

    is one point of the Pareto frontier between accuracy and stability. :func:`stability_levels` is the published list
    of levels; ``mipprune.solvers.frontier`` solves the chain of problems with one pool of cuts.

    References
    ----------
    arXiv 2506.08030 (MOSS).

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> columns = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> response = torch.tensor([2.0, 2.0, -1.0, -3.0])
    >>> problem = stable_rules(columns, response, count=2, least=5, frequencies=[4, 2, 1], gamma=10.0)
    >>> mp.solve(problem, mp.solvers.CuttingPlanes()).mask.tolist()
    [True, False, True]
    """
    if frequencies is None:
        if not isinstance(rules, RuleMatrix):
            raise InvalidProblem("frequencies are missing: how often each rule was selected; a RuleMatrix brings them")
        frequencies = rules.count
    problem = rule_selection(
        rules, response, gamma=gamma, count=count, antichain=False, loss=loss, sample_weight=sample_weight
    )
    supports = Stable(count, as_tensor(frequencies, "frequencies"), least)
    supports.check_shape(problem.shape)
    top = int(supports.frequencies.topk(min(supports.count, problem.size)).values.sum())
    if supports.least > top:
        raise InvalidProblem(
            f"least is {supports.least}, but the {supports.count} most frequent rules reach {top}; no set is as stable"
        )
    return Problem(problem.loss, Sparse(supports), name)


def stability_levels(frequencies: Any, count: int) -> tuple[int, ...]:
    """Return the published list of least frequencies, the largest first.

    Parameters
    ----------
    frequencies : whole numbers (p,)
    count : int
        Number of rules k, >= 1.

    Returns
    -------
    tuple of int
        The distinct sums of k consecutive frequencies in sorted order. The first one admits only sets as frequent as
        the k most frequent rules; each further one slides the window down by one.

    Examples
    --------
    >>> stability_levels([5, 3, 3, 1], 2)
    (8, 6, 4)
    """
    ordered = np.sort(_counts(frequencies))[::-1]
    k = min(check_count(count, "count"), len(ordered))
    if k < 1:
        raise InvalidProblem(f"count is {count} for {len(ordered)} rules; at least one rule must be allowed")
    sums = np.concatenate([[0], np.cumsum(ordered)])
    return tuple(sorted({int(total) for total in sums[k:] - sums[:-k]}, reverse=True))


def most_frequent(frequencies: Any, count: int) -> Tensor:
    """Return the most frequent rules: the set that SIRUS selects.

    Parameters
    ----------
    frequencies : whole numbers (p,)
    count : int
        Largest number of rules.

    Returns
    -------
    bool Tensor, shape (p,)
        A tie across the boundary is not broken: all rules that are as frequent as the first one left out are left out.

    Examples
    --------
    >>> most_frequent([5, 1, 3, 3], 2).tolist()
    [True, False, False, False]
    """
    found = _counts(frequencies)
    k = check_count(count, "count")
    if k >= len(found):
        return torch.ones(len(found), dtype=torch.bool)
    boundary = np.sort(found)[::-1][k]
    return torch.from_numpy(found > boundary)


def _counts(frequencies: Any) -> np.ndarray[Any, Any]:
    found = as_tensor(frequencies, "frequencies", ndim=1).double()
    if bool((found < 0).any()) or bool((found != found.round()).any()):
        raise InvalidProblem("frequencies must be whole numbers >= 0: how often each rule was selected")
    return found.numpy().astype(np.int64)
