"""`mipprune info`: versions, devices, solvers."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys

import click

from mipprune.cli.console import show_table
from mipprune.cli.options import SOLVERS, STRUCTURES, debug_option

__all__ = ["info", "package_version"]

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "cvxpy",
    "pyscipopt",
    "highspy",
    "numba",
    "safetensors",
    "transformers",
    "scikit-learn",
)
_BACK_ENDS = {"SCIP": "pyscipopt", "HiGHS": "highspy", "cvxpy": "cvxpy", "compiled kernels (numba)": "numba"}


def package_version() -> str:
    """Return the version of this package."""
    # Not imported: the package itself stands above its command line.
    return str(sys.modules[__name__.partition(".")[0]].__version__)


@click.command()
@debug_option
def info() -> None:
    """Show versions, devices, solvers and structures."""
    versions = [("mipprune", package_version()), ("python", platform.python_version())]
    versions += [(name, _installed(name)) for name in _PACKAGES]
    show_table(("package", "version"), versions, left=(0, 1))
    show_table(("device", "what"), _devices(), left=(0, 1))
    show_table(("back end", "state"), [(name, _state(module)) for name, module in _BACK_ENDS.items()], left=(0, 1))
    show_table(("--structure", "meaning"), list(STRUCTURES.items()), left=(0, 1))
    show_table(("--solver",), [(name,) for name in SOLVERS])


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _state(module: str) -> str:
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"not available ({error})"
    return "available"


def _devices() -> list[tuple[str, str]]:
    import torch

    found = [("cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append((f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    return found
