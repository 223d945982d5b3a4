"""Sparse regression with a million columns, used as they are stored, to a root bound or beyond.

    python -m benchmarks.sparse_regression.million --kind sparse
    python -m benchmarks.sparse_regression.million --kind mapped --folder FOLDER

Three kinds of columns: "sparse" has word counts (1 + Poisson) in about 1 % of the places; "genotypes" has 0, 1, 2 in 8
bits; "mapped" has correlated normal numbers in float32 in a file of 4 GB that is mapped into memory. The response is
the sum of some standardised columns, with noise. Price and box come from the true support as in the L0BnB experiments:
the price is between what the weakest true column is worth and what any other adds.
"""

from __future__ import annotations

import argparse
import gc
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mipprune as mp
from benchmarks.common import RESULTS, Record, command, rounded, say
from mipprune.formulations import RegressionData

KINDS = ("sparse", "genotypes", "mapped")
SNR = 10.0
_COLUMNS = (
    ("kind", "columns are", "s"),
    ("columns", "columns", "d"),
    ("samples", "samples", "d"),
    ("support", "true columns", "d"),
    ("l2", "l2", "g"),
    ("value", "value", ".8g"),
    ("gap", "checked gap", ".3g"),
    ("found", "true columns found", "d"),
    ("kept", "columns kept", "d"),
    ("limit", "nodes at most", "d"),
    ("nodes", "nodes", "d"),
    ("build_seconds", "build, seconds", ".3g"),
    ("seconds", "seconds", ".3g"),
    ("check_seconds", "check, seconds", ".3g"),
    ("data_memory", "data, GB", ".2g"),
    ("memory", "memory of the process, GB", ".2g"),
)
Array = np.ndarray[Any, Any]


