"""Channels: couplings, costs, widths against enumeration, and the small network against the large masked one."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import mipprune as mp
from benchmarks.flop_selection import channels as benchmark
from benchmarks.networks.vision import ResNet20
from mipprune.formulations.channels import CoupledLayer, channel_widths, width_options
from mipprune.networks.channels import channel_graph, masked, prune_channels, shrink
from tests.networks.models import seeded

IMAGE = (2, 3, 8, 8)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, stride=2, bias=False)
        self.norm2 = nn.BatchNorm2d(5)
        self.hidden = nn.Linear(5 * 9, 7)
        self.last = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.norm(self.first(x)))  # not zero at zero
        x = functional.gelu(self.norm2(self.second(x)))
        return self.last(torch.tanh(self.hidden(x.view(x.size(0), -1))))


class Mixed(nn.Module):
    """Additions, concatenation, depthwise convolution, channel weights, pooling, a group convolution that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6())
        self.branch = nn.Conv2d(6, 6, 1)
        self.deep = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.point = nn.Conv2d(12, 4, 1)
        self.squeeze = nn.Conv2d(10, 3, 1)
        self.excite = nn.Conv2d(3, 10, 1)
        self.side = nn.Conv2d(3, 4, 1)
        self.grouped = nn.Conv2d(4, 2, 1, groups=2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        side = self.grouped(self.side(x)).mean(dim=(2, 3))
        x = functional.max_pool2d(self.stem(x), 2)
        y = x + torch.relu(self.branch(x))
        z = functional.hardswish(self.point(self.deep(y)))
        both = torch.cat([y, z], 1)
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(functional.adaptive_avg_pool2d(both, 1)))))
        both = both * scale
        return self.head(torch.cat([both.mean(dim=(2, 3)), side], 1))


class Twice(nn.Module):
    """One layer called twice, which ties its outputs to its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 6)
        self.again = nn.Linear(6, 6)
        self.leave = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(torch.relu(self.again(torch.relu(self.again(torch.relu(self.enter(x)))))))


class Reshaped(nn.Module):
    """Flattened to a written-out length, normalised over channels: what is not understood keeps its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 5, 3)
        self.hidden = nn.Linear(5 * 16, 6)
        self.norm = nn.LayerNorm(6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x)))).view(-1, 80)
        return self.last(self.norm(self.hidden(x)))


def with_statistics(build: Any) -> nn.Module:
    """A network whose norm layers are no identities."""
    model = seeded(build)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return model


NETWORKS: dict[str, tuple[Any, tuple[int, ...], list[int]]] = {
    "chain": (Chain, IMAGE, [6, 5, 7]),
    "mixed": (Mixed, IMAGE, [6, 4, 3]),  # what the grouped convolution reads stays
    "twice": (Twice, (2, 5), [6]),
    "reshaped": (Reshaped, IMAGE, [4]),
    "resnet20": (ResNet20, (2, 3, 32, 32), []),
}


def flops(module: nn.Module, example: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example)
    return int(counter.get_total_flops())


