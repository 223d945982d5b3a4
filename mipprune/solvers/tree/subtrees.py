"""Handing open nodes to other processes, and grafting what they send back onto the tree."""

from __future__ import annotations

import hashlib
import heapq
import pickle
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import NamedTuple

import numpy as np

from ...core.solution import Stop
from ...core.solver import Budget, Watch
from .ledger import Ledger
from .search import Search, Settings
from .strategy import Array, Node, NodeBound, Point

__all__ = ["Part", "explore", "search_together"]

_NODES = 256  # of a task: long enough to outweigh sending, short enough to share new incumbents
_OPEN = 4  # open nodes for each worker from which on work is handed out
_KNOWN: dict[str, NodeBound] = {}


class Task(NamedTuple):
    """What a process needs to search below a node."""

    key: str
    strategy: bytes
    size: int
    scale: float
    node: Node
    has_split: bool
    value: float
    point: Point
    settings: Settings
    seconds: float | None


class Part(NamedTuple):
    """What it found: a tree below the node, its open nodes, and an incumbent."""

    ledger: Ledger
    heap: list[tuple[float, int]]
    value: float
    point: Point
    closed: float
    evaluated: int


def explore(task: Task) -> Part:
    """Search below a node until it is closed or a limit is reached."""
    if task.key not in _KNOWN:
        _KNOWN.clear()
        _KNOWN[task.key] = pickle.loads(task.strategy)
    watch = Watch(Budget(seconds=task.seconds, nodes=_NODES))
    search = Search(task.size, task.scale, _KNOWN[task.key], task.settings, watch, base=task.node)
    search.offer(task.value, task.point)
    ledger = search.ledger
    # The node's tangent and split stand in the tree that this one is grafted onto; number 0 here means those.
    split = ledger.add_split(0, *task.node.split) if task.node.split is not None else -1
    tangent = ledger.add_tangent(*task.node.start, -1)
    number = ledger.add(-1, -1, 0, tangent, split, task.node.tried)
    heapq.heappush(search.heap, (task.node.bound, number))
    search.run()
    return Part(ledger, search.heap, search.value, search.point, search.closed, search.evaluated)


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


def search_together(search: Search, executor: Executor, workers: int) -> Stop:
    """Run a search whose open nodes are shared out; the calling process coordinates and searches while few are open."""
    payload = pickle.dumps(search.strategy)
    key = hashlib.sha256(payload).hexdigest()
    running: dict[Future[Part], tuple[float, int, bool]] = {}
    try:
        while True:
            reason = search.due()
            if reason is not None:
                return reason
            if not running and len(search.heap) < _OPEN * workers:
                done = search.run(nodes=search.evaluated + 16)
                if done is not None:
                    return done
                continue
            while len(running) < workers and search.heap and search.heap[0][0] < search.cutoff:
                bound, number = heapq.heappop(search.heap)
                node = search.state(number, bound, universe=0)
                remaining = search.watch.remaining
                task = Task(
                    key, payload, search.size, search.scale, node, node.split is not None, search.value,
                    search.point, search.settings, max(remaining, 1e-3) if np.isfinite(remaining) else None,
                )  # fmt: skip
                running[executor.submit(explore, task)] = (bound, number, task.has_split)
            if not running:
                return Stop.GAP if search.closed >= search.cutoff or search.heap else Stop.NUMERICAL
            finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in finished:
                bound, number, has_split = running.pop(future)
                _collect(search, number, future.result(), has_split)
    except BaseException:  # an interrupt: what has not come back is open again
        for future, (bound, number, _) in running.items():
            future.cancel()
            heapq.heappush(search.heap, (bound, number))
        running.clear()
        raise
    finally:
        for future, (bound, number, has_split) in running.items():
            if future.cancel():
                heapq.heappush(search.heap, (bound, number))
            else:
                _collect(search, number, future.result(), has_split)


def _collect(search: Search, number: int, part: Part, has_split: bool) -> None:
    offset = graft(search.ledger, number, part.ledger, has_split=has_split)
    for bound, open_node in part.heap:
        heapq.heappush(search.heap, (bound, open_node + offset))
    search.closed = min(search.closed, part.closed)
    search.evaluated += part.evaluated
    search.offer(part.value, part.point)
    search.watch.report(search.value, min(search.bound, search.value))