def word_counts(n: int, p: int, generator: np.random.Generator, support: Array) -> Any:
    """Return a sparse matrix with about 1 % of its places filled; the true columns at least 2 %."""
    from scipy.sparse import csc_array

    count = np.maximum(generator.binomial(n, 0.01, p), 1)
    count[support] = np.maximum(count[support], -(-n // 50))
    start = np.concatenate([[0], np.cumsum(count)])
    rows = generator.integers(0, n, start[-1], dtype=np.int32)
    made = csc_array((1.0 + generator.poisson(0.5, start[-1]), rows, start), shape=(n, p))
    made.sum_duplicates()  # a word that was drawn twice counts for both
    return made


def genotypes(n: int, p: int, generator: np.random.Generator) -> Array:
    """Return counts of an allele whose frequency lies between 5 and 50 %, columns contiguous."""
    made = np.empty((p, n), dtype=np.int8)
    for first in range(0, p, 10_000):
        part = made[first : first + 10_000]
        frequency = generator.uniform(0.05, 0.5, (len(part), 1)).astype(np.float32)
        part[:] = generator.random(part.shape, dtype=np.float32) < frequency
        part += generator.random(part.shape, dtype=np.float32) < frequency
    return made.T


def mapped(n: int, p: int, generator: np.random.Generator, file: Path) -> Array:
    """Write normal numbers with correlation 0.1 to a file and return it mapped for reading, columns contiguous."""
    common = np.float32(np.sqrt(0.1 / 0.9)) * generator.standard_normal(n, dtype=np.float32)
    with file.open("wb") as out:
        for first in range(0, p, 10_000):
            part = generator.standard_normal((min(10_000, p - first), n), dtype=np.float32)
            out.write((part + common).tobytes())
    return np.memmap(file, dtype=np.float32, mode="r", shape=(n, p), order="F")


def problem_on(X: Any, support: Array, l2: float, generator: np.random.Generator) -> mp.Problem:
    """Return the problem whose truth is a support."""
    n, chosen = X.shape[0], torch.from_numpy(support)
    first = RegressionData.of(X, np.zeros(n))
    signal = first.design[:, chosen].sum(dim=1).numpy()
    y = signal + generator.standard_normal(n) * signal.std() / np.sqrt(SNR)
    length = float(np.linalg.norm(y - y.mean()))
    response = torch.from_numpy((y - y.mean()) / length)
    data = replace(first, response=response, response_center=float(y.mean()), response_scale=length)
    matrix = mp.LeastSquares(data.design, response).matrix
    true = matrix[:, chosen]
    inverse = torch.linalg.inv(true.mT @ true + 2 * l2 * torch.eye(len(support), dtype=torch.float64))
    weights = inverse @ (true.mT @ response)
    worth = float((weights.square() / (2 * inverse.diagonal())).min())
    cross = matrix.gram_rows(chosen)
    schur = 1 + 2 * l2 - (cross * (inverse @ cross)).sum(dim=0)
    adds = ((response - true @ weights) @ matrix).square() / (2 * schur)
    adds[chosen] = 0.0
    price = float(np.sqrt(worth * float(adds.max())))
    return data.problem(l0=price, l2=l2, box=1.5 * float(weights.abs().max()))


def forget_peak() -> None:
    """Let :func:`peak` count from now on."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Return the largest memory that this process had, in GB; mapped pages count."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return float("nan") if found is None else int(found[1]) / 1e6


def run(options: argparse.Namespace, out: Path) -> Path:
    """Run one size."""
    path = out / "sparse_regression_million.json"
    record = Record.open(
        path,
        Record(
            name="sparse_regression.million",
            title="Sparse regression with a million columns, as they are stored",
            instance={"snr": SNR, "density": 0.01, "correlation": 0.1},
            columns=_COLUMNS,
            command=command("benchmarks.sparse_regression.million", {"kind": "K", "l2": "L", "nodes": "N"}),
            notes=(
                "One node means local search from several starts, and the root's tangent as a checked bound (a second"
                " one may follow from it). A search ends at a gap of 1 %. Building includes centring and scaling,"
                " solving the digest of the data. The memory is the largest of the process once the data are there,"
                " pages of a mapped file included; a dense copy in float64 would take 8 GB.",
            ),
        ),
    )
    keys = {"kind": options.kind, "columns": options.columns, "samples": options.samples, "l2": options.l2}
    keys |= {"support": options.support, "seed": options.seed, "limit": options.nodes}
    if record.has(**keys):
        return path
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = {**keys, **measure(options, Path(folder))}
    record.add(path, result)
    say(str(result))
    return path


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the data, solve and check."""
    n, p, k = options.samples, options.columns, options.support
    generator, support = np.random.default_rng(options.seed), np.arange(k) * (p // k)
    if options.kind == "sparse":
        X: Any = word_counts(n, p, generator, support)
        size = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    else:
        X = genotypes(n, p, generator) if options.kind == "genotypes" else mapped(n, p, generator, folder / "x.bin")
        size = X.nbytes
    gc.collect()
    forget_peak()
    started = time.perf_counter()
    problem = problem_on(X, support, options.l2, generator)
    ready = time.perf_counter()
    del X
    gc.collect()
    solution = mp.BranchAndBound().solve(problem, budget=mp.Budget(gap=0.01, nodes=options.nodes))
    ended = time.perf_counter()
    checked = mp.check(problem, solution)
    assert solution.mask is not None
    return {
        "value": checked.value,
        "gap": rounded(checked.gap or 0.0),
        "found": int(solution.mask[torch.from_numpy(support)].sum()),
        "kept": int(solution.mask.sum()),
        "nodes": solution.stats.nodes,
        "build_seconds": rounded(ready - started),
        "seconds": rounded(ended - ready),
        "check_seconds": rounded(time.perf_counter() - ended),
        "data_memory": rounded(size / 1e9, 3),
        "memory": rounded(peak(), 3),
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.sparse_regression.million")
    made.add_argument("--kind", choices=KINDS, default="sparse")
    made.add_argument("--samples", type=int, default=1000)
    made.add_argument("--columns", type=int, default=1_000_000)
    made.add_argument("--support", type=int, default=20)
    made.add_argument("--l2", type=float, default=0.1)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--nodes", type=int, default=1)
    made.add_argument("--folder", type=Path, help="where the mapped file goes for the time of the run")
    made.add_argument("--out", type=Path, default=RESULTS)
    return made


def quick(data: Path | None, out: Path) -> None:
    """Run smaller sizes."""
    for kind in KINDS:
        run(parser().parse_args(["--kind", kind, "--samples", "200", "--columns", "5000", "--support", "5"]), out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    options = parser().parse_args(arguments)
    run(options, options.out)


if __name__ == "__main__":
    main()
