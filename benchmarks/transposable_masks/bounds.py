"""Certified bounds of a layer with transposable masks: operator splitting against the oracle alone (Frank-Wolfe).

python -m benchmarks.transposable_masks.bounds [--size 256]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune import ADMM, TransposableNofM, certify, solve
from mipprune.formulations import layerwise
from tests.layers import make_layer


@dataclass(frozen=True, eq=False)
class OracleAlone(TransposableNofM):
    """The same family without its proximal step."""

    def spread(self, weight: Tensor, offset: Tensor, price: float = 0.0) -> None:
        return None


def run(size: int, out: Path, patterns: Sequence[tuple[int, int]] = ((2, 4), (8, 16), (16, 32))) -> None:
    """Measure and record."""
    weight, gram = make_layer(size, size, 4 * size, 0)
    fresh = Record(
        name="transposable_masks.bounds",
        title=f"Certified bounds of one layer with transposable masks, {size} x {size}",
        instance={"layer": f"synthetic, tests.layers.make_layer({size}, {size}, {4 * size}, 0)"},
        columns=(
            ("pattern", "N:M", ""),
            ("method", "relaxation by", ""),
            ("ratio", "bound / ALPS", ".4f"),
            ("seconds", "certify s", ".1f"),
        ),
        command=command("benchmarks.transposable_masks.bounds", {"size": size}),
        notes=("`certify` with its defaults, one thread, on the point that ALPS found.",),
    )
    path = out / f"transposable_masks_bounds_{size}.json"
    record = Record.open(path, fresh)
    for count, block in patterns:
        for name, family in (("splitting", TransposableNofM), ("oracle alone", OracleAlone)):
            if record.has(pattern=f"{count}:{block}", method=name):
                continue
            problem = layerwise(weight, gram, family(count, block))
            point = solve(problem, ADMM()).point
            assert point is not None
            started = time.perf_counter()
            found = certify(problem, point)
            seconds = time.perf_counter() - started
            assert found.bound is not None and found.value is not None
            ratio = rounded(found.bound / found.value, 5)
            record.add(
                path,
                {"pattern": f"{count}:{block}", "method": name, "ratio": ratio, "seconds": rounded(seconds, 3)},
            )
            say(f"{count}:{block} {name}: {ratio}")


def quick(data: Path | None, out: Path) -> None:
    """Run a small layer."""
    run(64, out, patterns=((2, 4),))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.bounds", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.size, options.out)


if __name__ == "__main__":
    main()
