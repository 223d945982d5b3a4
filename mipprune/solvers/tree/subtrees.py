"""Handing open nodes to other processes, and grafting what they send back onto the tree."""

from __future__ import annotations

import hashlib
import heapq
import logging
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...core.solution import Stop
from ...core.solver import Budget, Watch
from .board import Board
from .experience import Experience
from .interrupts import Interrupts
from .ledger import Ledger
from .search import Search, Settings
from .strategy import Array, Node, NodeBound, Point

__all__ = ["Part", "explore", "graft", "search_together"]

_ALONE = 0.5  # seconds of work before processes are asked for help
_SECONDS = 0.5  # of processor time in a task: enough to outweigh sending, on a busy machine too, and to spread evenly
_ASIDE = 16  # nodes that the coordinator evaluates between two looks at the tasks, while the processes are starting
_WAIT = 0.5  # seconds between two looks otherwise
_OPEN = 4  # open nodes for each worker from which on work is handed out
_MOST = 32  # nodes in one task
_NUMBERS = 1 << 21  # numbers in the states of the nodes of one task
_GRACE = 10.0  # seconds that interrupted workers have to send back what they did
_HERE = threading.local()
_LOG = logging.getLogger("mipprune")


class Task(NamedTuple):
    """What a process needs to search below some nodes."""

    key: str
    folder: str
    """where the data of the problem and the board are, on the machine of the coordinator"""
    data: bytes | None
    """the data themselves, for a process that cannot read the folder"""
    size: int
    scale: float
    nodes: list[Node]
    value: float
    settings: Settings
    experience: Experience
    evaluated: int
    """nodes that were evaluated before; dives and local searches go by this count"""
    seconds: float
    """until the run's limit"""
    threads: int


class Part(NamedTuple):
    """What was found below one node: a tree, its open nodes and what is expected of them."""

    ledger: Ledger
    heap: list[tuple[float, int]]
    expected: dict[int, tuple[int, int, float, float]]
    closed: float


class Answer(NamedTuple):
    """The parts of a task, in the order of its nodes; nodes that were not begun have none."""

    parts: list[Part]
    best: tuple[float, Point] | None
    news: list[tuple[int, int, float]]
    evaluated: int


class _Helper(Search):
    """A search below a node that shares its incumbents and stops when its time is up."""

    board: Board | None = None
    best: tuple[float, Point] | None = None
    first: int = 0
    until: float = np.inf
    interrupts: Interrupts | None = None

    def offer(self, value: float, point: Point) -> None:
        """Take a member of S, and tell the others of it."""
        if value < self.value:
            super().offer(value, point)
            self.best = value, point
            if self.board is not None:
                self.board.post(value)

    def stopping(self) -> bool:
        """Whether the work on a node should be cut short."""
        return super().stopping() or self._is_called_off()

    def _is_called_off(self) -> bool:
        interrupted = self.interrupts is not None and self.interrupts.noted
        return interrupted or (self.board is not None and self.board.stopped)

    def due(self) -> Stop | None:
        """Return the reason to stop now, or ``None``."""
        if self._is_called_off():
            return Stop.USER
        if self.board is not None and self.board.value < self.value:
            self.value = self.board.value  # its point is on the way to the coordinator
        if self.evaluated > self.first and time.thread_time() >= self.until:
            return Stop.TIME
        return super().due()


def _known(task: Task) -> NodeBound | None:
    """The strategy of a task, unpacked once in each thread; ``None`` if the data are not at hand."""
    if getattr(_HERE, "key", None) != task.key:
        data, file = task.data, Path(task.folder, "strategy")
        if data is None:
            if not file.is_file():
                return None
            data = file.read_bytes()
        _HERE.strategy, _HERE.key = pickle.loads(data), task.key
    strategy: NodeBound = _HERE.strategy
    return strategy


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use so many threads: all processes together should not use more than there are cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def explore(task: Task) -> Answer | None:
    """Search below some nodes until they are closed or the time is up; ``None`` asks for the data of the problem.

    Ctrl-C ends the work early: what was done until then is sent back.
    """
    strategy = _known(task)
    if strategy is None:
        return None
    begun = time.thread_time()
    try:
        board = Board(Path(task.folder, "board"))
    except OSError:  # another machine: incumbents then travel with the tasks alone
        board = None
    watch = Watch(Budget(seconds=task.seconds if np.isfinite(task.seconds) else None))
    answer = Answer([], None, [], 0)
    value, best, evaluated = task.value, None, task.evaluated
    experience = task.experience
    with Interrupts() as interrupts, _threads(task.threads):
        for node in task.nodes:
            search = _Helper(task.size, task.scale, strategy, task.settings, watch, base=node)
            search.board, search.interrupts, search.until = board, interrupts, begun + _SECONDS
            search.value, search.experience = value, experience
            search.first = search.evaluated = evaluated
            if answer.parts and (time.thread_time() >= search.until or search.due() is not None):
                break
            _plant(search, node)
            search.run()
            value, best, evaluated = search.value, search.best or best, search.evaluated
            answer.parts.append(Part(search.ledger, search.heap, search.expected, search.closed))
    return answer._replace(best=best, news=experience.news, evaluated=evaluated - task.evaluated)


