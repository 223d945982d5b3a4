"""Local search over transposable masks: exchanges between the rows that share blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.problem import Problem
from ...core.solution import Stop
from ...core.solver import Watch
from ...kernels.block_swaps import Blocks, search
from ...kernels.swaps import Rows, prepare
from ...structures.transposable import TransposableNofM
from .exchanges import Exchanges
from .layer import layer_parts

__all__ = ["BlockExchanges", "reason_against_blocks"]

_TABLE_ENTRIES = 1 << 25  # of the tables of groups searched together (256 MiB)
_SHORT_ENTRIES = 1 << 22  # of those on a CPU, where more at once are no faster and limits would hold later
_PART_ENTRIES = 1 << 22  # of the tables of rows prepared together, which takes several times as much
_GROUP_ENTRIES = 1 << 30  # of the largest group taken at all (8 GiB)


def reason_against_blocks(problem: Problem) -> str | None:
    """Return why exchanges between rows are out of reach, or ``None``."""
    _, supports = layer_parts(problem)
    if not isinstance(supports, TransposableNofM):
        return (
            "exchanges need a budget per layer, row or group of inputs, or transposable masks, not "
            f"{type(supports).__name__}; try ADMM"
        )
    rows, width = problem.shape
    height = min(rows, supports.m)
    entries = _entries(_blocks(supports, height), width)
    if entries > _GROUP_ENTRIES:
        return (
            f"exchanges between {height} rows of {width} inputs hold tables of {entries / (1 << 27):.0f} GiB, and the "
            f"limit is {_GROUP_ENTRIES >> 27} GiB; try ADMM"
        )
    return None


def _blocks(supports: TransposableNofM, height: int) -> Blocks:
    return Blocks(supports.n, supports.m, height, supports.at_most)


def _entries(blocks: Blocks, width: int) -> int:
    """Return how many numbers the search of one group holds: tables, and the change by every exchange."""
    return blocks.height * width * (blocks.slots(width) + blocks.size + 1)


class BlockExchanges(Exchanges):
    """The groups of rows of a layer, brought to local optima one batch after another.

    Parameters
    ----------
    problem : Problem
        A layer with transposable masks.
    point : Tensor, shape (out, in)
        A member of S.
    value : float
        Of that member.
    watch : Watch
    tolerance : float
        Smallest decrease that counts, relative to the mean value of a row.
    exchanges : int
        Most exchanges of a group for each of its rows.
    """

    def __init__(
        self, problem: Problem, point: Tensor, value: float, watch: Watch, *, tolerance: float, exchanges: int
    ) -> None:
        loss, supports = layer_parts(problem)
        assert isinstance(supports, TransposableNofM)
        mask = problem.structure.mask_of(point)
        if not supports.contains(mask):  # as many entries as lines need, the largest weights first
            large = loss.center.double().square() * loss.diagonal.double()
            mask = supports.keep(torch.where(mask.to(large.device), torch.inf, large))
        super().__init__(problem, point, mask, supports.on, supports.off, watch, tolerance)
        self.supports, self.value, self.exchanges = supports, value, exchanges

    def iterate(self) -> Stop:
        """Search one batch of groups after another until all are searched or a limit is reached."""
        size = self.supports.m
        whole = len(self.mask) // size * size
        try:
            for first, last, height in ((0, whole, size), (whole, len(self.mask), len(self.mask) - whole)):
                step = self._at_once(height) * height
                while first < last:
                    stop = self._search(slice(first, min(first + step, last)), height)
                    if stop is not None:
                        return stop
                    first += step
        except KeyboardInterrupt:
            return Stop.USER  # the mask is admissible at every moment
        return Stop.CONVERGED

    def _at_once(self, height: int) -> int:
        """Return how many groups of so many rows are searched together."""
        if self.watch.budget.iterations is not None:
            return 1
        entries = max(_entries(_blocks(self.supports, height), self.mask.shape[1]), 1)
        most = _TABLE_ENTRIES // entries
        if self.mask.device.type == "cpu":
            most = min(most, max(_SHORT_ENTRIES // entries, 4 * torch.get_num_threads()))
        return max(1, most)

    def _search(self, rows: slice, height: int) -> Stop | None:
        """Exchange entries of some groups, and undo what rounding made pass for progress."""
        limits = self.watch.budget.iterations
        stop = self.watch.due(iterations=self.iterations)
        state = None if stop is not None else self._prepare(rows)
        if state is None:
            return stop or self.watch.due()
        mask, frozen = self.mask[rows], ~state.sound[:, None]
        before, first = mask.clone(), self._values(rows, state)
        made = search(
            self.layer.gram,
            state,
            mask,
            self.on[rows] | frozen,
            self.off[rows] | frozen,
            _blocks(self.supports, height),
            limit=min(self.exchanges * height, 1 << 62 if limits is None else limits - self.iterations),
            least=self.least,
            go_on=lambda: self.watch.due() is None,
        )
        self.iterations += int(made.sum())
        changed = (mask != before).any(dim=1)
        gain = torch.where(changed, first - self._values(rows, state), 0.0).unflatten(0, (-1, height)).sum(dim=1)
        right = (gain >= 0).repeat_interleave(height)  # not so what is no number
        mask[~right] = before[~right]
        self.take(rows, state, right & state.sound)
        gained = self.layer.unit**2 * float(torch.where(gain > 0, gain, 0.0).sum())
        if gained > 0:
            self.value -= gained
            self.watch.report(self.value, None)
        elif self.watch.progress is not None:
            self.watch.report(None, None)
        return self.watch.due(iterations=self.iterations)

    def _values(self, rows: slice, state: Rows) -> Tensor:
        """Return the value of each row at the weights in its tables, which no rounding makes look better."""
        delta = torch.where(state.slot >= 0, state.level, 0.0) - self.layer.center[rows]
        return ((delta @ self.layer.gram) * delta).sum(dim=1)

    def _prepare(self, rows: slice) -> Rows | None:
        """Return the tables of some rows; ``None`` when a limit is reached before they are complete."""
        center, mask = self.layer.center[rows], self.mask[rows]
        slots = _blocks(self.supports, self.supports.m).slots(center.shape[1])
        few = max(1, _PART_ENTRIES // (center.shape[1] * slots))
        whole: Rows | None = None
        for first in range(0, len(mask), few):
            if first and self.watch.due() is not None:
                return None
            part = slice(first, first + few)
            own = prepare(self.layer.gram, center[part], mask[part], slots)
            if few >= len(mask):
                return own
            if whole is None:
                whole = Rows(*(piece.new_empty((len(mask), *piece.shape[1:])) for piece in own))
            for target, piece in zip(whole, own, strict=True):
                target[part] = piece
        return whole
