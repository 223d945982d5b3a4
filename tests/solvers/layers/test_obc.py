"""OBC: published figures, the greedy rule itself, merged traces, compiled and batched paths."""

from __future__ import annotations

import pytest
import torch

from mipprune import OBC, Budget, Cardinality, Groups, NofM, PerRow, Stop
from mipprune.formulations import layerwise
from mipprune.kernels import greedy
from tests.layers import cached_layer, make_layer, reference, supports_of

ROWS = [row for row in reference("layerwise_7_1")["rows"] if row["ratios"]["obc"] is not None]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['d']}-{row['structure']}")
def test_small_layers_reach_the_published_multiples_of_the_optimum(row):
    weight, gram = cached_layer(row["d"], row["m"], row["n"], row["seed"])
    problem = layerwise(weight, gram, supports_of(row["structure"], row["d"], row["m"]))
    relative = OBC().solve(problem).value / problem.value(torch.zeros(problem.shape))
    assert relative / row["optimum"] == pytest.approx(row["ratios"]["obc"], rel=1e-3)


def by_definition(loss, kept):
    """Remove the weight whose removal raises the refitted value least, trying every one."""
    mask = torch.ones(loss.shape, dtype=torch.bool)
    while int(mask.sum()) > kept:
        trials = []
        for row, column in mask.nonzero().tolist():
            trial = mask.clone()
            trial[row, column] = False
            trials.append((loss.value(loss.minimise_on(trial)), row, column))
        _, row, column = min(trials)
        mask[row, column] = False
    return mask


def test_a_layer_budget_is_the_greedy_rule_over_all_weights():
    weight, gram = make_layer(7, 3, 80, 4)
    problem = layerwise(weight, gram, Cardinality(9))
    assert torch.equal(OBC().solve(problem).mask, by_definition(problem.loss, 9))


@pytest.mark.parametrize("supports", [Cardinality(700), PerRow(11), NofM(2, 4), NofM(3, 8)], ids=lambda s: s.describe())
def test_compiled_and_batched_paths_agree(supports, device, monkeypatch):
    weight, gram = make_layer(64, 70, 500, 2)
    on, off = torch.zeros(70, 64, dtype=torch.bool), torch.zeros(70, 64, dtype=torch.bool)
    on[3, :2], off[5, 8:13] = True, True
    for problem in (layerwise(weight, gram, supports), layerwise(weight, gram, supports).restrict(on, off)):
        compiled = OBC().solve(problem)
        with monkeypatch.context() as patch:
            patch.setattr(greedy, "_compiled", lambda: None)
            patch.setattr(greedy, "_BATCH_ENTRIES", 30 * 64**2)
            batched = OBC().solve(problem.to(device=device))
        assert torch.equal(compiled.mask, batched.mask.cpu())
        assert compiled.violation == 0
    assert compiled.mask[3, :2].all() and not compiled.mask[5, 8:13].any()


@pytest.mark.parametrize("shape", [(1, 9), (5, 1), (1, 1)])
def test_degenerate_sizes(shape):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, shape[1], generator=generator, dtype=torch.float64)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    for count, expected in ((0, 0), (1, 1), (10**6, shape[0] * shape[1])):
        solution = OBC().solve(layerwise(weight, inputs.T @ inputs, Cardinality(count)))
        assert int(solution.mask.sum()) == expected


def test_dead_inputs_go_first():
    weight, gram = make_layer(16, 6, 300, 0)
    gram[3], gram[:, 3] = 0.0, 0.0
    solution = OBC().solve(layerwise(weight, gram, Cardinality(40)))
    assert not solution.mask[:, 3].any() and int(solution.mask.sum()) == 40


@pytest.mark.parametrize("supports", [Cardinality(600), PerRow(10), NofM(2, 4)], ids=lambda s: s.describe())
def test_running_out_of_time_still_gives_a_member(supports):
    weight, gram = make_layer(64, 64, 500, 2)
    problem = layerwise(weight, gram, supports)
    solution = OBC().solve(problem, budget=Budget(seconds=1e-9))
    assert solution.stop is Stop.TIME and solution.violation == 0
    assert OBC().solve(problem).value <= solution.value
    calls = []
    stopped = OBC().solve(problem, progress=lambda *state: calls.append(state) or True)
    assert stopped.stop is Stop.USER and stopped.violation == 0


def test_an_interrupt_returns_a_member():
    weight, gram = make_layer(64, 64, 500, 2)

    def pressed(*state):
        if len(calls) == 0:
            calls.append(state)
            raise KeyboardInterrupt

    calls = []
    solution = OBC().solve(layerwise(weight, gram, Cardinality(600)), progress=pressed)
    assert solution.stop is Stop.USER and solution.violation == 0 and int(solution.mask.sum()) == 600


def test_groups_are_rejected_with_a_hint():
    weight, gram = make_layer(8, 2, 100, 0)
    assert "ADMM" in OBC().rejects(layerwise(weight, gram, Groups(4, 1)))
