"""Few sweeps: certified gap of masks after T sweeps, for every pattern and kind of scores.

python -m benchmarks.transposable_masks.fast [--blocks 400]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.transposable_masks.families import bound, draw, kept
from mipprune.kernels.transport import solve_blocks

FAMILIES = ("gaussian", "t3", "column-scaled")
PATTERNS = ((2, 4), (4, 8), (8, 16), (16, 32), (32, 64), (1, 4), (2, 8), (4, 16), (8, 32), (16, 64))


def run(blocks: int, out: Path, patterns: Sequence[tuple[int, int]] = PATTERNS, sweeps: int = 8) -> None:
    """Measure and record."""
    fresh = Record(
        name="transposable_masks.fast",
        title=f"Transposable masks after {sweeps} sweeps: certified gap of the sum over all blocks",
        instance={"blocks": blocks, "sweeps": sweeps, "sense": "exact", "seed": 2},
        columns=(
            ("family", "scores", ""),
            ("pattern", "N:M", ""),
            ("blocks", "blocks", ""),
            ("open_percent", "blocks not proved, %", ".2f"),
            ("error_percent", "below the optimum, %", ".5f"),
            ("gap_percent", "certified gap, %", ".5f"),
        ),
        command=command("benchmarks.transposable_masks.fast", {"blocks": blocks}),
        notes=(
            "The bound is that of the potentials after the last sweep, in float64; what the sweeps leave open is"
            " rounded, not repaired. ``blocks`` is for 16 x 16; other sizes have as many entries.",
        ),
    )
    path = out / f"transposable_masks_fast_{blocks}.json"
    record = Record.open(path, fresh)
    for family in FAMILIES:
        for count, size in patterns:
            if record.has(family=family, pattern=f"{count}:{size}"):
                continue
            scores = draw(family, max(20, blocks * 256 // size**2), size, seed=2)
            found = solve_blocks(scores, count, sweeps=sweeps, rest="round")
            values, bounds = kept(scores, found.mask), bound(scores, found.rows, found.columns, count)
            best = float(kept(scores, solve_blocks(scores, count).mask).sum())
            value, upper = float(values.sum()), float(bounds.sum())
            result = {
                "family": family,
                "pattern": f"{count}:{size}",
                "blocks": len(scores),
                "open_percent": rounded(100.0 * float((bounds > values * (1 + 1e-12)).double().mean()), 3),
                "error_percent": rounded(100.0 * max(1.0 - value / best, 0.0), 3),
                "gap_percent": rounded(100.0 * max(upper - value, 0.0) / upper, 3),
            }
            record.add(path, result)
            say(f"{family} {count}:{size}: gap {result['gap_percent']} %")


def quick(data: Path | None, out: Path) -> None:
    """Run few blocks of small patterns."""
    run(40, out, patterns=PATTERNS[:3])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.fast", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--blocks", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.blocks, options.out)


if __name__ == "__main__":
    main()
