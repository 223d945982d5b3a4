"""ADMM (ALPS): published figures, every family of supports, stopping, odd inputs."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from mipprune import ADMM, Budget, Cardinality, Groups, InvalidProblem, NofM, PerRow, Problem, Quadratic, Sparse, Stop
from mipprune import SparseGPT as OneShot
from mipprune.core.structure import Selection, Supports
from mipprune.formulations import layerwise
from tests.layers import cached_layer, make_layer, reference, relative_error, supports_of

FULL = {
    (row["structure"].get("sparsity"), row["structure"].get("n")): row
    for row in reference("layerwise_7_5")["layers"][0]["rows"]
}


@pytest.mark.parametrize("row", [FULL[0.7, None], FULL[None, 2]], ids=["70 %", "2:4"])
def test_full_size_errors_are_those_of_the_published_code(row):
    weight, gram = cached_layer(768, 768, 4096, 0)
    supports = supports_of(row["structure"], 768, 768)
    solution = ADMM().solve(layerwise(weight, gram, supports))
    assert relative_error(weight, solution.point, gram) <= 1.005 * row["relative_error"]["alps"]
    kept = supports.count if isinstance(supports, Cardinality) else 768 * 768 // 2
    assert int(solution.mask.sum()) == kept and solution.violation == 0
    assert solution.stop is Stop.CONVERGED


@pytest.mark.parametrize("row", reference("layerwise_7_1")["rows"], ids=lambda row: f"{row['d']}-{row['structure']}")
def test_small_layers_reach_the_published_multiples_of_the_optimum(row):
    weight, gram = cached_layer(row["d"], row["m"], row["n"], row["seed"])
    supports = supports_of(row["structure"], row["d"], row["m"])
    problem = layerwise(weight, gram, supports)
    if isinstance(supports, PerRow):
        value = sum(ADMM().solve(layerwise(one[None], gram, Cardinality(supports.count))).value for one in weight)
    else:
        value = ADMM().solve(problem).value
    relative = value / problem.value(torch.zeros(problem.shape))
    assert relative / row["optimum"] == pytest.approx(row["ratios"]["alps"], rel=1e-2)


class Diagonals(Supports):
    """A user's own family: whole cyclic diagonals (entries with equal ``column - row``), at most ``count`` of them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def _number(self, like: torch.Tensor) -> torch.Tensor:
        rows, width = like.shape
        return (torch.arange(width) - torch.arange(rows)[:, None]) % width

    def select(self, gain: torch.Tensor) -> Selection:
        number = self._number(gain)
        totals = torch.zeros(gain.shape[1], dtype=gain.dtype).index_add(0, number.ravel(), gain.ravel())
        chosen = torch.topk(totals, self.count).indices
        mask = torch.isin(number, chosen)
        value = float(gain[mask].sum())
        return Selection(mask, value, value + 1e-9 * abs(value))

    def violation(self, mask: torch.Tensor) -> int:
        return max(0, len(self._number(mask)[mask].unique()) - self.count)

    def constraints(self, z):  # not needed by a heuristic
        return []

    def restrict(self, on, off):
        return self


