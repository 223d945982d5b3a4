"""Problems that fall apart: independent parts, and the certificate that adds up the bounds of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import CertificateError
from .certificate import Certificate
from .problem import Problem

__all__ = ["Part", "Parts", "largest_part", "parts_of"]

Labels = np.ndarray[Any, np.dtype[np.int64]]


class Part(NamedTuple):
    """One of several independent problems whose values add up to that of the whole."""

    entries: Tensor
    """int64, flat indices of its entries in the whole problem, ascending"""
    problem: Problem
    """over these entries, in this order; float64 on the CPU"""


def parts_of(problem: Problem) -> tuple[Part, ...]:
    """Return the independent parts of a problem, in the order of their first entries.

    Parameters
    ----------
    problem : Problem

    Returns
    -------
    tuple of Part
        Empty unless there are at least two. The value of a point is the sum of the values of its pieces, in exact
        arithmetic, and a point is in S exactly when its pieces are in the sets of the parts.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> problem = mp.formulations.layerwise(torch.ones(3, 4), torch.eye(4), mp.NofM(2, 4))
    >>> [part.entries.tolist() for part in parts_of(problem)]
    [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    """
    component = _components(problem)
    if component is None:
        return ()
    reference = problem.reference
    order = np.argsort(component, kind="stable")
    found: list[Part] = []
    for flat in np.split(order, np.flatnonzero(np.diff(component[order])) + 1):
        entries = torch.from_numpy(flat)
        chosen = torch.zeros(problem.size, dtype=torch.bool)
        chosen[entries] = True
        chosen = chosen.reshape(problem.shape)
        loss = reference.loss.part(chosen, first=not found)
        structure = problem.structure.part(chosen, loss.shape)
        on, off = (None if side is None else side[chosen].reshape(loss.shape) for side in (problem.on, problem.off))
        found.append(Part(entries, Problem(loss, structure, problem.name, on, off)))
    return tuple(found)


def largest_part(problem: Problem) -> int:
    """Return the number of entries of the largest part, without building any."""
    component = _components(problem)
    return problem.size if component is None else int(np.bincount(component).max())


def _components(problem: Problem) -> Labels | None:
    """Number the part of each entry; ``None`` when there is but one."""
    loss = problem.reference.loss.linked(problem.allowed)
    structure = problem.structure.linked(problem.shape)
    if loss is None or structure is None:
        return None
    component = _joined(loss.ravel().numpy(), structure.ravel().numpy())
    return component if component.max(initial=0) > 0 else None


def _joined(one: Labels, other: Labels) -> Labels:
    """Number the components of the relation that either labelling joins two entries, by their first entries."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, columns = (np.unique(labels, return_inverse=True)[1] for labels in (one, other))
    height, width = rows.max(initial=-1) + 1, columns.max(initial=-1) + 1
    edges = coo_matrix((np.ones(len(rows)), (rows, height + columns)), shape=(height + width, height + width))
    component = connected_components(edges, directed=False)[1][rows]
    _, first, number = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number]


@dataclass(frozen=True, eq=False)
class Parts(Certificate):
    """Certificates of the independent parts of a problem; their bounds add up.

    Parameters
    ----------
    certificates : tuple of Certificate
        One for each part, in the order of :func:`parts_of`, which is evaluated anew whenever the bound is.
    """

    certificates: tuple[Certificate, ...]

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self.certificates)

    def _paired(self, problem: Problem) -> list[tuple[Certificate, Problem]]:
        parts = parts_of(problem)
        if not parts or len(parts) != len(self.certificates):  # of one part it would add up nothing
            raise CertificateError(f"parts: {len(self.certificates)} certificates for {len(parts)} independent parts")
        return [(certificate, part.problem) for certificate, part in zip(self.certificates, parts, strict=True)]

    def bound(self, problem: Problem) -> float:
        """See :meth:`Certificate.bound`."""
        return added_up([certificate.bound(part) for certificate, part in self._paired(problem)])

    def rational_bound(self, problem: Problem) -> Fraction:
        """See :meth:`Certificate.rational_bound`."""
        return sum((certificate.rational_bound(part) for certificate, part in self._paired(problem)), Fraction(0))


def added_up(bounds: Sequence[float]) -> float:
    """Return a lower bound of the sum of bounds: ``inf`` when a part has no point, ``-inf`` when one proves nothing."""
    if any(math.isnan(bound) for bound in bounds):
        return -math.inf
    if math.inf in bounds:  # one empty part leaves no point at all
        return math.inf
    if -math.inf in bounds:
        return -math.inf
    try:
        return math.nextafter(math.fsum(bounds), -math.inf)  # fsum rounds once
    except OverflowError:
        return -math.inf
