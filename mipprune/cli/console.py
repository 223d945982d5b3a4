"""What the commands show: tables and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

__all__ = ["progress_bar", "show_table"]

Advance = Callable[[int, str], None]
"""Sets the number of finished steps and the text beside the bar."""


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Advance]:
    """Show a bar with the time left on standard error; plain lines where that is no terminal.

    Parameters
    ----------
    title : str
        What is being done.
    total : int, optional
        Steps in all, where known.
    """
    if not sys.stderr.isatty():

        def line(done: int, text: str) -> None:
            if text or total is None or done * 4 // total > (done - 1) * 4 // total:  # every quarter is enough
                click.echo(f"{title} {done}{'' if total is None else f'/{total}'}  {text}".rstrip(), err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=total, text="")

        def advance(done: int, text: str) -> None:
            bars.update(task, completed=done, text=text)

        yield advance


def show_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    total: Sequence[str] | None = None,
    title: str = "",
    left: Sequence[int] = (0,),
) -> None:
    """Print a table on standard output.

    Parameters
    ----------
    headers, total : sequence of str
    rows : sequence of sequence of str
    title : str
        Above the table.
    left : sequence of int
        Columns that are aligned to the left; the others hold numbers.
    """
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", show_footer=total is not None)
    for number, header in enumerate(headers):
        footer = total[number] if total is not None else ""
        justify = "left" if number in left else "right"
        table.add_column(header, footer=footer, justify=justify, overflow="fold", no_wrap=number not in left)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)
