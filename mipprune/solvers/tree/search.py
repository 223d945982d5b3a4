"""Best-first search with dives over single entries; what it stores is the certificate."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...core.solution import Stop
from ...core.solver import Watch
from .experience import Experience
from .exploration import Exploring
from .ledger import Ledger
from .steps import discard
from .strategy import Batching, Node, NodeBound, Point, Probing, Relaxed
from .universes import Universes

__all__ = ["Search", "Settings"]

_RENEWAL = 64  # evaluated nodes between two renewals
_DEEPEST = 20  # nodes of a dive
_EXPLORED = 64  # evaluated nodes at which incumbents are searched for longer again, and at each power of two beyond
_RARER = 4  # times fewer dives where such searches find the incumbents


@dataclass(frozen=True)
class Settings:
    """Parameters of the search, see :class:`~mipprune.BranchAndBound`."""

    gap: float = 1e-4
    absolute_gap: float = 0.0
    intervals: bool = True
    dive_every: int = 64
    weight: float = 0.8
    memory: float = 4.0
    heuristic_every: int = 1
    batch: int = 1
    """open nodes that are relaxed at a time, where the strategy can"""


@dataclass(eq=False)
class Search:
    """The state of one run over one tree."""

    size: int
    """number of entries of the problem"""
    scale: float
    """magnitude of the loss"""
    strategy: NodeBound
    settings: Settings
    watch: Watch
    ledger: Ledger = field(default_factory=Ledger)
    value: float = math.inf
    point: Point = (np.zeros(0, dtype=np.int64), np.zeros(0))
    evaluated: int = 0
    probed: int = 0
    """tangents made for parts of nodes"""
    closed: float = math.inf
    heap: list[tuple[float, int]] = field(default_factory=list)
    base: Node | None = None
    """state of the root, when that is not the whole problem"""
    interrupted: Callable[[], bool] = field(default_factory=lambda: lambda: False)
    """whether Ctrl-C came"""

    def __post_init__(self) -> None:
        self.universes = Universes(self.strategy, self.size, self.base)
        self.expected: dict[int, tuple[int, int, float, float]] = {}
        self.experience = Experience(self.size)
        self.ready: dict[int, tuple[Node, list[Relaxed]]] = {}  # open nodes that were relaxed with others

    @property
    def cutoff(self) -> float:
        """Bound at which a part is closed; a little below the tolerance asked for, so that rounding cannot spoil it."""
        if not math.isfinite(self.value):
            return math.inf
        size = abs(self.value)
        wanted = max(self.settings.gap * size, self.settings.absolute_gap)
        return self.value - max(0.999 * wanted, 1e-13 * max(size, self.scale))

    @property
    def accuracy(self) -> float:
        """Gap to which relaxations are solved."""
        size = abs(self.value) if math.isfinite(self.value) else self.scale
        wanted = max(self.settings.gap * size, self.settings.absolute_gap)
        return max(0.05 * wanted, 2e-14 * max(size, self.scale))

    @property
    def bound(self) -> float:
        """Smallest bound over everything open or closed."""
        return min(self.heap[0][0] if self.heap else math.inf, self.closed)

    def offer(self, value: float, point: Point) -> None:
        """Take a member of S as incumbent when it is better."""
        if value < self.value:
            self.value, self.point = value, point

    def start(self) -> None:
        """Add the root."""
        number = self.ledger.add(-1, -1, 0, -1, -1)
        heapq.heappush(self.heap, (-math.inf, number))

    def renew(self) -> None:
        """Forget what follows from the order of past work alone, such as rows of X'X formed in batches of some size.

        What comes next then depends on the tree, the incumbent and what was learned, all of which can be stored.
        """
        self.universes.renew()
        self.strategy = self.universes.root
        self.experience.news.clear()
        self.ready.clear()

    @property
    def next_renewal(self) -> int:
        """Number of evaluated nodes at which :meth:`renew` is due."""
        every = max(_RENEWAL, 4 * self.settings.batch)
        return (self.evaluated // every + 1) * every

    def run(self, nodes: float = math.inf) -> Stop | None:
        """Work until the tree is closed or a limit is reached; an interrupt leaves the node at hand open.

        ``None`` says that so many nodes were evaluated first, in total.
        """
        reported = -math.inf
        while self.heap:
            if self.heap[0][0] >= self.cutoff:
                return Stop.GAP
            reason = self.due()
            if reason is not None:
                return reason
            if self.settings.batch > 1 and self.heap[0][1] not in self.ready:
                self._prepare()
            item = heapq.heappop(self.heap)
            every = self.settings.dive_every * (_RARER if isinstance(self.universes.root, Exploring) else 1)
            diving = every and self.evaluated % every == 0
            before = self.value
            self._work(item, bool(diving))
            if self.value < before or self.evaluated % 50 == 0 or self.evaluated == 1:
                reported = max(reported, min(self.bound, self.value))
                self.watch.report(self.value, reported if math.isfinite(reported) else None)
            if self.evaluated >= nodes and self.heap:
                return None
        return Stop.GAP if self.closed >= self.cutoff else Stop.NUMERICAL

    def stopping(self) -> bool:
        """Whether the work on a node should be cut short."""
        return self.watch.remaining <= 0

    def due(self) -> Stop | None:
        """Return the reason to stop now, or ``None``."""
        reason = Stop.USER if self.interrupted() else self.watch.due(nodes=self.evaluated)
        if reason is None and self.ledger.nbytes + 200 * len(self.heap) > self.settings.memory * 2**30:
            return Stop.NODES
        return reason

    def _prepare(self) -> None:
        """Relax the best open nodes at once; a later incumbent may make some of that work useless."""
        groups: dict[int, list[tuple[float, int]]] = {}
        for bound, number in heapq.nsmallest(self.settings.batch, self.heap):
            if number not in self.ready and bound < self.cutoff:
                groups.setdefault(int(self.ledger.universe.data[number]), []).append((bound, number))
        for universe, items in groups.items():
            strategy = self.universes[universe].strategy
            if isinstance(strategy, Batching):
                nodes = [self.state(number, bound) for bound, number in items]
                together = strategy.evaluate_together(nodes, self.cutoff, self.accuracy, self.stopping)
                self.ready.update({node.number: (node, found) for node, found in zip(nodes, together, strict=True)})

    def _work(self, item: tuple[float, int], diving: bool) -> None:
        for depth in itertools.count():
            bound, number = item
            ledger = self.ledger
            mark = ledger.mark(), number, int(ledger.tangent.data[number]), int(ledger.split.data[number])
            try:
                children = self.process(number, bound)
            except BaseException:  # an interrupt in the middle: the node is open again, and the tree is whole
                ledger.undo(*mark)
                heapq.heappush(self.heap, item)
                raise
            if not diving or not children or depth >= _DEEPEST:
                for child in children:
                    heapq.heappush(self.heap, child)
                return
            item, *others = children
            for child in others:
                heapq.heappush(self.heap, child)
            if item[0] >= self.cutoff or self.due() is not None:
                heapq.heappush(self.heap, item)
                return

    def state(self, number: int, bound: float, universe: int | None = None) -> Node:
        """Return the state in which a node is entered, in the numbering of its copy of the strategy or a given one."""
        from ...kernels.tree_paths import collect

        ledger = self.ledger
        _, base, local = self.universes[int(ledger.universe.data[number]) if universe is None else universe]
        fixed, lower, upper = base.fixed.copy(), base.lower.copy(), base.upper.copy()
        limits = np.zeros(0) if base.limits is None else base.limits.copy()
        collect(
            number, ledger.parent.data, ledger.entry.data, ledger.side.data, ledger.step_start.data,
            ledger.step_end.data, ledger.step_entry.data, ledger.step_kind.data, ledger.step_value.data,
            local, fixed, lower, upper, limits,
        )  # fmt: skip
        tangent, split = int(ledger.tangent.data[number]), int(ledger.split.data[number])
        start = base.start if tangent < 0 else ledger.point(tangent)
        return Node(
            number,
            fixed,
            lower,
            upper,
            None if base.limits is None else limits,
            start,
            bound,
            0,
            None if split < 0 else ledger.split_row(split),
            int(ledger.tried.data[number]),
        )

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # what overflows proves nothing
    def process(self, number: int, bound: float) -> list[tuple[float, int]]:
        """Evaluate a node, store what follows, and return its open children as (bound, number), the likeliest first."""
        node, prepared = self.ready.pop(number) if number in self.ready else (self.state(number, bound), None)
        universe = int(self.ledger.universe.data[number])
        strategy = self.universes[universe].strategy
        first = self.expected.pop(number, None)
        stored = False
        while True:
            found = prepared or strategy.evaluate(node, self.cutoff, self.accuracy, self.stopping)
            prepared = None
            self.evaluated += 1
            self._search_incumbent(node, found[-1], strategy)
            if first is not None:
                self.experience.learn(first[0], first[1], first[2], min(found[-1].bound, self.cutoff) - first[3])
                first = None
            for part in found:
                if part.bound < bound:
                    continue  # the tangent above is better
                if stored:
                    number = self._below(number, node)
                bound, stored = part.bound, True
                node = self._take(number, node, part, strategy)
                if bound >= self.cutoff:
                    self.closed = min(self.closed, bound)
                    return []
            probed = self._probe(number, node, found[-1], bound, strategy)
            if probed is not None:
                return self._opened(universe, probed[0], probed[1])
            split = strategy.sharpened(node)
            if split is None:
                break
            number, stored = self._below(number, node), False
            self.ledger.split.data[number] = self.ledger.add_split(number, *split)
            node.split = split
        return self._opened(universe, node, self._branch(number, node, found[-1], bound, strategy))

    def _opened(self, universe: int, node: Node, children: list[tuple[float, int]]) -> list[tuple[float, int]]:
        """Give open nodes the copy of the strategy that fits the state above them."""
        if children:
            self.ledger.universe.data[[child for _, child in children]] = self.universes.below(universe, node.fixed)
        return children

    def _take(self, number: int, node: Node, relaxed: Relaxed, strategy: NodeBound) -> Node:
        """Store a tangent as that of a node, with all that it proves; return the state after it."""
        ledger = self.ledger
        if relaxed.split is None:
            split = -1
        elif relaxed.split is node.split:
            split = int(ledger.split.data[number])
        else:
            split = ledger.add_split(number, *relaxed.split)
            ledger.split.data[number] = split
        ledger.tangent.data[number] = ledger.add_tangent(*relaxed.point, split)
        if relaxed.bound >= self.cutoff:
            return node
        steps, after, least = discard(
            node, relaxed, self.cutoff, strategy.columns, strategy.price, intervals=self.settings.intervals
        )
        ledger.set_steps(number, steps)
        self.closed = min(self.closed, least)
        after.start, after.split = relaxed.point, relaxed.split or node.split
        return after

    def _probe(
        self, number: int, node: Node, relaxed: Relaxed, bound: float, strategy: NodeBound
    ) -> tuple[Node, list[tuple[float, int]]] | None:
        """Take the tangents made for parts of a node, each in a node of its own; the last goes on with the first's.

        Returns the state after them and the node that is open, if any; ``None`` when there was no such tangent.
        """
        ledger, own, made = self.ledger, int(self.ledger.tangent.data[number]), 0
        if not self.settings.intervals or relaxed.bound < bound or not isinstance(strategy, Probing):
            return None
        for part in strategy.probes(node, relaxed, self.cutoff, self.stopping):
            number = self._below(number, node)
            node = self._take(number, node, part, strategy)
            made += 1
            if part.bound >= self.cutoff:
                self.probed += made
                self.closed = min(self.closed, part.bound)
                return node, []
        if not made:
            return None
        self.probed += made
        number = self._below(number, node)
        ledger.tangent.data[number] = own
        return node, [(bound, number)]

    def _below(self, number: int, node: Node) -> int:
        """Let a node go on without branching."""
        ledger = self.ledger
        tangent, split = int(ledger.tangent.data[number]), int(ledger.split.data[number])
        below = ledger.add(number, -1, 0, tangent, split, node.tried)
        ledger.children.data[number] = (below, -1)
        node.number = below
        return below

    def _search_incumbent(self, node: Node, relaxed: Relaxed, strategy: NodeBound) -> None:
        if self.evaluated == 1:
            effort = 2
        elif self.evaluated % self.settings.heuristic_every == 0:
            effort = 0 if self.evaluated % 32 else 1
        else:
            return
        for value, point in strategy.incumbents(node, relaxed, effort):
            self.offer(value, point)
        whole = self.universes.root
        due = effort == 2 or (self.evaluated >= _EXPLORED and self.evaluated.bit_count() == 1)
        if isinstance(whole, Exploring) and due and relaxed.bound < self.cutoff:
            for value, point in whole.explored(self.point, relaxed, effort, self.evaluated, self.stopping):
                self.offer(value, point)

    def _branch(
        self, number: int, node: Node, relaxed: Relaxed, bound: float, strategy: NodeBound
    ) -> list[tuple[float, int]]:
        """Open the children of a node whose steps are stored."""
        ledger = self.ledger
        free = node.fixed == 0
        if not free.any() or int((node.fixed > 0).sum()) >= strategy.most:
            return self._last(number, node, bound)
        down, up = strategy.scores(node, relaxed)
        columns = strategy.columns
        raw = down, up
        down, up = down * self.experience.factor(0, columns), up * self.experience.factor(1, columns)
        weight, room = self.settings.weight, self.cutoff - bound
        down, up = np.minimum(down, room), np.minimum(up, room)
        score = weight * np.minimum(down, up) + (1 - weight) * np.maximum(down, up)
        score = np.where(free, score + 1e-9 * relaxed.shares * (1 - relaxed.shares) * score.max(initial=0.0), -1.0)
        if not score.max() > 0:
            score = np.where(free, np.abs(relaxed.gains), -1.0)
        place = int(score.argmax())
        gain = float(relaxed.gains[place])
        positive = max(gain, 0.0)
        entry = int(strategy.columns[place])
        proven = (bound, bound)
        if relaxed.bound >= bound:  # else the node keeps the tangent from above, of which only its bound is at hand
            proven = (
                max(bound, relaxed.bound + max(positive - relaxed.following, 0.0)),
                max(bound, relaxed.bound + max(positive, relaxed.last) - gain),
            )
        ledger.index.data[number] = entry
        tangent = int(ledger.tangent.data[number])
        children = []
        for side in (0, 1):
            child = ledger.add(number, entry, side, tangent, int(ledger.split.data[number]), node.tried)
            ledger.children.data[number, side] = child
            self.expected[child] = (entry, side, float(raw[side][place]), bound)
            children.append((proven[side], child))
        return children if relaxed.shares[place] < 0.5 else children[::-1]

    def _last(self, number: int, node: Node, bound: float) -> list[tuple[float, int]]:
        """Close a cell with a single support: go on once with another tangent if that one was not good enough."""
        stored = self.ledger
        if stored.step_end.data[number] == stored.step_start.data[number]:
            self.closed = min(self.closed, bound)
            return []
        return [(bound, self._below(number, node))]
