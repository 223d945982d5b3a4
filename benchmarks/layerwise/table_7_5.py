"""Errors of the heuristics on full-size synthetic layers, beside those of the authors' published codes.

    python -m benchmarks.layerwise.table_7_5 [--layers 768 1024] [--methods magnitude wanda ...] [--threads 1]

The layers and the published figures are those of ``tests/reference/layerwise_7_5.json``. Results are stored one by one;
the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune import ADMM, OBC, Cardinality, LocalSearch, Magnitude, NofM, PerRow, Solver, SparseGPT, Supports, Wanda
from mipprune.formulations import layerwise
from tests.layers import cached_layer, reference, relative_error, supports_of

METHODS: dict[str, Solver] = {
    "magnitude": Magnitude(),
    "wanda": Wanda(),
    "sparsegpt": SparseGPT(),
    "alps": ADMM(),
    "obc": OBC(),
    "local_search": LocalSearch(),
}
SLOW = ("obc", "local_search")


def fresh(layer: dict[str, Any]) -> Record:
    """Return the empty record of one layer."""
    d, m, n, seed = (layer[key] for key in ("d", "m", "n", "seed"))
    return Record(
        name="layerwise.table_7_5",
        title=f"One layer, {d} inputs and {m} outputs: relative error by method",
        instance={
            "layer": f"synthetic, tests.layers.make_layer({d}, {m}, {n}, {seed})",
            "damping": 0.01,
            "error": "tr(E X'X E')/tr(W X'X W'), on the undamped Gram matrix",
        },
        columns=(
            ("structure", "structure", ""),
            ("method", "method", ""),
            ("error", "error", ".6g"),
            ("published", "published", ".6g"),
            ("relative_to_published", "relative to published", "+.2%"),
            ("damped", "damped error", ".6g"),
            ("refitted", "same mask refitted, damped", ".6g"),
            ("kept", "kept", "d"),
            ("seconds", "seconds", ".2f"),
        ),
        command=command("benchmarks.layerwise.table_7_5", {"layers": d}),
        notes=(
            "Published: the authors' codes run on the same layer. Wanda keeps d - floor(d s) weights in each row, the "
            "published SparseGPT removes one weight more in each block than asked for. Methods without a published "
            "figure have none in the source. Seconds are wall-clock times on a machine that was doing other work too: "
            "see the speed benchmark for ratios.",
        ),
    )


def label(structure: dict[str, Any]) -> str:
    """Return how a table calls a structure."""
    if structure["type"] == "n_of_m":
        return f"{structure['n']}:{structure['m']}"
    return f"{100 * structure['sparsity']:.0f} % of the layer"


def family(structure: dict[str, Any], method: str, d: int, m: int) -> Supports:
    """Return the supports that a method is given: Wanda has its own count in each row."""
    if method == "wanda" and structure["type"] == "layer":
        return PerRow(d - int(d * structure["sparsity"]))
    return supports_of(structure, d, m)


def measure(layer: dict[str, Any], row: dict[str, Any], method: str) -> dict[str, Any]:
    """Run one method on one structure of one layer."""
    d, m = layer["d"], layer["m"]
    weight, gram = cached_layer(d, m, layer["n"], layer["seed"])
    problem = layerwise(weight, gram, family(row["structure"], method, d, m))
    assert problem.fingerprint  # computed once, before the clock starts
    solution = METHODS[method].solve(problem)
    assert solution.point is not None and solution.mask is not None
    error = relative_error(weight, solution.point, gram)
    dense = problem.value(torch.zeros(problem.shape))
    # An exact refit of a large layer takes longer than all methods together; it is done where there are figures for it.
    compared = "refitted_damped_error" in row
    refitted = problem.value(problem.refit(solution.point)) / dense if compared else None
    published = row["relative_error"].get(method)
    return {
        "structure": label(row["structure"]),
        "method": method,
        "error": rounded(error, 7),
        "published": published,
        "relative_to_published": None if published is None else rounded(error / published - 1, 3),
        "damped": rounded(solution.value / dense, 7),
        "refitted": None if refitted is None else rounded(refitted, 7),
        "published_refitted": row.get("refitted_damped_error", {}).get(method),
        "kept": int(solution.mask.sum()),
        "iterations": solution.stats.iterations,
        "stop": solution.stop.value,
        "seconds": rounded(solution.stats.seconds or 0.0, 3),
    }


def run(layers: Sequence[dict[str, Any]], methods: Sequence[str], out: Path, structures: Sequence[str] = ()) -> None:
    """Measure what is not yet recorded."""
    METHODS["alps"].solve(layerwise(*cached_layer(256, 256, 1024, 0), NofM(2, 4)))  # compile the kernels
    METHODS["alps"].solve(layerwise(*cached_layer(256, 256, 1024, 0), Cardinality(9000)))
    for layer in layers:
        path = out / f"layerwise_table_7_5_{layer['d']}x{layer['m']}.json"
        record = Record.open(path, fresh(layer))
        for row in layer["rows"]:
            for method in methods:
                here = label(row["structure"])
                if record.has(structure=here, method=method) or (structures and here not in structures):
                    continue
                result = measure(layer, row, method)
                record.add(path, result)
                record.results.sort(key=lambda result: place(layer, result))
                record.write(path)
                say(f"{layer['d']} {here:16s} {method:12s} {result['error']:.6g} ({result['seconds']:.2f} s)")


def place(layer: dict[str, Any], result: dict[str, Any]) -> tuple[int, int]:
    """Return where a result stands in the table."""
    structures = [label(row["structure"]) for row in layer["rows"]]
    return structures.index(result["structure"]), list(METHODS).index(result["method"])


def quick(data: Path | None, out: Path) -> None:
    """Run two structures of the smaller layer with the fast methods."""
    layers = reference("layerwise_7_5")["layers"][:1]
    run(layers, [name for name in METHODS if name not in SLOW], out, ["70 % of the layer", "2:4"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layerwise.table_7_5", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--layers", nargs="+", type=int, default=[768, 1024], help="numbers of inputs")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: all; slow ones only at 768")
    parser.add_argument("--structures", nargs="+", default=[], help="such as '70 %% of the layer' or 2:4; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for layer in reference("layerwise_7_5")["layers"]:
        if layer["d"] in options.layers:
            fast = [name for name in METHODS if name not in SLOW or layer["d"] <= 768]
            run([layer], options.methods or fast, options.out, options.structures)


if __name__ == "__main__":
    main()
