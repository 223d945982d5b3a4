"""Projections of operator splitting (ADMM), each from the potentials of the last or from nothing: sweeps and seconds.

python -m benchmarks.transposable_masks.warm_start [--size 512]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune import ADMM, TransposableNofM
from mipprune.formulations import layerwise
from mipprune.kernels.transport import SWEEPS, Transport
from tests.layers import make_layer

_REPEATS = 5  # runs of each kind, in turns; times are medians
_SETTLED = 0.05  # of the kept entries change between two projections at most, where the masks are said to settle


@dataclass(frozen=True, eq=False)
class Timed(TransposableNofM):
    """Writes down every projection."""

    log: list[tuple[Tensor, float, int, float]] = field(default_factory=list)
    warm: bool = True

    def keeper(self) -> Callable[[Tensor], Tensor]:
        """See :meth:`TransposableNofM.keeper`; cold ones forget the potentials."""
        last: list[Transport] = []

        def keep(gain: Tensor) -> Tensor:
            begun = time.perf_counter()
            start = (last[0].rows, last[0].columns) if last and self.warm else None
            found = self.solve(gain, start)
            mask = self.matrix(found.mask, tuple(gain.shape))
            seconds = time.perf_counter() - begun
            last[:] = [found]
            self.log.append((mask, float(found.sweeps.double().mean()), int((found.sweeps >= SWEEPS).sum()), seconds))
            return mask

        return keep


def _summary(log: list[tuple[Tensor, float, int, float]]) -> dict[str, object]:
    """Sweeps of all projections, and of those in which many or few entries changed."""
    moving, settling = [], []
    for (before, *_), (mask, sweeps, *_) in itertools.pairwise(log):
        few = int((mask & ~before).sum()) <= _SETTLED * int(mask.sum())
        (settling if few else moving).append(sweeps)
    return {
        "sweeps": rounded(statistics.fmean(sweeps for _, sweeps, *_ in log), 4),
        "sweeps_moving": rounded(statistics.fmean(moving), 4) if moving else None,
        "sweeps_settling": rounded(statistics.fmean(settling), 4) if settling else None,
        "projections": len(log),
        "projections_settling": len(settling),
        "repaired": sum(left for _, _, left, _ in log),
    }


def run(size: int, out: Path) -> None:
    """Measure and record."""
    weight, gram = make_layer(size, size, 4 * size, 0)
    fresh = Record(
        name="transposable_masks.warm_start",
        title=f"Projections of ADMM onto transposable masks, {size} x {size}: warm against cold",
        instance={"layer": f"synthetic, tests.layers.make_layer({size}, {size}, {4 * size}, 0)", "repeats": _REPEATS},
        columns=(
            ("pattern", "N:M", ""),
            ("start", "start", ""),
            ("sweeps", "sweeps of a block", ".2f"),
            ("sweeps_moving", "while many entries change", ".2f"),
            ("sweeps_settling", "while few change", ".2f"),
            ("projections", "projections", ""),
            ("projections_settling", "with few changes", ""),
            ("repaired", "blocks left to the repair", ""),
            ("relative_error", "relative error of the layer", ".6f"),
            ("seconds_projections", "s, projections", ".3f"),
            ("seconds", "s, all of ADMM", ".2f"),
        ),
        command=command("benchmarks.transposable_masks.warm_start", {"size": size}),
        notes=(
            f"One thread; medians of {_REPEATS} runs, warm and cold in turns. Every projection is exact, so that both"
            " runs differ by ties and rounding only. A sweep moves the potentials of all lines once."
            f" Few entries change where at most {100 * _SETTLED:.0f} % of the kept ones are new."
            " The time of a projection includes reading the blocks, their fixed point and the proof in float64.",
        ),
    )
    path = out / f"transposable_masks_warm_start_{size}.json"
    record = Record.open(path, fresh)
    for count, block in ((2, 4), (8, 16), (16, 32)):
        if record.has(pattern=f"{count}:{block}"):
            continue
        families = {start: Timed(count, block, warm=start == "warm") for start in ("warm", "cold")}
        problems = {start: layerwise(weight, gram, family) for start, family in families.items()}
        found: dict[str, dict[str, object]] = {}
        times: dict[str, list[tuple[float, float]]] = {start: [] for start in families}
        for repeat in range(_REPEATS + 1):
            for start, family in families.items():
                family.log.clear()
                begun = time.perf_counter()
                solution = ADMM().solve(problems[start])
                seconds = time.perf_counter() - begun
                if repeat:  # the first run compiles
                    times[start].append((sum(spent for *_, spent in family.log), seconds))
                dense = problems[start].value(torch.zeros(size, size))
                found[start] = {**_summary(family.log), "relative_error": rounded(solution.value / dense, 6)}
        for start in families:
            projections, seconds = (statistics.median(column) for column in zip(*times[start], strict=True))
            record.add(
                path,
                {
                    "pattern": f"{count}:{block}",
                    "start": start,
                    **found[start],
                    "seconds_projections": rounded(projections, 3),
                    "seconds": rounded(seconds, 3),
                },
            )
            say(f"{count}:{block} {start}: {found[start]['sweeps']} sweeps, {projections:.3f} s")


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
