"""Pruning networks to global budgets: gradients, the vector of weights, stages, jobs that resume."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mipprune as mp
from mipprune.io import check_file
from mipprune.networks import FlatWeights, kept_shares, prune_to_budgets, pruning_problem, sample_gradients


class Small(nn.Module):
    """A convolution, a depthwise one, a norm, a layer used twice, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 3, groups=4)
        self.twice = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.deep(x)).mean(dim=3).flatten(1)
        x = torch.relu(self.twice(x))
        out: Tensor = self.head(torch.relu(self.twice(x)))
        return out


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    model.norm.running_mean.copy_(torch.randn(4))
    return model


def batches(count: int = 24, size: int = 8, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, 6, 6, generator=generator)
    y = torch.randint(0, 3, (count,), generator=generator)
    return list(zip(x.split(size), y.split(size), strict=True))


def test_the_vector_holds_every_weight_once(net: nn.Module) -> None:
    weights = FlatWeights.of(net)
    assert weights.names == ("conv.weight", "deep.weight", "twice.weight", "head.weight")
    assert weights.size == 72 + 36 + 256 + 48
    vector = weights.vector()
    assert torch.equal(weights.split(vector)["deep.weight"], net.deep.weight)  # type: ignore[attr-defined]
    weights.write(2 * vector.double())
    assert torch.equal(weights.vector(), 2 * vector)
    assert FlatWeights.of(net, skip=["head", "conv"]).names == ("deep.weight", "twice.weight")
    assert weights.per_layer({"conv": 1, "deep.weight": 2, "twice": 3, "head": 4}) == [1.0, 2.0, 3.0, 4.0]


def test_embeddings_and_tied_matrices_stay_dense() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.mid = nn.Linear(4, 4, bias=False)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, input_ids: Tensor) -> Tensor:
            found: Tensor = self.out(self.mid(self.embed(input_ids)))
            return found

    model = Tied()
    assert FlatWeights.of(model).names == ("mid.weight",)
    assert FlatWeights.of(model, include=["out"]).size == 16 + 28
    ids = torch.randint(0, 7, (5, 6))
    rows = sample_gradients(model, [{"input_ids": ids}])
    logits = model(ids[:1])
    expected = torch.autograd.grad(nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]), model.mid.weight)[0]
    torch.testing.assert_close(rows[0].reshape(4, 4), expected)
    mask = torch.ones_like(ids)
    mask[:, 4:] = 0
    short = sample_gradients(model, [{"input_ids": ids[:, :4]}])
    for labels in ({}, {"labels": ids}):
        padded = sample_gradients(_Padded(model), [{"input_ids": ids, "attention_mask": mask, **labels}])
        torch.testing.assert_close(padded, short)


