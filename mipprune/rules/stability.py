"""How much rule sets agree: overlap of two sets, and the mean over all pairs of sets from several samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Sequence

from ..errors import InvalidProblem
from .binning import QuantileBinner
from .conditions import Rule

__all__ = ["binned_key", "dice_sorensen", "jaccard", "mean_agreement", "ochiai", "percentage_of_overlap"]


def _sizes(first: Collection[Hashable], second: Collection[Hashable]) -> tuple[int, int, int]:
    a, b = frozenset(first), frozenset(second)
    return len(a & b), len(a), len(b)


def dice_sorensen(first: Collection[Hashable], second: Collection[Hashable]) -> float:
    """Return ``2 |A & B| / (|A| + |B|)``, 1 for two empty sets.

    Parameters
    ----------
    first, second : collection of hashable
        The rules of two sets by their identity, for example :attr:`Rule.key`; order and repetition do not matter.

    Examples
    --------
    >>> dice_sorensen({"a", "b"}, {"b", "c"})
    0.5
    """
    common, a, b = _sizes(first, second)
    return 2.0 * common / (a + b) if a + b else 1.0


def jaccard(first: Collection[Hashable], second: Collection[Hashable]) -> float:
    """Return ``|A & B| / |A | B|``, 1 for two empty sets; see :func:`dice_sorensen`."""
    common, a, b = _sizes(first, second)
    return common / (a + b - common) if a + b else 1.0


def ochiai(first: Collection[Hashable], second: Collection[Hashable]) -> float:
    """Return ``|A & B| / sqrt(|A| |B|)``, 1 for two empty sets, 0 when one is; see :func:`dice_sorensen`."""
    common, a, b = _sizes(first, second)
    return common / math.sqrt(a * b) if a and b else float(a == b)


def percentage_of_overlap(first: Collection[Hashable], second: Collection[Hashable]) -> float:
    """Return ``|A & B| / |A|``, 1 for two empty sets, 0 when only the first is; not symmetric.

    Known as POG in the literature on gene lists.
    """
    common, a, b = _sizes(first, second)
    return common / a if a else float(b == 0)


def mean_agreement(
    sets: Sequence[Collection[Hashable]],
    measure: Callable[[Collection[Hashable], Collection[Hashable]], float] = dice_sorensen,
) -> float:
    """Return the mean of a measure over all ordered pairs of different sets: the empirical stability.

    Parameters
    ----------
    sets : sequence of collections
        At least two, for example the rules selected on each training fold.
    measure : callable
        Of two sets.

    References
    ----------
    arXiv 2506.08030 (MOSS), which takes the Dice-Sorensen coefficient over ten folds.

    Examples
    --------
    >>> mean_agreement([{"a", "b"}, {"a", "b"}, {"a", "c"}])
    0.6666666666666666
    """
    if len(sets) < 2:
        raise InvalidProblem(f"{len(sets)} set(s) given; agreement needs at least two")
    pairs = [measure(a, b) for i, a in enumerate(sets) for j, b in enumerate(sets) if i != j]
    return math.fsum(pairs) / len(pairs)


def binned_key(rule: Rule, binner: QuantileBinner | None) -> frozenset[tuple[int, str, float]]:
    """Return the identity of a rule in numbers of quantile bins instead of thresholds.

    Parameters
    ----------
    rule : Rule
        In the units of the features.
    binner : QuantileBinner or None
        The one its forest was fitted on. ``None`` leaves thresholds as they are.

    Returns
    -------
    frozenset of (feature, side, bin or threshold)
        Samples of the same data give slightly different edges; the third decile is the third decile.
    """
    if binner is None:
        return frozenset((c.feature, c.side, c.threshold) for c in rule.path)

    def place(feature: int, threshold: float) -> float:
        edges = binner.edges_[feature]
        return threshold if edges is None else float(edges.searchsorted(threshold, side="left"))

    return frozenset((c.feature, c.side, place(c.feature, c.threshold)) for c in rule.path)
