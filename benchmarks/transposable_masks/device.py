"""Exact, certified masks of a whole matrix on an accelerator, repair included, beside the entropic method.

    python -m benchmarks.transposable_masks.device --device cuda [--size 8192]

Nothing of this has been recorded yet: no accelerator was at hand. The command is for who has one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from mipprune import TransposableNofM
from mipprune.kernels.transport_baselines import entropic

PATTERNS = ((4, 8), (8, 16), (16, 32), (32, 64))
_REPEATS = 5


def run(size: int, device: str, out: Path) -> None:
    """Measure and record."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unavailable("there is no CUDA device; --device cpu measures the compiled path")
    fresh = Record(
        name="transposable_masks.device",
        title=f"Transposable masks of a {size} x {size} matrix on {device}",
        instance={"size": size, "device": device, "scores": "gaussian", "seed": 0, "sense": "exact"},
        columns=(
            ("pattern", "N:M", ""),
            ("method", "method", ""),
            ("milliseconds", "ms", ".3f"),
            ("gap", "certified relative gap", ".1e"),
        ),
        command=command("benchmarks.transposable_masks.device", {"device": device, "size": size}),
        notes=("Best of five calls after one that compiles; repair and transfers of repaired blocks included.",),
    )
    path = out / f"transposable_masks_device_{device.replace(':', '')}_{size}.json"
    record = Record.open(path, fresh)
    scores = torch.randn(size, size, generator=torch.Generator().manual_seed(0)).abs().to(device)
    for count, block in PATTERNS:
        family = TransposableNofM(count, block)
        pattern = f"{count}:{block}"
        if not record.has(pattern=pattern, method="exact"):
            found = family.selection(scores, family.solve(scores))
            gap = (found.bound - found.value) / found.value
            milliseconds = _best(lambda family=family: family.solve(scores).mask, device)
            record.add(path, {"pattern": pattern, "method": "exact", "milliseconds": milliseconds, "gap": gap})
            say(f"{pattern}: {milliseconds} ms")
        for iterations in (100, 300):
            name = f"entropic 100, T={iterations}, without rounding"
            if record.has(pattern=pattern, method=name):
                continue
            blocks = family.blocks(scores)

            def relaxed(blocks: Tensor = blocks, count: int = count, iterations: int = iterations) -> Tensor:
                return entropic(blocks, count, temperature=100.0, iterations=iterations).shares

            record.add(path, {"pattern": pattern, "method": name, "milliseconds": _best(relaxed, device, 1)})


def _best(call: Callable[[], Tensor], device: str, repeats: int = _REPEATS) -> float:
    call()
    taken = []
    for _ in range(repeats):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - started))
    return rounded(min(taken), 4)


def quick(data: Path | None, out: Path) -> None:
    """Run a small matrix where there is a device for it."""
    run(512, "cuda", out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.device", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    try:
        run(options.size, options.device, options.out)
    except Unavailable as reason:
        raise SystemExit(f"transposable_masks.device: {reason}") from reason


if __name__ == "__main__":
    main()
