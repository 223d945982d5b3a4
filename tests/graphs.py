"""Graphical models for tests: published generators, random small instances, and enumeration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mipprune import Problem, Sparse
from mipprune.kernels import diagonal_split
from mipprune.kernels.graph_appraisal import Shift, places_of
from mipprune.kernels.graph_descent import descend
from mipprune.losses import PseudoLikelihood
from mipprune.structures.any_support import AnySupport

Array = np.ndarray[Any, Any]


def uniform_model(p: int, n: int, seed: int = 0, s: float = 3, condition: float = 2) -> tuple[Array, Array]:
    """Return samples and the true precision of the generator ``uniform`` of arXiv 2307.09366, in legacy draws."""
    random = np.random.RandomState(seed)
    lower = np.tril(0.5 * random.binomial(1, s / p, (p, p)), -1)
    values = np.linalg.eigvalsh(lower + lower.T)
    theta = lower + lower.T + (condition * values[0] - values[-1]) / (1 - condition) * np.eye(p)
    theta *= np.linalg.inv(theta).diagonal().max()
    samples = random.multivariate_normal(np.zeros(p), np.linalg.inv(theta), n)
    return samples, theta


class Instance(NamedTuple):
    """A small problem with everything in plain arrays by pair."""

    loss: PseudoLikelihood
    price: Array
    lower: Array
    upper: Array

    @property
    def size(self) -> int:
        return len(self.price)

    @property
    def problem(self) -> Problem:
        box = None if np.isinf(self.upper).all() else (torch.tensor(self.lower), torch.tensor(self.upper))
        return Problem(self.loss, Sparse(AnySupport(), box, torch.tensor(self.price)))

    def sides(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.tensor(self.price), torch.tensor(self.lower)[None], torch.tensor(self.upper)[None]


def random_instance(rng: np.random.Generator, p: int) -> Instance:
    """Draw data of any rank and scale, ridges, prices and boxes of all kinds that the bounds take."""
    size, n = p * (p - 1) // 2, int(rng.choice([2, p, 3 * p, 20 * p]))
    mixing = np.eye(p) + rng.choice([0, 0.5, 2]) * rng.standard_normal((p, p)) / np.sqrt(p)
    data = rng.standard_normal((n, p)) @ mixing * 10.0 ** rng.choice([0, 0, -2, 2], p)
    matrix = data.T @ data / n
    if rng.random() < 0.5:
        matrix /= np.sqrt(np.outer(matrix.diagonal(), matrix.diagonal()))
    matrix = 0.5 * (matrix + matrix.T) + np.diag(1e-9 * matrix.diagonal())
    ridge = (
        np.full(size, rng.choice([0.0, 0.01, 0.05, 0.5])) if rng.random() < 0.7 else rng.choice([0, 0.05, 1.0], size)
    )
    price = np.full(size, rng.choice([1e-3, 0.02, 0.3])) if rng.random() < 0.7 else rng.choice([0, 0.01, 0.1], size)
    upper = np.full(size, rng.choice([0.05, 0.3, 1.0, 5.0]))
    lower = -upper
    if rng.random() < 0.3:
        upper, lower = rng.choice([0.0, 0.1, 1.0], size), -rng.choice([0.0, 0.1, 1.0], size)
    if rng.random() < 0.3 and (ridge > 0).all():
        lower, upper = np.full(size, -np.inf), np.full(size, np.inf)
    return Instance(PseudoLikelihood(torch.tensor(matrix), torch.tensor(ridge)), price, lower, upper)


def enumerate_values(instance: Instance) -> Array:
    """Return the least value on each of the ``2**size`` supports, bit k for pair k; entries on it may be zero."""
    loss, size = instance.loss, instance.size
    penalties = loss.penalties(0.0, torch.tensor(instance.lower), torch.tensor(instance.upper))
    out = np.empty(2**size)
    for number in range(2**size):
        mask = (number >> np.arange(size)) & 1 > 0
        flat = np.flatnonzero(mask)
        places = places_of(flat, loss.nodes, None, Shift.none(loss.nodes), penalties)
        value, theta = np.zeros(2 * len(flat)), 1.0 / loss.matrix.diagonal()
        kept = np.ones(len(value), dtype=bool)
        descend(loss.matrix, *places[:3], value, theta, places.shift, kept, *places.penalties, False, 1e-14, 30_000)
        point = torch.zeros(size, dtype=torch.float64)
        point[flat[places.pair]] = torch.tensor(value)
        out[number] = loss.value(point) + instance.price[mask].sum()
    return out


def random_split(rng: np.random.Generator, loss: PseudoLikelihood, allowed: Array) -> Tensor | None:
    """Return a random valid shift on the pairs that are allowed, as a row, or ``None``."""
    p, kind = loss.nodes, rng.integers(4)
    if kind == 0:
        return None
    i, j = np.triu_indices(p, 1)
    inside = np.zeros((p, p), dtype=bool)
    inside[i, j] = inside[j, i] = allowed
    extra = np.zeros((p, p))
    for row in range(p):
        others = np.flatnonzero(inside[row])
        if len(others):
            part = torch.tensor(loss.matrix[np.ix_(others, others)])
            drawn = torch.tensor(rng.random(len(others)) ** 3 if kind > 1 else np.ones(len(others))) + 1e-12
            drawn = drawn * diagonal_split.largest_factor(part, drawn)
            extra[row, others] = diagonal_split.shrink_until_valid(part, drawn).numpy() * (1 if kind < 3 else 0.5)
    split = torch.tensor(np.concatenate([np.zeros(p), extra.ravel()]))
    for factor in (1.0, 0.99):
        if loss.proves_split(factor * split, torch.tensor(allowed)):
            return factor * split
    return None
