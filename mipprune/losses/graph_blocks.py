r"""Graphs in blocks: trees of a few nodes each that together prove a bound of the whole.

Let the nodes be divided into blocks, and let every row i of the pseudo-likelihood be bounded as in
``kernels.graph_bound``, by a vector ``x_i`` and a diagonal ``D_i`` that vanish outside of i's block, S without row and
column i less ``Diag(D_i)`` being positive semidefinite *with* the other blocks. In the sum of the rows a pair within a
block stands exactly as in the problem of its block alone, and a pair across has the slope

    k_ij = 4 S_ij + 2 (S x_i)_j + 2 (S x_j)_i,

of which the first bracket depends on the block of i alone, and the second on that of j. So whatever cells of their
trees the blocks are in, the whole is at least the sum of what the tangents there prove, less the gains
``max_v -k_ij v - r_ij v^2 - price`` of the pairs across where these are positive, with the worst slopes that any
tangents of the trees leave. Where no gain is positive the bounds of the blocks add up: no pair across pays for itself.

Derived here; for the graphical lasso the like is known as covariance thresholding (arXiv 1108.3829, 1111.5479).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.adapters import Sparse
from ..core.arrays import exact, gamma
from ..core.certificate import Certificate, Tangent
from ..core.parts import Part, added_up
from ..core.problem import Problem
from ..core.rational import log_below
from ..core.replay import ON
from ..core.separable import Separable
from ..core.sparse_tree import SparseTree
from ..errors import CertificateError, Unsupported
from ..kernels.graph_appraisal import vectors_of
from ..kernels.pairs import split_pairs
from .graph_cells import shift_of
from .pseudo_likelihood import PseudoLikelihood

__all__ = ["GraphBlocks", "block_parts"]

Array = np.ndarray[Any, Any]
_UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class _Bordered(PseudoLikelihood):
    """The pseudo-likelihood of some nodes of a larger graph; curvature that rows hand over is proven with the others.

    Parameters
    ----------
    whole : Tensor, shape (q, q)
        S of the larger graph.
    members : int64 Tensor, shape (p,)
        Its nodes that are meant, ascending.
    """

    whole: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    members: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    @cached_property
    def frame(self) -> tuple[Array, Array]:
        """See :attr:`PseudoLikelihood.frame`."""
        return np.ascontiguousarray(exact(self.whole).numpy()), self.members.numpy()


def block_parts(problem: Problem, labels: Tensor) -> tuple[Part, ...]:
    """Return the problems of the blocks of at least two nodes, in the order of the labels.

    Parameters
    ----------
    problem : Problem
        Of a :class:`PseudoLikelihood` under ``Sparse(AnySupport(), ...)``, without fixings.
    labels : int64 Tensor, shape (nodes,)
        The block of each node.
    """
    reference, structure, loss = problem.reference, problem.structure, problem.reference.loss
    plain = problem.on is None and problem.off is None and isinstance(structure, Sparse)
    if not plain or not isinstance(loss, PseudoLikelihood) or not isinstance(structure, Sparse):
        raise Unsupported("blocks are for graphical models without fixed pairs")
    if (structure.supports.largest_count(problem.size) or 0) < problem.size:
        raise Unsupported("blocks are for graphical models with a price for each edge and no limit on their number")
    if labels.shape != (loss.nodes,) or labels.dtype != torch.int64:
        raise CertificateError(f"blocks: labels have shape {tuple(labels.shape)}; there are {loss.nodes} nodes")
    loss._require_convex()
    whole = torch.from_numpy(loss.matrix)
    i, j = (torch.from_numpy(side) for side in split_pairs(np.arange(problem.size), loss.nodes))

    def taken(values: Any, entries: Tensor) -> Any:
        many = isinstance(values, Tensor) and values.numel() > 1
        return exact(values).reshape(-1)[entries] if many else values

    found = []
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().ravel()
        if len(members) < 2:
            continue
        entries = ((labels[i] == label) & (labels[j] == label)).nonzero().ravel()
        own = _Bordered(whole[members][:, members], taken(loss.ridge, entries), whole, members)
        box = None if structure.box is None else tuple(taken(side, entries) for side in structure.box)
        inside = Sparse(structure.supports, box, taken(structure.price_per_entry, entries))
        found.append(Part(entries, Problem(own, inside, reference.name)))
    return tuple(found)


def _vectors(certificate: Certificate, part: Problem) -> Iterator[Array]:
    """Yield the vectors of each tangent of a block's certificate: row i is ``x_i``."""
    loss, structure = part.loss, part.structure
    assert isinstance(loss, PseudoLikelihood) and isinstance(structure, Sparse)
    p = loss.nodes
    i, j = split_pairs(np.arange(part.size), p)

    if isinstance(certificate, Tangent):  # a minorant, which has the diagonal of its own point
        point = exact(certificate.point)
        out = np.zeros((p, p))
        out[i, j] = out[j, i] = point.numpy()
        yield out * (1.0 / loss.diagonal(point).numpy())[:, None]
        return
    if not isinstance(certificate, SparseTree):
        raise CertificateError(f"blocks: a {type(certificate).__name__} says nothing about the pairs across")
    if bool((certificate.step_kind > ON).any()):
        raise CertificateError("blocks: a tree narrows intervals, on which the vectors of its tangents would depend")
    leaf = (certificate.index < 0) & (certificate.children[:, 0] < 0)
    if bool((leaf & (certificate.step_start[1:] > certificate.step_start[:-1])).any()):
        raise CertificateError("blocks: a leaf has steps, after which its tangent is another one")
    penalties = loss.penalties(structure.price_per_entry, *(structure.box or (-math.inf, math.inf)))
    tangents = torch.unique(certificate.tangent[certificate.tangent >= 0])
    for number in tangents.tolist():
        place = slice(int(certificate.point_start[number]), int(certificate.point_start[number + 1]))
        dense = np.zeros(part.size)
        dense[certificate.point_entry[place].numpy()] = certificate.point_value[place].numpy()
        split, owner = None, int(certificate.split_of[number])
        if owner >= 0:
            where = slice(int(certificate.split_start[owner]), int(certificate.split_start[owner + 1]))
            split = torch.zeros(loss.split_size, dtype=torch.float64)
            split[certificate.split_entry[where]] = certificate.split_value[where]
        entries = np.flatnonzero(dense)
        yield vectors_of(loss.matrix, entries, dense[entries], shift_of(split, p), penalties).dense()


