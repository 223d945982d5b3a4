"""Magnitude, Wanda and SparseGPT: published figures, exact counts, odd inputs, rejections."""

from __future__ import annotations

import pytest
import torch

from mipprune import Cardinality, Groups, Magnitude, Masks, NofM, PerRow, Problem, Sparse, SparseGPT, Unsupported, Wanda
from mipprune.formulations import layerwise
from tests.enumeration import Enumeration
from tests.layers import cached_layer, make_layer, reference, relative_error, supports_of

ALL = [Magnitude(), Wanda(), SparseGPT(), Magnitude(refit=True), Wanda(refit=True), SparseGPT(refit=True)]
FULL = {
    (row["structure"].get("sparsity"), row["structure"].get("n")): row
    for row in reference("layerwise_7_5")["layers"][0]["rows"]
}


def full_size(supports):
    weight, gram = cached_layer(768, 768, 4096, 0)
    return weight, gram, layerwise(weight, gram, supports)


@pytest.mark.parametrize("row", [FULL[0.7, None], FULL[None, 2]], ids=["70 %", "2:4"])
def test_full_size_errors_are_those_of_the_published_codes(row):
    supports = supports_of(row["structure"], 768, 768)
    by_row = PerRow(768 - int(768 * row["structure"]["sparsity"])) if isinstance(supports, Cardinality) else supports
    for solver, family, name, tolerance in (
        (Magnitude(), supports, "magnitude", 1e-4),
        (Wanda(), by_row, "wanda", 1e-4),
        (SparseGPT(), supports, "sparsegpt", 1e-3),
    ):
        weight, gram, problem = full_size(family)
        solution = solver.solve(problem)
        assert relative_error(weight, solution.point, gram) == pytest.approx(
            row["relative_error"][name], rel=tolerance
        ), name


def rowwise(solver, weight, gram, supports):
    """Sum of the values when every row is a problem of its own."""
    return sum(solver.solve(layerwise(row[None], gram, Cardinality(supports.count))).value for row in weight)


