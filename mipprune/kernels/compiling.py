"""Compiling plain functions where numba is installed, and running them as they are where it is not."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["compiled_if_possible", "compiling_seconds", "has_numba"]


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

    _listen()
    compiled = njit(cache=True, nogil=True, error_model="numpy", **options)

    def decorate(function: Any) -> Any:
        dispatcher = compiled(function)
        # The cache knows when a function's own file has changed, and nothing of those it calls, which are inlined.
        file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
        if hasattr(file, "_source_stamp"):
            file._source_stamp = (file._source_stamp, _sources())
        return dispatcher

    return decorate


class _Clock:
    """Adds up the time in which at least one function is being compiled, by any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth, self.since, self.total = 0, 0.0, 0.0

    def notify(self, event: Any) -> None:
        """Take note of the start and the end of a compilation, as numba calls its listeners."""
        with self.lock:
            self.depth += 1 if event.is_start else -1
            if event.is_start and self.depth == 1:
                self.since = time.perf_counter()
            elif self.depth == 0:
                self.total += time.perf_counter() - self.since

    def seconds(self) -> float:
        """Return the time up to now."""
        with self.lock:
            return self.total + (time.perf_counter() - self.since if self.depth else 0.0)


_clock = _Clock()


@cache
def _listen() -> None:
    from numba.core import event

    event.Listener.register(_Clock)
    event.register("numba:compile", _clock)


def compiling_seconds() -> float:
    """Return how long functions have been compiled in this process; loading compiled ones does not count."""
    return _clock.seconds()


@cache
def _sources() -> str:
    """Digest of all kernels."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=16).hexdigest()