def draw(graph: Any, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    kept = [torch.rand(len(unit), generator=generator) < 0.6 for unit in graph.units]
    for mask in kept:
        mask[0], mask[-1] = True, False
    return kept


@pytest.mark.parametrize("name", NETWORKS)
def test_the_small_network_computes_what_the_masked_one_does(name: str) -> None:
    build, shape, _ = NETWORKS[name]
    model = with_statistics(build)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    graph = channel_graph(model, example)
    with torch.no_grad():
        torch.testing.assert_close(graph.tracing.module(example), model(example))
        for seed in range(1 if name == "resnet20" else 6):
            kept = draw(graph, seed)
            small, large = shrink(graph, kept), masked(graph, kept)
            torch.testing.assert_close(small(example), large(example), rtol=1e-4, atol=1e-5)
            assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
            if name != "mixed":  # grouped convolutions are not among the layers whose cost is modelled
                assert flops(small, example) == 2 * len(example) * graph.macs(kept)


@pytest.mark.parametrize("name", [name for name in NETWORKS if NETWORKS[name][2]])
def test_units_are_those_worked_out_by_hand(name: str) -> None:
    build, shape, sizes = NETWORKS[name]
    graph = channel_graph(seeded(build), torch.zeros(shape))
    assert sorted(len(unit) for unit in graph.units) == sorted(sizes), graph.units
    assert bool(graph.tracing.notes) == (name in ("mixed", "reshaped"))


def test_shortcuts_that_pad_channels_couple_the_stages_position_by_position() -> None:
    graph = channel_graph(ResNet20(), torch.zeros(1, 3, 32, 32))
    # The channels of all three stages, of the last two, of the last one; and one unit inside each of nine blocks.
    assert sorted(len(unit) for unit in graph.units) == sorted([16, 16, 32, 16, 16, 16, 32, 32, 32, 64, 64, 64])
    assert graph.macs() == 40_551_040
    assert graph.graph.number_of_nodes() == graph.tracing.count


def test_a_residual_chain_keeps_sums_together() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(3, 8)
            self.inner = nn.Linear(8, 5)
            self.outer = nn.Linear(5, 8)
            self.leave = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.enter(x)
            return self.leave(x + self.outer(torch.relu(self.inner(x))))

    graph = channel_graph(Residual(), torch.zeros(1, 3))
    assert [len(unit) for unit in graph.units] == [8, 5]
    assert {place[0] for place in graph.units[0].places} == {"enter", "outer", "inner", "leave"}


def enumerate_widths(scores: list[Tensor], cost: Any, limit: float, multiple: int) -> float:
    best = float("inf")
    for widths in itertools.product(*(width_options(len(s), multiple).tolist() for s in scores)):
        if cost(widths) <= limit:
            lost = sum(float(s.sort(descending=True).values[k:].sum()) for s, k in zip(scores, widths))
            best = min(best, lost)
    return best


@pytest.mark.parametrize("seed", range(8))
def test_widths_of_a_chain_against_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    multiple = 1 + seed % 2
    scores = [torch.from_numpy(rng.random(size)) for size in (4, 6, 3, 5)]
    area = rng.integers(1, 9, 5).astype(float)
    layers = [CoupledLayer((area[0],), {}, {0: 1}, fixed_inputs=3)]
    layers += [CoupledLayer((area[u],), {u - 1: 1}, {u: 1}) for u in range(1, 4)]
    layers += [CoupledLayer((area[4],), {3: 2}, {}, fixed_outputs=2)]  # flattened from two positions

    def cost(k: tuple[int, ...]) -> float:
        inner = sum(area[u] * k[u - 1] * k[u] for u in range(1, 4))
        return float(area[0] * 3 * k[0] + inner + area[4] * 2 * k[3] * 2)

    limit = 0.5 * cost((4, 6, 3, 5))
    solution = mp.solve(channel_widths(scores, layers, limit, multiple=multiple))
    assert solution.value == pytest.approx(enumerate_widths(scores, cost, limit, multiple), rel=1e-12)
    assert solution.proof is mp.Proof.CHECKED and solution.gap < 1e-10
    other = mp.solve(channel_widths(scores, layers, limit, multiple=multiple), mp.Highs())
    assert other.value == pytest.approx(solution.value, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_measured_tables_need_not_be_products(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = [torch.from_numpy(rng.random(size)) for size in (4, 5)]
    tables = [np.round(rng.random((4, 5)), 2), np.round(rng.random((5, 6)), 2), np.round(rng.random((6, 3)), 2)]
    layers = [
        CoupledLayer((tables[0],), {}, {0: 1}, fixed_inputs=3),
        CoupledLayer((tables[1],), {0: 1}, {1: 1}),
        CoupledLayer((tables[2],), {1: 1}, {}, fixed_outputs=2),
    ]

    def cost(k: tuple[int, ...]) -> float:
        return round(float(tables[0][3, k[0]] + tables[1][k[0], k[1]] + tables[2][k[1], 2]), 6)

    limit = sorted(cost(k) for k in itertools.product(range(1, 5), range(1, 6)))[4]
    solution = mp.solve(channel_widths(scores, layers, limit))
    assert solution.value == pytest.approx(enumerate_widths(scores, cost, limit, 1), rel=1e-12)


def test_pruned_networks_meet_their_budgets() -> None:
    model, example = with_statistics(Chain), torch.randn(IMAGE, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = prune_channels(model, example, flops=0.4)
    assert pruned.flops_before == flops(model, example)
    assert pruned.flops_after == flops(pruned.module, example) <= 0.4 * pruned.flops_before
    assert pruned.solution.status is mp.Status.OPTIMAL
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    mp.check(pruned.problem, pruned.solution)
    wide = prune_channels(model, example, flops=0.9, multiple=2)
    assert all(width % 2 == 0 or width == len(mask) for width, mask in zip(wide.widths, wide.kept))
    times = {
        name: np.add.outer(np.arange(shape[1] + 1), np.arange(shape[0] + 1)).astype(float)
        for name, shape in ((name, p.shape) for name, p in model.named_parameters() if p.ndim > 1)
        for name in [name.removesuffix(".weight")]
    }
    timed = prune_channels(model, example, latency=times, latency_limit=70.0)
    shapes = {name: timed.module.get_submodule(name).weight.shape for name in times}
    assert sum(float(times[name][shape[1], shape[0]]) for name, shape in shapes.items()) <= 70.0


def test_first_order_scores_are_those_of_finite_differences() -> None:
    model, example = with_statistics(Chain).double(), torch.randn(IMAGE, dtype=torch.float64)
    graph = channel_graph(model, example)
    loss = lambda module, batch: module(batch).square().sum()  # noqa: E731
    scores = graph.taylor(loss, [example])
    step = 1e-6
    for u, unit in enumerate(graph.units):
        for place in range(len(unit)):
            changed = []
            for sign in (1.0, -1.0):
                module = shrink(graph, [torch.ones(len(one), dtype=torch.bool) for one in graph.units])
                for layer in graph._makers():
                    for position, number in enumerate(layer.outputs):
                        if graph.unit_of.get(graph.decision[number]) == (u, place):
                            for parameter in module.get_submodule(layer.name).parameters(recurse=False):
                                parameter.data[position] *= 1.0 + sign * step
                changed.append(float(loss(module, example).detach()))
            slope = (changed[0] - changed[1]) / (2 * step)
            assert float(scores[u][place]) == pytest.approx(slope**2, rel=1e-4, abs=1e-8)


def test_groups_of_torch_pruning_are_taken_as_further_couplings() -> None:
    """Shaped like its groups: (dependency, indices) pairs, the dependency with target.module and handler."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def prune_out_channels() -> None: ...

    def prune_in_channels() -> None: ...

    def item(layer: int, handler: Any) -> tuple[Any, list[int]]:
        return SimpleNamespace(target=SimpleNamespace(module=model[layer]), handler=handler), [0, 1, 2, 3]

    group = [item(0, prune_out_channels), item(1, prune_out_channels), item(2, prune_in_channels)]
    alone = channel_graph(model, torch.zeros(1, 3), groups=[group])
    assert [len(unit) for unit in alone.units] == [4, 4]  # the group says nothing new
    tied = channel_graph(model, torch.zeros(1, 3), groups=[[*group, item(4, prune_in_channels)]])
    assert [len(unit) for unit in tied.units] == [4]


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: prune_channels(m, x), "no budget"),
        (lambda m, x: prune_channels(m, x, flops=0.0), "share"),
        (lambda m, x: prune_channels(m, x, flops=1.5), "share"),
        (lambda m, x: prune_channels(m, x, latency_limit=1.0), "belong together"),
        (lambda m, x: prune_channels(m, x, flops=0.001), "budgets"),
        (lambda m, x: prune_channels(m, x, flops=0.5, scores=[torch.ones(2)]), "scores have shapes"),
        (lambda m, x: prune_channels(m, x, flops=0.5, scores=[-torch.ones(n) for n in (6, 5, 7)]), "negative"),
        (lambda m, x: prune_channels(m, x, flops=0.5, scores=[torch.ones(n) * torch.nan for n in (6, 5, 7)]), "NaN"),
        (lambda m, x: prune_channels(m, x, flops=0.5, multiple=0), "must be >= 1"),
        (lambda m, x: prune_channels(nn.Linear(2, 2), torch.zeros(1, 2), flops=0.5), "no channel"),
        (lambda m, x: channel_graph(Branching(), x), "cannot trace"),
        (lambda m, x: channel_graph(m, torch.zeros(1, 5, 8, 8)), "cannot trace"),
        (lambda m, x: channel_graph(m, x).taylor(lambda a, b: a(b).sum(), []), "no batch"),
        (lambda m, x: shrink(channel_graph(m, x), [torch.ones(6)]), "masks have shapes"),
        (lambda m, x: shrink(channel_graph(m, x), [torch.zeros(n) for n in (6, 5, 7)]), "cut the network"),
    ],
)
def test_what_cannot_work_is_refused(call: Any, message: str) -> None:
    with pytest.raises(mp.InvalidProblem, match=message):
        call(seeded(Chain), torch.zeros(IMAGE))


def test_a_table_over_several_units_is_refused() -> None:
    layer = CoupledLayer((np.ones((9, 9)),), {0: 1, 1: 1}, {}, fixed_outputs=1)
    with pytest.raises(mp.Unsupported, match="several units"):
        channel_widths([torch.ones(2), torch.ones(3)], [layer], 1.0)
    with pytest.raises(mp.InvalidProblem, match="shape"):
        channel_widths([torch.ones(2)], [CoupledLayer((np.ones((2, 2)),), {0: 1}, {}, fixed_outputs=1)], 1.0)
    with pytest.raises(mp.InvalidProblem, match="names unit"):
        channel_widths([torch.ones(2)], [CoupledLayer((1.0,), {3: 1})], 1.0)
    with pytest.raises(mp.InvalidProblem, match="before any channel"):
        channel_widths([torch.ones(2)], [CoupledLayer((1.0,), {}, {}, 5, 5)], 1.0)


def test_the_benchmark_records_a_proven_chain(tmp_path: Path) -> None:
    words = ["--parts", "chain", "--methods", "mp.solve", "--multiples", "64", "32", "--out", str(tmp_path)]
    (record,) = benchmark.main(words)
    stored = json.loads((tmp_path / "channels_chain.json").read_text())
    assert [result["proof"] for result in stored["results"]] == ["checked", "checked"]
    assert record.results[1]["value"] <= record.results[0]["value"]  # a finer grid holds the coarser one
    assert record.results[1]["bound"] == pytest.approx(record.results[1]["value"], rel=1e-12)