@pytest.mark.parametrize(
    "supports",
    [Cardinality(60), PerRow(6), NofM(2, 4), NofM(1, 3), Groups(4, 2), Diagonals(4)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_family_gives_a_refitted_member_no_worse_than_its_first_mask(supports, dtype):
    weight, gram = make_layer(24, 10, 400, 3)
    problem = layerwise(weight, gram, supports)
    solution = ADMM(dtype=dtype).solve(problem)
    assert solution.violation == 0
    scaled = problem.loss.center * problem.loss.diagonal.sqrt()
    first = problem.loss.minimise_on(supports.keep(scaled.square()))
    assert solution.value <= problem.value(first) * (1 + 1e-6)
    refitted = problem.loss.minimise_on(solution.mask)
    assert solution.value == pytest.approx(problem.value(refitted), rel=1e-5)
    assert torch.equal(ADMM(dtype=dtype).solve(problem).point, solution.point)


def test_beats_one_shot_pruning_where_published():
    weight, gram = make_layer(64, 48, 1024, 0)
    problem = layerwise(weight, gram, Cardinality(64 * 48 // 4))
    assert ADMM().solve(problem).value < OneShot(refit=True).solve(problem).value


def test_single_and_double_precision_agree(device):
    weight, gram = make_layer(96, 96, 1024, 1)
    problem = layerwise(weight.to(device), gram.to(device), NofM(2, 4))
    single, double = (ADMM(dtype=dtype).solve(problem) for dtype in (torch.float32, torch.float64))
    assert float((single.mask == double.mask).double().mean()) >= 0.999
    assert single.value == pytest.approx(double.value, rel=1e-4)


def test_rows_may_have_their_own_gram_matrix():
    weight, gram = make_layer(12, 3, 200, 0)
    shared = layerwise(weight, gram, PerRow(4))
    stacked = Problem(Quadratic(shared.loss.gram.expand(3, 12, 12).clone(), shared.loss.center), shared.structure)
    torch.testing.assert_close(ADMM().solve(stacked).point, ADMM().solve(shared).point)


def test_dead_inputs_and_zero_weights():
    weight, gram = make_layer(16, 6, 300, 0)
    gram[3], gram[:, 3] = 0.0, 0.0
    weight[:, 7] = 0.0
    solution = ADMM().solve(layerwise(weight, gram, PerRow(8)))
    assert not solution.mask[:, 3].any()
    assert (solution.mask.sum(dim=1) == 8).all()


@pytest.mark.parametrize("shape", [(1, 9), (5, 1), (1, 1)])
def test_degenerate_sizes(shape):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, shape[1], generator=generator, dtype=torch.float64)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    for count, expected in ((0, 0), (1, 1), (10**6, shape[0] * shape[1])):
        solution = ADMM().solve(layerwise(weight, inputs.T @ inputs, Cardinality(count)))
        assert int(solution.mask.sum()) == expected
    assert torch.equal(solution.point, weight) and solution.stats.iterations == 0  # nothing to prune
    zero = ADMM().solve(layerwise(torch.zeros(shape), inputs.T @ inputs, Cardinality(3)))
    assert zero.value == 0.0


def test_restricted_problems_are_respected():
    weight, gram = make_layer(12, 3, 100, 0)
    on, off = torch.zeros(3, 12, dtype=torch.bool), torch.zeros(3, 12, dtype=torch.bool)
    on[0, :2], off[1, 4:8] = True, True
    for supports in (Cardinality(15), PerRow(5), NofM(2, 4)):
        mask = ADMM().solve(layerwise(weight, gram, supports).restrict(on, off)).mask
        assert mask[0, :2].all() and not mask[1, 4:8].any()


def test_scale_of_the_data_does_not_matter():
    weight, gram = make_layer(20, 8, 200, 0)
    usual = ADMM(dtype=torch.float32).solve(layerwise(weight, gram, Cardinality(50)))
    huge = ADMM(dtype=torch.float32).solve(layerwise(weight.double() * 1e9, gram * 1e24, Cardinality(50)))
    assert torch.equal(huge.mask, usual.mask)


def test_budgets_and_progress_stop_the_run():
    weight, gram = make_layer(32, 16, 400, 0)
    problem = layerwise(weight, gram, Cardinality(100))
    few = ADMM().solve(problem, budget=Budget(iterations=4))
    assert few.stop is Stop.ITERATIONS and few.stats.iterations == 4 and few.violation == 0
    assert ADMM().solve(problem, budget=Budget(seconds=1e-9)).stop is Stop.TIME
    seen = []
    stopped = ADMM().solve(problem, progress=lambda *state: seen.append(state) or len(seen) == 2)
    assert stopped.stop is Stop.USER and stopped.stats.iterations < ADMM().solve(problem).stats.iterations
    assert stopped.violation == 0


class InterruptedOnce(PerRow):
    """Presses Ctrl-C during the fifth selection."""

    calls: ClassVar[list[int]] = []

    def keep(self, gain: torch.Tensor) -> torch.Tensor:
        self.calls.append(1)
        if len(self.calls) == 5:
            raise KeyboardInterrupt
        return super().keep(gain)


def test_an_interrupt_returns_the_best_so_far():
    weight, gram = make_layer(32, 16, 400, 0)
    solution = ADMM().solve(layerwise(weight, gram, InterruptedOnce(8)))
    assert solution.stop is Stop.USER and solution.violation == 0 and int(solution.mask.sum()) == 8 * 16


def test_a_start_is_used():
    weight, gram = make_layer(32, 16, 400, 0)
    problem = layerwise(weight, gram, Cardinality(100))
    start = OneShot().solve(problem).point
    assert ADMM().solve(problem, start=start).violation == 0
    assert ADMM().solve(problem, start=problem.loss.center).value == ADMM().solve(problem).value


@pytest.mark.parametrize("wrong", [{"penalty": 0.0}, {"growth": (1.3, 1.0, 1.1)}, {"period": 0}])
def test_parameters_that_cannot_work_are_refused(wrong):
    with pytest.raises(InvalidProblem):
        ADMM(**wrong)


def test_rejections_say_why():
    weight, gram = make_layer(8, 2, 100, 0)
    problem = layerwise(weight, gram, Sparse(Cardinality(4), box=1.0))
    assert "box" in ADMM().rejects(problem)
