"""The families of instances, and the parsing of suite names."""

from __future__ import annotations

from ...errors import InvalidProblem
from .family import REAL, Family, label
from .flop_selection import FLOP_SELECTION
from .graphical_models import GRAPHICAL_MODELS
from .layerwise import LAYERWISE
from .rule_selection import RULE_SELECTION
from .sparse_regression import SPARSE_REGRESSION
from .stored import digest
from .transposable_masks import TRANSPOSABLE_MASKS

__all__ = ["ALL", "REAL", "Family", "digest", "find", "label", "suite"]

ALL = (LAYERWISE, TRANSPOSABLE_MASKS, FLOP_SELECTION, SPARSE_REGRESSION, GRAPHICAL_MODELS, RULE_SELECTION)
"""Every family, in the order of reports."""


def find(name: str) -> Family:
    """Return a family by its name.

    Raises
    ------
    InvalidProblem
        If there is none; the message lists those there are.
    """
    for family in ALL:
        if family.name == name:
            return family
    raise InvalidProblem(f"there is no family {name!r}; there are {', '.join(family.name for family in ALL)}")


def suite(text: str) -> tuple[tuple[Family, str], ...]:
    """Read a suite such as ``layerwise``, ``layerwise:full``, ``quick``, ``full`` or ``real``.

    Parameters
    ----------
    text : str
        A family, with the name of one of its suites after a colon (default ``quick``); or the name of a suite, for all
        families.

    Examples
    --------
    >>> [(family.name, name) for family, name in suite("layerwise:full")]
    [('layerwise', 'full')]
    """
    head, colon, tail = text.partition(":")
    if not colon and (head == REAL or all(head in family.suites for family in ALL)):
        return tuple((family, head) for family in ALL)
    family = find(head)
    name = tail or "quick"
    if name != REAL and name not in family.suites:
        raise InvalidProblem(f"family {head!r} has no suite {name!r}; it has {', '.join([*family.suites, REAL])}")
    return ((family, name),)
