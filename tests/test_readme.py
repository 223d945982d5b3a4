"""The Python of the README runs, block after block, as a reader would run it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
FENCE = re.compile(r"^```python[ \t]*\n(?P<code>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """First line number and source of every ```python block."""
    return [(text.count("\n", 0, found.start("code")) + 1, found["code"]) for found in FENCE.finditer(text)]


def run_blocks(text: str, filename: str, namespace: dict[str, object]) -> int:
    """Execute all blocks in one namespace and count them; tracebacks show the lines of the page itself."""
    blocks = python_blocks(text)
    for line, code in blocks:
        exec(compile("\n" * (line - 1) + code, filename, "exec"), namespace)
    return len(blocks)


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("readme")  # registered, since dataclasses and pickle look up the module of a class
    monkeypatch.setitem(sys.modules, "readme", module)
    count = run_blocks(README.read_text(encoding="utf-8"), str(README), module.__dict__)
    assert count > 0, "README.md has no ```python block: there is nothing that shows the package at work"


def test_blocks_are_found_with_their_lines() -> None:
    text = "# Title\n\n```python\na = 1\n```\n\n```bash\nexit 1\n```\n\n```python\nassert a == 1\nb = a + 1\n```\n"
    assert python_blocks(text) == [(4, "a = 1\n"), (12, "assert a == 1\nb = a + 1\n")]
    namespace: dict[str, object] = {}
    assert run_blocks(text, "page", namespace) == 2
    assert namespace["b"] == 2


def test_a_failing_block_fails_at_its_line() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_blocks("text\n```python\nx = 1\nx / 0\n```\n", "page", {})
    assert caught.traceback[-1].lineno == 3  # counted from zero
