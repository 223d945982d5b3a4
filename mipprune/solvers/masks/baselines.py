"""Heuristics for transposable masks: the methods of the literature, and dual sweeps that stop early with a bound."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.adapters import Masks
from ...core.certificate import Tangent
from ...core.problem import Problem
from ...core.solution import Solution, Stop
from ...core.solver import Budget, Progress, Watch, accept
from ...errors import InvalidProblem
from ...kernels import transport_baselines
from ...kernels.transport import solve_blocks
from ...kernels.transport_patterns import LARGEST_LISTED, best_pattern
from ...losses.linear import Linear
from ...structures.transposable import TransposableNofM

__all__ = ["BiNMMask", "EntropicMask", "GreedyMask", "PatternMask", "RandomMask", "SweepMask", "TwoApproximationMask"]


class _Answer(NamedTuple):
    """Masks of blocks, with potentials where the method has any."""

    mask: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None
    stop: Stop = Stop.CONVERGED


class _BlockMethod(ABC):
    """A method that treats every block by itself. Short lines are filled where exactly n are asked for."""

    @property
    @abstractmethod
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""

    @abstractmethod
    def masks(self, scores: Tensor, count: int, at_most: bool, watch: Watch) -> _Answer:
        """Return masks of blocks (blocks, size, size) with at most ``count`` entries in each line."""

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`: linear losses over transposable masks, nothing fixed."""
        if not isinstance(problem.loss, Linear):
            return f"its loss is {type(problem.loss).__name__}, and this method only sums up scores: Linear(...)"
        structure = problem.structure
        if not isinstance(structure, Masks) or not isinstance(structure.supports, TransposableNofM):
            return "this method only chooses transposable masks: Masks(TransposableNofM(n, m))"
        if structure.supports.on is not None or structure.supports.off is not None:
            return "entries are fixed, which this method would ignore; try Oracle()"
        return None

    def solve(
        self,
        problem: Problem,
        *,
        budget: Budget | None = None,
        start: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Solution:
        """See :class:`mipprune.Solver`; a start is not used."""
        from ...kernels import transport_rounding  # compiled when imported

        accept(self, problem)
        watch = Watch(budget, progress)
        loss, structure = problem.loss, problem.structure
        assert isinstance(loss, Linear) and isinstance(structure, Masks)
        family = structure.supports
        assert isinstance(family, TransposableNofM)
        scores = family.blocks(-loss.cost)
        answer = self.masks(scores, family.n, family.at_most, watch)
        mask = answer.mask
        if not family.at_most:
            mask = transport_rounding.complete(scores, mask, family.n)
        point = family.matrix(mask, problem.shape).to(loss.cost.dtype)
        certificate = None
        if answer.rows is not None and answer.columns is not None:
            witness = torch.stack([answer.rows, answer.columns], dim=1).double().cpu()
            certificate = Tangent(torch.zeros(problem.shape, dtype=torch.float64), None, witness)
        stats = watch.stats(device=str(scores.device), seed=getattr(self, "seed", None))
        return Solution.of(
            problem,
            point,
            stop=answer.stop,
            certificate=certificate,
            tolerance=watch.budget.gap,
            stats=stats,
            solver=self.name,
        )


@dataclass(frozen=True)
class SweepMask(_BlockMethod):
    """A few midpoint sweeps on the dual, rounded: a good mask with the bound that its potentials prove.

    Parameters
    ----------
    sweeps : int
        Sweeps of each block, >= 1. (With enough of them ``mp.solve`` repairs the rest and is exact.)

    Examples
    --------
    >>> import torch, mipprune as mp
    >>> scores = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    >>> problem = mp.formulations.transposable_mask(scores, mp.TransposableNofM(4, 8))
    >>> SweepMask(8).solve(problem).gap < 1e-4
    True
    """

    sweeps: int = 8

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise InvalidProblem(f"sweeps is {self.sweeps}; it must be at least 1")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return f"Sweeps({self.sweeps})"

    def masks(self, scores: Tensor, count: int, at_most: bool, watch: Watch) -> _Answer:
        """See :class:`mipprune.Solver`."""
        found = solve_blocks(scores, count, at_most=at_most, sweeps=self.sweeps, rest="round")
        return _Answer(found.mask, found.rows, found.columns)


@dataclass(frozen=True)
class EntropicMask(_BlockMethod):
    """Entropic transport by Dykstra's projections, greedy rounding, a few exchanges (the method of TSENOR).

    Parameters
    ----------
    temperature : float
        Inverse temperature times the largest score of each block, > 0.
    iterations : int
        Rounds of projections, >= 1. Sharper problems need more: 300 for 100, 1000 for 200.
    swaps : int
        Most exchanges of a block in the rounding, >= 0.

    Notes
    -----
    Its own potentials are the certificate where exactly n are kept.

    References
    ----------
    arXiv 2505.23949 (TSENOR). Its settings are not public; the defaults here are tuned.
    """

    temperature: float = 100.0
    iterations: int = 300
    swaps: int = 10

    def __post_init__(self) -> None:
        if not self.temperature > 0 or self.iterations < 1 or self.swaps < 0:
            raise InvalidProblem("temperature must be > 0, iterations at least 1 and swaps at least 0")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return f"Entropic({self.temperature:g}, {self.iterations})"

    def masks(self, scores: Tensor, count: int, at_most: bool, watch: Watch) -> _Answer:
        """See :class:`mipprune.Solver`."""
        from ...kernels import transport_rounding  # compiled when imported

        _, exponent = torch.frexp(scores.abs().amax() if scores.numel() else scores.new_zeros(()))
        scale = 2.0 ** max(min(int(exponent), 1000), -1000)  # float32 has no room for all of float64
        found = transport_baselines.entropic(
            (scores / scale).float(), count, temperature=self.temperature, iterations=self.iterations
        )
        mask = transport_rounding.greedy(found.shares, count)
        mask = transport_rounding.complete(scores, mask, count, steps=self.swaps, gated=True)
        if at_most:
            return _Answer(mask, None, None)
        return _Answer(mask, found.rows.double() * scale, found.columns.double() * scale)


@dataclass(frozen=True)
class GreedyMask(_BlockMethod):
    """Keep by decreasing score while row and column have room, then exchange pairs of entries.

    Parameters
    ----------
    exchanges : int, optional
        Most exchanges of two entries of a block at the end (``swap2``); 0 for none, ``None`` for as many as help.
    """

    exchanges: int | None = 0

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "Greedy" if self.exchanges == 0 else "Greedy+exchange"

    def masks(self, scores: Tensor, count: int, at_most: bool, watch: Watch) -> _Answer:
        """See :class:`mipprune.Solver`."""
        from ...kernels import transport_rounding  # compiled when imported

        mask = transport_rounding.greedy(scores, count)
        if self.exchanges != 0:
            mask = transport_rounding.complete(scores, mask, count, gated=at_most)
            steps = 1 << 30 if self.exchanges is None else self.exchanges
            mask = transport_rounding.exchange(scores, mask, steps)
        return _Answer(mask & (scores > 0) if at_most else mask)


@dataclass(frozen=True)
class TwoApproximationMask(_BlockMethod):
    """Prune by increasing score while a line has too many: less than twice the least pruned sum (arXiv 2102.08124)."""

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "2-approximation"

    def masks(self, scores: Tensor, count: int, at_most: bool, watch: Watch) -> _Answer:
        """See :class:`mipprune.Solver`."""
        from ...kernels import transport_rounding  # compiled when imported

        mask = transport_rounding.greedy_prune(scores, count)
        return _Answer(mask & (scores > 0) if at_most else mask)


@dataclass(frozen=True)
class BiNMMask(_BlockMethod):
    """The largest of each row, then the largest of each column among these (after Bi-Mask, arXiv 2302.06058)."""

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "Bi-NM"

    def masks(self, scores: Tensor, count: int, at_most: bool, watch: Watch) -> _Answer:
        """See :class:`mipprune.Solver`."""
        mask = transport_baselines.row_then_column(scores, count)
        return _Answer(mask & (scores > 0) if at_most else mask)


@dataclass(frozen=True)
class RandomMask(_BlockMethod):
    """The best of many random admissible masks, block by block.

    Parameters
    ----------
    trials : int
        Masks drawn for each block, >= 1.
    seed : int
        Of the draws.
    """

    trials: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InvalidProblem(f"trials is {self.trials}; it must be at least 1")

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return f"Random({self.trials})"

    def masks(self, scores: Tensor, count: int, at_most: bool, watch: Watch) -> _Answer:
        """See :class:`mipprune.Solver`."""
        mask = transport_baselines.best_random(
            scores, count, trials=self.trials, seed=self.seed, go_on=lambda: watch.due() is None
        )
        return _Answer(mask, stop=watch.due() or Stop.CONVERGED)


@dataclass(frozen=True)
class PatternMask(_BlockMethod):
    """Score every admissible mask of a block of at most 4 x 4 and take the best (90 for 2:4; arXiv 2404.01847)."""

    @property
    def name(self) -> str:
        """See :class:`mipprune.Solver`."""
        return "Patterns"

    def rejects(self, problem: Problem) -> str | None:
        """See :class:`mipprune.Solver`: blocks of at most 4 x 4 that keep exactly n."""
        reason = super().rejects(problem)
        if reason is not None:
            return reason
        family = problem.structure.supports  # type: ignore[attr-defined]
        if family.m > LARGEST_LISTED or family.at_most:
            return "it lists all masks with exactly n in each line, which is feasible for blocks of at most 4 x 4"
        return None

    def masks(self, scores: Tensor, count: int, at_most: bool, watch: Watch) -> _Answer:
        """See :class:`mipprune.Solver`."""
        return _Answer(best_pattern(scores, count))