def _plant(search: Search, node: Node) -> None:
    """Let a search begin at a node.

    The node's tangent and split stand in the tree that this one is grafted onto; number 0 here means those.
    """
    ledger = search.ledger
    split = ledger.add_split(0, *node.split) if node.split is not None else -1
    tangent = ledger.add_tangent(*node.start, -1)
    number = ledger.add(-1, -1, 0, tangent, split, node.tried)
    ledger.universe.data[number] = search.universes.below(0, node.fixed)
    heapq.heappush(search.heap, (node.bound, number))


def graft(ledger: Ledger, node: int, part: Ledger, *, has_split: bool) -> int:
    """Hang a tree below a node; returns what to add to its node numbers."""
    nodes = len(ledger)
    tangents, splits = ledger.split_of.size - 1, ledger.split_node.size - int(has_split)
    tangent, split = int(ledger.tangent.data[node]), int(ledger.split.data[node])

    def mapped(numbers: Array, offset: int, first: int | None) -> Array:
        out = np.where(numbers >= 0, numbers + offset, -1)
        return out if first is None else np.where(numbers == 0, first, out)

    own_split = split if has_split else None
    parent = np.where(part.parent.data >= 0, part.parent.data + nodes, node)
    ledger.parent.extend(parent)
    for name in ("entry", "side", "index", "tried"):
        getattr(ledger, name).extend(getattr(part, name).data)
    ledger.children.extend(np.where(part.children.data >= 0, part.children.data + nodes, -1))
    ledger.tangent.extend(mapped(part.tangent.data, tangents, tangent))
    ledger.split.extend(mapped(part.split.data, splits, own_split))
    ledger.universe.extend(np.zeros(len(part), dtype=np.int64))
    steps = ledger.step_entry.size
    ledger.step_start.extend(part.step_start.data + steps)
    ledger.step_end.extend(part.step_end.data + steps)
    for name in ("step_entry", "step_kind", "step_value"):
        getattr(ledger, name).extend(getattr(part, name).data)
    skip = int(part.point_start.data[1])
    ledger.point_start.extend(part.point_start.data[2:] - skip + ledger.point_entry.size)
    ledger.point_entry.extend(part.point_entry.data[skip:])
    ledger.point_value.extend(part.point_value.data[skip:])
    ledger.split_of.extend(mapped(part.split_of.data[1:], splits, own_split))
    drop = int(has_split)
    skip = int(part.split_start.data[drop])
    ledger.split_start.extend(part.split_start.data[drop + 1 :] - skip + ledger.split_entry.size)
    ledger.split_entry.extend(part.split_entry.data[skip:])
    ledger.split_value.extend(part.split_value.data[skip:])
    ledger.split_node.extend(part.split_node.data[drop:] + nodes)
    ledger.children.data[node] = (nodes, -1)
    return nodes


