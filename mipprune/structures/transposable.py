"""Transposable N:M sparsity: N of every M along the inputs and, for the transposed weights, along the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ..core.arrays import UNIT_ROUNDOFF, accurate_sum, exact, gamma
from ..core.structure import Selection, Supports, Witness
from ..errors import CertificateError, InvalidProblem
from ..kernels.transport import Rest, Transport, solve_blocks
from .partition import check_count, check_fixings, restricted

__all__ = ["TransposableNofM"]

_CHUNK = 1 << 18  # entries whose bound is evaluated at once, within the cache
_PADDING = 0.03  # weight of padding over the largest of its block where it is spread: with none at all it is stiff


@dataclass(frozen=True, eq=False)
class TransposableNofM(Supports):
    r"""Masks with ``n`` kept entries in each row and each column of every m x m block.

    Parameters
    ----------
    n : int
        Kept entries of a line of a block, 1 <= n <= m.
    m : int
        Size of a block. A side of the array that m does not divide is padded with zeros for the choice, and the mask is
        cut to the array: lines of a cut block may then have fewer than n.
    sense : {"exact", "at_most"}
        Exactly n, as in the literature, or at most n, which is all that hardware needs and can be worth more.

    Notes
    -----
    A block is a transportation problem, whose polytope is integral: no branching is ever needed. Potentials
    :math:`u, v` of the rows and columns of a block bound the kept scores of any admissible mask,

    .. math:: \sum_{ij} A_{ij}S_{ij} \le n\sum_i u_i + n\sum_j v_j + \sum_{ij}\max(0, A_{ij}-u_i-v_j),

    with u, v >= 0 where at most n are kept; a fixed entry contributes :math:`A_{ij}-u_i-v_j` or nothing. The potentials
    are the witness of a selection, float64 of shape (blocks, 2, m).

    A set of weights is in the family when its support fits into an admissible mask.

    References
    ----------
    Hubara et al., arXiv 2102.08124; TSENOR, arXiv 2505.23949. Sweeps: the zero-temperature limit of entropic transport,
    close to belief propagation for b-matching, arXiv 0709.1190 and 0705.0760.

    Examples
    --------
    Completing a mask can cost value: 4 with exactly two of three, 5 with at most two.

    >>> import torch
    >>> scores = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    >>> TransposableNofM(2, 3).select(scores).value, TransposableNofM(2, 3, "at_most").select(scores).value
    (4.0, 5.0)
    """

    n: int
    m: int
    sense: str = "exact"
    on: Tensor | None = None
    off: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", check_count(self.n, "n"))
        object.__setattr__(self, "m", check_count(self.m, "m"))
        if not 1 <= self.n <= self.m:
            raise InvalidProblem(f"TransposableNofM({self.n}, {self.m}): n kept entries of m need 1 <= n <= m")
        if self.sense not in ("exact", "at_most"):
            raise InvalidProblem(f"sense is {self.sense!r}; choose 'exact' or 'at_most'")

    @property
    def at_most(self) -> bool:
        """Whether lines may keep fewer than ``n``."""
        return self.sense == "at_most"

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """See :meth:`Supports.check_shape`."""
        if len(shape) != 2:
            raise InvalidProblem(f"transposable masks need a matrix; the array has shape {shape}")
        check_fixings(self.on, self.off, tuple(shape))

    def window(self) -> int:
        """See :meth:`Supports.window`: a column of blocks."""
        return self.m

    # ------------------------------------------------------------------------------------------ blocks

    def blocks(self, array: Tensor, fill: float = 0.0) -> Tensor:
        """Return the blocks of a matrix, padded with ``fill``: shape (blocks, m, m), row of blocks by row."""
        self.check_shape(tuple(array.shape))
        rows, columns = array.shape
        below, right = -rows % self.m, -columns % self.m
        if below or right:
            array = torch.nn.functional.pad(array, (0, right, 0, below), value=fill)
        cut = array.reshape(array.shape[0] // self.m, self.m, array.shape[1] // self.m, self.m)
        return cut.transpose(1, 2).reshape(-1, self.m, self.m)

    def matrix(self, blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the matrix of given shape whose :meth:`blocks` are given, without the padding."""
        down, across = -(-shape[0] // self.m), -(-shape[1] // self.m)
        grid = blocks.reshape(down, across, self.m, self.m).transpose(1, 2)
        return grid.reshape(down * self.m, across * self.m)[: shape[0], : shape[1]].contiguous()

    def _padded(self, shape: tuple[int, ...]) -> bool:
        return bool(shape[0] % self.m or shape[1] % self.m)

    def _signs(self, device: torch.device, on: Tensor | None = None, off: Tensor | None = None) -> Tensor | None:
        """Fixings with additional ones, as the kernels take them; ``None`` when there are none."""
        sides = []
        for own, other in ((self.on, on), (self.off, off)):
            given = [side.to(device) for side in (own, other) if side is not None]
            sides.append(None if not given else given[0] if len(given) == 1 else given[0] | given[1])
        if sides[0] is None and sides[1] is None:
            return None
        signs = torch.zeros((sides[0] if sides[0] is not None else sides[1]).shape, dtype=torch.int8, device=device)  # type: ignore[union-attr]
        if sides[0] is not None:
            signs[sides[0]] = 1
        if sides[1] is not None:
            signs[sides[1]] = -1
        return self.blocks(signs)

    # ------------------------------------------------------------------------------------------ selection

    def _finite(self, gain: Tensor) -> Tensor:
        """Gains with infinite ones replaced by a number larger than any sum of the others."""
        if bool(torch.isfinite(gain).all()):
            return gain
        if bool((torch.isnan(gain) | (gain == -torch.inf)).any()):
            raise InvalidProblem("the gains contain NaN or -inf; clean the scores before choosing a mask")
        finite = torch.where(torch.isinf(gain), 0.0, gain.double())
        large = 2.0 * self.m * self.m * float(finite.abs().max()) + 1.0
        return torch.where(torch.isinf(gain), large, finite)

    def solve(
        self,
        gain: Tensor,
        start: tuple[Tensor, Tensor] | None = None,
        *,
        sweeps: int | None = None,
        rest: Rest = "repair",
    ) -> Transport:
        """Return masks and potentials of all blocks.

        Parameters
        ----------
        gain : Tensor, shape (out, in)
        start : (Tensor, Tensor), optional
            Potentials (blocks, m) of similar gains, to start from.
        sweeps : int, optional
            Most sweeps of a block.
        rest : {"repair", "complete", "round"}
            Blocks that the sweeps leave open are made exact, by potentials in the middle of where they may be; or more
            quickly, by any; or, unless entries are fixed, rounded, and the potentials say how good the masks are.

        Raises
        ------
        InvalidProblem
            If the gains are no matrix or contain NaN or -inf, or a setting is none of the above.
        """
        if rest not in ("repair", "complete", "round"):
            raise InvalidProblem(f"rest is {rest!r}; choose 'repair', 'complete' or 'round'")
        if sweeps is not None and (not isinstance(sweeps, int) or sweeps < 0):
            raise InvalidProblem(f"sweeps is {sweeps!r}; give a whole number >= 0, or None for as many as it takes")
        scores = self.blocks(self._finite(gain.detach()))
        lines = tuple(scores.shape[:2])
        if start is not None and [tuple(potentials.shape) for potentials in start] != [lines, lines]:
            shapes = ", ".join(str(tuple(potentials.shape)) for potentials in start)
            raise InvalidProblem(f"start has potentials of shapes {shapes}; those of rows and of columns have {lines}")
        if scores.dtype not in (torch.float32, torch.float64):  # no narrow number is lost in a wide one
            scores = scores.float() if scores.is_floating_point() else scores.double()
        fixed = self._signs(gain.device)
        return solve_blocks(scores, self.n, at_most=self.at_most, fixed=fixed, start=start, sweeps=sweeps, rest=rest)

    def keep(self, gain: Tensor) -> Tensor:
        """See :meth:`Supports.keep`."""
        return self.matrix(self.solve(gain).mask, tuple(gain.shape))

    def keeper(self) -> Callable[[Tensor], Tensor]:
        """See :meth:`Supports.keeper`: each call starts from the potentials of the call before."""
        last: list[tuple[Tensor, Tensor]] = []

        def keep(gain: Tensor) -> Tensor:
            start = last[0] if last and len(last[0][0]) == _count(gain.shape, self.m) else None
            found = self.solve(gain, start, rest="complete")
            last[:] = [(found.rows, found.columns)]
            return self.matrix(found.mask, tuple(gain.shape))

        return keep

    def selection(self, gain: Tensor, found: Transport) -> Selection:
        """Return masks and potentials of blocks as the selection for ``gain``, bounded by the potentials."""
        mask = self.matrix(found.mask, tuple(gain.shape))
        if not bool(found.feasible.all()) or self._contradicts():
            return Selection(mask, -torch.inf, -torch.inf)
        witness = torch.stack([found.rows, found.columns], dim=1).cpu()
        kept = exact(gain)[mask.cpu()]
        value = math.inf if bool(torch.isinf(kept).any()) else accurate_sum(kept)[0]
        return Selection(mask, value, self.select_bound(gain, witness), witness)

    def select(self, gain: Tensor) -> Selection:
        """See :meth:`Supports.select`; exact, with the potentials as witness."""
        return self.selection(gain, self.solve(gain))

    def _contradicts(self) -> bool:
        return self.on is not None and self.off is not None and bool((self.on & self.off).any())

    def select_bound(self, gain: Tensor, witness: Witness) -> float:
        """See :meth:`Supports.select_bound`: the dual value of the potentials, rounded up."""
        if witness is None:
            return self.select(gain).bound
        shape = (_count(gain.shape, self.m), 2, self.m)
        potentials = exact(witness)
        if tuple(potentials.shape) != shape or not bool(torch.isfinite(potentials).all()):
            raise CertificateError(
                f"the witness has shape {tuple(witness.shape)}; finite potentials of shape {shape} are needed "
                "(two for each of the lines of every block)"
            )
        if self.at_most:
            potentials = potentials.clamp_min(0.0)
        scores, signs = exact(gain), self._signs(torch.device("cpu"))
        infinite = torch.isinf(scores)
        if bool((torch.isnan(scores) | (scores == -torch.inf)).any()):
            raise InvalidProblem("the gains contain NaN or -inf; clean the scores before bounding a mask")
        if bool(infinite.any()):
            if self.off is None or bool((infinite & ~self.off.cpu()).any()):
                return math.inf
            scores = torch.where(infinite, 0.0, scores)  # a pruned entry enters no bound
        parts = self.blocks(scores)
        limit = max(1, _CHUNK // (self.m * self.m))
        total, error = 0.0, 0.0
        for first in range(0, len(parts), limit):
            part = slice(first, first + limit)
            value, rounding = _dual(parts[part], potentials[part], self.n, None if signs is None else signs[part])
            total, error = total + value, error + rounding
        bound = total + error + 2.0 * UNIT_ROUNDOFF * (abs(total) + error) * (len(parts) // limit + 2)
        return math.inf if math.isnan(bound) else bound  # sums of both signs overflow

    # ------------------------------------------------------------------------------------------ membership

    def _lines(self, mask: Tensor) -> Tensor:
        """Kept entries of the rows and columns of every block, (blocks, 2 m)."""
        parts = self.blocks(mask)
        return torch.cat(
            [parts.sum(dim=dim, dtype=torch.int32) for dim in (2, 1)], dim=1
        )  # int64 takes 15 times longer

    def violation(self, mask: Tensor) -> int:
        """See :meth:`Supports.violation`.

        Kept entries beyond n of the lines, and those that contradict a fixing. Where exactly n are kept and there are
        none of these, the least number of entries to give up before the mask fits into an admissible one.
        """
        self.check_shape(tuple(mask.shape))
        whole = mask if self.on is None else mask | self.on.to(mask.device)
        clash = 0 if self.off is None else int((whole & self.off.to(mask.device)).sum())
        excess = int((self._lines(whole) - self.n).clamp_min(0).sum()) + clash
        if self.at_most or excess:
            return excess
        signs = self._signs(mask.device)
        parts = self.blocks(mask)
        open_ = torch.ones(len(parts), dtype=torch.bool, device=mask.device)
        if signs is None:
            open_ = (self._lines(mask) != self.n).any(dim=1)
        if not bool(open_.any()):
            return 0
        chosen = parts[open_]
        found = solve_blocks(chosen.double(), self.n, fixed=None if signs is None else signs[open_])
        if not bool(found.feasible.all()):
            return int(mask.sum()) + 1
        return int(chosen.sum()) - int((chosen & found.mask).sum())

    def contains(self, mask: Tensor) -> bool:
        """See :meth:`Supports.contains`."""
        self.check_shape(tuple(mask.shape))
        if self._contradicts() or (self.on is not None and not bool(mask[self.on.to(mask.device)].all())):
            return False
        if self.off is not None and bool((mask & self.off.to(mask.device)).any()):
            return False
        lines = self._lines(mask)
        if self.at_most or not self._padded(tuple(mask.shape)):
            return bool((lines <= self.n).all() if self.at_most else (lines == self.n).all())
        if bool((lines > self.n).any()):
            return False
        fixed = replace(self, on=None, off=None)._signs(mask.device, mask, ~mask)
        return bool(solve_blocks(self.blocks(mask).double(), self.n, fixed=fixed).feasible.all())

    def cover(self, mask: Tensor) -> Tensor:
        """See :meth:`Supports.cover`: with exactly n an admissible mask around ``mask``, all of which have one size.

        With padding, one that keeps as much of the padding as it can.
        """
        whole = mask if self.on is None else mask | self.on.to(mask.device)
        if self.at_most or bool((self._lines(whole) == self.n).all()):
            return whole
        scores = self.blocks(torch.zeros(mask.shape, dtype=torch.float64, device=mask.device), fill=1.0)
        found = solve_blocks(scores, self.n, fixed=self._signs(mask.device, mask))
        return self.matrix(found.mask, tuple(mask.shape))

    def constraints(self, z: Any) -> list[Any]:
        """See :meth:`Supports.constraints`; the padding is a continuous variable that is integral by itself."""
        import cvxpy as cp

        shape = tuple(z.shape)
        self.check_shape(shape)
        if self._padded(shape) and not self.at_most:
            below, right = -shape[0] % self.m, -shape[1] % self.m
            side = cp.Variable((shape[0], right), nonneg=True) if right else None
            bottom = cp.Variable((below, shape[1] + right), nonneg=True) if below else None
            whole = z if side is None else cp.hstack([z, side])
            whole = whole if bottom is None else cp.vstack([whole, bottom])
            out: list[Any] = [part <= 1 for part in (side, bottom) if part is not None]
        else:
            whole, out = z, []
        for first in range(0, whole.shape[0], self.m):
            for left in range(0, whole.shape[1], self.m):
                block = whole[first : first + self.m, left : left + self.m]
                for sums in (cp.sum(block, axis=1), cp.sum(block, axis=0)):
                    out.append(sums <= self.n if self.at_most else sums == self.n)
        if self.on is not None:
            out.append(z >= self.on.cpu().numpy().astype(float))
        if self.off is not None:
            out.append(z <= 1.0 - self.off.cpu().numpy().astype(float))
        return out

    def restrict(self, on: Tensor, off: Tensor) -> Self:
        """See :meth:`Supports.restrict`."""
        return restricted(self, on, off)

    def propagate(self, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Supports.propagate`: full lines keep nothing else, and exact ones what they still need."""
        shape = tuple(on.shape)
        kept, pruned = self.blocks(on), self.blocks(off)
        while True:
            before = int(kept.sum()) + int(pruned.sum())
            for dim in (1, 2):
                pruned = pruned | ((kept.sum(dim=dim, keepdim=True) >= self.n) & ~kept)
                if not self.at_most:
                    short = pruned.sum(dim=dim, keepdim=True) >= self.m - self.n
                    kept = kept | (short & ~pruned)
            if int(kept.sum()) + int(pruned.sum()) == before:
                return self.matrix(kept, shape), self.matrix(pruned, shape)

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> Tensor:
        """See :meth:`Supports.spread`."""
        shape = tuple(weight.shape)
        fixed = self._signs(weight.device)
        if fixed is not None:  # what the fixings imply as well: lines with nothing left to choose converge slowly
            implied = self.propagate(self.matrix(fixed > 0, shape), self.matrix(fixed < 0, shape))
            fixed = self._signs(weight.device, *implied)
        loads, offsets = self.blocks(weight.abs()), self.blocks(offset.expand(shape), fill=0.1)
        cost: float | Tensor = price
        if not self.at_most and self._padded(shape):  # what the padding takes of exactly n is free, but for a little
            inside = self.blocks(torch.ones(shape, dtype=torch.bool, device=weight.device))
            loads = torch.where(inside, loads, _PADDING * loads.flatten(1).amax(dim=1)[:, None, None])
            cost = price * inside.double()
        from ..kernels.transport_spread import spread_blocks  # compiled when first used

        z = spread_blocks(loads, offsets, self.n, price=cost, at_most=self.at_most, fixed=fixed)
        return self.matrix(z, shape)

    def describe(self) -> str:
        """See :meth:`Supports.describe`."""
        relation = "at most" if self.at_most else "exactly"
        return f"{relation} {self.n} kept in every row and column of each {self.m} x {self.m} block"


def _count(shape: tuple[int, ...], m: int) -> int:
    return -(-shape[0] // m) * -(-shape[1] // m)


def _dual(scores: Tensor, potentials: Tensor, n: int, signs: Tensor | None) -> tuple[float, float]:
    """Sum of the dual values of blocks and a bound on its rounding error, all in float64."""
    u, v = potentials[:, 0], potentials[:, 1]
    reduced = scores - u.unsqueeze(2) - v.unsqueeze(1)
    gains = reduced.clamp_min(0.0)
    if signs is not None:
        gains = torch.where(signs > 0, reduced, torch.where(signs < 0, 0.0, gains))
    size = scores.shape[1]
    lines = n * (u.sum(dim=1) + v.sum(dim=1))
    values = gains.sum(dim=2).sum(dim=1) + lines  # row by row, whose roundings add up to less than in one long sum
    spread = u.abs().sum(dim=1) + v.abs().sum(dim=1)
    # Each reduced score is two subtractions; a term takes part in at most 2 size + 6 further operations.
    entries = torch.where((gains != 0).flatten(1), scores.flatten(1).abs(), 0.0).sum(dim=1) + size * spread
    terms = gains.flatten(1).abs().sum(dim=1) + n * spread
    rounding = 2.02 * UNIT_ROUNDOFF * entries + gamma(2 * size + 6) * terms
    total, error = accurate_sum(values)
    slack, slack_error = accurate_sum(rounding)
    return total, 1.01 * (slack + slack_error) + error
