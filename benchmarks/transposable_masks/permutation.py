"""How much more a transposable mask of real weights keeps after a search over the order of rows and columns.

python -m benchmarks.transposable_masks.permutation [--rounds 200]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.transposable_masks.real import MODEL, scores_of
from mipprune import TransposableNofM
from mipprune.solvers import search_permutation


def run(rounds: int, out: Path) -> None:
    """Measure and record."""
    fresh = Record(
        name="transposable_masks.permutation",
        title=f"Permuting rows and columns before masking, {rounds} rounds, one layer of a sentence encoder (MiniLM)",
        instance={"network": MODEL, "layers": 1, "rounds": rounds, "seed": 0, "sense": "exact"},
        columns=(
            ("scores", "scores", ""),
            ("pattern", "N:M", ""),
            ("gain_percent", "more kept, %", ".3f"),
            ("seconds", "s", ".2f"),
        ),
        command=command("benchmarks.transposable_masks.permutation", {"rounds": rounds}),
        notes=("One thread; both orders scored by exact masks.",),
    )
    path = out / f"transposable_masks_permutation_{rounds}.json"
    record = Record.open(path, fresh)
    for kind, matrices in scores_of(1).items():
        for count, size in ((2, 4), (8, 16), (16, 32)):
            if record.has(scores=kind, pattern=f"{count}:{size}"):
                continue
            started = time.perf_counter()
            found = search_permutation(matrices[0], TransposableNofM(count, size), rounds=rounds)
            result = {
                "scores": kind,
                "pattern": f"{count}:{size}",
                "gain_percent": rounded(100.0 * found.gain, 4),
                "seconds": rounded(time.perf_counter() - started, 3),
            }
            record.add(path, result)
            say(f"{kind} {count}:{size}: {result['gain_percent']} % more")


def quick(data: Path | None, out: Path) -> None:
    """Run a few rounds."""
    run(10, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.permutation", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.rounds, options.out)


if __name__ == "__main__":
    main()
