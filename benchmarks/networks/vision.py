"""Two small classifiers pruned in one shot: test accuracy of MLPNet on MNIST and of ResNet-20 on CIFAR-10.

    python -m benchmarks.networks.vision --data FOLDER [--networks mlpnet resnet20] [--methods ...] [--structures ...]

FOLDER holds ``mnist/`` and ``cifar10/``, each with one ``.safetensors`` file (the trained weights, under the names used
below), ``train*.npz`` (calibration) and ``test*.npz`` (evaluation) with arrays ``images`` (uint8) and ``labels``.
Results are stored one by one; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from mipprune.bench.families.trained import NETWORKS, MLPNet, ResNet20
from mipprune.cli.options import SOLVERS, parse_structure, solver_of
from mipprune.errors import InvalidProblem
from mipprune.networks import Report, accuracy, load, prunable, prune

DAMPING = 0.01
_BATCH = 250


@dataclass(frozen=True)
class Family:
    """One network with its data and the structures that are compared on it.

    Parameters
    ----------
    title : str
        One line for people.
    folder : str
        Where its files are under ``--data``.
    build : callable
        Returns the untrained network.
    mean, deviation : tuple of float
        Of the pixels in [0, 1], per channel.
    structures, methods : tuple of str
        What is compared.
    calibration : int
        Training images, from the first.
    skip : tuple of str
        Layers that stay dense.
    """

    title: str
    folder: str
    build: Callable[[], nn.Module]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    structures: tuple[str, ...]
    methods: tuple[str, ...]
    calibration: int
    skip: tuple[str, ...]


FAMILIES = {
    "mlpnet": Family(
        "MLPNet 784-40-20-10 on MNIST, one-shot pruning, test accuracy",
        "mnist",
        MLPNet,
        NETWORKS["mnist"].mean,
        NETWORKS["mnist"].deviation,
        ("unstructured:0.5", "unstructured:0.7", "unstructured:0.8", "unstructured:0.9", "unstructured:0.95", "2:4"),
        ("magnitude", "wanda", "sparsegpt", "alps", "alps+swap", "obc"),
        2000,
        (),
    ),
    "resnet20": Family(
        "ResNet-20 on CIFAR-10, one-shot pruning, test accuracy",
        "cifar10",
        ResNet20,
        NETWORKS["cifar10"].mean,
        NETWORKS["cifar10"].deviation,
        ("unstructured:0.5", "unstructured:0.7", "unstructured:0.8", "unstructured:0.9", "2:4", "4:8"),
        ("magnitude", "wanda", "sparsegpt", "alps", "obc"),
        500,
        ("conv1", "linear"),
    ),
}
COLUMNS = (
    ("structure", "structure", ""),
    ("method", "method", ""),
    ("accuracy", "accuracy", ".2%"),
    ("accuracy_recalibrated", "accuracy, batch norm recalibrated", ".2%"),
    ("mean_relative_error", "mean layer error", ".4f"),
    ("density", "density", ".3f"),
    ("solve_seconds", "solve s", ".2f"),
    ("seconds", "all s", ".1f"),
)
NOTES = (
    "Every layer has the same sparsity; layers are pruned in order, each on the activations of the network as pruned "
    "so far; nothing is trained. Wanda compares within rows, the other methods within layers.",
    "Layer error: squared error of the written weights on the calibration inputs the layer saw, relative to its dense "
    "outputs on the same inputs, undamped; the mean is over layers. `solve s` is the sum over layers, `all s` includes "
    "calibration. Times come from a machine shared with other work, and first runs compile kernels: "
    "read them as orders of magnitude.",
    "Recalibrated: means and variances of the batch norm layers re-estimated on the calibration images after pruning; "
    "with so few images that alone costs the dense network some points. N:M densities are below n/m where inputs are "
    "zero on all calibration images: their weights are pruned too.",
)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.networks.vision", description=__doc__.split("\n")[0])
    found.add_argument("--data", type=Path, required=True, help="folder with mnist/ and cifar10/")
    found.add_argument("--networks", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    found.add_argument("--methods", nargs="+", choices=SOLVERS, help="default: all of the table")
    found.add_argument("--structures", nargs="+", help="2:4, unstructured:0.9, ...; default: see the table")
    found.add_argument("--samples", type=int, help="calibration images; default 2000 for MNIST, 500 for CIFAR-10")
    found.add_argument("--evaluation", type=int, help="test images; default all")
    found.add_argument("--threads", type=int, help="threads of torch")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    return found


def main(arguments: Sequence[str] | None = None) -> list[Record]:
    """Run what is missing in the records and return them."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return [_run(name, options) for name in options.networks]


