"""LocalSearch over transposable masks: local optimality, both paths, fixings, padding, starts, limits, interrupts."""

from __future__ import annotations

import pytest
import torch

from mipprune import (
    ADMM,
    Budget,
    LocalSearch,
    Magnitude,
    Problem,
    Quadratic,
    Sparse,
    Status,
    Stop,
    TransposableNofM,
)
from mipprune.formulations import layerwise
from mipprune.kernels import block_swaps
from mipprune.solvers.layers import block_exchanges, local_search
from mipprune.testing import check_solver
from tests.kernels.test_block_swaps import neighbours
from tests.layers import make_layer

SENSES = ["exact", "at_most"]
SHAPES = [(8, 12), (7, 10), (10, 7)]


def layer(shape, supports, seed=0):
    return layerwise(*make_layer(shape[1], shape[0], 20 * shape[1], seed), supports)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("sense", SENSES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_smallest_exchange_improves_the_result(shape, sense, compiled, monkeypatch, device):
    if not compiled:
        monkeypatch.setattr(block_swaps, "has_numba", lambda: False)
    supports = TransposableNofM(2, 4, sense)
    problem = layer((max(shape[0], 8), max(shape[1], 8)) if device.type != "cpu" else shape, supports)
    start = Magnitude(refit=True).solve(problem)
    solution = LocalSearch().solve(problem.to(device=device), start=start.point)
    mask = solution.mask.cpu()
    assert solution.value < start.value and solution.violation == 0 and supports.contains(mask)
    assert solution.stop is Stop.CONVERGED and solution.stats.iterations > 0
    for trial in neighbours(mask, 4):
        if supports.contains(trial):
            assert problem.value(problem.loss.minimise_on(trial)) >= solution.value * (1 - 1e-5)


@pytest.mark.parametrize(("count", "size"), [(2, 4), (3, 8), (8, 16)])
@pytest.mark.parametrize("sense", SENSES)
def test_admm_is_improved_alike_by_both_paths(count, size, sense, monkeypatch):
    problem = layer((48, 64), TransposableNofM(count, size, sense))
    first = ADMM().solve(problem)
    compiled = LocalSearch().solve(problem)
    assert compiled.value < first.value and problem.structure.supports.contains(compiled.mask)
    assert compiled.value == pytest.approx(problem.value(problem.loss.minimise_on(compiled.mask)), rel=1e-9)
    assert LocalSearch().solve(problem, start=first.point).value == pytest.approx(compiled.value, rel=1e-12)
    monkeypatch.setattr(block_swaps, "has_numba", lambda: False)
    batched = LocalSearch().solve(problem)
    assert torch.equal(compiled.mask, batched.mask) and compiled.stats.iterations == batched.stats.iterations
    assert compiled.value == pytest.approx(batched.value, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_small_layers_come_close_to_the_optimum(seed):
    """One block: all 90 masks with two of four in every line."""
    problem = layer((4, 4), TransposableNofM(2, 4), seed)
    lines = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    values = []
    for rows in torch.cartesian_prod(*[torch.arange(6)] * 4).tolist():
        mask = torch.zeros(4, 4, dtype=torch.bool)
        for row, line in enumerate(rows):
            mask[row, list(lines[line])] = True
        if bool((mask.sum(dim=0) == 2).all()):
            values.append(problem.value(problem.loss.minimise_on(mask)))
    assert len(values) == 90
    solution = LocalSearch().solve(problem, start=Magnitude().solve(problem).point)
    assert min(values) * (1 - 1e-9) <= solution.value <= 1.02 * min(values)


@pytest.mark.parametrize("sense", SENSES)
def test_fixed_entries_never_move(sense):
    problem = layer((7, 10), TransposableNofM(2, 4, sense))
    free = LocalSearch().solve(problem).mask
    on, off = torch.zeros_like(free), torch.zeros_like(free)
    on[0, :2], off[5, 4:7] = ~free[0, :2], free[5, 4:7]
    restricted = problem.restrict(on, off)
    solution = LocalSearch().solve(restricted)
    assert solution.violation == 0 and bool(solution.mask[on].all()) and not bool(solution.mask[off].any())
    assert solution.value < ADMM().solve(restricted).value
    both = restricted.structure.supports.restrict(off, off)
    assert LocalSearch().solve(Problem(problem.loss, Sparse(both))).status is Status.NO_POINT


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("sense", SENSES)
def test_fixings_that_no_mask_meets_leave_no_point(sense, given, monkeypatch):
    monkeypatch.setattr(local_search, "BlockExchanges", None)  # its tables have room for masks of the family alone
    problem = layer((7, 11), TransposableNofM(1, 4, sense))
    on = torch.zeros(7, 11, dtype=torch.bool)
    on[6, 2:4] = True  # two in one line
    solution = LocalSearch().solve(
        problem.restrict(on, torch.zeros_like(on)), start=torch.ones(7, 11) if given else None
    )
    assert solution.point is None and solution.violation == 0


@pytest.mark.parametrize("sense", SENSES)
def test_a_start_that_leaves_lines_short_is_filled_up(sense):
    problem = layer((8, 12), TransposableNofM(2, 4, sense))
    solution = LocalSearch().solve(problem, start=torch.zeros(8, 12))
    best = LocalSearch().solve(problem)
    assert problem.structure.supports.contains(solution.mask)
    assert solution.value <= 1.2 * best.value
    beyond = LocalSearch().solve(problem, start=torch.ones(8, 12))
    assert beyond.violation == 0 and problem.structure.supports.contains(beyond.mask)


@pytest.mark.parametrize("shape", [(1, 9), (5, 1), (1, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("sense", SENSES)
def test_degenerate_sizes(shape, sense):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, shape[1], generator=generator, dtype=torch.float64)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    for n, m in ((1, 4), (3, 4), (4, 4), (1, 1)):
        problem = layerwise(weight, inputs.T @ inputs, TransposableNofM(n, m, sense))
        solution = LocalSearch().solve(problem)
        assert solution.violation == 0 and problem.structure.supports.contains(solution.mask)
        assert solution.value <= ADMM().solve(problem).value
        if n == m:
            assert bool(solution.mask.all()) and solution.stats.iterations == 0


def test_dead_inputs_are_kept_only_where_a_line_needs_them():
    weight, gram = make_layer(32, 16, 300, 0)
    gram[3], gram[:, 3] = 0.0, 0.0
    for sense in SENSES:
        problem = layerwise(weight, gram, TransposableNofM(2, 4, sense))
        for start in (None, Magnitude(refit=True).solve(problem).point):
            solution = LocalSearch().solve(problem, start=start)
            assert solution.violation == 0 and not bool(solution.point[:, 3].any())
            assert solution.value < (ADMM().solve(problem).value if start is None else problem.value(start))


def test_inputs_that_depend_on_others_do_no_harm():
    weight, gram = make_layer(12, 8, 200, 0)
    for one, other in ((0, 1), (4, 9)):
        gram[other], gram[:, other] = gram[one], gram[:, one]
        gram[other, other] = gram[one, other] = gram[other, one] = gram[one, one]
    problem = Problem(Quadratic(gram, weight.double()), Sparse(TransposableNofM(2, 4)))
    mask = torch.tensor([[True, False, True, False] * 3, [False, True, False, True] * 3] * 4)
    start = torch.where(mask, weight.double(), 0.0)
    solution = LocalSearch().solve(problem, start=start)
    assert solution.violation == 0 and bool(torch.isfinite(solution.point).all())
    assert solution.value < 0.9 * problem.value(problem.loss.minimise_on(mask))
    for one, other in ((0, 1), (4, 9)):
        assert not bool((solution.mask[:, one] & solution.mask[:, other]).any())
    together = torch.tensor([[True, True, False, False] * 3, [False, False, True, True] * 3] * 4)  # rows stand still
    kept = LocalSearch().solve(problem, start=torch.where(together, weight.double(), 0.0))
    assert kept.violation == 0 and kept.value <= problem.value(problem.loss.minimise_on(together)) * (1 + 1e-12)


def test_how_groups_are_put_together_does_not_matter(monkeypatch):
    problem = layer((40, 32), TransposableNofM(4, 8))
    start = Magnitude().solve(problem).point
    whole = LocalSearch().solve(problem, start=start)
    monkeypatch.setattr(block_exchanges, "_PART_ENTRIES", 1)
    monkeypatch.setattr(block_exchanges, "_TABLE_ENTRIES", 1)
    monkeypatch.setattr(block_swaps, "_CALL", 1)
    pieces = LocalSearch().solve(problem, start=start)
    assert torch.equal(whole.mask, pieces.mask) and whole.stats.iterations == pieces.stats.iterations


def test_groups_beyond_memory_are_refused(monkeypatch):
    problem = layer((40, 32), TransposableNofM(4, 8))
    monkeypatch.setattr(block_exchanges, "_GROUP_ENTRIES", 8 * 32 * 25 - 1)
    assert "ADMM" in LocalSearch().rejects(problem)
    monkeypatch.setattr(block_exchanges, "_GROUP_ENTRIES", 8 * 32 * 25)
    assert LocalSearch().rejects(problem) is None


def test_limits_hold_within_a_group():
    problem = layer((32, 32), TransposableNofM(8, 16))
    start = Magnitude(refit=True).solve(problem).point
    full = LocalSearch().solve(problem, start=start)
    assert full.stats.iterations > 20 and full.stop is Stop.CONVERGED
    last = problem.value(start)
    for most in (1, 7, full.stats.iterations - 1):
        some = LocalSearch().solve(problem, start=start, budget=Budget(iterations=most))
        assert some.stats.iterations == most and some.stop is Stop.ITERATIONS
        assert full.value < some.value < last and problem.structure.supports.contains(some.mask)
        last = some.value
    assert LocalSearch(exchanges=1).solve(problem, start=start).stats.iterations <= 32
    none = LocalSearch().solve(problem, start=start, budget=Budget(seconds=1e-9))
    assert none.stop is Stop.TIME and none.value <= problem.value(start)
    calls = []
    stopped = LocalSearch().solve(problem, start=start, progress=lambda *state: calls.append(state) or len(calls) == 1)
    assert stopped.stop is Stop.USER and stopped.violation == 0
    values = [value for _, value, _ in full.stats.trace if value is not None]
    assert values[:-1] == sorted(values[:-1], reverse=True) and values[-1] == full.value
    assert min(values) == pytest.approx(full.value, rel=1e-12)


@pytest.mark.parametrize("moment", [1, 2, 3, 9])
@pytest.mark.parametrize("compiled", [True, False])
def test_an_interrupt_keeps_what_was_gained(moment, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(block_swaps, "has_numba", lambda: False)
    monkeypatch.setattr(block_swaps, "_CALL", 1)
    problem = layer((32, 32), TransposableNofM(8, 16))
    start = Magnitude(refit=True).solve(problem).point
    calls, original = [], block_exchanges.search

    def interrupted(*args, go_on, **kwargs):
        def count():
            calls.append(1)
            if len(calls) == moment:
                raise KeyboardInterrupt
            return go_on()

        return original(*args, go_on=count, **kwargs)

    monkeypatch.setattr(block_exchanges, "search", interrupted)
    solution = LocalSearch().solve(problem, start=start)
    assert solution.stop is Stop.USER and problem.structure.supports.contains(solution.mask)
    assert solution.value < problem.value(start) if moment > 1 else solution.value <= problem.value(start)


def test_an_interrupt_before_the_search_returns_the_start(monkeypatch):
    problem = layer((16, 16), TransposableNofM(2, 4))

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(block_exchanges, "prepare", interrupted)
    solution = LocalSearch().solve(problem)
    assert solution.stop is Stop.USER and solution.value <= ADMM().solve(problem).value * (1 + 1e-9)
    monkeypatch.setattr(LocalSearch, "_run", interrupted)
    solution = LocalSearch().solve(problem)
    assert solution.stop is Stop.USER and solution.violation == 0


@pytest.mark.parametrize("sense", SENSES)
def test_it_keeps_what_solvers_promise(sense):
    problem = layer((7, 10), TransposableNofM(2, 4, sense))
    solution = check_solver(LocalSearch(), problem)
    assert solution is not None and solution.status is Status.FEASIBLE


def test_single_precision_is_searched_in_double():
    problem = layer((16, 24), TransposableNofM(2, 4))
    single = LocalSearch().solve(problem.to(dtype=torch.float32))
    assert single.point.dtype == torch.float32 and single.violation == 0
    assert single.value <= ADMM().solve(problem.to(dtype=torch.float32)).value


def test_long_runs_keep_their_tables(monkeypatch):
    """What the tables say after hundreds of exchanges is what a refit says; what got worse by rounding is undone."""
    problem = layer((32, 96), TransposableNofM(16, 32))
    start = torch.where(problem.structure.supports.keep(-problem.loss.center.square() + 1e6), problem.loss.center, 0.0)
    solution = LocalSearch().solve(problem, start=start)
    assert solution.stats.iterations > 300
    assert solution.value == pytest.approx(problem.value(problem.loss.minimise_on(solution.mask)), rel=1e-9)
    original = block_exchanges.search
    for level in (1e3, float("nan")):

        def spoil(gram, state, mask, *args, level=level, **kwargs):  # a mask that got worse
            original(gram, state, mask, *args, **kwargs)
            mask.copy_(problem.structure.supports.keep(-problem.loss.center.square() + 1e6))
            state.level[:] = level
            return torch.ones(1, dtype=torch.int64)

        monkeypatch.setattr(block_exchanges, "search", spoil)
        kept = LocalSearch().solve(problem, start=solution.point)
        assert kept.stats.iterations == 1 and torch.equal(kept.mask, solution.mask)
        assert kept.value <= solution.value
