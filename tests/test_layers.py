"""The architecture, checked: dependency order, lazy imports, file length, no print.

`violations` reads every file of a package with `ast` and returns one sentence per offence. The same function runs over
synthetic bad trees, one per rule, so that it cannot pass by seeing nothing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The dependency order. A module may import from lines above its own and from its own entry, never from a line below
# (upward) and never from another entry of its own line (sideways). An entry covers the module and everything inside
# it, except the package facades, which stand for their `__init__.py` alone: what is new inside them needs a line.
ORDER: tuple[tuple[str, ...], ...] = (
    # kernels know nothing of the package, not even its errors
    ("mipprune.errors", "mipprune.kernels", "mipprune.page"),
    ("mipprune.core.arrays",),
    ("mipprune.core.rational",),
    ("mipprune.core.separable",),
    ("mipprune.core.dual",),
    ("mipprune.core.loss", "mipprune.core.structure"),
    ("mipprune.core.adapters",),
    ("mipprune.core.canonical",),  # knows cvxpy problems, not ours
    ("mipprune.core.replay",),
    ("mipprune.core.appraised",),
    ("mipprune.core.problem",),
    ("mipprune.core.certificate", "mipprune.core.sparse_walk"),
    ("mipprune.core.parts",),
    ("mipprune.core.sparse_tree",),
    ("mipprune.core.solution",),
    ("mipprune.core.solver",),
    ("mipprune.core",),
    ("mipprune.losses", "mipprune.structures", "mipprune.rules"),
    ("mipprune.formulations", "mipprune.solvers"),
    ("mipprune.solve",),
    ("mipprune.io",),
    ("mipprune.estimators",),
    ("mipprune.networks", "mipprune.bench"),
    ("mipprune.testing", "mipprune.cli"),
    ("mipprune",),
    ("mipprune.__main__",),
)
FACADES = frozenset({"mipprune", "mipprune.core"})

# Third parties a module may import while it is itself being imported. Everything else is imported where it is used.
EAGER = frozenset({"torch", "numpy"})
EAGER_IN = {"mipprune.cli": frozenset({"click"}), "mipprune.estimators": frozenset({"sklearn"})}

PRINTING = ("mipprune.cli",)
MAX_LINES = 400


@dataclass(frozen=True)
class Import:
    """One import statement: what is imported, where, and under which circumstances."""

    target: str
    line: int
    lazy: bool
    typing_only: bool


def module_name(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_inside(module: str, entry: str) -> bool:
    return module == entry or module.startswith(entry + ".")


def place(module: str) -> tuple[int, str] | None:
    """Line number and entry of a module in the order; None for a module without a place."""
    found = [
        (line, entry)
        for line, entries in enumerate(ORDER)
        for entry in entries
        if (module == entry if entry in FACADES else is_inside(module, entry))
    ]
    return max(found, key=lambda hit: len(hit[1]), default=None)


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """The absolute name of the module that a `from ... import` statement reads."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join(base + ([node.module] if node.module else []))


def dynamic_target(node: ast.Call) -> str | None:
    """The constant name given to `importlib.import_module` or `__import__`, if that is what is called."""
    function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    if function in {"import_module", "__import__"} and node.args and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value)
    return None


def imports(tree: ast.Module, module: str, is_package: bool, known: frozenset[str]) -> Iterator[Import]:
    """Every import of a file. `from a import b` counts as an import of `a.b` when that is a module, else of `a`."""

    def targets(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module, is_package)
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base
        elif isinstance(node, ast.Call) and (name := dynamic_target(node)):
            yield name

    def visit(node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
        for target in targets(node):
            yield Import(target, node.lineno, lazy, typing_only)  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            lazy = True
        guarded = node.body if isinstance(node, ast.If) and is_type_checking(node.test) else []
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy, typing_only or child in guarded)

    yield from visit(tree, lazy=False, typing_only=False)


def edge_violation(module: str, found: Import, package: str) -> str | None:
    """What is wrong with an import of the package's own modules, or None."""
    here, there = place(module), place(found.target)
    if there is None:
        return f"imports {found.target}, which has no place in the order"
    if here is None or here[1] == there[1] or there[0] < here[0]:
        return None
    in_core = is_inside(module, f"{package}.core") and is_inside(found.target, f"{package}.core")
    if found.typing_only and in_core:
        return None
    return f"imports {found.target}: {'a sideways' if here[0] == there[0] else 'an upward'} edge"


def eager_violation(module: str, found: Import) -> str | None:
    """What is wrong with an import of a third party, or None."""
    top = found.target.partition(".")[0]
    if found.lazy or found.typing_only or top in sys.stdlib_module_names or top in EAGER:
        return None
    if any(is_inside(module, entry) and top in allowed for entry, allowed in EAGER_IN.items()):
        return None
    return f"imports {top} at module level; import it inside the function that uses it"


def file_violations(path: Path, root: Path, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    package = next(iter(path.relative_to(root).parts))
    module = module_name(path, root)
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, filename=str(path))
    if place(module) is None:
        yield 1, f"{module} has no place in the order; add it to ORDER"
    for found in imports(tree, module, path.name == "__init__.py", known):
        own = is_inside(found.target, package)
        if message := edge_violation(module, found, package) if own else eager_violation(module, found):
            yield found.line, message
    if (length := len(source.splitlines())) > MAX_LINES:
        yield length, f"has {length} lines, more than {MAX_LINES}; split it by its reasons to exist"
    if not any(is_inside(module, entry) for entry in PRINTING):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield node.lineno, "calls print; use logging.getLogger('mipprune')"


