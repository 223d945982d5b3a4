"""Compiling plain functions where numba is installed, and running them as they are where it is not."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

__all__ = ["compiled_if_possible", "has_numba"]


def has_numba() -> bool:
    """Tell whether numba is installed; it is not imported."""
    try:
        return find_spec("numba") is not None
    except ModuleNotFoundError:  # an import hook that forbids it
        return False


def compiled_if_possible(**options: Any) -> Callable[[Any], Any]:
    """Return a decorator: numba's ``njit`` with caching and without the interpreter lock, or the identity.

    Modules that use it at their top are imported inside the functions that need them, so that numba is imported when a
    kernel is first used.
    """
    if not has_numba():
        return lambda function: function
    from numba import njit

    decorate: Callable[[Any], Any] = njit(cache=True, nogil=True, error_model="numpy", **options)
    return decorate
