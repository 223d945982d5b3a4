"""Heuristics for transposable masks: admissible, never better than the proven optimum, as good as published."""

from __future__ import annotations

import pytest
import torch

import mipprune as mp
from mipprune.kernels import transport_baselines, transport_patterns, transport_rounding
from mipprune.kernels.transport import solve_blocks
from mipprune.solvers.masks.baselines import (
    BiNMMask,
    EntropicMask,
    GreedyMask,
    PatternMask,
    RandomMask,
    SweepMask,
    TwoApproximationMask,
)

METHODS = [
    SweepMask(4),
    EntropicMask(iterations=50, temperature=20.0),
    GreedyMask(),
    GreedyMask(exchanges=None),
    TwoApproximationMask(),
    BiNMMask(),
    RandomMask(20),
    PatternMask(),
]


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).abs()


@pytest.mark.parametrize("sense", ["exact", "at_most"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_admissible_and_never_above_the_optimum(method: mp.Solver, sense: str) -> None:
    for n, m, shape in ((2, 4, (16, 24)), (4, 8, (16, 24)), (1, 3, (7, 10))):
        problem = mp.formulations.transposable_mask(gaussian(*shape), mp.TransposableNofM(n, m, sense))
        if method.rejects(problem) is not None:
            assert isinstance(method, PatternMask)
            continue
        solution = method.solve(problem)
        optimum = mp.solve(problem)
        assert solution.violation == 0
        assert solution.value >= optimum.value - 1e-9 * abs(optimum.value)
        assert torch.equal(solution.point, method.solve(problem).point)  # solving twice gives the same answer
        if solution.bound is not None:
            assert solution.bound <= optimum.value + 1e-9 * abs(optimum.value)
            mp.check(problem, solution)
    rejected = mp.formulations.layerwise(gaussian(4, 4), torch.eye(4), mp.TransposableNofM(2, 4))
    assert "Linear" in (method.rejects(rejected) or "")


def test_patterns_are_exact() -> None:
    problem = mp.formulations.transposable_mask(gaussian(40, 40), mp.TransposableNofM(2, 4))
    assert PatternMask().solve(problem).value == pytest.approx(mp.solve(problem).value, rel=1e-12)


def test_few_sweeps_are_certified_within_a_hundredth_of_a_percent() -> None:
    scaled = gaussian(128, 128, seed=3) * torch.randn(1, 128, generator=torch.Generator().manual_seed(4)).exp()
    for scores in (gaussian(128, 128), scaled):
        for n, m in ((2, 4), (4, 8), (8, 16), (16, 32), (2, 8), (8, 32)):
            problem = mp.formulations.transposable_mask(scores, mp.TransposableNofM(n, m))
            solution = SweepMask(8).solve(problem)
            assert solution.proof is mp.Proof.CHECKED
            assert solution.gap <= 1e-4


def test_errors_are_those_of_the_literature() -> None:
    """Relative errors in percent at 8:16, Gaussian, of an independent prototype; wide margins for the sample."""
    scores = gaussian(100, 16, 16, seed=5)
    best = float((scores.double() * solve_blocks(scores, 8).mask).sum())

    def error(mask: torch.Tensor) -> float:
        return 100.0 * (1.0 - float((scores.double() * mask).sum()) / best)

    greedy = transport_rounding.greedy(scores, 8)
    completed = transport_rounding.complete(scores, greedy, 8)
    shares = transport_baselines.entropic(scores, 8, temperature=100.0, iterations=300).shares
    rounded = transport_rounding.greedy(shares, 8)
    found = {
        "greedy": (error(greedy), 0.946),
        "2-approximation": (error(transport_rounding.greedy_prune(scores, 8)), 5.98),
        "bi_nm": (error(transport_baselines.row_then_column(scores, 8)), 3.95),
        "swap2": (error(transport_rounding.exchange(scores, completed, 1 << 30)), 0.153),
        "entropic": (error(transport_rounding.complete(scores, rounded, 8, steps=10, gated=True)), 0.074),
    }
    for name, (measured, published) in found.items():
        assert 0.75 * published - 0.02 <= measured <= 1.3 * published + 0.02, f"{name}: {measured}"


def test_exchanges_reach_a_local_optimum_and_complete_fills_every_line() -> None:
    scores = gaussian(20, 8, 8, seed=6)
    mask = transport_rounding.complete(scores, torch.zeros(20, 8, 8, dtype=torch.bool), 4)
    assert bool((mask.sum(1) == 4).all() and (mask.sum(2) == 4).all())
    local = transport_rounding.exchange(scores, mask, 1 << 30)
    assert bool((local.sum(1) == 4).all() and (local.sum(2) == 4).all())
    for block, kept in zip(scores, local, strict=True):
        for i in range(8):
            for k in range(i):
                mine, theirs = kept[i] & ~kept[k], kept[k] & ~kept[i]
                for p in mine.nonzero().ravel().tolist():
                    for q in theirs.nonzero().ravel().tolist():
                        change = block[k, p] - block[i, p] + block[i, q] - block[k, q]
                        assert float(change) <= 1e-6


def test_draws_end_with_the_time() -> None:
    """One mask is always drawn, so that the answer is admissible."""
    problem = mp.formulations.transposable_mask(gaussian(1, 256, 256, seed=1)[0], mp.TransposableNofM(2, 4))
    cut = RandomMask(10_000_000).solve(problem, budget=mp.Budget(seconds=0.05))
    assert cut.stop is mp.Stop.TIME and cut.violation == 0 and cut.stats.seconds < 5.0
    one = RandomMask(1).solve(problem)
    assert one.stop is mp.Stop.CONVERGED and cut.value <= one.value


def test_bad_settings() -> None:
    for make in (lambda: SweepMask(0), lambda: RandomMask(0), lambda: EntropicMask(temperature=0.0)):
        with pytest.raises(mp.InvalidProblem):
            make()
    with pytest.raises(ValueError, match="4 is the largest"):
        transport_patterns.pattern_table(5, 2)


@pytest.mark.parametrize("size", [1e-320, 1e-310, 0.0, 1e300])
def test_entropic_potentials_are_numbers_at_any_magnitude(size: float) -> None:
    scores = torch.rand(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * size
    solution = EntropicMask().solve(mp.formulations.transposable_mask(scores, mp.TransposableNofM(2, 4)))
    assert solution.bound is not None and -torch.inf < solution.bound <= solution.value
