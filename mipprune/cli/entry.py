"""The entry point: the group of commands, and what errors and interrupts look like."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Sequence

import click

from mipprune.cli.bench import bench
from mipprune.cli.check import check
from mipprune.cli.demo import demo
from mipprune.cli.info import info, package_version
from mipprune.cli.options import debug_option
from mipprune.cli.prune import prune
from mipprune.errors import CertificateError, MippruneError

__all__ = ["cli", "main"]

_ERROR, _ALTERED, _INTERRUPTED = 2, 1, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_version(), "--version", prog_name="mipprune")
@debug_option
def cli() -> None:
    """Prune networks with structured optimisation, and re-check the bounds that come with the result."""


for _command in (demo, prune, check, bench, info):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Notes
    -----
    Exit codes: 0 done; 1 a certificate does not hold; 2 the request cannot be met (one line on standard error, the
    traceback with ``--debug``); 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = cli.main(words, prog_name="mipprune", standalone_mode=False, obj=words)
    except click.Abort as abort:
        _say(str(abort.__cause__ or "") or f"interrupted: mipprune {shlex.join(words)}")
        sys.exit(_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MippruneError as error:
        if "--debug" in words:
            raise
        _say(f"error: {error}")
        sys.exit(_ALTERED if isinstance(error, CertificateError) else _ERROR)
    sys.exit(code if isinstance(code, int) else 0)  # click returns the code of an Exit


def _say(text: str) -> None:
    click.echo(text, err=True)