class _Crew:
    """The tasks that are on their way, and the nodes that they are about."""

    def __init__(self, search: Search, executor: Executor, workers: int, folder: Path) -> None:
        self.search, self.executor, self.workers, self.folder = search, executor, workers, folder
        self.board = Board(folder / "board", fresh=True)
        self.payload = pickle.dumps(search.strategy, protocol=pickle.HIGHEST_PROTOCOL)
        self.key = hashlib.sha256(self.payload).hexdigest()
        (folder / "strategy").write_bytes(self.payload)
        self.running: dict[Future[Answer | None], tuple[Task, list[tuple[float, int]]]] = {}
        self.heard = False

    def submit(self) -> None:
        """Hand out open nodes below the cutoff, the best first, to keep everyone busy and one task in reserve each."""
        search = self.search
        self.board.post(search.value)
        while len(self.running) < 2 * self.workers and search.heap and search.heap[0][0] < search.cutoff:
            share = min(len(search.heap) // (4 * self.workers), _MOST, _NUMBERS // max(3 * search.size, 1))
            items: list[tuple[float, int]] = []
            while search.heap and len(items) < max(share, 1) and search.heap[0][0] < search.cutoff:
                items.append(heapq.heappop(search.heap))
            nodes = [search.state(number, bound, universe=0) for bound, number in items]
            threads = max(1, (os.cpu_count() or 1) // self.workers)
            task = Task(
                self.key, str(self.folder), None, search.size, search.scale, nodes, search.value, search.settings,
                deepcopy(search.experience), search.evaluated, max(search.watch.remaining, 1e-3), threads,
            )  # fmt: skip
            self._send(task, items)

    def _send(self, task: Task, items: list[tuple[float, int]]) -> None:
        try:
            self.running[self.executor.submit(explore, task)] = task, items
        except BaseException:
            self._reopen(items)
            raise

    def _reopen(self, items: list[tuple[float, int]]) -> None:
        for item in items:
            heapq.heappush(self.search.heap, item)

    def collect(self, seconds: float) -> None:
        """Take in what has come back, waiting for so long at most."""
        finished, _ = wait(self.running, timeout=seconds, return_when=FIRST_COMPLETED)
        for future in finished:
            task, items = self.running[future]
            answer = future.result()
            del self.running[future]
            self.heard = True
            if answer is not None:
                self._graft(task, items, answer)
            elif task.data is None:
                self._send(task._replace(data=self.payload), items)
            else:
                raise AssertionError("a process does not accept the data that it was sent")

    def _graft(self, task: Task, items: list[tuple[float, int]], answer: Answer) -> None:
        search, ledger = self.search, self.search.ledger
        for (_, number), node, part in zip(items, task.nodes, answer.parts, strict=False):
            mark = ledger.mark(), number, int(ledger.tangent.data[number]), int(ledger.split.data[number])
            try:
                offset = graft(ledger, number, part.ledger, has_split=node.split is not None)
            except BaseException:  # an interrupt in the middle: the node is open again, and the tree is whole
                ledger.undo(*mark)
                raise
            for bound, open_node in part.heap:
                heapq.heappush(search.heap, (bound, open_node + offset))
            search.expected.update({key + offset: item for key, item in part.expected.items()})
            search.closed = min(search.closed, part.closed)
        self._reopen(items[len(answer.parts) :])
        search.experience.absorb(answer.news)
        search.evaluated += answer.evaluated
        if answer.best is not None:
            search.offer(*answer.best)
        search.watch.report(search.value, min(search.bound, search.value, *self.bounds()))

    def bounds(self) -> list[float]:
        """Bounds of the nodes that are on their way."""
        return [bound for _, items in self.running.values() for bound, _ in items]

    def recall(self, *, wait_for: float) -> None:
        """Stop everyone, take in what they have done, and open again what does not come back in time."""
        self.board.stop()
        for future in [future for future in self.running if future.cancel()]:
            self._reopen(self.running.pop(future)[1])
        try:
            for future in wait(self.running, timeout=wait_for).done:
                answer = future.result() if future.exception() is None else None
                task, items = self.running.pop(future)
                if answer is None:
                    self._reopen(items)
                else:
                    self._graft(task, items, answer)
        finally:
            for _, items in self.running.values():
                self._reopen(items)
            self.running.clear()


def search_together(search: Search, executor: Executor, workers: int, keep: Callable[[], None]) -> Stop:
    """Run a search whose open nodes are shared out; the calling process coordinates, and searches while few are open.

    ``keep`` is called now and then, with everything that is on its way among the open nodes.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mipprune-", ignore_cleanup_errors=True) as folder:
        crew: _Crew | None = None
        while True:
            reason = search.due()
            if reason is None and (crew is None or not crew.running):
                few = len(search.heap) < _OPEN * workers or time.perf_counter() < begun + _ALONE
                if few or not search.heap or search.heap[0][0] >= search.cutoff:
                    reason = search.run(nodes=search.evaluated + _ASIDE)
                    search.experience.news.clear()
                    if reason is None:
                        continue
            if reason is not None:
                if crew is not None and crew.running:
                    crew.recall(wait_for=_GRACE)
                return reason
            try:
                crew = crew or _Crew(search, executor, workers, Path(folder))
                crew.submit()
                aside = not crew.heard and search.heap and search.heap[0][0] < search.cutoff
                if aside:  # processes that have just begun load for seconds
                    search.run(nodes=search.evaluated + _ASIDE)
                    search.experience.news.clear()
                crew.collect(0.0 if aside else _WAIT)
            except BrokenExecutor as error:
                _LOG.warning("a process of the executor has died (%s); the search goes on without it", error)
                assert crew is not None
                crew.recall(wait_for=0.0)
                return _alone(search, keep)
            except BaseException:
                if crew is not None:
                    crew.recall(wait_for=_GRACE)
                raise
            _keep(search, crew, keep)


def _keep(search: Search, crew: _Crew, keep: Callable[[], None]) -> None:
    """Call ``keep`` with the nodes that are on their way among the open ones."""
    heap = search.heap
    search.heap = heap + [item for _, items in crew.running.values() for item in items]
    heapq.heapify(search.heap)
    try:
        keep()
    finally:
        search.heap = heap


def _alone(search: Search, keep: Callable[[], None]) -> Stop:
    while True:
        reason = search.run(nodes=search.next_renewal)
        if reason is not None:
            return reason
        keep()
