"""Error and time of every method on the same blocks, one thread: exact, few sweeps, entropic, greedy, ..., flow oracle.

python -m benchmarks.transposable_masks.methods [--blocks 200]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.transposable_masks.exactness import linear_program
from benchmarks.transposable_masks.families import bound, draw, kept
from mipprune.kernels import transport_baselines, transport_rounding
from mipprune.kernels.transport import solve_blocks

CASES = (
    ("gaussian", 2, 4),
    ("gaussian", 4, 8),
    ("gaussian", 8, 16),
    ("gaussian", 16, 32),
    ("gaussian", 32, 64),
    ("t3", 8, 16),
    ("t3", 16, 32),
    ("column-scaled", 8, 16),
    ("column-scaled", 16, 32),
    ("gaussian", 2, 8),
    ("gaussian", 4, 16),
    ("gaussian", 8, 32),
)
_FEW = 20  # blocks given to the slow methods
_PATIENCE = 0.5  # seconds after which a method is not called again

Method = Callable[[Tensor, int], tuple[Tensor, float | None]]


def _sweeps(sweeps: int) -> Method:
    def method(scores: Tensor, count: int) -> tuple[Tensor, float | None]:
        found = solve_blocks(scores, count, sweeps=sweeps, rest="round")
        return found.mask, float(bound(scores, found.rows, found.columns, count).sum())

    return method


def _exact(scores: Tensor, count: int) -> tuple[Tensor, float | None]:
    found = solve_blocks(scores, count)
    return found.mask, float(bound(scores, found.rows, found.columns, count).sum())


def _entropic(temperature: float, iterations: int, swaps: int) -> Method:
    def method(scores: Tensor, count: int) -> tuple[Tensor, float | None]:
        found = transport_baselines.entropic(scores, count, temperature=temperature, iterations=iterations)
        mask = transport_rounding.greedy(found.shares, count)
        mask = transport_rounding.complete(scores, mask, count, steps=swaps, gated=True)
        return mask, float(bound(scores, found.rows, found.columns, count).sum())

    return method


def _swap2(scores: Tensor, count: int) -> tuple[Tensor, float | None]:
    mask = transport_rounding.complete(scores, transport_rounding.greedy(scores, count), count)
    return transport_rounding.exchange(scores, mask, 1 << 30), None


METHODS: dict[str, Method] = {
    "exact": _exact,
    "sweeps, T=8": _sweeps(8),
    "entropic 100, T=300, 10 swaps": _entropic(100.0, 300, 10),
    "entropic 50, T=100, no swaps": _entropic(50.0, 100, 0),
    "greedy": lambda scores, count: (transport_rounding.greedy(scores, count), None),
    "greedy, completed, swap2": _swap2,
    "2-approximation": lambda scores, count: (transport_rounding.greedy_prune(scores, count), None),
    "bi_nm": lambda scores, count: (transport_baselines.row_then_column(scores, count), None),
    "random1000": lambda scores, count: (
        transport_baselines.best_random(scores, count, trials=1000, seed=0),
        None,
    ),
}


def run(blocks: int, out: Path, cases: Sequence[tuple[str, int, int]] = CASES) -> None:
    """Measure and record."""
    fresh = Record(
        name="transposable_masks.methods",
        title=f"Transposable masks: error and time of each method, {blocks} blocks of 16 x 16 or as many entries",
        instance={"blocks": blocks, "cases": [list(case) for case in cases], "sense": "exact", "seed": 1},
        columns=(
            ("family", "scores", ""),
            ("pattern", "N:M", ""),
            ("method", "method", ""),
            ("error_percent", "below the optimum, %", ".4f"),
            ("gap_percent", "certified gap, %", ".5f"),
            ("microseconds", "us per block", ".1f"),
            ("relative_time", "time / exact", ".1f"),
        ),
        command=command("benchmarks.transposable_masks.methods", {"blocks": blocks}),
        notes=(
            f"One thread. Each time is the best of the calls on a batch of blocks that fit into {_PATIENCE} s, two at"
            " least; that of the exact method includes fixed point and repair.",
            "greedy, 2-approximation and bi_nm leave lines short (admissible for at most N only); errors refer to the"
            " optimum with exactly N. The other methods are written in torch and numba too.",
            f"random1000 and the linear program (HiGHS, dual simplex, through scipy) on {_FEW} blocks.",
        ),
    )
    path = out / f"transposable_masks_methods_{blocks}.json"
    record = Record.open(path, fresh)
    for family, count, size in cases:
        if record.has(family=family, pattern=f"{count}:{size}", method="linear program"):
            continue
        case = {"family": family, "pattern": f"{count}:{size}"}
        record.results = [one for one in record.results if not case.items() <= one.items()]  # begun and interrupted
        scores = draw(family, max(_FEW, blocks * 256 // size**2), size, seed=1)
        best = kept(scores, solve_blocks(scores, count).mask)
        base = 0.0
        for name, method in METHODS.items():
            chosen = scores[:_FEW] if name == "random1000" else scores
            method(chosen[:1], count)  # compile
            taken = []
            while len(taken) < 2 or sum(taken) * 1e-6 * len(chosen) < _PATIENCE:
                started = time.perf_counter()
                mask, upper = method(chosen, count)
                taken.append(1e6 * (time.perf_counter() - started) / len(chosen))
            base = min(taken) if name == "exact" else base
            value, optimum = float(kept(chosen, mask).sum()), float(best[: len(chosen)].sum())
            record.add(
                path,
                {
                    "family": family,
                    "pattern": f"{count}:{size}",
                    "method": name,
                    "error_percent": rounded(100.0 * (1.0 - value / optimum), 4),
                    "gap_percent": None if upper is None else rounded(100.0 * max(upper - value, 0.0) / upper, 4),
                    "microseconds": rounded(min(taken), 4),
                    "relative_time": rounded(min(taken) / base, 3),
                },
            )
        started = time.perf_counter()
        worst = max(
            abs(linear_program(block, count, False) / float(value) - 1.0)
            for block, value in zip(scores[:_FEW], best[:_FEW], strict=True)
        )
        seconds = (time.perf_counter() - started) / _FEW
        record.add(
            path,
            {
                "family": family,
                "pattern": f"{count}:{size}",
                "method": "linear program",
                "error_percent": rounded(100.0 * worst, 2),
                "gap_percent": None,
                "microseconds": rounded(1e6 * seconds, 4),
                "relative_time": rounded(1e6 * seconds / base, 3),
            },
        )
        say(f"{family} {count}:{size}: exact {base:.1f} us per block")


def quick(data: Path | None, out: Path) -> None:
    """Run few blocks of two cases."""
    run(40, out, cases=CASES[1:3])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.methods", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.blocks, options.out)


if __name__ == "__main__":
    main()
