"""The one-pass surgeon: its factor, and its sweep against removal with explicit inverses."""

from __future__ import annotations

import pytest
import torch

from mipprune.kernels.surgeon import inverse_factor, sweep


def gram(width: int) -> torch.Tensor:
    inputs = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return inputs.T @ inputs / width


def test_the_factor_is_upper_triangular_and_gives_the_inverse():
    matrix = gram(15)
    factor = inverse_factor(matrix)
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(matrix))
    assert torch.equal(factor, factor.triu())
    assert inverse_factor(-matrix) is None


@pytest.mark.parametrize("block", [1, 4, 5, 32])
def test_the_sweep_corrects_later_inputs_as_the_inverses_say(block):
    width, rows = 15, 6
    matrix = gram(width)
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    wanted = torch.rand(rows, width, generator=generator) < 0.5
    expected = dense.clone()
    for i in range(width):
        # Removing input i moves the inputs from i on by -w_i A_:i/A_ii with A the inverse of their part of the matrix.
        inverse = torch.linalg.inv(matrix[i:, i:])
        amount = torch.where(wanted[:, i], 0.0, expected[:, i])
        expected[:, i:] -= amount[:, None] * inverse[0] / inverse[0, 0]
    weight = dense.T.contiguous()
    mask = sweep(weight, inverse_factor(matrix), lambda scores, a, b: wanted.T[a:b], block=block, group=block)
    torch.testing.assert_close(weight.T, expected)
    assert torch.equal(mask.T, wanted) and not weight.T[~wanted].any()


def test_scores_are_those_of_the_moment():
    matrix = gram(8)
    seen = []

    def choose(scores, first, last):
        seen.append((first, last, scores.clone()))
        return torch.zeros_like(scores, dtype=torch.bool)

    weight = torch.ones(8, 2, dtype=torch.float64)
    factor = inverse_factor(matrix)
    sweep(weight, factor, choose, block=4, group=2)
    assert [(first, last) for first, last, _ in seen] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    torch.testing.assert_close(seen[0][2], (1.0 / factor.diagonal()[:2].square())[:, None].expand(2, 2))
