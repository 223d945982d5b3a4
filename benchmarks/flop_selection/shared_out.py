"""ResNet-20 on CIFAR-10 at one density of the whole network: the same in every layer, or shared out over layers.

    python -m benchmarks.flop_selection.shared_out --data FOLDER [--densities 0.3 0.2] [--solver alps]

FOLDER holds ``cifar10/``, see `benchmarks.networks.vision`. Results are stored one by one; the same command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mipprune as mp
from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from benchmarks.networks.vision import DAMPING, FAMILIES, _one, images, recalibrate
from mipprune.cli.options import SOLVERS, solver_of
from mipprune.networks import Allocation, accuracy, load, prunable, prune, weight_macs
from mipprune.networks.allocation import Allocated, allocate, share_out

COLUMNS = (
    ("density", "density", ".2f"),
    ("choice", "densities of layers", ""),
    ("error", "errors", ""),
    ("least", "smallest", ".2f"),
    ("largest", "largest", ".2f"),
    ("kept_weights", "weights kept", ".3f"),
    ("kept_flops", "FLOPs kept", ".3f"),
    ("table_error", "sum of relative errors in the tables", ".4f"),
    ("accuracy", "accuracy", ".2%"),
    ("accuracy_recalibrated", "accuracy, batch norm recalibrated", ".2%"),
)
NOTES = (
    "Tables: every layer pruned at 17 densities on the inputs of the dense network; errors are squared and relative to "
    "the dense outputs of the layer, or as they are. The choice of densities is proven best for its tables and its "
    "budget (weights kept, or FLOPs of the weights kept, of the layers that are pruned). Then the network is pruned "
    "layer by layer, each on the activations of the network as pruned so far; nothing is trained.",
    "The least sum of layer-wise errors is not the best accuracy: on this network, whose layers suffer alike, equal "
    "densities do as well, and sums of absolute errors mislead.",
)


def main(arguments: Sequence[str] | None = None) -> Record:
    """Run what is missing in the record and return it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flop_selection.shared_out")
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/")
    parser.add_argument("--densities", nargs="+", type=float, default=[0.3, 0.2])
    parser.add_argument("--solver", choices=SOLVERS, default="alps")
    parser.add_argument("--samples", type=int, default=500, help="calibration images")
    parser.add_argument("--evaluation", type=int, help="test images; default all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    options = parser.parse_args(arguments)
    if not (options.data / "cifar10").is_dir():
        raise Unavailable("needs the trained ResNet-20 and CIFAR-10: --data FOLDER with cifar10/")
    family, folder = FAMILIES["resnet20"], options.data / "cifar10"
    model = load(family.build(), weights=_one(folder, "*.safetensors")).model.eval()
    train = images(_one(folder, "train*.npz"), family, options.samples)
    test = images(_one(folder, "test*.npz"), family, options.evaluation)
    batches = [x for x, _ in train]
    dense, layers = copy.deepcopy(model.state_dict()), prunable(model, skip=family.skip)
    path = options.out / "allocation_resnet20.json"
    given = {"data": "DATA", "solver": options.solver, "samples": options.samples, "evaluation": options.evaluation}
    instance = {
        "network": "resnet20",
        "pruned_layers": len(layers),
        "pruned_weights": sum(layer.parameter.numel() for layer in layers),
        "solver": options.solver,
        "calibration": f"the first {sum(len(y) for _, y in train)} training images",
        "evaluation": f"the first {sum(len(y) for _, y in test)} test images",
        "dense_accuracy": accuracy(model, test),
    }
    title = "ResNet-20 on CIFAR-10: one density for all layers, or shared out over them"
    made = command("benchmarks.flop_selection.shared_out", given)
    record = Record.open(path, Record("allocation_resnet20", title, instance, COLUMNS, made, NOTES))
    solver, measured = solver_of(options.solver), None
    macs = {layer.name: weight_macs(model, batches[0])[f"{layer.name}.weight"] for layer in layers}
    for density in options.densities:
        for choice, error in (("equal", ""), ("weights", "relative"), ("weights", "absolute"), ("FLOPs", "relative")):
            if record.has(density=density, choice=choice, error=error):
                continue
            if measured is None:
                measured = allocate(model, batches, Allocation(nnz=0.5), solver, skip=family.skip, damping=DAMPING)
            shared = _shared(measured, density, choice, error)
            model.load_state_dict(dense)
            before = time.perf_counter()
            structure: Any = shared.structure if shared else _equal(density)
            report = prune(model, batches, structure, solver, damping=DAMPING, skip=family.skip)
            chosen = shared.densities if shared else {layer.name: density for layer in layers}
            kept = {row.layer: row.kept for row in report.rows}
            whole = {layer.name: layer.parameter.numel() for layer in layers}
            flops = [sum(counts.get(name, whole[name]) * macs[name] for name in whole) for counts in (kept, whole)]
            result: dict[str, Any] = {
                "density": density,
                "choice": choice,
                "error": error,
                "least": min(chosen.values()),
                "largest": max(chosen.values()),
                "kept_weights": rounded(sum(kept.get(n, whole[n]) for n in whole) / sum(whole.values())),
                "kept_flops": rounded(flops[0] / flops[1]),
                "table_error": rounded(_table_error(measured, chosen)),
                "densities": chosen,
                "seconds": rounded(time.perf_counter() - before, 3),
                "accuracy": accuracy(model, test),
            }
            recalibrate(model, batches)
            result["accuracy_recalibrated"] = accuracy(model, test)
            record.add(path, result)
            say(f"{density}, {choice} {error}: {result['accuracy']:.2%}, {result['accuracy_recalibrated']:.2%}")
    return record


def _equal(density: float) -> Any:
    return lambda name, shape: mp.Cardinality(round(density * shape[0] * shape[1]))


def _shared(measured: Allocated, density: float, choice: str, error: str) -> Allocated | None:
    if choice == "equal":
        return None
    budget = {"nnz": density} if choice == "weights" else {"flops": density}
    return share_out(measured.tables, Allocation(**budget, error=error))  # type: ignore[arg-type]


def _table_error(measured: Allocated, chosen: dict[str, float]) -> float:
    errors = {table.layer: dict(zip(table.densities, table.errors)) for table in measured.tables}
    scales = {table.layer: table.scale for table in measured.tables}
    return sum(errors[name][density] / scales[name] for name, density in chosen.items())


if __name__ == "__main__":
    try:
        main()
    except (Unavailable, ValueError) as problem:
        raise SystemExit(f"shared_out: {problem}") from problem