@dataclass(frozen=True, eq=False)
class GraphBlocks(Certificate):
    """Trees of the blocks of a graphical model, whose bounds add up where no pair across two blocks pays for itself.

    Parameters
    ----------
    labels : int64 Tensor, shape (nodes,)
        The block of each node. Nodes that are alone in theirs need no tree.
    certificates : tuple of Certificate
        A :class:`~mipprune.SparseTree` or a :class:`~mipprune.Tangent` for each block of at least two nodes, in the
        order of the labels.

    Notes
    -----
    The gains of pairs across, where positive, are subtracted; see the module for the proof. Derived here.

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> s = torch.eye(4, dtype=torch.float64)
    >>> s[0, 1] = s[1, 0] = 0.5
    >>> s[2, 3] = s[3, 2] = -0.5
    >>> problem = mp.formulations.graphical_model(s + 1e-3, l0=0.05, l2=0.05, covariance=True)
    >>> solution = mp.solve(problem)
    >>> type(solution.certificate).__name__, solution.certificate.labels.tolist()
    ('GraphBlocks', [0, 0, 1, 1])
    """

    labels: Tensor
    certificates: tuple[Certificate, ...]

    def __len__(self) -> int:
        """Return the number of nodes of all trees."""
        return sum(len(tree) if isinstance(tree, SparseTree) else 1 for tree in self.certificates)

    @property
    def leaves(self) -> int:
        """Number of leaves of all trees."""
        return sum(tree.leaves if isinstance(tree, SparseTree) else 1 for tree in self.certificates)

    @property
    def nbytes(self) -> int:
        """Bytes of all trees."""
        return sum(tree.nbytes for tree in self.certificates if isinstance(tree, SparseTree))

    def _parts(self, problem: Problem) -> tuple[Part, ...]:
        parts = block_parts(problem, self.labels)
        if len(parts) != len(self.certificates):
            raise CertificateError(f"blocks: {len(self.certificates)} certificates for {len(parts)} blocks with pairs")
        return parts

    def gains(self, problem: Problem) -> Tensor:
        """Return upper bounds (size,) of what pairs across blocks may gain; ``-inf`` for pairs within one."""
        loss, structure = problem.reference.loss, problem.structure
        parts = self._parts(problem)
        assert isinstance(loss, PseudoLikelihood) and isinstance(structure, Sparse)
        p, matrix = loss.nodes, loss.matrix
        low, high = 2.0 * matrix, 2.0 * matrix
        size = 2.0 * np.abs(matrix)  # magnitude of the terms, for the rounding of k_ij
        for part, certificate in zip(parts, self.certificates, strict=True):
            members = part.problem.loss.members.numpy()  # type: ignore[attr-defined]
            least, most = np.zeros((2, len(members), p))
            reach = np.zeros((len(members), len(members)))
            for number, vectors in enumerate(_vectors(certificate, part.problem)):
                slope = 2.0 * (vectors @ matrix[members])
                least, most = (slope, slope) if number == 0 else (np.minimum(least, slope), np.maximum(most, slope))
                reach = np.maximum(reach, np.abs(vectors))
            low[members] = low[members] + least
            high[members] = high[members] + most
            size[members] += 2.0 * reach @ np.abs(matrix[members])
        i, j = split_pairs(np.arange(problem.size), p)
        bottom, top = low[i, j] + low[j, i], high[i, j] + high[j, i]
        error = 1.01 * gamma(p + 12) * (size[i, j] + size[j, i])
        middle = 0.5 * (bottom + top)
        width = 0.5 * (top - bottom) * (1.0 + 8.0 * _UNIT) + 1.01 * error
        ridge = 2.0 * exact(torch.as_tensor(loss.ridge, dtype=torch.float64)).expand(problem.shape)
        model = Separable(
            constant=0.0, linear=torch.from_numpy(middle), curvature=ridge, linear_error=torch.from_numpy(width)
        )
        gain = structure.gain_bound(model)
        gain = torch.where(torch.isnan(gain), torch.inf, gain)
        labels = self.labels.numpy()
        return torch.where(torch.from_numpy(labels[i] == labels[j]), -torch.inf, gain)

    def _charge(self, problem: Problem) -> float:
        """An upper bound of the sum of the positive gains across."""
        positive = self.gains(problem).clamp_min(0.0)
        total = math.fsum(positive.tolist())
        return math.nextafter(total, math.inf) if total > 0 else 0.0

    def _alone(self, problem: Problem) -> Fraction:
        """A lower bound of the rows of nodes that are alone, ``1 + log S_ii`` each."""
        loss = problem.reference.loss
        assert isinstance(loss, PseudoLikelihood)
        _, block, count = torch.unique(self.labels, return_inverse=True, return_counts=True)
        alone = (count[block] == 1).nonzero().ravel().tolist()
        return sum((1 + log_below(Fraction(float(loss.matrix[node, node]))) for node in alone), Fraction(0))

    def joined(self, problem: Problem, bounds: list[float]) -> float:
        """Return the bound of the whole from those of the blocks."""
        constant = self._alone(problem)
        below = float(constant)
        below = below if Fraction(below) <= constant else math.nextafter(below, -math.inf)
        return added_up([*bounds, below, -self._charge(problem)])

    def bound(self, problem: Problem) -> float:
        """See :meth:`Certificate.bound`."""
        parts = self._parts(problem)
        pairs = zip(self.certificates, parts, strict=True)
        return self.joined(problem, [certificate.bound(part.problem) for certificate, part in pairs])

    def rational_bound(self, problem: Problem) -> Fraction:
        """See :meth:`Certificate.rational_bound`; the charge for pairs across is the float64 one, rounded up."""
        parts, charge = self._parts(problem), self._charge(problem)
        if not math.isfinite(charge):
            raise CertificateError("blocks: a pair across may gain without limit")
        pairs = zip(self.certificates, parts, strict=True)
        total = sum((certificate.rational_bound(part.problem) for certificate, part in pairs), Fraction(0))
        return total + self._alone(problem) - Fraction(charge)
