"""Whole networks pruned within budgets on non-zeros and FLOPs: certified gaps, and test accuracy against both budgets.

    python -m benchmarks.flop_selection.network --data FOLDER [--part gaps accuracy mnist] [--kept 0.4 ...]

FOLDER is that of `benchmarks.networks.vision`: ``cifar10/`` (ResNet-20) and ``mnist/`` (MLPNet), each with trained
weights, ``train*.npz`` for gradients and ``test*.npz`` for evaluation. Results are stored one by one; the same command
goes on where it stopped. The accuracy of ResNet-20 is also drawn, as an SVG file beside its record.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mipprune as mp
from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from benchmarks.flop_selection.plot import Curve, line_plot
from benchmarks.networks.vision import FAMILIES, images, recalibrate
from mipprune.errors import InvalidProblem
from mipprune.networks import accuracy, load, prune_to_budgets, pruning_problem

SAMPLES, RIDGE, STAGES = 256, 1e-3, 5
MODULE = "benchmarks.flop_selection.network"


@dataclass(frozen=True)
class Method:
    """How a network is pruned.

    Parameters
    ----------
    name : str
    solver : mp.Solver
    flops : bool
        The budget holds for the FLOPs too.
    stages : int
    """

    name: str
    solver: Any
    flops: bool
    stages: int = 1


METHODS = {
    "cifar10": (
        Method("magnitude", mp.Saliency("magnitude", refit=False), False),
        Method("magnitude, both budgets", mp.Saliency("magnitude", refit=False), True),
        Method("CHITA", mp.DualBundle(), False),
        Method("FALCON", mp.DualBundle(), True),
        Method("CHITA++", mp.DualBundle(), False, STAGES),
        Method("FALCON++", mp.DualBundle(), True, STAGES),
    ),
    "mnist": (
        Method("magnitude", mp.Saliency("magnitude", refit=False), False),
        Method("CHITA", mp.DualBundle(), False),
        Method("CHITA++", mp.DualBundle(), False, STAGES),
    ),
}
KEPT = {"gaps": (0.4, 0.2, 0.1), "accuracy": (0.5, 0.4, 0.3, 0.2, 0.1), "mnist": (0.2, 0.1, 0.05, 0.02)}
SOLVERS = (
    mp.Saliency("magnitude", refit=False),
    mp.Saliency("magnitude"),
    mp.Saliency("fisher"),
    mp.Saliency("surgeon"),
    mp.DiscreteFirstOrder(iterations=15),
    mp.DualBundle(),
)
GAP_COLUMNS = (
    ("kept", "weights and FLOPs kept", ""),
    ("method", "method", ""),
    ("value", "value", ".8g"),
    ("bound", "certified bound", ".8g"),
    ("gap", "certified gap", ".1e"),
    ("iterations", "iterations", ""),
    ("seconds", "s", ".1f"),
    ("cpu_seconds", "processor s", ".1f"),
    ("check_seconds", "check, processor s", ".1f"),
)
GAP_NOTES = (
    "The value is the low-rank quadratic model of the loss: 256 gradients of single training images at the dense "
    "weights, with their labels, and the ridge. The bound of every row is that of DualBundle's certificate at the same "
    "budgets, evaluated in float64 and re-checked; the gap of a row is between its own value and that bound.",
    "Seconds are the solver's whole run from the problem to the assessed solution, the certificate and the digest of "
    "the data included, gradients not. The machine was busy with other work, which got three quarters of it: processor "
    "seconds (of all threads) are what an idle one would roughly need.",
)
ACCURACY_COLUMNS = (
    ("kept", "kept", ""),
    ("method", "method", ""),
    ("accuracy", "accuracy", ".2%"),
    ("accuracy_recalibrated", "accuracy, batch norm recalibrated", ".2%"),
    ("density", "weights kept", ".4f"),
    ("flops_kept", "FLOPs kept", ".4f"),
    ("gap", "certified gap", ".1e"),
    ("stages", "stages", ""),
    ("seconds", "s", ".0f"),
)
ACCURACY_NOTES = (
    "Nothing is trained. 'magnitude' and CHITA have a budget on the weights alone, the others the same share of the "
    "weights and of the FLOPs; ++ takes gradients again at each of its stages. All convolutions and the classifier "
    "compete for the budgets; biases and norms stay. The gap is that of the last stage's problem.",
    "Gradients are those of single training images with their labels. Statistics of batch norm stay those of the dense "
    "network while gradients are taken and pruning goes on; 'recalibrated' estimates them again on the training images "
    "at hand, after pruning.",
    "Times come from a machine shared with other work: read them as orders of magnitude.",
)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.split("\n")[0])
    found.add_argument("--data", type=Path, required=True, help="folder with mnist/ and cifar10/")
    found.add_argument("--part", nargs="+", default=list(KEPT), choices=list(KEPT))
    found.add_argument("--kept", nargs="+", type=float, help="shares kept; default: those of the tables")
    found.add_argument("--methods", nargs="+", help="names of the tables; default all")
    found.add_argument("--samples", type=int, default=SAMPLES, help="gradients")
    found.add_argument("--ridge", type=float, default=RIDGE)
    found.add_argument("--evaluation", type=int, help="test images; default all")
    found.add_argument("--threads", type=int, help="threads of torch")
    found.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    return found


def main(arguments: Sequence[str] | None = None) -> list[Record]:
    """Run what is missing in the records and return them."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    parts = {"gaps": gaps, "accuracy": accuracies, "mnist": accuracies}
    return [parts[part](part, options) for part in options.part]


