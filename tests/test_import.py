"""`import mipprune` needs torch and numpy only, and loads nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Runs before the code under test: a finder that refuses every third party other than torch, numpy and what these two
# need themselves. The needs are taken from the metadata of the installed torch and numpy, not from a list that ages.
BLOCKER = """
import importlib.abc, importlib.metadata, re, sys

def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()

def closure(roots):
    seen, queue = set(), list(roots)
    while queue:
        name = canonical(queue.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        queue += [re.match(r"[\\w.-]+", r)[0] for r in requirements if "extra ==" not in r]
    return seen

needed = closure(["torch", "numpy"])
allowed = {"mipprune", "torch", "numpy", "torchgen", "functorch"} | {
    top
    for top, owners in importlib.metadata.packages_distributions().items()
    if needed & {canonical(owner) for owner in owners}
}

class OnlyTorchAndNumpy(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        top = fullname.partition(".")[0]
        if top in sys.stdlib_module_names or top in allowed or top.startswith(("_", "__editable__")):
            return None
        raise ModuleNotFoundError(f"No module named {fullname!r} (blocked by the test)", name=fullname)

sys.meta_path.insert(0, OnlyTorchAndNumpy())
"""

HEAVY = [
    "click",
    "cvxpy",
    "dask",
    "distributed",
    "gguf",
    "highspy",
    "numba",
    "pandas",
    "pyarrow",
    "pyscipopt",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "tokenizers",
    "transformers",
]


def python(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("module", HEAVY)
def test_every_heavy_module_is_installed(module: str) -> None:
    """Otherwise its absence after the import would say nothing."""
    assert importlib.util.find_spec(module) is not None


def test_the_blocker_blocks() -> None:
    probe = "\n".join(
        f"try:\n    import {module}\nexcept ModuleNotFoundError:\n    pass\nelse:\n    raise SystemExit('{module}')"
        for module in HEAVY
    )
    finished = python(BLOCKER + probe + "\nimport torch, numpy\n")
    assert finished.returncode == 0, f"not blocked: {finished.stderr}"


def test_import_works_with_torch_and_numpy_alone() -> None:
    finished = python(BLOCKER + "import mipprune\nprint(mipprune.__version__)\n")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == importlib.metadata.version("mipprune")


def test_every_public_module_imports_with_torch_and_numpy_alone() -> None:
    code = """
import pkgutil, mipprune
for found in pkgutil.walk_packages(mipprune.__path__, "mipprune."):
    # The command line needs click, the estimators need scikit-learn: each says so when it is imported.
    if not {"cli", "__main__", "estimators"} & set(found.name.split(".")):
        __import__(found.name)
"""
    finished = python(BLOCKER + code)
    assert finished.returncode == 0, finished.stderr


def test_import_loads_no_third_party() -> None:
    """Compared with torch and numpy alone, so that what these load is not held against the package."""
    code = """
import sys, torch, numpy
before = {name.partition(".")[0] for name in sys.modules}
import mipprune
after = {name.partition(".")[0] for name in sys.modules}
print(*sorted(top for top in after - before if top not in sys.stdlib_module_names))
"""
    finished = python(code)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["mipprune"]
    assert not set(HEAVY) & set(finished.stdout.split())


def test_every_public_name_resolves() -> None:
    import mipprune

    assert mipprune.__all__, "the package exports nothing"
    missing = [name for name in mipprune.__all__ if not hasattr(mipprune, name)]
    assert not missing
    assert len(mipprune.__all__) == len(set(mipprune.__all__))


def test_the_package_is_typed() -> None:
    assert (ROOT / "mipprune" / "py.typed").is_file()
