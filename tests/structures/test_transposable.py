"""TransposableNofM as a family of supports: conformance, certificates, and its use by the solvers of the package."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mipprune as mp
from mipprune import TransposableNofM
from mipprune.cli.options import parse_structure


def independent_check(matrix: Tensor, n: int, m: int) -> bool:
    """An N:M checker of its own: at most n non-zeros in each run of m entries of every row."""
    return all(
        sum(1 for entry in row[start : start + m] if entry != 0) <= n
        for row in matrix.tolist()
        for start in range(0, len(row), m)
    )


def small_layer(out: int = 8, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    inputs = torch.randn(64, width, generator=generator, dtype=torch.float64) @ mixing
    return torch.randn(out, width, generator=generator, dtype=torch.float64), inputs.T @ inputs


@pytest.mark.parametrize(
    ("n", "m", "sense", "shape"),
    [
        (1, 2, "exact", (2, 4)),
        (2, 3, "exact", (3, 3)),
        (2, 3, "exact", (2, 5)),  # both sides padded
        (1, 3, "at_most", (3, 4)),
        (2, 4, "at_most", (2, 5)),
    ],
)
def test_conformance(n: int, m: int, sense: str, shape: tuple[int, int]) -> None:
    mp.testing.check_supports(TransposableNofM(n, m, sense), shape=shape, trials=6)


@pytest.mark.parametrize("sense", ["exact", "at_most"])
def test_solve_is_exact_certified_and_checked(sense: str) -> None:
    scores = torch.randn(33, 50, generator=torch.Generator().manual_seed(1)).abs()
    problem = mp.formulations.transposable_mask(scores, TransposableNofM(4, 8, sense))
    solution = mp.solve(problem, budget=mp.Budget(gap=1e-9))
    assert solution.status is mp.Status.OPTIMAL and solution.proof is mp.Proof.CHECKED
    assert solution.gap <= 1e-9
    mp.check(problem, solution)
    assert independent_check(solution.point, 4, 8) and independent_check(solution.point.mT, 4, 8)


@pytest.mark.exact
def test_highs_finds_the_same_value(highs: object) -> None:
    scores = torch.rand(8, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for sense in ("exact", "at_most"):
        for shape in ((8, 12), (6, 9)):
            problem = mp.formulations.transposable_mask(scores[: shape[0], : shape[1]], TransposableNofM(2, 4, sense))
            ours, theirs = mp.solve(problem), mp.solve(problem, mp.Highs(), budget=mp.Budget(gap=1e-9))
            assert ours.value == pytest.approx(theirs.value, rel=1e-9)


def test_the_worked_example_as_a_problem() -> None:
    scores = torch.tensor([[0.0, 0, 1], [1, 1, 0], [1, 1, 0]])
    for sense, value in (("exact", -4.0), ("at_most", -5.0)):
        problem = mp.formulations.transposable_mask(scores, TransposableNofM(2, 3, sense))
        solution = mp.solve(problem)
        assert solution.value == value
        assert mp.check(problem, solution, exact=True).bound == pytest.approx(value, abs=1e-12)


def test_tampering_is_noticed() -> None:
    scores = torch.rand(8, 8, generator=torch.Generator().manual_seed(3))
    problem = mp.formulations.transposable_mask(scores, TransposableNofM(2, 4))
    solution = mp.solve(problem)
    witness = solution.certificate.witness.clone()
    witness[0, 0, 0] += 0.25
    weaker = mp.Tangent(solution.certificate.point, None, witness).bound(problem)
    assert weaker < solution.bound
    for broken in (witness[:1], witness * float("nan")):
        with pytest.raises(mp.CertificateError, match="potentials"):
            mp.Tangent(solution.certificate.point, None, broken).bound(problem)


def test_any_potentials_give_a_valid_bound() -> None:
    generator = torch.Generator().manual_seed(4)
    gain = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    on, off = torch.zeros(8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    on[0, 0], off[1, :2], off[7, 7] = True, True, True
    for sense in ("exact", "at_most"):
        for family in (TransposableNofM(2, 4, sense), TransposableNofM(2, 4, sense).restrict(on, off)):
            best = family.select(gain)
            assert best.bound - best.value <= 1e-10
            for _ in range(20):
                witness = torch.randn(4, 2, 4, generator=generator, dtype=torch.float64)
                assert family.select_bound(gain, witness) >= best.value


SOLVERS = [mp.ADMM(), mp.Wanda(), mp.SparseGPT(), mp.Magnitude(), mp.ProjectedGradient()]


@pytest.mark.parametrize("sense", ["exact", "at_most"])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_layers_are_pruned_by_every_method(solver: mp.Solver, sense: str) -> None:
    weight, gram = small_layer(16, 24)
    problem = mp.formulations.layerwise(weight, gram, TransposableNofM(2, 4, sense))
    solution = mp.solve(problem, solver)
    assert solution.violation == 0
    assert independent_check(solution.point, 2, 4) and independent_check(solution.point.mT, 2, 4)
    assert solution.value < problem.value(torch.zeros(16, 24))


def test_sparsegpt_chooses_blocks_when_the_sweep_reaches_them() -> None:
    """At the first column of blocks its mask is the best one for the scores there; later ones see the updates."""
    weight, gram = small_layer(8, 16)
    problem = mp.formulations.layerwise(weight, gram, TransposableNofM(2, 4))
    solution = mp.solve(problem, mp.SparseGPT())
    factor = torch.linalg.cholesky(torch.linalg.inv(problem.loss.gram), upper=True)
    scores = problem.loss.center.square() / factor.diagonal().square()
    at_once = TransposableNofM(2, 4).keep(scores)
    assert torch.equal(solution.mask[:, :4], at_once[:, :4])
    assert not torch.equal(solution.mask, at_once)


def test_certify_a_small_layer() -> None:
    weight, gram = small_layer(4, 8, seed=5)
    problem = mp.formulations.layerwise(weight, gram, TransposableNofM(2, 4))
    solution = mp.certify(problem, mp.solve(problem, mp.ADMM()))
    assert solution.proof is mp.Proof.CHECKED and 0 < solution.bound <= solution.value
    mp.check(problem, solution)


@pytest.mark.parametrize("sense", ["exact", "at_most"])
def test_the_proximal_step_gives_better_bounds_than_the_oracle_alone(
    sense: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, gram = small_layer(16, 16, seed=5)
    family = TransposableNofM(4, 8, sense)
    problem = mp.formulations.layerwise(weight, gram, family)
    point = mp.solve(problem, mp.ADMM()).point
    split = mp.certify(problem, point)
    monkeypatch.setattr(TransposableNofM, "spread", lambda *arguments, **options: None)
    alone = mp.certify(problem, point)
    assert alone.bound < split.bound <= split.value
    mp.check(problem, split)
    restricted = family.restrict(torch.eye(16) > 0, torch.eye(16).roll(1, 0) > 0)
    monkeypatch.undo()
    shares = restricted.spread(weight, torch.full((16, 16), 0.3, dtype=torch.float64))
    assert bool((shares.diagonal() == 1).all()) and bool((shares[torch.eye(16).roll(1, 0) > 0] == 0).all())


def test_branch_and_bound_proves_a_tiny_layer() -> None:
    weight, gram = small_layer(2, 4, seed=6)
    problem = mp.formulations.layerwise(weight, gram, TransposableNofM(1, 2))
    solution = mp.solve(problem, mp.BranchAndBound())
    assert solution.status is mp.Status.OPTIMAL
    value, _ = mp.testing.enumerate_optimum(problem)
    assert solution.value == pytest.approx(value, rel=1e-6)
    mp.check(problem, solution)


@pytest.mark.parametrize("sense", ["exact", "at_most"])
def test_warm_started_projections(sense: str) -> None:
    """A run of similar gains: the same kept sums as without the start."""
    family = TransposableNofM(8, 16, sense)
    generator = torch.Generator().manual_seed(7)
    gain = torch.randn(64, 64, generator=generator).abs()
    keep = family.keeper()
    for _ in range(5):
        gain = gain * (1 + 0.01 * torch.randn(64, 64, generator=generator))
        warm, cold = keep(gain), family.keep(gain)
        assert float(gain[warm].double().sum()) == pytest.approx(float(gain[cold].double().sum()), rel=1e-9)
    assert keep(torch.ones(16, 16)).shape == (16, 16)  # another shape starts anew


def scores_at_random(rng: np.random.Generator, shape: tuple[int, int]) -> Tensor:
    """Scores with and without ties, of any magnitude a number can have and of any dtype."""
    normal = rng.standard_normal(shape)
    kind = rng.integers(6)
    scores = [
        normal,
        np.abs(normal) * (rng.random(shape) < 0.3),
        np.full(shape, 0.37),
        np.round(2.0 * normal),
        np.abs(normal[:, :1] * normal[:1]),
        np.exp(6.0 * normal),
    ][kind]
    dtype = [torch.float32, torch.float64, torch.float16, torch.bfloat16][rng.integers(4)]
    factor = 1.0 if dtype == torch.float16 else float(10.0 ** rng.choice([0, -44, -38, -30, 12, 28]))
    return torch.from_numpy(scores * factor).to(dtype).nan_to_num()  # what is too large becomes the largest


@given(
    seed=st.integers(0, 10**6),
    m=st.sampled_from([2, 3, 4, 8, 16]),
    sense=st.sampled_from(["exact", "at_most"]),
    start=st.sampled_from(["none", "own", "noise", "nan", "inf"]),
)
def test_no_value_is_above_a_bound(seed: int, m: int, sense: str, start: str) -> None:
    """Whatever the scores and the start, padded or not: proven, and the same value as from nothing."""
    rng = np.random.default_rng(seed)
    gain = scores_at_random(rng, (int(rng.integers(1, 2 * m + 1)), int(rng.integers(1, 2 * m + 1))))
    family = TransposableNofM(int(rng.integers(1, m + 1)), m, sense)
    cold = family.solve(gain)
    shape = cold.rows.shape
    noise = torch.from_numpy(rng.standard_normal((2, *shape)) * 10.0 ** float(rng.integers(-40, 300)))
    given_ = {"none": None, "own": (cold.rows, cold.columns), "noise": (noise[0], noise[1])}
    for name in ("nan", "inf"):
        given_[name] = (torch.full(shape, float(name), dtype=torch.float64), cold.columns)
    found = [
        family.selection(gain, blocks)
        for blocks in (cold, family.solve(gain, given_[start]), family.solve(gain, sweeps=seed % 5, rest="round"))
    ]
    scale = float(gain.double().abs().sum())
    for choice in found:
        assert family.contains(choice.mask) and found[0].value <= choice.bound
    assert max(choice.bound for choice in found[:2]) - found[0].value <= 1e-9 * scale
    assert found[1].value == pytest.approx(found[0].value, abs=1e-12 * scale)


def exact_dual(gain: Tensor, rows: Tensor, columns: Tensor, family: TransposableNofM) -> Fraction:
    """Dual value of potentials in rational arithmetic."""
    total = Fraction(0)
    for block, own, across in zip(family.blocks(gain).tolist(), rows.tolist(), columns.tolist(), strict=True):
        u, v = [Fraction(x) for x in own], [Fraction(x) for x in across]
        total += family.n * (sum(u) + sum(v))
        total += sum(max(Fraction(x) - u[i] - v[j], 0) for i, row in enumerate(block) for j, x in enumerate(row))
    return total


@given(
    seed=st.integers(0, 10**6),
    m=st.sampled_from([4, 8, 16, 64]),
    sense=st.sampled_from(["exact", "at_most"]),
    power=st.integers(0, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=25)
def test_bounds_from_wild_starts_hold_and_are_tight(
    seed: int, m: int, sense: str, power: int, dtype: torch.dtype
) -> None:
    """In rational arithmetic: no bound below its dual value, no dual value below the optimum; the rest is rounding."""
    rng = np.random.default_rng(seed)
    spread = float(rng.choice([1.0, 6.0]))  # the second: scores over ten orders of magnitude
    gain = torch.from_numpy(np.exp(spread * rng.standard_normal((m, m + 1)))).to(dtype)
    family = TransposableNofM(int(rng.integers(1, m)), m, sense)
    start = torch.from_numpy(rng.standard_normal((2, 2, m)) * 10.0**power * float(gain.max()))
    optimum = family.select(gain)
    for rest in ("repair", "round"):
        found = family.solve(gain, (start[0], start[1]), sweeps=None if rest == "repair" else 2, rest=rest)
        choice = family.selection(gain, found)
        dual = exact_dual(gain, found.rows, found.columns, family)
        value = sum(Fraction(x) for x in gain[choice.mask].tolist())
        size = float(gain.double().sum() + m * (found.rows.abs().sum() + found.columns.abs().sum()))
        assert Fraction(optimum.value) * (1 - Fraction(1, 10**15)) <= dual <= Fraction(choice.bound)
        assert value <= dual and float(Fraction(choice.bound) - dual) <= (3 * m + 16) * 2.0**-53 * size
        if rest == "repair":
            assert float(dual - value) <= 1e-12 * size and choice.value == pytest.approx(optimum.value, rel=1e-12)


def test_narrow_and_whole_numbers_are_scores() -> None:
    scores = torch.randint(-100, 100, (12, 8), generator=torch.Generator().manual_seed(3))
    wide = TransposableNofM(2, 4).select(scores.double())
    for dtype in (torch.int8, torch.int64, torch.float16, torch.bfloat16):
        assert TransposableNofM(2, 4).select(scores.to(dtype)).value == wide.value


@pytest.mark.parametrize("m", [4, 8, 32])
def test_subnormal_scores_are_scores(m: int) -> None:
    tiny = 1e-310 * torch.rand(m, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, usual = TransposableNofM(m // 2, m).select(tiny), TransposableNofM(m // 2, m).select(1e10 * (1e300 * tiny))
    assert 0 < found.value <= found.bound and 1e10 * (1e300 * found.value) == pytest.approx(usual.value, rel=1e-6)


def test_blocks_of_any_magnitudes_stand_side_by_side() -> None:
    scores = torch.rand(8, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scales = torch.tensor([1e300, 1e-200, 1.0, 1e-300], dtype=torch.float64).repeat_interleave(4)
    family = TransposableNofM(2, 4)
    again = family.keeper()
    for _ in range(2):
        assert torch.equal(family.keep(scores * scales), family.keep(scores))
        assert torch.equal(again(scores * scales), family.keep(scores))


def test_a_bound_that_overflows_is_infinite() -> None:
    scores = 1.7e308 * (2.0 * torch.rand(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1.0)
    assert TransposableNofM(2, 4).select(scores).bound == math.inf


def test_bad_arguments_and_data() -> None:
    with pytest.raises(mp.InvalidProblem, match="1 <= n <= m"):
        TransposableNofM(5, 4)
    with pytest.raises(mp.InvalidProblem, match="sense"):
        TransposableNofM(2, 4, "exactly")
    with pytest.raises(mp.InvalidProblem, match="matrix"):
        TransposableNofM(2, 4).check_shape((4, 4, 4))
    for bad in (float("nan"), float("-inf")):
        with pytest.raises(mp.InvalidProblem, match="NaN or -inf"):
            TransposableNofM(2, 4).keep(torch.full((4, 4), bad))
    gain, zero = torch.rand(8, 8), torch.zeros(3, 4, dtype=torch.float64)  # four blocks
    for settings_, message in (
        ({"rest": "none"}, "'complete'"),
        ({"sweeps": -1}, "whole number"),
        ({"sweeps": 1.5}, "whole number"),
        ({"start": (zero, zero)}, "start has potentials"),
        ({"start": (zero.new_zeros(4, 4),)}, "start has potentials"),
    ):
        with pytest.raises(mp.InvalidProblem, match=message):
            TransposableNofM(2, 4).solve(gain, **settings_)  # type: ignore[arg-type]
    none = torch.zeros(4, 4, dtype=torch.bool)
    fixed = TransposableNofM(2, 4).restrict(none, none)
    for ask in (fixed.select, fixed.keep, lambda gain: fixed.select_bound(gain, torch.zeros(4, 2, 4))):
        with pytest.raises(mp.InvalidProblem, match="the array has shape"):
            ask(gain)
    weight = torch.nn.Parameter(gain)
    assert torch.equal(TransposableNofM(2, 4).keep(weight), TransposableNofM(2, 4).keep(gain))
    with pytest.raises(mp.InvalidProblem, match="family of masks"):
        mp.formulations.transposable_mask(torch.ones(4, 4), mp.Sparse(TransposableNofM(2, 4)))  # type: ignore[arg-type]


def test_a_network_by_the_structure_of_the_command_line() -> None:
    generator = torch.Generator().manual_seed(8)
    net = torch.nn.Sequential(torch.nn.Linear(16, 12), torch.nn.ReLU(), torch.nn.Linear(12, 8))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    batches = [torch.randn(64, 16, generator=generator)]
    mp.networks.prune(net, batches, parse_structure("transposable:2:4"))
    for layer in (net[0], net[2]):
        assert independent_check(layer.weight, 2, 4) and independent_check(layer.weight.mT, 2, 4)
        assert int((layer.weight != 0).sum()) == layer.weight.numel() // 2


def test_solutions_survive_their_files(tmp_path: Path) -> None:
    scores = torch.rand(8, 8, generator=torch.Generator().manual_seed(9))
    problem = mp.formulations.transposable_mask(scores, TransposableNofM(2, 4, "at_most"))
    solution = mp.solve(problem)
    entry = mp.load(mp.save(tmp_path / "mask.safetensors", {"mask": (problem, solution)}))["mask"]
    assert mp.check(entry.problem, entry.solution).bound == solution.bound
