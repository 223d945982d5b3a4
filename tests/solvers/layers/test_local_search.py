"""LocalSearch: local optimality by brute force, published figures beaten, both paths, budgets and stops."""

from __future__ import annotations

import pytest
import torch

from mipprune import ADMM, OBC, Budget, Cardinality, Groups, InvalidProblem, LocalSearch, Magnitude, NofM, PerRow, Stop
from mipprune.formulations import layerwise
from mipprune.kernels import swaps
from mipprune.solvers.layers import local_search
from tests.enumeration import Enumeration
from tests.layers import cached_layer, make_layer, reference, supports_of


def exchanged(mask, kept, pruned):
    trial = mask.clone()
    trial[kept], trial[pruned] = False, True
    return trial


def best_exchange(problem, mask, *, within_rows):
    """The least refitted value over all single exchanges that stay in S, by brute force."""
    values = []
    for kept in mask.nonzero().tolist():
        for pruned in (~mask).nonzero().tolist():
            trial = exchanged(mask, tuple(kept), tuple(pruned))
            if (kept[0] == pruned[0] or not within_rows) and problem.structure.supports.violation(trial) == 0:
                values.append(problem.value(problem.loss.minimise_on(trial)))
    return min(values, default=float("inf"))


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("supports", [Cardinality(14), PerRow(4), NofM(2, 4), NofM(1, 3)], ids=lambda s: s.describe())
def test_no_single_exchange_improves_the_result(supports, compiled, monkeypatch, device):
    if not compiled:
        monkeypatch.setattr(swaps, "has_numba", lambda: False)
    weight, gram = make_layer(12, 4, 100, 1)
    problem = layerwise(weight, gram, supports)
    start = Magnitude(refit=True).solve(problem)
    solution = LocalSearch().solve(problem.to(device=device), start=start.point)
    assert solution.value < start.value and solution.violation == 0
    everywhere = best_exchange(problem, solution.mask.cpu(), within_rows=False)
    assert everywhere >= solution.value * (1 - 1e-5)


@pytest.mark.parametrize("supports", [Cardinality(900), PerRow(11), NofM(2, 4), NofM(3, 8)], ids=lambda s: s.describe())
def test_compiled_and_batched_paths_agree(supports, monkeypatch):
    weight, gram = make_layer(48, 40, 500, 2)
    problem = layerwise(weight, gram, supports)
    start = Magnitude().solve(problem).point
    compiled = LocalSearch().solve(problem, start=start)
    monkeypatch.setattr(swaps, "has_numba", lambda: False)
    batched = LocalSearch().solve(problem, start=start)
    assert torch.equal(compiled.mask, batched.mask)
    assert compiled.value == pytest.approx(batched.value, rel=1e-9)


def test_the_state_after_many_exchanges_is_that_of_its_support():
    weight, gram = make_layer(30, 6, 200, 3)
    problem = layerwise(weight, gram, PerRow(9))
    scale = problem.loss.diagonal.rsqrt()
    gram, center = scale[:, None] * problem.loss.gram * scale, problem.loss.center / scale
    mask = PerRow(9).keep(torch.rand(6, 30, generator=torch.Generator().manual_seed(0)))
    state = swaps.prepare(gram, center, mask, 12)
    free = torch.zeros_like(mask)
    trace = swaps.Trace.empty(6, 3, center)
    swaps.search(gram, state, free, free, size=30, budget=0, limit=100, least=1e-12, trace=trace)
    kept = state.slot >= 0
    assert not torch.equal(kept, mask)
    fresh = swaps.prepare(gram, center, kept, 12)
    torch.testing.assert_close(state.pivot, fresh.pivot, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state.level, fresh.level, rtol=1e-9, atol=1e-9)
    for row in range(6):  # the traces: refitted values along them
        for entries, change, value in ((trace.insertions, -trace.gains, True), (trace.removals, trace.costs, False)):
            along = kept.clone()
            before = problem.value(problem.loss.minimise_on(along))
            for step in range(3):
                along[row, entries[row, step]] = value
                after = problem.value(problem.loss.minimise_on(along))
                assert after - before == pytest.approx(float(change[row, step]), rel=1e-6)
                before = after


@pytest.mark.parametrize(
    "row", reference("layerwise_7_1")["rows"][:9], ids=lambda row: f"{row['seed']}-{row['structure']}"
)
def test_small_layers_come_within_one_percent_of_the_optimum(row):
    weight, gram = cached_layer(row["d"], row["m"], row["n"], row["seed"])
    problem = layerwise(weight, gram, supports_of(row["structure"], row["d"], row["m"]))
    optimum = Enumeration(problem.loss).optimum(problem)
    assert optimum * (1 - 1e-9) <= LocalSearch().solve(problem).value <= 1.01 * optimum


@pytest.mark.parametrize(
    ("sparsity", "published"), [(0.5, 0.005001), (0.7, 0.018273), (0.9, 0.076092)], ids=["50 %", "70 %", "90 %"]
)
def test_beats_the_published_swaps(sparsity, published):
    # The best of "ALPS + swap" and "OBC + swap", damped relative errors, on this very layer.
    weight, gram = cached_layer(256, 256, 2048, 0)
    problem = layerwise(weight, gram, Cardinality(round((1 - sparsity) * 256 * 256)))
    solution = LocalSearch().solve(problem)
    assert solution.value / problem.value(torch.zeros(problem.shape)) < published
    assert int(solution.mask.sum()) == problem.structure.supports.count
    assert solution.stop is Stop.CONVERGED


