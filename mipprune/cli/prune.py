"""`mipprune prune`: from a model and calibration data to a pruned model with its certificates and a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
import torch

from mipprune.cli.allocate import allocation_of, allocation_options
from mipprune.cli.budgets import asks_for_budgets, budget_options, prune_within_budgets
from mipprune.cli.console import progress_bar, show_table
from mipprune.cli.options import SOLVERS, debug_option, device_of, parse_structure, solver_of
from mipprune.core.solver import Budget
from mipprune.errors import InvalidProblem
from mipprune.io import write_atomically
from mipprune.networks import LayerRow, Loaded, Report, calibration_batches, load
from mipprune.networks import prune as prune_network
from mipprune.networks.budget_job import STATE_FILE

__all__ = ["prune"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@click.command()
@click.argument("model")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the pruned model and the report."
)
@click.option(
    "--structure",
    default="2:4",
    show_default=True,
    help="N:M, transposable:N:M, unstructured:S, per-row:S or groups:SIZE:S, S the share that is pruned.",
)
@allocation_options
@budget_options
@click.option("--calibration", help="File or folder of text or arrays; default: English text that comes with Python.")
@click.option("--solver", type=click.Choice(SOLVERS), default="alps", show_default=True)
@click.option("--certify/--no-certify", default=True, show_default=True, help="Search for a lower bound of each error.")
@click.option("--certify-seconds", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--samples", type=click.IntRange(1), default=128, show_default=True, help="Windows of text, or rows.")
@click.option("--length", type=click.IntRange(1), help="Tokens in a window; default 512, or what the model can take.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--damping", type=click.FloatRange(0), default=0.01, show_default=True, help="Share of the mean diagonal."
)
@click.option("--skip", multiple=True, metavar="PATTERN", help="Layers to leave alone; may be repeated.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Layers to prune although they would be left alone.")
@click.option(
    "--sequential/--no-sequential", default=True, show_default=True, help="Each layer sees the pruned ones before it."
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes for independent layers."
)
@click.option("--weights", type=click.Path(path_type=Path), help="Safetensors file for a 'module:factory' model.")
@click.option("--dtype", type=click.Choice(list(_DTYPES)), help="Load the model in this dtype; default: as stored.")
@click.option("--resume", is_flag=True, help="Go on with the job in --out.")
@debug_option
def prune(model: str, out: Path, resume: bool, **options: Any) -> None:
    """Prune MODEL: a Hugging Face folder, a .gguf file, an installed package with a model, or 'module:factory'."""
    whole = asks_for_budgets(options)
    allocation = allocation_of(options["allocate"], options["allocate_flops"])
    structure = parse_structure(options["structure"]) if allocation is None else None
    solver = solver_of(options["solver"])
    device = device_of(options["device"])
    if not resume and any((out / name).exists() for name in ("job.json", STATE_FILE)):
        raise InvalidProblem(f"{str(out)!r} already holds a pruning job; add --resume, or choose another folder")
    if Path(model).is_dir() and Path(model).resolve() == out.resolve():
        raise InvalidProblem(
            f"--out {str(out)!r} is the model itself, which would be overwritten; choose another folder"
        )
    dtype = None if options["dtype"] is None else _DTYPES[options["dtype"]]
    loaded = load(model, weights=options["weights"], dtype=dtype)

    def read() -> list[Any]:
        return calibration_batches(
            options["calibration"],
            loaded.tokenizer,
            samples=options["samples"],
            length=_window(loaded, options["length"]),
            seed=options["seed"],
            batch_size=options["batch_size"],
        )

    if whole:
        prune_within_budgets(loaded, read, out, resume, options, _resume_command())
        return
    batches = read()
    certify = Budget(seconds=options["certify_seconds"]) if options["certify"] else False
    try:
        with _workers(options["workers"]) as executor, _progress() as progress:
            report = prune_network(
                loaded.model,
                batches,
                structure,
                solver,
                allocation=allocation,
                certify=certify,
                sequential=options["sequential"],
                executor=executor,
                skip=options["skip"],
                include=options["include"],
                damping=options["damping"],
                seed=options["seed"],
                device=device,
                out=out,
                resume=resume,
                progress=progress,
            )
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"{_first_sentence(interrupt)}Continue with:\n  {_resume_command()}") from interrupt
    written = loaded.save(out)
    write_atomically(out / "report.json", report.to_json().encode("utf-8"))
    what = options["structure"] if allocation is None else allocation.describe()
    page = report.to_html(out / "report.html", title=f"{Path(model).name} pruned to {what}")
    _show(report, written, page, out)


def _window(loaded: Loaded, length: int | None) -> int:
    """Tokens in a window: as asked for, within what the model's positions allow."""
    largest = getattr(getattr(loaded.model, "config", None), "max_position_embeddings", None)
    if length is None:
        return min(512, largest) if isinstance(largest, int) else 512
    if isinstance(largest, int) and length > largest:
        raise InvalidProblem(f"--length {length} is more than the model's {largest} positions; ask for shorter windows")
    return length


@contextmanager
def _workers(count: int) -> Iterator[Executor | None]:
    if count == 1:
        yield None
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    # Fork is not safe once torch has started threads.
    with ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield pool


@contextmanager
def _progress() -> Iterator[Any]:
    """A callback that opens its bar when the first layer is done, since only then the number of layers is known."""
    with ExitStack() as stack:
        bar: list[Any] = []

        def show(row: LayerRow, done: int, total: int) -> None:
            if not bar:
                bar.append(stack.enter_context(progress_bar("layers", total)))
            gap = "" if row.gap is None else f", gap {100 * row.gap:.1f} %"
            bar[0](done, f"{row.layer}: error {row.relative_error:.4g}{gap}, {row.seconds:.1f} s")

        yield show


def _first_sentence(interrupt: KeyboardInterrupt) -> str:
    text = str(interrupt).partition(";")[0]
    return f"{text[:1].upper()}{text[1:]}.\n" if text else "Interrupted.\n"


def _resume_command() -> str:
    """The command that was given, with ``--resume``."""
    words = list(click.get_current_context().find_root().obj or [])
    return shlex.join(["mipprune", *words, *([] if "--resume" in words else ["--resume"])])


def _show(report: Report, written: Path, page: Path, out: Path) -> None:
    headers, rows, total = report.cells()
    show_table(headers, rows, total=total)
    for row in report.rows:
        for note in row.notes:
            click.echo(f"* {row.layer}: {note}")
    reasons: dict[str, list[str]] = {}
    for name, reason in report.skipped:
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        click.echo(f"left alone: {', '.join(names[:3])}{f' and {len(names) - 3} more' * (len(names) > 3)} ({reason})")
    click.echo("Errors, bounds and gaps are those of each layer's damped problem on this calibration data.")
    click.echo(f"network       {written}")
    click.echo(f"report        {page}")
    click.echo(f"certificates  {out / 'certificates'}   (mipprune check {shlex.quote(str(out))})")
