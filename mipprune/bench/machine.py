"""What a run ran on: described, never named."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["machine", "memory_now", "peak_memory", "reset_peak", "versions"]

_PACKAGES = (
    "mipprune",
    "torch",
    "numpy",
    "scipy",
    "cvxpy",
    "pyscipopt",
    "highspy",
    "numba",
    "transformers",
    "scikit-learn",
    "l0bnb",
    "el0ps",
    "abess",
    "skglm",
    "imodels",
    "gurobipy",
)
_PROC = Path("/proc")


def machine() -> dict[str, Any]:
    """Return processor, cores that this process may use, memory, accelerator and system."""
    import torch

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, where they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def reset_peak() -> None:
    """Let the count of peak memory start anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        (_PROC / "self" / "clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> float | None:
    """Return the highest resident bytes of this process since :func:`reset_peak`; ``None`` where unknown."""
    return _field(_PROC / "self" / "status", "VmHWM:")


def memory_now(process: int) -> float | None:
    """Return the resident bytes of a process and of those it started; ``None`` where unknown."""
    found = [_field(_PROC / str(one) / "status", "VmRSS:") for one in _with_children(process)]
    return None if found[0] is None else sum(size for size in found if size is not None)


def _with_children(process: int) -> list[int]:
    found = [process]
    for parent in found:
        with contextlib.suppress(OSError, ValueError):
            for file in (_PROC / str(parent) / "task").glob("*/children"):
                found += [int(child) for child in file.read_text(encoding="ascii").split()]
    return found


def _field(file: Path, name: str) -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return float(line.split()[1]) * 1024.0
    return None