def _run(name: str, options: argparse.Namespace) -> Record:
    family, path = FAMILIES[name], options.out / f"{name}.json"
    folder = options.data / family.folder
    weights = _one(folder, "*.safetensors")
    model = load(family.build(), weights=weights).model.eval()
    train = images(_one(folder, "train*.npz"), family, options.samples or family.calibration)
    test = images(_one(folder, "test*.npz"), family, options.evaluation)
    record = Record.open(path, _fresh(name, family, options, weights, model, train, test))
    dense = copy.deepcopy(model.state_dict())
    if not record.has(method="dense"):
        record.add(path, {"structure": "dense", "method": "dense", **_scores(model, train, test)})
        say(f"{name} dense: accuracy {record.results[-1]['accuracy']:.2%}")
    for structure in options.structures or family.structures:
        for method in options.methods or family.methods:
            if record.has(method=method, structure=structure):
                continue
            model.load_state_dict(dense)
            chosen = parse_structure(structure)
            batches = [x for x, _ in train]
            report = prune(model, batches, chosen, solver_of(method), damping=DAMPING, skip=family.skip)
            result = {"structure": structure, "method": method, **summary(report), **_scores(model, train, test)}
            record.add(path, result)
            say(f"{name} {method} {structure}: accuracy {result['accuracy']:.2%}, {result['seconds']:.1f} s")
    return record


def _one(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise Unavailable(f"the folder given with --data has no {folder.name}/{pattern}")
    return found[0]


def images(path: Path, family: Family, count: int | None) -> list[tuple[Tensor, Tensor]]:
    """Read the first images of a file.

    Parameters
    ----------
    path : Path
        With ``images`` (count, height, width[, channels]) uint8 and ``labels`` (count,).
    family : Family
        How to normalise them.
    count : int, optional
        How many; default all.

    Returns
    -------
    list of (Tensor, Tensor)
        Batches of images (batch, channels, height, width) and labels (batch,).
    """
    with np.load(path) as stored:
        pixels = torch.from_numpy(stored["images"][:count]).float() / 255
        labels = torch.from_numpy(stored["labels"][:count]).long()
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    mean, deviation = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (family.mean, family.deviation))
    normalised = ((pixels - mean) / deviation).contiguous()
    return list(zip(normalised.split(_BATCH), labels.split(_BATCH)))


def _fresh(
    name: str, family: Family, options: Any, weights: Path, model: nn.Module, train: list[Any], test: list[Any]
) -> Record:
    layers = prunable(model, skip=family.skip)
    counts = [sum(len(labels) for _, labels in part) for part in (train, test)]
    instance = {
        "network": name,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "pruned_layers": len(layers),
        "pruned_weights": sum(layer.shape[0] * layer.shape[1] for layer in layers),
        "dense_layers": list(family.skip),
        "calibration": f"the first {counts[0]} training images",
        "evaluation": f"the first {counts[1]} test images",
        "damping": DAMPING,
    }
    given = {"data": "DATA", "networks": name, "samples": options.samples, "evaluation": options.evaluation}
    columns = COLUMNS if _norms(model) else [column for column in COLUMNS if column[0] != "accuracy_recalibrated"]
    notes = NOTES if _norms(model) else NOTES[:-1]
    return Record(name, family.title, instance, columns, command("benchmarks.networks.vision", given), notes)


def summary(report: Report) -> dict[str, Any]:
    """Return errors and times of a report."""
    return {
        "solver": report.solver,
        "density": rounded(report.density),
        "mean_relative_error": rounded(sum(row.undamped_error for row in report.rows) / len(report.rows)),
        "relative_errors": {row.layer: rounded(row.undamped_error, 4) for row in report.rows},
        "solve_seconds": rounded(sum(row.seconds for row in report.rows), 4),
        "seconds": rounded(report.seconds, 4),
    }


def _scores(model: nn.Module, train: list[tuple[Tensor, Tensor]], test: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    started = time.perf_counter()
    found = {"accuracy": accuracy(model, test)}
    if _norms(model):
        recalibrate(model, [x for x, _ in train])
        found["accuracy_recalibrated"] = accuracy(model, test)
    return {**found, "evaluation_seconds": rounded(time.perf_counter() - started, 4)}


def _norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def recalibrate(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Re-estimate the statistics of all batch norm layers in place, as means over the batches."""
    for norm in _norms(model):
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
        norm.train()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    model.eval()


def quick(data: Path | None, out: Path) -> list[Record]:
    """Run a small version: MLPNet, few methods; see `benchmarks.run_all`."""
    if data is None or not (data / "mnist").is_dir():
        raise Unavailable("needs the trained MLPNet and MNIST: --data FOLDER with mnist/")
    few = ["--structures", "unstructured:0.9", "2:4", "--samples", "500", "--evaluation", "2000"]
    few += ["--methods", "magnitude", "wanda", "sparsegpt", "alps"]
    return main(["--data", str(data), "--networks", "mlpnet", "--out", str(out), *few])


if __name__ == "__main__":
    try:
        main()
    except (Unavailable, InvalidProblem, ValueError) as problem:
        raise SystemExit(f"vision: {problem}") from problem
