"""Random trees over single entries: any branching, any points and any steps make a valid certificate."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mipprune import Problem, SparseTree
from mipprune.core.replay import LOWER, OFF, ON, UPPER
from mipprune.core.sparse_walk import State


def random_tree(
    problem: Problem, rng: np.random.Generator, *, depth: int = 3, splits: list[np.ndarray[Any, Any]] | None = None
) -> SparseTree:
    """Return a sealed tree of random branchings, points of tangency, fixings and intervals."""
    parts: dict[str, list[Any]] = {name: [] for name in ("index", "children", "tangent", "steps", "points", "split_of")}
    table: list[tuple[int, np.ndarray[Any, Any]]] = []
    start = problem.loss.start().reshape(-1).numpy()
    state = State(problem)

    def grow(level: int, split: int) -> int:
        node = len(parts["index"])
        for name in ("index", "tangent"):
            parts[name].append(-1)
        parts["children"].append((-1, -1))
        parts["steps"].append([])
        if splits is not None and rng.random() < 0.5:
            chosen = splits[rng.integers(len(splits))] * (state.fixed >= 0)
            table.append((node, chosen))
            split = len(table) - 1
        point = start * rng.choice([0.0, 0.3, 1.0, 1.5], len(start)) + rng.choice([0.0, 0.1]) * rng.standard_normal(
            len(start)
        )
        point[state.fixed < 0] = 0.0
        parts["tangent"][node] = len(parts["points"])
        parts["points"].append(point)
        parts["split_of"].append(split if rng.random() < 0.8 else -1)
        mark = state.mark
        for j in rng.permutation(len(start))[: rng.integers(0, 3)]:
            kind = int(rng.integers(0, 4))
            if kind in (OFF, ON) and state.fixed[j] == 0:
                step = (int(j), kind, 0.0)
            elif kind in (LOWER, UPPER) and state.fixed[j] >= 0:
                side = float(np.clip(start[j] + 0.3 * rng.standard_normal(), state.lower[j], state.upper[j]))
                step = (int(j), kind, side)
            else:
                continue
            state.apply(*(np.array([part]) for part in step), node)
            parts["steps"][node].append(step)
        free = np.flatnonzero(state.fixed == 0)
        if level and free.size:
            entry = int(rng.choice(free))
            parts["index"][node] = entry
            pair = []
            for kind in (OFF, ON):
                inner = state.mark
                state.fix(np.array([entry]), kind, node)
                pair.append(grow(level - 1, split))
                state.undo(inner)
            parts["children"][node] = tuple(pair)
        state.undo(mark)
        return node

    grow(depth, -1)
    return assemble(problem, parts, table)


def assemble(
    problem: Problem, parts: dict[str, list[Any]], table: list[tuple[int, np.ndarray[Any, Any]]]
) -> SparseTree:
    """Turn lists into the arrays of a certificate, and seal it."""

    def sparse(rows: list[np.ndarray[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        entries = [np.flatnonzero(row) for row in rows]
        starts = np.cumsum([0, *(len(e) for e in entries)])
        flat = np.concatenate([*entries, np.zeros(0, dtype=np.int64)])
        values = np.concatenate([*(row[e] for row, e in zip(rows, entries, strict=True)), np.zeros(0)])
        return torch.from_numpy(starts), torch.from_numpy(flat), torch.from_numpy(values)

    steps = [step for some in parts["steps"] for step in some]
    points, rows = sparse(parts["points"]), sparse([row for _, row in table])
    return SparseTree(
        index=torch.tensor(parts["index"]),
        children=torch.tensor(parts["children"]),
        tangent=torch.tensor(parts["tangent"]),
        point_start=points[0],
        point_entry=points[1],
        point_value=points[2],
        split_of=torch.tensor(parts["split_of"], dtype=torch.int64),
        split_node=torch.tensor([node for node, _ in table], dtype=torch.int64),
        split_start=rows[0],
        split_entry=rows[1],
        split_value=rows[2],
        step_start=torch.tensor(np.cumsum([0, *(len(some) for some in parts["steps"])])),
        step_entry=torch.tensor([step[0] for step in steps], dtype=torch.int64),
        step_kind=torch.tensor([step[1] for step in steps], dtype=torch.int8),
        step_value=torch.tensor([step[2] for step in steps], dtype=torch.float64),
        claim=torch.full((len(parts["index"]),), torch.inf, dtype=torch.float64),
    ).sealed(problem)[0]