def violations(root: Path, package: str = "mipprune") -> list[str]:
    """One sentence per offence in the package below `root`; raises when there is nothing to read."""
    files = sorted((root / package).rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"no Python file below {root / package}: there is nothing to check")
    known = frozenset(module_name(path, root) for path in files)
    return [
        f"{path.relative_to(root)}:{line}: {message}"
        for path in files
        for line, message in file_violations(path, root, known)
    ]


def test_the_package_respects_its_architecture() -> None:
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_every_entry_of_the_order_exists() -> None:
    known = {module_name(path, ROOT) for path in (ROOT / "mipprune").rglob("*.py")}
    stale = [entry for entries in ORDER for entry in entries if entry not in known]
    assert not stale, f"ORDER names modules that do not exist: {stale}"


def test_no_entry_is_listed_twice() -> None:
    entries = [entry for line in ORDER for entry in line]
    assert len(entries) == len(set(entries))


# ------------------------------------------------------------------------------------- the checker, checked

BAD = {
    "upward": ("losses/quadratic.py", "from mipprune.solvers.admm import ADMM", "an upward edge"),
    "upward in core": ("core/loss.py", "from mipprune.core.problem import Problem", "an upward edge"),
    "upward to the facade": ("core/loss.py", "import mipprune", "an upward edge"),
    "core facade from core": ("core/loss.py", "from mipprune.core import Problem", "an upward edge"),
    "sideways": ("losses/quadratic.py", "from mipprune.structures import n_of_m", "a sideways edge"),
    "sideways in core": ("core/loss.py", "import mipprune.core.structure", "a sideways edge"),
    "kernels know nothing": ("kernels/top_k.py", "from mipprune.errors import Unsupported", "a sideways edge"),
    "in a function": ("formulations/masks.py", "def f():\n    from mipprune.solvers import admm", "a sideways edge"),
    "relative": ("losses/quadratic.py", "from ..solvers import admm", "an upward edge"),
    "relative in a package": ("losses/__init__.py", "from ..structures import n_of_m", "a sideways edge"),
    "relative, names only": ("core/loss.py", "from . import problem", "an upward edge"),
    "dynamic": ("solve.py", "import importlib\nimportlib.import_module('mipprune.cli')", "an upward edge"),
    "typing outside core": (
        "losses/quadratic.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mipprune.solve import solve",
        "an upward edge",
    ),
    "else branch of typing": (
        "core/loss.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import mipprune.core.problem",
        "an upward edge",
    ),
    "module without a place": ("utils.py", "", "has no place in the order"),
    "core module without a place": ("core/misc.py", "", "has no place in the order"),
    "unknown target": ("solve.py", "import mipprune.helpers", "has no place in the order"),
    "eager": ("solvers/exact.py", "import cvxpy as cp", "imports cvxpy at module level"),
    "eager from": ("kernels/top_k.py", "from scipy.optimize import linprog", "imports scipy at module level"),
    "eager in try": ("io.py", "try:\n    import numba\nexcept ImportError:\n    numba = None", "numba at module level"),
    "eager in class": ("io.py", "class A:\n    import rich", "imports rich at module level"),
    "click elsewhere": ("io.py", "import click", "imports click at module level"),
    "too long": ("solve.py", "x = 0\n" * (MAX_LINES + 1), f"has {MAX_LINES + 1} lines"),
    "print": ("solve.py", "def f():\n    print('x')", "calls print"),
}

GOOD = {
    "losses/quadratic.py": "import torch, numpy, math\nfrom mipprune.core import Loss\nimport mipprune.kernels.top_k",
    "losses/__init__.py": "from mipprune.losses.quadratic import Quadratic\nfrom .linear import Linear",
    "core/loss.py": (
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import cvxpy\n    from mipprune.core.problem import Problem\n"
        "from mipprune.core.separable import Separable\nfrom mipprune.errors import InvalidProblem"
    ),
    "core/problem.py": "from mipprune.core import loss, structure",
    "core/__init__.py": "from mipprune.core.problem import Problem",
    "solvers/exact.py": "def f():\n    import cvxpy\n    from scipy import sparse",
    "solve.py": '"""Not a call: print(1)."""\nfrom mipprune import solvers\n' + "x = 0\n" * (MAX_LINES - 2),
    "cli.py": "import click\nprint('x')\nfrom mipprune import networks",
    "__main__.py": "from mipprune.cli import main",
    "__init__.py": "from mipprune.solve import solve\nfrom mipprune.testing import check_problem",
}
EMPTY = {
    "": ["__init__", "errors", "io", "testing", "cli", "solve"],
    "core": ["__init__", "loss", "structure", "separable", "problem"],
    "losses": ["__init__", "quadratic", "linear"],
    "structures": ["__init__", "n_of_m"],
    "kernels": ["__init__", "top_k"],
    "formulations": ["__init__", "masks"],
    "networks": ["__init__"],
    "solvers": ["__init__", "admm", "exact"],
}


def grow(root: Path, files: dict[str, str]) -> Path:
    empty = {f"{folder}/{name}.py".lstrip("/"): "" for folder, names in EMPTY.items() for name in names}
    for name, source in (empty | files).items():
        path = root / "mipprune" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return root


@pytest.mark.parametrize("case", BAD)
def test_the_checker_sees(case: str, tmp_path: Path) -> None:
    name, source, expected = BAD[case]
    found = violations(grow(tmp_path, {name: source}))
    assert len(found) == 1
    assert found[0].startswith(f"mipprune/{name}:")
    assert expected in found[0]


def test_the_checker_accepts_a_good_tree(tmp_path: Path) -> None:
    assert violations(grow(tmp_path, GOOD)) == []


def test_the_checker_refuses_an_empty_tree(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to check"):
        violations(tmp_path)
