"""Sweeps of the projections of operator splitting (ADMM), each from the potentials of the last or from nothing.

python -m benchmarks.transposable_masks.warm_start [--size 512]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune import ADMM, TransposableNofM
from mipprune.formulations import layerwise
from mipprune.kernels.transport import Transport
from tests.layers import make_layer

_SWEEPS: list[float] = []


@dataclass(frozen=True, eq=False)
class Counted(TransposableNofM):
    """Writes down the mean sweeps of every call."""

    def solve(self, gain: Tensor, start: tuple[Tensor, Tensor] | None = None, **settings: object) -> Transport:
        found = super().solve(gain, start, **settings)  # type: ignore[arg-type]
        _SWEEPS.append(float(found.sweeps.double().mean()))
        return found


@dataclass(frozen=True, eq=False)
class Cold(Counted):
    """Forgets the potentials."""

    def keeper(self) -> Callable[[Tensor], Tensor]:
        return self.keep


def run(size: int, out: Path) -> None:
    """Measure and record."""
    weight, gram = make_layer(size, size, 4 * size, 0)
    fresh = Record(
        name="transposable_masks.warm_start",
        title=f"Projections of ADMM onto transposable masks, {size} x {size}: warm against cold",
        instance={"layer": f"synthetic, tests.layers.make_layer({size}, {size}, {4 * size}, 0)"},
        columns=(
            ("pattern", "N:M", ""),
            ("start", "start", ""),
            ("sweeps", "mean sweeps of a projection", ".2f"),
            ("projections", "projections", ""),
            ("relative_error", "relative error of the layer", ".6f"),
            ("seconds", "s", ".2f"),
        ),
        command=command("benchmarks.transposable_masks.warm_start", {"size": size}),
        notes=(
            "One thread. Every projection is exact, so that both runs differ by ties and rounding only. A sweep moves"
            " the potentials of all lines once; where a warm start leaves few wrong counts, only those lines are moved,"
            " and count as their share of a sweep.",
        ),
    )
    path = out / f"transposable_masks_warm_start_{size}.json"
    record = Record.open(path, fresh)
    for count, block in ((2, 4), (8, 16), (16, 32)):
        for name, family in (("warm", Counted(count, block)), ("cold", Cold(count, block))):
            if record.has(pattern=f"{count}:{block}", start=name):
                continue
            problem = layerwise(weight, gram, family)
            family.keep(problem.loss.start())  # compile
            _SWEEPS.clear()
            started = time.perf_counter()
            solution = ADMM().solve(problem)
            seconds = time.perf_counter() - started
            dense = problem.value(torch.zeros(size, size))
            record.add(
                path,
                {
                    "pattern": f"{count}:{block}",
                    "start": name,
                    "sweeps": rounded(sum(_SWEEPS) / len(_SWEEPS), 4),
                    "projections": len(_SWEEPS),
                    "relative_error": rounded(solution.value / dense, 6),
                    "seconds": rounded(seconds, 3),
                },
            )
            say(f"{count}:{block} {name}: {record.results[-1]['sweeps']} sweeps")


def quick(data: Path | None, out: Path) -> None:
    """Run a small layer."""
    run(128, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.warm_start", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.size, options.out)


if __name__ == "__main__":
    main()
