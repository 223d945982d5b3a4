"""Widths of channels within a FLOP budget: a VGG-like chain against HiGHS, and ResNet-20 on CIFAR-10 made smaller.

    python -m benchmarks.flop_selection.channels [--data FOLDER] [--seconds 40] [--parts chain resnet20] [--out FOLDER]

FOLDER holds ``cifar10/`` with one ``.safetensors`` file (ResNet-20), ``train*.npz`` and ``test*.npz``, see
`benchmarks.networks.vision`. Results are stored one by one; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import mipprune as mp
from benchmarks.common import RESULTS, Record, Unavailable, command, rounded, say
from benchmarks.networks.vision import FAMILIES, _one, images, recalibrate
from mipprune.errors import InvalidProblem
from mipprune.formulations.channels import CoupledLayer, channel_widths
from mipprune.kernels.choice import minimise_dual
from mipprune.networks import accuracy, load
from mipprune.networks.channels import ChannelGraph, channel_graph, prune_channels, shrink

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512)
SIDES = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4)
SHARE = 0.3


def chain(multiple: int) -> mp.Problem:
    """Return the chain: ten 3x3 convolutions from 3 channels to 10 classes, Gamma(1) scores divided by sqrt(width)."""
    rng = np.random.default_rng(0)
    scores = [rng.gamma(1.0, 1.0, width) / np.sqrt(width) for width in WIDTHS]
    layers = [CoupledLayer((9.0 * SIDES[0] ** 2,), {}, {0: 1}, fixed_inputs=3)]
    layers += [CoupledLayer((9.0 * SIDES[u] ** 2,), {u - 1: 1}, {u: 1}) for u in range(1, len(WIDTHS))]
    layers.append(CoupledLayer((1.0,), {len(WIDTHS) - 1: 1}, {}, fixed_outputs=10))
    return channel_widths(scores, layers, np.floor(SHARE * dense_macs()), multiple=multiple)


def dense_macs() -> float:
    """Return the multiply-adds of the dense chain."""
    before = (3, *WIDTHS)
    return float(sum(9 * side**2 * a * b for side, a, b in zip(SIDES, before, WIDTHS)) + 10 * WIDTHS[-1])


CHAIN_COLUMNS = (
    ("multiple", "widths are multiples of", ""),
    ("options", "options", ""),
    ("method", "method", ""),
    ("value", "score given up", ".6f"),
    ("bound", "lower bound", ".6f"),
    ("proof", "proof", ""),
    ("gap", "gap", ".1e"),
    ("dual_gap", "gap of the multiplier alone", ".1e"),
    ("seconds", "s", ".2f"),
    ("check_seconds", "check s", ".2f"),
)
CHAIN_NOTES = (
    "A layer costs the product of its widths. The gap of the multiplier alone is what the penalised dynamic program "
    "leaves; the search over partial choices closes it, and `check s` is its repetition by `mp.check`. HiGHS gets the "
    "mixed-integer program with a variable for each pair of options of neighbouring layers; its bound is its own word.",
)


def run_chain(multiple: int, method: str, seconds: float) -> dict[str, Any]:
    """Solve one chain."""
    problem = chain(multiple)
    before = time.perf_counter()
    if method == "mp.solve":
        mp.solve(chain(64))  # compiles
        before = time.perf_counter()
        solution = mp.solve(problem, budget=mp.Budget(gap=1e-9))
    else:
        solution = mp.solve(problem, mp.Highs(threads=1), budget=mp.Budget(gap=1e-9, seconds=seconds))
    spent = time.perf_counter() - before
    result = {"options": problem.size, "value": solution.value, "seconds": rounded(spent, 3)}
    if method == "mp.solve":
        checked = mp.check(problem, solution)
        family = problem.structure.supports  # type: ignore[attr-defined]
        model, _ = family._model(-problem.loss.cost.numpy(), np.ones(family.size, dtype=bool))  # type: ignore[attr-defined]
        dual = -float(model.bounds(minimise_dual(model).multipliers).min())
        return result | {
            "bound": checked.bound,
            "proof": solution.proof.value,
            "gap": rounded(checked.gap or 0.0, 3),
            "dual_gap": rounded((solution.value - dual) / solution.value, 3),
            "check_seconds": rounded(time.perf_counter() - before - spent, 3),
        }
    bound = None if solution.claim is None else solution.claim.bound
    gap = None if bound is None else rounded(max(solution.value - bound, 0.0) / solution.value, 3)
    return result | {"bound": bound, "proof": "none" if bound is None else "claimed", "gap": gap}


def chain_record(options: argparse.Namespace) -> Record:
    """Run what is missing of the chain."""
    path = options.out / "channels_chain.json"
    instance = {"widths": list(WIDTHS), "sides": list(SIDES), "share_of_flops": SHARE, "dense_macs": dense_macs()}
    instance |= {"seed": 0, "highs_seconds": options.seconds}
    given = {"parts": "chain", "seconds": options.seconds}
    made = command("benchmarks.flop_selection.channels", given)
    title = "Widths of a VGG-like chain of ten layers at 30 % of the FLOPs"
    record = Record.open(path, Record("channels_chain", title, instance, CHAIN_COLUMNS, made, CHAIN_NOTES))
    for multiple in options.multiples:
        for method in options.methods:
            if record.has(multiple=multiple, method=method):
                continue
            result = {"multiple": multiple, "method": method, **run_chain(multiple, method, options.seconds)}
            record.add(path, result)
            say(f"chain, {multiple}, {method}: {result['value']:.6f}, gap {result['gap']}, {result['seconds']} s")
    return record


# ------------------------------------------------------------------------------------------------ ResNet-20

NETWORK_COLUMNS = (
    ("share", "FLOPs allowed", ".0%"),
    ("scores", "scores", ""),
    ("choice", "widths", ""),
    ("flops_before", "FLOPs before", ","),
    ("flops_after", "FLOPs after", ","),
    ("parameters", "parameters", ","),
    ("given_up", "score given up", ".4g"),
    ("proof", "proof", ""),
    ("accuracy", "accuracy", ".2%"),
    ("accuracy_recalibrated", "accuracy, batch norm recalibrated", ".2%"),
    ("seconds", "s", ".1f"),
)
NETWORK_NOTES = (
    "Channels of all layers that are added, one after another through all three stages (shortcuts pad channels with "
    "zeros), are single decisions: 12 units. The smaller network is a real module with new shapes; FLOPs are counted "
    "by torch on both. Nothing is retrained, and no weight is corrected, which is why accuracy falls so fast; "
    "recalibrated: means and variances of batch norm layers re-estimated on the calibration images.",
    "`optimal`: the widths that give up the least score within the budget, proven; `uniform`: the same share of the "
    "channels in every unit, the largest that fits. Magnitude: a channel's share of the squared weights of the layers "
    "it goes through; Taylor: the squared first-order change of the loss when it vanishes (arXiv 1906.10771), mean "
    "over batches of 8 calibration images. Scores are sums over single channels; how well they predict the joint loss "
    "is what the accuracies show. Times come from a machine shared with other work.",
)


def uniform(graph: ChannelGraph, scores: list[Tensor], share: float) -> list[Tensor]:
    """Keep the same share of the best channels in every unit, the largest that fits."""
    limit = share * graph.macs()
    for step in range(1000, 0, -1):
        kept = []
        for score in scores:
            mask = torch.zeros(len(score), dtype=torch.bool)
            mask[score.argsort(descending=True, stable=True)[: max(1, int(len(score) * step / 1000))]] = True
            kept.append(mask)
        if graph.macs(kept) <= limit:
            return kept
    raise InvalidProblem(f"no uniform share of the channels meets {share}")


def network_record(options: argparse.Namespace) -> Record:
    """Run what is missing of ResNet-20."""
    if options.data is None or not (options.data / "cifar10").is_dir():
        raise Unavailable("needs the trained ResNet-20 and CIFAR-10: --data FOLDER with cifar10/")
    family, folder = FAMILIES["resnet20"], options.data / "cifar10"
    model = load(family.build(), weights=_one(folder, "*.safetensors")).model.eval()
    train = images(_one(folder, "train*.npz"), family, options.samples)
    test = images(_one(folder, "test*.npz"), family, options.evaluation)
    example = test[0][0][:1]
    graph = channel_graph(model, example)
    path = options.out / "channels_resnet20.json"
    instance = {
        "network": "resnet20",
        "units": [len(unit) for unit in graph.units],
        "calibration": f"the first {sum(len(y) for _, y in train)} training images",
        "evaluation": f"the first {sum(len(y) for _, y in test)} test images",
        "dense_accuracy": accuracy(model, test),
    }
    given = {"data": "DATA", "parts": "resnet20", "samples": options.samples, "evaluation": options.evaluation}
    made = command("benchmarks.flop_selection.channels", given)
    title = "ResNet-20 on CIFAR-10 with fewer channels, nothing retrained"
    record = Record.open(path, Record("channels_resnet20", title, instance, NETWORK_COLUMNS, made, NETWORK_NOTES))
    small = [(x, y) for images_, labels in train for x, y in zip(images_.split(8), labels.split(8))]
    scores = {
        "magnitude": graph.magnitude(),
        "Taylor": graph.taylor(lambda module, batch: functional.cross_entropy(module(batch[0]), batch[1]), small),
    }
    for share in options.shares:
        for name, worth in scores.items():
            for choice in ("optimal", "uniform"):
                if record.has(share=share, scores=name, choice=choice):
                    continue
                before = time.perf_counter()
                result: dict[str, Any] = {"share": share, "scores": name, "choice": choice}
                if choice == "optimal":
                    pruned = prune_channels(model, example, flops=share, scores=worth)
                    kept, module = list(pruned.kept), pruned.module
                    result |= {"proof": pruned.solution.proof.value, "gap": rounded(pruned.solution.gap or 0.0, 2)}
                else:
                    kept = uniform(graph, worth, share)
                    module = shrink(graph, kept)
                result["seconds"] = rounded(time.perf_counter() - before, 3)
                result |= {
                    "given_up": rounded(sum(float(s[~mask].sum()) for s, mask in zip(worth, kept))),
                    "widths": [int(mask.sum()) for mask in kept],
                    "flops_before": 2 * graph.macs(),
                    "flops_after": _counted(module, example),
                    "parameters": sum(p.numel() for p in module.parameters()),
                    "accuracy": accuracy(module, test),
                }
                assert _counted(graph.tracing.module, example) == result["flops_before"]
                recalibrate(module, [x for x, _ in train])
                result["accuracy_recalibrated"] = accuracy(module, test)
                record.add(path, result)
                say(f"{share}, {name}, {choice}: {result['accuracy']:.2%}, {result['accuracy_recalibrated']:.2%}")
    return record


def _counted(module: torch.nn.Module, example: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example)
    return int(counter.get_total_flops())


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.flop_selection.channels")
    made.add_argument("--data", type=Path, help="folder with cifar10/")
    made.add_argument("--parts", nargs="+", choices=["chain", "resnet20"], default=["chain", "resnet20"])
    made.add_argument("--seconds", type=float, default=40.0, help="limit for HiGHS")
    made.add_argument("--methods", nargs="+", choices=["mp.solve", "HiGHS"], default=["mp.solve", "HiGHS"])
    made.add_argument("--multiples", nargs="+", type=int, default=[32, 16, 8, 1])
    made.add_argument("--shares", nargs="+", type=float, default=[0.8, 0.7, 0.5, 0.3])
    made.add_argument("--samples", type=int, default=1000, help="calibration images")
    made.add_argument("--evaluation", type=int, help="test images; default all")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    return made


def main(arguments: Sequence[str] | None = None) -> list[Record]:
    """Run what is missing in the records and return them."""
    options = parser().parse_args(arguments)
    return [chain_record(options) if part == "chain" else network_record(options) for part in options.parts]


def quick(data: Path | None, out: Path) -> list[Record]:
    """Run the chain by the package's own search; see `benchmarks.run_all`."""
    return main(["--parts", "chain", "--methods", "mp.solve", "--out", str(out)])


if __name__ == "__main__":
    try:
        main()
    except (Unavailable, ValueError) as problem:
        raise SystemExit(f"channels: {problem}") from problem