def _network(name: str, options: argparse.Namespace) -> tuple[nn.Module, list[Any], list[Any], str]:
    """The trained network, training and test batches, and the digest of its weights."""
    family = FAMILIES[name]
    folder = options.data / family.folder
    files = [sorted(folder.glob(pattern)) for pattern in ("*.safetensors", "train*.npz", "test*.npz")]
    if not all(files):
        raise Unavailable(f"the folder given with --data has no complete {family.folder}/")
    weights, train, test = (found[0] for found in files)
    model = load(family.build(), weights=weights).model.eval()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return model, images(train, family, 1000), images(test, family, options.evaluation), digest


def _instance(part: str, options: argparse.Namespace, digest: str, size: int) -> dict[str, Any]:
    return {
        "network": "MLPNet on MNIST" if part == "mnist" else "ResNet-20 on CIFAR-10",
        "weights_sha256": digest,
        "pruned_weights": size,
        "gradients": f"{options.samples} training images, from the first",
        "ridge": options.ridge,
    }


def gaps(part: str, options: argparse.Namespace) -> Record:
    """Values, certified gaps and times of all methods on one problem for each budget."""
    model, train, _, digest = _network("resnet20", options)
    started, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)  # single images are too small to share
    problem, weights = pruning_problem(model, train, nnz=1.0, flops=1.0, samples=options.samples, ridge=options.ridge)
    torch.set_num_threads(threads)
    say(f"gradients: {time.perf_counter() - started:.1f} s")
    loss = problem.loss
    assert isinstance(loss, mp.LowRank)
    costs = problem.structure.supports.costs[1].tolist()  # type: ignore[attr-defined]
    given = {"data": "DATA", "part": part, "samples": options.samples, "threads": options.threads}
    record = Record(
        "network_gaps",
        "ResNet-20 within budgets on non-zeros and FLOPs: values and certified gaps",
        _instance(part, options, digest, weights.size),
        GAP_COLUMNS,
        command(MODULE, given),
        GAP_NOTES,
    )
    path = options.out / "network_gaps.json"
    record = Record.open(path, record)
    torch.zeros(1).sort()  # starts torch's threads
    mp.DualBundle(iterations=2).solve(_small())  # compiles the kernels
    for kept in options.kept or KEPT[part]:
        layers = weights.vector().split(list(weights.sizes))
        budgets = mp.formulations.network_pruning(
            list(layers), loss.gradients, nnz=kept, flops=kept, costs=costs, ridge=options.ridge
        )
        best: float | None = None
        for solver in reversed(SOLVERS):
            stored = [row for row in record.results if row["kept"] == kept and row["method"] == solver.name]
            if stored:
                best = stored[0]["bound"] if isinstance(solver, mp.DualBundle) else best
                continue
            if options.methods and solver.name not in options.methods:
                continue
            fresh = mp.Problem(budgets.loss, budgets.structure, budgets.name)
            started, busy = time.perf_counter(), time.process_time()
            solution = solver.solve(fresh, budget=mp.Budget(gap=1e-6))
            seconds, busy = time.perf_counter() - started, time.process_time() - busy
            started = time.process_time()
            checked = mp.check(fresh, solution)
            row = {
                "kept": kept,
                "method": solver.name,
                "value": solution.value,
                "iterations": solution.stats.iterations,
            }
            best = checked.bound if checked.bound is not None else best
            gap = None if best is None else (solution.value - best) / solution.value
            row |= {"bound": best, "gap": gap, "seconds": rounded(seconds, 4), "cpu_seconds": rounded(busy, 4)}
            row["check_seconds"] = None if checked.bound is None else rounded(time.process_time() - started, 4)
            record.add(path, row)
            say(f"{kept} {solver.name}: {solution.value:.8g}, gap {gap}, {seconds:.1f} s")
    return record


