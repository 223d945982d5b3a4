"""Every example runs, every public object explains itself, and no docstring describes a parameter that is gone."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from numpydoc.docscrape import NumpyDocString

import mipprune

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def walk() -> list[str]:
    """Names of all modules of the package; `__main__` runs the command line when imported."""
    found = pkgutil.walk_packages(mipprune.__path__, "mipprune.")
    return ["mipprune", *sorted(module.name for module in found if not module.name.endswith("__main__"))]


MODULES = walk()


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The classes and functions in a module's `__all__`, by name."""
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name)
        if inspect.isclass(found) or inspect.isroutine(found):
            yield f"{module.__name__}.{name}", found


def distinct_public() -> dict[str, Any]:
    """Each public object once, under the name of the first module that exports it."""
    seen: dict[int, str] = {}
    found = {}
    for module in map(importlib.import_module, MODULES):
        for name, value in public(module):
            if seen.setdefault(id(value), name) == name:
                found[name] = value
    return found


PUBLIC = distinct_public()


def own_docstring(value: Any) -> str:
    """The cleaned docstring; empty where a dataclass only repeats its signature or a class inherits its parent's."""
    text = inspect.cleandoc(vars(value).get("__doc__") or "") if inspect.isclass(value) else inspect.getdoc(value) or ""
    return "" if text.startswith(f"{value.__name__}(") and inspect.isclass(value) else text


def summary_fault(text: str) -> str | None:
    """What is wrong with the first paragraph of a docstring, or None."""
    if not text:
        return "has no docstring"
    summary = " ".join(text.split("\n\n")[0].split())
    if len(summary) < 10 or not summary.endswith((".", ":", "!", "?")):
        return f"has no one-sentence summary, its docstring begins {summary[:60]!r}"
    return None


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines."""
    for name, value in vars(cls).items():
        unwrapped = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and (inspect.isfunction(unwrapped) or isinstance(value, property)):
            yield name, getattr(cls, name)


def unknown_parameters(value: Any) -> set[str]:
    """Parameters that the docstring of a function or class describes and its signature does not have."""
    text = own_docstring(value)
    described = {
        name.strip().lstrip("*")
        for parameter in NumpyDocString(text)["Parameters"]
        for name in parameter.name.split(",")
        if name.strip()
    }
    return described - set(inspect.signature(value).parameters) if described else set()


def test_the_walk_finds_the_package() -> None:
    assert {"mipprune.errors", "mipprune.core", "mipprune.cli", "mipprune.solve"} <= set(MODULES)
    assert len(PUBLIC) > 30


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(name), optionflags=FLAGS, raise_on_error=False)
    assert outcome.failed == 0, f"{outcome.failed} of {outcome.attempted} examples in {name} failed; see the output"


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    tests = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert sum(len(test.examples) for test in tests) >= 30


@pytest.mark.parametrize("name", MODULES)
def test_modules_say_what_they_are_for(name: str) -> None:
    fault = summary_fault(inspect.getdoc(importlib.import_module(name)) or "")
    assert fault is None, f"{name} {fault}"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_objects_are_documented(name: str) -> None:
    value = PUBLIC[name]
    faults = [f"{name} {fault}"] if (fault := summary_fault(own_docstring(value))) else []
    for member, found in members(value) if inspect.isclass(value) else ():
        if fault := summary_fault(inspect.getdoc(found) or ""):
            faults.append(f"{name}.{member} {fault}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_described_parameters_exist(name: str) -> None:
    value = PUBLIC[name]
    methods = [found for _, found in members(value) if inspect.isroutine(found)] if inspect.isclass(value) else []
    stale = {found.__name__: gone for found in [value, *methods] if (gone := unknown_parameters(found))}
    assert not stale, f"{name}: described but not in the signature: {stale}"


# -------------------------------------------------------------------------------------------- the checks, checked


def test_faulty_docstrings_are_seen() -> None:
    class Bare:
        pass

    class Child(Exception):
        pass

    def stale(x: int) -> int:
        """Return the argument.

        Parameters
        ----------
        x : int
            The argument.
        y : int
            Gone.
        """
        return x

    assert summary_fault(own_docstring(Bare)) == "has no docstring"
    assert summary_fault(own_docstring(Child)) == "has no docstring"
    assert "no one-sentence summary" in (summary_fault("todo") or "")
    assert summary_fault("The nearest member of the structure.\n\nMore.") is None
    assert unknown_parameters(stale) == {"y"}
