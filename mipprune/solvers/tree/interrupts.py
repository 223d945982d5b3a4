"""Ctrl-C while a tree is searched: it ends the search at once, and never what makes a solution of it."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

__all__ = ["Interrupts"]


class Interrupts:
    """Takes over Ctrl-C, and holds it where a ``KeyboardInterrupt`` would do harm.

    While interrupts are held, which they are at first, the first one is noted and a further one raises. After
    :meth:`release` the first one raises, and they are held again from then on. Outside the main thread, and where
    Ctrl-C is ignored, nothing is taken over.

    Attributes
    ----------
    held : bool
    noted : bool
        Whether there was one while they were held.
    came : bool
        Whether there was one at all: a raised one can be lost where an exception has nowhere to go, as in a finaliser.
    """

    def __init__(self) -> None:
        self.held, self.noted, self.came = True, False, False
        self._previous: Any = None

    def hold(self) -> None:
        """Hold interrupts from now on."""
        self.held = True

    def release(self) -> None:
        """Let interrupts through; one that was noted comes now."""
        self.held = False
        if self.noted:
            self.held, self.noted = True, False
            self._previous(signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if self.held and not self.noted:
            self.noted = True
            return
        self.held = True
        self._previous(number, frame)

    def __enter__(self) -> Self:
        """Take over."""
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                self._previous = previous
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back."""
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
