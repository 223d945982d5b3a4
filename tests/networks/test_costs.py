"""Costs of weights against counts by hand, for every way in which a network may use a weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mipprune import InvalidProblem
from mipprune.networks import weight_costs, weight_macs


class Everything(nn.Module):
    """One layer of each kind; 16 x 16 images become 13 x 13 = 169 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.strided = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.transposed = nn.ConvTranspose2d(8, 4, 3, stride=2)
        self.twice = nn.Linear(4, 4)
        self.look_up = nn.Embedding(10, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.block = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.recurrent = nn.LSTM(4, 6, batch_first=True)
        self.functional = nn.Parameter(torch.randn(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.transposed(self.depthwise(self.strided(x)))
        x = x.flatten(2).transpose(1, 2)
        x = self.twice(self.twice(x)) + self.look_up(torch.zeros(1, dtype=torch.long))
        x, _ = self.attention(x, x, x)
        x, _ = self.recurrent(self.block(x))
        return x @ self.functional.clone()


BY_HAND = {
    "strided.weight": 8 * 8,  # output positions
    "depthwise.weight": 6 * 6,
    "transposed.weight": 6 * 6,  # input positions
    "twice.weight": 2 * 169,
    "look_up.weight": 0,
    "attention.in_proj_weight": 169,
    "attention.out_proj.weight": 169,
    "block.self_attn.in_proj_weight": 169,
    "block.self_attn.out_proj.weight": 169,
    "block.linear1.weight": 169,
    "block.linear2.weight": 169,
    "recurrent.weight_ih_l0": 169,
    "recurrent.weight_hh_l0": 169,
    "functional": 169,
}


@pytest.mark.parametrize("samples", [1, 3])
def test_multiply_adds_of_every_use(samples: int) -> None:
    assert weight_macs(Everything(), torch.zeros(samples, 4, 16, 16)) == BY_HAND
    assert weight_costs(Everything(), torch.zeros(samples, 4, 16, 16)) == {k: 2 * v for k, v in BY_HAND.items()}


def test_the_sum_is_what_torch_counts() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2), nn.Flatten(), nn.Linear(144, 10))
    image = torch.zeros(1, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        net(image)
    costs = weight_costs(net, image)
    sizes = {name: p.numel() for name, p in net.named_parameters()}
    assert sum(cost * sizes[name] for name, cost in costs.items()) == counter.get_total_flops()


def test_what_is_never_called_is_named() -> None:
    net = Everything()
    net.idle = nn.Linear(3, 3)
    with pytest.raises(InvalidProblem, match=r"idle\.weight.*never\s+called"):
        weight_costs(net, torch.zeros(1, 4, 16, 16))
    assert weight_costs(net, torch.zeros(1, 4, 16, 16), missing=0.0)["idle.weight"] == 0.0


def test_the_network_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert weight_macs(net, (torch.ones(5, 4), torch.zeros(5))) == {"0.weight": 1.0}
    assert net.training
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_tied_weights_count_both_uses() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    net[2].weight = net[0].weight
    assert weight_macs(net, torch.zeros(2, 4)) == {"0.weight": 2.0}


def test_nothing_to_count() -> None:
    with pytest.raises(InvalidProblem, match="no weight matrices"):
        weight_costs(nn.ReLU(), torch.zeros(1, 2))
    with pytest.raises(InvalidProblem, match="meta"):
        weight_costs(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2))
