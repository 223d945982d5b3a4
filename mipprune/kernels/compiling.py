"""Compiling plain functions where numba is installed, and running them as they are where it is not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
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

    compiled = njit(cache=True, nogil=True, error_model="numpy", **options)

    def decorate(function: Any) -> Any:
        dispatcher = compiled(function)
        # The cache knows when a function's own file has changed, and nothing of those it calls, which are inlined.
        file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if hasattr(file, "_source_stamp"):
            file._source_stamp = (file._source_stamp, _sources())
        return dispatcher

    return decorate


@cache
def _sources() -> str:
    """Digest of all kernels."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=16).hexdigest()