class _Padded(nn.Module):
    """Takes a mask as causal models do, which look at no later token."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.inner(input_ids)
        return found


@pytest.mark.parametrize("group", [1, 3])
def test_gradients_are_those_of_single_samples(net: nn.Module, group: int) -> None:
    data = batches()
    weights = FlatWeights.of(net)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rows = sample_gradients(net, data, weights, group=group)
    assert net.training and all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.eval()
    x, y = data[0]
    loss = nn.functional.cross_entropy(net(x[:group]), y[:group])
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, weights.parameters)])
    torch.testing.assert_close(rows[0], expected, atol=1e-6, rtol=1e-4)
    per_batch = -(-8 // group)
    assert rows.shape == (3 * per_batch, weights.size)
    assert torch.equal(sample_gradients(net, iter(data), weights, group=group), rows)
    assert torch.equal(sample_gradients(net, data, weights, group=group, samples=2), rows[:2])
    stopped = sample_gradients(net, data, weights, group=group, progress=lambda done, all_: done == 2)
    assert torch.equal(stopped, rows[:2])
    assert all(p.grad is None for p in net.parameters())


def test_labels_are_drawn_from_the_network_where_there_are_none(net: nn.Module) -> None:
    inputs = [x for x, _ in batches()]
    first, again = (sample_gradients(net, inputs, seed=3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample_gradients(net, inputs, seed=4))
    mapped = sample_gradients(net, [{"x": x, "labels": y} for x, y in batches()])
    assert torch.equal(mapped, sample_gradients(net, batches()))


def test_frozen_parameters_have_gradients_too(net: nn.Module) -> None:
    expected = sample_gradients(net, batches())
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(sample_gradients(net, batches()), expected)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_what_gradients_refuse(net: nn.Module) -> None:
    with pytest.raises(mp.InvalidProblem, match="no sample"):
        sample_gradients(net, [])
    with pytest.raises(mp.InvalidProblem, match="group"):
        sample_gradients(net, batches(), group=0)
    with pytest.raises(mp.InvalidProblem, match="not finite"):
        sample_gradients(net, [(torch.full((1, 2, 6, 6), float("nan")), torch.tensor([0]))])
    with pytest.raises(mp.InvalidProblem, match="one class number"):
        sample_gradients(net, [(torch.ones(2, 2, 6, 6), torch.tensor([0.5, 1.0]))])
    with pytest.raises(mp.InvalidProblem, match="GiB"):
        sample_gradients(net, batches(), samples=10**12)
    with pytest.raises(mp.InvalidProblem, match="matches no layer"):
        FlatWeights.of(net, skip=["nothing"])
    with pytest.raises(mp.InvalidProblem, match="left to prune"):
        FlatWeights.of(nn.BatchNorm1d(3))
    weights = FlatWeights.of(net)
    for vector in (torch.zeros(3), torch.full((weights.size,), float("inf"))):
        with pytest.raises(mp.InvalidProblem):
            weights.write(vector)
    with pytest.raises(mp.InvalidProblem, match=r"no number for .conv\.weight"):
        weights.per_layer({"twice": 1.0})


def test_the_problem_has_the_layers_costs(net: nn.Module) -> None:
    problem, weights = pruning_problem(net, batches(), nnz=0.5, flops=0.4)
    supports: Any = problem.structure.supports  # type: ignore[attr-defined]
    # conv 36 positions, depthwise 16, the layer used twice 2, the head 1
    assert supports.costs.tolist() == [[1.0] * 4, [36.0, 16.0, 2.0, 1.0]]
    dense = 72 * 36 + 36 * 16 + 256 * 2 + 48
    assert supports.limits.tolist() == [206.0, float(int(0.4 * dense))]
    given, _ = pruning_problem(net, batches(), flops=0.4, costs=dict.fromkeys(weights.names, 1.0))
    assert given.structure.supports.limits.tolist() == [164.0]  # type: ignore[attr-defined]


def test_one_shot_keeps_within_both_budgets_and_proves_its_gap(net: nn.Module, tmp_path: Path) -> None:
    report = prune_to_budgets(net, batches(), nnz=0.5, flops=0.4, ridge=0.1, out=tmp_path / "job")
    assert report.density <= 0.5 and report.flops_kept is not None and report.flops_kept <= 0.4
    assert report.gap is not None and report.gap < 0.1 and report.stages[0].proof == "checked"
    assert int(FlatWeights.of(net).vector().count_nonzero()) == report.stages[-1].kept
    checked = check_file(tmp_path / "job" / "certificates" / "network.safetensors")["network"]
    assert checked.gap == pytest.approx(report.gap, rel=1e-6)
    assert json.loads(report.to_json())["nnz"] == 0.5
    assert len(report.stage_cells()[1]) == 1 and len(report.layer_cells()[1]) == 4


def test_stages_shrink_the_support_and_may_regrow(net: nn.Module) -> None:
    dense = {name: value.clone() for name, value in net.state_dict().items()}
    kept: list[Tensor] = []
    weights = FlatWeights.of(net)
    report = prune_to_budgets(
        net, batches(), nnz=0.3, stages=4, ridge=0.1, progress=lambda *_: kept.append(weights.vector() != 0)
    )
    assert [row.stage for row in report.stages] == [1, 2, 3, 4]
    shares = [float(mask.float().mean()) for mask in kept]
    assert all(share <= limit for share, limit in zip(shares, kept_shares(0.3, 4), strict=True))
    assert all(not bool((later & ~earlier).any()) for earlier, later in itertools.pairwise(kept))
    net.load_state_dict(dense)
    free = prune_to_budgets(net, batches(), nnz=0.3, stages=4, ridge=0.1, regrow=True)
    assert free.density <= 0.3


def test_the_schedule() -> None:
    assert kept_shares(0.3, 1) == [0.3]
    shares = kept_shares(0.1, 20)
    assert shares[0] == 0.8 and shares[-1] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in itertools.pairwise(shares))
    np.testing.assert_allclose(shares[7], 0.1 + 0.7 * (1 - 7 / 19) ** 3)
    assert kept_shares(0.9, 3) == [0.9, 0.9, 0.9]
    for wrong in ((1.5, 3, 0.8), (0.5, 0, 0.8), (0.5, 2, -1.0)):
        with pytest.raises(mp.InvalidProblem):
            kept_shares(*wrong)


def test_a_job_resumes_where_it_stopped(net: nn.Module, tmp_path: Path) -> None:
    dense = {name: value.clone() for name, value in net.state_dict().items()}
    settings: dict[str, Any] = {"nnz": 0.4, "flops": 0.3, "stages": 3, "ridge": 0.1}
    prune_to_budgets(net, batches(), **settings)
    whole = FlatWeights.of(net).vector()
    net.load_state_dict(dense)
    half = prune_to_budgets(net, batches(), **settings, out=tmp_path, progress=lambda row, _: row.stage == 2)
    assert len(half.stages) == 2 and not (tmp_path / "certificates").exists()
    net.load_state_dict(dense)
    with pytest.raises(mp.InvalidProblem, match="already holds"):
        prune_to_budgets(net, batches(), **settings, out=tmp_path)
    with pytest.raises(mp.InvalidProblem, match=r"other settings \(data, nnz\)"):
        prune_to_budgets(net, batches(seed=9), **{**settings, "nnz": 0.5}, out=tmp_path, resume=True)
    done = prune_to_budgets(net, batches(), **settings, out=tmp_path, resume=True)
    assert [row.stage for row in done.stages] == [1, 2, 3]
    assert torch.equal(FlatWeights.of(net).vector(), whole)
    assert check_file(tmp_path / "certificates" / "network.safetensors")
    again = prune_to_budgets(net, batches(), **settings, out=tmp_path, resume=True)
    assert again.stages == done.stages
    next(tmp_path.glob("stage-*.weights")).unlink()
    with pytest.raises(mp.InvalidProblem, match="missing or was altered"):
        prune_to_budgets(net, batches(), **settings, out=tmp_path, resume=True)
    nn.init.ones_(net.head.weight)  # type: ignore[attr-defined]
    with pytest.raises(mp.InvalidProblem, match="other weights"):
        prune_to_budgets(net, batches(), **settings, out=tmp_path, resume=True)


def test_an_interrupt_leaves_the_last_finished_stage(net: nn.Module, tmp_path: Path) -> None:
    class Interrupted:
        """The second stage is interrupted inside its solver."""

        name = "interrupted"
        calls = 0

        def __repr__(self) -> str:
            return self.name

        def rejects(self, problem: mp.Problem) -> str | None:
            return None

        def solve(self, problem: mp.Problem, **settings: Any) -> mp.Solution:
            self.calls += 1
            if self.calls == 2:
                settings["progress"] = lambda *_: True
            return mp.DualBundle().solve(problem, **settings)

    with pytest.raises(KeyboardInterrupt, match="stage 2 of 3; 1 are finished"):
        prune_to_budgets(net, batches(), nnz=0.2, stages=3, solver=Interrupted(), out=tmp_path)  # type: ignore[arg-type]
    assert 0.2 < float((FlatWeights.of(net).vector() != 0).float().mean()) <= 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give a budget"),
        ({"nnz": 1.5}, "share"),
        ({"nnz": True}, "share"),
        ({"flops": -0.1}, "share"),
        ({"nnz": 0.5, "stages": 0}, "stages"),
        ({"nnz": 0.5, "costs": {"conv": 1.0}}, "no number for"),
    ],
)
def test_wrong_settings(net: nn.Module, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(mp.InvalidProblem, match=message):
        prune_to_budgets(net, batches(), **settings)
