"""Peers in processes of their own: other interpreters, other versions of numpy, other libraries; one way for all.

A peer is found in this interpreter's environment, or in the one named by the environment variable
``MIPPRUNE_PYTHON_NAME`` (``mipprune bench run --peer-python NAME=PYTHON`` sets it). Its process stays alive between
calls, so that it is compiled and warm when it is measured, and ends with this one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ...core.solution import Stop
from ...errors import InvalidProblem, SolverFailure
from .program import PEERS

__all__ = [
    "Answer",
    "Elsewhere",
    "ask",
    "choose_pythons",
    "close_peers",
    "memory_elsewhere",
    "missing",
    "versions_elsewhere",
]

Array = np.ndarray[Any, Any]

_START, _FIRST, _LATE = 120.0, 300.0, 15.0  # seconds: to import; to compile; beyond the limit
_PROGRAM = Path(__file__).with_name("program.py")


@dataclass(frozen=True)
class Answer:
    """What a peer found.

    Attributes
    ----------
    arrays : dict of str to array
    numbers : dict
    seconds : float
        Of its own work, measured in its process: no start, no compilation, no handing over.
    memory : float or None
        The highest resident bytes of its process meanwhile.
    """

    arrays: dict[str, Array]
    numbers: dict[str, Any]
    seconds: float
    memory: float | None = None


@runtime_checkable
class Elsewhere(Protocol):
    """A solver that runs in the process of a peer, and is measured there."""

    program: str


def _variable(name: str) -> str:
    return "MIPPRUNE_PYTHON_" + name.upper().replace("-", "_")


def _python_of(name: str) -> str | None:
    """Interpreter of a peer: its own variable, that of its package, or this one; ``None`` when it is nowhere."""
    package = PEERS[name][0]
    given = os.environ.get(_variable(name)) or os.environ.get(_variable(package))
    return given or (sys.executable if find_spec(package) is not None else None)


def choose_pythons(choices: Mapping[str, str]) -> None:
    """Say which interpreter runs which peer, for this process and those that it starts.

    Parameters
    ----------
    choices : mapping of str to str
        Name of a peer or of its package -> path of an interpreter.

    Raises
    ------
    InvalidProblem
        If there is no such peer or no such file.
    """
    known = {*PEERS, *(package for package, _ in PEERS.values())}
    for name, python in choices.items():
        if name not in known:
            raise InvalidProblem(f"there is no peer {name!r}; there are {', '.join(sorted(known))}")
        if not os.access(python, os.X_OK) or Path(python).is_dir():
            raise InvalidProblem(f"the interpreter for {name}, {python!r}, is not there or cannot be run")
        os.environ[_variable(name)] = str(Path(python).absolute())  # absolute, not resolved: a venv is a link


@dataclass
class _Peer:
    """One process; a dead one is started anew by the next call."""

    name: str
    python: str
    version: str = ""
    broken: str = ""
    warm: bool = False
    memory: float | None = None
    process: subprocess.Popen[bytes] | None = None
    received: bytearray = field(default_factory=bytearray)

    def start(self) -> None:
        """Start the process if it is not running; ``broken`` says why that is in vain."""
        if self.broken:
            return
        if self.process is not None and self.process.poll() is None:
            return
        self.close()
        environment = {**os.environ}
        if self.python != sys.executable:  # what is on this path belongs to this interpreter
            environment.pop("PYTHONPATH", None)
        environment.setdefault("OMP_NUM_THREADS", "1")
        environment.setdefault("NUMBA_NUM_THREADS", environment["OMP_NUM_THREADS"])
        try:
            self.process = subprocess.Popen(
                [self.python, str(_PROGRAM), self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            self.broken = f"{self.python} cannot be started: {error.strerror}"
            return
        try:
            ready = json.loads(self.read(_START))
        except (TimeoutError, SolverFailure, ValueError):
            ready = {"error": f"{self.python} does not run it"}
        self.broken, self.version = ready.get("error", ""), ready.get("version", "")
        if self.broken:
            self.close()

    def read(self, seconds: float) -> bytes:
        """Return the next line, or raise ``TimeoutError``, or ``SolverFailure`` when the process ended."""
        assert self.process is not None and self.process.stdout is not None
        stream, deadline = self.process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self.received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if select.select([stream], [], [], min(left, 1.0))[0]:
                part = os.read(stream, 1 << 16)
                if not part:
                    raise SolverFailure(f"the process of {self.name} ended by itself with code {self.process.wait()}")
                self.received += part
        line, _, rest = bytes(self.received).partition(b"\n")
        self.received = bytearray(rest)
        return line

    def close(self) -> None:
        """End the process."""
        process, self.process, self.warm = self.process, None, False
        self.received.clear()
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


_started: dict[tuple[str, str], _Peer] = {}


@atexit.register
def close_peers() -> None:
    """End the processes of all peers."""
    for peer in _started.values():
        peer.close()
    _started.clear()


def _peer(name: str, python: str) -> _Peer:
    peer = _started.setdefault((name, python), _Peer(name, python))
    peer.start()
    return peer


def missing(name: str) -> str | None:
    """Return why a peer cannot run here, or ``None``; the first call starts its process.

    Examples
    --------
    >>> import os
    >>> os.environ["MIPPRUNE_PYTHON_EL0PS"] = "/no/such/python"
    >>> missing("el0ps")
    'the package el0ps cannot be used: /no/such/python cannot be started: No such file or directory'
    >>> del os.environ["MIPPRUNE_PYTHON_EL0PS"]
    """
    package, python = PEERS[name][0], _python_of(name)
    if python is None:
        return f"the package {package} is not installed (in another environment? --peer-python {package}=PYTHON)"
    peer = _peer(name, python)
    return f"the package {package} cannot be used: {peer.broken}" if peer.broken else None


def versions_elsewhere() -> dict[str, str]:
    """Return the versions of the packages whose processes run."""
    return {PEERS[peer.name][0]: peer.version for peer in _started.values() if peer.version}


def memory_elsewhere(name: str) -> float | None:
    """Return the highest resident bytes of a peer's process in its last answer."""
    return next((peer.memory for peer in _started.values() if peer.name == name), None)


