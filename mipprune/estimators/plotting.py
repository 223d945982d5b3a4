"""Where plots of estimators go."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidProblem

__all__ = ["axes"]


def axes(ax: Any = None) -> Any:
    """Return the axes given, or new ones.

    Raises
    ------
    InvalidProblem
        Without matplotlib.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise InvalidProblem("plots need matplotlib: pip install 'mipprune[plot]'") from error
    return pyplot.subplots()[1] if ax is None else ax
