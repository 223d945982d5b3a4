"""Every block proved optimal: families x sizes x N x senses, against its own bound and, on a sample, a linear program.

    python -m benchmarks.transposable_masks.exactness [--blocks 250]

``--blocks`` is the number of 16 x 16 blocks of one family and one N; other sizes have about as many entries.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import linprog
from torch import Tensor

from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.transposable_masks.families import FAMILIES, bound, draw, kept
from mipprune.kernels.transport import solve_blocks

_SIZES = (4, 8, 16, 32, 64)


def linear_program(scores: Tensor, count: int, at_most: bool) -> float:
    """Return the optimum of one block by the dual simplex of HiGHS."""
    size = len(scores)
    lines = sp.vstack(
        [sp.kron(sp.eye(size), np.ones((1, size))), sp.kron(np.ones((1, size)), sp.eye(size))], format="csr"
    )
    sides = np.full(2 * size, count)
    rows = {"A_ub": lines, "b_ub": sides} if at_most else {"A_eq": lines, "b_eq": sides}
    return -float(linprog(-scores.double().numpy().ravel(), bounds=(0, 1), method="highs-ds", **rows).fun)


def run(blocks: int, out: Path, sizes: Sequence[int] = _SIZES) -> None:
    """Solve and record."""
    fresh = Record(
        name="transposable_masks.exactness",
        title="Transposable masks: share of blocks proved optimal, exact mode",
        instance={"blocks": blocks, "sizes": list(sizes), "families": list(FAMILIES), "counts": "1 to M-1", "seed": 0},
        columns=(
            ("size", "M", ""),
            ("sense", "sense", ""),
            ("blocks", "blocks", ""),
            ("proved", "share proved optimal", ".6f"),
            ("largest_gap", "largest relative gap of a sum", ".1e"),
            ("lp_sample", "LPs compared", ""),
            ("lp_difference", "largest relative difference to the LP", ".1e"),
            ("microseconds", "us per block", ".1f"),
        ),
        command=command("benchmarks.transposable_masks.exactness", {"blocks": blocks}),
        notes=(
            "All families and, for each, every N from 1 to M-1, on blocks of their own. A block counts as proved when"
            " value and bound, both in float64, agree to 1e-9 of its total score; the gap of a sum is relative to the"
            " kept scores of all blocks of one family and N. The linear program (HiGHS, dual simplex) solves the first"
            " of them, at M = 64 for N = M/2 only.",
        ),
    )
    path = out / f"transposable_masks_exactness_{blocks}.json"
    record = Record.open(path, fresh)
    for size in sizes:
        for sense in ("exact", "at_most"):
            if not record.has(size=size, sense=sense):
                record.add(path, measure(size, sense, max(8, blocks * 256 // size**2)))
                say(f"M = {size}, {sense}: {record.results[-1]['proved']}")


def measure(size: int, sense: str, blocks: int) -> dict[str, object]:
    """Return one line of the table."""
    at_most, solved, proved, worst, seconds = sense == "at_most", 0, 0, 0.0, 0.0
    differences = []
    solve_blocks(torch.rand(1, size, size), 1, at_most=at_most)  # compile
    for family in FAMILIES:
        for count in range(1, size):
            scores = draw(family, blocks, size, seed=count)
            started = time.perf_counter()
            found = solve_blocks(scores, count, at_most=at_most)
            seconds += time.perf_counter() - started
            lines = torch.cat([found.mask.sum(dim=1), found.mask.sum(dim=2)], dim=1)
            admissible = ((lines <= count) if at_most else (lines == count)).all(dim=1)
            signs = (found.rows >= 0).all(dim=1) & (found.columns >= 0).all(dim=1) if at_most else admissible
            values, bounds = kept(scores, found.mask), bound(scores, found.rows, found.columns, count)
            close = (bounds - values).abs() <= 1e-9 * scores.double().sum(dim=(1, 2))
            proved += int((admissible & signs & close).sum())
            solved += blocks
            total = float(values.sum())
            worst = max(worst, abs(float(bounds.sum()) - total) / max(abs(total), 1e-300)) if total else worst
            if size <= 32 or count == size // 2:
                best = linear_program(scores[0], count, at_most)
                differences.append(abs(best - float(values[0])) / max(abs(best), 1e-12))
    return {
        "size": size,
        "sense": sense,
        "blocks": solved,
        "proved": proved / solved,
        "largest_gap": rounded(worst, 2),
        "lp_sample": len(differences),
        "lp_difference": rounded(max(differences), 2) if differences else None,
        "microseconds": rounded(1e6 * seconds / solved, 3),
    }


def quick(data: Path | None, out: Path) -> None:
    """Run few blocks."""
    run(16, out, sizes=(4, 8, 16))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.exactness", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--blocks", type=int, default=250)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.blocks, options.out)


if __name__ == "__main__":
    main()