def ask(name: str, arrays: Mapping[str, Array], numbers: Mapping[str, Any], *, seconds: float | None) -> Answer | Stop:
    """Let a peer solve.

    Parameters
    ----------
    name : str
    arrays, numbers : mapping
        What its function in ``program.py`` takes.
    seconds : float or None
        Its limit. It is ended when it has not answered at twice the limit and 15 seconds.

    Returns
    -------
    Answer or Stop
        Why there is no answer: it had to be ended, or the user interrupted it.

    Raises
    ------
    SolverFailure
        With its own words, when it broke down.
    """
    python = _python_of(name)
    if python is None or missing(name) is not None:
        raise SolverFailure(str(missing(name)))
    peer = _peer(name, python)
    assert peer.process is not None and peer.process.stdin is not None
    with tempfile.TemporaryDirectory() as folder:
        request, reply = Path(folder) / "request.npz", Path(folder) / "answer.npz"
        # One layout: another would be compiled again while the clock runs.
        laid: dict[str, Any] = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
        np.savez(request, **laid)
        limit = 1e9 if seconds is None else seconds
        asked = {"file": str(request), "answer": str(reply), "numbers": {**numbers, "seconds": limit}}
        try:
            peer.process.stdin.write(json.dumps(asked).encode() + b"\n")
            peer.process.stdin.flush()
            answer = json.loads(peer.read(2.0 * limit + _LATE + (0.0 if peer.warm else _FIRST)))
        except (TimeoutError, KeyboardInterrupt) as reason:
            peer.close()
            return Stop.TIME if isinstance(reason, TimeoutError) else Stop.USER
        except (SolverFailure, OSError, ValueError) as reason:  # what it would still say belongs to nobody
            peer.close()
            raise SolverFailure(str(reason)) from reason
        peer.warm = True
        if "error" in answer:
            raise SolverFailure(f"{name} broke down: {answer['error']}")
        with np.load(reply) as stored:
            found = {key: stored[key] for key in stored}
        peer.memory = answer["memory"]
        return Answer(found, answer["numbers"], float(answer["seconds"]), answer["memory"])
