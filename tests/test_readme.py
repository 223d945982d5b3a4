"""The Python of the README runs, block after block, as a reader would run it; its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FENCE = re.compile(r"^```python[ \t]*\n(?P<code>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```(?:bash|sh|shell|console)[ \t]*\n(?P<code>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """First line number and source of every ```python block."""
    return [(text.count("\n", 0, found.start("code")) + 1, found["code"]) for found in FENCE.finditer(text)]


def run_blocks(text: str, filename: str, namespace: dict[str, object]) -> int:
    """Execute all blocks in one namespace and count them; tracebacks show the lines of the page itself."""
    blocks = python_blocks(text)
    for line, code in blocks:
        exec(compile("\n" * (line - 1) + code, filename, "exec"), namespace)
    return len(blocks)


def commands(text: str, program: str) -> list[list[str]]:
    """The words of every call of a program in the page's shell blocks, without comments and continuation lines."""
    lines = [
        line.strip().removeprefix("$ ")
        for block in SHELL.finditer(text)
        for line in block["code"].replace("\\\n", " ").splitlines()
    ]
    calls = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words[1:] for words in calls if words and words[0].rpartition("/")[2] == program]


def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("readme")  # registered, since dataclasses and pickle look up the module of a class
    monkeypatch.setitem(sys.modules, "readme", module)
    count = run_blocks(README.read_text(encoding="utf-8"), str(README), module.__dict__)
    assert count > 0, "README.md has no ```python block: there is nothing that shows the package at work"


def _depth(words: list[str]) -> int:
    """How many words name the command: `mipprune bench` has commands of its own."""
    return 2 if words[0] == "bench" else 1


def test_the_commands_of_the_readme_exist() -> None:
    """Each subcommand answers `--help`, and the help knows every option that the page uses."""
    calls = commands(README.read_text(encoding="utf-8"), "mipprune")
    assert calls, "README.md shows no mipprune command"
    named = [words for words in calls if not words[0].startswith("-")]
    for subcommand in {tuple(words[: _depth(words)]) for words in named}:
        command = [sys.executable, "-m", "mipprune", *subcommand, "--help"]
        finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert finished.returncode == 0, f"mipprune {subcommand}: {finished.stderr}"
        mine = [words for words in named if tuple(words[: _depth(words)]) == subcommand]
        used = {word.partition("=")[0] for words in mine for word in words if word[:1] == "-"}
        unknown = {
            option for option in used if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", finished.stdout)
        }
        assert not unknown, f"mipprune {subcommand} does not know {sorted(unknown)}"


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    used = {words[0] for words in commands(README.read_text(encoding="utf-8"), "make") if words}
    assert {"demo", "test"} <= used <= known


def test_commands_are_found() -> None:
    text = (
        "```bash\ngit clone x && cd x && make demo  # try it\n$ mipprune check a.safetensors \\\n  --exact\n```\n"
        "```python\nmipprune = 1\n```\n"
    )
    assert commands(text, "mipprune") == [["check", "a.safetensors", "--exact"]]
    assert commands(text, "make") == [["demo"]]


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