def test_moving_budget_between_rows_pays():
    weight, gram = make_layer(40, 20, 400, 0)
    problem = layerwise(weight, gram, Cardinality(160))
    even = LocalSearch(rounds=0).solve(layerwise(weight, gram, PerRow(8)))
    stays = LocalSearch(rounds=0).solve(problem, start=even.point)
    moves = LocalSearch().solve(problem, start=even.point)
    assert moves.value < stays.value
    assert int(moves.mask.sum()) == 160


@pytest.mark.parametrize("supports", [Cardinality(50), PerRow(9), NofM(2, 4)], ids=lambda s: s.describe())
def test_a_start_that_leaves_budget_unused_is_filled_up(supports):
    weight, gram = make_layer(16, 6, 300, 0)
    problem = layerwise(weight, gram, supports)
    solution = LocalSearch().solve(problem, start=torch.zeros(6, 16))
    full = {"Cardinality": 50, "PerRow": 54, "NofM": 48}[type(supports).__name__]
    assert int(solution.mask.sum()) == full


def test_any_start_solver_is_improved_or_kept():
    weight, gram = make_layer(32, 16, 400, 0)
    problem = layerwise(weight, gram, Cardinality(150))
    for solver in (OBC(), ADMM(), Magnitude()):
        first = solver.solve(problem)
        better = LocalSearch(start_solver=solver).solve(problem)
        assert better.value <= first.value
        again = LocalSearch().solve(problem, start=better.point)
        assert again.value == pytest.approx(better.value, rel=1e-5) and again.value <= better.value
    assert torch.equal(LocalSearch().solve(problem).point, LocalSearch().solve(problem).point)


def test_restricted_problems_are_respected():
    weight, gram = make_layer(12, 3, 100, 0)
    on, off = torch.zeros(3, 12, dtype=torch.bool), torch.zeros(3, 12, dtype=torch.bool)
    on[0, :2], off[1, 4:8] = True, True
    for supports in (Cardinality(15), PerRow(5), NofM(2, 4)):
        mask = LocalSearch().solve(layerwise(weight, gram, supports).restrict(on, off)).mask
        assert mask[0, :2].all() and not mask[1, 4:8].any()


@pytest.mark.parametrize("shape", [(1, 9), (5, 1), (1, 1)])
def test_degenerate_sizes(shape):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, shape[1], generator=generator, dtype=torch.float64)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    for count, expected in ((0, 0), (1, 1), (10**6, shape[0] * shape[1])):
        solution = LocalSearch().solve(layerwise(weight, inputs.T @ inputs, Cardinality(count)))
        assert int(solution.mask.sum()) == expected


def test_dead_inputs_stay_out():
    weight, gram = make_layer(16, 6, 300, 0)
    gram[3], gram[:, 3] = 0.0, 0.0
    solution = LocalSearch().solve(layerwise(weight, gram, PerRow(8)))
    assert not solution.mask[:, 3].any() and (solution.mask.sum(dim=1) == 8).all()


def test_budgets_and_progress_stop_the_run():
    weight, gram = make_layer(48, 32, 400, 0)
    problem = layerwise(weight, gram, Cardinality(300))
    start = Magnitude(refit=True).solve(problem).point
    none = LocalSearch().solve(problem, start=start, budget=Budget(seconds=1e-9))
    assert none.stop is Stop.TIME and none.value <= problem.value(start)
    one = LocalSearch().solve(problem, start=start, budget=Budget(iterations=1))
    full = LocalSearch().solve(problem, start=start)
    assert one.stop is Stop.ITERATIONS and full.value < one.value < problem.value(start)
    calls = []
    stopped = LocalSearch().solve(problem, start=start, progress=lambda *state: calls.append(state) or len(calls) == 2)
    assert stopped.stop is Stop.USER and stopped.violation == 0
    values = [value for _, value, _ in full.stats.trace if value is not None]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_an_interrupt_returns_the_best_so_far(moment, monkeypatch):
    weight, gram = make_layer(48, 32, 400, 0)
    problem = layerwise(weight, gram, Cardinality(300))
    start = Magnitude(refit=True).solve(problem).point
    calls, original = [], local_search.search

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == moment:
            raise KeyboardInterrupt
        original(*args, **kwargs)

    monkeypatch.setattr(local_search, "search", interrupted)
    solution = LocalSearch().solve(problem, start=start)
    assert solution.stop is Stop.USER and solution.violation == 0
    values = [value for _, value, _ in solution.stats.trace if value is not None]
    assert solution.value == pytest.approx(min(values), rel=1e-6) and solution.value <= problem.value(start)


def test_groups_and_impossible_parameters_are_refused():
    weight, gram = make_layer(8, 2, 100, 0)
    assert "ADMM" in LocalSearch().rejects(layerwise(weight, gram, Groups(4, 1)))
    for wrong in ({"depth": 0}, {"rounds": -1}, {"tolerance": 0.0}):
        with pytest.raises(InvalidProblem):
            LocalSearch(**wrong)