def _small() -> mp.Problem:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(300, generator=generator), torch.randn(200, generator=generator)]
    rows = torch.randn(8, 500, generator=generator)
    return mp.formulations.network_pruning(weights, rows, nnz=0.3, flops=0.3, costs=[4, 1], ridge=0.1)


def accuracies(part: str, options: argparse.Namespace) -> Record:
    """Test accuracy of the methods at several budgets."""
    name, title = ("mlpnet", "MLPNet on MNIST") if part == "mnist" else ("resnet20", "ResNet-20 on CIFAR-10")
    model, train, test, digest = _network(name, options)
    dense = copy.deepcopy(model.state_dict())
    methods = METHODS["mnist" if part == "mnist" else "cifar10"]
    size = mp.networks.FlatWeights.of(model).size
    norms = name == "resnet20"
    given = {"data": "DATA", "part": part, "samples": options.samples, "ridge": options.ridge}
    record = Record(
        f"network_{part}",
        f"{title} pruned within global budgets, no training: test accuracy",
        {**_instance(part, options, digest, size), "evaluation": f"{sum(len(y) for _, y in test)} test images"},
        [column for column in ACCURACY_COLUMNS if norms or column[0] not in ("accuracy_recalibrated", "flops_kept")],
        command(MODULE, given),
        ACCURACY_NOTES if norms else (ACCURACY_NOTES[0], ACCURACY_NOTES[2]),
    )
    path = options.out / f"network_{part}.json"
    record = Record.open(path, record)
    if not record.has(method="dense"):
        record.add(path, {"kept": 1.0, "method": "dense", **_scores(model, train, test, norms)})
    for method in methods:
        for kept in options.kept or KEPT[part]:
            if record.has(method=method.name, kept=kept) or (options.methods and method.name not in options.methods):
                continue
            model.load_state_dict(dense)
            started = time.perf_counter()
            report = prune_to_budgets(
                model,
                train,
                nnz=kept,
                flops=kept if method.flops else None,
                costs=mp.networks.weight_macs(model, train[0][0][:1]),
                solver=method.solver,
                stages=method.stages,
                samples=1 if method.name.startswith("magnitude") else options.samples,
                ridge=options.ridge,
            )
            row = {
                "kept": kept,
                "method": method.name,
                "density": rounded(report.density),
                "flops_kept": rounded(report.flops_kept or 0.0),
                "gap": None if report.gap is None else rounded(report.gap, 3),
                "stages": method.stages,
                "seconds": rounded(time.perf_counter() - started, 4),
            }
            record.add(path, {**row, **_scores(model, train, test, norms)})
            say(f"{name} {method.name} {kept}: {record.results[-1]['accuracy']:.2%}, {row['seconds']:.0f} s")
    if norms:
        (options.out / "network_accuracy.svg").write_text(drawing(record))
    return record


def _scores(model: nn.Module, train: list[Any], test: list[Any], norms: bool) -> dict[str, Any]:
    found = {"accuracy": accuracy(model, test)}
    if norms:
        recalibrate(model, [x for x, _ in train])
        found["accuracy_recalibrated"] = accuracy(model, test)
    return found


def drawing(record: Record) -> str:
    """Return the accuracy of every method against the weights and against the FLOPs it kept, as SVG."""
    names = list(dict.fromkeys(row["method"] for row in record.results if row["method"] != "dense"))
    panels = []
    for key, label in (("density", "weights kept"), ("flops_kept", "FLOPs kept")):
        curves = []
        for name in names:
            rows = sorted((row for row in record.results if row["method"] == name), key=lambda row: float(row[key]))
            points = [(float(row[key]), 100 * float(row["accuracy_recalibrated"])) for row in rows]
            curves.append(Curve(name, points))
        panels.append((label, curves))
    return line_plot(panels, "test accuracy, %, batch norm recalibrated", record.title)


def quick(data: Path | None, out: Path) -> list[Record]:
    """Run a small version: MLPNet at two budgets, few gradients; see `benchmarks.run_all`."""
    if data is None or not (data / "mnist").is_dir():
        raise Unavailable("needs the trained MLPNet and MNIST: --data FOLDER with mnist/")
    few = ["--kept", "0.2", "0.05", "--samples", "64", "--evaluation", "2000", "--methods", "magnitude", "CHITA"]
    return main(["--data", str(data), "--part", "mnist", "--out", str(out), *few])


if __name__ == "__main__":
    try:
        main()
    except (Unavailable, InvalidProblem, ValueError) as problem:
        raise SystemExit(f"network: {problem}") from problem
