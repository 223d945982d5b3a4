"""`mipprune prune --nnz ... --flops ...`: the weights of a whole network compete for global budgets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from click.core import ParameterSource

from mipprune.cli.console import progress_bar, show_table
from mipprune.cli.options import device_of
from mipprune.core.solver import Budget, Solver
from mipprune.errors import InvalidProblem
from mipprune.io import write_atomically
from mipprune.networks import BudgetReport, Loaded, StageRow, prune_to_budgets

__all__ = ["METHODS", "asks_for_budgets", "budget_options", "prune_within_budgets"]

_Command = Callable[..., Any]

METHODS = ("dual", "magnitude", "surgeon", "first-order", "blocks")
"""What ``--method`` takes."""

_OF_LAYERS = (
    "structure",
    "allocate",
    "allocate_flops",
    "solver",
    "certify",
    "certify_seconds",
    "damping",
    "sequential",
    "workers",
)


def budget_options(command: _Command) -> _Command:
    """Add the options of pruning a whole network to budgets."""
    options = [
        click.option(
            "--nnz", type=click.FloatRange(0, 1), help="Prune the whole network: share of its weights that is kept."
        ),
        click.option(
            "--flops", type=click.FloatRange(0, 1), help="Prune the whole network: share of its FLOPs that is kept."
        ),
        click.option(
            "--method", type=click.Choice(METHODS), default="dual", show_default=True, help="With --nnz or --flops."
        ),
        click.option(
            "--stages",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Gradients are taken again after each.",
        ),
        click.option(
            "--ridge",
            type=click.FloatRange(0, min_open=True),
            default=1e-3,
            show_default=True,
            help="With --nnz or --flops.",
        ),
        click.option(
            "--first-order", type=click.FloatRange(0), default=0.0, show_default=True, help="Weight of the linear term."
        ),
        click.option(
            "--gap", type=click.FloatRange(0), default=1e-4, show_default=True, help="Certified gap to stop at."
        ),
        click.option(
            "--inputs", metavar="SHAPE", help="No data: gradients at Gaussian inputs such as 3x32x32, labels drawn."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def asks_for_budgets(options: Mapping[str, Any]) -> bool:
    """Tell whether the whole network is to be pruned to budgets; refuse options that then mean nothing."""
    context = click.get_current_context()

    def given(names: tuple[str, ...]) -> list[str]:
        sources = ((name, context.get_parameter_source(name)) for name in names)
        return [f"--{name.replace('_', '-')}" for name, source in sources if source is ParameterSource.COMMANDLINE]

    if options["nnz"] is None and options["flops"] is None:
        if idle := given(("method", "stages", "ridge", "first_order", "gap", "inputs")):
            raise InvalidProblem(f"{', '.join(idle)} belongs to pruning a whole network; add --nnz or --flops")
        return False
    if idle := given(_OF_LAYERS):
        raise InvalidProblem(
            f"{', '.join(idle)} belongs to pruning layer by layer and means nothing with --nnz or --flops; leave it out"
        )
    return True


def prune_within_budgets(
    loaded: Loaded, batches: Callable[[], list[Any]], out: Path, resume: bool, options: Mapping[str, Any], again: str
) -> None:
    """Run the job and write the network, its certificate and the report.

    Parameters
    ----------
    loaded : Loaded
    batches : callable
        Reads the data; not called when inputs are to be generated.
    out : Path
    resume : bool
    options : mapping
        Of the command line.
    again : str
        The command that resumes.
    """
    shape = options["inputs"]
    if shape is not None and options["calibration"] is not None:
        raise InvalidProblem("--inputs generates data and --calibration reads them; give one of the two")
    data = batches() if shape is None else _generated(shape, options["samples"], options["batch_size"], options["seed"])
    device = device_of(options["device"])
    loaded.model.to(device)
    stages = options["stages"]
    try:
        with progress_bar("stages", stages) as advance:

            def show(row: StageRow, total: int) -> None:
                gap = "" if row.gap is None else f", gap {100 * row.gap:.2g} %"
                advance(row.stage, f"{row.kept} weights kept{gap}, {row.seconds:.1f} s")

            report = prune_to_budgets(
                loaded.model,
                data,
                nnz=options["nnz"],
                flops=options["flops"],
                solver=_solver(options["method"]),
                budget=Budget(gap=options["gap"]),
                stages=stages,
                samples=options["samples"],
                ridge=options["ridge"],
                first_order=options["first_order"],
                skip=options["skip"],
                include=options["include"],
                seed=options["seed"],
                out=out,
                resume=resume,
                progress=show,
            )
    except KeyboardInterrupt as interrupt:
        text = str(interrupt) or "interrupted"
        raise KeyboardInterrupt(f"{text[:1].upper()}{text[1:]}.\nContinue with:\n  {again}") from interrupt
    loaded.model.cpu()
    written = loaded.save(out)
    write_atomically(out / "report.json", report.to_json().encode("utf-8"))
    _show(report, written, out)


def _generated(shape: str, samples: int, batch_size: int, seed: int) -> list[Any]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise InvalidProblem(f"--inputs {shape!r} is no shape; write the axes of one sample, such as 3x32x32 or 784")
    sizes = [int(part) for part in shape.split("x")]
    inputs = torch.randn(samples, *sizes, generator=torch.Generator().manual_seed(seed))
    return list(inputs.split(batch_size))


def _solver(name: str) -> Solver | None:
    from mipprune import solvers

    makers: dict[str, Callable[[], Solver]] = {
        "dual": solvers.DualBundle,
        "magnitude": solvers.Saliency,
        "surgeon": lambda: solvers.Saliency("surgeon"),
        "first-order": solvers.DiscreteFirstOrder,
        "blocks": solvers.BlockSearch,
    }
    return makers[name]()


def _show(report: BudgetReport, written: Path, out: Path) -> None:
    headers, rows = report.stage_cells()
    show_table(headers, rows)
    headers, rows = report.layer_cells()
    show_table(headers, rows)
    flops = "" if report.flops_kept is None else f" and {100 * report.flops_kept:.2f} % of their FLOPs"
    click.echo(f"{100 * report.density:.2f} % of the weights of these layers{flops} are left.")
    click.echo("Values, bounds and gaps are those of each stage's quadratic model on these data.")
    click.echo(f"network       {written}")
    click.echo(f"report        {out / 'report.json'}")
    click.echo(f"certificate   {out / 'certificates'}   (mipprune check {shlex.quote(str(out))})")