@pytest.mark.parametrize("row", reference("layerwise_7_1")["rows"], ids=lambda row: f"{row['d']}-{row['structure']}")
def test_small_layers_reach_the_published_multiples_of_the_optimum(row):
    key = row["d"], row["m"], row["n"], row["seed"]
    weight, gram = cached_layer(*key)
    supports = supports_of(row["structure"], row["d"], row["m"])
    problem = layerwise(weight, gram, supports)
    optimum = enumeration(*key).optimum(problem)
    assert optimum / problem.value(torch.zeros(problem.shape)) == pytest.approx(row["optimum"], rel=2e-4)
    by_row = PerRow(supports.count // row["m"]) if isinstance(supports, Cardinality) else supports
    even = layerwise(weight, gram, by_row)
    ratios = {"wanda": Wanda().solve(even).value, "wanda_refit": Wanda(refit=True).solve(even).value}
    for name, solver in (("magnitude", Magnitude()), ("sparsegpt", SparseGPT()), ("sparsegpt_refit", SparseGPT(True))):
        per_row = isinstance(supports, PerRow)
        ratios[name] = rowwise(solver, weight, gram, supports) if per_row else solver.solve(problem).value
    for name, value in ratios.items():
        assert value / optimum == pytest.approx(row["ratios"][name], rel=1e-3), name


_ENUMERATIONS: dict[tuple[int, ...], Enumeration] = {}


def enumeration(*key: int) -> Enumeration:
    if key not in _ENUMERATIONS:
        weight, gram = cached_layer(*key)
        _ENUMERATIONS[key] = Enumeration(layerwise(weight, gram, Cardinality(1)).loss)
    return _ENUMERATIONS[key]


@pytest.mark.parametrize("solver", ALL, ids=lambda s: f"{s.name}-{s.refit}")
@pytest.mark.parametrize("supports", [Cardinality(50), PerRow(5), NofM(2, 4), NofM(1, 3), Groups(4, 2)], ids=str)
def test_points_use_the_whole_budget_and_nothing_more(solver, supports, device):
    weight, gram = make_layer(24, 10, 200, 3)
    problem = layerwise(weight.to(device), gram.to(device), supports)
    before = problem.loss.center.clone()
    solution = solver.solve(problem)
    assert solution.violation == 0 and solution.bound is None
    full = {"Cardinality": 50, "PerRow": 50, "NofM": 240 * getattr(supports, "n", 0) // getattr(supports, "m", 1)}
    assert int(solution.mask.sum()) == full.get(type(supports).__name__, 80)
    assert solution.value == problem.value(solution.point)
    assert torch.equal(problem.loss.center, before)  # the data are not overwritten
    assert torch.equal(solver.solve(problem).point, solution.point)


@pytest.mark.parametrize("solver", [Magnitude, Wanda, SparseGPT])
def test_a_refit_never_hurts(solver):
    weight, gram = make_layer(40, 12, 400, 5)
    problem = layerwise(weight, gram, Cardinality(150))
    plain, refitted = solver().solve(problem), solver(refit=True).solve(problem)
    assert torch.equal(plain.mask, refitted.mask)
    assert refitted.value < plain.value


def test_wanda_shares_a_layer_budget_evenly_and_ignores_the_damping():
    weight, gram = make_layer(16, 6, 300, 0)
    problem = layerwise(weight, gram, Cardinality(6 * 5 + 2), damping=0.5)
    mask = Wanda().solve(problem).mask
    assert sorted(mask.sum(dim=1).tolist()) == [5, 5, 5, 5, 6, 6]
    scores = weight.double().abs() * gram.diagonal().sqrt()
    for row in range(6):
        kept = scores[row][mask[row]]
        assert kept.min() >= scores[row][~mask[row]].max()


@pytest.mark.parametrize("solver", ALL, ids=lambda s: f"{s.name}-{s.refit}")
def test_dead_inputs_and_zero_weights_take_no_capacity(solver):
    weight, gram = make_layer(16, 4, 300, 0)
    gram[3], gram[:, 3] = 0.0, 0.0
    weight[:, 7] = 0.0
    problem = layerwise(weight, gram, PerRow(8))
    solution = solver.solve(problem)
    assert not solution.mask[:, 3].any()
    assert (solution.mask.sum(dim=1) == 8).all()


@pytest.mark.parametrize("solver", ALL, ids=lambda s: f"{s.name}-{s.refit}")
@pytest.mark.parametrize("shape", [(1, 9), (5, 1), (1, 1)])
def test_degenerate_sizes(solver, shape):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, shape[1], generator=generator, dtype=torch.float64)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    for count, expected in ((0, 0), (10**6, shape[0] * shape[1])):
        solution = solver.solve(layerwise(weight, inputs.T @ inputs, Cardinality(count)))
        assert int(solution.mask.sum()) == expected
        if count:
            torch.testing.assert_close(solution.point, weight)


def test_ties_go_to_the_lower_index():
    problem = layerwise(torch.ones(2, 4), torch.eye(4), NofM(2, 4))
    for solver in ALL:
        assert solver.solve(problem).mask.tolist() == [[True, True, False, False]] * 2, solver


def test_precision_changes_next_to_nothing():
    weight, gram = make_layer(128, 128, 1024, 1)
    problem = layerwise(weight, gram, Cardinality(5000))
    single = SparseGPT(dtype=torch.float32).solve(problem)
    double = SparseGPT(dtype=torch.float64).solve(problem)
    assert float((single.mask == double.mask).double().mean()) >= 0.999
    assert single.value == pytest.approx(double.value, rel=1e-3)


def test_blocks_shorter_than_the_layer_keep_the_exact_count():
    weight, gram = make_layer(40, 7, 300, 2)
    for supports in (Cardinality(101), PerRow(13), NofM(3, 8)):
        for block in (1, 7, 16, 64):
            solution = SparseGPT(block=block).solve(layerwise(weight, gram, supports))
            assert int(solution.mask.sum()) == {"Cardinality": 101, "PerRow": 91, "NofM": 105}[type(supports).__name__]


def test_restricted_problems_are_respected():
    weight, gram = make_layer(12, 3, 100, 0)
    on, off = torch.zeros(3, 12, dtype=torch.bool), torch.zeros(3, 12, dtype=torch.bool)
    on[0, :2], off[1, 4:8] = True, True
    for supports in (Cardinality(15), PerRow(5), NofM(2, 4)):
        problem = layerwise(weight, gram, supports).restrict(on, off)
        for solver in ALL:
            mask = solver.solve(problem).mask
            assert mask[0, :2].all() and not mask[1, 4:8].any(), (solver, supports)


@pytest.mark.parametrize("solver", ALL[:3], ids=lambda s: s.name)
def test_rejections_say_why(solver):
    weight, gram = make_layer(8, 2, 100, 0)
    problem = layerwise(weight, gram, Cardinality(4))
    boxed = Problem(problem.loss, Sparse(Cardinality(4), box=1.0))
    priced = Problem(problem.loss, Sparse(Cardinality(4), price=0.1))
    masks = Problem(problem.loss, Masks(Cardinality(4)))
    for other, word in ((boxed, "box"), (priced, "price"), (masks, "Masks")):
        assert word in solver.rejects(other)
        with pytest.raises(Unsupported, match=solver.name):
            solver.solve(other)
